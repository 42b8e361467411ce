"""Trackers: who else gets a run's log (C40). Each writes below the run's folder, without an account and offline.

Import this room after Unsloth: it needs transformers, and Unsloth must come first.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from transformers import TrainerCallback
from transformers.integrations import MLflowCallback, SwanLabCallback, TensorBoardCallback, WandbCallback

from course_utils.core.errors import CourseError


class TrackerError(CourseError):
    """A tracker that is not installed."""


@contextmanager
def tracker(name: str, folder: Path, first_step: int) -> Iterator[list[TrainerCallback]]:
    """The callback of a tracker, ready to write below `folder`.

    What is set in the environment (WANDB_MODE, SWANLAB_MODE, MLFLOW_TRACKING_URI, WANDB_PROJECT, …) is left as it is:
    that is how a run is sent to a server.

    Args:
        name: a `TrainSettings.tracker`.
        folder: the run's; the tracker's files go to a folder of its name in it.
        first_step: where the run goes on, so that TensorBoard forgets the steps after it.

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
    with _environment(name, place):
        if name == "tensorboard":
            from torch.utils.tensorboard import SummaryWriter

            yield [TensorBoardCallback(SummaryWriter(str(place), purge_step=first_step + 1 if first_step else None))]
        else:
            if name == "swanlab":
                import swanlab

                # swanlab's get_run() raises where no run is active, and transformers' callback counts on None.
                mode = os.environ.get("SWANLAB_MODE", "offline")
                swanlab.init(project="course", name=folder.name, mode=mode, log_dir=str(place))
            callback = {"swanlab": SwanLabCallback, "wandb": WandbCallback, "mlflow": MLflowCallback}[name]()
            try:
                yield [callback]
            finally:
                _finish(name)


# Variable to value; {place} is the tracker's folder.
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
    """Set what the environment does not say; what was set here or by the tracker itself is taken away again."""
    before = set(os.environ)
    for key, text in _ENVIRONMENTS.get(name, {}).items():
        os.environ.setdefault(key, text.format(place=place))
    try:
        yield
    finally:
        for key in set(os.environ) - before:
            if key.startswith(name.upper()):
                del os.environ[key]


def _finish(name: str) -> None:
    """Close the tracker's run, so that the next one in this process is a run of its own."""
    if name == "wandb":
        import wandb

        wandb.finish()
    elif name == "swanlab":
        import swanlab

        swanlab.finish()
    elif name == "mlflow":
        import mlflow

        mlflow.end_run()
