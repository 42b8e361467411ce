"""What people look at: tables, coloured masks, token tables, curves, histograms, before and after.

Functions return what they show. Tables and coloured text are HTML in a notebook and plain text elsewhere; figures are
matplotlib's. Colours differ in lightness, and every mark has a second sign (underline, hatch, label), so that all of
it reads in grey.
"""

from __future__ import annotations

import base64
import html
import io
import time
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import TYPE_CHECKING, Any

from course_utils import masking
from course_utils.budget import GIB, Budget
from course_utils.chat import Part
from course_utils.data import CheckReport, plain
from course_utils.masking import MaskAudit

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from transformers import PreTrainedTokenizerBase, TrainerCallback

DARK, LIGHT, ACCENT = "#1b4f72", "#a9cce3", "#b9770e"
CELL = "text-align:left;vertical-align:top;padding:2px 10px;white-space:pre-wrap"


@dataclass(frozen=True)
class Shown:
    """Something with two faces: HTML for a notebook, text for a terminal."""

    text: str
    html: str

    def __repr__(self) -> str:
        return self.text

    def _repr_html_(self) -> str:
        return self.html


def table(rows: Iterable[Mapping[str, Any] | Sequence[Any]], columns: Sequence[str] | None = None) -> Shown:
    """A table of dicts, or of sequences with `columns` as the heads.

    Args:
        rows: one dict or sequence per line. Floats are shown with three digits, tuples and lists with commas.
        columns: the heads; by default the keys of the first dict.
    """
    lines = [dict(row) if isinstance(row, Mapping) else dict(zip(columns or (), row, strict=True)) for row in rows]
    heads = list(columns or (lines[0] if lines else ()))
    cells = [[_cell(line.get(head, "")) for head in heads] for line in lines]
    widths = [max(map(_width, column)) for column in zip(heads, *cells, strict=True)]
    text = "\n".join(
        "  ".join(cell + " " * (width - _width(cell)) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in [heads, ["-" * width for width in widths], *cells]
    )
    head = "".join(f'<th style="{CELL}">{html.escape(name)}</th>' for name in heads)
    body = "".join(
        f"<tr>{''.join(f'<td style={CELL!r}>{html.escape(cell)}</td>' for cell in line)}</tr>" for line in cells
    )
    return Shown(text, f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>")


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3f}" if abs(value) < 100 else f"{value:.1f}"
    if isinstance(value, (tuple, list)):
        return ", ".join(map(str, value))
    return str(value)


def _width(text: str) -> int:
    """Columns that the text takes in a terminal: Chinese characters take two."""
    longest = max(text.split("\n"), key=len, default="")
    return sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in longest)


def _visible(text: str) -> str:
    """The text of a token with its white space made visible."""
    return text.replace("\u200b", "·ZWSP·").replace("\n", "⏎").replace("\t", "⇥") if text.strip() else repr(text)[1:-1]


