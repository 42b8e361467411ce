"""Checks of exercise 03: placeholders, spans, splits, mixtures, tool calls."""

from __future__ import annotations

import copy
import json
import math
import random
from collections import Counter
from collections.abc import Callable, Mapping
from functools import cache
from itertools import pairwise
from typing import Any

from course_utils import data
from course_utils.data.mixing import normalise_weights
from exercises.checks import CheckFailed, ask, check, expect, expect_error, shown

Row = dict[str, Any]


def _asked(question: str, answer: str = "") -> list[dict[str, Any]]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


# ── placeholders ────────────────────────────────────────────────────────────────────────────────────────────────────

STORIES = (  # a question and its numbers
    ("N_00 bottles were bought and N_01 drunk. How many of N_00 are left?", "28.0 25.0"),
    ("number0 birds and number1 cats", "7.0 8.50"),
    ("N_0 ants carry N_1 crumbs", "1000000.0 0.00001"),
    ("First N_01, then N_00!", "100.0 0.0"),
    ("(N_02)N_01,N_00", "1200.0 0.1 141.50"),
    (" ".join(f"N_{place:02}" for place in range(12)), " ".join(f"{place + 20}.0" for place in range(12))),
    ("SPAN_0 and N_0a and xnumber0 and a number are words; N_0 is none", "5.0"),
    ("N_00 times N_01", "12345678.9 300"),
    ("No placeholder, 8.0 stays", "3.0"),
    ("Nothing at all", ""),
)


@check
def fill(attempt: Callable[[str, str], str]) -> None:
    """`fill(question, numbers)`: MAWPS's placeholders filled in."""
    for (question, numbers), wanted in zip(STORIES, _filled(), strict=True):
        found = ask(attempt, question, numbers)
        expect(isinstance(found, str), f"for {question!r} it returned {shown(found)}, which is no text")
        expect(
            found == wanted,
            f"for {shown(question)} with the numbers {shown(numbers)} it returned {shown(found)}; expected "
            f"{shown(wanted)}",
        )
    for question in ("N_02 of N_00", "number2"):
        expect_error(attempt, question, "1.0 2.0", kind=IndexError, why="there are two numbers")


@cache
def _filled() -> list[str]:
    """What the package makes of the stories."""
    rows = [{"Question": question, "Numbers": numbers, "Answer": "1"} for question, numbers in STORIES]
    return [messages[0]["content"] for messages in data.normalise("mawps", rows)["messages"]]


# ── spans ───────────────────────────────────────────────────────────────────────────────────────────────────────────

MARKED: tuple[Row, ...] = (  # rows in CLUENER's own schema
    {"text": "张三在北京。", "label": {"name": {"张三": [[0, 1]]}, "address": {"北京": [[3, 4]]}}},
    {"text": "浙商银行的叶老桂", "label": {"company": {"浙商银行": [[0, 3]]}, "name": {"叶老桂": [[5, 7]]}}},
    {"text": "A和B，B和A", "label": {"name": {"A": [[0, 0], [6, 6]], "B": [[2, 2], [4, 4]]}}},
    {
        "text": "北京大学",
        "label": {"organization": {"北京大学": [[0, 3]], "大学": [[2, 3]]}, "name": {"北京": [[0, 1]]}},
    },
    {"text": "上海市长江路的书", "label": {"address": {"上海市长江路": [[0, 5]], "市": [[2, 2]], "长江": [[3, 4]]}}},
    {"text": "没有", "label": {}},
)


