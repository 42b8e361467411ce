"""course_utils.lessons and cli: what a lesson needs is there or made, errors are one line, the run leaves a report."""

import json
import shutil
import subprocess
import sys
import weakref
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest
from conftest import ROOT, compared
from typer.testing import CliRunner

from course_utils import budget, cli, evaluation, export, modeling, pipeline, profiles, tables
from course_utils.core import paths
from course_utils.core.hardware import Hardware
from course_utils.hub import DownloadError
from course_utils.lessons import setup
from course_utils.lessons.setup import LessonError, Need
from lab import run_lessons


@pytest.mark.parametrize(("folder", "seen"), [("", ""), ("notebooks", "../"), ("notebooks/extras", "../../")])
def test_setup_finds_the_clone_from_any_folder_in_it(monkeypatch, folder, seen):
    monkeypatch.chdir(ROOT / folder)
    ready = setup.setup(profile="tiny")
    assert str(ready.model_dir) == f"{seen}models/smollm2-135m-instruct" and str(ready.run_dir) == f"{seen}runs/tiny"
    assert ready.profile.train.output_dir == str(ready.run_dir)
    assert "profile" in repr(ready) and "was asked for" in repr(ready)
    assert str(ROOT) not in repr(ready) + ready._repr_html_()
    assert Path.cwd() == ROOT / folder


def test_outside_of_the_clone_setup_finds_it_too(monkeypatch, tmp_path):
    monkeypatch.delenv(paths.VARIABLE, raising=False)
    monkeypatch.chdir(tmp_path)
    ready = setup.setup(["data"], profile="tiny")
    assert ready.model_dir.samefile(ROOT / "models/smollm2-135m-instruct")
    assert ready.run_dir.resolve() == (ROOT / "runs/tiny").resolve() and ready.home.samefile(ROOT)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("file", "settings", "folder"),
    [
        (None, {}, "runs/tiny"),
        ("my.jsonl", {}, "runs/own/my"),
        ("my.jsonl", {"output_dir": "runs/x"}, "runs/x"),
        ("my.jsonl", {"output_dir": str(ROOT / "runs/y")}, "runs/y"),
    ],
)
@pytest.mark.parametrize("here", ["notebooks/extras", None])
def test_train_writes_into_the_clone_wherever_it_is_called(monkeypatch, tmp_path, file, settings, folder, here):
    monkeypatch.chdir(ROOT / here if here else tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(settings), encoding="utf-8")
    trained = []
    monkeypatch.setattr(setup, "setup", lambda needs, profile, model: None)
    monkeypatch.setattr(cli, "is_first_process", lambda: False)
    monkeypatch.setattr(pipeline, "train_adapter", lambda profile, **_: trained.append(profile))
    monkeypatch.setattr(pipeline, "own_rows", lambda *_: None)
    monkeypatch.setattr(cli, "_tokenizer", lambda profile: None)
    cli.train("tiny", None, tmp_path / "config.json", file and tmp_path / file)
    assert Path(trained[0].train.output_dir).resolve() == (ROOT / folder).resolve()


OTHER = "Qwen/Qwen3-0.6B"


@pytest.fixture
def other(monkeypatch):
    """Everything is there and nothing is loaded or computed; gives what train, evaluate, merge and chat were asked."""
    asked = {}
    result = {"table": [], "worse": [], "metrics": {}, "adapter_dir": "", "path": ""}
    result["adapter"] = SimpleNamespace(layers=1, remarks=[])

    def note(name):
        return lambda *given, **_: asked.update({name: given}) or SimpleNamespace(**result)

    there = {name: replace(need, there=lambda profile: True) for name, need in setup.NEEDS.items()}
    monkeypatch.setattr(setup, "NEEDS", there)
    monkeypatch.setattr(pipeline, "train_adapter", note("train"))
    monkeypatch.setattr(pipeline, "evaluate_adapter", note("evaluate"))
    monkeypatch.setattr(cli.reports, "evaluation", lambda *_: "")
    monkeypatch.setattr(export, "merge_adapter", note("merge"))
    monkeypatch.setattr(modeling, "load_model", note("chat"))
    monkeypatch.setattr(cli.hub, "download", Path)
    monkeypatch.setattr(cli.hub, "model_config", lambda name: budget.CONFIGS[name])
    monkeypatch.setattr(cli, "detect_hardware", lambda: MACHINE)
    return asked


