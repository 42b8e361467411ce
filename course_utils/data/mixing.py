"""Mix pools by weight: `interleave` never repeats a row, `resample` hits the shares exactly (C31, pitfall
mixing-loses-weights).

`datasets.interleave_datasets` restarts a pool that is used up, or stops at the first, or ends up ignoring the weights;
so the order is worked out here and drawn with `select`.
"""

from __future__ import annotations

import math
import random
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from course_utils.data.records import DataError
from course_utils.data.rows import join
from course_utils.data.splitting import shares_to_counts

if TYPE_CHECKING:
    from datasets import Dataset

STRATEGIES = ("interleave", "resample")


@dataclass(frozen=True)
class MixReport:
    """What was asked for and what came out, in rows for each source."""

    requested: dict[str, float]  # total x weight, not rounded
    actual: dict[str, int]  # the rows that were taken
    unique: dict[str, int]  # how many of them differ
    available: dict[str, int]  # the size of the pool
    times: dict[str, tuple[int, int]]  # how often each row of the pool was taken: at least and at most

    def table(self) -> list[dict[str, Any]]:
        """One dict a source: available, requested, actual, unique rows, repeats and both shares."""
        rows, asked = max(sum(self.actual.values()), 1), max(sum(self.requested.values()), 1)
        return [
            {
                "source": name,
                "available": self.available[name],
                "requested": round(self.requested[name], 2),
                "actual": self.actual[name],
                "unique": self.unique[name],
                "each row, times": "–".join(map(str, dict.fromkeys(self.times[name]))),
                "share asked": round(self.requested[name] / asked, 4),
                "share": round(self.actual[name] / rows, 4),
            }
            for name in self.requested
        ]


def mix(
    pools: Mapping[str, Dataset],
    weights: Mapping[str, float],
    *,
    strategy: str = "interleave",
    total_size: int | None = None,
    seed: int = 42,
) -> tuple[Dataset, MixReport]:
    """Mix pools so that every stretch of the result holds about the shares asked for.

    interleave: each pool is shuffled once and used up without a restart. Until the first pool is used up, every prefix
    is within one row of its share; then the others go on by their weights. `total_size` is all rows, or fewer.
    resample: counts are exact to one row, and `total_size` (by default 0.9 of all rows) may be more than there are.
    Rows of a small pool repeat, each as often as the others or once more.

    Args:
        pools: a Dataset for each name, deduplicated and split before.
        weights: a number for each name of `pools`; only their ratios count. Negative counts as 0; if none is above 0,
            all are equal. A pool of weight 0 is left out.
        strategy: "interleave" or "resample".
        total_size: rows of the result.
        seed: of the shuffles.

    Raises:
        DataError: names that differ, an unknown strategy, an empty pool to resample, or more rows asked than there are.
    """
    shares = normalise_weights(pools, weights)
    sizes = {name: len(pool) for name, pool in pools.items()}
    order, report = draw(sizes, shares, strategy=strategy, total_size=total_size, seed=seed)
    return join([pool for name, pool in pools.items() if shares[name]]).select(order), report


