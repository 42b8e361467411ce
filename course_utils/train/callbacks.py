"""Callbacks of the Trainer: progress bar, log, whole checkpoints, Ctrl-C, memory, a loss that is not a number.

Import this module after Unsloth: it needs transformers, and Unsloth must come first.
"""

from __future__ import annotations

import ctypes
import json
import math
import resource
import signal
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm
from transformers import TrainerCallback

from course_utils.core.files import write_text

MOST_SKIPPED = 10
WHOLE = "whole"
"""The file that is written into a checkpoint last; a checkpoint without it was cut off."""


def peak_memory_gib() -> float:
    """The most memory that this process had so far: the GPU's, or else the process's own, in GiB."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    unit = 1 if sys.platform == "darwin" else 1024  # bytes on a Mac, kilobytes on Linux
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


class RunLog(TrainerCallback):
    """Writes the log as JSONL, line by line, and adds what the Trainer does not know.

    Every entry gets `seconds` since the run began, an interruption not counted. Entries with a `loss` also get
    `tokens_per_second` (without padding and without the evaluations), `memory_gib` (the peak) and `seconds_left`.
    The callbacks that come after this one see them as well.

    Args:
        path: of the JSONL file. Where a run goes on, lines after its checkpoint are dropped.
        epochs: of the whole run; the Trainer is given all epochs as one.
    """

    def __init__(self, path: Path, epochs: float) -> None:
        self.path, self.epochs = path, epochs
        self.entries: list[dict[str, float]] = []

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step and self.path.is_file():
            lines = self.path.read_text(encoding="utf-8").splitlines()
            found = [json.loads(line) for line in lines if line.endswith("}")]  # the last one may be cut off
            self.entries = [entry for entry in found if entry["step"] <= state.global_step]
        self.seconds_before = self.entries[-1]["seconds"] if self.entries else 0.0
        self.tokens_before, self.step_before = state.num_input_tokens_seen, state.global_step
        self.evaluating = 0.0
        if torch.cuda.is_available():  # the peak is this run's, not that of the cells before it
            torch.cuda.reset_peak_memory_stats()
        self.started = time.monotonic()
        if state.is_world_process_zero:
            write_text(self.path, "".join(json.dumps(entry) + "\n" for entry in self.entries))

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **_: Any) -> None:
        if "train_loss" in logs:  # the Trainer's summary of the run
            return
        for name in ("train_runtime", "train_tokens_per_second", "num_tokens"):  # of this process alone
            logs.pop(name, None)
        elapsed = time.monotonic() - self.started
        logs["seconds"] = self.seconds_before + elapsed
        if "epoch" in logs:
            logs["epoch"] *= self.epochs
        self.evaluating += logs.get("eval_runtime", 0.0)
        if "loss" in logs:
            training, steps = max(elapsed - self.evaluating, 1e-9), max(state.global_step - self.step_before, 1)
            logs["tokens_per_second"] = (state.num_input_tokens_seen - self.tokens_before) / training
            logs["memory_gib"] = peak_memory_gib()
            logs["seconds_left"] = (state.max_steps - state.global_step) * elapsed / steps
        self.entries.append({"step": state.global_step, **logs})
        if state.is_world_process_zero:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(self.entries[-1]) + "\n")


class NumbersOnly(TrainerCallback):
    """Ends a run whose loss or gradient is not a number: every further step would be lost.

    float16's scaler begins too high on purpose, and leaves out each step that overflows (torch/amp/grad_scaler.py): the
    logs count them as `skipped_steps`, and `MOST_SKIPPED` in a row end the run.
    """

    def __init__(self) -> None:
        self.skipped = self.in_a_row = 0

    def on_step_end(self, args: Any, state: Any, control: Any, optimizer: Any = None, **_: Any) -> None:
        left_out = bool(getattr(optimizer, "step_was_skipped", False))
        self.skipped, self.in_a_row = self.skipped + left_out, left_out * (self.in_a_row + 1)
        if self.in_a_row == MOST_SKIPPED:
            raise FloatingPointError(f"{MOST_SKIPPED} steps in a row overflowed float16, to step {state.global_step}")

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **_: Any) -> None:
        if args.fp16:
            logs["skipped_steps"] = self.skipped
        for name in ("loss", "eval_loss", *(() if args.fp16 else ("grad_norm",))):
            if not math.isfinite(logs.get(name, 0.0)):
                raise FloatingPointError(f"{name} is {logs[name]} at step {state.global_step}")


class WholeCheckpoints(TrainerCallback):
    """Marks a checkpoint as whole once all of its files are written; a kill in between leaves one without the mark."""

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if torch.distributed.is_initialized():
            torch.distributed.barrier()  # each process writes a file of its own
        if state.is_world_process_zero:
            write_text(Path(args.output_dir) / f"checkpoint-{state.global_step}" / WHOLE, "")


class FreeMemory(TrainerCallback):
    """Gives freed memory back to the system at each evaluation, the one before the first step included.

    glibc keeps what was freed in small pieces, and on a CPU every tensor of a layer is one: after the other cells of
    lesson 04 a process held 6 GiB of which it used 2.
    """

    def on_evaluate(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        with suppress(OSError, AttributeError):  # another C library than glibc
            ctypes.CDLL("libc.so.6").malloc_trim(0)


class StopAtInterrupt(TrainerCallback):
    """Turns Ctrl-C into a checkpoint at the end of the step; a second Ctrl-C stops at once.

    Use it as a context manager around the training, too: only inside it is Ctrl-C taken over.
    """

    def __init__(self) -> None:
        self.asked = False

    def __enter__(self) -> StopAtInterrupt:
        self.main = threading.current_thread() is threading.main_thread()  # signals can be set nowhere else
        if self.main:
            self.before = signal.signal(signal.SIGINT, self._ask)
        return self

    def __exit__(self, *_: Any) -> None:
        if self.main:
            signal.signal(signal.SIGINT, self.before)

    def _ask(self, number: int, frame: Any) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self.asked and state.global_step < state.max_steps:
            control.should_log = control.should_save = control.should_training_stop = True


class ProgressBar(TrainerCallback):
    """One bar with the latest losses; it takes itself off the screen at the end."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        hidden = not state.is_world_process_zero
        self.bar = tqdm(total=state.max_steps, initial=state.global_step, unit="step", leave=False, disable=hidden)
        self.shown: dict[str, str] = {}

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.bar.update(state.global_step - self.bar.n)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **_: Any) -> None:
        self.shown |= {key: f"{logs[key]:.3f}" for key in ("loss", "eval_loss") if key in logs}
        self.shown |= {"left out": str(logs["skipped_steps"])} if logs.get("skipped_steps") else {}
        self.bar.set_postfix(self.shown)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.bar.close()
