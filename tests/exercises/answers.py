"""The solution notebooks as Python: the answers run in this process, without a kernel each."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import nbformat

ROOT = Path(__file__).resolve().parents[2]
EXERCISES = ROOT / "exercises"
NAMES = sorted(path.stem for path in (EXERCISES / "solutions").glob("[0-9]*.ipynb"))


def cells(path: Path) -> list[dict[str, Any]]:
    """The cells of a notebook, their sources as texts."""
    found = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [cell | {"source": "".join(cell["source"])} for cell in found]


def mark(cell: dict[str, Any], name: str) -> Any:
    """What nbgrader's mark `name` of a cell says."""
    return cell["metadata"].get("nbgrader", {}).get(name)


@dataclass(frozen=True)
class Answer:
    """The answer to a task: its name, the source of its cell, and what the notebook defines before it."""

    name: str
    source: str
    before: dict[str, Any]
    check: Callable[..., Any]

    def function(self, source: str) -> Callable[..., Any]:
        """What the answer's cell would define with another source."""
        names = dict(self.before)
        exec(compile(source, self.name, "exec"), names)
        return names[self.name]


@cache
def answers(notebook: str) -> list[Answer]:
    """Every answer of a solution notebook; its other cells are run, the checks are not."""
    checks = import_module(f"exercises.checks.lesson{notebook[:2]}")
    names: dict[str, Any] = {}
    found = []
    for cell in cells(EXERCISES / "solutions" / f"{notebook}.ipynb"):
        if cell["cell_type"] != "code" or mark(cell, "grade"):
            continue
        if name := mark(cell, "solution") and mark(cell, "grade_id"):
            found.append(Answer(name, cell["source"], dict(names), getattr(checks, name)))
        exec(compile(cell["source"], notebook, "exec"), names)
    return found


def run(notebook: nbformat.NotebookNode) -> None:
    """Run a notebook's cells in a kernel; errors stay in the outputs."""
    from nbclient import NotebookClient

    NotebookClient(notebook, timeout=300, allow_errors=True, resources={"metadata": {"path": str(EXERCISES)}}).execute()
