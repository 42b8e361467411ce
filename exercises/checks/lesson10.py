"""Checks of exercise 10: rows for each process, averaged gradients, the same step, the loss, ZeRO, the ring."""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Callable

from exercises.checks import ask, check, expect, expect_error, shown

# ── rows ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@check
def split(attempt: Callable[..., list]) -> None:
    """`split(rows, rank, world)`: the rows of one process, as PyTorch's DistributedSampler gives them."""
    from torch.utils.data import DistributedSampler

    for count, world in ((8, 2), (7, 2), (10, 4), (9, 4), (3, 3), (2, 5), (1, 4), (5, 1), (0, 2)):
        rows = [f"row {number}" for number in range(count)]
        for rank in range(world):
            given = f"{count} rows, rank={rank} and world={world}"
            before = list(rows)
            found = ask(attempt, rows, rank, world, given=given)
            expect(rows == before, f"for {given} the rows that it was given are changed")
            places = DistributedSampler(rows, num_replicas=world, rank=rank, shuffle=False)
            wanted = [rows[place] for place in places]
            expect(isinstance(found, list), f"for {given} it returned {shown(found)}; expected a list")
            right = len(found) == len(wanted)
            expect(right, f"for {given} there are {len(found)} rows; all processes must have {len(wanted)}")
            expect(found == wanted, f"for {given} it returned {shown(found)}; expected {shown(wanted)}")


# ── gradients ───────────────────────────────────────────────────────────────────────────────────────────────────────


@check
def average(attempt: Callable[..., list[list[float]]]) -> None:
    """`average(gradients)`: what each process holds after all_reduce and the division."""
    draw = random.Random(20)
    cases = [[[-4.0], [-16.0]], [[1.0, 2.0], [3.0, -6.0]], [[5.0, 0.5]]]
    cases += [
        [[draw.uniform(-9, 9) for _ in range(weights)] for _ in range(world)] for world, weights in ((3, 4), (8, 1))
    ]
    for gradients in cases:
        before = copy.deepcopy(gradients)
        found = ask(attempt, gradients)
        given = shown(before)
        expect(gradients == before, f"for {given} the gradients that it was given are changed")
        right = isinstance(found, list) and len(found) == len(before)
        expect(right, f"for {given} it returned {shown(found)}; expected a list for each of {len(before)} processes")
        for rank, own in enumerate(found):
            expect(len(own) == len(before[0]), f"for {given} process {rank} holds {shown(own)}: not one a weight")
            for place, value in enumerate(own):
                wanted = math.fsum(each[place] for each in before) / len(before)
                right = math.isclose(value, wanted, abs_tol=1e-9)
                expect(right, f"for {given} process {rank} holds {value:.4g} for weight {place}; expected {wanted:.4g}")
        apart = len({id(own) for own in found}) == len(found)
        expect(apart, f"for {given} two processes hold the very same list: a change of one would change the other")


# ── the step ────────────────────────────────────────────────────────────────────────────────────────────────────────


