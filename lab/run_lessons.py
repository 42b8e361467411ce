"""What `make course` does: run lessons 00 to 06 in order, write the report, print the before/after table.

`run_lessons.py 2` is `make course-2`: the lessons from 07 on, which need no table.
"""

from __future__ import annotations

import argparse
import html
import json
import os
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbconvert import HTMLExporter
from tqdm.auto import tqdm
from traitlets.config import Config

from course_utils import setup
from course_utils.core import paths, profiles
from course_utils.core.errors import CourseError
from course_utils.core.files import write_json, write_text
from course_utils.core.profiles import Profile
from course_utils.evals import evaluation
from course_utils.lessons import reports, tables
from course_utils.lessons.machine import STACK
from course_utils.lessons.setup import LessonError, run_dir

ROOT = Path(__file__).resolve().parents[1]


def notebooks(part: int) -> list[Path]:
    """The lessons of a part of the course in order: of the first up to 06, of the second from 07 on."""
    lessons = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))
    return [path for path in lessons if part == (1 if path.name < "07" else 2)]


def run(profile: Profile, part: int = 1) -> Path:
    """Execute the lessons of a part in order, with one progress bar; after the first part, write the report.

    Args:
        profile: what the lessons run on.
        part: 1 or 2, as of `notebooks`.

    Returns:
        The report's HTML file; beside it lie `report.json` and the executed notebooks. After the second part, the
        folder of the executed notebooks.

    Raises:
        LessonError: a cell failed; the message names notebook and cell, and the notebook is kept as far as it came.
    """
    lessons = {path: nbformat.read(path, as_version=4) for path in notebooks(part)}
    durations: dict[str, float] = {}
    total = sum(cell.cell_type == "code" for lesson in lessons.values() for cell in lesson.cells)
    with tqdm(total=total, unit="cell") as bar:
        for path, lesson in lessons.items():
            bar.set_description(path.stem)
            started = time.monotonic()
            _execute(path, lesson, profile, on_cell=bar.update)
            durations[path.stem] = round(time.monotonic() - started, 1)
    return _write_report(profile, durations) if part == 1 else run_dir(profile) / "notebooks"


def _execute(path: Path, lesson: Any, profile: Profile, on_cell: Callable[[], Any]) -> None:
    """Run one notebook in a kernel of its own; the executed copy lands in the run's folder as .ipynb and .html."""
    folder = run_dir(profile) / "notebooks"
    client = NotebookClient(
        lesson,
        timeout=None,
        kernel_name="python3",
        config=Config(KernelManager={"transport_encryption": "required"}),  # else each kernel warns of plain TCP
        resources={"metadata": {"path": str(path.parent)}},
        on_cell_executed=lambda cell, cell_index, execute_reply: on_cell(),
    )
    # A relative COURSE_HOME would be another folder for the kernel, which runs beside its notebook.
    variables = {paths.VARIABLE: str(paths.home())}
    if profiles.choose().name != profile.name:  # else the lessons choose the same, and say the machine's reason
        variables |= {profiles.VARIABLE: profile.name}
    try:
        client.execute(env=os.environ | variables)
    except CellExecutionError as error:
        failed = (
            number
            for number, cell in enumerate(lesson.cells)
            if any(output.output_type == "error" for output in cell.get("outputs", ()))
        )
        raise LessonError(
            f"{path.name}, cell {next(failed, None)}: {error.ename}: {error.evalue} The notebook as far as it came: "
            f"{folder / path.name}"
        ) from error
    finally:
        write_text(folder / path.name, nbformat.writes(lesson))
    write_text(folder / f"{path.stem}.html", HTMLExporter().from_notebook_node(lesson)[0])


def _write_report(profile: Profile, durations: dict[str, float]) -> Path:
    """Put the table, the figure, the durations and the circumstances on one page, and the figures into JSON."""
    out = run_dir(profile)
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
{reports.evaluation(compared).html}
<h2>The lessons as they ran</h2><ol>{"".join(links)}</ol><p><small>{html.escape(versions)}</small></p>"""
    return write_text(out / "report.html", reports.page("Before and after", body))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", type=int, choices=(1, 2), nargs="?", default=1)
    part = parser.parse_args().part
    ready = setup()
    print(ready)
    report = run(ready.profile, part)
    if part == 2:
        print(f"The lessons as they ran: {report}")
        return
    facts = json.loads(report.with_suffix(".json").read_text(encoding="utf-8"))
    print(f"\n{tables.comparison(facts['table'])}\n")
    print(f"{sum(facts['seconds'].values()) / 60:.1f} minutes. Report: {report}")


if __name__ == "__main__":
    try:
        main()
    except CourseError as error:
        sys.exit("\n".join([f"error: {error}", *getattr(error, "__notes__", ())]))
