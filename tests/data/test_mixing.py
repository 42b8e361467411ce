"""`mix`: shares that hold in every prefix, exact counts, no hidden repeats, and an honest report."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from course_utils import data
from course_utils.data.mixing import normalise_weights


def pool(name, size, **extra):
    rows = []
    for i in range(size):
        messages = [{"role": "user", "content": f"{name} {i}"}, {"role": "assistant", "content": "x", **extra}]
        rows.append({"messages": messages, "source": name, "tags": []})
    return data.to_dataset(rows)


def names_of(mixture):
    return list(mixture["source"])


def questions_of(mixture):
    return [messages[0]["content"] for messages in mixture["messages"]]


weights_and_sizes = st.lists(st.tuples(st.floats(0.01, 10), st.integers(1, 60)), min_size=1, max_size=5)


@settings(max_examples=80, deadline=None)
@given(weights_and_sizes, st.integers(0, 5))
def test_interleave_holds_the_shares_until_a_pool_is_used_up(pairs, seed):
    pools = {f"p{i}": pool(f"p{i}", size) for i, (_, size) in enumerate(pairs)}
    weights = {f"p{i}": weight for i, (weight, _) in enumerate(pairs)}
    mixture, report = data.mix(pools, weights, seed=seed)
    assert len(set(questions_of(mixture))) == len(mixture) == sum(map(len, pools.values()))
    shares, seen = normalise_weights(pools, weights), Counter()
    for n, name in enumerate(names_of(mixture), start=1):
        seen[name] += 1
        assert all(abs(seen[p] - n * shares[p]) < 1 + 1e-6 for p in pools), (n, seen)
        if any(seen[p] == len(pools[p]) for p in pools):
            break
    assert report.actual == report.unique == {name: len(p) for name, p in pools.items()}
    assert set(report.times.values()) == {(1, 1)}


@settings(max_examples=80, deadline=None)
@given(weights_and_sizes, st.integers(0, 200), st.integers(0, 5))
def test_resample_is_exact_to_one_row_and_repeats_evenly(pairs, total, seed):
    pools = {f"p{i}": pool(f"p{i}", size) for i, (_, size) in enumerate(pairs)}
    weights = {f"p{i}": weight for i, (weight, _) in enumerate(pairs)}
    mixture, report = data.mix(pools, weights, strategy="resample", total_size=total, seed=seed)
    assert len(mixture) == total == sum(report.actual.values())
    counts, repeats = Counter(names_of(mixture)), Counter(questions_of(mixture))
    for name, share in normalise_weights(pools, weights).items():
        assert abs(counts[name] - total * share) < 1 + 1e-6
        times = [repeats[f"{name} {i}"] for i in range(len(pools[name]))]
        assert max(times) - min(times) <= 1
        assert report.times[name] == (min(times), max(times))
        assert report.unique[name] == sum(t > 0 for t in times)
        assert report.requested[name] == pytest.approx(total * share)


def test_interleave_goes_on_with_the_others_by_their_weights():
    pools = {"small": pool("small", 5), "b": pool("b", 60), "c": pool("c", 30)}
    mixture, _ = data.mix(pools, {"small": 1, "b": 2, "c": 1})
    names = names_of(mixture)
    assert Counter(names[:20]) == {"small": 5, "b": 10, "c": 5}
    assert Counter(names[20:50]) == {"b": 20, "c": 10}


def test_interleave_of_fewer_rows_and_of_too_many():
    pools = {"a": pool("a", 40), "b": pool("b", 40)}
    mixture, report = data.mix(pools, {"a": 3, "b": 1}, total_size=20)
    assert Counter(names_of(mixture)) == {"a": 15, "b": 5}
    assert report.requested == {"a": 15, "b": 5}
    with pytest.raises(data.DataError, match="81 rows asked for, but the pools hold 80"):
        data.mix(pools, {"a": 3, "b": 1}, total_size=81)


def test_resample_default_size_is_nine_tenths():
    pools = {"a": pool("a", 70), "b": pool("b", 30)}
    mixture, report = data.mix(pools, {"a": 1, "b": 1}, strategy="resample")
    assert len(mixture) == 90
    assert report.actual == {"a": 45, "b": 45} and report.unique == {"a": 45, "b": 30}
    assert report.table()[1] == {
        "source": "b",
        "available": 30,
        "requested": 45.0,
        "actual": 45,
        "unique": 30,
        "each row, times": "1–2",
        "share asked": 0.5,
        "share": 0.5,
    }


def test_weights_zero_negative_and_scale():
    pools = {"a": 1, "b": 1, "c": 1}
    assert normalise_weights(pools, {"a": 4, "b": 3, "c": 3}) == pytest.approx({"a": 0.4, "b": 0.3, "c": 0.3})
    assert normalise_weights(pools, {"a": 0, "b": -1, "c": 0}) == {"a": 1 / 3, "b": 1 / 3, "c": 1 / 3}
    assert normalise_weights(pools, {"a": 1, "b": -5, "c": 0}) == {"a": 1, "b": 0, "c": 0}
    assert normalise_weights(pools, {"a": 1e308, "b": 1e308, "c": 0}) == {"a": 0.5, "b": 0.5, "c": 0}


def test_a_pool_of_weight_zero_is_left_out_and_reported():
    mixture, report = data.mix({"a": pool("a", 4), "b": pool("b", 4)}, {"a": 1, "b": 0})
    assert set(names_of(mixture)) == {"a"} and report.actual == {"a": 4, "b": 0}


def test_pools_with_other_keys_are_joined():
    pools = {"plain": pool("plain", 3), "think": pool("think", 3, reasoning_content="why")}
    mixture, _ = data.mix(pools, {"plain": 1, "think": 1})
    rows = [data.plain(row) for row in mixture]
    assert all(("reasoning_content" in row["messages"][1]) == (row["source"] == "think") for row in rows)


def test_same_seed_same_order_other_seed_another():
    pools = {"a": pool("a", 30), "b": pool("b", 30)}
    one, two, three = (questions_of(data.mix(pools, {"a": 1, "b": 2}, seed=seed)[0]) for seed in (1, 1, 2))
    assert one == two != three


@pytest.mark.parametrize(
    ("pools", "weights", "options", "message"),
    [
        ({}, {}, {}, "no pools"),
        ({"a": 1}, {"b": 1}, {}, "'a' is in only one of pools"),
        ({"a": 1}, {"a": float("nan")}, {}, "expected a finite number"),
        ({"a": 1}, {"a": 1}, {"strategy": "concat"}, "unknown strategy 'concat'; expected one of interleave, resample"),
        ({"a": 1}, {"a": 1}, {"total_size": -1}, "must not be negative"),
        ({"a": 0, "b": 2}, {"a": 1, "b": 1}, {"strategy": "resample", "total_size": 4}, "pool 'a' is empty"),
    ],
)
def test_errors(pools, weights, options, message):
    with pytest.raises(data.DataError, match=message):
        data.mix({name: pool(name, size) for name, size in pools.items()}, weights, **options)
