"""Read files into plain dicts, row by row, and say of each row that cannot be read where it stands.

.jsonl    one object a line; read line by line, whatever the size of the file
.json     a list of objects, or objects after one another, also over many lines each; a .jsonl that begins so, too
.csv      a header, then rows; every value is a string; between commas, semicolons or tabs, as the header has them
.parquet  what the hubs keep data sets in; its empty fields count as absent
.txt      every line that is not blank is the `text` of a row
"""

from __future__ import annotations

import csv
import json
import re
from bisect import bisect_left
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from course_utils.core.strict_json import STRICT
from course_utils.data.records import DataError, Problem, Record, Row, all_usable, short
from course_utils.data.rows import NOT_UTF8, half_character, plain

SUFFIXES = (".jsonl", ".json", ".csv", ".parquet", ".txt")
LONGEST_CELL = 2**24  # characters; Python's own limit for CSV is 131,072
MARK = b"\xef\xbb\xbf"  # of byte order
SEPARATORS = ",;\t"  # of a CSV: the one that makes the most cells of the header
OPENS_JSON = re.compile(rb"""\s*(?:\[\s*)*\{\s*["'][^"'\n]*["']\s*:""")  # also where the file was cut
HALVES = re.compile("[\ud800-\udfff]|" + r"\\u[dD]")  # bytes that were not UTF-8, and escapes of half a character
WHITE = re.compile(r"[ \t\r\n]*")
UTF8 = {"encoding": "utf-8-sig", "errors": "surrogateescape"}  # bytes that are not UTF-8 are found in their row


def read_raw(path: str | Path) -> list[Row]:
    """The rows of a file in UTF-8 that ends in one of SUFFIXES, one dict a row, nothing normalised.

    Raises:
        DataError: the file is missing, of another kind, or a row cannot be read; names file, row, line and field.
    """
    return all_usable(read(path))


def read(path: str | Path) -> Iterator[Record | Problem]:
    """The rows of a file one after the other; in place of a row that cannot be read comes what is wrong with it."""
    path = Path(path)
    if path.suffix not in SUFFIXES:
        what = path.suffix or "a file without suffix"
        raise DataError(f"{path}: cannot read {what}; it must be one of {', '.join(SUFFIXES)}.")
    if not path.is_file():
        raise DataError(f"{path}: there is no such file. Check the name and the folder you are in.")
    if path.suffix == ".parquet":
        return _parquet(path)
    with path.open("rb") as file:
        head = file.read(4096)
    if b"\0" in head:
        reason = "holds zero bytes: it is UTF-16, or no text at all. Save it as UTF-8."
        return iter([Problem(str(path), None, 1, "", reason)])
    if path.suffix in (".txt", ".csv") and OPENS_JSON.match(head.removeprefix(MARK)):
        reason = "holds JSON and would be read as plain text. Rename it: .json for a list, .jsonl for an object a line."
        return iter([Problem(str(path), None, 1, "", reason)])
    if path.suffix == ".jsonl":
        return _document(path) if _is_document(path) else _json_lines(path)
    readers: dict[str, Callable[[Path], Iterator[Record | Problem]]] = {".csv": _csv, ".txt": _text_lines}
    return readers.get(path.suffix, _document)(path)


# ------------------------------------------------------------------------------------------------------------ JSON
def _is_document(path: Path) -> bool:
    """Whether a .jsonl file opens with a list of rows, or with an object that goes on in the next line."""
    with path.open("rb") as file:
        first = next((text for line in file if (text := line.removeprefix(MARK).strip())), b"")
    try:
        value = json.loads(first.decode("utf-8", "surrogateescape"))
    except json.JSONDecodeError as error:
        return bool(first) and error.pos >= len(error.doc)
    except (ValueError, RecursionError):
        return False
    return isinstance(value, list) and any(isinstance(row, dict) for row in value)


def _lines(path: Path, white: str | None = None) -> Iterator[tuple[int, int, str]]:
    """The lines of a file that hold more than `white` space, each with its numbers among these and among all."""
    row = 0
    with path.open(newline="\n", **UTF8) as file:
        for line, text in enumerate(file, start=1):
            if text.strip(white):
                row += 1
                yield row, line, text


def _json_lines(path: Path) -> Iterator[Record | Problem]:
    """A row a line."""
    for row, line, text in _lines(path, " \t\r\n\v\f"):
        try:
            yield _fit(path, row, line, STRICT.decode(text), suspect=HALVES.search(text) is not None)
        except json.JSONDecodeError as error:
            reason = f"not JSON ({error.msg}, column {error.colno}). JSONL holds one whole object a line."
            yield Problem(str(path), row, line, "", reason)
        except ValueError as error:
            yield Problem(str(path), row, line, getattr(error, "field", ""), str(error))


