"""The exercises: the copies come from their solutions, blank ones fail with a line that helps, wrong answers fail."""

import json
import os
import re
import signal
import subprocess
import sys
import warnings
from copy import deepcopy
from functools import cache
from importlib import import_module
from importlib.metadata import distribution
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

import generate
import nbformat
import pytest
from answers import EXERCISES, NAMES, ROOT, answers, cells, mark, run
from mutants import mutants
from typer.testing import CliRunner

from course_utils import cli
from course_utils.lessons.progress import HEADING, ExerciseError, progress
from exercises import checks
from exercises.checks import CheckFailed, Solved

HINTS = re.compile(r"<details><summary>Hint</summary>\n\n.+\n\n</details>", re.DOTALL)
SECONDS = 3  # of the processor, for a check of a mutant; one that loops for ever is noticed by that


class EndlessError(BaseException):
    """A mutant that does not come to an end."""


@pytest.fixture(autouse=True)
def same_folder(monkeypatch):
    monkeypatch.chdir(ROOT)


def solution(name):
    return EXERCISES / "solutions" / f"{name}.ipynb"


def wrong(name):
    return import_module(f"wrong_{name[:2]}")


@cache
def run_blank(name):
    """A learner's copy as it is after all of its cells were run."""
    notebook = nbformat.read(EXERCISES / f"{name}.ipynb", as_version=4)
    run(notebook)
    return notebook


@pytest.mark.parametrize("name", NAMES)
class TestNotebook:
    def test_the_copy_is_made_from_the_solution(self, name):
        copy = (EXERCISES / f"{name}.ipynb").read_text(encoding="utf-8")
        assert copy == generate.learners_copy(solution(name)), "run `make exercises`"
        assert "SOLUTION" not in copy

    def test_opening(self, name):
        found = cells(solution(name))
        first = found[0]["source"]
        assert first.startswith(f"# {name[:2]} · Exercises · ")
        for part in (f"exercises/{name}.ipynb", "colab-badge.svg", "**You will**", "**Before this**", "**Minutes**"):
            assert part in first, part
        opening = next(cell for cell in found if cell["cell_type"] == "code")
        assert "colab.prepare()\n" in opening["source"] and "setup(" in opening["source"]
        assert opening["metadata"]["jupyter"] == {"source_hidden": True}

    def test_tasks(self, name):
        """4 to 8 in three levels, the last one a stretch; each with example, hint, typed stub and check."""
        found = cells(solution(name))
        headings = [cell for cell in found if HEADING.search(cell["source"]) and cell["cell_type"] == "markdown"]
        levels = [HEADING.search(cell["source"])["level"] for cell in headings]
        assert 4 <= len(headings) <= 8 and {*levels} == {"easy", "medium", "hard"}
        assert headings[-1]["source"].startswith("## Stretch · ")
        for number, cell in enumerate(headings[:-1], start=1):
            assert cell["source"].startswith(f"## Task {number} · ")
        marked = [cell for cell in found if mark(cell, "solution") or mark(cell, "grade")]
        assert len(marked) == 2 * len(headings)
        points = {"easy": 1, "medium": 2, "hard": 3}
        for heading, level, answer, check in zip(headings, levels, marked[::2], marked[1::2], strict=True):
            task = mark(answer, "grade_id")
            assert "Example" in heading["source"] and HINTS.search(heading["source"]), heading["source"][:60]
            assert f"`{task}(" in heading["source"], "the text shows how it is called"
            assert re.search(rf"^def {task}\(.+\) -> .+:\n    \"\"\"", answer["source"], re.MULTILINE), task
            module = f"lesson{name[:2]}"
            assert check["source"] == f"from exercises.checks import {module}\n\n{module}.{task}({task})"
            assert mark(check, "grade_id") == f"check-{task}" and mark(check, "locked")
            assert mark(check, "points") == points[level]

    def test_cells(self, name):
        ids = []
        for before, cell in zip([{}, *cells(solution(name))], cells(solution(name)), strict=False):
            ids.append(cell["id"])
            assert {*cell["metadata"]} <= {"concept", "jupyter", "tags", "nbgrader"}
            if cell["cell_type"] == "code":
                assert before["cell_type"] == "markdown" and cell["execution_count"]
                assert len(cell["source"].splitlines()) <= 30
                text = json.dumps(cell["outputs"])
                assert not re.search(r"/(home|root|Users|tmp|work)/|\"output_type\": \"error\"", text)
            else:
                for target in re.findall(r"\]\(([^)#]+)\)", cell["source"]):
                    assert target.startswith("https://") or (EXERCISES / target).exists(), target
            assert all(len(line) <= 130 for line in cell["source"].splitlines() if "http" not in line)
        assert len(ids) == len({*ids})

    def test_right_answers_pass(self, name):
        for answer in answers(name):
            assert isinstance(answer.check(answer.function(answer.source)), Solved)

    def test_a_blank_copy_fails_at_the_checks_and_nowhere_else(self, name):
        for cell in run_blank(name).cells:
            if cell.cell_type != "code":
                continue
            errors = [output for output in cell.outputs if output.output_type == "error"]
            if not mark(cell, "grade"):
                assert not errors, cell.source
                continue
            [error] = errors
            task = mark(cell, "grade_id").removeprefix("check-")
            assert error.ename == "CheckFailed" and f"`{task}` is not written yet. Write this part" in error.evalue
            assert error.traceback == [f"Not yet: {error.evalue}"], "one line, no traceback"

    def test_wrong_answers_fail(self, name):
        for answer in answers(name):
            slips = wrong(name).WRONG[answer.name]
            assert len(slips) >= 4
            for what, right, instead in slips:
                assert right in answer.source, f"{answer.name}, {what}: the solution has changed"
                attempt = answer.function(answer.source.replace(right, instead))
                with pytest.raises(CheckFailed) as failed:
                    answer.check(attempt)
                    pytest.fail(f"{answer.name}: {what} went through")
                assert "\n" not in str(failed.value) and len(str(failed.value)) < 500, what

    def test_mutants_are_killed(self, name):
        survivors, total = {}, 0
        for answer in answers(name):
            for what, source in mutants(answer.source):
                total += 1
                if survives(answer, source):
                    survivors.setdefault(answer.name, {})[what] = ""
        listed = wrong(name).SURVIVORS
        assert {task: {*found} for task, found in survivors.items()} == {task: {*why} for task, why in listed.items()}
        assert all(reason for why in listed.values() for reason in why.values())
        alive = sum(map(len, survivors.values()))
        assert alive <= 0.05 * total, f"{alive} of {total} live"


