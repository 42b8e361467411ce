"""Named entities in colour, and their F1 for each label: what lesson 07 and its benchmark show."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping
from typing import Any

from course_utils.data.sources import CLUENER_LABELS
from course_utils.evals import metrics, statistics
from course_utils.lessons.tables import Shown

# One shade, one line and one sign a label would be ten things to learn, so the label itself stands beside its name.
RIGHT = "background:#d6eaf8;color:#1b4f72;border-bottom:2px solid #1b4f72"
MISSED = "background:#fdebd0;color:#6e2c00;border-bottom:2px dashed #6e2c00"
INVENTED = "background:#f2f3f4;color:#4a235a;border-bottom:2px dotted #4a235a;text-decoration:line-through"
KINDS = {"right": RIGHT, "missed": MISSED, "wrong": INVENTED}


def in_colour(rows: Iterable[tuple[str, str]]) -> Shown:
    """Sentences, and under each the entities of an answer in the order of the text, with their labels.

    Args:
        rows: (sentence, answer); an answer is JSON as in the course's NER rows.
    """
    lines, body = [], []
    for text, answer in rows:
        pairs = sorted(metrics.entities(answer), key=lambda pair: (text.find(pair[1]), pair))
        lines.append(f"{text}\n  " + (", ".join(f"{name} ({label})" for label, name in pairs) or "no entity"))
        marks = " ".join(_mark(label, name, "right") for label, name in pairs) or "<i>no entity</i>"
        body.append(f'<p style="line-height:2.2">{html.escape(text)}<br>{marks}</p>')
    return Shown("\n".join(lines), "".join(body))


def compared(rows: Iterable[Mapping[str, Any]]) -> Shown:
    """Sentences with what a model found in them: right, missed, and found although it is not due.

    Args:
        rows: of an `EvalReport`; the sentence is the last line of the prompt.
    """
    lines, body = [], []
    for row in rows:
        text = row["prompt"].rpartition("文本：")[2]
        due, found = metrics.entities(row["reference"]), metrics.entities(row["reply"])
        parts = {"right": due & found, "missed": due - found, "wrong": found - due}
        named = [(kind, label, name) for kind, pairs in parts.items() for label, name in sorted(pairs)]
        lines.append(f"{text}\n  " + (", ".join(f"{kind}: {name} ({label})" for kind, label, name in named) or "none"))
        marks = " ".join(_mark(label, name, kind) for kind, label, name in named) or "<i>no entity, none found</i>"
        body.append(f'<p style="line-height:2.2">{html.escape(text)}<br>{marks}</p>')
    legend = " ".join(f'<span style="{style}">{kind}</span>' for kind, style in KINDS.items())
    return Shown("\n".join(lines), f"{''.join(body)}<small>{legend}</small>")


def _mark(label: str, name: str, kind: str) -> str:
    return f'<span style="{KINDS[kind]};padding:0 3px">{html.escape(name)}</span><small> {html.escape(label)}</small>'


def by_label(rows: Iterable[Mapping[str, Any]]) -> dict[str, tuple[int, statistics.Interval]]:
    """Of each label, the most frequent first: how many entities are due, and strict F1 with its 95 % interval.

    Args:
        rows: of an `EvalReport`; "all" holds every label together.
    """
    pairs = [(metrics.entities(row["reply"]), metrics.entities(row["reference"])) for row in rows]
    figures = {}
    for label in ("all", *CLUENER_LABELS):
        own = [tuple({pair for pair in side if label in ("all", pair[0])} for side in sides) for sides in pairs]
        parts = [(2 * len(found & due), len(found) + len(due)) for found, due in own]
        if any(due for _, due in own):
            figures[label] = sum(len(due) for _, due in own), statistics.ratio(parts)
    return dict(sorted(figures.items(), key=lambda item: -item[1][0]))


def worst(rows: Iterable[Mapping[str, Any]], number: int) -> list[Mapping[str, Any]]:
    """The rows with the most entities missed or wrong, the worst first."""

    def faults(row: Mapping[str, Any]) -> int:
        return len(metrics.entities(row["reply"]) ^ metrics.entities(row["reference"]))

    return sorted(rows, key=faults, reverse=True)[:number]
