"""Masked fine-tuning with TRL's SFTTrainer on Unsloth: examples and settings in; adapter, log and metrics out."""

from __future__ import annotations

import json
import resource
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from course_utils import masking
from course_utils.errors import CourseError
from course_utils.files import whole_folder, write_json, write_text
from course_utils.modeling import import_unsloth
from course_utils.profiles import TrainSettings

if TYPE_CHECKING:
    from datasets import Dataset
    from peft import PeftModel
    from transformers import PreTrainedTokenizerBase, TrainerCallback


class TrainingError(CourseError):
    """A run that would teach nothing, or that failed."""


@dataclass(frozen=True)
class TrainResult:
    """What a run left behind.

    Attributes:
        adapter_dir: the folder with the LoRA weights and the tokenizer.
        metrics: steps, rows, seconds, tokens per second, first and last losses, peak memory in GiB.
        log: one dict per logged step, as the Trainer reports them (step, loss, eval_loss, learning_rate, …).
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
) -> TrainResult:
    """Train the adapter of `model` on masked examples.

    Args:
        model: what `modeling.attach_lora` returned.
        tokenizer: the model's.
        train: examples with `input_ids` and `labels`, from `masking`.
        valid: examples of the same kind, never trained on; their loss is measured every `eval_steps`.
        settings: see `TrainSettings`; everything is written below its `output_dir`.
        resume: go on from the last checkpoint in `output_dir`, where there is one.
        callbacks: further callbacks for the Trainer.
        audit: refuse a set that cannot teach (`masking.MaskAudit.problems`).

    Returns:
        The adapter's folder, metrics and log. The log also stands in `train_log.jsonl`, one step a line.

    Raises:
        TrainingError: the set cannot teach, or the loss is no longer a number.
    """
    unsloth = import_unsloth()
    from trl import SFTTrainer

    train, valid = (_dataset(examples) for examples in (train, valid))
    if audit:
        for name, examples in (("train", train), ("valid", valid)):
            problems = masking.audit(examples, tokenizer).problems
            if problems:
                raise TrainingError(f"The {name} set cannot teach: {'; '.join(problems)}. See masking.audit.")
    out = Path(settings.output_dir)
    unsloth.FastLanguageModel.for_training(model)
    trainer = SFTTrainer(
        model=model,
        processing_class=tokenizer,
        train_dataset=train,
        eval_dataset=valid,
        args=_config(settings, bf16=unsloth.is_bfloat16_supported(), out=out),
    )
    _replace_printers(trainer, [_progress_bar(), *callbacks])
    started = time.monotonic()
    trainer.train(resume_from_checkpoint=_last_checkpoint(out) if resume else None)
    seconds = time.monotonic() - started
    log = [entry for entry in trainer.state.log_history if "train_runtime" not in entry]
    if any(entry.get("loss") != entry.get("loss") for entry in log):  # only NaN differs from itself
        raise TrainingError("The loss became NaN; lower learning_rate. No adapter was written.")
    metrics = _metrics(log, seconds, rows=len(train), steps=trainer.state.global_step)
    with whole_folder(out / "adapter") as folder:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    write_text(out / "train_log.jsonl", "".join(json.dumps(entry) + "\n" for entry in log))
    write_json(out / "train_metrics.json", {"metrics": metrics, "settings": asdict(settings)})
    shutil.rmtree(out / "checkpoints", ignore_errors=True)  # only an unfinished run needs them
    return TrainResult(out / "adapter", metrics, log)


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


def _dataset(examples: Dataset | Sequence[masking.Example]) -> Dataset:
    """The two columns that the Trainer wants, as a dataset."""
    from datasets import Dataset

    if not isinstance(examples, Dataset):
        examples = Dataset.from_list([{key: row[key] for key in ("input_ids", "labels")} for row in examples])
    return examples.select_columns(["input_ids", "labels"])


def _config(settings: TrainSettings, *, bf16: bool, out: Path) -> Any:
    """TRL's SFTConfig for these settings."""
    from trl import SFTConfig

    return SFTConfig(
        output_dir=str(out / "checkpoints"),
        per_device_train_batch_size=settings.batch_size,
        per_device_eval_batch_size=settings.batch_size,
        gradient_accumulation_steps=settings.grad_accum,
        num_train_epochs=settings.epochs,
        max_steps=settings.max_steps,
        learning_rate=settings.learning_rate,
        lr_scheduler_type=settings.scheduler,
        warmup_steps=settings.warmup_steps,
        weight_decay=settings.weight_decay,
        optim=settings.optimizer,
        gradient_checkpointing=settings.gradient_checkpointing,  # SFTConfig turns this on unless told otherwise, too
        max_length=settings.max_length,
        # SFTConfig turns bf16 on unless told otherwise, and a T4 has none (trap 22). An old CPU has neither.
        bf16=bf16,
        fp16=torch.cuda.is_available() and not bf16,
        # 39 % of a random batch was padding; rows of like length together make the same steps faster.
        train_sampling_strategy="group_by_length",
        logging_steps=settings.logging_steps,
        eval_strategy="steps",
        eval_on_start=True,  # the curve then begins at the untrained model
        eval_steps=settings.eval_steps,
        save_strategy="steps",
        save_steps=settings.eval_steps,
        save_total_limit=1,
        seed=settings.seed,
        data_seed=settings.seed,
        dataset_kwargs={"skip_prepare_dataset": True},  # the rows are masked already
        dataloader_pin_memory=torch.cuda.is_available(),
        report_to="none",
    )


