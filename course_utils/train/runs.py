"""One run in its folder, whatever the Trainer: begun, resumed, watched, ended; its adapter, log and metrics."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from course_utils.core import profiles, remedies
from course_utils.core.budget import BudgetError
from course_utils.core.errors import CourseError
from course_utils.core.files import atomic_dir, is_first_process, is_write_failure, run_lock, write_json
from course_utils.core.settings import TrainSettings, trainer_arguments
from course_utils.train.cpu import cpu_shortcuts
from course_utils.train.modeling import import_unsloth

if TYPE_CHECKING:
    from datasets import Dataset
    from peft import PeftModel
    from transformers import PreTrainedTokenizerBase, TrainerCallback

    from course_utils.core.profiles import Profile


class TrainingError(CourseError):
    """A run that would teach nothing, or that failed."""


class OutOfMemory(TrainingError):
    """A run that needed more memory than there is; the message says what to change next."""


class Interrupted(TrainingError):
    """A run that was stopped by Ctrl-C after a whole step; its checkpoint is whole."""


@dataclass(frozen=True)
class TrainResult:
    """What a run left behind.

    Attributes:
        adapter_dir: the folder with the LoRA weights and the tokenizer.
        metrics: steps, rows, seconds, tokens per second, first and last losses, peak memory in GiB.
        log: one dict per logged step, as the Trainer reports them (step, loss, eval_loss, learning_rate, …) and with
            what `callbacks.RunLog` adds (seconds, tokens_per_second, memory_gib, seconds_left).
    """

    adapter_dir: Path
    metrics: dict[str, float]
    log: list[dict[str, float]]


def run(
    model: PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Mapping[str, Dataset],
    settings: TrainSettings,
    trainer: Callable[[dict[str, Any]], Any],
    *,
    resume: bool = False,
    callbacks: Sequence[TrainerCallback] = (),
    profile: Profile | None = None,
    epochs: float = 1,
) -> TrainResult:
    """Let a Trainer train, and see to its folder: lock, checkpoints, log, tracker, errors that say what to do.

    Args:
        model, tokenizer, settings, resume, callbacks, profile: see `training.train`.
        rows: what is trained on ("train") and what else the run depends on; another run's checkpoint is not resumed.
        trainer: makes TRL's Trainer from the arguments that all of them share.
        epochs: what one epoch of the Trainer's stands for.

    Raises:
        TrainingError, OutOfMemory, Interrupted, TrackerError, FolderInUse: see `training.train`.
    """
    unsloth = import_unsloth()
    from transformers import EarlyStoppingCallback, PrinterCallback, ProgressCallback
    from transformers.utils.notebook import NotebookProgressCallback

    from course_utils.train import trackers
    from course_utils.train.callbacks import (
        FreeMemory,
        NumbersOnly,
        ProgressBar,
        RunLog,
        StopAtInterrupt,
        WholeCheckpoints,
    )

    out = Path(settings.output_dir)
    begun = {"settings": asdict(settings), "base": Path(model.config.name_or_path).name} | {
        f"{name} rows": _digest(part) for name, part in rows.items()
    }
    with run_lock(out):
        if resume and _continues(out, begun):
            if (out / "train_metrics.json").is_file():
                return load_result(out)
            checkpoint = _last_whole_checkpoint(out)
        else:
            checkpoint = None
            if is_first_process():
                _begin(out, begun)
        unsloth.FastLanguageModel.for_training(model)
        first_step = int(checkpoint.name.split("-")[1]) if checkpoint else 0
        interrupt, log = StopAtInterrupt(), RunLog(out / "train_log.jsonl", epochs)
        tracker = trackers.tracker(settings.tracker if is_first_process() else "none", out, first_step)
        with _explained(out, settings, model, profile), tracker as reporters:
            made = trainer(_arguments(settings, model, fresh=checkpoint is None))
            for printer in (PrinterCallback, ProgressCallback, NotebookProgressCallback):  # ours is `ProgressBar`
                made.remove_callback(printer)
            if settings.early_stop:
                made.add_callback(EarlyStoppingCallback(settings.early_stop))
            watchers = (NumbersOnly(), log, WholeCheckpoints(), interrupt, FreeMemory(), ProgressBar())
            for callback in (*watchers, *reporters, *callbacks):
                made.add_callback(callback)
            # GRPO also generates, which it does without autocast: there the casts are needed.
            with interrupt, cpu_shortcuts(model, bf16=made.args.bf16 and settings.stage != "grpo"):
                made.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
            state = made.state
            if interrupt.asked and state.global_step < state.max_steps:
                raise Interrupted(
                    f"Stopped after step {state.global_step} of {state.max_steps}. The checkpoint lies in "
                    f"{out / 'checkpoints'}; the same call with resume=True (`train --resume`) goes on from there."
                )
            metrics = _metrics(log.entries, rows=len(rows["train"]), state=state)
            _finish(made, tokenizer, settings, metrics)
    return TrainResult(out / "adapter", metrics, log.entries)


def _arguments(settings: TrainSettings, model: PeftModel, *, fresh: bool) -> dict[str, Any]:
    """What every Trainer of this course is told."""
    return trainer_arguments(settings) | {
        "output_dir": str(Path(settings.output_dir) / "checkpoints"),
        # All rows of a step at once: nothing is kept for a backward pass, and the loss never holds all logits.
        "per_device_eval_batch_size": settings.batch_size * settings.grad_accum,
        **precision(model.get_input_embeddings().weight.dtype),
        "logging_nan_inf_filter": False,  # else a loss that is no number is logged as the one before it
        "eval_strategy": "steps",
        "eval_on_start": fresh,  # the curve then begins at the untrained model
        "eval_steps": settings.eval_steps,
        "save_strategy": "steps",
        "save_steps": settings.eval_steps,
        "save_total_limit": 2,  # the one before stays until this one is whole
        "load_best_model_at_end": settings.early_stop > 0,
        "metric_for_best_model": "eval_loss" if settings.early_stop else None,
        "data_seed": settings.seed,
        "dataloader_pin_memory": torch.cuda.is_available(),
        "use_cpu": not torch.cuda.is_available(),
        "disable_tqdm": True,
        "report_to": "none",
    }


def _finish(
    trainer: Any, tokenizer: PreTrainedTokenizerBase, settings: TrainSettings, metrics: dict[str, float]
) -> None:
    """Write the adapter and the metrics of a run that came to its end, and drop its checkpoints."""
    out = Path(settings.output_dir)
    final = out / "checkpoints" / "final"
    trainer.save_model(str(final))  # by all processes: where the model is shared out, none of them holds it whole
    trainer.accelerator.wait_for_everyone()
    if trainer.is_world_process_zero():
        with atomic_dir(out / "adapter") as folder:
            for name in ("adapter_config.json", "adapter_model.safetensors"):
                shutil.copy2(final / name, folder / name)
            tokenizer.save_pretrained(folder)
        write_json(out / "train_metrics.json", {"metrics": metrics, "settings": asdict(settings)})
        shutil.rmtree(out / "checkpoints", ignore_errors=True)  # only an unfinished run needs them
    trainer.accelerator.wait_for_everyone()


def load_result(output_dir: str | Path) -> TrainResult:
    """The result of a finished run, read from its folder.

    Raises:
        TrainingError: no run was finished there.
    """
    out = Path(output_dir)
    try:
        metrics = json.loads((out / "train_metrics.json").read_text(encoding="utf-8"))["metrics"]
        lines = (out / "train_log.jsonl").read_text(encoding="utf-8").splitlines()
    except FileNotFoundError as error:
        raise TrainingError(
            f"{out} holds no finished run ({Path(error.filename).name} is missing); run lesson 04 or "
            "`python -m course_utils train` first."
        ) from None
    return TrainResult(out / "adapter", metrics, [json.loads(line) for line in lines])


def precision(dtype: torch.dtype) -> dict[str, bool]:
    """The Trainer's two switches for 16-bit arithmetic, by what the model was loaded in; neither for float32.

    SFTConfig turns bf16 on unless told otherwise (pitfall sft-config-defaults), and Unsloth refuses a float16 model
    with it (its models/rl.py, "Model is in float16 precision"), also on a GPU that could do both.

    Args:
        dtype: the model's.
    """
    return {"bf16": dtype == torch.bfloat16, "fp16": dtype == torch.float16}


def _digest(rows: Dataset) -> str:
    """A hash of all that stands in them."""
    digest = hashlib.sha256()
    for batch in rows.iter(1000):
        digest.update(json.dumps(batch).encode())
    return digest.hexdigest()


def _continues(out: Path, run: dict[str, Any]) -> bool:
    """True where `out` holds a run of these rows and settings; False where it holds none.

    Raises:
        TrainingError: it holds another run.
    """
    record = out / "run.json"
    if not record.is_file():
        return False
    runs = json.loads(record.read_text(encoding="utf-8")), json.loads(json.dumps(run))  # tuples become lists
    before, now = (each.pop("settings") | each for each in runs)
    free = ("tracker", "output_dir")
    differing = [name for name, value in now.items() if before.get(name) != value and name not in free]
    if differing:
        raise TrainingError(
            f"The run in {out} cannot go on: {', '.join(differing)} differ from when it began ({record.name} there "
            "says how). Give it what it had, or begin anew without resume."
        )
    return True


def _begin(out: Path, run: dict[str, Any]) -> None:
    """Clear the folder for a new run; an adapter that lies there stays until the new one is whole.

    Raises:
        TrainingError: the folder cannot be written to. Nothing of an earlier run is then touched.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass
        for file in ("train_metrics.json", "train_log.jsonl", "run.json"):
            (out / file).unlink(missing_ok=True)
        for folder in ("checkpoints", "tensorboard"):
            shutil.rmtree(out / folder, ignore_errors=True)
        write_json(out / "run.json", run)
    except OSError as error:
        raise TrainingError(
            f"{out} cannot be written to ({error.strerror}); set output_dir to a folder of your own."
        ) from error


