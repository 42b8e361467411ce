"""Read .jsonl, .json and .csv files into plain dicts, and say the line that cannot be read."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

from course_utils.data.rows import DataError, Row

SUFFIXES = (".jsonl", ".json", ".csv")


def read_raw(path: str | Path) -> list[Row]:
    """The rows of a file as it is, nothing normalised.

    `.json` holds one list of objects or, as some copies do, one object a line. Every value of a CSV file is a string.

    Args:
        path: a file that ends in .jsonl, .json or .csv, in UTF-8.

    Returns:
        One dict a row, in the order of the file. Blank lines are skipped.

    Raises:
        DataError: the file is missing, of another kind, or a line is not an object; names file and line.
    """
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise DataError(
            f"{path}: cannot read {path.suffix or 'a file without suffix'}; it must be one of {', '.join(SUFFIXES)}."
        )
    try:
        text = path.read_bytes().decode("utf-8-sig")  # bytes: line breaks inside CSV cells stay as they are
    except (FileNotFoundError, IsADirectoryError):
        raise DataError(f"{path}: there is no such file. Check the name and the folder you are in.") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: byte {error.start} is not UTF-8. Save the file as UTF-8.") from None
    if path.suffix == ".csv":
        return _csv_rows(text, path)
    if path.suffix == ".json" and text.lstrip().startswith("["):
        return _json_list(text, path)
    return _json_lines(text, path)


def _csv_rows(text: str, path: Path) -> list[Row]:
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    rows = []
    try:
        for row in reader:
            if None in row or None in row.values():
                raise DataError(
                    f"{path}, line {reader.line_num}: has another number of cells than the header "
                    f"({', '.join(reader.fieldnames or [])}). Quote cells that hold commas."
                )
            rows.append(row)
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num}: not CSV ({error}). Check the quotes there.") from None
    return rows


def _json_list(text: str, path: Path) -> list[Row]:
    try:
        rows = json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(f"{path}, line {error.lineno}, column {error.colno}: not JSON ({error.msg}).") from None
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict):
            raise DataError(f"{path}, row {number}: expected an object, found {type(row).__name__}.")
    return rows


def _json_lines(text: str, path: Path) -> list[Row]:
    rows = []
    for number, line in enumerate(text.split("\n"), start=1):  # not splitlines: U+2028 may stand inside a string
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(
                f"{path}, line {number}: not JSON ({error.msg}). JSONL holds one whole object a line."
            ) from None
        if not isinstance(row, dict):
            raise DataError(f"{path}, line {number}: expected an object, found {type(row).__name__}.")
        rows.append(row)
    return rows
