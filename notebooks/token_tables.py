"""Tokens line by line: what each stands for, and whether several masks of one conversation learn it."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from difflib import SequenceMatcher
from typing import TYPE_CHECKING

from course_utils.lessons.figures import DARK
from course_utils.lessons.highlight import visible
from course_utils.lessons.tables import Shown, cell, grid, table
from course_utils.text.masking import IGNORED

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def tokens(ids: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> Shown:
    """The ids of a text and what each of them stands for."""
    added = set(tokenizer.get_added_vocab().values())
    rows = [
        (place, token, visible(tokenizer.decode([token])), "special" if token in added else "")
        for place, token in enumerate(ids)
    ]
    return table(rows, columns=("place", "id", "text", "kind"))


def side_by_side(ways: Mapping[str, Mapping[str, Sequence[int]]], tokenizer: PreTrainedTokenizerBase) -> Shown:
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
        text = visible(tokenizer.decode([token]))
        rows.append((token, text, *(signs[state] for state in states), differ))
        marks = [cell(signs[state], f"text-align:center;{shades[state]}") for state in states]
        body.append([cell(str(token)), cell(html.escape(text)), *marks, cell(differ)])
    caption = "● learned, · read only, empty: not there"
    return Shown(
        f"{table(rows, columns=('id', 'token', *ways, 'differs'))}\n[{caption}]",
        f"{grid(('id', 'token', *ways, ''), body)}<small>{caption}</small>",
    )
