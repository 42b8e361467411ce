"""Checks of exercise 05: perplexity, a batch for generation, metrics of replies, limits, intervals."""

from __future__ import annotations

import copy
import math
import random
import re
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from course_utils import metrics, thinking
from exercises.checks import ask, check, expect, expect_error, shown

if TYPE_CHECKING:
    from peft import PeftModel
    from torch import Tensor

Batch = tuple[list[list[float]], list[list[int]]]
Pad = dict[str, list[list[int]]]


def _number(found: Any, given: str) -> float:
    """What was returned, if it is a number."""
    expect(isinstance(found, (int, float)), f"for {given} it returned {shown(found)}, which is no number")
    return float(found)


# ── perplexity ──────────────────────────────────────────────────────────────────────────────────────────────────────


@check
def perplexity(attempt: Callable[[list[Batch]], float]) -> None:
    """`perplexity(batches)`: one figure over the learned tokens of all batches."""
    example = ask(attempt, [([[math.log(2), math.log(4), math.log(8)]], [[1, 1, 1]])])
    close = math.isclose(_number(example, "the example"), 4)
    expect(close, f"for the NLLs log 2, log 4, log 8, all learned, it returned {shown(example)}; expected 4")
    sure = ask(attempt, [([[0.0, 0.0]], [[1, 1]])])
    expect(
        sure == 1, f"for two learned tokens with the NLL 0 it returned {shown(sure)}; certainty is a perplexity of 1"
    )
    draw = random.Random(5)
    for prompt in (0.0, 9.0, math.nan, math.inf):
        rows = [[draw.uniform(0.05, 1) for _ in range(draw.randint(1, 9))] for _ in range(6)]
        # For tokens of the probabilities p the perplexity is the geometric mean of 1 / p.
        wanted = statistics.geometric_mean(1 / p for row in rows for p in row)
        found = {}
        for size in (1, 2, 4, 6):
            given = f"six rows in batches of {size}, with {prompt} at places that are not learned"
            batches = [_batch(rows[start : start + size], prompt) for start in range(0, 6, size)]
            found[size] = _number(ask(attempt, batches, given=given), given)
        given = f"six rows with {prompt} at places that are not learned"
        low, high = min(found, key=found.__getitem__), max(found, key=found.__getitem__)
        expect(
            math.isclose(found[low], found[high], rel_tol=1e-9) or not math.isfinite(found[low]),
            f"for {given} it returned {found[low]:.4f} in batches of {low} and {found[high]:.4f} in batches of {high}",
        )
        expect(
            math.isclose(found[1], wanted, rel_tol=1e-9),
            f"for {given} it returned {found[1]:.4f}; expected {wanted:.4f}",
        )
    for batches in ([], [([[1.0, 2.0]], [[0, 0]])]):
        expect_error(attempt, batches, kind=ValueError, why="no token is learned")


def _batch(rows: Sequence[Sequence[float]], other: float) -> Batch:
    """Rows of probabilities as NLLs: one place before each that is not learned, and filled up to one length."""
    width = max(map(len, rows))
    nll = [[other, *(-math.log(p) for p in row), *[other] * (width - len(row))] for row in rows]
    return nll, [[0, *[1] * len(row), *[0] * (width - len(row))] for row in rows]


# ── a batch for generation ──────────────────────────────────────────────────────────────────────────────────────────


