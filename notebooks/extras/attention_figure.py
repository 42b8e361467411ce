"""The picture of attention masks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from matplotlib.colors import ListedColormap

from course_utils.lessons.figures import DARK, PALE, panels

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def attention(masks: Mapping[str, Any], words: Sequence[str]) -> Figure:
    """Who may look at whom, as one square per mask: a dark field where the row's token sees the column's.

    Args:
        masks: by the name that stands above it, a boolean array of tokens x tokens.
        words: the text of each token.
    """
    size = 1.6 + 0.23 * len(words)
    figure, squares = panels(size * len(masks), size + 0.5, len(masks))
    places = [place + 0.5 for place in range(len(words))]
    for axes, (name, seen) in zip(squares, masks.items(), strict=True):
        two_colours = ListedColormap(["white", DARK])
        axes.pcolormesh(seen[::-1], cmap=two_colours, vmin=0, vmax=1, edgecolors=PALE, linewidth=0.5)
        axes.set_xticks(places, words, rotation=90, fontsize=8)
        axes.set_yticks(places, words[::-1], fontsize=8)
        axes.set(title=name, xlabel="can see this token (dark: yes)", ylabel="this token", aspect="equal")
        axes.tick_params(length=0)
    return figure
