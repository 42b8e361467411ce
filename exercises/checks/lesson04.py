"""Checks of exercise 04: steps, LoRA, the learning rate and how to pick it, accumulated gradients, the merge."""

from __future__ import annotations

import copy
import json
import math
import random
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from course_utils import budget, training
from course_utils.core import paths
from course_utils.text.masking import IGNORED
from exercises.checks import ask, check, expect, expect_error, shown


def _tensor(found: Any, shape: Sequence[int], given: str) -> Tensor:
    """What was returned, if it is a tensor of that shape."""
    expect(isinstance(found, Tensor), f"for {given} it returned {shown(found)}, which is no tensor")
    right = tuple(found.shape) == tuple(shape)
    expect(right, f"for {given} it returned the shape {tuple(found.shape)}; expected {tuple(shape)}")
    return found


def _off(found: Tensor, wanted: Tensor) -> float:
    """How far `found` is from `wanted`, relative to the size of `wanted`."""
    return float((found.double() - wanted.double()).norm() / wanted.double().norm().clamp(min=1e-12))


# ── how long the run is ─────────────────────────────────────────────────────────────────────────────────────────────


@check
def steps(attempt: Callable[..., int]) -> None:
    """`steps(rows, epochs, batch_size, grad_accum)`: how often the weights move."""
    draw = random.Random(10)
    cases = [(100, 1, 4, 8), (96, 1, 4, 8), (97, 1, 4, 8), (3, 1, 8, 1), (1, 0.3, 1, 1), (10, 3, 4, 1), (1, 1, 1, 1)]
    cases += [(7, 0.7, 1, 2), (40, 2.6, 3, 5), (9, 0.01, 2, 2)]
    cases += [
        (draw.randint(1, 200), draw.choice((0.31, 1, 2, 2.77)), *draw.choices((1, 2, 3, 8), k=2)) for _ in range(60)
    ]
    for rows, epochs, batch_size, grad_accum in cases:
        found = ask(attempt, rows, epochs, batch_size, grad_accum)
        per_step = batch_size * grad_accum
        order = training.row_order([1] * rows, per_step, epochs, seed=0)
        wanted = len(range(0, len(order), per_step))
        expect(
            found == wanted and type(found) is int,
            f"for {rows} rows, {epochs:g} epochs, batch_size={batch_size} and grad_accum={grad_accum} it returned "
            f"{shown(found)}; expected {wanted}",
        )


# ── a layer with LoRA ───────────────────────────────────────────────────────────────────────────────────────────────


def _layers(seed: int, names: Sequence[str], inputs: int, outputs: int, **how: Any) -> Any:
    """A model of linear layers with PEFT's LoRA, `B` as after training."""
    from peft import LoraConfig, get_peft_model

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        bare = nn.ModuleDict({name: nn.Linear(inputs, outputs, bias=False) for name in names})
        adapted = [name for name in names if name != "o_proj"]
        model = get_peft_model(bare, LoraConfig(target_modules=adapted, init_lora_weights=False, **how))
    return model


@check
def forward(attempt: Callable[..., Tensor]) -> None:
    """`forward(x, W, A, B, alpha)`: a linear layer and what LoRA adds, as PEFT computes it."""
    draw = torch.Generator().manual_seed(11)
    for inputs, outputs, r, alpha, tokens in ((6, 4, 2, 4, 3), (3, 5, 1, 1, 1), (4, 4, 4, 2, 2), (5, 3, 2, 7, 4)):
        layer = _layers(r, ["q_proj"], inputs, outputs, r=r, lora_alpha=alpha).base_model.model["q_proj"]
        x = torch.randn(tokens, inputs, generator=draw)
        W, A, B = (part.weight.detach() for part in (layer.base_layer, layer.lora_A.default, layer.lora_B.default))
        given = f"{inputs} inputs, {outputs} outputs, r={r}, alpha={alpha}"
        with torch.no_grad():
            found = _tensor(ask(attempt, x, W, A, B, alpha, given=given), (tokens, outputs), given)
            bare = _tensor(ask(attempt, x, W, A, 0 * B, alpha, given=given), (tokens, outputs), given)
            wanted = layer(x)
        expect(_off(bare, x @ W.T) < 1e-5, f"for {given} and B = 0 it is not what the layer gives without LoRA")
        detour, right = found - bare, wanted - x @ W.T
        ratio = float((detour * right).sum() / right.square().sum())
        same_way = _off(detour, ratio * right) < 1e-3
        expect(
            not same_way or abs(ratio - 1) < 1e-3,
            f"for {given} what A and B add is {ratio:.2f} times as large as it must be",
        )
        expect(_off(found, wanted) < 1e-4, f"for {given} what is added is not that of A and B")


