"""Pages of HTML: the check of a data set, an evaluation, and what stands around any page."""

from __future__ import annotations

import html
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from course_utils.core.language import said
from course_utils.data import CheckReport, plain
from course_utils.lessons import tables
from course_utils.lessons.figures import audit, before_after, image, lengths
from course_utils.lessons.tables import Shown, table

if TYPE_CHECKING:
    from course_utils.evals.evaluation import Comparison

PROBLEMS_SHOWN = 100  # on a page or a screen; the report holds all
EXAMPLES_SHOWN = 6
LONGEST_EXAMPLE = 400  # characters of a turn


def check(report: CheckReport) -> Shown:
    """A `data.check` as one page: summary, lengths, what is learned, every problem, repeats, some rows.

    In a terminal the summary, the problems and the remarks.
    """
    summary = table([(said(what), value) for what, value in report.table()], columns=("what", "value"))
    listed = report.problems[:PROBLEMS_SHOWN]
    more = f"… and {len(report.problems) - len(listed)} more." if len(report.problems) > len(listed) else ""
    of_rows = f"Rows that cannot be used: {report.reported}."
    verdict = said(f"Problems: {len(report.problems)}. {of_rows}" if report.problems else "Nothing is wrong.")
    parts = [f"<h2>{html.escape(report.name)}</h2><p>{verdict}</p>", summary.html]
    if report.kept:
        counts, unit = (report.characters, "characters") if report.tokens is None else (report.tokens, "tokens")
        parts.append(image(lengths(counts, title="Length of the usable rows", unit=unit)))
    if report.audit is not None and report.audit.rows:
        parts.append(image(audit(report.audit)))
    if listed:
        rows = [(item.file, item.row or "", item.line or "", item.field, said(item.reason)) for item in listed]
        problems = table(rows, ("file", "row", "line", "field", "what was found, what was expected, what to do"))
        parts.append(f"<h3>Problems</h3>{problems.html}<p>{more}</p>")
    if report.repeats:
        ids = report.rows["id"] if "id" in report.rows.column_names else range(report.kept)
        twins = [(ids[twin.row], ids[twin.first_row]) for twin in report.repeats[:EXAMPLES_SHOWN]]
        shown = table(twins, columns=("row", "repeats")).html
        parts.append(f"<h3>Repeats of an earlier row: {len(report.repeats)}</h3>{shown}")
    if report.kept:
        parts.append(f"<h3>Rows as they were read</h3>{table(_example_rows(report)).html}")
    parts += [f"<p>{html.escape(remark)}</p>" for remark in report.remarks]
    lines = [repr(summary), "", *map(str, listed), *filter(None, [more]), *report.remarks]
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
        shown = "\n".join(turns) or _shortened(row.get("text") or "")
        found.append({"id": row.get("id") or "", "source": row["source"], "tags": ", ".join(row["tags"]), "row": shown})
    return found


def _said(turn: Mapping[str, Any]) -> str:
    """A turn in one text: thinking in brackets, the reply, the calls."""
    thought = f"[{turn['reasoning_content']}] " if turn.get("reasoning_content") else ""
    return f"{thought}{turn['content'] or ''}{str(plain(turn['tool_calls'])) if turn.get('tool_calls') else ''}"


def _shortened(text: str) -> str:
    return text if len(text) <= LONGEST_EXAMPLE else f"{text[:LONGEST_EXAMPLE]} …"


def evaluation(compared: Comparison) -> Shown:
    """Part of a page: table, picture, replies side by side, what got worse; in a terminal the first and the last."""
    figures, worse, shows = tables.comparison(compared.table), tables.changes(compared.worse), compared.telling()
    replies = tables.replies(shows.values(), shows)
    return Shown(
        f"{figures}\n\nWhat got worse:\n{worse}",
        f"{figures.html}\n{image(before_after(compared.table))}\n<h2>Replies, side by side</h2>{replies.html}\n"
        f"<h2>What got worse</h2>{worse.html}",
    )


def page(title: str, body: str) -> str:
    """HTML that stands alone, light or dark as the reader's browser is; a figure's white ground is its card."""
    return f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title>
<style>:root {{color-scheme: light dark}} img {{max-width: 100%; border-radius: 6px}}
body {{font-family: sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem}}
table {{border-collapse: collapse}} th, td {{border-bottom: 1px solid #8888}}</style>
{body}</html>
"""
