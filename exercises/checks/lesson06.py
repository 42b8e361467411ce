"""Checks of exercise 06: merging, what a folder lacks, near-ties, what an adapter does, load reports."""

from __future__ import annotations

import json
import math
import random
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from course_utils import export, generation
from exercises.checks import ask, check, expect, expect_error, shown
from notebooks.load_test import percentile

if TYPE_CHECKING:
    from peft import PeftModel
    from torch import Tensor

Tensors = dict[str, torch.Tensor]
Small = tuple[Tensors, Tensors, dict[str, Any]]


# ── one layer ───────────────────────────────────────────────────────────────────────────────────────────────────────


@check
def merge(attempt: Callable[..., Tensor]) -> None:
    """`merge(W, A, B, alpha)`: W plus the scaled product, rounded once."""
    seeded = torch.Generator().manual_seed(6)
    example = [[[1.0, 0], [0, 1]], [[1.0, 2]], [[0.0], [3]]]
    cases = [(*map(torch.tensor, example), 2)]
    for outputs, inputs, rank, alpha in ((5, 3, 2, 2), (3, 5, 2, 4), (4, 4, 4, 8), (6, 4, 1, 16), (3, 3, 3, 1)):
        shapes = ((outputs, inputs), (rank, inputs), (outputs, rank))
        cases.append((*(torch.randn(shape, generator=seeded) for shape in shapes), alpha))
    for W, A, B, alpha in cases:
        given = f"W {list(W.shape)}, A {list(A.shape)}, B {list(B.shape)}, alpha {alpha}"
        merged = _merged(attempt, (W, A, B, alpha), given)
        # Merged, the layer must give what the mounted adapter gives, which is added behind the layer.
        x = torch.randn(len(A[0]), generator=seeded)
        mounted = W @ x + alpha * (B @ (A @ x)) / len(A)
        expect(
            torch.allclose(merged @ x, mounted, atol=1e-4),
            f"for {given} the merged layer gives {_short(merged @ x)}; mounted it gives {_short(mounted)}",
        )
    # 1 + 2**-8 lies half-way between two numbers of bfloat16. What is beyond decides; it is lost where the delta is
    # rounded by itself.
    half, beyond = 2.0**-8, 1 + 2.0**-9
    W, A, B = torch.ones(1, 1, dtype=torch.bfloat16), torch.full((1, 1), beyond), torch.full((1, 1), half)
    given = f"W 1.0 in bfloat16, A {beyond} and B {half} in float32, alpha 1"
    found = float(_merged(attempt, (W, A, B, 1), given))
    expect(found == 1 + 2 * half, f"for {given} it returned {found}; rounded once, at the end, it is {1 + 2 * half}")


def _merged(attempt: Callable[..., Any], arguments: tuple[Any, ...], given: str) -> Tensor:
    """What was returned, if it is a matrix like W; the arguments must be what they were."""
    W = arguments[0]
    before = [each.clone() for each in arguments[:3]]
    found = ask(attempt, *arguments, given=given)
    same = all(torch.equal(old, new) for old, new in zip(before, arguments[:3], strict=True))
    expect(same, f"for {given} it changes what it was given; make a new tensor")
    expect(isinstance(found, torch.Tensor), f"for {given} it returned {shown(found)}, which is no tensor")
    expect(found.shape == W.shape, f"for {given} the result has the shape {list(found.shape)}")
    expect(found.dtype == W.dtype, f"for {given} the result is {found.dtype}; W is {W.dtype}")
    return found


# ── files ───────────────────────────────────────────────────────────────────────────────────────────────────────────

ONE, INDEX = "model.safetensors", "model.safetensors.index.json"
PARTS = tuple(f"model-{number:05}-of-00003.safetensors" for number in (1, 2, 3))