# ── the size of an adapter ──────────────────────────────────────────────────────────────────────────────────────────


@check
def adapter_weights(attempt: Callable[..., int]) -> None:
    """`adapter_weights(config, r, targets)`: counted from a config alone."""
    small = {"num_hidden_layers": 3, "hidden_size": 12, "num_attention_heads": 4, "intermediate_size": 20}
    small["vocab_size"] = 100
    configs = {
        **budget.CONFIGS,
        "a model without head_dim": small | {"num_key_value_heads": 2},
        "a model without head_dim and num_key_value_heads": small,
        "a model with wide heads": small | {"num_key_value_heads": 1, "head_dim": 7},
    }
    everything = tuple(budget.Shape.of(small).projections)
    for name, config in configs.items():
        shape = budget.Shape.of(config)
        for targets in (*((one,) for one in everything), ("q_proj", "v_proj"), everything):
            for r in (1, 16):
                found = ask(attempt, dict(config), r, list(targets), given=f"{name}, r={r}, {', '.join(targets)}")
                wanted = sum(budget.lora_sizes(shape, r, targets))
                expect(
                    found == wanted and isinstance(found, int),
                    f"for {name}, r={r} and {', '.join(targets)} it returned {shown(found)}; expected {wanted}",
                )
    for target in ("lm_head", "embed_tokens"):
        expect_error(attempt, small, 4, ["q_proj", target], kind=ValueError, why=f"{target} is no projection")


# ── the learning rate ───────────────────────────────────────────────────────────────────────────────────────────────


@check
def rate(attempt: Callable[..., float]) -> None:
    """`rate(step, steps, warmup, peak)`: as transformers computes it."""
    for total, warmup, peak in (
        (20, 10, 1e-4),
        (20, 0, 1e-4),
        (20, 1, 1.0),
        (30, 0.1, 2e-4),
        (33, 0.1, 2e-4),
        (7, 0.05, 5e-5),
        (5, 5, 1.0),
        (1, 0, 1.0),
        (12, 0.5, 3.0),
    ):
        for step, wanted in enumerate(_rates(total, warmup, peak)):
            found = ask(attempt, step, total, warmup, peak)
            given = f"step {step} of {total} with warmup={warmup} and the peak {peak:g}"
            expect(isinstance(found, int | float), f"for {given} it returned {shown(found)}, which is no number")
            expect(
                math.isclose(found, wanted, rel_tol=1e-6, abs_tol=1e-9 * peak),
                f"for {given} the rate is {found:.6g}; expected {wanted:.6g}",
            )


@cache
def _rates(total: int, warmup: float, peak: float) -> list[float]:
    """The rates of a run, from the Trainer's own scheduler."""
    from transformers import TrainingArguments, get_scheduler

    rising = TrainingArguments(output_dir="unused", warmup_steps=warmup, use_cpu=True).get_warmup_steps(total)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=peak)
    scheduler = get_scheduler("cosine", optimizer, rising, total)
    rates = []
    for _ in range(total):
        rates.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    return rates


# ── pick a learning rate ────────────────────────────────────────────────────────────────────────────────────────────


RATES = (1e-4, 3e-3, 1.0)
"""Of the short runs below: one that hardly moves, one that learns, one that breaks."""


