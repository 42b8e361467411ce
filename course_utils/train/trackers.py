"""Trackers, which get a run's log too (C40). Each writes below the run's folder, offline and without an account.

Import this module after Unsloth: it needs transformers, and Unsloth must come first.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from transformers import TrainerCallback
from transformers.integrations import get_reporting_integration_callbacks

from course_utils.core.errors import CourseError


class TrackerError(CourseError):
    """A tracker that is not installed."""


@contextmanager
def tracker(name: str, folder: Path, first_step: int) -> Iterator[list[TrainerCallback]]:
    """The Trainer's callback of a tracker, ready to write below `folder`.

    What the user has set in the environment (WANDB_MODE, SWANLAB_MODE, MLFLOW_TRACKING_URI, WANDB_PROJECT, …) stays:
    that is how a run is sent to a server.

    Args:
        name: a `TrainSettings.tracker`.
        folder: the run's; the tracker's files go to a folder of its name in it.
        first_step: the step that the run resumes from, so that TensorBoard forgets the steps after it.

    Yields:
        The callbacks for the Trainer; none for "none".

    Raises:
        TrackerError: the package is not there.
    """
    if name == "none":
        yield []
        return
    if find_spec(name) is None:
        raise TrackerError(f'Tracker {name} is not installed: `pip install {name}`, or tracker="tensorboard".')
    place = (folder / name).resolve()
    place.mkdir(parents=True, exist_ok=True)
    # Not `TrainingArguments.report_to`: the Trainer puts its callbacks before all others, so that they would miss what
    # `callbacks.RunLog` adds, and TensorBoard's cannot be told where a run resumes.
    [callback] = get_reporting_integration_callbacks(name)
    with _environment(name, place):
        if name == "tensorboard":
            from torch.utils.tensorboard import SummaryWriter

            yield [callback(SummaryWriter(str(place), purge_step=first_step + 1 if first_step else None))]
            return
        package = import_module(name)
        if name == "swanlab":
            # swanlab's get_run() raises where no run is active, and transformers' callback counts on None.
            mode = os.environ.get("SWANLAB_MODE", "offline")
            package.init(project="course", name=folder.name, mode=mode, log_dir=str(place))
        try:
            yield [callback()]
        finally:  # else the next run in this process would go on with this one
            (package.end_run if name == "mlflow" else package.finish)()


# Values for variables that are not set; {place} is the tracker's folder.
_ENVIRONMENTS = {
    "wandb": {"WANDB_MODE": "offline", "WANDB_DIR": "{place}", "WANDB_PROJECT": "course", "WANDB_SILENT": "true"},
    "mlflow": {
        "MLFLOW_TRACKING_URI": "file:{place}",
        "MLFLOW_ALLOW_FILE_STORE": "true",  # the light package has no database
        "MLFLOW_EXPERIMENT_NAME": "course",
        "MLFLOW_FLATTEN_PARAMS": "true",
    },
}


@contextmanager
def _environment(name: str, place: Path) -> Iterator[None]:
    """Set what the environment leaves open; what was set here or by the tracker is removed afterwards."""
    before = set(os.environ)
    for key, text in _ENVIRONMENTS.get(name, {}).items():
        os.environ.setdefault(key, text.format(place=place))
    try:
        yield
    finally:
        for key in set(os.environ) - before:
            if key.startswith(name.upper()):
                del os.environ[key]