def _last_whole_checkpoint(out: Path) -> Path | None:
    """The newest checkpoint that was written to its end; the others are removed."""
    from course_utils.train.callbacks import WHOLE

    found = sorted((out / "checkpoints").glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    for path in found:
        if not (path / WHOLE).is_file() and is_first_process():
            shutil.rmtree(path, ignore_errors=True)
    return next((path for path in reversed(found) if (path / WHOLE).is_file()), None)


@contextmanager
def _explained(out: Path, settings: TrainSettings, model: PeftModel, profile: Profile | None) -> Iterator[None]:
    """Turn what stops a run from outside into errors that say what to do."""
    try:
        yield
    except CourseError:
        raise
    except FloatingPointError as error:
        raise TrainingError(
            f"{error}: the run was ended. Lower learning_rate ({settings.learning_rate:g}) to a third, or raise "
            "warmup_steps. No adapter was written."
        ) from error
    except Exception as error:
        if _is_out_of_memory(error):
            raise OutOfMemory(_memory_advice(settings, model, profile)) from error
        if is_write_failure(error):
            raise TrainingError(
                f"A file below {out} could not be written ({str(error).splitlines()[0]}). Free some space and call "
                "again with resume=True: the last whole checkpoint is still there."
            ) from error
        raise


def _is_out_of_memory(error: Exception) -> bool:
    words = str(error)
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and ("DefaultCPUAllocator" in words or "out of memory" in words)
    )


