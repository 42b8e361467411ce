"""Rows on their way from a file to the schema: each with its place, and what is wrong with it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from course_utils.core.errors import CourseError, printable

Row = dict[str, Any]


class DataError(CourseError):
    """A file, a row or a request for data that cannot be used as it is."""


class Fault(NamedTuple):
    """What is wrong with one field of a row, and how to mend it."""

    field: str
    reason: str


class Problem(NamedTuple):
    """Something in a file that keeps a row, or the whole file, from being used."""

    file: str
    row: int | None  # of the file, from 1; None where the file as a whole is meant
    line: int | None  # where that row begins
    field: str
    reason: str

    def __str__(self) -> str:
        place = [self.file, f"row {self.row}" if self.row else "", f"line {self.line}" if self.line else "", self.field]
        return printable(f"{', '.join(part for part in place if part)}: {self.reason}")


class Record(NamedTuple):
    """A row and where it stands."""

    file: str
    row: int  # its number in the file, from 1
    line: int | None  # where it begins; None where there are none
    value: Row

    def problem(self, where: str, reason: str) -> Problem:
        """What is wrong with a field of this row."""
        return Problem(self.file, self.row, self.line, where, reason)


@dataclass
class RowReader:
    """One raw row while it is read: fields are asked for, faults are noted, and reading goes on after a fault."""

    row: Row
    faults: list[Fault] = field(default_factory=list)

    def fault(self, where: str, reason: str) -> None:
        """Note what is wrong with a field."""
        self.faults.append(Fault(where, reason))


def judged(
    items: Iterable[Record | Problem], judge: Callable[[int, Record], tuple[Row, Iterable[Fault]]]
) -> Iterator[Record | Problem]:
    """What `judge` makes of each row; in place of a row with faults comes each of its problems.

    `judge` is given the number of the row among all items, from 1, and the row. This is the one way of a row from its
    file to the schema and through every check.
    """
    for number, item in enumerate(items, start=1):
        if isinstance(item, Problem):
            yield item
            continue
        row, faults = judge(number, item)
        yield from [item.problem(*fault) for fault in faults] or [item._replace(value=row)]


def parted(items: Iterable[Record | Problem]) -> tuple[list[Problem], list[Record]]:
    """The problems, and the rows that have none."""
    found = list(items)
    problems = [item for item in found if isinstance(item, Problem)]
    return problems, [item for item in found if isinstance(item, Record)]


def all_usable(items: Iterable[Record | Problem]) -> list[Row]:
    """All rows, or a DataError with one problem (of the whole file, if there is one) and how many more there are."""
    problems, records = parted(items)
    if problems:
        first = min(problems, key=lambda problem: problem.row is not None)
        more = f" And {len(problems) - 1} more; `python -m course_utils check-data` lists all those of a file."
        raise DataError(f"{first}{more if len(problems) > 1 else ''}")
    return [record.value for record in records]


def short(value: Any) -> str:
    """A value for a message, at most 60 characters."""
    text = "nothing" if value is None else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
