"""tests/benchmarks/gpu_check.py: every step at toy size, its table, and what it does with a step that fails."""

import json
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from benchmarks import gpu_check, gpu_shared, gpu_steps
from conftest import ROOT

GIB = 2**30
COMMAND = [sys.executable, "tests/benchmarks/gpu_check.py"]


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """The command as it is, at toy size: (exit code, what it printed, its results by step and case, its folder)."""
    out = tmp_path_factory.mktemp("out")
    run = subprocess.run(
        [*COMMAND, "--toy"], cwd=ROOT, env=os.environ | {"OUT": str(out)}, capture_output=True, text=True, check=False
    )
    report = json.loads((out / "gpu_check.json").read_text(encoding="utf-8"))
    lines = {(line["step"], line["case"]): line for line in report["cases"]}
    return SimpleNamespace(run=run, report=report, lines=lines, out=out)


def test_every_step_holds_at_toy_size(toy):
    log = toy.out / "gpu_check.log"
    assert not log.exists(), log.read_text(encoding="utf-8")
    assert toy.run.returncode == 0, toy.run.stdout
    assert set(toy.lines) == {(case.step, case.case) for case in gpu_check.plan(toy=True)}
    assert not any(map(gpu_check.failed, toy.report["cases"]))
    assert toy.report["toy"] and toy.report["device"] == (
        "cpu" if not torch.cuda.is_available() else toy.report["device"]
    )
    assert {"torch", "transformers", "trl", "peft", "unsloth"} <= set(toy.report["versions"])
    assert toy.run.stdout.splitlines()[-1] == f"{len(toy.lines)} of {len(toy.lines)} cases hold."


def test_ways_of_the_same_run_agree(toy):
    """Rows of a step at once or one by one, plain TRL and PEFT: the same rows in the same order."""
    runs = [line for line in toy.report["cases"] if line["step"] in ("cards", "compiled", "plain")]
    assert len(runs) == 5
    for name in ("first_loss", "last_loss"):
        assert [line[name] for line in runs] == pytest.approx([runs[0][name]] * 5, rel=1e-3), name
    assert len({line["longest_row"] for line in runs}) == 1
    assert all(line["step_seconds"] > 0 and line["first_step_seconds"] > 0 for line in runs)
    assert all(line["predicted_gib"] > 0 for line in runs if line["step"] != "plain")


def test_what_the_other_steps_find(toy):
    scaler = toy.lines["float16", ""]
    assert 1 <= scaler["skipped_steps"] < scaler["steps"]
    assert scaler["last_scale"] == pytest.approx(gpu_steps.FIRST_SCALE / 2 ** scaler["skipped_steps"], rel=1e-4)
    for case in ("bfloat16", "float16"):
        line = toy.lines["resume", case]
        assert line["whole"] == line["again"] == line["resumed"] and line["resumed_apart"] == 0
        assert line["resumed_steps"] == 2, "it went on after step 2 of 4"
    for case in ("Unsloth", "plain transformers"):
        line = toy.lines["prompts", case]
        padded = [line[name] for name in line if "_padded_" in name]
        assert len(padded) == 4 and max(padded) < gpu_steps.TOLERANCE < line["adapter"]
    assert toy.lines["merge", ""]["same_weights"] is True
    assert toy.lines["evaluation", ""]["rows"] == gpu_shared.TOY.asked
    assert {"base_seconds", "merged_seconds", "predicted_gib"} <= set(toy.lines["evaluation", ""])
    assert toy.lines["24gb", ""]["longest_row"] == gpu_shared.TOY.full


def test_the_plan_of_a_gpu():
    cases = gpu_check.plan(toy=False)
    assert {case.step for case in cases} == {case.step for case in gpu_check.plan(toy=True)}
    assert {case.function or case.step for case in cases} == set(gpu_steps.STEPS)
    assert len({case.key for case in cases}) == len(cases)
    runs = {(c.step, c.arguments["cap_gib"], c.arguments["at_once"]): c for c in cases if c.function == "cards"}
    ways = [(step, cap, way) for step in ("cards", "compiled") for cap in (15.0, 14.1) for way in (True, False)]
    assert sorted(runs) == sorted(ways)
    for (step, cap, _), case in runs.items():
        assert case.variables["UNSLOTH_FUSED_LINEAR_FLASH_MIN_ROWS"] == "0"
        assert case.variables["UNSLOTH_BLOCK_COMPILE_LEGACY"] == {"cards": "0", "compiled": "1"}[step]
        assert case.arguments["profile"] == {15.0: "16gb", 14.1: "t4"}[cap] and case.cold