@check
def entities(attempt: Callable[..., dict[str, list[str]]]) -> None:
    """`entities(text, spans)`: CLUENER's spans, ends inclusive, to entities by label."""
    draw = random.Random(6)
    for row in MARKED:
        text, marked = row["text"], row["label"]
        spans = [(label, *span) for label, each in marked.items() for places in each.values() for span in places]
        for _ in range(6):
            found = ask(attempt, text, list(spans))
            expect(isinstance(found, dict), f"for {text!r} it returned {shown(found)}; expected a dict")
            extra, missing = sorted(found.keys() - marked), sorted(marked.keys() - found)
            expect(not extra, f"for {text!r} there is a label {extra[:1]} without a span")
            expect(not missing, f"for {text!r} the label {missing[:1]} is missing")
            for label, each in marked.items():
                expect(
                    found[label] == list(each),
                    f"for {text!r} and the spans {shown(spans)} your {label} is {shown(found[label])}; expected "
                    f"{list(each)}",
                )
            draw.shuffle(spans)
    for start, end, why in ((5, 6, "ends behind the text"), (-1, 1, "begins before it"), (3, 2, "ends too early")):
        expect_error(attempt, "张三在北京。", [("name", start, end)], kind=ValueError, why=f"the span {why}")


# ── a split ─────────────────────────────────────────────────────────────────────────────────────────────────────────

TWINS = (
    ("Ann has 3 pears.", "Ann has 12 pears.", "ANN HAS 1,200 PEARS.", "Ann  has 2.5 pears.", "Annhas１２pears."),
    ("5 cats", "7 cats", "5\tCats"),
    ("How many is 3 and 4?", "How many is 30 and 4,000.5?"),
    ("小明有3颗糖", "小明有 15 颗糖", "小明有１５颗糖"),
)
SINGLE = ("Who?", "5 dogs", "Ann has pears.", "Ann has 3 pears?", "Ann 5 cats", "cats 5")


@check
def split(attempt: Callable[..., tuple[list[int], list[int]]]) -> None:
    """`split(questions, wanted, seed)`: places, without twins on both sides."""
    draw = random.Random(7)
    questions = [*(question for twins in TWINS for question in twins), *SINGLE]
    for wanted in (0, 1, 1, 1, 1, 2, 5, 9):
        draw.shuffle(questions)
        for seed in (0, 1, 2):
            _examine_split(attempt, list(questions), wanted, seed)
    plain = [f"Story {'ab' * size}" for size in range(1, 13)]
    outcomes = {tuple(_examine_split(attempt, plain, 3, seed)) for seed in range(10)}
    expect(len(outcomes) > 3, f"ten seeds gave only {len(outcomes)} different splits of twelve rows")
    for few, wanted in ((list(TWINS[1]), 1), (["a", "b"], 2), (["a", "b"], 5)):
        expect_error(attempt, few, wanted, 0, kind=ValueError, why="nothing is left to train on")


def _examine_split(attempt: Callable[..., Any], questions: list[str], wanted: int, seed: int) -> list[int]:
    """Judge one split; returns the places that are held back."""
    given = f"{len(questions)} questions, wanted={wanted}, seed={seed}"
    random.seed(wanted)
    before = random.getstate()
    parts = ask(attempt, questions, wanted, seed, given=given)
    expect(random.getstate() == before, f"for {given} it changed Python's shared random numbers")
    pair = isinstance(parts, tuple | list) and len(parts) == 2 and all(isinstance(part, list) for part in parts)
    expect(pair, f"for {given} it returned {shown(parts)}; expected two lists of places")
    train, held = parts
    twice = [place for place, often in Counter([*train, *held]).items() if often > 1]
    expect(not twice, f"for {given} the place {twice[:1]} is there twice")
    missing = sorted({*range(len(questions))} ^ {*train, *held})
    expect(not missing, f"for {given} the place {missing[:1]} is missing, or is none")
    expect(train == sorted(train) and held == sorted(held), f"for {given} the places are not ascending")
    expect(len(held) >= wanted, f"for {given} only {len(held)} rows are held back")
    keys = [data.group_key(_asked(question)) for question in questions]
    twins = [(one, other) for one in held for other in train if keys[one] == keys[other]]
    if twins:
        one, other = (questions[place] for place in twins[0])
        raise CheckFailed(f"for {given} {one!r} is held back, and its twin {other!r} is in the training set")
    sizes = Counter(keys[place] for place in held)
    needed = len(held) - max(sizes.values(), default=0)
    expect(
        not held or needed < wanted,
        f"for {given} it holds back {len(held)} rows of {len(sizes)} groups, {shown([questions[p] for p in held])}; "
        "a group less would do",
    )
    again = ask(attempt, questions, wanted, seed, given=given)
    expect(again == parts, f"for {given} a second call gave another split")
    return held