MACHINE = Hardware("cpu", None, 0.0, None, True, 24.0, 2, 100.0)


def say(command, *arguments):
    return CliRunner().invoke(cli.app, [command, "--profile", "tiny", *arguments])


def test_train_evaluate_merge_and_chat_with_another_model_find_each_other(other):
    for command in ("train", "evaluate", "merge", "chat"):
        first = say(command, "--model", OTHER).stdout.splitlines()[0]
        assert first.startswith(f"{OTHER} needs ") and first.endswith(
            "with profile tiny; this machine has 22.5 GiB for it: fits."
        )
    (trained,), (evaluated,), (base, adapter, merged), (talked_to, profile) = other.values()
    run = Path(trained.train.output_dir)
    assert run.resolve() == (ROOT / "runs/tiny/Qwen--Qwen3-0.6B").resolve()
    assert trained.model == evaluated.model == profile.model == str(base) == OTHER
    assert evaluated.train == trained.train == replace(profiles.PROFILES["tiny"].train, output_dir=str(run))
    assert (adapter, merged, talked_to) == (run / "adapter", run / "merged", run / "merged")


def test_evaluate_looks_where_train_put_the_run_of_the_same_file(other, monkeypatch):
    monkeypatch.setattr(pipeline, "own_rows", lambda *_: ([], ["held back"]))
    monkeypatch.setattr(cli, "_tokenizer", lambda profile: None)
    for command in ("train", "evaluate"):
        say(command, "--model", OTHER, "--data", "my.jsonl")
    assert other["train"][0] == other["evaluate"][0]


def test_the_profiles_own_model_stays_where_it_is(other, monkeypatch):
    monkeypatch.setattr(pipeline, "own_rows", lambda *_: None)
    monkeypatch.setattr(cli, "_tokenizer", lambda profile: None)
    say("train", "--model", profiles.PROFILES["tiny"].model)
    say("train", "--model", OTHER, "--data", "my.jsonl")
    assert Path(other["train"][0].train.output_dir).resolve() == (ROOT / "runs/own/my/Qwen--Qwen3-0.6B").resolve()
    assert setup.with_model(profiles.PROFILES["tiny"], profiles.PROFILES["tiny"].model) is profiles.PROFILES["tiny"]


@pytest.mark.parametrize(
    ("ram", "said"),
    [(24.0, "22.5 GiB for it: fits."), (6.9, "5.4 GiB for it: WARNING, too large."), (7.2, "5.7 GiB for it: tight.")],
)
def test_the_memory_is_told_before_anything_is_made(other, monkeypatch, ram, said):
    monkeypatch.setattr(cli, "detect_hardware", lambda: replace(MACHINE, ram_gib=ram))
    monkeypatch.setattr(setup, "setup", lambda *_: 1 / 0)  # where all that is missing would be made
    run = say("merge", "--model", OTHER)
    assert said in run.stdout and not other


def test_a_model_of_another_kind_is_said_and_tried(other, monkeypatch):
    monkeypatch.setattr(cli.hub, "model_config", lambda name: {"num_experts": 8})
    run = say("merge", "--model", "Qwen/Qwen3-30B-A3B")
    assert "not known: This config is of a mixture of experts" in run.stdout and other["merge"]


def test_without_the_option_nothing_is_told(other, monkeypatch):
    monkeypatch.setattr(cli.hub, "model_config", lambda name: pytest.fail("asked"))
    assert "GiB" not in say("merge").stdout and other["merge"][1].parent.name == "tiny"


def test_a_model_that_cannot_be_meant_is_refused():
    run = say("train", "--model", "qwen")
    assert isinstance(run.exception, DownloadError) and "no model or tokenizer named 'qwen'" in str(run.exception)


def test_what_makes_a_need_is_told_the_model(monkeypatch):
    ran = []
    done = subprocess.CompletedProcess([], 0, "")
    monkeypatch.setattr(setup.subprocess, "run", lambda command, **_: ran.append(command[3:]) or done)
    setup._command("train")(setup.with_model(profiles.PROFILES["tiny"], OTHER))
    assert ran == [["train", "--profile", "tiny", "--model", OTHER]]


