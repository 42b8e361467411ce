"""Checks of exercise 08: rows to mix in, the divergence from the base, text in pieces, what was lost, an exam kept."""

from __future__ import annotations

import copy
import math
import operator
import random
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from scipy.stats import binom as heads
from torch import Tensor

from course_utils import statistics
from exercises.checks import CheckFailed, ask, check, expect, expect_error, shown

Row = dict[str, Any]
Rows = tuple[list[Row], list[Row]]
"""Narrow ones, and general ones."""


def _whole(found: Any) -> int | None:
    """What was returned, if it is a whole number."""
    try:
        return None if isinstance(found, bool) else operator.index(found)
    except TypeError:
        return None


# ── how many rows to mix in ─────────────────────────────────────────────────────────────────────────────────────────

ENOUGH = (  # narrow rows, share of all, general rows
    (400, 0.2, 100),
    (400, 0.0, 0),
    (100, 0.5, 100),
    (300, 0.25, 100),
    (90, 0.1, 10),
    (100, 0.9, 900),
    (100, 0.3, 43),
    (101, 0.3, 43),
    (50, 0.15, 9),
    (100, 0.1, 11),
    (64, 0.05, 3),
    (37, 0.4, 25),
    (1, 0.75, 3),
    (1000, 0.01, 10),
)
NO_SHARE = (
    (100, 1, "with narrow rows in it, a mix is never made of general rows alone"),
    (100, 1.0, "with narrow rows in it, a mix is never made of general rows alone"),
    (100, 1.5, "a share is below 1; a fifth is 0.2, and not 20"),
    (100, 20, "a share is below 1; a fifth is 0.2, and not 20"),
    (100, -0.2, "a share below 0 would take rows away"),
)


@check
def rows_to_add(attempt: Callable[[int, float], int]) -> None:
    """`rows_to_add(narrow, share)`: a share of all rows, not of the narrow ones."""
    for narrow, share, wanted in ENOUGH:
        _examine_count(attempt, narrow, share, wanted)
    draw = random.Random(1)
    for _ in range(80):
        narrow, share = draw.randint(20, 300), draw.randint(1, 95) / 100
        off = {count: abs(count * (1 - share) - narrow * share) for count in range(20 * narrow)}
        near, next_ = sorted(off, key=off.__getitem__)[:2]
        if off[next_] > 1.5 * off[near]:  # not halfway between two numbers
            _examine_count(attempt, narrow, share, near)
    for narrow, share, why in NO_SHARE:
        expect_error(attempt, narrow, share, kind=ValueError, why=why)


def _examine_count(attempt: Callable[..., Any], narrow: int, share: float, wanted: int) -> None:
    given = f"narrow={narrow} and share={share}"
    found = ask(attempt, narrow, share, given=given)
    count = _whole(found)
    expect(count is not None, f"for {given} it returned {shown(found)}; expected a whole number of rows")
    assert count is not None
    if count == wanted:
        return
    expect(count >= 0, f"for {given} it returned {count}; a number of rows is at least 0")
    total = count + narrow
    raise CheckFailed(
        f"for {given} it returned {count}, which makes {count / total:.1%} of all {total} rows; expected {wanted}"
    )


# ── how far from the base ───────────────────────────────────────────────────────────────────────────────────────────

ODDS = (  # the base's scores of one token, the moved model's, the divergence
    ((0.5, 0.5), (0.9, 0.1), 0.510826),
    ((0.9, 0.1), (0.5, 0.5), 0.368064),
    ((0.25, 0.75), (0.25, 0.75), 0.0),
    ((0.2, 0.3, 0.5), (0.5, 0.3, 0.2), 0.274887),
    ((0.7, 0.1, 0.1, 0.1), (0.25, 0.25, 0.25, 0.25), 0.445847),
)
SHAPES = (  # the tokens of each row that are real, the vocabulary
    (((1, 1, 1, 1),), 5),
    (((1, 1, 1), (1, 1, 1)), 3),
    (((1, 1, 1, 0, 0), (1, 1, 1, 1, 1)), 4),
    (((0, 0, 0, 1), (0, 1, 1, 1), (1, 1, 1, 1)), 7),
    (((1, 0, 0, 0), (1, 1, 0, 0), (1, 1, 1, 1)), 4),
    (((1, 0), (1, 1), (1, 1)), 9),
)


