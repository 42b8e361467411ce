"""Checks of exercise 09: the loss of DPO, how likely a reply is, advantages, a prompt of use, a reward."""

from __future__ import annotations

import copy
import json
import math
import random
from collections.abc import Callable, Sequence
from functools import cache
from importlib.metadata import distribution
from itertools import product
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from exercises.checks import CheckFailed, ask, check, expect, lesson02, shown

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Messages = list[dict[str, str]]


def _number(found: Any, given: str) -> float:
    """What was returned, if it is a tensor of one number."""
    expect(isinstance(found, Tensor), f"for {given} it returned {shown(found)}; expected a tensor of one number")
    one = found.shape == ()
    expect(one, f"for {given} it returned a tensor of the shape {tuple(found.shape)}; expected a single number")
    return float(found)


def _learns(found: Tensor, of: Tensor, given: str) -> Tensor:
    """The gradient of what was returned for one of the inputs."""
    expect(found.requires_grad, f"for {given} the result has no gradient: nothing can be learned from it")
    [slope] = torch.autograd.grad(found, of, retain_graph=True, allow_unused=True)
    return torch.zeros_like(of) if slope is None else slope


# ── the loss of DPO ─────────────────────────────────────────────────────────────────────────────────────────────────

PAIRS = (  # chosen, rejected, the reference's two, beta, the loss
    (-12.0, -20.0, -14.0, -18.0, 0.1, 0.513015),
    (-20.0, -12.0, -18.0, -14.0, 0.1, 0.913015),
    (-12.0, -20.0, -14.0, -18.0, 0.5, 0.126928),
    (-30.5, -30.0, -31.0, -42.0, 0.1, 1.425081),
    (-8.0, -9.0, -8.0, -5.0, 0.25, 0.313262),
    (-40.0, -95.0, -44.0, -60.0, 0.05, 0.133021),
    (-7.0, -3.0, -3.0, -3.0, 1.0, 4.018150),
    (-3.0, -3.0, -3.0, -7.0, 2.0, 8.000335),
    (-15.0, -6.0, -6.0, -16.0, 0.3, 5.703340),
)
MOVED = (  # which of the four rises, in words, and what the loss must do
    ("the chosen reply becomes more likely", "fall"),
    ("the rejected reply becomes more likely", "rise"),
    ("the reference finds the chosen reply more likely", "rise"),
    ("the reference finds the rejected reply more likely", "fall"),
)


@check
def dpo_loss(attempt: Callable[..., Tensor]) -> None:
    """`dpo_loss(chosen, rejected, reference_chosen, reference_rejected, beta)`: ln 2 at the start, and a mean."""
    for chosen, rejected, beta in ((-12, -20, 0.1), (-20, -12, 0.1), (-5, -5, 0.5), (-90.5, -3, 2)):
        loss = _loss(attempt, [(chosen, rejected, chosen, rejected)], beta)
        given = f"chosen {chosen}, rejected {rejected}, the reference alike and beta={beta}"
        right = math.isclose(loss, math.log(2), rel_tol=1e-5)
        expect(right, f"for {given} nothing is learned yet: the loss is {loss:.4f}; expected ln 2, 0.6931")
    start = (-12.0, -20.0, -14.0, -18.0)
    for place, (what, must) in enumerate(MOVED):
        moved = tuple(value + (index == place) for index, value in enumerate(start))
        before, after = (_loss(attempt, [pair], 0.1) for pair in (start, moved))
        way = "fall" if after < before else "rise" if after > before else "stay"
        expect(way == must, f"where {what}, the loss must {must}; it went from {before:.4f} to {after:.4f}")
    for *pair, beta, wanted in PAIRS:
        loss = _loss(attempt, [tuple(pair)], beta)
        right = math.isclose(loss, wanted, rel_tol=1e-4)
        expect(right, f"for {_told([pair], beta)} the loss is {loss:.4f}; expected {wanted:.4f}")
    draw = random.Random(1)
    for size in (2, 3, 5, 8):
        pairs, beta = [tuple(draw.choice(PAIRS)[:4]) for _ in range(size)], draw.choice((0.1, 0.7))
        each = [_loss(attempt, [pair], beta) for pair in pairs]
        loss, wanted = _loss(attempt, pairs, beta), sum(each) / size
        right = math.isclose(loss, wanted, rel_tol=1e-4)
        losses = ", ".join(f"{value:.3f}" for value in each)
        expect(right, f"for {size} pairs whose losses are {losses} it returned {loss:.4f}; expected {wanted:.4f}")
    for chosen, rejected, beta, wanted in ((-900, -10, 1, 890), (-10, -900, 1, 0), (-9000, -10, 0.1, 899)):
        loss, margin = _loss(attempt, [(chosen, rejected, 0.0, 0.0)], beta), beta * (chosen - rejected)
        right = math.isclose(loss, wanted, rel_tol=1e-4, abs_tol=1e-6)
        line = f"for a margin of {margin:g} the loss is {loss:g}; expected {wanted}"
        expect(right, f"{line}. float32 holds neither exp nor sigmoid of such a number")
    _examine_push(attempt)


