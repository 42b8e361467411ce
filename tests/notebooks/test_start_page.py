"""lab.start_page: the page leads to every notebook, and says what is wrong, there, solved and running."""

import re
import subprocess
import sys
from dataclasses import replace

import pytest
from conftest import ROOT

from course_utils import doctor
from course_utils.core.files import run_lock
from course_utils.core.profiles import PROFILES
from course_utils.lessons.doctor import Diagnosis, Fact
from course_utils.lessons.progress import Task, progress
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


def test_a_chinese_reader_gets_the_chinese_lessons(found, monkeypatch):
    monkeypatch.setenv("COURSE_LANG", "zh")
    text = start_page.page(found, NEEDS, progress(ROOT / "exercises/zh"))
    targets = {(ROOT / "runs" / target).resolve() for target in re.findall(r"\]\(([^)]+)\)", text)}
    folders = ("notebooks/zh", "notebooks/extras", "exercises/zh")
    assert targets == {path for folder in folders for path in (ROOT / folder).glob("[0-9]*")}
    assert "# 从这里开始" in text and "两个核" in text and "Start here" not in text and "0 of " not in text


def test_every_lesson_has_its_picture(found):
    text = start_page.page(found, NEEDS, TASKS)
    pictures = [(ROOT / "runs" / name).resolve() for name in re.findall(r'<img src="([^"]+)" width="\d+"', text)]
    assert pictures == sorted((ROOT / "docs/lessons").glob("*.png"))


def test_what_is_solved_and_what_is_there(found):
    text = start_page.page(found, NEEDS, TASKS)
    _, minutes = start_page._opening(ROOT / "notebooks/01_download.ipynb")
    assert f"| {minutes} | [1 of 2 solved](../exercises/01_download.ipynb)" in text
    assert "[1 of 1 solved](../exercises/02_templates" in text and f"{'■' * 13}{'□' * 7} 2 of 3 tasks solved" in text
    assert "What runs" not in text
    assert "| the base model (a minute) | there |" in text
    assert "| the trained adapter (10 minutes) | not there; made by the lesson" in text
    assert found.verdict[0] in text.replace("\\", "")


def test_trainings_that_go_on_were_stopped_or_are_finished(tmp_path, monkeypatch, found):
    monkeypatch.setenv("COURSE_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for name in ("cpu", "cpu/mine", "t4", "tiny"):
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / "run.json").write_text("{}")
    (tmp_path / "runs/cpu/checkpoints/checkpoint-37").mkdir(parents=True)
    (tmp_path / "runs/cpu/train_log.jsonl").write_text('{"loss": 1.0, "step": 41}\n{"step": 42, "lo')
    (tmp_path / "runs/cpu/.lock").write_text("process 1, since long ago")  # left by a process that was killed
    (tmp_path / "runs/t4/train_metrics.json").write_text("{}")
    with run_lock("runs/tiny"):
        stopped, mine, going, finished = lines = list(start_page.runs())
    assert stopped == "Stopped after step 42: cpu; `python -m course_utils train --profile cpu --resume` goes on."
    assert mine.startswith("Stopped after step 0: cpu/mine; the same call with `resume=True`")
    assert mine.endswith("begins anew.") and finished == "Finished: t4."
    assert re.fullmatch(r"A run goes on in runs/tiny \(process \d+, since .*\)\.", going)
    assert f"## What runs, what stopped\n\n- {stopped}\n- {mine}" in start_page.page(found, [], TASKS, going=lines)


@pytest.mark.parametrize(
    ("module", "shown"),
    [
        ("course_utils", "course_utils serve --port=8123"),
        ("transformers.cli.transformers", "transformers serve --port=8123"),
    ],
)
def test_a_server_that_runs_stands_there_and_its_watchers_do_not(module, shown, tmp_path):
    *packages, name = module.split(".")
    folder = tmp_path
    for package in packages:
        folder /= package
        folder.mkdir()
        (folder / "__init__.py").touch()  # else the real one is found
    (folder / f"{name}.py").write_text("print(flush=True); import time; time.sleep(60)")
    line = [sys.executable, "-m", module, "serve", "--port=8123"]
    with subprocess.Popen(line, cwd=tmp_path, stdout=subprocess.PIPE) as server:
        try:
            assert server.stdout.readline() == b"\n"
            listed = [each for each in start_page.processes() if "8123" in each]
        finally:
            server.kill()
    [only] = listed
    assert re.fullmatch(rf"Runs since \d\d:\d\d: `{shown}` \(process {server.pid}\)\.", only)
    for other in (f"bash -c '{' '.join(line)}'", f"timeout 9 {' '.join(line)}", "python -m course_utils doctor"):
        assert not start_page.WORK.match(other)


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