def test_an_unknown_need_says_what_there_is():
    with pytest.raises(LessonError, match="tokenizers, model, data"):
        setup.setup(["coffee"])


def test_missing_needs_are_made_in_order_and_only_once(monkeypatch):
    there, calls = set(), []

    def need(name, *after):
        def make(profile):
            there.add(name)
            calls.append(name)

        return Need(f"{name} (a moment)", lambda profile: name in there, make, after)

    needs = {"data": need("data"), "adapter": need("adapter", "data"), "merged": need("merged", "adapter")}
    monkeypatch.setattr(setup, "NEEDS", needs)
    ready = setup.setup(["merged", "data"], profile="tiny")
    assert calls == ["data", "adapter", "merged"]
    assert [what.split(",")[0] for what in ready.made] == calls
    assert setup.setup(["merged", "data"], profile="tiny").made == ()


def test_what_cannot_be_made_names_the_command(monkeypatch):
    monkeypatch.setattr(setup, "NEEDS", {"x": Need("x", lambda profile: False, setup._command("no-such-command"))})
    with pytest.raises(LessonError, match="python -m course_utils no-such-command --profile tiny"):
        setup.setup(["x"], profile="tiny")


def notebook(tmp_path, *cells):
    path = tmp_path / "01_try.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells]), path)
    return path


def test_a_failing_cell_is_named_and_the_notebook_kept(tmp_path, monkeypatch):
    path = notebook(tmp_path, "1 + 1", "1 / 0")
    monkeypatch.setattr(run_lessons, "notebooks", lambda part: [path])
    monkeypatch.chdir(tmp_path)
    with pytest.raises(LessonError, match=r"01_try\.ipynb, cell 1: ZeroDivisionError"):
        run_lessons.run(profiles.PROFILES["tiny"])
    kept = nbformat.read(tmp_path / "runs/tiny/notebooks/01_try.ipynb", as_version=4)
    assert kept.cells[0].outputs[0].data["text/plain"] == "2"


def test_the_lessons_kernels_have_the_same_home(tmp_path, monkeypatch):
    """A COURSE_HOME as seen from the current folder is another folder where the notebook lies."""
    (tmp_path / "notebooks").mkdir()
    path = notebook(tmp_path / "notebooks", "from course_utils.core.paths import home; print(home().resolve())")
    monkeypatch.setattr(run_lessons, "notebooks", lambda part: [path])
    monkeypatch.setattr(run_lessons, "_write_report", lambda profile, durations: None)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(paths.VARIABLE, ".")
    run_lessons.run(profiles.PROFILES["tiny"])
    kept = nbformat.read(tmp_path / "runs/tiny/notebooks/01_try.ipynb", as_version=4)
    assert kept.cells[0].outputs[0].text.strip() == str(tmp_path.resolve())


def test_the_second_part_is_the_other_lessons_and_needs_no_report(tmp_path, monkeypatch):
    first, second = (run_lessons.notebooks(part) for part in (1, 2))
    assert [path.name[:2] for path in first] == ["00", "01", "02", "03", "04", "05", "06"]
    assert {*first}.isdisjoint(second) and "10_many_gpus" in {path.stem for path in second}
    monkeypatch.setattr(run_lessons, "notebooks", {2: [notebook(tmp_path, "1 + 1")]}.get)
    monkeypatch.chdir(tmp_path)
    folder = run_lessons.run(profiles.PROFILES["tiny"], part=2)
    assert sorted(path.name for path in folder.iterdir()) == ["01_try.html", "01_try.ipynb"]


def test_the_run_writes_the_report(tmp_path, monkeypatch):
    row = compared("json")
    out = tmp_path / "runs/tiny"
    out.mkdir(parents=True)
    figures = {"perplexities": {}, "figures": {}, "replies": {"before": [], "after": []}}
    evaluation.Comparison([row], [{"figure": "well-formed"}], **figures).save(out / "evaluation.json")
    (out / "train_metrics.json").write_text(json.dumps({"metrics": {"steps": 1}}), encoding="utf-8")
    path = notebook(tmp_path, "import os; os.environ['COURSE_PROFILE']")
    monkeypatch.setattr(run_lessons, "notebooks", lambda part: [path])
    monkeypatch.chdir(tmp_path)
    page = run_lessons.run(profiles.PROFILES["tiny"])
    facts = json.loads(page.with_suffix(".json").read_text(encoding="utf-8"))
    assert facts["table"] == [row] and facts["seed"] == 42 and set(facts["seconds"]) == {"01_try"}
    text = page.read_text(encoding="utf-8")
    assert "JSON valid, strict" in text and "What got worse" in text and "well-formed</td>" in text
    executed = nbformat.read(out / "notebooks/01_try.ipynb", as_version=4)
    assert executed.cells[0].outputs[0].data["text/plain"] == "'tiny'"
    assert (out / "notebooks/01_try.html").is_file()


