"""The memory that models need, as bars against GPUs: lesson 01 and the demo."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from course_utils.core.budget import GIB, Budget
from course_utils.lessons.figures import ACCENT, DARK, GREY, LIGHT, LIMIT, LINE, PALE, VIOLET, panels

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def memory(
    budgets: Mapping[str, Budget], gpus: Sequence[float] = (8, 16, 24), title: str = "Memory to train, predicted"
) -> Figure:
    """A stacked bar for each named `profiles.memory_budget`, and a line for the memory of each GPU, in GiB."""
    figure, [axes] = panels(8.5, 1.4 + 0.5 * len(budgets))
    groups = (  # terms that belong together, so that six shades are enough
        ("overhead", ("overhead", "process"), PALE, ""),
        ("weights", ("weights",), DARK, ""),
        ("adapter, gradients, optimiser", ("LoRA", "gradients", "optimiser"), ACCENT, "//"),
        ("activations", ("activations",), LIGHT, ".."),
        ("logits and loss", ("logits",), GREY, "xx"),
        ("key-value cache", ("key-value",), VIOLET, "\\\\"),
    )
    ends = np.zeros(len(budgets))
    for label, starts, color, hatch in groups:
        terms = ([term.bytes for term in each.terms if term.name.startswith(starts)] for each in budgets.values())
        sizes = np.array([sum(each) / GIB for each in terms])
        if sizes.any():
            axes.barh(list(budgets), sizes, left=ends, label=label, color=color, hatch=hatch, **LINE)
        ends = ends + sizes
    for number, total in enumerate(ends):
        axes.text(total, number, f" {total:.1f}", va="center", fontsize=9)
    for gpu in gpus:
        axes.axvline(gpu, **LIMIT)
        axes.text(gpu, len(budgets) - 0.35, f"{gpu:g} GB GPU", ha="center", fontsize=8)
    axes.set_ylim(len(budgets) - 0.15, -0.6)  # the first model on top
    axes.set_xlim(0, 1.08 * max([*gpus, *ends]))
    axes.set(title=title, xlabel="GiB")
    axes.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    return figure
