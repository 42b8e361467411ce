"""How a diagnosis is shown: coloured lines in a terminal, tables in a notebook."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console, Group
from rich.table import Column, Table
from rich.text import Text

from course_utils.lessons import tables

if TYPE_CHECKING:
    from course_utils.core.profiles import Profile
    from course_utils.lessons.doctor import Diagnosis, ModelFit

SIGNS = {"ok": "ok", "note": "note", "fault": "FAULT"}
COLOURS = {"ok": "green", "note": "yellow", "fault": "bold red"}
MARKS = {
    "ok": "color:#196f3d",
    "note": "background:#fdebd0;color:#6e2c00;font-weight:600",
    "fault": "background:#f5b7b1;color:#78281f;font-weight:700",
}
FITS = {"fits": "green", "tight": "yellow", "trains only": "yellow"}
HEADS = ("model", "base in", "training", "lesson 05", "here")
BELOW = "Memory by calculation. Lesson 05 answers with the base in 16 bits. * the profile's model"


def text(found: Diagnosis) -> str:
    """The diagnosis without colours, for a plain terminal or a file."""
    console = Console(width=100, color_system=None, force_jupyter=False)
    with console.capture() as kept:
        console.print(terminal(found))
    return kept.get().rstrip()


def terminal(found: Diagnosis) -> Group:
    """The diagnosis with colours: verdict, facts, models."""
    columns = Column(no_wrap=True), Column(no_wrap=True, style="bold"), Column(ratio=1)
    facts = Table(*columns, box=None, show_header=False, padding=(0, 2, 0, 0))
    for fact in found.facts:
        value = Text(fact.value)
        if fact.remedy:
            value.append(f"\n-> {fact.remedy}", style="bold")
        facts.add_row(Text(SIGNS[fact.state], style=COLOURS[fact.state]), fact.name, value)
    models = Table(*HEADS, box=box.SIMPLE_HEAD, padding=(0, 2, 0, 0), show_edge=False)
    models.columns[2].justify = models.columns[3].justify = "right"
    for fit in found.models:
        *cells, state = _cells(fit, found.profile)
        own = "bold" if fit.model == found.profile.model else ""
        models.add_row(*cells, Text(state, style=FITS.get(fit.state, "dim")), style=own)
    first, *others = found.verdict
    verdict = Text(first, style="bold red" if found.faults else "bold green")
    return Group(verdict, *map(Text, others), "", facts, "", models, Text(BELOW, style="dim"))


def page(found: Diagnosis) -> str:
    """The same in HTML."""
    rows = []
    for fact in found.facts:
        remedy = f"<br><b>→ {html.escape(fact.remedy)}</b>" if fact.remedy else ""
        name = tables.cell(f"<b>{html.escape(fact.name)}</b>", "white-space:nowrap")
        value = tables.cell(html.escape(fact.value) + remedy)
        rows.append((tables.cell(SIGNS[fact.state], MARKS[fact.state]), name, value))
    first, *others = map(html.escape, found.verdict)
    verdict = "<br>".join([f"<b>{first}</b>", *others])
    models = tables.table([_cells(fit, found.profile) for fit in found.models], columns=HEADS).html
    return f"<p>{verdict}</p>{tables.grid((), rows)}<br>{models}<small>{html.escape(BELOW)}</small>"


def _cells(fit: ModelFit, profile: Profile) -> tuple[str, ...]:
    name = f"{fit.short} *" if fit.model == profile.model else fit.short
    return name, fit.base, f"{fit.train_gib:.1f} GiB", f"{fit.answer_gib:.1f} GiB", fit.state