def survives(answer, source):
    def give_up(number, frame):
        raise EndlessError

    before = signal.signal(signal.SIGPROF, give_up)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        answer.check(answer.function(source))
    except (CheckFailed, EndlessError):
        return False
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
    return True


def test_a_fresh_learners_path(tmp_path):
    """Exercise 02: blank, the failures, the answers pasted, all green; `progress` says so each time."""
    name = "02_templates_and_special_tokens"
    path = tmp_path / f"{name}.ipynb"
    notebook = nbformat.read(EXERCISES / path.name, as_version=4)

    def said():
        nbformat.write(notebook, path)
        shown = CliRunner().invoke(cli.app, ["progress", str(tmp_path)])
        assert shown.exit_code == 0
        return [task.state for task in progress(tmp_path)], shown.stdout

    states, text = said()
    assert {*states} == {"not run"} and "0 of 7 solved." in text
    notebook = deepcopy(run_blank(name))
    states, text = said()
    assert {*states} == {"not yet"} and "is not written yet" in text
    pasted = {answer.name: answer.source for answer in answers(name)}
    for cell in notebook.cells:
        if mark(cell, "solution"):
            cell.source = pasted[mark(cell, "grade_id")]
    run(notebook)
    states, text = said()
    assert {*states} == {"solved"} and "7 of 7 solved." in text


def test_an_answer_run_after_its_check_is_to_be_checked_again(tmp_path):
    name = NAMES[0]
    notebook = nbformat.read(solution(name), as_version=4)
    [first, *_] = [cell for cell in notebook.cells if mark(cell, "solution")]
    first.execution_count = 999
    nbformat.write(notebook, tmp_path / f"{name}.ipynb")
    assert next(task.state for task in progress(tmp_path)) == "check again"


def test_no_exercises_and_no_notebook(tmp_path):
    with pytest.raises(ExerciseError, match="holds no exercise"):
        progress(tmp_path)
    (tmp_path / "01_x.ipynb").write_text("{", encoding="utf-8")
    with pytest.raises(ExerciseError, match=r"01_x\.ipynb cannot be read"):
        progress(tmp_path)


def python(folder, code):
    """What Python prints in a folder, with no help from PYTHONPATH."""
    folder.mkdir(parents=True, exist_ok=True)
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return Path(done.stdout.strip())


IMPORT = "from exercises.checks import lesson01; from notebooks.extras import blind_vote; print(lesson01.__file__)"


def test_the_editable_install_finds_the_checks_from_nbgraders_folders(tmp_path):
    where = json.loads(distribution("course-utils").read_text("direct_url.json"))
    assert where["dir_info"]["editable"]
    found = python(tmp_path / "exercises/autograded/me/solutions", IMPORT)
    assert found == Path(url2pathname(urlsplit(where["url"]).path)) / "exercises/checks/lesson01.py"


def test_colabs_first_cell_finds_the_checks(tmp_path):
    found = python(tmp_path / "content", f"import sys; sys.path.insert(0, {str(ROOT)!r}); {IMPORT}")
    assert found == ROOT / "exercises/checks/lesson01.py"


def test_answers_are_not_written_over(monkeypatch, tmp_path):
    name = NAMES[0]
    (tmp_path / f"{name}.ipynb").write_bytes(solution(name).read_bytes())
    monkeypatch.setattr(generate, "EXERCISES", tmp_path)
    monkeypatch.setattr(generate, "ROOT", tmp_path)
    with pytest.raises(SystemExit, match="holds answers, which would be lost"):
        generate.main()


def test_a_librarys_warning_does_not_reach_the_learner():
    @checks.check
    def remarked(attempt):
        warnings.warn("an old switch", FutureWarning, stacklevel=1)

    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        remarked(None)
    assert not seen
