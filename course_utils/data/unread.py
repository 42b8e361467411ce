"""What a row says that nobody reads: text would be lost, which is a problem; the rest is a remark.

In a column, text is what has four words or more (of Chinese, eight characters), or any text under a name that a part of
a row goes by, such as `answer`. In a turn it is any text under a key that is not in LABELS_OF_TURNS. Numbers, ids, short
labels and addresses of the web are none, and neither is a text that the row holds anyway, or one that holds all of the
row: a prompt that was written out once more.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from course_utils.data import guessing
from course_utils.data.registry import Layout
from course_utils.data.rows import TEXTS, Fault, Row, short, turns_of
from course_utils.text.script import HAN

LETTER = re.compile(r"[^\W\d_]")
LABELS_OF_TURNS = {"id", "name", "model", "lang", "language", "timestamp", "date", "time", "type", "source", "url"}
WORDS = 4  # of a text in a column


def lost(raw: Row, row: Row, layout: Layout, *, columns: bool) -> Iterator[Fault]:
    """Each text of a raw row that is not in the row that was made of it.

    Args:
        raw: the row of the file.
        row: what the layout made of it.
        layout: how it was read.
        columns: whether to look at columns, too: where somebody has named them, the others are not wanted.
    """
    held = [text for turn in turns_of(row) for key in TEXTS if (text := turn.get(key, ""))] + [row.get("text", "")]
    held += [call["function"]["arguments"] for turn in turns_of(row) for call in turn.get("tool_calls", ())]
    for column in raw.keys() - layout.read_columns if columns else ():
        least = 1 if column in guessing.TEXTS_OF_ROWS else WORDS
        if (text := _text(raw[column], least, held)) is not None:
            mend = "Join it to the question or the reply, or name the columns that are meant in dataset_info.json."
            yield Fault(
                column, f"this text would be lost: no part of the row is read from here ({short(text)}). {mend}"
            )
    if layout.formatting == "alpaca":
        return
    ...
