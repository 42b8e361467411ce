"""How far a figure can be trusted: 95 % intervals and paired tests, on plain numbers.

Every figure of the course is a ratio of two sums over prompts (a rate: hits over prompts), so one bootstrap serves
all: draw as many prompts again, with replacement, many times, and see how far the ratio moves (Efron and Tibshirani,
An Introduction to the Bootstrap, 1993; percentile intervals).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import numpy as np

DRAWS, SEED, LEVEL = 2000, 42, 0.95

Part = tuple[float, float]
"""What one prompt adds to the top and to the bottom of a ratio."""
Verdict = Literal["better", "worse", "not told apart"]


@dataclass(frozen=True)
class Interval:
    """A figure with the 95 % interval around it; of a single prompt that is no rate there is none to see."""

    value: float
    low: float
    high: float


def ratio(parts: Sequence[Part]) -> Interval:
    """Sum of the tops over sum of the bottoms, with a seeded bootstrap interval over the prompts.

    Resampling cannot show what no prompt shows: where all are hits or all are misses it would call the rate certain.
    There the exact binomial interval takes its place (Clopper and Pearson, 1934; of n hits in n prompts about
    1 - 3.7 / n to 1).

    Args:
        parts: one (top, bottom) per prompt; (1, 1) is a hit, (0, 1) a miss.
    """
    value = _value(parts)
    if all(part in ((0, 1), (1, 1)) for part in parts) and value in (0, 1):
        from scipy.stats import binomtest

        exact = binomtest(sum(int(top) for top, _ in parts), len(parts)).proportion_ci(LEVEL, method="exact")
        return Interval(value, float(exact.low), float(exact.high))
    return Interval(value, *_spread(_resampled(parts)))


def ratio_change(before: Sequence[Part], after: Sequence[Part]) -> Interval:
    """How much a ratio moved, with a paired bootstrap interval: each draw takes the same prompts before and after.

    Args:
        before: one (top, bottom) per prompt.
        after: the same prompts in the same order.
    """
    return Interval(_value(after) - _value(before), *_spread(_resampled(after) - _resampled(before)))


def mcnemar(before: Sequence[bool], after: Sequence[bool]) -> float:
    """Two-sided p-value of McNemar's exact test: how likely the flips would be if either way were as likely (1947).

    Prompts that were answered alike both times say nothing about a change and do not count.

    Args:
        before: hit or miss per prompt.
        after: the same prompts in the same order.
    """
    gained, lost = (sum(pair == way for pair in zip(before, after, strict=True)) for way in ((0, 1), (1, 0)))
    return sign_test(gained, lost)


def sign_test(one: int, other: int) -> float:
    """Probability that fair coins split `one + other` throws at least as unevenly (exact, two-sided).

    Args:
        one, other: how often each side came out on top; ties do not count (Dixon and Mood, 1946).
    """
    throws = one + other
    tail = sum(math.comb(throws, heads) for heads in range(max(one, other), throws + 1))
    return min(1.0, 2 * tail / 2**throws)


def verdict(before: Sequence[Part], after: Sequence[Part], *, higher_is_better: bool) -> Verdict:
    """The paired test in words: McNemar's for hits and misses, else whether the bootstrap interval leaves out 0.

    Args:
        before: one (top, bottom) per prompt.
        after: the same prompts in the same order.
        higher_is_better: False for perplexity.
    """
    if all(part in ((0, 1), (1, 1)) for part in (*before, *after)):
        told_apart = mcnemar([bool(top) for top, _ in before], [bool(top) for top, _ in after]) < 1 - LEVEL
    else:
        change = ratio_change(before, after)
        told_apart = change.low > 0 or change.high < 0
    if not told_apart:
        return "not told apart"
    return "better" if (_value(after) > _value(before)) == higher_is_better else "worse"


def _value(parts: Sequence[Part]) -> float:
    top, bottom = (sum(column) for column in zip(*parts, strict=True))
    return top / bottom if bottom else 0.0


def _resampled(parts: Sequence[Part]) -> np.ndarray:
    """The ratio in each draw, (draws,)."""
    import numpy as np

    tops, bottoms = np.asarray(parts, dtype=float).T
    draws = _draws(len(parts))
    top, bottom = draws @ tops, draws @ bottoms
    return np.divide(top, bottom, out=np.zeros(DRAWS), where=bottom != 0)


@lru_cache(maxsize=8)
def _draws(prompts: int) -> np.ndarray:
    """How often each prompt is drawn in each draw, (draws, prompts): the same for all figures of the same prompts."""
    import numpy as np

    return np.random.default_rng(SEED).multinomial(prompts, [1 / prompts] * prompts, size=DRAWS).astype(float)


def _spread(values: np.ndarray) -> tuple[float, float]:
    import numpy as np

    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
