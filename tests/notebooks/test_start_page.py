"""lab.start_page: the page leads to every notebook, and says what is wrong, what is there and what is solved."""

import re
from dataclasses import replace

import pytest
from conftest import ROOT

from course_utils import doctor
from course_utils.core.profiles import PROFILES
from course_utils.lessons.doctor import Diagnosis, Fact
from course_utils.lessons.progress import Task
from lab import start_page

NEEDS = [("the base model (a minute)", True), ("the trained adapter (10 minutes)", False)]
TASKS = [
    Task("01_download", "Read a name", "easy", "solved"),
    Task("01_download", "Count", "hard", "not yet", "…"),
    Task("02_templates_and_special_tokens", "Render", "easy", "solved"),
]


@pytest.fixture(scope="module")
def found() -> Diagnosis:
    return doctor.examine("tiny", online=False)


def test_every_notebook_has_a_link_that_leads_to_it(found):
    targets = re.findall(r"\]\(([^)]+)\)", start_page.page(found, NEEDS, TASKS))
    linked = {(ROOT / "runs" / target).resolve() for target in targets}
    there = {
        path
        for folder in ("notebooks", "notebooks/extras", "exercises")
        for path in (ROOT / folder).glob("[0-9]*.ipynb")
    }
    assert linked == there and len(targets) == len(there)


def test_what_is_solved_and_what_is_there(found):
    text = start_page.page(found, NEEDS, TASKS)
    _, minutes = start_page._opening(ROOT / "notebooks/01_download.ipynb")
    assert f"| {minutes} | [1 of 2 solved](../exercises/01_download.ipynb)" in text
    assert "[1 of 1 solved](../exercises/02_templates" in text and "2 of 3 tasks solved" in text
    assert "| the base model (a minute) | there |" in text
    assert "| the trained adapter (10 minutes) | not there; made by the lesson" in text
    assert found.verdict[0] in text.replace("\\", "")


def test_what_is_there_is_found_from_another_folder(tmp_path, monkeypatch):
    adapter = tmp_path / "home/runs/tiny/adapter/adapter_model.safetensors"
    adapter.parent.mkdir(parents=True)
    adapter.touch()
    monkeypatch.setenv("COURSE_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    made = [what for what, there in start_page._needs(PROFILES["tiny"]) if there]
    assert made == ["the trained adapter (10 minutes)"]


def test_a_fault_stands_there_as_text_and_what_is_fine_does_not(found):
    fault = Fact("torch", "broken <script> | [x](y)", "fault", "python install.py")
    text = start_page.page(replace(found, facts=(fault, Fact("disk", "plenty"))), [], TASKS)
    assert r"- **fault** · torch: broken \<script\> \| \[x\](y) **python install.py**" in text
    assert "plenty" not in text and "find on disk" not in text


def test_write_reads_the_machine_and_survives_a_broken_exercise(found, tmp_path, monkeypatch):
    for name in ("notebooks", "exercises", "models", "data"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.setattr(start_page, "ROOT", tmp_path)
    monkeypatch.setenv("COURSE_HOME", str(tmp_path))
    monkeypatch.setattr(doctor, "examine", lambda online: found)
    text = start_page.write().read_text(encoding="utf-8")
    assert re.search(r"\d of \d+ tasks solved", text) and "| the trained adapter (10 minutes) | not there" in text

    (tmp_path / "exercises").unlink()
    (tmp_path / "exercises").mkdir()
    (tmp_path / "exercises/01_download.ipynb").write_text("{")
    broken = replace(found, facts=(Fact("torch", "cannot be used", "fault"),))
    monkeypatch.setattr(doctor, "examine", lambda online: broken)
    monkeypatch.setattr(start_page, "_needs", lambda profile: pytest.fail("the lessons may not be importable"))
    text = start_page.write().read_text(encoding="utf-8")
    assert "cannot be read as a notebook" in text and "**fault** · torch" in text
