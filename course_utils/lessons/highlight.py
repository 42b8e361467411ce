"""Token ids, templates and masks in colour."""

from __future__ import annotations

import html
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from course_utils.lessons.figures import DARK
from course_utils.lessons.tables import Shown, table
from course_utils.text.chat import Part
from course_utils.text.masking import IGNORED

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


# Each kind has a lightness, a line and a weight of its own, so that the five can be told apart in grey, too.
PART_STYLES: dict[str, str] = {
    "template": "opacity:.65;border-bottom:2px solid transparent",
    "role": f"background:{DARK};color:white;font-weight:700;padding:0 3px;border-bottom:2px solid {DARK}",
    "tools": "background:#fdebd0;color:#6e2c00;border-bottom:2px dashed #6e2c00",
    "thinking": "background:#f2f3f4;color:#4a235a;font-style:italic;border-bottom:2px dotted #4a235a",
    "content": f"background:#d6eaf8;color:{DARK};font-weight:600;border-bottom:2px solid {DARK}",
}
COLUMN = "flex:1 1 0;min-width:18em;font-family:monospace;line-height:1.8;white-space:pre-wrap;overflow-wrap:anywhere"


def rendered(parts: Sequence[Part], tokenizer: PreTrainedTokenizerBase) -> Shown:
    """A rendered conversation (`chat.parts`) in colour, and beside it the ids that the model gets, in the same colours.

    In a terminal a line for each part, with its kind, its text and its ids.
    """
    text = "".join(part.text for part in parts)
    made = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    starts = [start for start, _ in made["offset_mapping"]]
    words, numbers, lines = [], [], []
    end = used = 0
    for part in parts:
        end += len(part.text)
        stop = bisect_left(starts, end, lo=used)  # an id belongs to the part in which it begins
        ids, used = made["input_ids"][used:stop], stop
        words.append(_span(part.text, PART_STYLES[part.kind], part.kind))
        numbers += [_span(str(token), PART_STYLES[part.kind], part.kind) for token in ids]
        lines.append((part.kind, visible(part.text), " ".join(map(str, ids))))
    legend = " ".join(f'<span style="{style}">{kind}</span>' for kind, style in PART_STYLES.items())
    body = f'<div style="{COLUMN}">{"".join(words)}</div><div style="{COLUMN}">{" ".join(numbers)}</div>'
    caption = f"{len(text)} characters, {len(made['input_ids'])} tokens"
    return Shown(
        f"{table(lines, columns=('kind', 'text', 'ids'))}\n[{caption}]",
        f'<div style="display:flex;gap:2em;flex-wrap:wrap">{body}</div><small>{caption}: {legend}</small>',
    )


def _span(text: str, style: str, title: str) -> str:
    """HTML of a text in which every line break can be seen."""
    words = html.escape(text).replace("\n", "⏎<br>")
    return f'<span style="{style}" title="{title}">{words}</span>'


def mask(example: Mapping[str, Sequence[int]], tokenizer: PreTrainedTokenizerBase) -> Shown:
    """One example of `masking` in colour: what is learned is dark on light and underlined, the rest is grey.

    In a terminal the learned stretches stand between ⟦ and ⟧.
    """
    ids, labels = example["input_ids"], example["labels"]
    parts, plain = [], []
    place, inside = 0, False
    for text, count in _pieces(ids, tokenizer):
        learned = labels[place] != IGNORED
        style = PART_STYLES["content" if learned else "template"]
        parts.append(_span(text, f"{style};margin-right:1px", f"id {ids[place]}"))
        plain.append(("⟧" if inside and not learned else "⟦" if learned and not inside else "") + text)
        inside, place = learned, place + count
    share = sum(label != IGNORED for label in labels) / max(len(labels), 1)
    caption = f"{len(ids)} tokens, {share:.0%} learned (underlined)"
    body = f'<div style="font-family:monospace;line-height:1.9;white-space:pre-wrap">{"".join(parts)}</div>'
    return Shown("".join(plain) + ("⟧" if inside else "") + f"\n[{caption}]", f"{body}<small>{caption}</small>")


def visible(text: str) -> str:
    """The text of a token with its white space made visible."""
    return text.replace("\u200b", "·ZWSP·").replace("\n", "⏎").replace("\t", "⇥") if text.strip() else repr(text)[1:-1]


def _pieces(ids: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> list[tuple[str, int]]:
    """(text, number of ids): one piece per id, but ids that share a character stay together."""
    pieces: list[tuple[str, int]] = []
    start = 0
    for end in range(1, len(ids) + 1):
        text = tokenizer.decode(list(ids[start:end]))
        if not text.endswith("\ufffd") or end == len(ids):
            pieces.append((text, end - start))
            start = end
    return pieces
