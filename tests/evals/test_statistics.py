"""course_utils.evals.statistics: intervals that hold the truth as often as they say, and paired tests."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from course_utils import statistics

parts = st.lists(st.tuples(st.floats(0, 50), st.integers(1, 30)), min_size=1, max_size=30)


@given(parts)
def test_the_value_is_the_ratio_of_the_sums_and_lies_in_its_interval(given_parts):
    found = statistics.ratio(given_parts)
    value = sum(top for top, _ in given_parts) / sum(bottom for _, bottom in given_parts)
    assert found.value == pytest.approx(value)
    assert found.low <= value + 1e-9 and value - 1e-9 <= found.high
    assert statistics.ratio(given_parts) == found  # seeded


def test_it_is_scipys_bootstrap():
    draw = random.Random(1)
    tops, bottoms = [draw.uniform(0, 9) for _ in range(40)], [draw.randint(1, 9) for _ in range(40)]
    theirs = stats.bootstrap(
        (tops, bottoms),
        lambda top, bottom, axis: top.sum(axis) / bottom.sum(axis),
        paired=True,
        method="percentile",
        rng=1,
    ).confidence_interval
    ours = statistics.ratio(list(zip(tops, bottoms, strict=True)))
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), rel=0.05)


def test_nineteen_of_twenty_intervals_hold_the_truth():
    draw, held = random.Random(3), 0
    for _ in range(300):
        found = statistics.ratio([(int(draw.random() < 0.7), 1) for _ in range(60)])
        held += found.low <= 0.7 <= found.high
    assert 0.9 <= held / 300 <= 0.98


def test_all_hits_are_not_certainty():
    found = statistics.ratio([(1, 1)] * 30)
    assert (found.value, found.high) == (1, 1) and 0.87 < found.low < 0.9
    none = statistics.ratio([(0, 1)] * 30)
    assert (none.value, none.low) == (0, 0) and none.high == pytest.approx(1 - found.low)


@pytest.mark.parametrize(
    ("gained", "lost", "p"), [(0, 0, 1.0), (1, 0, 1.0), (5, 0, 0.0625), (6, 0, 0.03125), (8, 1, 0.0390625), (4, 4, 1.0)]
)
def test_mcnemar_counts_only_the_flips(gained, lost, p):
    before = [False] * gained + [True] * lost + [True, False] * 10
    after = [True] * gained + [False] * lost + [True, False] * 10
    assert statistics.mcnemar(before, after) == pytest.approx(p)


def hits(*values):
    return [(value, 1) for value in values]


@pytest.mark.parametrize(
    ("before", "after", "higher", "verdict"),
    [
        (hits(*[0] * 6, *[1] * 9), hits(*[1] * 15), True, "better"),
        (hits(*[1] * 15), hits(*[0] * 6, *[1] * 9), True, "worse"),
        (hits(*[0] * 5, *[1] * 9), hits(*[1] * 14), True, "not told apart"),
        ([(5.0, 4)] * 9, [(3.0, 4)] * 9, False, "better"),
        ([(5.0, 4)] * 9, [(9.0, 4)] * 9, False, "worse"),
        ([(5.0, 4), (3.0, 4)] * 9, [(3.1, 4), (5.0, 4)] * 9, False, "not told apart"),
    ],
)
def test_the_verdict_in_words(before, after, higher, verdict):
    assert statistics.verdict(before, after, higher_is_better=higher) == verdict


def test_the_pairs_matter():
    """A small change of every prompt is seen where the prompts differ far more among each other."""
    before = [(float(10 * number), 10) for number in range(1, 21)]
    after = [(top - 2, bottom) for top, bottom in before]
    old, new = statistics.ratio(before), statistics.ratio(after)
    assert new.high > old.low  # the two intervals overlap
    assert statistics.verdict(before, after, higher_is_better=False) == "better"


def test_f1_of_nothing_found_is_zero():
    assert statistics.ratio([(0, 0), (0, 0)]).value == 0