# ── counts ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@check
def counts(attempt: Callable[..., dict[str, int]]) -> None:
    """`counts(weights, total)`: whole rows from weights."""
    draw = random.Random(8)
    cases: list[tuple[dict[str, float], int]] = [
        ({"a": 2, "b": 1}, 100),
        ({"a": 1, "b": 1, "c": 1}, 100),
        ({"a": 1, "b": 1, "c": 1}, 101),
        ({"a": 0.5, "b": 0.3, "c": 0.2}, 7),
        ({"a": -1, "b": 1, "c": 3}, 8),
        ({"a": -2, "b": -5}, 5),
        ({"a": 0, "b": 0, "c": 0}, 4),
        ({"a": 0, "b": 0.25}, 3),
        ({"small": 1, "large": 999}, 10),
        ({"a": 3, "b": 1}, 0),
    ]
    for _ in range(60):
        weights = {name: float(draw.randint(0, 9)) for name in "abcde"[: draw.randint(1, 5)]}
        cases.append((weights, draw.randint(0, 40)))
    for weights, total in cases:
        _examine_counts(ask(attempt, dict(weights), total), weights, total)


def _examine_counts(found: Any, weights: Mapping[str, float], total: int) -> None:
    """Say what is wrong with the counts."""
    given = f"for the weights {dict(weights)} and {total} rows"
    whole = isinstance(found, dict) and found.keys() == weights.keys()
    expect(whole, f"{given} it returned {shown(found)}; expected a dict with the sources {', '.join(weights)}")
    for name, rows in found.items():
        expect(type(rows) is int, f"{given} the count of {name} is {shown(rows)}, which is no whole number")
    report = normalise_weights(weights, weights)
    lost = {}
    for name, share in report.items():
        exact = total * share
        right = math.floor(exact + 1e-9) <= found[name] <= math.ceil(exact - 1e-9)
        expect(right, f"{given} {name} gets {found[name]}; its exact share is {exact:.2f}")
        lost[name] = exact - found[name]
    everything = sum(found.values())
    expect(everything == total, f"{given} the counts add up to {everything}")
    for one in lost:
        for other in lost:
            unfair = lost[one] - lost[other] > 1 + 1e-9
            expect(not unfair, f"{given} {other} is rounded up and {one}, which has the larger remainder, down")
    for one, other in pairwise(sorted(weights, key=lambda name: report[name])):
        first, second = sorted((one, other), key=list(weights).index)
        right = report[one] != report[other] or found[first] >= found[second]
        expect(right, f"{given} {first} gets less than {second}; their weights are equal and {first} comes first")


# ── tool calls ──────────────────────────────────────────────────────────────────────────────────────────────────────


def _calling(*calls: tuple[str, Any]) -> dict[str, Any]:
    """A turn of the assistant with tool calls."""
    made = [{"type": "function", "function": {"name": name, "arguments": given}} for name, given in calls]
    return {"role": "assistant", "content": "", "tool_calls": made}