@check
def missing(attempt: Callable[[Path], list[str]]) -> None:
    """`missing(folder)`: which files a merged folder lacks."""
    full = export.FULL
    cases = [  # what is there, what is missing
        ([*full, ONE], []),
        ([*full, ONE, "README.md", "merges.txt"], []),
        *(([*(other for other in full if other != name), ONE], [name]) for name in full),
        ([*full], [ONE]),
        ([ONE], [*full]),
        ([], [*full, ONE]),
        ([*full, INDEX, *PARTS], []),
        ([*full, INDEX, *PARTS[1:]], [PARTS[0]]),
        ([*full, INDEX, PARTS[0]], [*PARTS[1:]]),
        ([*full[1:], INDEX, PARTS[0]], [full[0], *PARTS[1:]]),
        ([*full, *PARTS], [ONE]),
    ]
    for there, wanted in cases:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            for file in there:
                (folder / file).write_text("{}", encoding="utf-8")
            if INDEX in there:
                index = {"metadata": {}, "weight_map": {f"layers.{n}.weight": PARTS[n // 2] for n in range(6)}}
                (folder / INDEX).write_text(json.dumps(index), encoding="utf-8")
            without = [name for name in full if name not in there]
            rest = ", ".join(sorted({*there} - {*full})) or "nothing"
            given = f"a folder with NEEDED{' without ' if without else ''}{', '.join(without)}, and {rest}"
            found = ask(attempt, folder, given=given)
            expect(isinstance(found, list), f"it returned {shown(found)}; expected a list of names")
            lost, more = ({*wanted} - {*found}, {*found} - {*wanted})
            expect(not lost, f"for {given} it does not name {', '.join(sorted(lost))}")
            expect(not more, f"for {given} it names {shown(sorted(more))}, which is there or not needed")
            expect(found == sorted(wanted), f"for {given} it returned {found}; expected each once, in order")


# ── 4 bits ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@check
def survives(attempt: Callable[..., float]) -> None:
    """`survives(weights, delta, levels)`: how much of a delta's direction a merge into levels keeps."""
    three = [0.0, 1.0, 2.0]
    fixed = [  # weights, delta, levels, what really changes
        ([0.9, 2.0], [0.3, -0.8], three, [0.0, -1.0]),
        ([0.4, 1.4], [0.2, 0.2], three, [0.0, 0.0]),
        ([0.0, 0.0], [0.6, 0.4], three, [1.0, 0.0]),
        ([2.0, 0.0], [0.9, 0.9], three, [0.0, 1.0]),
        ([-5.0, 7.0], [0.9, -0.9], three, [1.0, -1.0]),
        ([0.1, -0.1], [0.9, 0.9], [-1.0, 0.0, 1.0], [1.0, 1.0]),
        ([-1.0, 1.0], [0.6, 0.6], [-1.0, 1.0], [0.0, 0.0]),
    ]
    cases = [tuple(map(torch.tensor, case)) for case in fixed]
    seeded = torch.Generator().manual_seed(7)
    for count, size in ((16, 0.02), (16, 0.2), (4, 0.5), (256, 0.02)):
        levels = torch.sort(torch.rand(count, generator=seeded) * 2 - 1).values
        weights, delta = (torch.randn(400, generator=seeded) * scale for scale in (0.4, size))
        start = _nearest(weights, levels)
        cases.append((weights, delta, levels, _nearest(start + delta, levels) - start))
    for weights, delta, levels, change in cases:
        given = f"{len(weights)} weights and {len(levels)} levels"
        if len(weights) == 2:
            given = f"the weights {_short(weights)}, the delta {_short(delta)}, the levels {_short(levels)}"
        before = [each.clone() for each in (weights, delta, levels)]
        found = ask(attempt, weights, delta, levels, given=given)
        same = all(torch.equal(*pair) for pair in zip(before, (weights, delta, levels), strict=True))
        expect(same, f"for {given} it changes what it was given")
        expect(isinstance(found, float), f"for {given} it returned {shown(found)}, which is no float")
        length = float(change.norm() * delta.norm())
        wanted = float(change @ delta) / length if length else 0.0
        told = f"; what changes is {_short(change)}" if len(weights) == 2 else ""
        expect(
            math.isclose(found, wanted, abs_tol=1e-4),
            f"for {given} it returned {found:.3f}; expected {wanted:.3f}{told}",
        )


def _nearest(values: Tensor, levels: Tensor) -> Tensor:
    """Each value's level: the half-way points between the levels are its borders."""
    return levels[torch.bucketize(values, (levels[1:] + levels[:-1]) / 2)]


def _short(values: Tensor) -> str:
    return str([round(value, 2) for value in values.tolist()])


# ── near-ties ───────────────────────────────────────────────────────────────────────────────────────────────────────


@check
def near_ties(attempt: Callable[..., tuple[int, int, int]]) -> None:
    """`near_ties(replies, others, logits, tolerance)`: equal, near, elsewhere."""
    row = [1.0, 4.5, 4.25]
    clear = [9.0, 0.0, 0.0]
    fixed: list[tuple[str, list[list[int]], list[list[int]], list[list[list[float]]], float]] = [
        ("a gap of exactly the tolerance", [[7, 2]], [[5, 2]], [[row, clear]], 0.25),
        ("a gap above the tolerance", [[7, 2]], [[5, 2]], [[row, clear]], 0.125),
        ("equal replies", [[7, 2]], [[7, 2]], [[row, row]], 0.25),
        ("a near-tie behind the first difference", [[7, 8, 2]], [[5, 6, 2]], [[clear, row, clear]], 0.25),
        ("a near-tie before the first difference", [[7, 8, 2]], [[7, 6, 2]], [[row, clear, clear]], 0.25),
        ("a near-tie at the second place", [[7, 8, 2]], [[7, 6, 2]], [[clear, row, clear]], 0.25),
        ("replies of two lengths", [[7, 2]], [[7, 6, 5, 2]], [[clear, row]], 0.25),
        ("best two at the ends", [[7, 2]], [[5, 2]], [[[4.5, -3.0, 1.0, 4.25], [*clear, 0.0]]], 0.25),
        ("all logits negative", [[7, 2]], [[5, 2]], [[[-4.5, -3.0, -3.125], clear]], 0.25),
        ("three that are near", [[7, 2]], [[5, 2]], [[[4.5, 4.5, 4.5], clear]], 0.25),
    ]
    draw = random.Random(8)
    cases = [*fixed, *(_drawn(draw) for _ in range(40))]
    for what, replies, others, logits, tolerance in cases:
        found = ask(attempt, replies, others, logits, tolerance, given=what)
        three = isinstance(found, tuple) and len(found) == 3
        expect(three, f"for {what} it returned {shown(found)}; expected (equal, near, elsewhere)")
        expect(sum(found) == len(replies), f"for {what} the counts {found} do not add up to {len(replies)} pairs")
        right = _agreement(replies, others, logits, tolerance)
        wanted = (right.equal, right.near_ties, right.prompts - right.equal - right.near_ties)
        expect(found == wanted, f"for {what} it counts {found}; expected {wanted} (equal, near, elsewhere)")


def _drawn(draw: random.Random) -> tuple[str, list[list[int]], list[list[int]], list[list[list[float]]], float]:
    """Some pairs of replies with logits in eighths, so that a gap can be the tolerance itself."""
    count = draw.randint(2, 6)
    replies = [[draw.randint(3, 9) for _ in range(draw.randint(1, 5))] + [2] for _ in range(count)]
    others = []
    for reply in replies:
        other = list(reply)
        if draw.random() < 0.7:
            place = draw.randrange(len(reply))
            other[place:] = [reply[place] + 1, *draw.choices(range(3, 9), k=draw.randint(0, 3))]
        others.append(other)
    logits = [[[draw.randint(-12, 12) / 8 for _ in range(5)] for _ in reply] for reply in replies]
    return f"{count} pairs drawn at random", replies, others, logits, draw.choice((0.0, 0.125, 0.25, 0.5))


def _agreement(
    replies: list[list[int]], others: list[list[int]], logits: list[list[list[float]]], tolerance: float
) -> generation.Agreement:
    """The package's count, of models whose logits are nowhere further apart than `tolerance`."""
    mine = [torch.tensor(rows) for rows in logits]
    return generation.agreement(replies, mine, others, [rows + tolerance for rows in mine])


# ── what an adapter does ────────────────────────────────────────────────────────────────────────────────────────────


def small_model() -> tuple[PeftModel, Tensor]:
    """A tiny model of random weights with three adapters on its last layer, one of them good; and ids to ask it."""
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = LoraConfig(r=2, lora_alpha=4, target_modules=["lm_head"])
    with torch.random.fork_rng():
        torch.manual_seed(10)
        model = LlamaForCausalLM(LlamaConfig(vocab_size=40, tie_word_embeddings=False, **shape))
        model = get_peft_model(model, config, adapter_name="monday")
        for name in ("tuesday", "wednesday"):
            model.add_adapter(name, config)
        head = model.get_base_model().lm_head
        torch.nn.init.normal_(head.lora_B["tuesday"].weight)
        torch.nn.init.constant_(head.lora_B["wednesday"].weight, math.nan)
        ids = torch.randint(40, (3, 7))
    model.set_adapter("tuesday")
    return model.eval(), ids


@check
def effects(attempt: Callable[[PeftModel, Tensor], dict[str, float]]) -> None:
    """`effects(model, ids)`: by how much each adapter moves the logits."""
    model, every = small_model()
    head = model.get_base_model().lm_head
    for scale, order in ((1.0, [0, 1, 2]), (-2.5, [2, 1, 0]), (0.01, [1])):
        ids = every[order]
        low, high = head.lora_A["tuesday"].weight.data, head.lora_B["tuesday"].weight.data.mul_(scale)
        given = f"three adapters, one of them trained, and {len(ids)} rows"
        with torch.no_grad():
            hidden = model.get_base_model().model(ids).last_hidden_state
            moved = 2 * (hidden @ low.T @ high.T)  # what LoRA adds behind the layer; alpha / r is 2
            mounted = model(ids).logits
        found = ask(attempt, model, ids, given=given)
        names = isinstance(found, Mapping) and {*found} == {*model.peft_config}
        expect(names, f"for {given} it returned {shown(found)}; expected a number for each of {[*model.peft_config]}")
        floats = all(isinstance(value, float) for value in found.values())
        expect(floats, f"for {given} it returned {shown(found)}; expected floats")
        expect(found["monday"] == 0, f"an adapter with B = 0 moves nothing; for it, it returned {found['monday']}")
        broken = found["wednesday"]
        expect(math.isnan(broken), f"an adapter that holds nan gives nan; for it, it returned {broken}")
        wanted = float(moved.abs().max())
        right = math.isclose(found["tuesday"], wanted, rel_tol=1e-3)
        expect(right, f"for {given} the trained one has {found['tuesday']:.4f}; expected {wanted:.4f}")
        active = model.active_adapter
        expect(active == "tuesday", f"before, tuesday was switched on; afterwards it is {active}")
        with torch.no_grad():
            same = torch.equal(model(ids).logits, mounted)
        expect(same, "afterwards the model gives other logits than before: leave it as it was, adapter on")


# ── find the bug ────────────────────────────────────────────────────────────────────────────────────────────────────


@check
def load_report(attempt: Callable[[list[dict[str, Any]]], Mapping[str, float]]) -> None:
    """`load_report(results)`: what was sent, what was lost, and percentiles of the rest."""
    draw = random.Random(9)
    fixed = [([1.0, 2.0, 3.0, 4.0], 0), ([5.0], 0), ([2.0, 1.0], 6), ([], 3), ([4.0, 1.0, 3.0, 2.0], 4)]
    drawn = [([draw.uniform(1, 9) for _ in range(draw.randint(1, 30))], draw.randint(0, 9)) for _ in range(30)]
    hundred = [([float(n) for n in range(count, 0, -1)], 1) for count in (10, 50, 99, 100, 101, 200)]
    for seconds, lost in [*fixed, *drawn, *hundred]:
        results: list[dict[str, Any]] = [{"seconds": each, "error": None} for each in seconds]
        results += [{"seconds": draw.choice((0.01, 120.0)), "error": "timeout"} for _ in range(lost)]
        draw.shuffle(results)
        before = [dict(result) for result in results]
        given = f"{len(seconds)} whole replies and {lost} lost"
        if len(seconds) < 5:
            given += f" (whole: {seconds} s)"
        report = ask(attempt, results, given=given)
        expect(results == before, f"for {given} it changes the results that it was given")
        keys = ("requests", "lost", "p50", "p90", "p99")
        whole = isinstance(report, Mapping) and {*keys} == {*report}
        expect(whole, f"for {given} it returned {shown(report)}; expected the keys {', '.join(keys)}")
        ordered = sorted(seconds)
        wanted = {"requests": len(results), "lost": lost}
        wanted |= {f"p{share}": percentile(ordered, share) for share in (50, 90, 99)}
        for key in keys:
            one, right = report[key], wanted[key]
            same = one == right or (math.isnan(one) and math.isnan(right))
            expect(same, f"for {given} {key} is {one}; expected {right}")


# ── a whole adapter ─────────────────────────────────────────────────────────────────────────────────────────────────


ALPHA = 8
SCALES = {False: {4: 2.0, 16: 0.5}, True: {4: 4.0, 16: 2.0}}
"""By rsLoRA or not and by rank, for `ALPHA`."""


def small_adapter(*, use_rslora: bool = False, targets: Sequence[str] = ("up_proj", "down_proj")) -> Small:
    """The weights of a tiny model, an adapter on some of its layers under PEFT's names, and the adapter's settings.

    Args:
        use_rslora: goes into the settings.
        targets: the kinds of layers that have an adapter.
    """
    seeded = torch.Generator().manual_seed(8)
    shapes = {"embed_tokens": (10, 6), "norm": (6,), "lm_head": (10, 6)}
    for number in (0, 1):
        shapes |= {f"layers.{number}.up_proj": (8, 6), f"layers.{number}.down_proj": (6, 8)}
    base = {f"{name}.weight": torch.randn(shape, generator=seeded) for name, shape in shapes.items()}
    adapter = {}
    for name, (outputs, *inputs) in shapes.items():
        if name.rpartition(".")[2] in targets:
            rank = 16 if name == "layers.1.down_proj" else 4
            low = torch.randn(rank, *inputs, generator=seeded)
            high = torch.randn(outputs, rank, generator=seeded)
            names = ("lora_A.weight", "lora_B.weight")
            if name == "embed_tokens":  # it looks rows up, so PEFT holds both the other way round
                names, low, high = ("lora_embedding_A", "lora_embedding_B"), high.T, low.T
            adapter |= {f"base_model.model.{name}.{names[0]}": low, f"base_model.model.{name}.{names[1]}": high}
    return base, adapter, {"lora_alpha": ALPHA, "use_rslora": use_rslora}


def _copied(tensors: Mapping[str, Tensor]) -> Tensors:
    return {name: tensor.clone() for name, tensor in tensors.items()}


@check
def merge_all(attempt: Callable[..., Tensors]) -> None:
    """`merge_all(base, adapter, settings, tied)`: every layer of an adapter, and nothing else."""
    layers = ("up_proj", "down_proj")
    for use_rslora, targets, tied in (
        (False, layers, False),
        (False, layers, True),
        (True, layers, True),
        (False, ("down_proj",), True),
        (False, (*layers, "lm_head"), False),
    ):
        base, adapter, settings = small_adapter(use_rslora=use_rslora, targets=targets)
        given = f"an adapter on {', '.join(targets)}{' with rsLoRA' * use_rslora}{', tied' * tied}"
        own = _copied(base), _copied(adapter)
        found = ask(attempt, *own, settings, tied, given=given)
        for old, new in zip((base, adapter), own, strict=True):
            same = old.keys() == new.keys() and all(torch.equal(old[name], new[name]) for name in old)
            expect(same, f"for {given} it changes what it was given; make new tensors")
        expect(isinstance(found, Mapping), f"for {given} it returned {shown(found)}; expected a dict of tensors")
        for names, what in (({*base} - {*found}, "lacks"), ({*found} - {*base}, "has, and the base has not,")):
            expect(not names, f"for {given} the result {what} {', '.join(sorted(names))}")
        for name, weight in base.items():
            _compare_layer(found[name], weight, adapter, name.removesuffix(".weight"), use_rslora, given)
    base, adapter, settings = small_adapter()
    half = {name: tensor.bfloat16() for name, tensor in base.items()}
    formats = {tensor.dtype for tensor in ask(attempt, half, adapter, settings, True).values()}
    expect(formats == {torch.bfloat16}, f"for a base in bfloat16 the result holds {', '.join(map(str, formats))}")
    foreign = {name.replace("layers.1", "layers.7"): tensor for name, tensor in adapter.items()}
    _refused(
        attempt,
        (base, foreign, settings, False),
        "an adapter on layers.7, which the base has not",
        "it is another model's",
    )
    for table in ("lm_head", "embed_tokens"):
        arguments = (*small_adapter(targets=(*layers, table)), True)
        _refused(attempt, arguments, f"an adapter on {table}, tied", "both tables would change")


def _compare_layer(found: Tensor, weight: Tensor, adapter: Tensors, layer: str, use_rslora: bool, given: str) -> None:
    """The merged layer must give what it gives with its adapter mounted, or be what it was."""
    low = adapter.get(f"base_model.model.{layer}.lora_A.weight")
    if low is None:
        expect(torch.equal(found, weight), f"for {given} {layer} is changed, and has no adapter")
        return
    expect(found.shape == weight.shape, f"for {given} {layer} has the shape {list(found.shape)}")
    x = torch.linspace(-1, 1, weight.shape[1])
    high = adapter[f"base_model.model.{layer}.lora_B.weight"]
    mounted = weight @ x + SCALES[use_rslora][len(low)] * (high @ (low @ x))
    expect(
        torch.allclose(found @ x, mounted, atol=1e-4),
        f"for {given} the merged {layer} (rank {len(low)}) gives {_short(found @ x)}; mounted it gives "
        f"{_short(mounted)}",
    )


def _refused(attempt: Callable[..., Tensors], arguments: tuple[Any, ...], given: str, why: str) -> None:
    """Expect a ValueError, with a line that names the case and not the tensors."""

    @wraps(attempt)
    def told(given: str) -> str:
        return type(attempt(*arguments)).__name__

    expect_error(told, given, kind=ValueError, why=why)
