"""Masked fine-tuning with TRL's SFTTrainer on Unsloth: examples and settings in; adapter, log and metrics out."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from course_utils.core.settings import TrainSettings
from course_utils.text import masking
from course_utils.train import runs
from course_utils.train.modeling import import_unsloth
from course_utils.train.row_order import row_order
from course_utils.train.runs import Interrupted as Interrupted
from course_utils.train.runs import OutOfMemory as OutOfMemory
from course_utils.train.runs import TrainingError, TrainResult
from course_utils.train.runs import load_result as load_result
from course_utils.train.runs import precision as precision

if TYPE_CHECKING:
    from datasets import Dataset
    from peft import PeftModel
    from transformers import PreTrainedTokenizerBase, TrainerCallback

    from course_utils.core.profiles import Profile


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
    trainer_class: type | None = None,
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
        trainer_class: a subclass of TRL's SFTTrainer, for a loss of your own; None: SFTTrainer itself.

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
    import_unsloth()
    if audit:
        for name, examples in (("train", train), ("valid", valid)):
            problems = masking.audit(examples, tokenizer).problems
            if problems:
                raise TrainingError(f"The {name} set cannot teach: {'; '.join(problems)}. See masking.audit.")
    train, valid = (_dataset(examples) for examples in (train, valid))
    rows = {"train": train, "valid": valid}
    trainer = partial(_trainer, trainer_class, model, tokenizer, train, valid, settings)
    how = {"resume": resume, "callbacks": callbacks, "profile": profile}
    return runs.run(model, tokenizer, rows, settings, trainer, epochs=_epochs(settings, len(train)), **how)


def _dataset(examples: Dataset | Sequence[masking.Example]) -> Dataset:
    """The two columns that the Trainer wants, as a dataset."""
    from datasets import Dataset

    if not isinstance(examples, Dataset):
        examples = Dataset.from_list([{key: row[key] for key in ("input_ids", "labels")} for row in examples])
    return examples.select_columns(["input_ids", "labels"])


def _rows_per_step(settings: TrainSettings) -> int:
    """Rows that move the weights once, of all processes together."""
    return settings.batch_size * settings.grad_accum * int(os.environ.get("WORLD_SIZE", "1"))


def _epochs(settings: TrainSettings, rows: int) -> float:
    """How often every row comes, also where `max_steps` says how long the run is."""
    return settings.max_steps * _rows_per_step(settings) / rows if settings.max_steps > 0 else settings.epochs


def _trainer(
    trainer_class: type | None,
    model: PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    train: Dataset,
    valid: Dataset,
    settings: TrainSettings,
    arguments: dict[str, Any],
) -> Any:
    """TRL's SFTTrainer for these settings."""
    from trl import SFTConfig, SFTTrainer

    lengths = [len(ids) for ids in train["input_ids"]]
    order = row_order(lengths, _rows_per_step(settings), _epochs(settings, len(train)), settings.seed)
    longest_first = sorted(range(len(valid)), key=lambda row: -len(valid[row]["input_ids"]))
    config = SFTConfig(
        **arguments,
        num_train_epochs=1,  # `row_order` holds all of them
        max_length=settings.max_length,
        padding_free=False,  # `row_order` leaves next to no padding; None lets Unsloth decide by the GPU's name
        train_sampling_strategy="sequential",
        include_num_input_tokens_seen="non_padding",
        dataset_kwargs={"skip_prepare_dataset": True},  # the rows are masked already
    )
    parts = {"train_dataset": train.select(order), "eval_dataset": valid.select(longest_first)}
    return (trainer_class or SFTTrainer)(model=model, processing_class=tokenizer, args=config, **parts)