def test_a_stopped_evaluation_goes_on_and_writes_table_page_and_replies(monkeypatch, trained, toy_rows, tiny, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(trained[0].adapter_dir.parent, run)
    monkeypatch.setattr(pipeline, "run_dir", lambda profile: run)
    monkeypatch.setattr(pipeline.hub, "download", lambda name: ROOT / "models" / name)
    rows = {"test": toy_rows[:4], "general": [toy_rows[4] | {"source": "general"}]}
    monkeypatch.setattr(pipeline.data, "load_built", lambda profile, part: rows[part])
    profile = replace(tiny, max_new_tokens=4, eval_batch_size=4)
    judged = pipeline.evaluation.evaluate
    asked = []

    def stop_after_the_first(model, *given, resume_file, **how):
        asked.append(resume_file.is_file())
        report = judged(model, *given, resume_file=resume_file, **how)
        if len(asked) == 1:
            raise KeyboardInterrupt
        return report

    monkeypatch.setattr(pipeline.evaluation, "evaluate", stop_after_the_first)
    with pytest.raises(KeyboardInterrupt):
        pipeline.evaluate_adapter(profile)
    comparison = pipeline.evaluate_adapter(profile, resume=True)
    assert asked == [False, True, False]  # the replies of the base were kept
    saved = json.loads((run / "evaluation.json").read_text(encoding="utf-8"))
    assert saved["table"] == comparison.table and saved["table"][0]["source"] == "general"
    text = (run / "evaluation.html").read_text(encoding="utf-8")
    assert "What got worse" in text and "data:image/png" in text
    assert not list(run.glob("evaluation_*.jsonl"))


def test_the_merged_model_is_loaded_when_the_base_is_gone(monkeypatch, tiny, tmp_path):
    """Two large models do not fit a GPU, and a model that refers to itself outlives `del`."""
    alive = []

    class Model:
        def __init__(self):
            self.itself = self
            alive.append(weakref.ref(self))

    def load(folder, profile, load_in_4bit):
        assert not any(each() for each in alive), "the model before is still there"
        return Model(), None

    monkeypatch.setattr(pipeline.modeling, "load_model", load)
    monkeypatch.setattr(pipeline.modeling, "for_inference", lambda model: model)
    monkeypatch.setattr(pipeline.hub, "download", lambda name: name)
    monkeypatch.setattr(pipeline.data, "load_built", lambda profile, part: [])
    monkeypatch.setattr(pipeline, "run_dir", lambda profile: tmp_path)
    monkeypatch.setattr(pipeline.evaluation, "evaluate", lambda *given, **how: None)
    told = SimpleNamespace(save=lambda file: None)
    monkeypatch.setattr(pipeline.evaluation, "compare", lambda before, after: told)
    monkeypatch.setattr(pipeline.reports, "evaluation", lambda comparison: SimpleNamespace(html=""))
    assert pipeline.evaluate_adapter(tiny, merged=True) is told and len(alive) == 2


def test_errors_are_one_line(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["course_utils", "doctor", "--profile", "huge"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert str(ended.value).startswith("error: There is no profile 'huge'") and "16gb" in str(ended.value)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["download", "smollm2-135m"], "smollm2-135m-instruct"),
        (["download", "qwen3-tokenizer", "--source", "ftp"], "modelscope"),
    ],
)
def test_the_command_line_says_what_exists(arguments, words):
    run = subprocess.run(
        [sys.executable, "-m", "course_utils", *arguments], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert run.returncode == 1 and words in run.stderr and "Traceback" not in run.stderr


def test_the_report_table_reads_without_the_notebook():
    assert "0.25 → 1.00" in repr(tables.comparison([compared("json")]))