@check
def arrow_safe(attempt: Callable[..., list[dict[str, Any]]]) -> None:
    """`arrow_safe(messages)`: arguments as JSON text."""
    user, result = {"role": "user", "content": "你好"}, {"role": "tool", "content": '{"arguments": {"a": 1}}'}
    cases = [
        [user, _calling(("weather", {"city": "北京"})), result, {"role": "assistant", "content": "晴"}],
        [user, _calling(("convert", {"unit": None, "amount": 3.5, "exact": True})), result],
        [
            user,
            _calling(("b", {"z": 1, "a": {"y": [1, None], "b": 2}}), ("a", {})),
            result,
            _calling(("c", {"q": 1})),
        ],
        [user, _calling(("weather", '{"city":  "Köln"}'), ("weather", {"city": "Köln"}))],
        [user, {"role": "assistant", "content": "Hi", "tool_calls": None}],
        [user, {"role": "assistant", "content": "Hi", "tool_calls": []}],
        [user, {"role": "assistant", "content": "Hi"}],
    ]
    for messages in cases:
        before = copy.deepcopy(messages)
        found = ask(attempt, messages)
        expect(messages == before, f"for {shown(before)} it changes the messages that it was given")
        right = isinstance(found, list) and len(found) == len(before)
        expect(right, f"for {shown(before)} it returned {shown(found)}; expected {len(before)} messages")
        for one, given in zip(found, before, strict=True):
            _examine_call(one, given)
    stored = data.to_dataset([{"messages": attempt(messages)} for messages in cases[:3]])
    for row, messages in zip(stored["messages"], cases, strict=False):
        came = [call["function"]["arguments"] for message in row for call in message["tool_calls"] or []]
        went = [call["function"]["arguments"] for message in messages for call in message.get("tool_calls", ())]
        expect([*map(json.loads, came)] == went, f"{shown(went)} comes back from Arrow as {shown(came)}")


def _examine_call(found: Any, given: dict[str, Any]) -> None:
    """Say what is wrong with a turn; `given` is what it was before."""
    told = f"in the turn {shown(given)}"
    expect(isinstance(found, dict) and found.keys() == given.keys(), f"{told} the keys have changed: {shown(found)}")
    calls, were = found.get("tool_calls") or [], given.get("tool_calls") or []
    expect(len(calls) == len(were), f"{told} there are {len(calls)} calls now; expected {len(were)}")
    for call, was in zip(calls, were, strict=True):
        text, arguments = call["function"]["arguments"], was["function"]["arguments"]
        expect(isinstance(text, str), f"the arguments {shown(arguments)} became {shown(text)}, which is no text")
        if isinstance(arguments, str):
            expect(text == arguments, f"the text {arguments!r} became {shown(text)}; it must stay")
            continue
        try:
            read = json.loads(text)
        except ValueError:
            raise CheckFailed(f"the arguments {shown(arguments)} became {text!r}, which is no JSON") from None
        expect(read == arguments, f"the arguments {shown(arguments)} became {text!r}, which reads as {shown(read)}")
        expect(str(read) == str(arguments), f"the arguments {shown(arguments)} became {text!r}: another order")
        expect("\\u" not in text, f"the arguments {shown(arguments)} became {text!r}, which nobody can read")
    same = _without_arguments(found) == _without_arguments(given)
    expect(same, f"{told} something else than the arguments has changed: {shown(found)}")


def _without_arguments(message: dict[str, Any]) -> dict[str, Any]:
    """The message with "" for all arguments."""
    bare = copy.deepcopy(message)
    for call in bare.get("tool_calls") or []:
        call["function"]["arguments"] = ""
    return bare


# ── find the bug ────────────────────────────────────────────────────────────────────────────────────────────────────


def rows_to_prepare() -> list[Row]:
    """Conversations of two sources; twins and repeats among them."""
    told = [("sums", f"{name} has {number} pears and eats 2.") for name in "ABCDE" for number in (5, 12, 30)]
    told += [("sums", f"What is the {word} of a circle?") for word in ("area", "radius", "centre")]
    told += [("thinking", f"Who is {word}, Ann or Bo?") for word in ("taller", "older", "richer", "faster", "first")]
    rows = [{"messages": _asked(question, "It depends."), "source": source} for source, question in told]
    again = [copy.deepcopy(rows[place]) for place in (0, 15, 19)]
    return [*rows, *again, rows[18] | {"source": "sums"}]


