"""How far a figure can be trusted: 95 % intervals and paired tests, by scipy's methods.

Every figure of the course is a ratio of two sums over prompts (a rate: hits over prompts), so one bootstrap serves
all: draw as many prompts again, with replacement, many times, and see how far the ratio moves (Efron and Tibshirani,
An Introduction to the Bootstrap, 1993; percentile intervals).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import scipy  # scipy.stats takes a second to load; scipy loads it when it is first used

DRAWS, SEED, LEVEL = 2000, 42, 0.95

Part = tuple[float, float]
"""What one prompt adds to the top and to the bottom of a ratio."""
HIT, MISS = (1, 1), (0, 1)
Verdict = Literal["better", "worse", "not told apart"]


@dataclass(frozen=True)
class Interval:
    """A figure and its 95 % interval; a single prompt that is no hit or miss gives an interval of no width."""

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
    value = _ratio(parts)
    if set(parts) in ({HIT}, {MISS}):
        exact = scipy.stats.binomtest(parts.count(HIT), len(parts)).proportion_ci(LEVEL, method="exact")
        return Interval(value, float(exact.low), float(exact.high))
    return Interval(value, *_bootstrap(parts))


def _ratio(parts: Sequence[Part]) -> float:
    """Sum of the tops over sum of the bottoms; 0 where the bottoms add up to 0."""
    top, bottom = (sum(column) for column in zip(*parts, strict=True))
    return top / bottom if bottom else 0.0


def mcnemar(before: Sequence[bool], after: Sequence[bool]) -> float:
    """Two-sided p-value of McNemar's exact test (1947): how likely such flips are if either way is equally likely.

    Args:
        before, after: hit or miss of the same prompts in the same order; those that did not change do not count.
    """
    gained, lost = (sum(pair == way for pair in zip(before, after, strict=True)) for way in ((0, 1), (1, 0)))
    return sign_test(gained, lost)


def sign_test(one: int, other: int) -> float:
    """Probability that fair coins split `one + other` throws at least as unevenly (exact, two-sided).

    Args:
        one, other: how often each side came out on top; ties do not count (Dixon and Mood, 1946).
    """
    return float(scipy.stats.binomtest(one, one + other).pvalue) if one + other else 1.0


def verdict(before: Sequence[Part], after: Sequence[Part], *, higher_is_better: bool) -> Verdict:
    """The paired test in words: McNemar's for hits and misses, else whether the bootstrap interval leaves out 0.

    Args:
        before, after: one (top, bottom) per prompt, of the same prompts in the same order.
        higher_is_better: False for perplexity.
    """
    if {*before, *after} <= {HIT, MISS}:
        told_apart = mcnemar([bool(top) for top, _ in before], [bool(top) for top, _ in after]) < 1 - LEVEL
    else:
        low, high = _bootstrap(before, after)
        told_apart = low > 0 or high < 0
    if not told_apart:
        return "not told apart"
    return "better" if (_ratio(after) > _ratio(before)) == higher_is_better else "worse"


def _bootstrap(*runs: Sequence[Part]) -> tuple[float, float]:
    """The percentile interval of one run's ratio; of two runs, that of the change, over the same prompts each draw."""

    def statistic(*columns: np.ndarray, axis: int = -1) -> np.ndarray:
        sums = np.stack([column.sum(axis) for column in columns])
        ratios = np.divide(sums[::2], sums[1::2], out=np.zeros_like(sums[::2]), where=sums[1::2] != 0)
        return ratios[0] if len(runs) == 1 else ratios[1] - ratios[0]

    columns = [np.asarray(column, dtype=float) for run in runs for column in zip(*run, strict=True)]
    if len(columns[0]) == 1:  # scipy refuses a sample of one
        return (float(statistic(*columns)),) * 2
    how = {"n_resamples": DRAWS, "confidence_level": LEVEL, "method": "percentile", "rng": SEED}
    found = scipy.stats.bootstrap(columns, statistic, paired=True, **how).confidence_interval
    return float(found.low), float(found.high)
