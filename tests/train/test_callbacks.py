"""course_utils.train.callbacks: the steps that float16's scaler leaves out are no fault, until there are too many."""

import json
import math
from types import SimpleNamespace

import pytest

from course_utils import modeling

STATE = SimpleNamespace(global_step=1, is_world_process_zero=True, num_input_tokens_seen=0, max_steps=20)


@pytest.fixture
def callbacks():
    modeling.import_unsloth()
    from course_utils.train import callbacks

    return callbacks


def steps(watcher, fp16, skipped):
    """The logs that the watcher leaves of steps whose gradient overflowed (True) or did not."""
    args, logs = SimpleNamespace(fp16=fp16), []
    for number, overflow in enumerate(skipped, start=1):
        state = SimpleNamespace(**vars(STATE) | {"global_step": number})
        watcher.on_step_end(args, state, None, optimizer=SimpleNamespace(step_was_skipped=overflow))
        logs.append({"loss": 2.0, "grad_norm": math.inf if overflow else 1.0})
        watcher.on_log(args, state, None, logs=logs[-1])
    return logs


def test_steps_that_the_scaler_leaves_out_are_counted_and_shown(callbacks, tmp_path):
    logs = steps(callbacks.NumbersOnly(), True, [True, True, False, True])
    assert [entry["skipped_steps"] for entry in logs] == [1, 2, 2, 3]
    written = callbacks.RunLog(tmp_path / "log.jsonl", 1)
    written.on_train_begin(None, STATE, None)
    written.on_log(None, STATE, None, logs=logs[-1])
    assert json.loads((tmp_path / "log.jsonl").read_text())["skipped_steps"] == 3
    bar = callbacks.ProgressBar()
    bar.on_train_begin(None, STATE, None)
    bar.on_log(None, STATE, None, logs=logs[-1])
    assert bar.shown == {"loss": "2.000", "left out": "3"}
    bar.on_train_end(None, STATE, None)


def test_too_many_in_a_row_end_the_run(callbacks):
    nearly = [True] * (callbacks.MOST_SKIPPED - 1)
    steps(callbacks.NumbersOnly(), True, [*nearly, False, *nearly])
    with pytest.raises(FloatingPointError, match="10 steps in a row overflowed float16, to step 10"):
        steps(callbacks.NumbersOnly(), True, [True] * callbacks.MOST_SKIPPED)


def test_without_a_scaler_a_gradient_that_is_no_number_ends_the_run_at_once(callbacks):
    with pytest.raises(FloatingPointError, match="grad_norm is inf at step 1"):
        steps(callbacks.NumbersOnly(), False, [True])
    [entry] = steps(callbacks.NumbersOnly(), False, [False])
    assert "skipped_steps" not in entry


def test_a_loss_that_is_no_number_ends_it_with_a_scaler_too(callbacks):
    with pytest.raises(FloatingPointError, match="loss is nan at step 1"):
        callbacks.NumbersOnly().on_log(SimpleNamespace(fp16=True), STATE, None, logs={"loss": math.nan})


def test_the_peak_on_a_gpu_is_that_of_the_run(callbacks, tmp_path, monkeypatch):
    """Cells before it, which compared two models, may have held more."""
    told = []
    monkeypatch.setattr(callbacks.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(callbacks.torch.cuda, "reset_peak_memory_stats", lambda: told.append("reset"))
    monkeypatch.setattr(callbacks.torch.cuda, "max_memory_allocated", lambda: told.append("asked") or 2**30)
    log = callbacks.RunLog(tmp_path / "log.jsonl", 1)
    log.on_train_begin(None, STATE, None)
    log.on_log(None, STATE, None, logs={"loss": 2.0})
    assert told == ["reset", "asked"] and log.entries[0]["memory_gib"] == 1.0
