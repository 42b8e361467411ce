"""Train and validation by groups: rows that differ in numbers only stay on one side (C32, pitfall
split-leaks-templates)."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TYPE_CHECKING

from course_utils.data.deduplication import Removed
from course_utils.data.keys import row_key
from course_utils.data.records import DataError, Row
from course_utils.data.rows import Rows, plain_rows, select

if TYPE_CHECKING:
    from datasets import Dataset

COLUMNS = ("messages", "text", "source")  # what is read to split, and to find leaks


def split(dataset: Rows, *, valid_ratio: float = 0.02, min_valid: int = 100, seed: int = 42) -> tuple[Rows, Rows]:
    """Split by groups, seeded, each source in proportion.

    The validation set has at least max(min_valid, valid_ratio x rows) rows, and no `row_key` is in both. As groups
    stay whole it may have a few rows more. Split before any oversampling.

    Args:
        dataset: rows with messages or text, and source where there is one, as a Dataset or as a list of plain dicts.
        valid_ratio: share of rows to hold back, between 0 and 1.
        min_valid: rows to hold back at least; 0 switches the floor off.
        seed: which groups are held back.

    Returns:
        (train, valid), each in the order of `dataset` and of the kind given.

    Raises:
        DataError: where that leaves nothing to train on.
    """
    if not 0 <= valid_ratio < 1 or min_valid < 0:
        found = f"found {valid_ratio} and {min_valid}"
        raise DataError(f"split: valid_ratio must be in [0, 1) and min_valid >= 0, {found}.")
    marks = [(row_key(row), row.get("source", "")) for row in plain_rows(dataset, COLUMNS)]
    wanted = max(min_valid, round(valid_ratio * len(marks)))
    if wanted >= len(marks):
        raise DataError(
            f"split: {len(marks)} rows cannot give {wanted} validation rows and leave some to train on. "
            "Bring more rows, or pass a smaller min_valid or valid_ratio."
        )
    by_key: dict[str, list[int]] = {}
    for index, (key, _) in enumerate(marks):
        by_key.setdefault(key, []).append(index)
    by_source: dict[str, list[list[int]]] = {}  # one question may be in two sources: that of its first row has it
    for group in by_key.values():
        by_source.setdefault(marks[group[0]][1], []).append(group)
    quotas = shares_to_counts([sum(map(len, groups)) for groups in by_source.values()], wanted)
    held: set[int] = set()
    left: list[list[int]] = []
    for (source, groups), quota in zip(by_source.items(), quotas, strict=True):
        random.Random(f"{seed}:{source}").shuffle(groups)
        taken = _take(groups, quota)
        held.update(index for number in taken for index in groups[number])
        # a source always keeps a group to train on; the others may fill up what another source could not give
        left += [group for number, group in enumerate(groups) if number not in taken][1:]
    for group in sorted(left, key=len):
        if len(held) >= wanted:
            break
        held.update(group)
    if len(held) < wanted:
        raise DataError(
            f"split: only {len(held)} of {wanted} validation rows can be held back: rows that differ in numbers only "
            "stay together, and each source keeps one such group. Bring more varied rows or pass a smaller min_valid."
        )
    return select(dataset, [n for n in range(len(marks)) if n not in held]), select(dataset, sorted(held))


def leaks(train: Dataset | list[Row], held: Dataset | list[Row]) -> list[Removed]:
    """The training rows that ask what a row held back (for any evaluation) asks, if only with other numbers.

    For each its number in `train`, and the number in `held` of the first row that asks the same.
    """
    asked: dict[str, tuple[int, str]] = {}
    for number, row in enumerate(plain_rows(held, COLUMNS)):
        asked.setdefault(row_key(row), (number, row.get("source", "")))
    keyed = ((number, row.get("source", ""), row_key(row)) for number, row in enumerate(plain_rows(train, COLUMNS)))
    return [Removed(number, source, *asked[key]) for number, source, key in keyed if key in asked]


def _take(groups: list[list[int]], quota: int) -> set[int]:
    """Numbers of the groups to hold back: those that fit, in their order, then the smallest that fills the rest."""
    taken: set[int] = set()
    missing = quota
    for number, group in enumerate(groups):
        if len(group) <= missing and len(taken) < len(groups) - 1:
            taken.add(number)
            missing -= len(group)
    rest = sorted(set(range(len(groups))) - taken, key=lambda number: (len(groups[number]), number))
    return taken | {rest[0]} if missing > 0 and len(rest) > 1 else taken


def shares_to_counts(shares: Sequence[float], total: int) -> list[int]:
    """Whole counts that add up to `total`, each within one of its exact share (largest remainder)."""
    whole = sum(shares)
    exact = [total * share / whole for share in shares]
    counts = [int(value) for value in exact]
    by_remainder = sorted(range(len(exact)), key=lambda i: (counts[i] - exact[i], i))
    for i in by_remainder[: total - sum(counts)]:
        counts[i] += 1
    return counts
