"""What the widgets share: texts that stay texts, and how columns and controls look."""

import html

COLUMN = {"flex": "1 1 0", "min_width": "16em", "border": "1px solid #a9cce3", "padding": "4px 10px"}
WIDE = {"style": {"description_width": "9em"}, "layout": {"width": "26em"}}
"""Of a control: its description is read in full, and controls stand in line."""


def as_text(text: str) -> str:
    """HTML of a text as it is, line breaks and all."""
    return f'<div style="white-space:pre-wrap;overflow-wrap:anywhere;line-height:1.4">{html.escape(text)}</div>'


def as_fault(what: object) -> str:
    """HTML of an error, or of what else is wrong, in its own words."""
    return f'<div style="background:#f5b7b1;color:#78281f;padding:4px 8px">{as_text(str(what))}</div>'
