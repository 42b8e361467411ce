"""Run all lessons in order and write the report."""

from __future__ import annotations

import html
import json
import os
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from course_utils.core import profiles
from course_utils.core.files import write_json, write_text
from course_utils.core.paths import home
from course_utils.core.profiles import Profile
from course_utils.evals import evaluation
from course_utils.lessons import reports
from course_utils.lessons.doctor import STACK
from course_utils.lessons.pipeline import evaluation_body
from course_utils.lessons.setup import LessonError, run_dir


def notebooks() -> list[Path]:
    """The six lessons in order."""
    return sorted((home() / "notebooks").glob("0*.ipynb"))


def run(profile: Profile) -> Path:
    """Execute the six lessons in order, with one progress bar, and write the report.

    Args:
        profile: what the lessons run on.

    Returns:
        The report's HTML file. Beside it lie `report.json` and the executed notebooks.

    Raises:
        LessonError: a cell failed; the message names notebook and cell, and the notebook is kept as far as it came.
    """
    from tqdm.auto import tqdm

    out = run_dir(profile)
    lessons = {path: _read(path) for path in notebooks()}
    durations: dict[str, float] = {}
    total = sum(cell.cell_type == "code" for lesson in lessons.values() for cell in lesson.cells)
    with tqdm(total=total, unit="cell") as bar:
        for path, lesson in lessons.items():
            bar.set_description(path.stem)
            started = time.monotonic()
            _execute(path, lesson, out / "notebooks", profile, on_cell=lambda: bar.update(1))
            durations[path.stem] = round(time.monotonic() - started, 1)
    return _write_report(profile, out, durations)


def _read(path: Path) -> Any:
    import nbformat

    return nbformat.read(path, as_version=4)


def _execute(path: Path, lesson: Any, folder: Path, profile: Profile, *, on_cell: Callable[[], Any]) -> None:
    """Run one notebook in a kernel of its own; the executed copy is written to `folder` as .ipynb and .html."""
    import nbformat
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError
    from nbconvert import HTMLExporter

    def count(cell: Any, cell_index: int, execute_reply: Any) -> None:
        on_cell()

    client = NotebookClient(
        lesson,
        timeout=None,
        kernel_name="python3",
        resources={"metadata": {"path": str(path.parent)}},
        on_cell_executed=count,
    )
    try:
        client.execute(env=os.environ | {profiles.VARIABLE: profile.name})
    except CellExecutionError as error:
        number = next(
            (
                index
                for index, cell in enumerate(lesson.cells)
                if any(o.output_type == "error" for o in cell.get("outputs", ()))
            ),
            None,
        )
        raise LessonError(
            f"{path.name}, cell {number}: {error.ename}: {error.evalue} The notebook as far as it came: "
            f"{folder / path.name}"
        ) from error
    finally:
        write_text(folder / path.name, nbformat.writes(lesson))
    write_text(folder / f"{path.stem}.html", HTMLExporter().from_notebook_node(lesson)[0])


def _write_report(profile: Profile, out: Path, durations: dict[str, float]) -> Path:
    """Put the table, the figure, the durations and the circumstances on one page, and the figures into JSON."""
    compared = evaluation.Comparison.load(out / "evaluation.json")
    facts = {
        "profile": profile.name,
        "reason": profile.reason,
        "model": profile.model,
        "seed": profile.train.seed,
        "versions": {name: version(name) for name in STACK},
        "seconds": durations,
        "table": compared.table,
        "worse": compared.worse,
        "perplexities": compared.perplexities,
        "training": json.loads((out / "train_metrics.json").read_text(encoding="utf-8"))["metrics"],
    }
    write_json(out / "report.json", facts)
    links = [
        f'<li><a href="notebooks/{name}.html">{html.escape(name)}</a>, {seconds:.0f} s</li>'
        for name, seconds in durations.items()
    ]
    versions = " · ".join(f"{name} {number}" for name, number in facts["versions"].items())
    body = f"""<h1>What fine-tuning did to {html.escape(profile.model)}</h1>
<p>Held-out rows, greedy replies, seed {profile.train.seed}. {html.escape(profile.reason)}</p>
{evaluation_body(compared.table, compared.worse)}
<h2>The lessons as they ran</h2><ol>{"".join(links)}</ol><p><small>{html.escape(versions)}</small></p>"""
    return write_text(out / "report.html", reports.page("Before and after", body))
