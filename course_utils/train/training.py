"""Masked fine-tuning with TRL's SFTTrainer on Unsloth: examples and settings in; adapter, log and metrics out."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
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
from course_utils.text import masking
from course_utils.train.cpu import cpu_shortcuts
from course_utils.train.modeling import import_unsloth
from course_utils.train.row_order import row_order

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


def train(
    model: PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    train: Dataset | Sequence[masking.Example],
    valid: Dataset | Sequence[masking.Example],
    settings: TrainSettings,
    *,
    resume: bool = False,
    callbacks: Sequence[TrainerCallback] = (),
    audit: bool = True,
    profile: Profile | None = None,
) -> TrainResult:
    """Train the adapter of `model` on masked examples.

    A checkpoint is kept at every evaluation. Killed at any moment, the run goes on with `resume=True` from the last
    whole one and ends with the same adapter as without the kill. Ctrl-C writes a checkpoint at the end of the step.
    Several processes (`accelerate launch`) share each step's rows.

    Args:
        model: what `modeling.attach_lora` returned.
        tokenizer: the model's.
        train: examples with `input_ids` and `labels`, from `masking`.
        valid: examples of the same kind, never trained on; their loss is measured every `eval_steps`.
        settings: see `TrainSettings`; everything is written below its `output_dir`.
        resume: go on from the last whole checkpoint in `output_dir`, where there is one; a finished run is returned
            as it is.
        callbacks: further callbacks for the Trainer; the logs that they get hold what `callbacks.RunLog` adds.
        audit: refuse a set that cannot teach (`masking.MaskAudit.problems`).
        profile: what the model was loaded with; where memory runs out, the error gives its budget and next remedy.

    Returns:
        The adapter's folder, metrics and log. The log also grows in `train_log.jsonl` while the run goes on.

    Raises:
        TrainingError: the set cannot teach, the folder or the disk cannot be written to, the loss is not a number,
            or `resume` finds a run of other rows or settings.
        OutOfMemory: with what to change.
        Interrupted: by Ctrl-C, with how to go on.
        TrackerError: the tracker is not installed.
        FolderInUse: another run is writing into `output_dir`; nothing there was changed.
    """
    unsloth = import_unsloth()
    from course_utils.train import trackers
    from course_utils.train.callbacks import (
        FreeMemory,
        NumbersOnly,
        ProgressBar,
        RunLog,
        StopAtInterrupt,
        WholeCheckpoints,
    )

    if audit:
        for name, examples in (("train", train), ("valid", valid)):
            problems = masking.audit(examples, tokenizer).problems
            if problems:
                raise TrainingError(f"The {name} set cannot teach: {'; '.join(problems)}. See masking.audit.")
    train, valid = (_dataset(examples) for examples in (train, valid))
    out = Path(settings.output_dir)
    run = {"settings": asdict(settings), "base": Path(model.config.name_or_path).name} | {
        f"{name} rows": _digest(rows) for name, rows in (("train", train), ("valid", valid))
    }
    with run_lock(out):
        if resume and _continues(out, run):
            if (out / "train_metrics.json").is_file():
                return load_result(out)
            checkpoint = _last_whole_checkpoint(out)
        else:
            checkpoint = None
            if is_first_process():
                _begin(out, run)
        unsloth.FastLanguageModel.for_training(model)
        first_step = int(checkpoint.name.split("-")[1]) if checkpoint else 0
        interrupt, log = StopAtInterrupt(), RunLog(out / "train_log.jsonl", _epochs(settings, len(train)))
        tracker = trackers.tracker(settings.tracker if is_first_process() else "none", out, first_step)
        with _explained(out, settings, model, profile), tracker as reporters:
            trainer = _trainer(model, tokenizer, train, valid, settings, fresh=checkpoint is None)
            watchers = (NumbersOnly(), log, WholeCheckpoints(), interrupt, FreeMemory(), ProgressBar())
            for callback in (*watchers, *reporters, *callbacks):
                trainer.add_callback(callback)
            with interrupt, cpu_shortcuts(model, bf16=trainer.args.bf16):
                trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
            state = trainer.state
            if interrupt.asked and state.global_step < state.max_steps:
                raise Interrupted(
                    f"Stopped after step {state.global_step} of {state.max_steps}. The checkpoint lies in "
                    f"{out / 'checkpoints'}; the same call with resume=True (`train --resume`) goes on from there."
                )
            metrics = _metrics(log.entries, rows=len(train), state=state)
            _finish(trainer, tokenizer, settings, metrics)
    return TrainResult(out / "adapter", metrics, log.entries)


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


def _dataset(examples: Dataset | Sequence[masking.Example]) -> Dataset:
    """The two columns that the Trainer wants, as a dataset."""
    from datasets import Dataset

    if not isinstance(examples, Dataset):
        examples = Dataset.from_list([{key: row[key] for key in ("input_ids", "labels")} for row in examples])
    return examples.select_columns(["input_ids", "labels"])


def _digest(rows: Dataset) -> str:
    """A hash of all ids and labels."""
    digest = hashlib.sha256()
    for batch in rows.iter(1000):
        digest.update(json.dumps([batch["input_ids"], batch["labels"]]).encode())
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


def _rows_per_step(settings: TrainSettings) -> int:
    """Rows that move the weights once, of all processes together."""
    return settings.batch_size * settings.grad_accum * int(os.environ.get("WORLD_SIZE", "1"))


def _epochs(settings: TrainSettings, rows: int) -> float:
    """How often every row comes, also where `max_steps` says how long the run is."""
    return settings.max_steps * _rows_per_step(settings) / rows if settings.max_steps > 0 else settings.epochs


def _last_whole_checkpoint(out: Path) -> Path | None:
    """The newest checkpoint that was written to its end; the others are removed."""
    from course_utils.train.callbacks import WHOLE

    found = sorted((out / "checkpoints").glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    for path in found:
        if not (path / WHOLE).is_file() and is_first_process():
            shutil.rmtree(path, ignore_errors=True)
    return next((path for path in reversed(found) if (path / WHOLE).is_file()), None)


def _trainer(
    model: PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    train: Dataset,
    valid: Dataset,
    settings: TrainSettings,
    *,
    fresh: bool,
) -> Any:
    """TRL's SFTTrainer for these settings, without its own printers."""
    from transformers import EarlyStoppingCallback, PrinterCallback, ProgressCallback
    from transformers.utils.notebook import NotebookProgressCallback
    from trl import SFTConfig, SFTTrainer

    lengths = [len(ids) for ids in train["input_ids"]]
    order = row_order(lengths, _rows_per_step(settings), _epochs(settings, len(train)), settings.seed)
    longest_first = sorted(range(len(valid)), key=lambda row: -len(valid[row]["input_ids"]))
    config = SFTConfig(
        output_dir=str(Path(settings.output_dir) / "checkpoints"),
        **trainer_arguments(settings),
        # All rows of a step at once: nothing is kept for a backward pass, and the loss never holds all logits.
        per_device_eval_batch_size=settings.batch_size * settings.grad_accum,
        num_train_epochs=1,  # `row_order` holds all of them
        max_length=settings.max_length,
        padding_free=False,  # `row_order` leaves next to no padding; None lets Unsloth decide by the GPU's name
        **precision(model.get_input_embeddings().weight.dtype),
        train_sampling_strategy="sequential",
        logging_nan_inf_filter=False,  # else a loss that is no number is logged as the one before it
        include_num_input_tokens_seen="non_padding",
        eval_strategy="steps",
        eval_on_start=fresh,  # the curve then begins at the untrained model
        eval_steps=settings.eval_steps,
        save_strategy="steps",
        save_steps=settings.eval_steps,
        save_total_limit=2,  # the one before stays until this one is whole
        load_best_model_at_end=settings.early_stop > 0,
        metric_for_best_model="eval_loss" if settings.early_stop else None,
        data_seed=settings.seed,
        dataset_kwargs={"skip_prepare_dataset": True},  # the rows are masked already
        dataloader_pin_memory=torch.cuda.is_available(),
        use_cpu=not torch.cuda.is_available(),
        disable_tqdm=True,
        report_to="none",
    )
    trainer = SFTTrainer(
        model=model,
        processing_class=tokenizer,
        train_dataset=train.select(order),
        eval_dataset=valid.select(longest_first),
        args=config,
    )
    for printer in (PrinterCallback, ProgressCallback, NotebookProgressCallback):
        trainer.remove_callback(printer)
    if settings.early_stop:
        trainer.add_callback(EarlyStoppingCallback(settings.early_stop))
    return trainer


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
