"""What a row says that nobody reads: text would be lost, which is a problem; all else is a remark.

In a column, text is what has four words or more (eight characters of Chinese), or any text under a name that parts of
rows go by, such as `answer`. In a turn it is any text under a key that is not in LABELS. Numbers, ids, short labels and
addresses of the web are none. Nor is a text that the row holds anyway, or one that holds all of the row, as a prompt
that was written out once more does.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from course_utils.data import guessing
from course_utils.data.registry import Layout
from course_utils.data.rows import REPLIES, TEXTS, Fault, Row, short, turns_of

LABELS = {"id", "model", "lang", "language", "timestamp", "date", "time", "type", "source", "url"}  # of a turn
FLAGS = {"training", "trainable", "learn", "masked", "ignore", "skip", "loss_mask", "loss_weight"}  # not LEARN_FLAGS
WORDS = 4  # of a text in a column
LETTER = re.compile(r"[^\W\d_]")
UNSPACED = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]")  # of Chinese and Japanese: two count as a word
ADDRESS = re.compile(r"\w+://\S+")


def lost(raw: Row, row: Row, layout: Layout, *, columns: bool) -> Iterator[Fault]:
    """Each text of a raw row that is not in the row that was made of it.

    Args:
        raw: the row of the file.
        row: what the layout made of it.
        layout: how it was read.
        columns: False where somebody has named the columns that are wanted; then the others are not looked at.
    """
    system = raw.keys() & {layout.columns["system"]}  # which a system turn of the row wins over
    left = sorted(raw.keys() - layout.read_columns | system if columns else system)
    named = [str(layout.columns[part]) for part in ("messages", *REPLIES) if layout.formatting != "alpaca"]
    turns = [found for found in guessing.turns_in(raw, *named) if not found[1].keys() <= layout.read_keys]
    held = [turn.get(key, "").strip() for turn in turns_of(row) for key in TEXTS] if left or turns else []
    held.append(row.get("text", "").strip())
    for column in left:
        of_a_part = column in guessing.TEXTS_OF_ROWS or column in system
        if of_a_part or layout.kind != "text":  # beside a text stand its title, its author and the like
            text = _text(raw[column], 1 if of_a_part else WORDS, held)
            if text is not None:
                reason = f"would be lost: nobody reads {short(text)}. Join it to the question or to the reply, or name "
                yield Fault(column, f"{reason}in dataset_info.json all columns that you want; the others are left out.")
    for place, turn in turns:
        for key in sorted(turn.keys() - layout.read_keys - LABELS):
            text = _text(turn[key], 1, held)
            if text is not None:
                reason = f"would be lost: nobody reads {short(text)}."
                yield Fault(f"{place}.{key}", f"{reason} Put it into the content or into reasoning_content.")
            elif key in FLAGS and turn[key] is not None:
                reason = "is not read. If the turn is not to be learned, write weight: 0; else leave the key out."
                yield Fault(f"{place}.{key}", reason)


def _text(value: Any, least: int, held: list[str]) -> str | None:
    """A text of so many words, at any depth, that is not among those held."""
    if isinstance(value, dict | list):
        parts = value.values() if isinstance(value, dict) else value
        return next((text for part in parts if (text := _text(part, least, held)) is not None), None)
    if not isinstance(value, str) or _words(value) < least or any(value.strip() in text for text in held):
        return None
    return None if all(text in value for text in held) else value


def _words(text: str) -> int:
    words = [word for word in text.split() if LETTER.search(word) and not ADDRESS.fullmatch(word)]
    return sum(max(1, len(UNSPACED.findall(word)) // 2) for word in words)