@cache
def small_rows() -> tuple[Tensor, Tensor]:
    """Stretches of 64 characters of the course's English plain rows, a number for each: to learn, and held back."""
    lines = (paths.home() / "data" / "raw" / "plain.jsonl").read_text(encoding="utf-8").splitlines()
    talks = ("\n".join(turn["content"] for turn in json.loads(line)["messages"]) for line in lines)
    text = "\n".join(talk for talk in talks if talk.isascii())
    rows = torch.tensor([ord(character) for character in text[: len(text) // 64 * 64]]).view(-1, 64)
    return rows[:-8], rows[-8:]


@cache
def short_run(rate: float) -> tuple[float, ...]:
    """Validation losses of a fresh, very small Llama that learns which character comes next in the course's rows.

    Args:
        rate: the learning rate of all 30 steps.

    Returns:
        The losses at the steps 0, 10, 20 and 30, to three digits. A rate that was tried is not trained again.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    learn, held_back = small_rows()
    shape = {"hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = LlamaForCausalLM(LlamaConfig(vocab_size=128, **shape))
    adam = torch.optim.AdamW(model.parameters(), lr=rate)
    losses = []
    for step in range(31):
        if step % 10 == 0:
            with torch.no_grad():
                losses.append(round(model(held_back, labels=held_back).loss.item(), 3))
        rows = learn[torch.arange(8 * step, 8 * step + 8) % len(learn)]
        adam.zero_grad()
        model(rows, labels=rows).loss.backward()
        adam.step()
    return tuple(losses)


@check
def pick_rate(attempt: Callable[..., float]) -> None:
    """`pick_rate(short_run, rates)`: each rate tried once, the run that ends lowest, the smallest rate of equals."""
    nan = math.nan
    cases: list[tuple[dict[float, list[float]], float | None]] = [
        ({1e-4: [3.0, 2.9], 1e-3: [3.0, 2.0], 1e-2: [3.0, 5.0]}, 1e-3),
        ({1e-2: [3.0, 2.5], 1e-4: [3.0, 2.9], 1e-3: [3.0, 2.0]}, 1e-3),  # in no order
        ({1e-4: [3.0, 2.6, 2.2], 1e-3: [3.0, 1.5, 2.4]}, 1e-4),  # lowest in between, not at the end
        ({1e-4: [3.0, 2.9], 1e-3: [3.0, 2.0, nan]}, 1e-4),
        ({1e-3: [3.0, 2.0, nan], 1e-4: [3.0, 2.9]}, 1e-4),
        ({1e-2: [1.2, 1.0], 1e-3: [1.2, 1.01], 1e-4: [1.2, 1.02]}, 1e-3),  # at most 1 % above
        ({1e-2: [1.2, 1.0], 1e-3: [1.2, 1.008]}, 1e-3),
        ({1e-2: [1.2, 1.0], 1e-3: [1.2, 1.012]}, 1e-2),
        ({1e-2: [1.1, 1.0], 1e-3: [1.0, 1.0], 1e-4: [0.9, 0.99]}, 1e-2),  # as low, and did not get better
        ({0.5: [2.0, 1.0, 1.9]}, 0.5),
        ({rate: list(short_run(rate)) for rate in RATES}, 3e-3),  # the model of the notebook
    ]
    draw = random.Random(12)
    for _ in range(20):
        rates = draw.sample([1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2], k=4)
        ends = {rate: round(draw.uniform(1, 2.5), 3) for rate in rates}
        ends[rates[0]] = 1.0
        cases.append(
            (
                {rate: [2.0, draw.uniform(0.5, 3), end] for rate, end in ends.items()},
                min(rate for rate, end in ends.items() if end <= 1.01),
            )
        )
    cases += [({1e-3: [3.0, 3.0]}, None), ({1e-3: [3.0, 3.1], 1e-2: [3.0, nan]}, None)]
    for runs, wanted in cases:
        given = "; ".join(f"{rate:g}: {losses}" for rate, losses in runs.items())
        tried: list[float] = []

        def run(rate: float, runs: dict[float, list[float]] = runs, tried: list[float] = tried) -> list[float]:
            tried.append(rate)
            return list(runs[rate])

        found = ask(attempt, run, list(runs), given=given)
        expect(sorted(tried) == sorted(runs), f"for {given} it tries {tried}; a run is expensive: each rate once")
        expect(found == wanted, f"for {given} it returned {shown(found)}; expected {wanted}")


# ── find the bug ────────────────────────────────────────────────────────────────────────────────────────────────────


class Watched(nn.Module):
    """A model of one layer that notes how many rows it gets at a time."""

    def __init__(self, numbers: int, classes: int) -> None:
        super().__init__()
        self.layer = nn.Linear(numbers, classes)
        self.rows: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.rows.append(len(x))
        return self.layer(x)


def batch(learned: Sequence[int]) -> tuple[Watched, Tensor, Tensor]:
    """A model, and rows of 6 tokens of which so many are learned: `x` and labels."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(13)
        model = Watched(4, 5)
        x, labels = torch.randn(len(learned), 6, 4), torch.randint(5, (len(learned), 6))
    for row, tokens in enumerate(learned):
        labels[row, : 6 - tokens] = IGNORED
    return model, x, labels


@check
def accumulate(attempt: Callable[..., float]) -> None:
    """`accumulate(model, x, labels, size)`: the gradient of all rows, whatever the size of the parts."""
    for learned, size in (
        ((6, 1, 2, 0), 4),
        ((6, 1, 2, 3), 2),
        ((4, 4, 4, 4), 3),
        ((6, 1, 2, 5, 1), 2),
        ((6, 0, 0, 2), 1),
        ((2, 6), 5),
        ((1, 6, 6, 6, 6, 6, 6), 3),
    ):
        model, x, labels = batch(learned)
        given = f"rows that learn {', '.join(map(str, learned))} tokens, and size={size}"
        whole = copy.deepcopy(model)
        loss = cross_entropy(whole(x).flatten(0, 1), labels.flatten())
        loss.backward()
        for weight in model.parameters():
            weight.grad = torch.ones_like(weight)  # left from the step before
        inputs = x.clone(), labels.clone()
        found = ask(attempt, model, x, labels, size, given=given)
        expect(torch.equal(x, inputs[0]) and torch.equal(labels, inputs[1]), f"for {given} x or labels are changed")
        seen, most = sum(model.rows), max(model.rows, default=0)
        expect(most <= size, f"for {given} the model gets {most} rows at a time")
        needed = len(learned) - learned.count(0)  # a part that teaches nothing may be left out
        right = needed <= seen <= len(learned)
        expect(right, f"for {given} the model gets {seen} rows in all; there are {len(learned)}")
        expect(isinstance(found, float), f"for {given} it returned {shown(found)}; expected a float")
        right = math.isclose(found, loss.item(), rel_tol=1e-4)
        expect(right, f"for {given} the loss is {found:.4f}; of all rows at once it is {loss.item():.4f}")
        pairs = list(zip(model.parameters(), whole.parameters(), strict=True))
        expect(all(own.grad is not None for own, _ in pairs), f"for {given} there is no gradient")
        for own, theirs in pairs:
            off = _off(own.grad, theirs.grad)
            expect(off < 1e-4, f"for {given} the gradient is {off:.0%} off that of all rows at once")


# ── stretch ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def trained(dtype: torch.dtype, **how: Any) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
    """A small base with an adapter, and what PEFT merges them to: each from names, as in the files, to tensors."""
    from peft import get_peft_model_state_dict

    model = _layers(14, ["q_proj", "v_proj", "o_proj"], 24, 16, **{"r": 4, "lora_alpha": 8, **how})
    layers = {name: getattr(layer, "base_layer", layer) for name, layer in model.get_base_model().items()}
    for layer in layers.values():
        layer.weight.data = layer.weight.data.to(dtype).float()
    base = {f"{name}.weight": layer.weight.detach().to(dtype, copy=True) for name, layer in layers.items()}
    adapter = {name: weight.detach().clone() for name, weight in get_peft_model_state_dict(model).items()}
    merged = {name: weight.to(dtype) for name, weight in model.merge_and_unload().state_dict().items()}
    return base, adapter, merged


@check
def merge(attempt: Callable[..., dict[str, Tensor]]) -> None:
    """`merge(base, adapter, config)`: an adapter in the weights, as PEFT merges it."""
    for dtype, r, alpha, rslora in (
        (torch.float32, 4, 8, False),
        (torch.float32, 2, 5, False),
        (torch.float32, 4, 8, True),
        (torch.bfloat16, 8, 4, False),
        (torch.bfloat16, 8, 4, True),
    ):
        base, adapter, wanted = trained(dtype, r=r, lora_alpha=alpha, use_rslora=rslora)
        config = {"r": r, "lora_alpha": alpha, "use_rslora": rslora}
        given = f"{dtype} and {config}"
        before = copy.deepcopy((base, adapter))
        found = ask(attempt, base, adapter, config, given=given)
        for weights, were in zip((base, adapter), before, strict=True):
            same = weights.keys() == were.keys() and all(torch.equal(weights[name], were[name]) for name in were)
            expect(same, f"for {given} it changes what it was given")
        right = isinstance(found, dict) and found.keys() == base.keys()
        expect(right, f"for {given} it returned {shown(found)}; expected a dict with {', '.join(base)}")
        for name, weight in wanted.items():
            _examine_merged(_tensor(found[name], weight.shape, f"{given}, {name},"), weight, base[name], given, name)
    one = torch.ones(1, 1)
    other = {f"base_model.model.q_proj.lora_{part}.weight": one for part in "AB"}
    config = {"r": 1, "lora_alpha": 2, "use_rslora": False}
    expect_error(attempt, {"k_proj.weight": one}, other, config, kind=ValueError, why="the base has no q_proj")


def _examine_merged(found: Tensor, wanted: Tensor, base: Tensor, given: str, name: str) -> None:
    """Say what is wrong with one merged weight."""
    expect(found.dtype == wanted.dtype, f"for {given} {name} is {found.dtype}; expected {wanted.dtype}")
    if torch.equal(wanted, base):
        expect(torch.equal(found, base), f"for {given} {name} is changed; it has no adapter")
        return
    added, right = found.double() - base.double(), wanted.double() - base.double()
    ratio = float((added * right).sum() / right.square().sum())
    off = _off(added, ratio * right)
    expect(off > 0.05 or abs(ratio - 1) < 0.01, f"for {given} {ratio:.2f} times what must be is added to {name}")
    expect(off < 0.05, f"for {given} something else than the product of its B and A is added to {name}")
    rounded = (found != wanted).double().mean().item()
    exact = wanted.dtype == torch.float32 or rounded < 0.01
    expect(exact, f"for {given} {rounded:.0%} of {name} is rounded otherwise; was the arithmetic in float32?")