def _pieces(ids: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> list[tuple[str, int]]:
    """(text, number of ids): one piece per id, but ids that share a character stay together."""
    pieces: list[tuple[str, int]] = []
    start = 0
    for end in range(1, len(ids) + 1):
        text = tokenizer.decode(list(ids[start:end]))
        if not text.endswith("\ufffd") or end == len(ids):
            pieces.append((text, end - start))
            start = end
    return pieces


# Each kind has a lightness, a line and a weight of its own, so that the five can be told apart in grey, too.
PART_STYLES: dict[str, str] = {
    "template": "color:#707070;border-bottom:2px solid transparent",
    "role": f"background:{DARK};color:white;font-weight:700;padding:0 3px;border-bottom:2px solid {DARK}",
    "tools": "background:#fdebd0;color:#6e2c00;border-bottom:2px dashed #6e2c00",
    "thinking": "background:#f2f3f4;color:#4a235a;font-style:italic;border-bottom:2px dotted #4a235a",
    "content": f"background:#d6eaf8;color:{DARK};font-weight:600;border-bottom:2px solid {DARK}",
}


def rendered(parts: Sequence[Part], tokenizer: PreTrainedTokenizerBase) -> Shown:
    """A rendered conversation in colour, and beside it the ids that the model gets, in the same colours.

    Args:
        parts: from `chat.parts`.
        tokenizer: the one that rendered them.

    Returns:
        Two columns; in a terminal a line for each part, with its kind, its text and its ids.
    """
    text = "".join(part.text for part in parts)
    made = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    of_part: list[list[int]] = [[] for _ in parts]
    place, end = 0, len(parts[0].text) if parts else 0
    for token, (start, _) in zip(made["input_ids"], made["offset_mapping"], strict=True):
        while start >= end:  # an id belongs to the part in which it begins
            place += 1
            end += len(parts[place].text)
        of_part[place].append(token)
    words, numbers, lines = [], [], []
    for part, ids in zip(parts, of_part, strict=True):
        style = PART_STYLES[part.kind]
        words.append(f'<span style="{style}" title="{part.kind}">{_escaped(part.text)}</span>')
        numbers += [f'<span style="{style}" title="{part.kind}">{token}</span>' for token in ids]
        lines.append((part.kind, _visible(part.text), " ".join(map(str, ids))))
    legend = " ".join(f'<span style="{style}">{kind}</span>' for kind, style in PART_STYLES.items())
    column = (
        "flex:1 1 0;min-width:18em;font-family:monospace;line-height:1.8;white-space:pre-wrap;overflow-wrap:anywhere"
    )
    body = f'<div style="{column}">{"".join(words)}</div><div style="{column}">{" ".join(numbers)}</div>'
    caption = f"{len(text)} characters, {len(made['input_ids'])} tokens"
    return Shown(
        f"{table(lines, columns=('kind', 'text', 'ids'))}\n[{caption}]",
        f'<div style="display:flex;gap:2em;flex-wrap:wrap">{body}</div><small>{caption}: {legend}</small>',
    )


def _escaped(text: str) -> str:
    """HTML of a text in which every line break can be seen."""
    return html.escape(text).replace("\n", "⏎<br>")


def tokens(ids: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> Shown:
    """The ids of a text and what each of them stands for."""
    added = set(tokenizer.get_added_vocab().values())
    rows = [
        {
            "place": place,
            "id": token,
            "text": _visible(tokenizer.decode([token])),
            "kind": "special" if token in added else "",
        }
        for place, token in enumerate(ids)
    ]
    return table(rows)


def mask(example: Mapping[str, Sequence[int]], tokenizer: PreTrainedTokenizerBase) -> Shown:
    """One example in colour: what is learned is dark on light and underlined, the rest is grey.

    Args:
        example: a dict with `input_ids` and `labels`, from `masking`.
        tokenizer: the model's.

    Returns:
        Coloured text; in a terminal the learned stretches stand between ⟦ and ⟧.
    """
    ids, labels = example["input_ids"], example["labels"]
    parts, plain = [], []
    place = 0
    inside = False
    for text, count in _pieces(ids, tokenizer):
        learned = labels[place] != masking.IGNORED
        style = (
            f"background:#d6eaf8;color:{DARK};font-weight:600;border-bottom:2px solid {DARK}"
            if learned
            else "color:#707070;border-bottom:2px solid transparent"
        )
        parts.append(f'<span style="{style};margin-right:1px" title="id {ids[place]}">{_escaped(text)}</span>')
        plain.append(("⟧" if inside and not learned else "⟦" if learned and not inside else "") + text)
        inside, place = learned, place + count
    share = sum(label != masking.IGNORED for label in labels) / max(len(labels), 1)
    caption = f"{len(ids)} tokens, {share:.0%} learned (underlined)"
    body = f'<div style="font-family:monospace;line-height:1.9;white-space:pre-wrap">{"".join(parts)}</div>'
    return Shown("".join(plain) + ("⟧" if inside else "") + f"\n[{caption}]", f"{body}<small>{caption}</small>")


def masks(ways: Mapping[str, Mapping[str, Sequence[int]]], tokenizer: PreTrainedTokenizerBase) -> Shown:
    """Several masks of one conversation side by side, one line per token.

    Args:
        ways: by the name that stands above it, a dict with `input_ids` and `labels`. The ids may differ, too.
        tokenizer: the model's.

    Returns:
        A table. "●" is learned, "·" is read only, and an empty place means that this way does not have the token at
        all. "≠" marks the lines where the ways differ.
    """
    lines: list[tuple[int, dict[str, bool]]] = []  # id, and for each way that has it: is it learned
    for way, example in ways.items():
        learned = [label != masking.IGNORED for label in example["labels"]]
        known = [token for token, _ in lines]
        merged: list[tuple[int, dict[str, bool]]] = []
        matcher = SequenceMatcher(None, known, example["input_ids"], autojunk=False)
        for _, start, end, new_start, new_end in matcher.get_opcodes():
            same = known[start:end] == list(example["input_ids"][new_start:new_end])
            old, new = lines[start:end], range(new_start, new_end)
            if same:
                merged += [(token, has | {way: learned[at]}) for (token, has), at in zip(old, new, strict=True)]
            else:
                merged += [*old, *((example["input_ids"][at], {way: learned[at]}) for at in new)]
        lines = merged
    signs = {True: "●", False: "·", None: ""}
    shades = {True: f"background:{DARK};color:white", False: "color:#707070", None: "background:#e5e7e9"}
    rows, body = [], []
    for token, has in lines:
        states = [has.get(way) for way in ways]
        differ = "≠" if len(set(states)) > 1 else ""
        text = _visible(tokenizer.decode([token]))
        rows.append((token, text, *(signs[state] for state in states), differ))
        cells = [f"<td style={CELL!r}>{token}</td><td style={CELL!r}>{html.escape(text)}</td>"]
        cells += [f'<td style="{CELL};text-align:center;{shades[state]}">{signs[state]}</td>' for state in states]
        body.append(f"<tr>{''.join(cells)}<td style={CELL!r}>{differ}</td></tr>")
    head = "".join(f'<th style="{CELL}">{html.escape(name)}</th>' for name in ("id", "token", *ways, ""))
    caption = "● learned, · read only, empty: not there"
    plain = table(rows, columns=("id", "token", *ways, "differs"))
    return Shown(
        f"{plain}\n[{caption}]",
        f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table><small>{caption}</small>",
    )


def conversation(messages: Sequence[Mapping[str, Any]]) -> Shown:
    """Messages as a small table: role and text, with thinking and tool calls named."""
    rows = []
    for message in messages:
        if message.get("reasoning_content"):
            rows.append({"role": f"{message['role']} (thinking)", "text": message["reasoning_content"]})
        for call in message.get("tool_calls") or ():
            function = call.get("function", call)
            rows.append({"role": f"{message['role']} (call)", "text": f"{function['name']}({function['arguments']})"})
        if message.get("content"):
            rows.append({"role": message["role"], "text": message["content"]})
    return table(rows)


def _figure(width: float, height: float, panels: int = 1) -> tuple[Figure, Any]:
    """A figure with its axes in one row; it shows itself as the last expression of a notebook's cell."""
    from matplotlib.figure import Figure

    class Picture(Figure):
        def _repr_png_(self) -> bytes:
            file = io.BytesIO()
            self.savefig(file, format="png", dpi=100)
            return file.getvalue()

    figure = Picture(figsize=(width, height), layout="constrained")
    axes = figure.subplots(1, panels)
    for panel in axes if panels > 1 else (axes,):
        panel.spines[["top", "right"]].set_visible(False)
    return figure, axes


def curve(log: Sequence[Mapping[str, float]], title: str = "Loss during training") -> Figure:
    """Training and validation loss over the steps.

    Args:
        log: `TrainResult.log`.
        title: what stands above it.
    """
    figure, axes = _figure(7, 3.2)
    for key, name, style in (
        ("loss", "training rows (each step)", {"color": LIGHT, "linewidth": 1.5}),
        ("eval_loss", "validation rows (never trained on)", {"color": DARK, "linewidth": 2, "marker": "o"}),
    ):
        points = [(entry["step"], entry[key]) for entry in log if key in entry]
        if points:
            axes.plot(*zip(*points, strict=True), label=name, **style)
    axes.set(title=title, xlabel="step", ylabel="loss (nats per learned token)", ylim=(0, None))
    axes.legend(frameon=False)
    return figure


def live(predicted_gib: float | None = None, every: float = 5.0) -> TrainerCallback:
    """A callback for `training.train` that keeps the loss curves in the notebook up to date while a run goes on.

    Below the curves stand the step, the learning rate, tokens per second, the peak of memory and the time left. The
    last picture stays. Outside a notebook nothing is shown.

    Args:
        predicted_gib: the budget (`profiles.memory_budget(…).gib`) to set the measured peak against.
        every: seconds between two pictures; drawing takes time from the run.
    """
    from IPython import get_ipython
    from IPython.display import display
    from transformers import TrainerCallback

    class Live(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.log: list[dict[str, float]] = []
            self.handle: Any = None
            self.drawn = 0.0

        def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **_: Any) -> None:
            self.log.append({"step": state.global_step, **logs})
            if time.monotonic() - self.drawn > every or "eval_loss" in logs:
                self.draw(state)

        def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.draw(state)

        def draw(self, state: Any) -> None:
            if not hasattr(get_ipython(), "kernel"):  # no notebook
                return
            figure = curve(self.log, f"Loss after {state.global_step} of {state.max_steps} steps")
            figure.supxlabel(_status(self.log, predicted_gib), fontsize=9)
            if self.handle is None:
                self.handle = display(figure, display_id=True)
            else:
                self.handle.update(figure)
            self.drawn = time.monotonic()

    return Live()


def _status(log: Sequence[Mapping[str, float]], predicted_gib: float | None) -> str:
    """The latest figures of a run as one line."""
    latest = {key: value for entry in log if "train_loss" not in entry for key, value in entry.items()}
    against = f" of {predicted_gib:.1f} predicted" if predicted_gib else ""
    forms = {
        "learning_rate": "learning rate {:.2g}",
        "tokens_per_second": "{:.0f} tokens/s",
        "memory_gib": "{:.1f} GiB" + against,
        "seconds_left": "{:.0f} s left",
    }
    return "   ·   ".join(form.format(latest[key]) for key, form in forms.items() if key in latest)


def lengths(
    counts: Mapping[str, Sequence[int]],
    limit: int | None = None,
    title: str = "Length of the rows",
    unit: str = "tokens",
) -> Figure:
    """Histogram of lengths, one hatched layer per source; of more than seven sources the smallest are put together.

    Args:
        counts: lengths per source.
        limit: the longest row that is trained on; a line marks it, unless it lies far beyond the longest row.
        title: what stands above it.
        unit: of the lengths.
    """
    figure, axes = _figure(7, 3)
    shades = [DARK, LIGHT, ACCENT, "#7f8c8d", "#d5d8dc", "#5b2c6f", "#196f3d"]
    hatches = ["", "//", "..", "xx", "", "\\\\", "++"]
    largest = sorted(counts, key=lambda name: -len(counts[name]))
    shown = {name: counts[name] for name in counts if len(counts) <= len(shades) or name in largest[: len(shades) - 1]}
    if len(shown) < len(counts):
        others = f"{len(counts) - len(shown)} others"
        shown[others] = [length for name in counts if name not in shown for length in counts[name]]
    _, _, layers = axes.hist(list(shown.values()), bins=30, stacked=True, label=list(map(_label, shown)))
    for number, layer in enumerate(layers if len(shown) > 1 else [layers]):
        for bar in layer:
            bar.set(facecolor=shades[number], hatch=hatches[number], edgecolor="white", linewidth=0.5)
    if limit is not None and limit <= 2 * max((length for row in counts.values() for length in row), default=0):
        axes.axvline(limit, color="black", linestyle="--", linewidth=1, label=f"limit: {limit}")
    elif limit is not None:
        axes.plot([], [], color="black", linestyle="--", linewidth=1, label=f"limit: {limit}, far to the right")
    axes.set(title=title, xlabel=unit, ylabel="rows")
    axes.yaxis.get_major_locator().set_params(integer=True)
    axes.legend(frameon=False)
    return figure


def _label(name: str) -> str:
    """A name for a legend, as it is: matplotlib begins a formula at "$" and leaves out what begins with "_"."""
    return ("\u200b" if name.startswith("_") else "") + (name or "no name").replace("$", r"\$")


def audit(report: MaskAudit, title: str = "What this set would teach") -> Figure:
    """An audit as a picture: how much of each row is learned, and how many rows have which fault.

    Args:
        report: from `masking.audit`.
        title: what stands above it.
    """
    figure, (left, right) = _figure(10, 3.4, panels=2)
    figure.suptitle(f"{title}: {report.learned_share:.0%} of {report.tokens:,} tokens are learned", fontweight="bold")
    shares = [
        100 * learned / max(length, 1) for learned, length in zip(report.learned_lengths, report.lengths, strict=True)
    ]
    left.hist(shares, bins=range(0, 101, 5), color=LIGHT, edgecolor=DARK)
    left.set(title="How much of a row is learned", xlabel="learned tokens of the row (%)", ylabel="rows")
    left.yaxis.get_major_locator().set_params(integer=True)
    counts = {what: len(rows) for what, rows in (report.faults | report.remarks).items()}
    colours = [DARK] * len(report.faults) + [LIGHT] * len(report.remarks)
    hatches = [""] * len(report.faults) + ["//"] * len(report.remarks)
    bars = right.barh(list(counts), list(counts.values()), color=colours, hatch=hatches, edgecolor="white")
    right.bar_label(bars, padding=3, fontsize=9)
    right.invert_yaxis()
    right.set_xlim(0, 1.15 * max(1, *counts.values()))
    right.xaxis.get_major_locator().set_params(integer=True)
    right.set(title="Faults (dark) and remarks (hatched)", xlabel=f"rows, of {report.rows}")
    return figure


PROBLEMS_SHOWN = 100  # on a page or a screen; the report holds all
EXAMPLES_SHOWN = 6
LONGEST_EXAMPLE = 400  # characters of a turn


def check(report: CheckReport) -> Shown:
    """A check of a data set as one page: summary, lengths, what is learned, every problem, repeats, some rows.

    Args:
        report: from `data.check`.

    Returns:
        A page; in a terminal the summary, the problems and the remarks.
    """
    summary = table(report.table(), columns=("what", "value"))
    listed = report.problems[:PROBLEMS_SHOWN]
    problems = table(
        [(item.file, item.row or "", item.line or "", item.field, item.reason) for item in listed],
        columns=("file", "row", "line", "field", "what was found, what was expected, what to do"),
    )
    more = f"… and {len(report.problems) - len(listed)} more." if len(report.problems) > len(listed) else ""
    lines = [repr(summary), "", *map(str, listed), *filter(None, [more]), *report.remarks]
    of_rows = f"Rows that cannot be used: {report.reported}."
    verdict = f"Problems: {len(report.problems)}. {of_rows}" if report.problems else "Nothing is wrong."
    figures = []
    if report.kept:
        counts, unit = (report.characters, "characters") if report.tokens is None else (report.tokens, "tokens")
        figures.append(lengths(counts, title="Length of the usable rows", unit=unit))
    if report.audit is not None and report.audit.rows:
        figures.append(audit(report.audit))
    parts = [f"<h2>{html.escape(report.name)}</h2><p>{verdict}</p>", summary.html, *map(image, figures)]
    if listed:
        parts.append(f"<h3>Problems</h3>{problems.html}<p>{more}</p>")
    if report.repeats:
        ids = report.rows["id"] if "id" in report.rows.column_names else range(report.kept)
        twins = [(ids[twin.row], ids[twin.first_row]) for twin in report.repeats[:EXAMPLES_SHOWN]]
        listed_twins = table(twins, columns=("row", "repeats")).html
        parts.append(f"<h3>Repeats of an earlier row: {len(report.repeats)}</h3>{listed_twins}")
    if report.kept:
        parts.append(f"<h3>Rows as they were read</h3>{table(_example_rows(report)).html}")
    parts += [f"<p>{html.escape(remark)}</p>" for remark in report.remarks]
    return Shown("\n".join(lines).rstrip(), "\n".join(parts))


def _example_rows(report: CheckReport) -> list[dict[str, str]]:
    """Rows from all over the set, their turns cut where they are long."""
    step = max(1, report.kept // EXAMPLES_SHOWN)
    found = []
    for row in report.rows.select(range(0, report.kept, step)[:EXAMPLES_SHOWN]):
        turns = [
            f"{name}{turn['role']}: {_shortened(_said(turn))}"
            for name, part in (("", "messages"), ("chosen ", "chosen"), ("rejected ", "rejected"))
            for turn in row.get(part) or ()
        ]
        said = "\n".join(turns) or _shortened(row.get("text") or "")
        found.append({"id": row.get("id") or "", "source": row["source"], "tags": ", ".join(row["tags"]), "row": said})
    return found


def _said(turn: Mapping[str, Any]) -> str:
    """A turn in one text: thinking in brackets, the reply, the calls."""
    thought = f"[{turn['reasoning_content']}] " if turn.get("reasoning_content") else ""
    return f"{thought}{turn['content'] or ''}{str(plain(turn['tool_calls'])) if turn.get('tool_calls') else ''}"


def _shortened(text: str) -> str:
    return text if len(text) <= LONGEST_EXAMPLE else f"{text[:LONGEST_EXAMPLE]} …"


def image(figure: Figure) -> str:
    """A figure as HTML that needs no other file."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=110)
    title = figure.get_suptitle() or figure.axes[0].get_title()
    source = base64.b64encode(file.getvalue()).decode()
    return f'<p><img alt="{html.escape(title)}" style="max-width:100%" src="data:image/png;base64,{source}"></p>'


def page(title: str, body: str) -> str:
    """HTML that stands alone."""
    return f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title>
<style>body {{font-family: sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem}}
table {{border-collapse: collapse}} th, td {{border-bottom: 1px solid #ccc}} img {{max-width: 100%}}</style>
{body}</html>
"""


def attention(masks: Mapping[str, Any], words: Sequence[str]) -> Figure:
    """Who may look at whom, as one square per mask: a dark field where the row's token sees the column's.

    Args:
        masks: by the name that stands above it, a boolean array of tokens x tokens.
        words: the text of each token.
    """
    size = 1.6 + 0.23 * len(words)
    figure, panels = _figure(size * len(masks), size + 0.5, panels=len(masks))
    for axes, (name, seen) in zip(panels if len(masks) > 1 else (panels,), masks.items(), strict=True):
        axes.pcolormesh(seen[::-1], cmap=_two_colours(), vmin=0, vmax=1, edgecolors="#d5d8dc", linewidth=0.5)
        places = [place + 0.5 for place in range(len(words))]
        axes.set_xticks(places, words, rotation=90, fontsize=8)
        axes.set_yticks(places, words[::-1], fontsize=8)
        axes.set(title=name, xlabel="can see this token (dark: yes)", ylabel="this token", aspect="equal")
        axes.tick_params(length=0)
    return figure


def _two_colours() -> Any:
    from matplotlib.colors import ListedColormap

    return ListedColormap(["white", DARK])


def memory(
    budgets: Mapping[str, Budget], cards: Sequence[float] = (8, 16, 24), title: str = "Memory to train, predicted"
) -> Figure:
    """A stacked bar per model against the memory of cards.

    Args:
        budgets: by the name that stands beside the bar, from `profiles.memory_budget`.
        cards: memory of the cards to compare with, in GiB; a line marks each.
        title: what stands above it.
    """
    figure, axes = _figure(8.5, 1.4 + 0.5 * len(budgets))
    groups = {  # terms that belong together, so that six shades are enough
        "overhead": ("overhead", "process"),
        "weights": ("weights",),
        "adapter, gradients, optimiser": ("LoRA", "gradients", "optimiser"),
        "activations": ("activations",),
        "logits and loss": ("logits",),
        "key-value cache": ("key-value",),
    }
    shades = ["#d5d8dc", DARK, ACCENT, LIGHT, "#7f8c8d", "#5b2c6f"]
    hatches = ["", "", "//", "..", "xx", "\\\\"]
    left = dict.fromkeys(budgets, 0.0)
    for (group, starts), shade, hatch in zip(groups.items(), shades, hatches, strict=True):
        sizes = {
            name: sum(term.bytes for term in budget.terms if term.name.startswith(starts)) / GIB
            for name, budget in budgets.items()
        }
        if any(sizes.values()):
            style = {"color": shade, "hatch": hatch, "edgecolor": "white", "linewidth": 0.5}
            axes.barh(list(sizes), list(sizes.values()), left=list(left.values()), label=group, **style)
        left = {name: left[name] + size for name, size in sizes.items()}
    for number, total in enumerate(left.values()):
        axes.text(total, number, f" {total:.1f}", va="center", fontsize=9)
    for card in cards:
        axes.axvline(card, color="black", linestyle="--", linewidth=1)
        axes.text(card, len(budgets) - 0.35, f"{card:g} GB card", ha="center", fontsize=8)
    axes.set_ylim(len(budgets) - 0.15, -0.6)  # the first model on top
    axes.set_xlim(0, 1.08 * max([*cards, *left.values()]))
    axes.set(title=title, xlabel="GiB")
    axes.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def comparison(rows: Sequence[Mapping[str, Any]]) -> Shown:
    """The before/after table, one line per source, with what the paired tests say.

    Args:
        rows: `Comparison.table()`.
    """

    def said(row: Mapping[str, Any], key: str) -> str:
        return f"{row[f'{key} before']:.2f} → {row[f'{key} after']:.2f}, {row['verdicts'][key]}"

    return table(
        {
            "source": row["source"],
            "prompts": row["prompts"],
            "perplexity": said(row, "perplexity"),
            "usable": said(row, "usable"),
            "its own figure": row["metric"],
            "before → after": said(row, "metric"),
        }
        for row in rows
    )


def changes(lines: Sequence[Mapping[str, Any]]) -> Shown:
    """Figures before and after with their verdicts, one per line; a word where there is none.

    Args:
        lines: `Comparison.changes()` or `Comparison.worse()`.
    """
    return table(lines) if lines else table([("nothing that a test tells apart",)], columns=("figure",))


def before_after(rows: Sequence[Mapping[str, Any]], title: str = "What fine-tuning did") -> Figure:
    """Two panels of paired bars: perplexity (lower is better) and each source's own rate (higher is better).

    The lines on the bars are 95 % intervals.

    Args:
        rows: `Comparison.table()`.
        title: what stands above it.
    """
    figure, (left, right) = _figure(10, 3.8, panels=2)
    figure.suptitle(title, fontweight="bold")
    rows = [row for row in rows if row["source"] != "all"]
    sources = [row["source"] for row in rows]
    named = [f"{row['source']}\n{row['metric']}" for row in rows]
    for axes, key, names, label in (
        (left, "perplexity", sources, "perplexity, log scale (lower is better)"),
        (right, "metric", named, "share of prompts (higher is better)"),
    ):
        for offset, when, colour, hatch in ((-0.2, "before", LIGHT, "//"), (0.2, "after", DARK, "")):
            values = [row[f"{key} {when}"] for row in rows]
            ends = [row["intervals"][f"{key} {when}"] for row in rows]
            places = [place + offset for place in range(len(rows))]
            below = [max(value - low, 0) for value, (low, _) in zip(values, ends, strict=True)]
            above = [max(high - value, 0) for value, (_, high) in zip(values, ends, strict=True)]
            axes.bar(places, values, width=0.38, label=when, color=colour, hatch=hatch, edgecolor="white")
            # A white line below the black one: it is seen on the dark bars, too.
            for width, line in ((3.5, "white"), (1.3, "black")):
                axes.errorbar(places, values, yerr=(below, above), fmt="none", ecolor=line, elinewidth=width, capsize=0)
            for place, value, (_, high) in zip(places, values, ends, strict=True):
                said = f"{value:.2f}" if key == "metric" else f"{value:.1f}"
                axes.annotate(said, (place, high), (0, 3), textcoords="offset points", ha="center", fontsize=8)
        axes.set_xticks(range(len(rows)), names, fontsize=8)
        axes.set_ylabel(label, fontsize=9)
    left.legend(frameon=False, title="lines: 95 % intervals", title_fontsize=8)
    left.set_yscale("log")  # sources differ by factors of a hundred
    left.set_ylim(1, 2 * max(row["intervals"][f"perplexity {when}"][1] for row in rows for when in ("before", "after")))
    right.set_ylim(0, 1.15)
    return figure


def replies(pairs: Iterable[tuple[Mapping[str, Any], Mapping[str, Any]]]) -> Shown:
    """Prompts with the reference and the replies before and after, side by side.

    Args:
        pairs: (row of the report before, row of the report after), the same prompt in both.
    """
    return table(
        {
            "prompt": old["prompt"],
            "reference": old["reference"],
            "before": _marked(old),
            "after": _marked(new),
        }
        for old, new in pairs
    )


def _marked(row: Mapping[str, Any]) -> str:
    return row["reply"] + ("" if row["stopped"] else " … (did not stop)")
