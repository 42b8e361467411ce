"""Token ids, templates and masks in colour."""

from __future__ import annotations

import html
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from difflib import SequenceMatcher
from typing import TYPE_CHECKING

from course_utils.lessons.figures import DARK
from course_utils.lessons.tables import Shown, cell, grid, table
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
        lines.append((part.kind, _visible(part.text), " ".join(map(str, ids))))
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


def tokens(ids: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> Shown:
    """The ids of a text and what each of them stands for."""
    added = set(tokenizer.get_added_vocab().values())
    rows = [
        (place, token, _visible(tokenizer.decode([token])), "special" if token in added else "")
        for place, token in enumerate(ids)
    ]
    return table(rows, columns=("place", "id", "text", "kind"))


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


def masks(ways: Mapping[str, Mapping[str, Sequence[int]]], tokenizer: PreTrainedTokenizerBase) -> Shown:
    """Several masks of one conversation side by side, by the name that stands above each; one line per token.

    "●" is learned, "·" is read only, an empty place: this way does not have the token at all; "≠": the ways differ.
    """
    lines: list[tuple[int, dict[str, bool]]] = []  # id, and for each way that has it: is it learned
    for way, example in ways.items():
        ids, learned = list(example["input_ids"]), [label != IGNORED for label in example["labels"]]
        matcher = SequenceMatcher(None, [token for token, _ in lines], ids, autojunk=False)
        merged: list[tuple[int, dict[str, bool]]] = []
        for kind, start, end, first, last in matcher.get_opcodes():
            new = [(ids[at], {way: learned[at]}) for at in range(first, last)]
            if kind == "equal":
                old = lines[start:end]
                merged += [(token, has | own) for (token, has), (_, own) in zip(old, new, strict=True)]
            else:
                merged += lines[start:end] + new
        lines = merged
    signs = {True: "●", False: "·", None: ""}
    shades = {True: f"background:{DARK};color:white", False: "opacity:.65", None: "background:#e5e7e9"}
    rows, body = [], []
    for token, has in lines:
        states = [has.get(way) for way in ways]
        differ = "≠" if len(set(states)) > 1 else ""
        text = _visible(tokenizer.decode([token]))
        rows.append((token, text, *(signs[state] for state in states), differ))
        marks = [cell(signs[state], f"text-align:center;{shades[state]}") for state in states]
        body.append([cell(str(token)), cell(html.escape(text)), *marks, cell(differ)])
    caption = "● learned, · read only, empty: not there"
    return Shown(
        f"{table(rows, columns=('id', 'token', *ways, 'differs'))}\n[{caption}]",
        f"{grid(('id', 'token', *ways, ''), body)}<small>{caption}</small>",
    )


def _visible(text: str) -> str:
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
