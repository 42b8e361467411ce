"""The page that `make lab` opens: the lessons with their exercises and extras, and the state of the environment.

Markdown, because JupyterLab opens its links as notebooks beside it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from course_utils import doctor
from course_utils.core.files import write_text
from course_utils.core.profiles import Profile
from course_utils.lessons.doctor import Diagnosis
from course_utils.lessons.progress import ExerciseError, Task, progress

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "runs/start.md"  # git ignores it

MINUTES = re.compile(r"^\| minutes[^|]*\| (?P<cpu>[\d.]+|not measured yet)", re.MULTILINE)


def write() -> Path:
    """Look at the machine and at what is there, and write the page.

    Returns:
        The page's path.

    Raises:
        ProfileError: COURSE_PROFILE names none.
    """
    found = doctor.examine(online=False)
    # Where something is wrong, the lessons' own module may not even be importable.
    needs = [] if found.faults else _needs(found.profile)
    try:
        tasks, remark = progress(ROOT / "exercises"), ""
    except ExerciseError as error:
        tasks, remark = [], str(error)
    return write_text(PAGE, page(found, needs, tasks, remark))


def _needs(profile: Profile) -> list[tuple[str, bool]]:
    from course_utils.lessons.setup import NEEDS, at_home

    return [(need.what, need.there(at_home(profile))) for need in NEEDS.values()]


def page(found: Diagnosis, needs: Sequence[tuple[str, bool]], tasks: Sequence[Task], remark: str = "") -> str:
    """The page as Markdown; its links are seen from `runs/`.

    Args:
        found: from `doctor.examine`.
        needs: what lessons find on disk, in words, and whether it is there.
        tasks: from `exercises.progress`.
        remark: why there are no tasks.
    """
    solved = sum(task.state == "solved" for task in tasks)
    lines = [
        "# Start here",
        "A click opens a lesson beside this page. *Shift+Enter* runs a cell and goes on to the next.",
        _table(("lesson", "minutes on two cores", "exercises", "extras"), _lessons(tasks)),
        _plain(remark) or f"Exercises: {solved} of {len(tasks)} tasks solved, as their notebooks were saved last.",
        "## This machine",
        _plain(" ".join(found.verdict)),
        "\n".join(
            f"- **{fact.state}** · {_plain(fact.name)}: {_plain(fact.value)} **{_plain(fact.remedy)}**"
            for fact in found.facts
            if fact.state != "ok"
        ).replace(" ****", ""),
    ]
    if needs:
        states = [(what, "there" if there else "not there; made by the lesson that needs it") for what, there in needs]
        lines += ["## What lessons find on disk", _table(("what (and how long it takes to make)", "state"), states)]
    lines.append("`make lab` writes this page anew.")
    return "\n\n".join(filter(None, lines)) + "\n"


def _lessons(tasks: Sequence[Task]) -> Iterable[tuple[str, str, str, str]]:
    """A row for each lesson: title, minutes, exercises, extras."""
    for path in sorted((ROOT / "notebooks").glob("[0-9]*.ipynb")):
        title, minutes = _opening(path)
        own = [task.state == "solved" for task in tasks if task.notebook == path.stem]
        extras = sorted((path.parent / "extras").glob(f"{path.stem[:2]}_*.ipynb"))
        yield (
            f"[{title}](../notebooks/{path.name})",
            minutes,
            f"[{sum(own)} of {len(own)} solved](../exercises/{path.name})",
            "<br>".join(
                f"[{_opening(extra)[0].partition(' · ')[2]}](../notebooks/extras/{extra.name})" for extra in extras
            ),
        )


def _opening(path: Path) -> tuple[str, str]:
    """A notebook's title and its minutes on two cores, from its first cell."""
    text = "".join(json.loads(path.read_text(encoding="utf-8"))["cells"][0]["source"])
    return text.partition("\n")[0].removeprefix("# "), MINUTES.search(text)["cpu"]


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (heads, ["---"] * len(heads), *rows))


def _plain(text: str) -> str:
    """Markdown of a text as it is."""
    return re.sub(r"([\\`*_{}\[\]<>#|~])", r"\\\1", text)


if __name__ == "__main__":
    write()