@check
def divergence(attempt: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
    """`divergence(base_logits, moved_logits, mask)`: base to moved, in nats per real token."""
    for base, moved, wanted in ODDS:
        given = f"one token, to which the base gives {list(base)} and the moved model {list(moved)}"
        logits = [torch.tensor([[odds]]).log() for odds in (base, moved)]
        _compare(attempt, logits[0], logits[1], torch.tensor([[1]]), given, wanted)
    draw = torch.Generator().manual_seed(2)
    for real, vocabulary in SHAPES:
        mask = torch.tensor(real)
        base = 2 * torch.randn(*mask.shape, vocabulary, generator=draw)
        moved = base + torch.randn(base.shape, generator=draw)
        rows, tokens = mask.shape
        given = f"{rows} x {tokens} tokens, a vocabulary of {vocabulary} and mask={mask.tolist()}"
        nothing = _distance(attempt, base, base.clone(), mask, f"a model that has not moved, {given}")
        expect(abs(nothing) < 1e-5, f"for a model that has not moved, {given} it returned {nothing:.4f}; expected 0")
        found = _distance(attempt, base, moved, mask, given)
        for row, place in (mask == 0).nonzero().tolist():
            other = moved.clone()
            other[row, place, 0] += 3
            same = math.isclose(_distance(attempt, base, other, mask, given), found, rel_tol=1e-5)
            expect(same, f"for {given} the scores in row {row} at place {place} count; there is padding")
        wanted = _compare(attempt, base, moved, mask, given)
        for what, shifted in (("base", (base + 5, moved)), ("moved", (base, moved - 3))):
            found = _distance(attempt, *shifted, mask, given)
            same = math.isclose(found, wanted, rel_tol=1e-3)
            line = f"for {given} it is {wanted:.4f}, and {found:.4f} where all scores of {what}_logits are moved alike"
            expect(same, f"{line}; that changes no probability")
    for base, moved, wanted in (([0.0, 0.0], [200.0, 0.0], 99.306853), ([200.0, 0.0], [0.0, 0.0], math.log(2))):
        given = f"one token, the scores {base} and {moved}"
        found = _distance(attempt, torch.tensor([[base]]), torch.tensor([[moved]]), torch.tensor([[1]]), given)
        right = math.isclose(found, wanted, rel_tol=1e-4)
        line = f"for {given} it returned {found:.4f}; expected {wanted:.4f}"
        expect(right, f"{line}. float32 holds no probability that small: stay with logarithms")
    _examine_pull(attempt)


def _distance(attempt: Callable[..., Any], base: Tensor, moved: Tensor, mask: Tensor, given: str) -> float:
    """What was returned, as a number."""
    tensors = base, moved, mask
    before = [tensor.clone() for tensor in tensors]
    found = ask(attempt, *tensors, given=given)
    expect(isinstance(found, Tensor), f"for {given} it returned {shown(found)}; expected a tensor of one number")
    one = found.shape == ()
    expect(one, f"for {given} it returned a tensor of the shape {tuple(found.shape)}; expected a single number")
    same = all(map(torch.equal, before, tensors))
    expect(same, f"for {given} it changes the tensors that it was given; make new ones")
    return float(found.detach())


def _each(base: Tensor, moved: Tensor) -> Tensor:
    """The divergence of each token, as torch's distributions have it."""
    from torch.distributions import Categorical, kl_divergence

    return kl_divergence(Categorical(logits=base.double()), Categorical(logits=moved.double()))


def _compare(
    attempt: Callable[..., Any], base: Tensor, moved: Tensor, mask: Tensor, given: str, known: float | None = None
) -> float:
    """Expect the mean over the real tokens; name the slip by which another number comes out."""
    found, each, real = _distance(attempt, base, moved, mask, given), _each(base, moved), mask.bool()
    wanted = float(each[real].mean()) if known is None else known
    if math.isclose(found, wanted, rel_tol=1e-3, abs_tol=1e-5):
        return wanted
    slips = {
        "the other direction, from the moved model to the base": _each(moved, base)[real].mean(),
        "the mean over padding, too": each.mean(),
        "the real tokens' sum over the number of all places": (each * mask).sum() / mask.numel(),
        "the sum over the tokens": each[real].sum(),
        "the sum over the tokens for each row": each[real].sum() / len(mask),
        "the mean over the vocabulary": each[real].mean() / base.shape[-1],
        "the mean of the rows' own means": ((each * mask).sum(-1) / mask.sum(-1)).mean(),
        "the right number with the wrong sign": -each[real].mean(),
        "in bits; nats come from the natural logarithm": each[real].mean() / math.log(2),
    }
    for slip, value in slips.items():
        same = math.isclose(found, float(value), rel_tol=1e-3)
        expect(not same, f"for {given} it returned {found:.4f}, which is {slip}; expected {wanted:.4f}")
    raise CheckFailed(f"for {given} it returned {found:.4f}; expected {wanted:.4f}")


def _examine_pull(attempt: Callable[..., Any]) -> None:
    """Expect a gradient that pulls the real tokens back to the base, and no other."""
    draw = torch.Generator().manual_seed(3)
    mask = torch.tensor([[1, 1, 0], [1, 0, 0]])
    base, moved = (torch.randn(2, 3, 4, generator=draw) for _ in range(2))
    moved.requires_grad_()
    given = f"moved_logits that need a gradient and mask={mask.tolist()}"
    found = ask(attempt, base, moved, mask, given=given)
    expect(found.requires_grad, f"for {given} the result has no gradient: nothing can be learned from it")
    [slope] = torch.autograd.grad(found, moved, allow_unused=True)
    slope = torch.zeros_like(moved) if slope is None else slope
    pull = (moved.softmax(-1) - base.softmax(-1)) * mask[..., None] / mask.sum()
    close = torch.allclose(slope, pull.detach(), atol=1e-5)
    expect(close, f"for {given} the gradient does not pull moved_logits towards the base")


# ── text in pieces ──────────────────────────────────────────────────────────────────────────────────────────────────

TEXTS = (  # the texts, the end, the size of a piece
    ([[5, 6, 7], [8]], 0, 4),
    ([[5, 6, 7], [8]], 0, 3),
    ([[5, 6, 7], [8]], 0, 2),
    ([[5, 6, 7], [8]], 0, 100),
    ([[5, 6, 7], [8]], 0, 6),
    ([[5, 6, 7], [8]], 0, 1),
    ([[5, 6, 7, 8, 9, 10, 11]], 0, 3),
    ([[5, 6], [], [7]], 0, 3),
    ([[]], 9, 4),
    ([], 9, 4),
    ([[0, 9, 0], [9], [0, 0, 9]], 9, 4),
    ([[5, 6], [5, 6], [5, 6]], 1, 3),
)


@check
def pieces(attempt: Callable[[list[list[int]], int, int], list[list[int]]]) -> None:
    """`pieces(texts, end, size)`: the texts in one row, with an end behind each, cut into equal pieces."""
    draw = random.Random(4)
    drawn = [
        ([draw.choices(range(5, 30), k=draw.randint(0, 9)) for _ in range(draw.randint(1, 6))], 3, draw.randint(1, 12))
        for _ in range(60)
    ]
    for texts, end, size in (*TEXTS, *drawn):
        _examine_pieces(attempt, texts, end, size)


def _examine_pieces(attempt: Callable[..., Any], texts: list[list[int]], end: int, size: int) -> None:
    given = f"the texts {shown(texts)}, end={end} and size={size}"
    mine = copy.deepcopy(texts)
    found = ask(attempt, mine, end, size, given=given)
    expect(mine == texts, f"for {given} it changes the texts that it was given; make new lists")
    kind = isinstance(found, list | tuple) and all(hasattr(piece, "__len__") for piece in found)
    expect(kind, f"for {given} it returned {shown(found)}; expected a list of pieces, each a list of ids")
    cut = [[_whole(token) for token in piece] for piece in found]
    bare = all(token is not None for piece in cut for token in piece)
    expect(bare, f"for {given} it returned {shown(found)}; expected whole numbers in each piece, the ids")
    told, stream, place = f"for {given} it returned {shown(found)}", [token for piece in cut for token in piece], 0
    for number, text in enumerate(texts):
        rest = stream[place : place + len(text)]
        whole = rest == text
        expect(whole, f"{told}; where text {number} is due, {text}, the pieces one after the other hold {rest}")
        place += len(text)
        closed = stream[place : place + 1] == [end]
        follows = stream[place] if place < len(stream) else "no further id"
        expect(closed, f"{told}; behind text {number}, {text}, comes {follows} and not the end, {end}")
        place += 1
    expect(len(stream) == place, f"{told}; behind the last end come {stream[place:]}; nothing is padded or added")
    for number, piece in enumerate(cut):
        last = number == len(cut) - 1
        fits = 0 < len(piece) <= size
        expect(fits, f"{told}; the length of piece {number} is {len(piece)}, which is not from 1 to {size}")
        full = last or len(piece) == size
        expect(
            full, f"{told}; the length of piece {number} is {len(piece)}; only the last one may be shorter than {size}"
        )


# ── lost and gained ─────────────────────────────────────────────────────────────────────────────────────────────────

FLIPS = (  # before, after (1: answered right), lost, gained, p
    ("1111111100", "0000000010", 8, 1, 0.0390625),
    ("11110", "00010", 3, 0, 0.25),
    ("11111", "11111", 0, 0, 1.0),
    ("00000", "00000", 0, 0, 1.0),
    ("10", "01", 1, 1, 1.0),
    ("1", "0", 1, 0, 1.0),
    ("0", "1", 0, 1, 1.0),
    ("111111", "000000", 6, 0, 0.03125),
    ("000000", "111111", 0, 6, 0.03125),
    ("11111000", "00000111", 5, 3, 0.7265625),
    ("111000", "000111", 3, 3, 1.0),
    ("1111111111" * 2, "1111100000" * 2, 10, 0, 0.001953125),
)


@check
def lost(attempt: Callable[[list[bool], list[bool]], tuple[int, int, float]]) -> None:
    """`lost(before, after)`: the questions that changed, each way, and McNemar's exact p, two-sided."""
    for flips in FLIPS:
        _examine_flips(attempt, *flips)
    draw = random.Random(5)
    for size in (1, 2, 4, 7, 12, 30, 80, 80, 80, 200):
        before, after = ("".join(draw.choices("01", (1, weight), k=size)) for weight in (3, draw.choice((1, 2, 4))))
        pairs = [*zip(before, after, strict=True)]
        gone, came = (pairs.count(way) for way in (("1", "0"), ("0", "1")))
        yes = [[answer == "1" for answer in answers] for answers in (before, after)]
        _examine_flips(attempt, before, after, gone, came, statistics.mcnemar(*yes))


def _examine_flips(attempt: Callable[..., Any], before: str, after: str, gone: int, came: int, wanted: float) -> None:
    given = f"before {shown(before)} and after {shown(after)} (1 for True)".replace("'", "")
    found = ask(attempt, *([answer == "1" for answer in answers] for answers in (before, after)), given=given)
    three = isinstance(found, list | tuple) and len(found) == 3
    expect(three, f"for {given} it returned {shown(found)}; expected (lost, gained, p)")
    counts, p = [_whole(count) for count in found[:2]], found[2]
    both = None not in counts
    expect(both, f"for {given} it returned {shown(found)}; lost and gained are whole numbers of questions")
    expect(counts != [came, gone] or gone == came, f"for {given} it returned {shown(found)}; lost comes before gained")
    right = counts[0] == gone
    expect(right, f"for {given} lost is {counts[0]}; expected {gone}, those that are True before and False after")
    right = counts[1] == came
    expect(right, f"for {given} gained is {counts[1]}; expected {came}, those that are False before and True after")
    try:
        number = float(p)
    except (TypeError, ValueError):
        number = math.nan
    expect(not math.isnan(number), f"for {given} the p is {shown(p)}, which is no number")
    if math.isclose(number, wanted, rel_tol=1e-6, abs_tol=1e-12):
        return
    expect(number <= 1, f"for {given} the p is {number:.4f}; a probability is at most 1")
    fewer = min(gone, came)
    slips = {
        "one-sided; a change either way is to count": wanted / 2,
        "for all questions; those that stayed as they were say nothing": 2 * heads.cdf(fewer, len(before), 0.5),
        "how likely this split alone is; count the more uneven ones, too": 2 * heads.pmf(fewer, gone + came, 0.5),
    }
    for slip, value in slips.items():
        same = math.isclose(number, value, rel_tol=1e-6)
        expect(not same, f"for {given} the p is {number:.4f}, which is {slip}; expected {wanted:.4f}")
    raise CheckFailed(f"for {given} the p is {number:.4f}; where {gone} are lost and {came} gained it is {wanted:.4f}")


# ── an exam that nobody learns ──────────────────────────────────────────────────────────────────────────────────────


def rows(narrow: int = 60, free: int = 24, held: int = 10, twins: int = 4, again: int = 2) -> Rows:
    """Narrow rows, and general ones in a mixed order.

    Args:
        narrow: the narrow rows.
        free: questions that may be trained on.
        held: rows that are held out.
        twins: further rows with the question of one that is held out.
        again: further rows with a question that may be trained on.
    """

    def row(question: str, reply: str, held: bool = False) -> Row:
        return {"question": question, "reply": reply, "held": held}

    asked = [f"Name {count} things that are {what}." for count in range(2, 60) for what in ("green", "round", "heavy")]
    questions, exam = asked[:free], asked[free : free + held]
    general = [
        *(row(question, "Certainly.") for question in questions),
        *(row(question, "Of course.", held=True) for question in exam),
        *(row(question, "Sure.") for question in (*exam[:twins], *questions[:again])),
    ]
    random.Random(6).shuffle(general)
    return [row(f"Say hello to guest {number}.", "Hello! 🙂") for number in range(narrow)], general


MIXED = (  # narrow rows, share, general rows due, general questions: free, held out, twins of those, free ones again
    (60, 0.25, 20, 24, 10, 4, 2),
    (60, 0.25, 20, 20, 10, 10, 0),
    (60, 0.25, 20, 20, 0, 0, 20),
    (30, 0.5, 30, 30, 30, 30, 30),
    (10, 0.6, 15, 40, 20, 0, 0),
    (70, 0.3, 30, 33, 4, 4, 3),
    (25, 0.0, 0, 9, 3, 1, 1),
)
RUNS = 60


@check
def training_rows(attempt: Callable[[list[Row], list[Row], float, int], list[Row]]) -> None:
    """`training_rows(narrow, general, share, seed)`: general rows drawn and spread, none of them from the exam."""
    for size, share, due, *pool in MIXED:
        given = rows(size, *pool)
        for seed in range(6):
            _examine_mix(attempt, given, share, due, seed)
    _examine_spread(attempt)
    _examine_draw(attempt)
    for pool, free in (((19, 10, 4, 2), 19), ((19, 0, 0, 19), 19), ((0, 40, 0, 0), 0)):
        narrow, general = rows(60, *pool)
        why = f"only {free} general questions may be trained on, and 20 are needed"
        expect_error(attempt, narrow, general, 0.25, 42, kind=ValueError, why=why)


def _examine_mix(attempt: Callable[..., Any], mine: Rows, share: float, due: int, seed: int) -> list[Row]:
    """Expect the right rows in whatever order, and return them."""
    narrow, general = copy.deepcopy(mine)
    held = {row["question"] for row in general if row["held"]}
    many = sum(row["held"] for row in general)
    given = f"{len(narrow)} narrow rows, {len(general)} general ones ({many} held out), share={share} and seed={seed}"
    found = ask(attempt, *mine, share, seed, given=given)
    expect(mine == (narrow, general), f"for {given} it changes the lists that it was given, or their rows")
    kind = isinstance(found, list | tuple) and all(isinstance(row, dict) for row in found)
    expect(kind, f"for {given} it returned {shown(found)}; expected a list of rows")
    known = {*map(_key, (*narrow, *general))}
    for row in found:
        expect(_key(row) in known, f"for {given} there is a row that it was not given: {shown(row)}")
        leaked = row.get("held") is True
        expect(not leaked, f"for {given} it trains on {shown(row['question'])}, which is held out to judge the model")
        twin = row["question"] in held
        expect(not twin, f"for {given} it trains on {shown(row['question'])}, and another row holds that question out")
    asked = [row["question"] for row in found]
    twice = next((question for question in asked if asked.count(question) > 1), None)
    expect(twice is None, f"for {given} the question {shown(twice)} comes {asked.count(twice)} times; once is enough")
    missing = next((row["question"] for row in narrow if row["question"] not in asked), None)
    expect(missing is None, f"for {given} the narrow row {shown(missing)} is missing")
    count = len(found) - len(narrow)
    part = f"{count / len(found):.1%}"
    expect(count == due, f"for {given} it mixes in {count} general rows, which makes {part} of all; expected {due}")
    return list(found)


def _key(row: Row) -> tuple[tuple[str, Any], ...]:
    return tuple(sorted(row.items()))


def _examine_spread(attempt: Callable[..., Any]) -> None:
    """Expect general rows in every quarter of a run."""
    given = rows(240, 100, 10, 4, 2)
    known = {*map(_key, given[1])}
    for seed in range(12):
        found = _examine_mix(attempt, given, 0.25, 80, seed)
        ends = [len(found) * quarter // 4 for quarter in range(5)]
        counts = [sum(_key(row) in known for row in found[start:end]) for start, end in pairwise(ends)]
        even = min(counts) >= 4 and max(counts) <= 36  # by chance, further off once in 100,000 checks
        line = f"for 240 narrow rows, share=0.25 and seed={seed} the quarters of the run hold {counts} general rows"
        expect(even, f"{line}; spread them over all of it")


def _examine_draw(attempt: Callable[..., Any]) -> None:
    """Expect the same rows for a seed, whatever was drawn elsewhere, and each general row in some of the runs."""
    given, runs = rows(60, 40, 10, 4, 0), []
    for seed in range(RUNS):
        random.seed(seed)
        first = _examine_mix(attempt, given, 0.25, 20, seed)
        random.seed(seed + 1000)
        second = _examine_mix(attempt, given, 0.25, 20, seed)
        expect(first == second, f"for seed={seed} it returned other rows, or another order, the second time")
        runs.append({row["question"] for row in first})
    same = all(run == runs[0] for run in runs)
    expect(not same, f"for {RUNS} seeds it mixes in the same general rows; draw them by the seed")
    held = {row["question"] for row in given[1] if row["held"]}
    for question in sorted({row["question"] for row in given[1]} - held):
        times = sum(question in run for run in runs)
        fair = RUNS / 6 <= times <= RUNS * 5 / 6
        line = f"for {RUNS} seeds with 20 of 40 general rows it drew {shown(question)} {times} times"
        expect(fair, f"{line}; each is to be as likely as the others")
