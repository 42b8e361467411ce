"""Rewards of lesson 09: what a program can check of a reply that should be JSON. Each gives a number for each reply."""

from collections.abc import Sequence
from typing import Any

from course_utils import metrics

LONG = 100
"""Characters of a reply that `short` no longer rewards."""


def valid(completions: Sequence[str], **_: Any) -> list[float]:
    """1 for a JSON object and nothing else."""
    return [float(isinstance(metrics.parse_json(reply), dict)) for reply in completions]


def right(completions: Sequence[str], reference: Sequence[str], **_: Any) -> list[float]:
    """1 where the object is the one that was due, whatever stands around it."""
    return [float(is_right(*pair)) for pair in zip(completions, reference, strict=True)]


def short(completions: Sequence[str], **_: Any) -> list[float]:
    """The shorter the better, from 1 for nothing to 0 for `LONG` characters: a reward with a hole."""
    return [max(0.0, 1 - len(reply) / LONG) for reply in completions]


def short_if_right(completions: Sequence[str], reference: Sequence[str], **_: Any) -> list[float]:
    """`short` with the hole closed: only a right reply earns by being short."""
    pairs = zip(short(completions), right(completions, reference), strict=True)
    return [earned * due for earned, due in pairs]


def is_right(reply: str, reference: str) -> bool:
    """Whether a reply holds the object that was due and no other, alone or in the middle of other words."""
    return metrics.same_answer(reply[reply.find("{") : reply.rfind("}") + 1], reference)
