"""Train and validation by groups: rows that differ in numbers only stay on one side (C32, trap 12)."""

from __future__ import annotations

import random
import re
import unicodedata
from typing import TYPE_CHECKING, Any

from course_utils.data.rows import DataError

if TYPE_CHECKING:
    from datasets import Dataset

WORD = (
    r"\b(?:zero|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|thirteen|fourteen|fifteen|sixteen"
    r"|seventeen|eighteen|nineteen|twenty|thirty|forty|fifty|sixty|seventy|eighty|ninety|hundred|thousand|million"
    r"|billion|dozen)\b"
)
DIGITS = r"\d+(?:[.,:/\u2044]\d+)*"
CHINESE_DIGITS = "[零〇一二两三四五六七八九十百千万亿]+"
NUMBER = re.compile(rf"{DIGITS}|{WORD}(?:[\s-]+(?:and\s+)?{WORD})*|{CHINESE_DIGITS}")


def group_key(messages: list[dict[str, Any]]) -> str:
    """What a conversation asks, with its numbers masked: two rows of one key are one exercise in two sizes.

    NFKC, lower case, every number (digits, number words in English, Chinese numerals) becomes 0, white space goes away.
    The user's turns count; where there is none, all turns do.

    Args:
        messages: turns with role and content.

    Returns:
        The key, for comparing only.
    """
    asked = [message.get("content") or "" for message in messages if message["role"] == "user"]
    text = "\n".join(asked or [message.get("content") or "" for message in messages])
    text = NUMBER.sub("0", unicodedata.normalize("NFKC", text).casefold())
    return re.sub(r"0+", "0", re.sub(r"\s+", "", text))


def split(
    dataset: Dataset, *, valid_ratio: float = 0.02, min_valid: int = 100, seed: int = 42
) -> tuple[Dataset, Dataset]:
    """Split by groups, seeded, each source in proportion.

    The validation set has at least max(min_valid, valid_ratio x rows) rows, and no `group_key` is in both. As groups
    stay whole it may have a few rows more. Split before any oversampling.

    Args:
        dataset: rows with messages, and source where there is one.
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


def _groups(dataset: Dataset) -> dict[str, list[list[int]]]:
    """Row numbers by group, under the source of the group's first row (one question may be in two sources)."""
    sources = dataset["source"] if "source" in dataset.column_names else [""] * len(dataset)
    groups: dict[str, list[int]] = {}
    for index, messages in enumerate(dataset["messages"]):
        groups.setdefault(group_key(messages), []).append(index)
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
