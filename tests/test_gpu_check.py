"""tests/benchmarks/gpu_check.py as far as a machine without a GPU can run it: its cases, its figures, one training."""

import json
import math
import os
import subprocess
import sys
from dataclasses import replace

import pytest
from benchmarks import gpu_check, memory
from conftest import ROOT

from course_utils.core.profiles import memory_budget

TINY = {
    "model_type": "qwen3", "num_hidden_layers": 2, "hidden_size": 64, "intermediate_size": 128,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 1000,
    "max_position_embeddings": 512, "rope_theta": 1000000, "rms_norm_eps": 1e-06, "tie_word_embeddings": True,
}  # fmt: skip
GPU = {"device": "NVIDIA Test 80GB", "memory_gib": 79.1, "capability": "9.0", "cuda": "13.0"}
FOUND = {
    "tokens_per_second": 8000.12345,
    "step_seconds": 0.512,
    "last_loss": 11.93,
    "allocated_gib": 5.0,
    "reserved_gib": 6.0,
    "in_use_gib": 6.5,
}


def test_the_cases():
    unsloth = [(case.model, case.tokens) for case in gpu_check.cases() if case.by == "unsloth"]
    sizes = ("Qwen/Qwen3-0.6B", "Qwen/Qwen3-4B-Instruct-2507", "Qwen/Qwen3-8B")
    assert unsloth == [(model, tokens) for model in sizes for tokens in (1024, 2048)]
    plain = [(case.model, case.tokens) for case in gpu_check.cases() if case.by == "plain"]
    assert plain == [(model, 1024) for model in sizes[:2]]
    profile = gpu_check.profile_of(2048, "float16")
    assert profile.load_in_4bit and profile.bits == 4 and profile.dtype == "float16"
    assert (profile.train.batch_size, profile.train.grad_accum, profile.train.max_length) == (1, 4, 2048)
    assert profile.train.max_steps == gpu_check.WARM + gpu_check.TIMED


def lines(**changes):
    profile = gpu_check.profile_of(1024, "bfloat16")
    plain = FOUND | {"tokens_per_second": 4000.0, "allocated_gib": 10.0}
    return [
        gpu_check.row(gpu_check.Case(gpu_check.MODELS[0], 1024), profile, FOUND | changes),
        gpu_check.row(gpu_check.Case(gpu_check.MODELS[0], 1024, "plain"), profile, plain),
        gpu_check.row(gpu_check.Case(gpu_check.MODELS[2], 1024), profile, {"error": "OutOfMemory: Memory ran out"}),
    ]


def test_a_report():
    found = gpu_check.report(GPU, lines())
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert set(found) == {*GPU, "cap_gib", "base", "steps", "versions", "cases", "unsloth_against_plain"}
    assert found["cap_gib"] == 16 and found["steps"] == {"warm": 3, "timed": 8}
    assert {"torch", "transformers", "trl", "peft", "bitsandbytes", "unsloth"} <= set(found["versions"])
    ours, plain, failed = found["cases"]
    budget = memory_budget(gpu_check.budget.CONFIGS[ours["model"]], gpu_check.profile_of(1024, "bfloat16"))
    assert ours["predicted_gib"] == pytest.approx(budget.gib, abs=1e-4)
    assert sum(ours["predicted_terms_gib"].values()) == pytest.approx(budget.gib, abs=1e-3)
    assert ours["budget_error"] == pytest.approx(budget.gib / 6.5 - 1, abs=1e-4)
    assert ours["tokens_per_second"] == 8000.1235 and ours["rows_per_step"] == 4
    assert "predicted_gib" not in plain, "the budget speaks of Unsloth's kernels"
    assert failed["error"] == "OutOfMemory: Memory ran out" and "tokens_per_second" not in failed
    (pair,) = found["unsloth_against_plain"]
    assert pair["speed_ratio"] == 2.0 and pair["memory_ratio"] == 0.5
    assert pair["tokens_per_second"] == {"unsloth": 8000.1235, "plain": 4000.0}


