"""Figures by matplotlib.

Colours differ in lightness, and every mark has a second sign (hatch, label), so that all of it reads in grey.
"""

from __future__ import annotations

import base64
import html
import io
import re
import textwrap
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from course_utils.core.language import is_chinese, said
from course_utils.text.masking import MaskAudit

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DARK, LIGHT, ACCENT = "#1b4f72", "#a9cce3", "#b9770e"
GREY, PALE, VIOLET, GREEN = "#7f8c8d", "#d5d8dc", "#5b2c6f", "#196f3d"
LINE = {"edgecolor": "white", "linewidth": 0.5}  # around bars that touch each other
HAN_FONT = re.compile(r"CJK|Han Sans|WenQuanYi|SimHei|YaHei|PingFang|Heiti")
INSTALL = "On Debian or Ubuntu: `apt-get install fonts-noto-cjk`, then remove matplotlib's cache of fonts."
LIMIT = {"color": "black", "linestyle": "--", "linewidth": 1}


def panels(width: float, height: float, number: int = 1) -> tuple[Figure, list[Any]]:
    """A figure of `width` by `height` inches with `number` axes in a row; it shows itself at the end of a cell.

    In Chinese where the reader wants that, and where a font with Chinese characters is installed.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    figure._repr_png_ = lambda: _png(figure, 100)  # what Jupyter asks for
    axes = list(figure.subplots(1, number, squeeze=False)[0])
    for each in axes:
        each.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _png(figure: Figure, dpi: int) -> bytes:
    if is_chinese():
        _in_chinese(figure)
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=dpi)
    return file.getvalue()


def _in_chinese(figure: Figure) -> None:
    """Labels as `language.said` has them; a warning where no font can show them."""
    from matplotlib.font_manager import fontManager
    from matplotlib.text import Text

    fonts = {font.name for font in fontManager.ttflist if HAN_FONT.search(font.name)}
    fonts = sorted(fonts, key=lambda name: ("Serif" in name, "SC" not in name, name))
    if not fonts:
        warnings.warn("No font with Chinese characters is installed, so figures stay English. " + INSTALL, stacklevel=4)
        return
    for text in figure.findobj(Text):
        text.set(text=said(text.get_text()), family=["DejaVu Sans", fonts[0]])


def curve(log: Sequence[Mapping[str, float]], title: str = "Loss during training") -> Figure:
    """Training and validation loss over the steps of a `TrainResult.log`; single steps jump, so their mean is there."""
    figure, [axes] = panels(7, 3.2)
    points = {key: [(entry["step"], entry[key]) for entry in log if key in entry] for key in ("loss", "eval_loss")}
    steps, each = zip(*points["loss"], strict=True) if points["loss"] else ((), ())
    means = [sum(each[max(0, end - 20) : end]) / min(end, 20) for end in range(10, len(each) + 1)]
    axes.plot(steps, each, label="training rows, each step", color=PALE, linewidth=1)
    axes.plot(steps[9:], means, "--", label="training rows, mean of the last 20 steps", color=ACCENT, linewidth=2)
    if points["eval_loss"]:
        looks = zip(*points["eval_loss"], strict=True)
        axes.plot(*looks, "o-", label="validation rows (never trained on)", color=DARK, linewidth=2)
    axes.set(title=title, xlabel="step", ylabel="loss (nats per learned token)", ylim=(0, None))
    axes.legend(edgecolor="none")
    return figure


def lengths(
    counts: Mapping[str, Sequence[int]],
    limit: int | None = None,
    title: str = "Length of the rows",
    unit: str = "tokens",
) -> Figure:
    """Histogram of lengths, one hatched layer per source; of more than seven sources the smallest are put together.

    A line marks `limit`, the longest row that is trained on, unless it lies far beyond the longest row.
    """
    figure, [axes] = panels(7, 3)
    looks = [(DARK, ""), (LIGHT, "//"), (ACCENT, ".."), (GREY, "xx"), (PALE, ""), (VIOLET, "\\\\"), (GREEN, "++")]
    shown = dict(counts)
    if len(counts) > len(looks):
        small = sorted(counts, key=lambda name: -len(counts[name]))[len(looks) - 1 :]
        shown = {name: counts[name] for name in counts if name not in small}
        shown[f"{len(small)} others"] = [length for name in small for length in counts[name]]
    # Each name as it is: matplotlib begins a formula at "$" and leaves out what begins with "_".
    names = ["\u200b" * name.startswith("_") + (name or "no name").replace("$", r"\$") for name in shown]
    _, _, layers = axes.hist(list(shown.values()), bins=30, stacked=True, label=names)
    for (shade, hatch), layer in zip(looks, layers if len(shown) > 1 else [layers], strict=False):
        for bar in layer:
            bar.set(facecolor=shade, hatch=hatch, **LINE)
    if limit is not None and limit <= 2 * max((length for row in counts.values() for length in row), default=0):
        axes.axvline(limit, label=f"limit: {limit}", **LIMIT)
    elif limit is not None:
        axes.plot([], [], label=f"limit: {limit}, far to the right", **LIMIT)
    axes.set(title=title, xlabel=unit, ylabel="rows")
    axes.yaxis.get_major_locator().set_params(integer=True)
    axes.legend(frameon=False)
    return figure


def audit(report: MaskAudit) -> Figure:
    """A `masking.audit` as a picture: how much of each row is learned, and how many rows have which fault."""
    figure, (left, right) = panels(10, 3.4, 2)
    learned = f"{report.learned_share:.0%} of {report.tokens:,} tokens are learned"
    figure.suptitle(f"What this set would teach: {learned}", fontweight="bold")
    pairs = zip(report.learned_lengths, report.lengths, strict=True)
    shares = [100 * learned / max(length, 1) for learned, length in pairs]
    left.hist(shares, bins=range(0, 101, 5), color=LIGHT, edgecolor=DARK)
    left.set(title="How much of a row is learned", xlabel="learned tokens of the row (%)", ylabel="rows")
    left.yaxis.get_major_locator().set_params(integer=True)
    counts = {what: len(rows) for what, rows in (report.faults | report.remarks).items()}
    colours, hatches = zip(*[(DARK, "")] * len(report.faults) + [(LIGHT, "//")] * len(report.remarks), strict=True)
    bars = right.barh(list(counts), list(counts.values()), color=colours, hatch=hatches, edgecolor="white")
    right.bar_label(bars, padding=3, fontsize=9)
    right.invert_yaxis()
    right.set_xlim(0, 1.15 * max(1, *counts.values()))
    right.xaxis.get_major_locator().set_params(integer=True)
    right.set(title="Faults (dark) and remarks (hatched)", xlabel=f"rows, of {report.rows}")
    return figure


def before_after(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """A `Comparison.table` as paired bars, with lines for 95 % intervals: perplexity (lower is better), and each
    source's own rate (higher is better).
    """
    rows = [row for row in rows if row["source"] != "all"]
    figure, (left, right) = panels(max(10, 2 * len(rows)), 4.2, 2)
    figure.suptitle("What fine-tuning did", fontweight="bold")
    sources = [row["source"] for row in rows]
    named = [f"{row['source']}\n{textwrap.fill(row['metric'], 12)}" for row in rows]
    for axes, key, digits, names, label in (
        (left, "perplexity", 1, sources, "perplexity, log scale (lower is better)"),
        (right, "metric", 2, named, "share of prompts (higher is better)"),
    ):
        for offset, when, colour, hatch in ((-0.2, "before", LIGHT, "//"), (0.2, "after", DARK, "")):
            places = np.arange(len(rows)) + offset
            values = np.array([row[f"{key} {when}"] for row in rows])
            low, high = np.array([row["intervals"][f"{key} {when}"] for row in rows]).T
            error = np.maximum([values - low, high - values], 0)
            axes.bar(places, values, width=0.38, label=when, color=colour, hatch=hatch, edgecolor="white")
            # A white line below the black one: it is seen on the dark bars, too.
            for width, line in ((3.5, "white"), (1.3, "black")):
                axes.errorbar(places, values, yerr=error, fmt="none", ecolor=line, elinewidth=width, capsize=0)
            for place, value, end in zip(places, values, high, strict=True):
                said = f"{value:.{digits}f}"
                axes.annotate(said, (place, end), (0, 3), textcoords="offset points", ha="center", fontsize=8)
        axes.set_xticks(range(len(rows)), names, fontsize=8)
        axes.set_ylabel(label, fontsize=9)
    left.legend(frameon=False, title="lines: 95 % intervals", title_fontsize=8)
    left.set_yscale("log")  # sources differ by factors of a hundred
    left.set_ylim(1, 2 * max(row["intervals"][f"perplexity {when}"][1] for row in rows for when in ("before", "after")))
    right.set_ylim(0, 1.15)
    return figure


def image(figure: Figure) -> str:
    """A figure as HTML that needs no other file."""
    title = html.escape(figure.get_suptitle() or figure.axes[0].get_title())
    source = base64.b64encode(_png(figure, 110)).decode()
    return f'<p><img alt="{title}" style="max-width:100%" src="data:image/png;base64,{source}"></p>'
