"""The loss curve that grows in the notebook while a run goes on."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from course_utils.lessons.figures import curve

if TYPE_CHECKING:
    from transformers import TrainerCallback

EVERY = 5.0  # seconds between two pictures: drawing takes time from the run


def live(predicted_gib: float | None = None) -> TrainerCallback:
    """A callback for `training.train` that keeps the loss curves in the notebook up to date while a run goes on.

    Below the curves stand the step, the learning rate, tokens per second, the peak of memory (of the `gib` that
    `profiles.memory_budget` predicted) and the time left. The last picture stays. Outside a notebook nothing is shown.
    """
    from IPython import get_ipython
    from IPython.display import display
    from transformers import TrainerCallback

    class Live(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.log: list[dict[str, float]] = []
            self.handle: Any = None
            self.drawn = 0.0

        def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **_: Any) -> None:
            self.log.append({"step": state.global_step, **logs})
            if time.monotonic() - self.drawn > EVERY or "eval_loss" in logs:
                self.draw(state)

        def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.draw(state)

        def draw(self, state: Any) -> None:
            if not hasattr(get_ipython(), "kernel"):  # no notebook
                return
            figure = curve(self.log, f"Loss after {state.global_step} of {state.max_steps} steps")
            figure.supxlabel(_status(self.log, predicted_gib), fontsize=9)
            if self.handle is None:
                self.handle = display(figure, display_id=True)
            else:
                self.handle.update(figure)
            self.drawn = time.monotonic()

    return Live()


def _status(log: Sequence[Mapping[str, float]], predicted_gib: float | None) -> str:
    """The latest figures of a run as one line."""
    latest = {key: value for entry in log if "train_loss" not in entry for key, value in entry.items()}
    against = f" of {predicted_gib:.1f} predicted" if predicted_gib else ""
    forms = {
        "learning_rate": "learning rate {:.2g}",
        "tokens_per_second": "{:.0f} tokens/s",
        "memory_gib": "{:.1f} GiB" + against,
        "seconds_left": "{:.0f} s left",
        "skipped_steps": "{} steps left out",
    }
    return "   ·   ".join(form.format(latest[key]) for key, form in forms.items() if key in latest)
