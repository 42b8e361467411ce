"""The page that `make lab` opens: the lessons, how far you are, what runs, and the state of the environment.

Markdown, because JupyterLab opens its links as notebooks beside it.
"""

from __future__ import annotations

import json
import re
import shlex
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import psutil

from course_utils import doctor
from course_utils.core.files import FolderInUse, run_lock, write_text
from course_utils.core.language import CHINESE, is_chinese, said
from course_utils.core.paths import home, seen_from_here
from course_utils.core.profiles import PROFILES, Profile
from course_utils.lessons.doctor import Diagnosis
from course_utils.lessons.progress import ExerciseError, Task, progress

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "runs/start.md"  # git ignores it

BAR = 20  # signs
PICTURE = 160  # pixels across; as an attribute, because JupyterLab's sanitizer drops a style's width
# Of the course's commands and servers, those that run for minutes. A notebook's training is told by its folder's lock.
WORK = re.compile(
    r"\S*python\S* (?:-u )?(?:-m (?P<what>course_utils (?:train|mine|evaluate|merge|chat|serve)\b.*)"
    r"|-m transformers\.cli\.(?P<server>transformers serve\b.*)|\S*/(?P<vllm>vllm serve\b.*))"
)

MINUTES = re.compile(r"^\| (?:minutes|用时)[^|]*\| (?P<cpu>[\d.]+|not measured yet|尚未测量)", re.MULTILINE)


def write() -> Path:
    """Look at the machine and at what is there, and write the page.

    Returns:
        The page's path.

    Raises:
        ProfileError: COURSE_PROFILE names none.
    """
    found = doctor.examine(online=False)
    # Where something is wrong, the lessons' own module may not even be importable.
    needs, going = ([], []) if found.faults else (_needs(found.profile), [*processes(), *runs()])
    try:
        tasks, remark = progress(ROOT / "exercises" / _edition()), ""
    except ExerciseError as error:
        tasks, remark = [], str(error)
    return write_text(PAGE, page(found, needs, tasks, remark, going))


def _edition() -> str:
    """The folder of the reader's notebooks, below that of the English ones."""
    return CHINESE if is_chinese() else ""


def _needs(profile: Profile) -> list[tuple[str, bool]]:
    from course_utils.lessons.setup import NEEDS, at_home

    return [(need.what, need.there(at_home(profile))) for need in NEEDS.values()]


def processes() -> Iterator[str]:
    """The course's commands and servers that this user runs now, as lines of Markdown."""
    me = psutil.Process().username()
    for process in psutil.process_iter(["cmdline", "create_time", "username"]):
        work = WORK.match(shlex.join(process.info["cmdline"] or ()))
        if work and process.info["username"] == me:
            what = work[work.lastgroup].replace(f"{home()}/", "").replace("`", "")
            since = time.strftime("%H:%M", time.localtime(process.info["create_time"]))
            yield said(f"Runs since {since}: `{what}` (process {process.pid}).")


def runs() -> Iterator[str]:
    """The trainings in `runs/` as lines of Markdown: those that go on, those that were stopped, and the finished."""
    folder, finished = home() / "runs", []
    for run in sorted(record.parent for record in folder.rglob("run.json")):
        name = run.relative_to(folder).as_posix()
        if holder := _holder(run):
            yield _plain(holder)
        elif (run / "train_metrics.json").is_file():
            finished.append(name)
        else:
            log = run / "train_log.jsonl"
            steps = re.findall(r'"step": (\d+)', log.read_text(encoding="utf-8")) if log.is_file() else []
            goes_on = said("goes on" if any((run / "checkpoints").glob("checkpoint-*")) else "begins anew")
            how = f"`python -m course_utils train --profile {name} --resume`"
            how = how if name in PROFILES else said("the same call with `resume=True` (of a command: `--resume`)")
            yield said(f"Stopped after step {steps[-1] if steps else 0}: {_plain(name)}; {how} {goes_on}.")
    if finished:
        yield said(f"Finished: {_plain(', '.join(finished))}.")