def test_a_gpu_made_smaller(monkeypatch):
    """Whoever asks how much is free hears of the small GPU, and the allocator is held to it."""
    told, kept = [], {"reserved": 3 * GIB}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(total_memory=140 * GIB))
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", told.append)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda: kept["reserved"])
    monkeypatch.setattr(torch.cuda, "mem_get_info", None)
    gpu_shared.hold_to(14.0)
    assert told == [0.1]
    assert torch.cuda.mem_get_info(0) == torch.cuda.mem_get_info() == (11 * GIB, 14 * GIB)
    kept["reserved"] = 15 * GIB
    assert torch.cuda.mem_get_info()[0] == 0
    gpu_shared.hold_to(200.0)
    assert told[-1] == 1.0, "a smaller GPU than that has what it has"


def test_a_budget_beside_what_was_measured(tmp_path):
    config = gpu_shared.budget.CONFIGS[gpu_shared.MODEL]
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text(json.dumps(dict(config)), encoding="utf-8")
    place, profile = gpu_shared.Place(tmp_path, toy=False), gpu_shared.profiles.PROFILES["16gb"]
    predicted = gpu_shared.profiles.memory_budget(config, profile).gib
    longest = profile.train.max_length
    counted = gpu_shared.against_budget(place, profile, longest, {"reserved_gib": 4.0, "in_use_gib": predicted / 2})
    assert counted == pytest.approx({"predicted_gib": predicted, "budget_error": 1.0})
    taken = 4.0 + gpu_shared.budget.CUDA_CONTEXT / GIB
    told = gpu_shared.against_budget(place, profile, longest, {"reserved_gib": 4.0})
    assert told["budget_error"] == pytest.approx(predicted / taken - 1)
    shorter = gpu_shared.against_budget(place, profile, longest // 2, {})
    assert shorter["predicted_gib"] < predicted and "budget_error" not in shorter


def test_a_case_that_fails_is_an_answer_and_the_others_go_on(tmp_path):
    """In one process and in several: the error without this machine's folders, what was found before it, and a log."""
    cases = [
        gpu_check.Case("broken", function="merge", unsloth=False),
        gpu_check.Case("unknown", unsloth=False),
        gpu_check.Case("found", function="plain", arguments={"wrong": 1}, unsloth=False),
    ]
    found = gpu_check.in_a_process(cases, tmp_path, True, 300, tmp_path / "log")
    assert set(found) == {"broken", "unknown", "found"}
    assert found["broken"]["error"].startswith("ExportError: ") and str(tmp_path) not in found["broken"]["error"]
    assert found["unknown"] == {"error": "KeyError: 'unknown'"}
    assert found["found"]["error"].startswith("TypeError: ")
    assert "Traceback" in (tmp_path / "log").read_text(encoding="utf-8")


def test_a_case_that_takes_too_long_is_stopped(tmp_path):
    found = gpu_check.in_a_process([gpu_check.Case("make", unsloth=False)], tmp_path, True, 0.2, tmp_path / "log")
    assert found == {"make": {"error": "stopped after 0 seconds"}}


def made_up(cases, work, toy, seconds, log):
    """Answers without a GPU: one case runs out of memory, the resumed run is another one."""
    found = {case.key: {"seconds": 1.0, "step_seconds": 0.25} for case in cases}
    for key, facts in found.items():
        facts |= {"device": "NVIDIA Test", "memory_gib": 139.8} if key == "make" else {}
        facts |= {"error": "OutOfMemory: Memory ran out | a"} if key == "cards: 14.1 GiB, 1 x 16" else {}
        facts |= {"holds": False, "whole": "ab", "last_loss": float("nan")} if key == "resume: bfloat16" else {}
        facts |= {"budget_error": -0.0512} if key == "24gb" else {}
    return found


@pytest.fixture
def with_a_gpu(monkeypatch):
    monkeypatch.setattr(gpu_check, "in_a_process", made_up)
    monkeypatch.setattr(gpu_check, "missing", lambda toy: "")


def test_results_and_table_of_a_gpu(with_a_gpu, tmp_path, capsys):
    assert gpu_check.main(["--out", str(tmp_path / "new")]) == 1
    report = json.loads((tmp_path / "new" / "gpu_check.json").read_text(encoding="utf-8"))
    assert report["device"] == "NVIDIA Test" and report["memory_gib"] == 139.8 and report["toy"] is False
    assert [(line["step"], line["case"]) for line in report["cases"]] == [
        (case.step, case.case) for case in gpu_check.plan(toy=False)
    ]
    (said,) = [line for line in capsys.readouterr().out.splitlines() if "hold." in line]
    assert said == "16 of 18 cases hold. Look at cards 14.1 GiB, 1 x 16, resume bfloat16."
    page = (tmp_path / "new" / "gpu_check.md").read_text(encoding="utf-8")
    assert page == gpu_check.as_page(report)
    assert page.startswith("## NVIDIA Test\n\nmemory_gib 139.8\n")
    assert "| 24gb |  |  | 0.25 |  |  |  | -5.1% |  |  |" in page
    assert "| cards | 14.1 GiB, 1 x 16 | seconds 1.0; error OutOfMemory: Memory ran out / a |" in page
    assert "| resume | bfloat16 | seconds 1.0; holds False; whole ab |" in page
    widths = {line.count("|") for line in page.split("\n\n")[2].splitlines()}
    assert widths == {3 + len(gpu_check.TIMED)}


def test_steps_by_name_and_the_end_of_the_time(with_a_gpu, tmp_path, monkeypatch, capsys):
    assert gpu_check.main(["merge", "24gb", "--out", str(tmp_path)]) == 0
    report = json.loads((tmp_path / "gpu_check.json").read_text(encoding="utf-8"))
    assert [line["step"] for line in report["cases"]] == ["make", "merge", "24gb"]
    with pytest.raises(SystemExit):
        gpu_check.main(["marge", "--out", str(tmp_path)])
    assert "there is no step marge" in capsys.readouterr().err
    monkeypatch.setattr(gpu_check, "SECONDS", 5)
    assert gpu_check.main(["merge", "--out", str(tmp_path)]) == 1
    report = json.loads((tmp_path / "gpu_check.json").read_text(encoding="utf-8"))
    assert [line["error"] for line in report["cases"]] == ["not run: the 5 seconds were over"] * 2


def test_without_a_gpu_it_says_so_in_one_sentence_and_writes_nothing(tmp_path):
    run = subprocess.run(
        [*COMMAND, "--out", str(tmp_path / "new")],
        cwd=ROOT,
        env=os.environ | {"CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 1 and not run.stdout
    assert run.stderr.splitlines() == [
        "gpu_check: torch sees no CUDA GPU here, so nothing was measured (--toy runs every step at toy size on a CPU)."
    ]
    assert not (tmp_path / "new").exists()


def test_what_is_missing_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(gpu_shared, "TOKENIZER", tmp_path / "some-tokenizer")
    assert gpu_check.missing(toy=False).startswith("models/some-tokenizer lacks tokenizer.json, tokenizer_config.json")
    (tmp_path / "some-tokenizer").mkdir()
    for name in gpu_shared.TOKENIZER_FILES:
        (tmp_path / "some-tokenizer" / name).touch()
    assert gpu_check.missing(toy=False) == ""
    assert gpu_check.missing(toy=True) == ""
    monkeypatch.setattr(gpu_check, "find_spec", lambda name: None if name in ("peft", "xformers") else name)
    assert gpu_check.missing(toy=True) == "these packages are missing: peft (`make install` brings them)."


def test_an_error_names_no_folder_of_this_machine(tmp_path):
    words = gpu_steps.said(f"OSError: '{tmp_path}/model.safetensors' is cut off at {tmp_path}/x:3\nand more")
    assert words == "OSError: 'model.safetensors' is cut off at x:3"