def draw(
    sizes: Mapping[str, int], shares: Mapping[str, float], *, strategy: str, total_size: int | None = None, seed: int
) -> tuple[list[int], MixReport]:
    """Which rows `mix` takes, counted through the pools of a share above 0 put after one another, and its report."""
    if strategy not in STRATEGIES:
        raise DataError(f"mix: unknown strategy {strategy!r}; expected one of {', '.join(STRATEGIES)}.")
    names = [name for name in sizes if shares[name] > 0]
    everything = sum(sizes[name] for name in names)
    if total_size is None:
        total_size = everything if strategy == "interleave" else round(0.9 * everything)
    if total_size < 0:
        raise DataError(f"mix: total_size must not be negative, found {total_size}.")
    weighted = [shares[name] for name in names]
    if strategy == "interleave":
        if total_size > everything:
            raise DataError(
                f"mix: {total_size} rows asked for, but the pools hold {everything} and interleave repeats none. "
                'Ask for fewer rows or use strategy="resample".'
            )
        limits = [sizes[name] for name in names]
    else:
        limits = shares_to_counts(weighted, total_size)
        empty = [name for name, count in zip(names, limits, strict=True) if count and not sizes[name]]
        if empty:
            raise DataError(f"mix: pool {empty[0]!r} is empty and cannot be resampled. Give it weight 0 or fill it.")
    passes = [_passes(sizes[name], random.Random(f"{seed}:{name}")) for name in names]
    starts = list(accumulate((sizes[name] for name in names), initial=0))
    order = [starts[which] + next(passes[which]) for which in schedule(weighted, limits, total_size)]
    times: dict[str, Counter[int]] = {name: Counter() for name in sizes}  # how often each row was taken
    for place in order:
        times[names[bisect_right(starts, place) - 1]][place] += 1
    report = MixReport(
        requested={name: total_size * share for name, share in shares.items()},
        actual={name: taken.total() for name, taken in times.items()},
        unique={name: len(taken) for name, taken in times.items()},
        available=dict(sizes),
        times={
            name: (min(taken.values(), default=0) if len(taken) == sizes[name] else 0, max(taken.values(), default=0))
            for name, taken in times.items()
        },
    )
    return order, report


def normalise_weights(pools: Mapping[str, Any], weights: Mapping[str, float]) -> dict[str, float]:
    """Shares that add up to 1, in the order of `pools`: negative counts as 0, and if none is above 0 all are equal."""
    if not pools:
        raise DataError("mix: there are no pools to mix.")
    if set(pools) != set(weights):
        odd, both = sorted(set(pools) ^ set(weights)), f"pools ({', '.join(pools)}) and weights ({', '.join(weights)})"
        raise DataError(f"mix: {odd[0]!r} is in only one of {both}.")
    for name, weight in weights.items():
        if not math.isfinite(weight):
            raise DataError(f"mix: the weight of {name!r} is {weight}; expected a finite number.")
    positive = {name: max(float(weights[name]), 0.0) for name in pools}
    largest = max(positive.values())
    if largest == 0:
        return {name: 1 / len(pools) for name in pools}
    scaled = {name: weight / largest for name, weight in positive.items()}  # the sum of huge weights stays finite
    whole = sum(scaled.values())
    return {name: weight / whole for name, weight in scaled.items()}


def schedule(shares: list[float], limits: list[int], total: int) -> Iterator[int]:
    """Which pool gives the next row, so that after any number of rows each has given its share to within one row.

    Tijdeman's rule ("The chairman assignment problem", 1980): of the pools that are behind by at least 1/(2k-2), take
    the one whose next row is due first. When a pool reaches its limit, the rest start anew with their own shares.
    Shares are above 0; `limits` are the rows that each pool may give, and `total` is at most their sum.
    """
    left = list(limits)
    given = 0
    while given < total:
        active = [i for i in range(len(shares)) if left[i] > 0]
        whole = sum(shares[i] for i in active)
        share = {i: shares[i] / whole for i in active}
        slack = 1 / (2 * len(active) - 2) if len(active) > 1 else 0.0
        count = dict.fromkeys(active, 0)
        step = 0
        while given < total and all(left[i] > 0 for i in active):
            step += 1
            behind = [i for i in active if share[i] * step - count[i] >= slack - 1e-9]
            chosen = min(behind, key=lambda i: ((count[i] + 1 - slack) / share[i], i))
            count[chosen] += 1
            left[chosen] -= 1
            given += 1
            yield chosen


def _passes(size: int, rng: random.Random) -> Iterator[int]:
    """Row numbers of a pool, shuffled; all of them once, then all again in another order."""
    while size:
        yield from rng.sample(range(size), size)