def _loss(attempt: Callable[..., Any], pairs: Sequence[Sequence[float]], beta: float) -> float:
    """The loss of these pairs."""
    tensors = [torch.tensor(column, dtype=torch.float32) for column in zip(*pairs, strict=True)]
    before, given = [tensor.clone() for tensor in tensors], _told(pairs, beta)
    loss = _number(ask(attempt, *tensors, beta, given=given), given)
    same = all(map(torch.equal, before, tensors))
    expect(same, f"for {given} it changes the tensors that it was given; make new ones")
    return loss


def _told(pairs: Sequence[Sequence[float]], beta: float) -> str:
    """A batch in words."""
    chosen, rejected, *reference = (shown([f"{value:g}" for value in column]) for column in zip(*pairs, strict=True))
    told = f"chosen {chosen}, rejected {rejected}, the reference's {' and '.join(reference)} and beta={beta:g}"
    return told.replace("'", "")


def _examine_push(attempt: Callable[..., Any]) -> None:
    """Expect that a step makes the chosen reply more likely and the rejected one less, and both equally hard."""
    for size, beta, margin, push in ((1, 0.1, 0, 0.05), (4, 0.1, 0, 0.0125), (1, 0.4, 0, 0.2), (1, 0.1, -900, 0.1)):
        chosen, rejected = (torch.full((size,), value).requires_grad_() for value in (-20.0 + margin / beta, -20.0))
        reference, given = torch.full((size,), -20.0), f"a batch of {size} with the margin {margin} and beta={beta}"
        loss = ask(attempt, chosen, rejected, reference, reference, beta, given=given)
        _number(loss, given)
        for what, of, wanted in (("chosen", chosen, -push), ("rejected", rejected, push)):
            slope = float(_learns(loss, of, given)[0])
            right = math.isclose(slope, wanted, rel_tol=1e-3)
            expect(right, f"for {given} the gradient of {what} is {slope:.4f}; expected {wanted:.4f}")


# ── how likely a reply is ───────────────────────────────────────────────────────────────────────────────────────────


@check
def log_probability(attempt: Callable[[Tensor, Tensor, int], Tensor]) -> None:
    """`log_probability(logits, ids, start)`: the reply's tokens, each by the scores that were there before it."""
    draw = torch.Generator().manual_seed(2)
    for tokens, vocabulary, start in ((4, 5, 2), (2, 3, 1), (5, 4, 1), (6, 6, 4), (7, 9, 6), (6, 8, 3), (5, 5, 2)):
        logits = 2 * torch.randn(tokens, vocabulary, generator=draw)
        ids = torch.randint(vocabulary, (tokens,), generator=draw)
        given = f"{tokens} tokens, a vocabulary of {vocabulary} and start={start}"
        before = logits.clone(), ids.clone()
        found, wanted = _reply(attempt, logits, ids, start, given), _as_transformers(logits, ids, start)
        same = torch.equal(before[0], logits) and torch.equal(before[1], ids)
        expect(same, f"for {given} it changes the tensors that it was given; make new ones")
        for place in range(tokens):
            other = logits.clone()
            other[place, ids[[place, min(place + 1, tokens - 1)]]] += 3
            moved = _reply(attempt, other, ids, start, given) != found
            counts = _as_transformers(other, ids, start) != wanted
            follows = f"for place {place + 1}" if place + 1 < tokens else "for what comes after the end"
            what = f"for {given} the scores at place {place}"
            expect(counts or not moved, f"{what} count; they are {follows}, which is not of the reply")
            expect(moved or not counts, f"{what} make no difference; they are {follows}, which is of the reply")
        for place in range(start):
            other = ids.clone()
            other[place] = (other[place] + 1) % vocabulary
            moved = _reply(attempt, logits, other, start, given) != found
            expect(not moved, f"for {given} the token at place {place} counts; it is one of the prompt")
        shifted = _reply(attempt, logits + 5, ids, start, given)
        line = f"for {given} it is {found:.4f}, and {shifted:.4f} where all scores are larger by 5"
        same = math.isclose(found, shifted, rel_tol=1e-3, abs_tol=1e-3)
        expect(same, f"{line}; that changes no probability")
        right = math.isclose(found, wanted, rel_tol=1e-4)
        expect(right, f"for {given} it returned {found:.4f}; expected {wanted:.4f}")
    _examine_ends(attempt)