@check
def same_step(attempt: Callable[..., tuple[int, int]]) -> None:
    """`same_step(batch_size, grad_accum, processes)`: settings for more processes, with as many rows a step."""
    draw = random.Random(21)
    cases = [(1, 16, 4), (4, 1, 2), (4, 4, 8), (2, 8, 16), (3, 2, 2), (6, 1, 2), (4, 3, 6), (5, 1, 1), (1, 1, 1)]
    cases += [(draw.randint(1, 12), draw.randint(1, 12), draw.choice((1, 2, 3, 4))) for _ in range(80)]
    for batch_size, grad_accum, processes in cases:
        given = f"batch_size={batch_size}, grad_accum={grad_accum} and {processes} processes"
        rows = batch_size * grad_accum
        if rows % processes:
            why = f"{rows} rows cannot be shared by {processes} processes"
            expect_error(attempt, batch_size, grad_accum, processes, kind=ValueError, why=why)
            continue
        found = ask(attempt, batch_size, grad_accum, processes, given=given)
        right = isinstance(found, tuple) and len(found) == 2 and all(type(each) is int for each in found)
        expect(right, f"for {given} it returned {shown(found)}; expected a tuple of two whole numbers")
        size, accumulated = found
        step = size * accumulated * processes
        expect(step == rows, f"for {given} it returned {found}, so a step has {step} rows; before it had {rows}")
        expect(size <= batch_size, f"for {given} batch_size becomes {size}: more rows at once than there were")
        larger = [each for each in range(size + 1, batch_size + 1) if rows // processes % each == 0]
        expect(not larger, f"for {given} batch_size becomes {size}; a larger one that is allowed works, too")


# ── the loss ────────────────────────────────────────────────────────────────────────────────────────────────────────


@check
def own_loss(attempt: Callable[..., list[float]]) -> None:
    """`own_loss(losses)`: what each process must return, so that DDP's mean is the mean over all tokens."""
    draw = random.Random(22)
    cases = [[[0.5] * 4, [2.5] * 36], [[1.0, 2.0], [3.0, 4.0]], [[2.0], []], [[], [], [1.0, 0.5]], [[3.0]], [[], []]]
    cases += [
        [[draw.uniform(0, 5) for _ in range(draw.randint(0, 6))] for _ in range(draw.randint(1, 5))] for _ in range(40)
    ]
    for losses in cases:
        given = f"the losses {shown(losses)}"
        found = ask(attempt, copy.deepcopy(losses), given=given)
        right = isinstance(found, list) and len(found) == len(losses)
        expect(right, f"for {given} it returned {shown(found)}; expected a number for each process")
        together = [loss for own in losses for loss in own]
        wanted = math.fsum(together) / len(together) if together else 0.0
        mean = math.fsum(found) / len(found)
        right = math.isclose(mean, wanted, rel_tol=1e-9, abs_tol=1e-12)
        expect(right, f"for {given} the mean that DDP makes is {mean:.4g}; over all tokens it is {wanted:.4g}")
        for rank, (own, value) in enumerate(zip(losses, found, strict=True)):
            share = math.fsum(own) / math.fsum(together) * mean * len(found) if together else 0.0
            right = math.isclose(value, share, rel_tol=1e-9, abs_tol=1e-12)
            expect(
                right, f"for {given} the loss of process {rank} is {value:.4g}; its own tokens make {share:.4g} of it"
            )


# ── memory ──────────────────────────────────────────────────────────────────────────────────────────────────────────

FULL = {"weights": 15.0, "gradients": 15.0, "states": 90.0}  # GB of 7.5 billion weights, as in the ZeRO paper
LORA = {"weights": 61.0, "gradients": 0.5, "states": 1.0, "activations": 2.0}


@check
def lowest_stage(attempt: Callable[..., int | None]) -> None:
    """`lowest_stage(memory, room, gpus)`: the first stage of ZeRO that fits, 0 for DDP, None where none does."""
    for memory, room, gpus, wanted in (
        (FULL, 120.0, 64, 0),
        (FULL, 119.0, 64, 1),
        (FULL, 31.0, 64, 2),
        (FULL, 16.0, 64, 3),
        (FULL, 1.875, 64, 3),  # as much as there is
        (FULL, 1.8, 64, None),
        (FULL, 75.0, 2, 1),
        (FULL, 80.0, 1, None),
        (LORA, 80.0, 4, 0),
        (LORA, 64.0, 4, 1),
        (LORA, 63.4, 4, 2),
        (LORA, 40.0, 4, 3),
        (LORA, 17.0, 4, None),  # the activations are no fewer
        ({"activations": 30.0}, 24.0, 8, None),
        ({"gradients": 8.0, "buffers": 1.0}, 5.0, 2, 2),
    ):
        before = dict(memory)
        given = f"{memory}, room for {room:g} and {gpus} GPUs"
        found = ask(attempt, memory, room, gpus, given=given)
        expect(memory == before, f"for {given} the memory that it was given is changed")
        right = found == wanted and type(found) is type(wanted)
        expect(right, f"for {given} it returned {shown(found)}; expected {wanted}")


# ── the ring ────────────────────────────────────────────────────────────────────────────────────────────────────────


class Wire:
    """Connects each process with the next one, and counts."""

    def __init__(self, world: int, given: str) -> None:
        self.world, self.given, self.turns = world, given, 0

    def __call__(self, values: list[float]) -> list[float]:
        self.turns += 1
        right = len(values) == self.world and all(isinstance(value, int | float) for value in values)
        expect(right, f"for {self.given} it sends {shown(values)}; expected one number for each process")
        return [values[rank - 1] for rank in range(self.world)]


@check
def ring(attempt: Callable[..., list[list[float]]]) -> None:
    """`ring(parts, exchange)`: all_reduce, where each process talks to its neighbours only."""
    draw = random.Random(23)
    for world in (1, 2, 3, 4, 7):
        parts = [[float(draw.randint(-9, 9)) for _ in range(world)] for _ in range(world)]
        given = f"{world} processes with {shown(parts)}"
        before, wire = copy.deepcopy(parts), Wire(world, given)
        found = ask(attempt, parts, wire, given=given)
        expect(parts == before, f"for {given} the parts that it was given are changed")
        turns = 2 * (world - 1)
        expect(wire.turns == turns, f"for {given} they exchange {wire.turns} times; the ring needs {turns}")
        sums = [sum(column) for column in zip(*before, strict=True)]
        right = isinstance(found, list) and len(found) == world
        expect(right, f"for {given} it returned {shown(found)}; expected a list for each process")
        for rank, own in enumerate(found):
            expect(list(own) == sums, f"for {given} process {rank} holds {shown(own)} in the end; the sums are {sums}")