@check
def prepare(attempt: Callable[..., tuple[list[Row], list[Row]]]) -> None:
    """`prepare(rows, times, wanted, seed)`: repeats removed, split, and only then repeated."""
    rows = rows_to_prepare()
    held_back = set()
    for times, wanted, seed in (
        ({"thinking": 3}, 8, 0),
        ({}, 5, 1),
        ({"sums": 2, "thinking": 5}, 3, 2),
        ({"sums": 0}, 8, 3),
        ({"thinking": 3}, 8, 4),
    ):
        given = f"times={times}, wanted={wanted}, seed={seed}"
        before = copy.deepcopy(rows)
        parts = ask(attempt, rows, times, wanted, seed, given=given)
        expect(rows == before, f"for {given} it changes the rows that it was given")
        expect(isinstance(parts, tuple) and len(parts) == 2, f"for {given} it returned {shown(parts)}, not two lists")
        _examine_parts(parts[0], parts[1], rows, times, wanted, given)
        again = ask(attempt, rows, times, wanted, seed, given=given)
        expect([*map(_text, again[1])] == [*map(_text, parts[1])], f"for {given} a second call holds back other rows")
        held_back.add(frozenset(map(_text, parts[1])))
    expect(len(held_back) == 5, "two calls with other seeds hold back the same rows")


def _text(row: Row) -> str:
    return row["messages"][0]["content"]


def _examine_parts(
    train: list[Row], held: list[Row], rows: list[Row], times: Mapping[str, int], wanted: int, given: str
) -> None:
    """Say what is wrong with the two parts."""
    trained, kept = (Counter(map(_text, part)) for part in (train, held))
    sources = {_text(row): row["source"] for row in reversed(rows)}
    twice = [text for text, often in kept.items() if often > 1]
    expect(not twice, f"for {given} {twice[:1]} is held back {kept[twice[0]] if twice else 0} times")
    expect(len(held) >= wanted, f"for {given} only {len(held)} rows are held back")
    trained_keys = {data.group_key(_asked(text)): text for text in trained}
    for text in kept:
        twin = trained_keys.get(data.group_key(_asked(text)))
        expect(twin is None, f"for {given} {text!r} is held back, and {twin!r} is in the training set")
    expect(len(held) < wanted + 3, f"for {given} {len(held)} rows are held back, more than twins can account for")
    for text, source in sources.items():
        often = 0 if text in kept else times.get(source, 1)
        expect(
            trained[text] == often,
            f"for {given} the row {text!r} of {source} is in the training set {trained[text]} times; expected {often}",
        )


# ── stretch ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@check
def interleave(attempt: Callable[[list[int], int], list[int]]) -> None:
    """`interleave(weights, total)`: after every number of rows each source has given its share."""
    draw = random.Random(9)
    cases = [([1], 3), ([2, 1], 6), ([5, 3, 2], 20), ([1, 1, 1, 1], 9), ([8, 8, 8, 1, 1], 26), ([7, 2], 0)]
    cases += [([draw.randint(1, 30) for _ in range(draw.randint(2, 7))], draw.randint(1, 120)) for _ in range(60)]
    for weights, total in cases:
        order = ask(attempt, list(weights), total)
        right = isinstance(order, list) and all(which in range(len(weights)) for which in order)
        expect(right, f"for {weights} it returned {shown(order)}; expected numbers from 0 to {len(weights) - 1}")
        expect(len(order) == total, f"for {weights} and {total} rows it returned {len(order)}")
        given = [0] * len(weights)
        for n, which in enumerate(order, start=1):
            given[which] += 1
            for source, weight in enumerate(weights):
                share = n * weight / sum(weights)
                low, high = n * weight // sum(weights), -(-n * weight // sum(weights))
                expect(
                    low <= given[source] <= high,
                    f"for {weights}, source {source} has given {given[source]} of the first {n} rows; its share of "
                    f"them is {share:.2f}",
                )