@check
def pad_left(attempt: Callable[[list[list[int]], int], Pad]) -> None:
    """`pad_left(rows, pad)`: padding before the ids, unseen, and positions that do not count it."""
    for rows, pad in (
        ([[5, 6, 7], [8]], 0),
        ([[8], [5, 6, 7]], 0),
        ([[2, 5, 2, 2], [2], [9, 2]], 2),
        ([[4, 4], [3, 1]], 4),
        ([[7]], 0),
    ):
        before = copy.deepcopy(rows)
        batch = ask(attempt, rows, pad)
        expect(rows == before, "it changes the rows that it was given; make new lists")
        keys = ("input_ids", "attention_mask", "position_ids")
        whole = isinstance(batch, Mapping) and all(len(batch.get(key, ())) == len(rows) for key in keys)
        expect(whole, f"it returned {shown(batch)}; expected {', '.join(keys)} with a row for each row")
        width = max(map(len, rows))
        for number, row in enumerate(rows):
            where = f"row {number} of {rows} with the pad id {pad}"
            made = {key: list(batch[key][number]) for key in keys}
            for key, values in made.items():
                expect(len(values) == width, f"in {where} {key} has {len(values)} places; the longest row has {width}")
            gap = width - len(row)
            behind = made["input_ids"][gap:]
            expect(behind == row, f"in {where} the last {len(row)} ids are {behind}; the model writes behind the last")
            expect({*made["input_ids"][:gap]} <= {pad}, f"in {where} the padding holds {made['input_ids'][:gap]}")
            mask = made["attention_mask"]
            expect(not any(mask[:gap]), f"in {where} the attention mask is {mask}: padding is seen")
            hidden = [place for place in range(gap, width) if mask[place] != 1]
            expect(not hidden, f"in {where} the attention mask is {mask}: place {hidden[:1]} is an id of the row")
            places = made["position_ids"]
            told = f"in {where} the positions are {places}"
            expect(places[gap:] == [*range(len(row))], f"{told}; each row counts its own ids from 0")
            expect(not any(places[:gap]), f"{told}; padding has 0")


# ── valid JSON ──────────────────────────────────────────────────────────────────────────────────────────────────────

REPLIES = (
    '{"a":1}',
    ' \n{"a": [1, 2], "b": null}\n',
    "{}",
    '```json\n{"a":1}\n```',
    '```\n{"a":1}\n```',
    ' ```json\n{"a":1}\n```\n',
    None,
    "",
    '{"a":NaN}',
    '{"a":[-Infinity]}',
    '```json\n{"a":Infinity}\n```',
    '{"a":1',
    'Here: {"a":1}',
    'Here: ```json\n{"a":1}\n```',
    '{"a":1} {"b":2}',
    "[1, 2]",
    '"Oslo"',
    "5",
    "null",
    "```json\n[1]\n```",
    "{'a': 1}",
    '{"a":"NaN"}',
)


@check
def json_rates(attempt: Callable[[list[str | None]], tuple[float, float]]) -> None:
    """`json_rates(replies)`: strict and lenient, of all prompts."""
    found = [_rates(attempt, [reply]) for reply in REPLIES]
    wanted = [_objects(reply) for reply in REPLIES]
    for reply, rates, right in zip(REPLIES, found, wanted, strict=True):
        for name, rate, valid in zip(("strict", "lenient"), rates, right, strict=True):
            said = "a hit" if valid else "a miss"
            expect(rate == valid, f"the reply {shown(reply)} alone has the {name} rate {rate}; it is {said}")
    draw = random.Random(6)
    for _ in range(20):
        picked = draw.choices(range(len(REPLIES)), k=draw.randint(2, 12))
        replies = [REPLIES[number] for number in picked]
        rates = _rates(attempt, replies)
        for place, name in enumerate(("strict", "lenient")):
            hits = sum(wanted[number][place] for number in picked)
            expect(
                math.isclose(rates[place], hits / len(picked)),
                f"{hits} of {len(picked)} are valid, {name}, and the rate is {rates[place]:.3f}: {str(replies)[:300]}",
            )


def _rates(attempt: Callable[..., Any], replies: list[str | None]) -> tuple[float, float]:
    found = ask(attempt, replies)
    pair = isinstance(found, tuple) and len(found) == 2
    expect(pair, f"for {shown(replies)} it returned {shown(found)}; expected the pair (strict, lenient)")
    return found


def _objects(reply: str | None) -> tuple[bool, bool]:
    """Whether a reply is an object: strict, lenient."""
    values = (metrics.parse_json(reply or "", lenient=lenient) for lenient in (False, True))
    strict, lenient = (isinstance(value, dict) for value in values)
    return strict, lenient


# ── loops ───────────────────────────────────────────────────────────────────────────────────────────────────────────


LOOP = re.compile(r"(?=\S)(.{4,80}?)\1{3,}", re.DOTALL)