def _reply(attempt: Callable[..., Any], logits: Tensor, ids: Tensor, start: int, given: str) -> float:
    """What was returned, as a number."""
    return _number(ask(attempt, logits, ids, start, given=given), given)


def _as_transformers(logits: Tensor, ids: Tensor, start: int) -> float:
    """The loss that transformers computes where the prompt is hidden, summed and turned round."""
    from transformers.loss.loss_utils import ForCausalLMLoss

    labels = ids.clone()
    labels[:start] = -100
    return -float(ForCausalLMLoss(logits[None], labels[None], logits.shape[-1], num_items_in_batch=1))


def _examine_ends(attempt: Callable[..., Any]) -> None:
    """An empty reply, a token that is hardly possible, and a gradient."""
    ids, logits = torch.tensor([0, 1, 0]), torch.tensor([[0.0, 0.0], [200.0, 0.0], [0.0, 200.0]])
    empty = _reply(attempt, logits, ids, 3, "3 tokens and start=3")
    expect(empty == 0, f"for 3 tokens and start=3 there is no reply, and it returned {empty:g}; expected 0")
    for start, other, wanted in ((2, [0, 1, 1], -200.0), (2, [0, 1, 0], 0.0), (1, [0, 0, 1], -200.693147)):
        given = f"the scores {logits.tolist()}, ids {other} and start={start}"
        found = _reply(attempt, logits, torch.tensor(other), start, given)
        right = math.isclose(found, wanted, rel_tol=1e-5, abs_tol=1e-5)
        expect(right, f"for {given} it returned {found:g}; expected {wanted:g}")
    logits.requires_grad_()
    given = "scores that need a gradient"
    found = ask(attempt, logits, ids, 1, given=given)
    _number(found, given)
    pushed = _learns(found, logits, given).abs().sum() > 0
    expect(bool(pushed), f"for {given} the scores get none: nothing can be learned")


# ── advantages ──────────────────────────────────────────────────────────────────────────────────────────────────────

GROUPS = (  # the rewards of a group, its advantages
    ((0.5, 0.5, 0.5, 0.5), (0, 0, 0, 0)),
    ((1, 0, 0, 1), (0.865875, -0.865875, -0.865875, 0.865875)),
    ((2, 1, 0, 0), (1.305446, 0.261089, -0.783268, -0.783268)),
    ((0, 0, 0, 1), (-0.499900, -0.499900, -0.499900, 1.499700)),
    ((1, 3), (-0.707057, 0.707057)),
    ((0, 0), (0, 0)),
    ((0, 0.0002), (-0.414214, 0.414214)),
    ((0.5, 0, 1), (0, -0.999800, 0.999800)),
    ((100, 100.5, 101), (-0.999800, 0, 0.999800)),
    ((-3, -3, -3), (0, 0, 0)),
    ((-1, 4, 4, 4, 9), (-1.414174, 0, 0, 0, 1.414174)),
)


