"""Clean text before it is counted, compared and trained on, and leave out rows that are empty or too long (C27).

What is changed is chosen so that no meaning is: Unicode's NFKC as a whole would turn x² into x2, ½ into 1⁄2, the full
stop of Chinese into another character and some emoji into letters.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

from course_utils.data.faults import why_dropped
from course_utils.data.records import DataError, Row
from course_utils.data.rows import CONTROL, REPLIES, TEXTS, Rows, plain, plain_rows, to_dataset, weighed

# Full-width letters and digits, typographic ligatures, and spaces of other widths: here NFKC changes the shape only.
SHAPES = re.compile(r"[\uff10-\uff19\uff21-\uff3a\uff41-\uff5a\ufb00-\ufb06\u00a0\u2000-\u200a\u202f\u205f\u3000]+")
LINE_BREAK = re.compile(r"\r\n?|[\x0b\x0c]")  # a form feed stands between two pages, and would join their words
MAX_CHARACTERS = 20_000  # of a whole row; about 5,000 tokens of English or 14,000 of Chinese


@dataclass(frozen=True)
class Dropped:
    """A row that was left out and why; rows count from 0 in the data set given."""

    row: int
    source: str
    reason: str


def clean_text(text: str) -> str:
    """A text without control characters, with one kind of line break, NFC, and NFKC where only the shape changes.

    White space at its ends goes; emoji, superscripts, fractions, Chinese punctuation and zero-width joiners stay as
    they are. Cleaning it again changes nothing.
    """
    text = CONTROL.sub("", LINE_BREAK.sub("\n", text))
    text = SHAPES.sub(lambda found: unicodedata.normalize("NFKC", found[0]), text)
    return unicodedata.normalize("NFC", text).strip()


def clean(dataset: Rows, *, max_characters: int = MAX_CHARACTERS) -> tuple[Rows, list[Dropped]]:
    """Clean every text of a data set; rows that say nothing or too much are left out and reported.

    Arguments of tool calls and tool schemas are not touched: they are data.

    Args:
        dataset: rows of the course's schema, as a Dataset or as a list of plain dicts.
        max_characters: of all texts of a row together.

    Returns:
        The cleaned rows in their order, of the kind given, and what was left out: rows with an empty question or
        reply, and rows that are too long.

    Raises:
        DataError: max_characters is below 1.
    """
    if max_characters < 1:
        raise DataError(f"clean: max_characters must be at least 1, found {max_characters}.")
    kept, dropped = [], []
    for index, row in enumerate(map(_cleaned, plain_rows(dataset))):
        if reason := why_dropped(row, max_characters):
            dropped.append(Dropped(index, row.get("source", ""), reason))
        else:
            kept.append(row)
    return kept if isinstance(dataset, list) else to_dataset(kept), dropped


def clean_row(row: Row) -> Row:
    """`clean` for one row, of a stream or in `Dataset.map`; keys that are None are left out of the result."""
    return _cleaned(weighed(plain(dict(row))))  # `Dataset.map` gives a mapping that is no dict


def _cleaned(row: Row) -> Row:
    columns = [column for column in ("messages", *REPLIES) if column in row]
    turns = {column: [turn | _clean_texts(turn, TEXTS) for turn in row[column]] for column in columns}
    return row | turns | _clean_texts(row, ("text",))


def _clean_texts(part: Row, keys: tuple[str, ...]) -> Row:
    return {key: clean_text(part[key]) for key in keys if key in part}