def _holder(run: Path) -> str:
    """Who trains in a run's folder, as the lock says it; "" where nobody does."""
    try:
        if (run / ".lock").is_file():  # a killed process leaves it behind
            with run_lock(seen_from_here(run)):
                pass
    except FolderInUse as error:
        return str(error).partition(" Wait")[0]
    return ""


def page(
    found: Diagnosis,
    needs: Sequence[tuple[str, bool]],
    tasks: Sequence[Task],
    remark: str = "",
    going: Sequence[str] = (),
) -> str:
    """The page as Markdown; its links are seen from `runs/`.

    Args:
        found: from `doctor.examine`.
        needs: what lessons find on disk, in words, and whether it is there.
        tasks: from `exercises.progress`.
        remark: why there are no tasks.
        going: from `processes` and `runs`.
    """
    solved = sum(task.state == "solved" for task in tasks)
    done = round(BAR * solved / max(len(tasks), 1))
    bar = "■" * done + "□" * (BAR - done)
    lines = [
        f"# {said('Start here')}",
        _plain(remark)
        or f"{bar} {said(f'{solved} of {len(tasks)} tasks solved, as their notebooks were saved last.')}",
        said("A click opens a lesson beside this page. *Shift+Enter* runs a cell and goes on to the next."),
        _table(map(said, ("", "lesson", "minutes on two cores", "exercises", "extras")), _lessons(tasks)),
        *([f"## {said('What runs, what stopped')}", "\n".join(f"- {line}" for line in going)] if going else []),
        f"## {said('This machine')}",
        _plain(" ".join(map(said, found.verdict))),
        "\n".join(
            f"- **{said(fact.state)}** · {_plain(said(fact.name))}: {_plain(said(fact.value))} "
            f"**{_plain(said(fact.remedy))}**"
            for fact in found.facts
            if fact.state != "ok"
        ).replace(" ****", ""),
    ]
    if needs:
        states = [
            (said(what), said("there" if there else "not there; made by the lesson that needs it"))
            for what, there in needs
        ]
        heads = map(said, ("what (and how long it takes to make)", "state"))
        lines += [f"## {said('What lessons find on disk')}", _table(heads, states)]
    lines.append(said(f"As of {time.strftime('%H:%M')}; `make lab` writes this page anew."))
    return "\n\n".join(filter(None, lines)) + "\n"


def _lessons(tasks: Sequence[Task]) -> Iterable[tuple[str, ...]]:
    """A row for each lesson: README.md's picture of it, title, minutes, exercises, extras."""
    for path in sorted((ROOT / "notebooks" / _edition()).glob("[0-9]*.ipynb")):
        title, minutes = _opening(path)
        own = [task.state == "solved" for task in tasks if task.notebook == path.stem]
        extras = sorted((ROOT / "notebooks/extras").glob(f"{path.stem[:2]}_*.ipynb"))
        name = path.relative_to(ROOT / "notebooks").as_posix()
        yield (
            f'<img src="../docs/lessons/{path.stem[:2]}.png" width="{PICTURE}" alt="{title}">',
            f"[{title}](../notebooks/{name})",
            minutes,
            f"[{said(f'{sum(own)} of {len(own)} solved')}](../exercises/{name})",
            "<br>".join(
                f"[{_opening(extra)[0].partition(' · ')[2]}](../notebooks/extras/{extra.name})" for extra in extras
            ),
        )


def _opening(path: Path) -> tuple[str, str]:
    """A notebook's title and its minutes on two cores, from its first cell."""
    text = "".join(json.loads(path.read_text(encoding="utf-8"))["cells"][0]["source"])
    return text.partition("\n")[0].removeprefix("# "), MINUTES.search(text)["cpu"]


def _table(heads: Iterable[str], rows: Iterable[Sequence[str]]) -> str:
    heads = list(heads)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (heads, ["---"] * len(heads), *rows))


def _plain(text: str) -> str:
    """Markdown of a text as it is."""
    return re.sub(r"([\\`*_{}\[\]<>#|~])", r"\\\1", text)


if __name__ == "__main__":
    write()