@check
def advantages(attempt: Callable[[Tensor], Tensor]) -> None:
    """`advantages(rewards)`: how far above its own group's mean a reply is, in spreads of that group."""
    for group, wanted in GROUPS:
        _examine_advantages(attempt, [group], [wanted])
    draw = random.Random(3)
    for size in (2, 3, 4):
        alike = [case for case in GROUPS if len(case[0]) == size]
        for count in (2, size, 7):
            some = draw.choices(alike, k=count)
            _examine_advantages(attempt, [group for group, _ in some], [wanted for _, wanted in some])


def _examine_advantages(
    attempt: Callable[..., Any], groups: Sequence[Sequence[float]], wanted: Sequence[Sequence[float]]
) -> None:
    rewards, given = torch.tensor(groups, dtype=torch.float32), f"the rewards {shown([*map(list, groups)])}"
    before = rewards.clone()
    found = ask(attempt, rewards, given=given)
    expect(torch.equal(rewards, before), f"for {given} it changes the rewards that it was given; make a new tensor")
    expect(isinstance(found, Tensor), f"for {given} it returned {shown(found)}, which is no tensor")
    shape = tuple(found.shape)
    expect(shape == rewards.shape, f"for {given} it returned the shape {shape}; expected {tuple(rewards.shape)}")
    for group, mine, right in zip(groups, found.tolist(), wanted, strict=True):
        told = f"for {given} the group {list(group)} gets {shown([round(value, 6) for value in mine])}"
        expect(not any(map(math.isnan, mine)), f"{told}; what is its spread, and what do you divide by?")
        equal = {*group} != {group[0]} or max(map(abs, mine)) < 1e-3
        expect(equal, f"{told}; all of it earned the same, so there is nothing to learn")
        middle = sum(mine) / len(mine)
        expect(abs(middle) < 1e-3, f"{told}, whose mean is {middle:.3f}; it must be 0")
        if {*group} == {group[0]}:
            continue
        close = all(math.isclose(*pair, rel_tol=2e-5, abs_tol=1e-5) for pair in zip(mine, right, strict=True))
        expect(close, f"{told}; expected {shown([*right])}")


# ── where two prompts part ──────────────────────────────────────────────────────────────────────────────────────────

OPENED = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
PROMPTS = (
    ("user\nHi", "user Hi"),
    ("Hi", "Hi!"),
    ("Hi", "Hi"),
    ("Hi", "hi"),
    (OPENED, OPENED),
    (OPENED, OPENED.replace("user\n", "user")),
    (OPENED, f"{OPENED} "),
    (OPENED, OPENED.removesuffix("\n")),
    (OPENED, f"<|im_start|>system\nBe brief.<|im_end|>\n{OPENED}"),
    (OPENED, OPENED.upper()),
    (OPENED, OPENED.replace("\n", "\r\n")),
    (OPENED, OPENED.replace("Hi", "Hi ")),
    (OPENED, f" {OPENED}"),
    (OPENED, "x"),
    (OPENED, ""),
    ("", ""),
    ("ab\ncd", "ab\ncx"),
    ("重量是多少？", "重量是多少?"),
    ("aXbXc", "aYbYc"),
)


@check
def find_mismatch(attempt: Callable[[str, str], int | None]) -> None:
    """`find_mismatch(training_prompt, use_prompt)`: the first place at which they differ, or None."""
    draw = random.Random(4)
    drawn = (["".join(draw.choices("ab", k=draw.randint(0, 6))) for _ in range(2)] for _ in range(120))
    for pair in [*PROMPTS, *drawn]:
        for one, other in (pair, pair[::-1]):
            given = f"{shown(one)} and {shown(other)}"
            place = ask(attempt, one, other, given=given)
            if one == other:
                expect(place is None, f"for {given}, which are the same, it returned {shown(place)}; expected None")
                continue
            expect(type(place) is int, f"for {given} it returned {shown(place)}; they differ, so expected a place")
            inside = 0 <= place <= min(len(one), len(other))
            expect(inside, f"for {given} it returned {place}, and one of the two ends before that")
            alike = one[:place] == other[:place]
            expect(alike, f"for {given} it returned {place}, and they differ before that: {shown(one[:place])}")
            here = one[place : place + 1] != other[place : place + 1]
            expect(here, f"for {given} it returned {place}; there both have {shown(one[place : place + 1])}")


