"""course_utils.train.trackers: each tracker's own package writes the run's figures, offline, below the run's folder."""

import os

import pytest
import torch

from course_utils import modeling

modeling.import_unsloth()

from transformers import TrainerControl, TrainerState, TrainingArguments  # noqa: E402

from course_utils import trackers  # noqa: E402


def three_steps(callbacks, folder):
    """What the Trainer does with a callback in a run of three steps."""
    arguments = TrainingArguments(output_dir=str(folder), use_cpu=True, report_to="none")
    state = TrainerState(is_world_process_zero=True, is_local_process_zero=True)
    model, control = torch.nn.Linear(2, 2), TrainerControl()
    for callback in callbacks:
        callback.on_train_begin(arguments, state, control, model=model)
        for step in (1, 2, 3):
            state.global_step = step
            callback.on_log(arguments, state, control, model=model, logs={"loss": 4.0 - step, "tokens_per_second": 9.0})
        callback.on_train_end(arguments, state, control, model=model)


@pytest.mark.parametrize("name", ["tensorboard", "wandb", "swanlab", "mlflow"])
def test_a_tracker_writes_below_the_run_and_leaves_the_environment_as_it_was(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = dict(os.environ)
    with trackers.tracker(name, tmp_path / "run", 0) as callbacks:
        three_steps(callbacks, tmp_path / "checkpoints")
    assert {key for key in os.environ.keys() - before.keys() if key.startswith(name.upper())} == set()
    assert any(path.is_file() and path.stat().st_size for path in (tmp_path / "run" / name).rglob("*"))
    assert [path.name for path in tmp_path.iterdir() if path.name not in ("run", "checkpoints")] == []


def test_tensorboard_holds_the_figures_and_forgets_what_a_run_that_goes_on_does_again(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for first_step in (0, 1):
        with trackers.tracker("tensorboard", tmp_path, first_step) as callbacks:
            three_steps(callbacks, tmp_path / "checkpoints")
    read = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(point.step, point.value) for point in read.Scalars("train/loss")][-3:] == [(1, 3.0), (2, 2.0), (3, 1.0)]


def test_a_tracker_that_is_not_there(tmp_path, monkeypatch):
    monkeypatch.setattr(trackers, "find_spec", lambda name: None)
    with (
        pytest.raises(trackers.TrackerError, match="pip install wandb"),
        trackers.tracker("wandb", tmp_path / "run", 0),
    ):
        pass
    assert not (tmp_path / "run").exists()


def test_none_writes_nothing(tmp_path):
    with trackers.tracker("none", tmp_path / "run", 0) as callbacks:
        assert callbacks == []
    assert not (tmp_path / "run").exists()


def test_what_the_user_has_set_stays(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "mine")
    with trackers.tracker("mlflow", tmp_path, 0) as callbacks:
        three_steps(callbacks, tmp_path / "checkpoints")
        assert os.environ["MLFLOW_EXPERIMENT_NAME"] == "mine"
    names = [path.read_text(encoding="utf-8") for path in (tmp_path / "mlflow").glob("*/meta.yaml")]
    assert any("name: mine" in text for text in names)
