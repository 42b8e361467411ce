"""Tables: HTML in a notebook, plain text in a terminal."""

import html
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from course_utils.core.language import said

CELL = "text-align:left;vertical-align:top;padding:2px 10px;white-space:pre-wrap"

LONGEST_REPLY = 400  # characters


@dataclass(frozen=True)
class Shown:
    """Something with two faces: HTML for a notebook, text for a terminal."""

    text: str
    html: str

    def __repr__(self) -> str:
        return self.text

    def _repr_html_(self) -> str:
        return self.html


def table(rows: Iterable[Mapping[str, Any] | Sequence[Any]], columns: Sequence[str] | None = None) -> Shown:
    """A table of dicts, or of sequences with `columns` as the heads, which by default are the keys of the first dict.

    Floats are shown with three digits, tuples and lists with commas.
    """
    lines = [dict(row) if isinstance(row, Mapping) else dict(zip(columns or (), row, strict=True)) for row in rows]
    heads = list(columns or (lines[0] if lines else ()))
    cells = [[_text(line.get(head, "")) for head in heads] for line in lines]
    heads = [said(head) for head in heads]
    widths = [max(map(_width, column)) for column in zip(heads, *cells, strict=True)]
    text = "\n".join(
        "  ".join(each + " " * (width - _width(each)) for each, width in zip(line, widths, strict=True)).rstrip()
        for line in [heads, ["-" * width for width in widths], *cells]
    )
    return Shown(text, grid(heads, ([cell(html.escape(text)) for text in line] for line in cells)))


def grid(heads: Sequence[str], lines: Iterable[Iterable[str]]) -> str:
    """HTML of a table: the texts of its heads, of which there may be none, and each line's cells, made by `cell`."""
    head = "".join(f'<th style="{CELL}">{html.escape(name)}</th>' for name in heads)
    body = "".join(f"<tr>{''.join(line)}</tr>" for line in lines)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def cell(content: str, style: str = "") -> str:
    """HTML of one cell; `content` is HTML, `style` is CSS beside that of every cell."""
    return f'<td style="{CELL}{style and ";" + style}">{content}</td>'


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3f}" if abs(value) < 100 else f"{value:.1f}"
    if isinstance(value, (tuple, list)):
        return ", ".join(map(str, value))
    return str(value)


def _width(text: str) -> int:
    """Columns that the text takes in a terminal: Chinese characters take two."""
    longest = max(text.split("\n"), key=len, default="")
    return sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in longest)


def conversation(messages: Sequence[Mapping[str, Any]]) -> Shown:
    """Messages as a small table: role and text, with thinking and tool calls named."""
    rows = []
    for message in messages:
        role = message["role"]
        rows.append((f"{role} (thinking)", message.get("reasoning_content")))
        for call in message.get("tool_calls") or ():
            function = call.get("function", call)
            rows.append((f"{role} (call)", f"{function['name']}({function['arguments']})"))
        rows.append((role, message.get("content")))
    return table([row for row in rows if row[1]], columns=("role", "text"))


def comparison(rows: Sequence[Mapping[str, Any]]) -> Shown:
    """The before/after table (`Comparison.table`), one line per source, with what the paired tests say."""

    def said(row: Mapping[str, Any], key: str) -> str:
        return f"{row[f'{key} before']:.2f} → {row[f'{key} after']:.2f}, {row['verdicts'][key]}"

    return table(
        {
            "source": row["source"],
            "prompts": row["prompts"],
            "perplexity": said(row, "perplexity"),
            "its own figure": row["metric"],
            "before → after": said(row, "metric"),
            "answer reached": said(row, "reached") if "reached before" in row else "",
            "tokens a reply": f"{row['tokens before']:.0f} → {row['tokens after']:.0f}",
        }
        for row in rows
    )


def changes(lines: Sequence[Mapping[str, Any]]) -> Shown:
    """`Comparison.changes()` or its `worse`: a line per figure with its verdict, or one that says there are none."""
    return table(lines or [{"figure": "nothing that a test tells apart"}])


def replies(pairs: Iterable[tuple[Mapping[str, Any], Mapping[str, Any]]], names: Iterable[str] | None = None) -> Shown:
    """Prompts with the reference and the replies before and after, side by side; long replies are cut.

    A pair is one prompt's rows of the two reports; its name, where `names` are given, stands before it.
    """

    def said(row: Mapping[str, Any]) -> str:
        if len(row["reply"]) > LONGEST_REPLY:
            return f"{row['reply'][:LONGEST_REPLY]} … ({row['tokens']} tokens)"
        return row["reply"] + ("" if row["stopped"] else " … (did not stop)")

    rows = [(old["prompt"], old["reference"], said(old), said(new)) for old, new in pairs]
    columns = ("prompt", "reference", "before", "after")
    if names is not None:
        rows, columns = [(name, *row) for name, row in zip(names, rows, strict=True)], ("", *columns)
    return table(rows, columns=columns)