# ── find the bug ────────────────────────────────────────────────────────────────────────────────────────────────────


@cache
def tokenizer() -> PreTrainedTokenizerBase:
    """Qwen's tokenizer with the template of the lesson's model, Qwen2.5, as TRL ships it."""
    made = copy.copy(lesson02.tokenizer("qwen3-instruct-2507-tokenizer"))
    shipped = distribution("trl").locate_file("trl/chat_templates/qwen2_5.jinja")  # found without importing trl
    made.chat_template = shipped.read_text(encoding="utf-8")
    return made


def prompt_of_use(messages: Messages) -> str:
    """What a server with this template puts before the reply."""
    return str(tokenizer().apply_chat_template(messages, tokenize=False, add_generation_prompt=True))


def _message(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


ASKED = (
    [_message("user", "Which city?")],
    [_message("system", "Only JSON."), _message("user", "Which city?")],
    [_message("system", ""), _message("user", "Which city?")],
    [_message("user", "Which city?"), _message("assistant", "Lyon."), _message("user", "As JSON.")],
    [
        _message("system", "Only JSON."),
        _message("user", "Which city?"),
        _message("assistant", '{"city":"Lyon"}'),
        _message("user", "And the weight?"),
    ],
    [_message("user", "  two\n\nlines \n")],
    [_message("user", "重量是多少？只输出JSON。")],
    [_message("user", "")],
    [_message("user", "assistant\nsystem\nuser")],
    [_message("user", "Which city?"), _message("system", "Only JSON."), _message("user", "Now.")],
)
REPLIES = ('{"city":"Lyon"}', "Lyon", "  Lyon \n", "{\n  \n}\n\n", "重量是12公斤。", "")


@check
def mended(attempt: Callable[[Messages, str], tuple[str, str]]) -> None:
    """`mended(messages, reply)`: the prompt as it is in use, and a reply that ends."""
    for messages, reply in product(ASKED, REPLIES):
        given = f"the roles {', '.join(message['role'] for message in messages)} and the reply {shown(reply)}"
        mine = copy.deepcopy(messages)
        pair = ask(attempt, mine, reply, given=given)
        expect(mine == messages, f"for {given} it changes the messages that it was given")
        two = isinstance(pair, tuple) and len(pair) == 2 and all(isinstance(part, str) for part in pair)
        expect(two, f"for {given} it returned {shown(pair)}; expected a pair of texts, prompt and reply")
        _compare_prompts(pair[0], prompt_of_use(messages), given)
        learned = pair[1]
        expect(learned.startswith(reply), f"for {given} the reply to learn is {shown(learned)}; keep it as it is given")
        stop, tail = str(tokenizer().eos_token), learned[len(reply) :]
        expect(tail != "", f"for {given} nothing follows the reply, so the model never learns to stop")
        expect(tail == stop, f"for {given} {shown(tail)} follows the reply; expected {stop} and nothing else")


def _compare_prompts(found: str, wanted: str, given: str) -> None:
    """Say where a prompt leaves that of use."""
    if found == wanted:
        return
    place = max(size for size in range(len(wanted) + 1) if found.startswith(wanted[:size]))
    says, due = (text[place : place + 24] for text in (found, wanted))
    goes = f"goes on with {says!r}" if says else "ends"
    raise CheckFailed(
        f"for {given} the prompt is that of use up to {wanted[max(place - 20, 0) : place]!r} (place {place}) and then "
        f"{goes}; in use {f'{due!r} follows' if due else 'nothing follows'}"
    )


# ── a reward without a hole ─────────────────────────────────────────────────────────────────────────────────────────

DUE = '{"city": "Lyon", "weight": 12}'
ALONE, AMONG, NOTHING = 1, 0.5, 0
EARNED = (  # reply, reference, what it earns, why
    (DUE, DUE, ALONE, "it is the object and nothing else"),
    ('{"weight":12,"city":"Lyon"}', DUE, ALONE, "the order of the keys doesn't matter"),
    (f"\n {DUE}\n", DUE, ALONE, "white space costs nothing"),
    ('{\n  "city": "Ly\\u006fn",\n  "weight": 12\n}', DUE, ALONE, "it is the same object, written otherwise"),
    ("{}", "{}", ALONE, "the empty object is due here"),
    ('{"a": {"x": 1, "y": [2, 3]}}', '{"a": {"y": [2, 3], "x": 1}}', ALONE, "the order of inner keys doesn't matter"),
    ('{"ok": true, "no": null}', '{"no": null, "ok": true}', ALONE, "the order of the keys doesn't matter"),
    ('{"code": "a } b { c ["}', '{"code": "a } b { c ["}', ALONE, "a text of the object may hold braces"),
    ('{"编号": "重量"}', '{"编号": "重量"}', ALONE, "it is the object and nothing else"),
    (f"Sure! Here it is: {DUE}", DUE, AMONG, "words come before it"),
    (f"{DUE} MAX. 12 kg?", DUE, AMONG, "words come after it"),
    (f"{DUE}.", DUE, AMONG, "a full stop comes after it"),
    (f"```json\n{DUE}\n```", DUE, AMONG, "a fence counts as other words"),
    (f"XL parcel:\n```\n{DUE}\n```\nGood luck!", DUE, AMONG, "there are words around it"),
    ('Here: {"a": {"x": 1}, "b": {}} (two inner ones)', '{"a": {"x": 1}, "b": {}}', AMONG, "there are words around it"),
    ("Nothing found: {}", "{}", AMONG, "words come before it"),
    ("{}", DUE, NOTHING, "an empty object says nothing"),
    ("", DUE, NOTHING, "there is no object"),
    ("", "{}", NOTHING, "there is no object"),
    ("Lyon, 12", DUE, NOTHING, "there is no object"),
    ("}{", "{}", NOTHING, "there is no object"),
    ("null", DUE, NOTHING, "there is no object"),
    ('"city weight"', DUE, NOTHING, "there is no object"),
    ('{"city": "Lyon"}', DUE, NOTHING, "a key is missing"),
    ('{"city": "Lyon", "weight": 12, "sure": true}', DUE, NOTHING, "it has a key too many"),
    ('{"city": "Lyon", "weight": 12, "x": null}', DUE, NOTHING, "it has a key too many"),
    ('{"a": {"x": 1, "y": 2}}', '{"a": {"x": 1}}', NOTHING, "it has an inner key too many"),
    ('{"city": "Lyon", "weight": "12"}', DUE, NOTHING, 'the text "12" is not the number 12'),
    ('{"city": "Lyon", "weight": 13}', DUE, NOTHING, "a value is wrong"),
    ('{"city": "lyon", "weight": 12}', DUE, NOTHING, "a value is wrong"),
    ('{"city": "Lyon ", "weight": 12}', DUE, NOTHING, "a value is wrong"),
    ('{"City": "Lyon", "weight": 12}', DUE, NOTHING, "a key is wrong"),
    ('{"city": 12, "weight": "Lyon"}', DUE, NOTHING, "the values are mixed up"),
    ('{"n": true}', '{"n": 1}', NOTHING, "true is not the number 1"),
    ('{"n": 0}', '{"n": false}', NOTHING, "the number 0 is not false"),
    ('{"n": [true]}', '{"n": [1]}', NOTHING, "true is not the number 1, not in a list either"),
    ('{"n": ""}', '{"n": null}', NOTHING, "an empty text is not null"),
    ('{"n": [3, 2]}', '{"n": [2, 3]}', NOTHING, "in a list the order matters"),
    ('{"n": [2, 2]}', '{"n": [2]}', NOTHING, "the list has one item too many"),
    (f"{DUE} {DUE}", DUE, NOTHING, "there are two objects"),
    (f'{DUE}\n{{"city": "Paris", "weight": 12}}', DUE, NOTHING, "there are two objects, one for each case"),
    (f'{{"city": "Paris", "weight": 12}} or {DUE}', DUE, NOTHING, "there are two objects, one for each case"),
    (f"{{}} {DUE}", DUE, NOTHING, "there are two objects"),
    (f'{DUE} or {{"city": "Pa', DUE, NOTHING, "a second object begins"),
    (f'"Paris"}} {DUE}', DUE, NOTHING, "there is a brace in the words around it"),
    (f"[{DUE}]", DUE, NOTHING, "it is a list, and a list is no object"),
    (f"Here: [{DUE}]", DUE, NOTHING, "it is a list among words"),
    (f"[1, 2] {DUE}", DUE, NOTHING, "there is a bracket in the words around it"),
    (f"{DUE}, 13]", DUE, NOTHING, "there is a bracket in the words around it"),
    (f'{{"answer": {DUE}}}', DUE, NOTHING, "the object lies inside of another one"),
    ('{"city": "Paris", "city": "Lyon", "weight": 12}', DUE, NOTHING, "a key is there twice, once for each case"),
    ('{"city": "Lyon", "city": "Paris", "weight": 12}', DUE, NOTHING, "a key is there twice, once for each case"),
    ('{"city": "Lyon", "city": "Lyon", "weight": 12}', DUE, NOTHING, "a key is there twice"),
    ('{"a": {"x": 2, "x": 1}}', '{"a": {"x": 1}}', NOTHING, "an inner key is there twice"),
    ('{"a": [{"x": 2, "x": 1}]}', '{"a": [{"x": 1}]}', NOTHING, "an inner key is there twice"),
    ('Here: {"x": 2, "x": 1}', '{"x": 1}', NOTHING, "a key is there twice"),
    ('{"n": NaN}', '{"n": null}', NOTHING, "NaN is not JSON"),
    ('{"n": NaN}', '{"n": "NaN"}', NOTHING, "NaN is not JSON"),
    ('{"n": Infinity}', '{"n": 1}', NOTHING, "Infinity is not JSON"),
    ("{'city': 'Lyon', 'weight': 12}", DUE, NOTHING, "that is Python, not JSON"),
    ('{"city": "Lyon", "weight": 12,}', DUE, NOTHING, "a comma before the brace is not JSON"),
    ('{"city": "Lyon", "weight": 12', DUE, NOTHING, "its end is missing"),
    (DUE.replace('"', '\\"'), DUE, NOTHING, "that is not JSON"),
    ('{"a":' * 9999, DUE, NOTHING, "that is not JSON"),
    ('{"a":' * 9999 + "1" + "}" * 9999, DUE, NOTHING, "that is another object, and a very deep one"),
    (f'{{"weight": {"9" * 5000}}}', DUE, NOTHING, "a value is wrong"),
)
VALUES = (0, 1, 12, "12", "Lyon", "", True, False, None, [1, 2], [], {"x": 1}, "a } b")


@check
def reward(attempt: Callable[[str, str], float]) -> None:
    """`reward(reply, reference)`: 1, a half or nothing, whatever a model thinks of."""
    for case in EARNED:
        _examine_reward(attempt, *case)
    draw = random.Random(5)
    for _ in range(60):
        pairs = [*zip(draw.sample("abcdef", 3), draw.sample(VALUES, 3), strict=True)]
        key, value = pairs[0]
        reference, mixed = json.dumps(dict(pairs)), json.dumps(dict(draw.sample(pairs, 3)))
        _examine_reward(attempt, mixed, reference, ALONE, "the order of the keys doesn't matter")
        _examine_reward(attempt, f"Well: {mixed}!", reference, AMONG, "there are words around it")
        for spoilt, why in (
            (json.dumps(dict(pairs[:2])), "a key is missing"),
            (json.dumps(dict([*pairs, ("g", value)])), "it has a key too many"),
            (json.dumps(dict([*pairs[1:], (key, [value])])), "a value is wrong"),
            (f'{{"{key}": 5, {mixed[1:]}', "a key is there twice"),
            (f"{mixed}{mixed}", "there are two objects"),
            (f"[{mixed}]", "it is a list, and a list is no object"),
        ):
            _examine_reward(attempt, spoilt, reference, NOTHING, why)


def _examine_reward(attempt: Callable[..., Any], reply: str, reference: str, wanted: float, why: str) -> None:
    given = f"the reply {shown(reply)} where {shown(reference)} is due"
    found = ask(attempt, reply, reference, given=given)
    number = isinstance(found, int | float) and not isinstance(found, bool)
    expect(number, f"for {given} it returned {shown(found)}, which is no number")
    expect(found == wanted, f"for {given} it pays {found:g}; expected {wanted:g}, because {why}")