def _memory_advice(settings: TrainSettings, model: PeftModel, profile: Profile | None) -> str:
    """What was needed, and the next thing to change (C37)."""
    by_hand = "Memory ran out. Set gradient_checkpointing=True, then halve batch_size, double grad_accum (lesson 04)."
    if profile is None:
        return by_hand
    profile = replace(profile, train=settings)
    try:
        need, remedy = profiles.memory_budget(model.config.to_dict(), profile), remedies.smaller(profile)
    except BudgetError as error:
        return f"{by_hand} What the model needs is not known: {error}"
    terms = ", ".join(f"{term.name} {term.bytes / 2**30:.1f}" for term in need.terms)
    words = f"Memory ran out; predicted was {need.gib:.1f} GiB ({terms})."
    if remedy is None:
        return f"{words} Nothing is left to make smaller: take a smaller model."
    return f"{words} Next: {remedy.change} ({remedy.cost})."


def _metrics(log: list[dict[str, float]], *, rows: int, state: Any) -> dict[str, float]:
    """The run in numbers, from its log; numbers that the log does not hold are left out."""
    from course_utils.train.callbacks import peak_memory_gib

    def logged(name: str, place: int) -> float | None:
        values = [entry[name] for entry in log if name in entry]
        return values[place] if values else None

    metrics = {
        "rows": rows,
        "steps": state.global_step,
        "seconds": logged("seconds", -1),
        "tokens": state.num_input_tokens_seen,
        "tokens_per_second": logged("tokens_per_second", -1),
        "peak_memory_gib": peak_memory_gib(),
        "first_loss": logged("loss", 0),
        "last_loss": logged("loss", -1),
        "first_eval_loss": logged("eval_loss", 0),
        "last_eval_loss": logged("eval_loss", -1),
    }
    return {name: value for name, value in metrics.items() if value is not None}
