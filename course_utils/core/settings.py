"""How an adapter is trained: every setting with its meaning, its unit and the values it may have (C36)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from difflib import get_close_matches
from typing import Any, Literal, get_args, get_origin, get_type_hints

from course_utils.core.errors import CourseError


class SettingsError(CourseError):
    """A setting that does not exist, or a value that it cannot have."""


def why(text: str) -> dict[str, str]:
    """Metadata of a field: its meaning and unit, shown by `Profile.table`."""
    return {"why": text}


@dataclass(frozen=True)
class TrainSettings:
    """How an adapter is trained; each field's meaning and unit stand beside it.

    Raises:
        SettingsError: a value of another type, or one that no run can have; all of them are named.
    """

    learning_rate: float = field(
        metadata=why("peak step size of the optimiser; LoRA bears about ten times that of full training")
    )
    epochs: float = field(metadata=why("how often every training row is seen"))
    batch_size: int = field(metadata=why("rows per forward pass"))
    grad_accum: int = field(metadata=why("forward passes per step: batch_size x grad_accum rows move the weights once"))
    max_length: int = field(metadata=why("longest row in tokens; longer ones are reported, never cut"))
    optimizer: Literal["adamw_torch", "adamw_8bit", "paged_adamw_8bit"] = field(
        metadata=why("AdamW; the 8-bit ones keep their state in a quarter of it")
    )
    gradient_checkpointing: bool = field(
        metadata=why("recompute activations in the backward pass: half the memory, 25 % slower")
    )
    eval_steps: int = field(metadata=why("steps between two looks at the validation rows; a checkpoint is kept there"))
    output_dir: str = field(metadata=why("where adapter, log and report go"))
    max_steps: int = field(default=-1, metadata=why("stop after this many steps; -1 means: as many as epochs gives"))
    warmup_steps: float = field(
        default=0.05, metadata=why("steps of rising learning rate; below 1 it is a share of all steps")
    )
    scheduler: Literal["cosine", "linear", "constant", "constant_with_warmup"] = field(
        default="cosine", metadata=why("shape of the learning rate after the warmup")
    )
    weight_decay: float = field(
        default=0.01, metadata=why("pull of the adapter's weights to zero, per step and unit of learning rate")
    )
    r: int = field(default=16, metadata=why("LoRA rank; vLLM serves up to 16 unless told otherwise"))
    alpha: int = field(default=32, metadata=why("LoRA scale: the adapter's output is multiplied by alpha / r"))
    dropout: float = field(
        default=0.0, metadata=why("share of the adapter's inputs dropped; Unsloth's fast path wants 0")
    )
    target_modules: tuple[str, ...] = field(
        default=("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
        metadata=why(
            "layers that get an adapter: all projections, never lm_head or embed_tokens (tied; the merge would break)"
        ),
    )
    early_stop: int = field(
        default=0,
        metadata=why("looks at the validation rows without a better loss before the run ends, best kept; 0: never"),
    )
    logging_steps: int = field(default=1, metadata=why("steps between two lines of the log"))
    tracker: Literal["tensorboard", "swanlab", "wandb", "mlflow", "none"] = field(
        default="tensorboard", metadata=why("who else gets the log; all of them write into output_dir, offline")
    )
    seed: int = field(default=42, metadata=why("one seed for LoRA's start, row order and splits"))

    def __post_init__(self) -> None:
        if problems := [*_wrong_types(self), *_wrong_values(self)]:
            raise SettingsError("These settings cannot be: " + "; ".join(problems) + ".")


def change(settings: TrainSettings, changes: Mapping[str, Any]) -> TrainSettings:
    """The settings with some of them changed, as a configuration file names them.

    Args:
        settings: the values of all that is not named.
        changes: setting to value; a JSON list stands for a tuple.

    Raises:
        SettingsError: a name that is no setting (with the one most like it), or a value that cannot be.
    """
    known = [item.name for item in fields(TrainSettings)]
    if unknown := [name for name in changes if name not in known]:
        guesses = {name: get_close_matches(name, known, n=1) for name in unknown}
        said = ", ".join(
            f"{name!r}" + (f" (do you mean {near[0]!r}?)" if near else "") for name, near in guesses.items()
        )
        raise SettingsError(f"There is no setting {said}. The settings are {', '.join(known)}.")
    return replace(settings, **{name: tuple(v) if isinstance(v, list) else v for name, v in changes.items()})


def trainer_arguments(settings: TrainSettings) -> dict[str, Any]:
    """What transformers' TrainingArguments has as well, under its names: keyword arguments for it and for SFTConfig."""
    return {
        "per_device_train_batch_size": settings.batch_size,
        "gradient_accumulation_steps": settings.grad_accum,
        "max_steps": settings.max_steps,
        "learning_rate": settings.learning_rate,
        "lr_scheduler_type": settings.scheduler,
        "warmup_steps": settings.warmup_steps,
        "weight_decay": settings.weight_decay,
        "optim": settings.optimizer,
        "gradient_checkpointing": settings.gradient_checkpointing,  # SFTConfig turns it on unless told otherwise
        "logging_steps": settings.logging_steps,
        "seed": settings.seed,
    }


def _wrong_types(settings: TrainSettings) -> list[str]:
    """What has another type than its field says; a whole number is a float as well, True is neither."""
    problems = []
    for name, kind in get_type_hints(TrainSettings).items():
        value = getattr(settings, name)
        if get_origin(kind) is Literal:
            if value not in get_args(kind):
                problems.append(f"{name} is {value!r}, expected one of {', '.join(get_args(kind))}")
        elif get_origin(kind) is tuple:
            if not (isinstance(value, tuple) and value and all(isinstance(part, str) for part in value)):
                problems.append(f"{name} is {value!r}, expected names of layers")
        elif not isinstance(value, (int, float) if kind is float else kind) or (
            isinstance(value, bool) and kind is not bool
        ):
            problems.append(f"{name} is {value!r}, expected {kind.__name__}")
    return problems


_LEAST_ONE = ("batch_size", "grad_accum", "max_length", "eval_steps", "r", "alpha", "logging_steps")


def _wrong_values(settings: TrainSettings) -> list[str]:
    """What has the right type and no meaning."""

    bounds = {name: ("at least 1", lambda n: n >= 1) for name in _LEAST_ONE} | {
        "learning_rate": ("above 0 and at most 1", lambda n: 0 < n <= 1),
        "epochs": ("above 0", lambda n: 0 < n < math.inf),
        "max_steps": ("-1 or at least 1", lambda n: n == -1 or n >= 1),
        "warmup_steps": ("0 or more", lambda n: 0 <= n < math.inf),
        "weight_decay": ("0 to 1", lambda n: 0 <= n <= 1),
        "dropout": ("0 or more and below 1", lambda n: 0 <= n < 1),
        "early_stop": ("0 or more", lambda n: n >= 0),
        "seed": ("0 to 4294967295", lambda n: 0 <= n < 2**32),  # what NumPy takes
    }
    problems = [
        f"{name} is {value:g}, expected {words}"
        for name, (words, fits) in bounds.items()
        if isinstance(value := getattr(settings, name), (int, float)) and not fits(value)
    ]
    names = settings.target_modules if isinstance(settings.target_modules, tuple) else ()
    if tied := [name for name in ("embed_tokens", "lm_head") if name in names]:
        problems.append(f"target_modules names {', '.join(tied)}, which many models share: the merge would break them")
    return problems
