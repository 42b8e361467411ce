"""How far a learner is: read from the exercise notebooks as they were saved, without running them."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from course_utils.core.errors import CourseError

State = Literal["solved", "not yet", "check again", "not run"]

HEADING = re.compile(r"^## (?P<title>.+?) ?[(（](?P<level>easy|medium|hard|简单|中等|困难)[)）]$", re.MULTILINE)


class ExerciseError(CourseError):
    """Exercise notebooks that are not there, or that cannot be read."""


@dataclass(frozen=True)
class Task:
    """A task of an exercise notebook and what its check said last."""

    notebook: str  # its name without `.ipynb`
    title: str
    level: str  # "easy", "medium" or "hard", in the language of the notebook
    state: State  # "not yet": the check failed; "check again": it passed, and then the answer was run anew
    line: str = ""  # what the check said where it failed


def progress(folder: str | Path) -> list[Task]:
    """Every task of the exercise notebooks (`01_….ipynb` and so on, as saved) in a folder, in order.

    Raises:
        ExerciseError: there are none, or one is no notebook.
    """
    notebooks = sorted(Path(folder).glob("[0-9]*.ipynb"))
    if not notebooks:
        raise ExerciseError(f"{folder} holds no exercise (01_….ipynb); name the folder in which yours are.")
    return [task for path in notebooks for task in _tasks(path)]


def _tasks(path: Path) -> Iterator[Task]:
    try:
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    except (OSError, ValueError, KeyError) as error:
        raise ExerciseError(f"{path} cannot be read as a notebook ({error!r}); save it again in Jupyter.") from error
    heading, answered = None, 0
    for cell in cells:
        mark = cell["metadata"].get("nbgrader", {})
        if cell["cell_type"] == "markdown":
            heading = HEADING.search("".join(cell["source"])) or heading
        elif mark.get("solution"):
            answered = cell["execution_count"] or 0
        elif mark.get("grade") and heading:
            checked = cell["execution_count"]
            failed = [output["evalue"] for output in cell["outputs"] if output["output_type"] == "error"]
            state = "not run" if not checked else "not yet" if failed else "solved"
            if state == "solved" and answered > checked:
                state = "check again"
            yield Task(path.stem, heading["title"], heading["level"], state, "".join(failed[:1]))