def _last_checkpoint(out: Path) -> str | None:
    from transformers.trainer_utils import get_last_checkpoint

    return get_last_checkpoint(str(out / "checkpoints")) if (out / "checkpoints").is_dir() else None


def _replace_printers(trainer: Any, callbacks: Sequence[TrainerCallback]) -> None:
    """Take the Trainer's own printers off and put `callbacks` on: one bar instead of a line for every step."""
    from transformers import PrinterCallback, ProgressCallback
    from transformers.utils.notebook import NotebookProgressCallback

    for printer in (PrinterCallback, ProgressCallback, NotebookProgressCallback):
        trainer.remove_callback(printer)
    for callback in callbacks:
        trainer.add_callback(callback)


def _progress_bar() -> TrainerCallback:
    """A callback that shows one bar with the latest losses; it takes itself off the screen at the end."""
    from tqdm.auto import tqdm
    from transformers import TrainerCallback

    class ProgressBar(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.bar = tqdm(total=state.max_steps, initial=state.global_step, unit="step", leave=False)
            self.shown: dict[str, str] = {}

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.bar.update(state.global_step - self.bar.n)

        def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
            self.shown |= {key: f"{logs[key]:.3f}" for key in ("loss", "eval_loss") if key in (logs or {})}
            self.bar.set_postfix(self.shown)

        def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.bar.close()

    return ProgressBar()


def _metrics(log: list[dict[str, float]], seconds: float, *, rows: int, steps: int) -> dict[str, float]:
    """The run in numbers, from the Trainer's log."""
    losses = [entry["loss"] for entry in log if "loss" in entry]
    eval_losses = [entry["eval_loss"] for entry in log if "eval_loss" in entry]
    tokens = max((entry["num_tokens"] for entry in log if "num_tokens" in entry), default=0.0)
    eval_seconds = sum(entry.get("eval_runtime", 0.0) for entry in log)
    if torch.cuda.is_available():
        peak = torch.cuda.max_memory_allocated()
    else:
        unit = 1 if sys.platform == "darwin" else 1024  # bytes on a Mac, kilobytes on Linux
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    metrics = {
        "rows": rows,
        "steps": steps,
        "seconds": seconds,
        "tokens_per_second": tokens / max(seconds - eval_seconds, 1e-9),
        "peak_memory_gib": peak / 2**30,
        "first_loss": losses[0] if losses else None,
        "last_loss": losses[-1] if losses else None,
        "first_eval_loss": eval_losses[0] if eval_losses else None,
        "last_eval_loss": eval_losses[-1] if eval_losses else None,
    }
    return {name: value for name, value in metrics.items() if value is not None}