def test_a_gpu_that_is_small_or_says_little():
    found = gpu_check.report(GPU | {"memory_gib": 14.6}, lines(in_use_gib=None, last_loss=math.nan))
    assert found["cap_gib"] is None
    ours = found["cases"][0]
    taken = 6.0 + gpu_check.budget.CUDA_CONTEXT / 2**30
    assert ours["budget_error"] == pytest.approx(ours["predicted_gib"] / taken - 1, abs=1e-4)
    assert ours["last_loss"] is None


def test_an_error_names_no_folder_of_this_machine(tmp_path):
    words = gpu_check.said(f"OSError: '{tmp_path}/model.safetensors' is cut off at {tmp_path}/x:3\nand more")
    assert words == "OSError: 'model.safetensors' is cut off at x:3"


def test_a_process_that_fails_is_an_answer(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    found = gpu_check.in_a_process("look", tmp_path)
    assert set(found) == {"error"} and found["error"]


def test_without_a_gpu_it_says_so_and_writes_nothing():
    before = gpu_check.RESULTS.read_bytes() if gpu_check.RESULTS.exists() else None
    run = subprocess.run(
        [sys.executable, "tests/benchmarks/gpu_check.py"],
        cwd=ROOT,
        env=os.environ | {"CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 1
    assert (run.stdout + run.stderr).strip().splitlines() == [
        "gpu_check: torch sees no CUDA GPU here, so nothing was measured."
    ]
    assert (gpu_check.RESULTS.read_bytes() if gpu_check.RESULTS.exists() else None) == before


def test_a_case_trains_on_a_cpu_too(tmp_path):
    """The way of a GPU, without its memory: a model from a config, a tokenizer of bytes, NF4, the steps timed."""
    assert memory.make_model(TINY, tmp_path) == 1000
    profile = gpu_check.profile_of(48, "bfloat16")
    settings = replace(profile.train, optimizer="adamw_torch", grad_accum=2, max_steps=4, eval_steps=4)
    found = gpu_check.measure("unsloth", tmp_path, replace(profile, train=settings), warm=2)
    assert set(found) == {"tokens_per_second", "step_seconds", "last_loss"}
    assert found["tokens_per_second"] == pytest.approx(2 * 48 / found["step_seconds"])
    assert 0.5 * math.log(1000) < found["last_loss"] < 2 * math.log(1000)
    assert (tmp_path / "run-unsloth-48" / "adapter" / "adapter_model.safetensors").is_file()
    config = json.loads((tmp_path / "run-unsloth-48" / "run.json").read_text(encoding="utf-8"))
    assert config["settings"]["max_steps"] == 4


def test_a_case_that_fails_stops_no_other(tmp_path, monkeypatch, capsys):
    """The whole run, with answers made up: one case runs out of memory, and the largest model cannot be made."""

    def made_up(task, folder, case=gpu_check.NO_CASE, dtype=""):
        if task == "look":
            return GPU
        if task == "make":
            return {"error": "OSError: no space left"} if case.model == gpu_check.MODELS[2] else {}
        assert dtype == "bfloat16"
        return {"error": "OutOfMemoryError"} if case == gpu_check.cases()[0] else FOUND

    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr(gpu_check, "in_a_process", made_up)
    monkeypatch.setattr(gpu_check, "RESULTS", tmp_path / "found.json")
    monkeypatch.setattr(sys, "argv", ["gpu_check.py"])
    assert gpu_check.main() == 0
    found = json.loads((tmp_path / "found.json").read_text(encoding="utf-8"))
    assert json.loads(capsys.readouterr().out) == found
    assert [(line["model"], line["tokens"], line["by"]) for line in found["cases"]] == [
        (case.model, case.tokens, case.by) for case in gpu_check.cases()
    ]
    assert ["error" in line for line in found["cases"]] == [True, False, False, False, False, False, True, True]
    assert [pair["model"] for pair in found["unsloth_against_plain"]] == [gpu_check.MODELS[1]]
