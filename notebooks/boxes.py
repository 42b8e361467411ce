"""Lesson 02's pictures: messages, their text, their tokens and their labels, as boxes in lanes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

from course_utils.lessons.figures import DARK, GREY, LIGHT, panels

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Kind = Literal["read", "written", "learned", "new", "asked"]
STYLES: dict[Kind, tuple[str, dict, dict]] = {  # what the legend says, the box, the text in it
    "written": ("what you write", {"facecolor": LIGHT, "edgecolor": DARK}, {"color": "black"}),
    "read": ("only read", {"facecolor": "white", "edgecolor": GREY}, {"color": "#404040"}),
    "learned": ("learned", {"facecolor": DARK, "edgecolor": DARK}, {"color": "white", "fontweight": "bold"}),
    "new": ("never seen in training", {"facecolor": "white", "edgecolor": DARK, "hatch": "//"}, {"color": "black"}),
    "asked": (
        "what comes next?",
        {"facecolor": "white", "edgecolor": "black", "linestyle": "--", "linewidth": 1.6},
        {"color": "black", "fontweight": "bold"},
    ),
}
"""Told apart in grey, too: by lightness, by a hatch, by a dashed line."""


class Box(NamedTuple):
    text: str
    width: float  # in tokens
    kind: Kind = "read"


def lanes(title: str, rows: Mapping[str, Sequence[Box]], *, size: float = 8.5, legend: bool = True) -> Figure:
    """Each row of boxes as a lane under its name, from left to right, all with the same tokens on the x-axis.

    Args:
        title: above the picture.
        rows: the name of each lane, and its boxes.
        size: of the texts in the boxes, in points.
        legend: say below what the kinds of boxes are, of those that occur.
    """
    from matplotlib.patches import FancyBboxPatch, Patch

    figure, [axes] = panels(10, 0.5 + 0.82 * len(rows) + 0.35 * legend)
    kinds: dict[Kind, None] = {}
    for place, (name, boxes) in enumerate(rows.items()):
        axes.text(0, place - 0.32, name, va="bottom", fontsize=9, style="italic")
        left = 0.0
        for box in boxes:
            _, face, ink = STYLES[box.kind]
            kinds[box.kind] = None
            shape = FancyBboxPatch(
                (left + 0.04, place - 0.26), box.width - 0.08, 0.56, boxstyle="round,pad=0,rounding_size=0.06", **face
            )
            axes.add_patch(shape)
            behind = {"facecolor": "white", "edgecolor": "none", "pad": 1.5} if box.kind == "new" else None
            centre = (left + box.width / 2, place + 0.02)
            axes.text(*centre, box.text, ha="center", va="center", fontsize=size, bbox=behind, **ink)
            left += box.width
    widest = max(sum(box.width for box in boxes) for boxes in rows.values())
    axes.set(xlim=(-0.05, widest + 0.05), ylim=(len(rows) - 0.55, -0.62), title=title, xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    if legend:
        marks = [Patch(label=STYLES[kind][0], **STYLES[kind][1]) for kind in STYLES if kind in kinds]
        figure.legend(handles=marks, loc="outside lower center", ncols=len(marks), frameon=False, fontsize=9)
    return figure
