"""Train and validation by groups: rows that differ in numbers only stay on one side (C32, pitfall
split-leaks-templates)."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import TYPE_CHECKING

from course_utils.data.deduplication import Removed, deduplicate
from course_utils.data.keys import row_key
from course_utils.data.rows import DataError, each, join

if TYPE_CHECKING:
    from datasets import Dataset

LEAK_COLUMNS = ("messages", "text", "source")


def split(
    dataset: Dataset, *, valid_ratio: float = 0.02, min_valid: int = 100, seed: int = 42
) -> tuple[Dataset, Dataset]:
    """Split by groups, seeded, each source in proportion.

    The validation set has at least max(min_valid, valid_ratio x rows) rows, and no `row_key` is in both. As groups
    stay whole it may have a few rows more. Split before any oversampling.

    Args:
        dataset: rows with messages or text, and source where there is one.
        valid_ratio: share of rows to hold back, between 0 and 1.
        min_valid: rows to hold back at least; 0 switches the floor off.
        seed: which groups are held back.

    Returns:
        (train, valid), each in the order of `dataset`.

    Raises:
        DataError: where that leaves nothing to train on.
    """
    if not 0 <= valid_ratio < 1 or min_valid < 0:
        raise DataError(
            f"split: valid_ratio must be in [0, 1) and min_valid >= 0, found {valid_ratio} and {min_valid}."
        )
    wanted = max(min_valid, round(valid_ratio * len(dataset)))
    if wanted >= len(dataset):
        raise DataError(
            f"split: {len(dataset)} rows cannot give {wanted} validation rows and leave some to train on. "
            "Bring more rows, or pass a smaller min_valid or valid_ratio."
        )
    by_source = _groups(dataset)
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
    indices = range(len(dataset))
    return dataset.select([i for i in indices if i not in held]), dataset.select([i for i in indices if i in held])


def leaks(train: Dataset, held: Dataset) -> list[Removed]:
    """The training rows that ask what a held-back row asks, if only with other numbers.

    Args:
        train: rows to train on.
        held: validation rows, or those of any evaluation.

    Returns:
        For each such row its number in `train` and the number in `held` of the first row that asks the same.
    """
    sets = [part.select_columns([name for name in LEAK_COLUMNS if name in part.column_names]) for part in (held, train)]
    _, found = deduplicate(join(sets), by="numbers")
    return [
        replace(twin, row=twin.row - len(held))
        for twin in found
        if twin.row >= len(held) and twin.first_row < len(held)
    ]


def _groups(dataset: Dataset) -> dict[str, list[list[int]]]:
    """Row numbers by group, under the source of the group's first row (one question may be in two sources)."""
    sources = dataset["source"][:] if "source" in dataset.column_names else [""] * len(dataset)
    groups: dict[str, list[int]] = {}
    for index, row in enumerate(each(dataset, ("messages", "text"))):
        groups.setdefault(row_key(row), []).append(index)
    by_source: dict[str, list[list[int]]] = {}
    for group in groups.values():
        by_source.setdefault(sources[group[0]], []).append(group)
    return by_source


def _take(groups: list[list[int]], quota: int) -> set[int]:
    """Numbers of the groups to hold back: those that fit, in their order, then the smallest that fills the rest."""
    taken: set[int] = set()
    missing = quota
    for number, group in enumerate(groups):
        if 0 < len(group) <= missing and len(taken) < len(groups) - 1:
            taken.add(number)
            missing -= len(group)
    rest = sorted(
        (number for number in range(len(groups)) if number not in taken), key=lambda number: len(groups[number])
    )
    if missing > 0 and len(rest) > 1:
        taken.add(rest[0])
    return taken


def shares_to_counts(shares: list[float] | list[int], total: int) -> list[int]:
    """Whole counts that add up to `total`, each within one of its exact share (largest remainder).

    Args:
        shares: not negative, not all zero.
        total: what the counts add up to.
    """
    whole = sum(shares)
    exact = [total * share / whole for share in shares]
    counts = [int(value) for value in exact]
    by_remainder = sorted(range(len(exact)), key=lambda i: (counts[i] - exact[i], i))
    for i in by_remainder[: total - sum(counts)]:
        counts[i] += 1
    return counts