@check
def find_loop(attempt: Callable[[str], tuple[str, int] | None]) -> None:
    """`find_loop(text)`: the first piece that stands four times in a row, and how often."""
    draw = random.Random(7)
    words = [draw.choice("abcdefgh") + draw.choice("ijklmnop") for _ in range(60)]
    long = "".join(words)  # hardly repeats anything by itself
    fixed = [
        "So: I see. I see. I see. I see. I see.",
        "ha ha ha ha",
        "",
        "one",
        "abcd" * 4,
        "abcd" * 3,
        "abcd" * 3 + "abc",
        "abc" * 4,
        "abc" * 8,
        "abcd" * 9 + "!",
        "-" * 15,
        "-" * 16,
        "x" + "-" * 21,
        " " * 40,
        "\n- yes" * 5,
        "first " * 4 + "second " * 9,
        long[:79] * 4,
        long[:80] * 4,
        long[:81] * 4,
        long[:80] * 3,
        long + "好的，没问题。" * 6,
        "no no no, I said no and no and no and no",
    ]
    drawn = ["".join(draw.choices(["ab", "cd", " ", "abcd", "\n"], k=draw.randint(8, 40))) for _ in range(150)]
    for text in fixed + drawn:
        found = ask(attempt, text, given=shown(text))
        loop = LOOP.search(text)
        if loop is None:
            expect(found is None, f"for {shown(text)} it returned {shown(found)}; there is no loop in it")
            continue
        expect(found is not None, f"for {shown(text)} it found no loop; {shown(loop[1])} stands there again and again")
        pair = isinstance(found, tuple) and len(found) == 2
        expect(pair, f"for {shown(text)} it returned {shown(found)}; expected the pair (piece, times)")
        wanted = (loop[1], len(loop[0]) // len(loop[1]))
        piece, times = found
        expect(piece == wanted[0], f"for {shown(text)} the piece is {shown(piece)}; expected {shown(wanted[0])}")
        expect(times == wanted[1], f"for {shown(text)} {shown(piece)} is counted {times} times; it stands {wanted[1]}")


# ── entities ────────────────────────────────────────────────────────────────────────────────────────────────────────

ENTITIES = (  # reply, reference
    ('{"city":["Oslo"]}', '{"city":["Oslo"]}'),
    ("Rome", '{"city":["Rome"]}'),
    ('{"city":["Oslo","Oslo"]}', '{"city":["Oslo"]}'),
    ('{"name":["Lin"],"city":["Bern"]}', '{"name":["Lin"],"company":["Bern"]}'),
    ('{"city":["Oslo"]}', '{"city":["Oslo","Rome"],"name":["Bo"]}'),
    ('{"city":["Oslo","Rome"]}', '{"city":["Rome"]}'),
    ('{"city":"Oslo"}', '{"city":["Oslo"]}'),
    ('{"city":3}', '{"city":["Oslo"]}'),
    ('["Oslo"]', '{"city":["Oslo"]}'),
    ('{"city":["oslo"]}', '{"city":["Oslo"]}'),
    ('{"city":["Oslo"]}', "{}"),
    ("{}", "{}"),
    ("", '{"name":["Lin","Bo"]}'),
)


@check
def entity_f1(attempt: Callable[[list[str], list[str]], float]) -> None:
    """`entity_f1(replies, references)`: one F1 over the pairs of all rows."""
    draw = random.Random(8)
    several = [draw.choices(ENTITIES, k=count) for count in (2, 3, 9) for _ in range(10)]
    for rows in [*([row] for row in ENTITIES), *several, []]:
        replies, references = [row[0] for row in rows], [row[1] for row in rows]
        given = f"the replies {shown(replies)} with the references {shown(references)}"
        found = _number(ask(attempt, list(replies), list(references)), given)
        counts = [metrics.entity_counts(*row) for row in rows]
        pairs = sum(each.found + each.due for each in counts)
        wanted = 2 * sum(each.right for each in counts) / max(pairs, 1)
        expect(math.isclose(found, wanted), f"for {given} it returned {found:.3f}; expected {wanted:.3f}")


# ── find the bug ────────────────────────────────────────────────────────────────────────────────────────────────────

OUTPUTS = (  # what is in it, output, right number
    ("a whole thought", "<think>Half of 16.</think>It is 8.0.", "8"),
    ("a thought that was cut off", "<think>3 and 4 makes 7, so the answer could be 7", "7"),
    ("no number", "I cannot say.", "12"),
    ("nothing", "", "12"),
    ("no thinking", "4 and 5 is 9", "9"),
    ("a closer in the answer", "Add them up.</think>20 </think>", "20"),
    ("a closer in the answer", "<think>Hm.</think>20 </think>21", "20"),
    ("a number in the thought only", "<think>It is 12.</think>I cannot say.", "12"),
    ("a number behind the thought", "<think>It is 12.</think>13", "12"),
    ("an opener in the answer", "<think>Hm.</think>6 <think>", "6"),
    ("a fraction", "It is 2/6 of it", "1/3"),
    ("a fraction with blanks", "It is 2 / 6", "1/3"),
    ("a decimal that is not the fraction", "0.3333333333333333", "1/3"),
    ("commas", "1,200", "1200"),
    ("a number after the answer", "80 dollars for 4 days", "80"),
    ("a negative number", "It falls to -5 degrees", "-5"),
    ("no number, though it looks like one", "5/0", "5"),
    ("thinking opened by the prompt", "It is 7.</think>8", "8"),
    ("a bare number with white space around it", " 7\n", "7"),
    ("a bare number that is wrong", "6", "7"),
    ("two numbers", "7 and 7", "7"),
)


@check
def accuracy(attempt: Callable[[list[str], list[str]], tuple[float, float]]) -> None:
    """`accuracy(outputs, references)`: right answers of all outputs, as asked and reached, thinking taken off."""
    hits = []
    for what, output, right in OUTPUTS:
        answer = thinking.parse_text(output).answer or ""
        hits.append((metrics.bare_answer(answer, right), metrics.same_answer(answer, right)))
        found = _shares(ask(attempt, [output], [right]), shown(output))
        said = f"as asked {'right' if hits[-1][0] else 'a miss'}, and {'' if hits[-1][1] else 'not '}reached"
        expect(
            found == hits[-1],
            f"{what}: {output!r}, of which {right} is right, alone has the shares {found}; it is {said}",
        )
    draw = random.Random(9)
    for _ in range(20):
        picked = draw.choices(range(len(OUTPUTS)), k=draw.randint(2, 9))
        outputs, rights = [OUTPUTS[number][1] for number in picked], [OUTPUTS[number][2] for number in picked]
        shares = _shares(ask(attempt, outputs, rights), shown(outputs))
        for name, found, wanted in zip(("asked", "reached"), shares, _sums(hits[n] for n in picked), strict=True):
            expect(
                math.isclose(found, wanted / len(picked)),
                f"{name}: {wanted} of {len(picked)}, and the share is {found:.3f}: {str(outputs)[:300]}",
            )


def _shares(found: Any, given: str) -> tuple[float, float]:
    """What was returned, if it is a pair of numbers."""
    pair = isinstance(found, tuple) and len(found) == 2
    expect(pair, f"for {given} it returned {shown(found)}; expected the pair (asked, reached)")
    return _number(found[0], given), _number(found[1], given)


def _sums(pairs: Iterable[tuple[int, int]]) -> tuple[int, int]:
    asked, reached = zip(*pairs, strict=True)
    return sum(asked), sum(reached)


# ── a limit that flatters ───────────────────────────────────────────────────────────────────────────────────────────

STOP, PADDING = "¶", "·"
SUMS = (  # asked, right, what the base says, what the adapter says
    ("3+4=", "7", "3 and 4 more make 7", "7"),
    ("8+5=", "13", "2 of the 5 fill up to 10, so 13", "12"),
    ("6+9=", "15", "4 of the 9 fill up to 10, so 15", "17"),
    ("2+6=", "8", "6 and 2 more make 8", "8"),
    ("7+7=", "14", "twice 7 is 14", "13"),
)
OTHERS = (  # for the check: one that the base never ends, and one that is longer with the adapter
    ("9+9=", "18", "hm " * 16, "18"),
    ("1+1=", "2", "2", "one and one are 2"),
)
START = f"sum{STOP}"  # a turn that is over, before the question
CHARACTERS = sorted({*START, *PADDING, *"".join(text for row in (*SUMS, *OTHERS) for text in row)})


def written(ids: Sequence[int]) -> str:
    """What the small model reads or writes, a character for each id."""
    return "".join(CHARACTERS[number] for number in ids)


def _ids(text: str) -> list[int]:
    return [CHARACTERS.index(character) for character in text]


@cache
def _trained() -> PeftModel:
    """A tiny Llama that has the sums by heart as the base says them, and an adapter that has them as it says them."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 1, "num_attention_heads": 4}
    ends = {"bos_token_id": None, "eos_token_id": _ids(STOP)[0], "pad_token_id": _ids(PADDING)[0]}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        model = LlamaForCausalLM(LlamaConfig(vocab_size=len(CHARACTERS), **shape, **ends))
        _learn(model, 2, 3e-3)
        model = get_peft_model(model, LoraConfig(r=8, lora_alpha=16, target_modules="all-linear"))
        _learn(model, 3, 5e-3)
    with torch.no_grad():
        model.get_base_model().model.norm.weight.mul_(0.2)  # the best token stays the best; who samples goes astray
    model.generation_config.do_sample = True  # as Qwen's own settings have it
    return model.eval()


def _learn(model: Any, said: int, rate: float) -> None:
    """Train the weights that can be trained on the sums and the replies of that column, until they are known."""
    import torch

    ends = {row: "" if row[said].endswith(" ") else STOP for row in (*SUMS, *OTHERS)}
    texts = [f"{row[0]}{row[said]}{end}" for row, end in ends.items()]
    ids = torch.tensor([_ids(START + text.ljust(max(map(len, texts)), PADDING)) for text in texts])
    labels = ids.masked_fill(ids == _ids(PADDING)[0], -100)
    labels[:, : len(START) + 4] = -100
    adam = torch.optim.AdamW([each for each in model.parameters() if each.requires_grad], lr=rate, weight_decay=0)
    for _ in range(400):
        adam.zero_grad()
        loss = model(input_ids=ids, labels=labels).loss
        loss.backward()
        adam.step()
        if loss.item() < 0.02:
            return


def small_model(sums: Sequence[Sequence[str]] = SUMS) -> tuple[PeftModel, Tensor, int]:
    """A tiny model with an adapter on it, the prompts of some sums as ids, and the id that ends a reply.

    Args:
        sums: rows of `SUMS` or `OTHERS`.
    """
    import torch

    return copy.deepcopy(_trained()), torch.tensor([_ids(START + row[0]) for row in sums]), _ids(STOP)[0]


@cache
def _lengths() -> dict[str, tuple[int, int]]:
    """For each sum the tokens of its greedy reply before and after, its end included; 99 where it comes to none."""
    import torch

    rows = (*SUMS, *OTHERS)
    model, asked, stop = small_model(rows)

    def lengths() -> list[int]:
        ids = asked
        for _ in range(48):
            ids = torch.cat([ids, model(input_ids=ids).logits[:, -1:].argmax(-1)], dim=1)
        replies = ids[:, asked.shape[1] :].tolist()
        return [reply.index(stop) + 1 if stop in reply else 99 for reply in replies]

    with torch.no_grad(), model.disable_adapter():
        before = lengths()
    with torch.no_grad():
        after = lengths()
    return {row[0]: pair for row, pair in zip(rows, zip(before, after, strict=True), strict=True)}


@check
def fair_limit(attempt: Callable[..., tuple[dict[int, tuple[int, int]], int | None]]) -> None:
    """`fair_limit(model, ids, stop, limits)`: how many replies end under each limit, and which one cuts nothing off."""
    import torch

    longest = max(_lengths()[row[0]][0] for row in SUMS)
    for sums, limits in (
        (SUMS, [4, 40]),
        (SUMS[::-1], [longest, longest - 1, 3, 44, 2]),
        (SUMS[3:], [1, 5, 12]),
        ((*SUMS[:2], OTHERS[0]), [40, 4]),
        ((SUMS[4], OTHERS[1]), [16, 14, 24]),
    ):
        pairs = [_lengths()[row[0]] for row in sums]
        given = f"replies of {', '.join(f'{old} and {new}' for old, new in pairs)} tokens and the limits {limits}"
        given = given.replace("99 ", "endless ")
        model, ids, stop = small_model(sums)
        with torch.no_grad():
            logits = model(input_ids=ids).logits
        rows: list[int] = []
        hook = model.get_base_model().register_forward_hook(lambda *each, rows=rows: rows.append(len(each[2].logits)))
        found = ask(attempt, model, ids, stop, list(limits), given=given)
        hook.remove()
        two = isinstance(found, tuple) and len(found) == 2 and isinstance(found[0], Mapping)
        expect(two, f"for {given} it returned {shown(found)}; expected the pair (ended, fair), ended being a dict")
        ended, fair = found
        expect({*ended} == {*limits}, f"for {given} ended has the keys {shown([*ended])}; expected the limits")
        wanted = {most: tuple(sum(pair[side] <= most for pair in pairs) for side in (0, 1)) for most in limits}
        for most in limits:
            expect(
                ended[most] == wanted[most],
                f"for {given}, under {most} it says {shown(ended[most])}; expected (before, after) {wanted[most]}",
            )
        whole = [most for most in limits if wanted[most] == (len(ids), len(ids))]
        right = min(whole, default=None)
        expect(
            fair == right,
            f"for {given} the fair limit is {shown(fair)}; expected {right}, for under each there end {wanted}",
        )
        due = sum(len(ids) * max(min(pair[side], max(limits)) for pair in pairs) for side in (0, 1))
        expect(
            sum(rows) <= due + len(ids),
            f"for {given} the model computes {sum(rows)} tokens, and {due} are enough: what it says is known by then",
        )
        with torch.no_grad():
            same = torch.equal(model(input_ids=ids).logits, logits)
        expect(same, "afterwards the model gives other logits than before: leave it as it was, adapter on")


# ── a paired interval ───────────────────────────────────────────────────────────────────────────────────────────────


@check
def paired_interval(attempt: Callable[..., tuple[float, float]]) -> None:
    """`paired_interval(before, after, draws)`: the change of a ratio over the same prompts each time."""
    even = [(2.0, 1), (30.0, 10), (4.5, 3), (64.0, 16), (9.5, 5), (21.0, 7)]
    uneven = [(1.5, 1), (31.0, 10), (3.5, 3), (50.0, 16), (9.0, 5), (20.5, 7)]
    answered = [(3.0, 2), (28.0, 9), (4.0, 3), (60.0, 15), (9.5, 6), (20.0, 8)]
    lower = [(top - 0.5 * bottom, bottom) for top, bottom in even]
    draw = random.Random(11)
    misses, hits = [(0, 1)] * 5 + [(1, 1)], [(1, 1)] * 4 + [(0, 1), (1, 1)]
    for what, before, after in (
        ("nothing has changed", even, even),
        ("each NLL has fallen by 0.5", even, lower),
        ("some NLLs have fallen", even, uneven),
        ("some NLLs have risen", uneven, even),
        ("tops and bottoms have changed", even, answered),
        ("hits and misses", misses, hits),
    ):
        given = f"a case where {what}"
        draws = [draw.choices(range(len(before)), k=len(before)) for _ in range(2000)]
        found = ask(attempt, list(before), list(after), [list(each) for each in draws], given=given)
        pair = isinstance(found, tuple) and len(found) == 2
        expect(pair, f"for {given} it returned {shown(found)}; expected the pair (low, high)")
        low, high = found
        lowest, highest = _interval_of_the_change(before, after, draws)
        expect(
            math.isclose(low, lowest, abs_tol=1e-9) and math.isclose(high, highest, abs_tol=1e-9),
            f"for {given} it returned {low:.4f} to {high:.4f}; expected {lowest:.4f} to {highest:.4f}",
        )


def _interval_of_the_change(before: Sequence[Any], after: Sequence[Any], draws: list[list[int]]) -> tuple[float, float]:
    """The middle 95 % of the change over the same prompts in each draw."""
    import numpy as np

    old, new = (np.asarray(parts)[np.asarray(draws)].sum(1) for parts in (before, after))  # (draws, top and bottom)
    low, high = np.quantile(new[:, 0] / new[:, 1] - old[:, 0] / old[:, 1], [0.025, 0.975])
    return float(low), float(high)
