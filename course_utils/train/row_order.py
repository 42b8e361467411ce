"""The order in which a run sees its rows."""

from __future__ import annotations

from collections.abc import Sequence

import torch

_WINDOW = 50  # steps whose rows are sorted by length together, as in transformers' LengthGroupedSampler


def row_order(lengths: Sequence[int], rows_per_step: int, epochs: float, seed: int) -> list[int]:
    """Rows of similar length share a step, and the steps come in random order.

    The order depends only on the arguments, so a resumed run, or one with more processes, sees the same. It is made
    for all epochs at once. Every row comes once an epoch, but for the few that fill no step: they come first in the
    next one.

    Args:
        lengths: tokens of each row.
        rows_per_step: rows that move the weights once.
        epochs: how often every row comes; where the last epoch is a part of one, some rows are missing from it.
        seed: of the order.

    Returns:
        Numbers of rows. The first step holds the longest row, so that memory runs out at once or never.
    """
    draw = torch.Generator().manual_seed(seed)
    left = max(1, round(len(lengths) * epochs))
    window = _WINDOW * rows_per_step
    steps: list[list[int]] = []
    over: list[int] = []  # rows that fill no step of their epoch; the next one begins with them
    while left > 0:
        epoch = torch.randperm(len(lengths), generator=draw).tolist()[:left]
        left -= len(epoch)
        if over:
            strangers = sorted(epoch, key=lambda row: row in over)  # no row beside its own copy
            steps.append(over + strangers[: rows_per_step - len(over)])
            epoch = [row for row in epoch if row not in strangers[: rows_per_step - len(over)]]
        whole = len(epoch) // rows_per_step * rows_per_step if left else len(epoch)
        rows, over = epoch[:whole], epoch[whole:]
        for start in range(0, len(rows), window):
            alike = sorted(rows[start : start + window], key=lambda row: lengths[row], reverse=True)
            cut = [alike[place : place + rows_per_step] for place in range(0, len(alike), rows_per_step)]
            steps += [cut[place] for place in torch.randperm(len(cut), generator=draw).tolist()]
    steps.sort(key=lambda step: len(step) < rows_per_step)  # a broken step would shift the rows of all after it
    whole_steps = [place for place, step in enumerate(steps) if len(step) == rows_per_step]
    if whole_steps:
        longest = max(whole_steps, key=lambda place: max(lengths[row] for row in steps[place]))
        steps[0], steps[longest] = steps[longest], steps[0]
    return [row for step in steps for row in step]