def _fit(path: Path, row: int, line: int | None, value: Any, *, suspect: bool) -> Record | Problem:
    """A value as a row, if it is an object; `suspect`: it may hold what cannot be written as UTF-8."""
    if not isinstance(value, dict):
        return Problem(str(path), row, line, "", f"expected an object, found {type(value).__name__}.")
    where = half_character(value) if suspect else None
    if where is not None:
        return Problem(str(path), row, line, where, NOT_UTF8)
    return Record(str(path), row, line, value)


def _document(path: Path) -> Iterator[Record | Problem]:
    """The objects of a list, or objects after one another. Where one is not JSON, its end is unknown: there we stop."""
    with path.open(newline="", **UTF8) as file:
        text = file.read()
    suspect = HALVES.search(text) is not None
    breaks = [found.start() for found in re.finditer("\n", text)]

    def problem(row: int | None, place: int, reason: str, field: str = "") -> Problem:
        return Problem(str(path), row, bisect_left(breaks, place) + 1, field, reason)

    row, start, place = 0, 0, _skip(text, 0)
    is_list = text.startswith("[", place)
    place = _skip(text, place + 1) if is_list else place
    while place < len(text) and not (is_list and text[place] == "]"):
        row, start = row + 1, place
        try:
            value, end = STRICT.raw_decode(text, place)
            yield _fit(path, row, bisect_left(breaks, place) + 1, value, suspect=suspect)
        except json.JSONDecodeError as error:
            reason = f"not JSON ({error.msg}, line {error.lineno}, column {error.colno})"
            yield problem(row, place, f"{reason}. What follows was not read.")
            return
        except ValueError as error:
            yield problem(row, place, str(error), getattr(error, "field", ""))
            try:
                _, end = json.JSONDecoder().raw_decode(text, place)
            except (ValueError, RecursionError):  # too deep, or a number of too many digits: its end is unknown, too
                return
        place = _skip(text, end)
        if is_list and place < len(text) and text[place] not in ",]":
            reason = "expected a comma or the end of the list before this. It and what follows was not read."
            yield problem(row + 1, place, reason)
            return
        if is_list and text.startswith(",", place):
            place = _skip(text, place + 1)
    if is_list and place >= len(text):
        yield problem(None, start, "the list is not closed: the file was cut. Save it anew.")
    elif is_list and (after := _skip(text, place + 1)) < len(text):
        reason = "the list is closed before this. It and what follows was not read: keep all rows in one list."
        yield problem(row + 1, after, reason)


def _skip(text: str, place: int) -> int:
    """The first place from `place` on that is no white space."""
    return WHITE.match(text, place).end()


# ---------------------------------------------------------------------------------------------------- the other files
def _csv(path: Path) -> Iterator[Record | Problem]:
    csv.field_size_limit(LONGEST_CELL)
    with path.open(newline="", **UTF8) as file:
        first = next((line for line in file if line.strip()), "")
        file.seek(0)
        separator = max(SEPARATORS, key=lambda each: len(next(csv.reader([first[:LONGEST_CELL]], delimiter=each), [])))
        reader = csv.reader(file, delimiter=separator, strict=True)
        try:
            head = next((cells for cells in reader if cells), [])
            if half_character(head) is not None:
                yield Problem(str(path), None, reader.line_num, "", f"the header {NOT_UTF8}")
                return
            if twice := [name for name in head if head.count(name) > 1]:
                yield Problem(str(path), None, reader.line_num, twice[0], "two columns have this name. Rename one.")
                return
            row, line = 0, reader.line_num + 1
            for cells in reader:
                row += bool(cells)  # a blank line is no row
                if len(cells) == len(head):
                    yield _fit(path, row, line, dict(zip(head, cells, strict=True)), suspect=True)
                elif cells:
                    found = f"has {len(cells)} cells, the header has {len(head)} ({', '.join(head)})"
                    yield Problem(str(path), row, line, "", f"{found}. Quote cells that hold {separator!r}.")
                line = reader.line_num + 1
        except csv.Error as error:
            reason = f"not CSV ({error}). Check the quotes there. What follows was not read."
            yield Problem(str(path), None, reader.line_num, "", reason)


def _parquet(path: Path) -> Iterator[Record | Problem]:
    from pyarrow import ArrowException
    from pyarrow.parquet import ParquetFile

    try:
        values = (value for batch in ParquetFile(path).iter_batches(1000) for value in batch.to_pylist())
        for row, value in enumerate(values, start=1):
            yield Record(str(path), row, None, plain(value))
    except (ArrowException, OSError, ValueError) as error:  # ValueError: a text is not UTF-8
        yield Problem(str(path), None, None, "", f"not Parquet ({short(str(error))}). Fetch or write the file anew.")


def _text_lines(path: Path) -> Iterator[Record | Problem]:
    for row, line, text in _lines(path):
        yield _fit(path, row, line, {"text": text.rstrip("\r\n")}, suspect=True)
