"""How an adapter is trained: every setting with its meaning, its unit and the values it may have (C36)."""

import re
from collections import defaultdict
from dataclasses import replace
from difflib import get_close_matches
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic.dataclasses import dataclass

from course_utils.core.errors import CourseError

Number = int | float  # a whole number stays one: 2 epochs are not printed as 2.0


LEARNS_FROM = {"sft": "chat", "pretrain": "text", "dpo": "preference", "orpo": "preference", "reward": "preference"}
LEARNS_FROM |= {"kto": "kto", "grpo": "chat"}
"""The kind of rows (`data.rows.kind_of`) that each stage learns from."""


class SettingsError(CourseError):
    """A setting that does not exist, or a value that it cannot have."""


@dataclass(frozen=True, config=ConfigDict(strict=True, extra="forbid", allow_inf_nan=False))
class TrainSettings:
    """How an adapter is trained; each field's meaning and unit stand beside it.

    Raises:
        SettingsError: a value of another type, or one that no run can have; all of them are named.
    """

    learning_rate: Number = Field(gt=0, le=1, description="peak step size; LoRA bears ten times that of full training")
    epochs: Number = Field(gt=0, description="how often every training row is seen")
    batch_size: int = Field(ge=1, description="rows per forward pass")
    grad_accum: int = Field(ge=1, description="passes per step: batch_size x grad_accum rows move the weights once")
    max_length: int = Field(ge=1, description="longest row in tokens; longer ones are reported, never cut")
    optimizer: Literal["adamw_torch", "adamw_8bit", "paged_adamw_8bit"] = Field(
        description="AdamW; the 8-bit ones keep their state in a quarter of it"
    )
    gradient_checkpointing: bool = Field(description="compute activations twice: half the memory, 25 % slower")
    eval_steps: int = Field(ge=1, description="steps between two looks at the validation rows, each with a checkpoint")
    output_dir: str = Field(description="where adapter, log and report go")
    max_steps: Literal[-1] | Annotated[int, Field(ge=1)] = Field(
        -1, description="stop after this many steps; -1 means: as many as epochs gives"
    )
    warmup_steps: Number = Field(0.05, ge=0, description="steps of rising learning rate; below 1 a share of all steps")
    scheduler: Literal["cosine", "linear", "constant", "constant_with_warmup"] = Field(
        "cosine", description="shape of the learning rate after the warmup"
    )
    weight_decay: Number = Field(
        0.01, ge=0, le=1, description="pull of the adapter's weights to zero, per step and unit of learning rate"
    )
    r: int = Field(16, ge=1, description="LoRA rank; vLLM serves up to 16 unless told otherwise")
    alpha: int = Field(32, ge=1, description="LoRA scale: the adapter's output is multiplied by alpha / r")
    dropout: Number = Field(0.0, ge=0, lt=1, description="share of the adapter's input dropped; Unsloth is fast with 0")
    target_modules: tuple[str, ...] = Field(
        ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
        min_length=1,
        strict=False,  # a list of JSON will do
        description="layers with an adapter; never lm_head or embed_tokens, which are tied: the merge would break them",
    )
    early_stop: int = Field(
        0, ge=0, description="looks without a better validation loss before the run ends, the best kept; 0: never"
    )
    logging_steps: int = Field(1, ge=1, description="steps between two lines of the log")
    tracker: Literal["tensorboard", "swanlab", "wandb", "mlflow", "none"] = Field(
        "tensorboard", description="who else gets the log; all of them write into output_dir, offline"
    )
    seed: int = Field(42, ge=0, lt=2**32, description="one seed for LoRA's start, row order and splits")
    stage: Literal["sft", "pretrain", "dpo", "orpo", "kto", "reward", "grpo"] = Field(
        "sft", description="learn from replies, from plain text, from preferences, or from rewards of own replies"
    )
    beta: Number | None = Field(None, ge=0, description="pull to the reference (orpo: to the pairs); None: TRL's")
    sft_weight: Number = Field(0, ge=0, description="dpo: weight of the loss of the chosen reply itself")
    group_size: int = Field(8, ge=2, description="grpo: replies to one prompt, which are compared with each other")
    reply_tokens: int = Field(64, ge=1, description="grpo: longest reply, in tokens")

    @field_validator("target_modules")
    @classmethod
    def _not_tied(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if tied := [name for name in ("embed_tokens", "lm_head") if name in names]:
            raise ValueError(f"no {' or '.join(tied)}, which many models share: the merge would break them")
        return names

    @model_validator(mode="wrap")
    @classmethod
    def _checked(cls, values: Any, check: Any) -> "TrainSettings":
        """All that pydantic finds wrong, as one SettingsError; only the unknown names where there are any."""
        try:
            return check(values)
        except ValidationError as error:
            known, unknown, expected = list(meanings(cls)), [], defaultdict(list)
            for fault in error.errors():
                name, *part = fault["loc"]
                if fault["type"] == "unexpected_keyword_argument":
                    near = get_close_matches(name, known, n=1)
                    unknown.append(f"{name!r}" + "".join(f" (do you mean {each!r}?)" for each in near))
                elif part != ["int"]:  # of a Number: what is said of the float says it all
                    words = re.sub(r"^(Value error, |\w+ should (be|have) )", "", fault["msg"])
                    expected[f"{name} is {fault['input']!r}"].append(words)
            if unknown:
                told = f"There is no setting {', '.join(unknown)}. The settings are {', '.join(known)}."
            else:
                problems = [f"{found}, expected {' or '.join(words)}" for found, words in expected.items()]
                told = f"These settings cannot be: {'; '.join(problems)}."
            raise SettingsError(told) from None


def for_stage(settings: TrainSettings, stage: str) -> TrainSettings:
    """A profile's settings for another stage (docs/preferences.md); what it leaves lies in a folder of its own.

    Raises:
        SettingsError: an unknown stage.
    """
    if stage == "sft":
        return settings
    changes = {"grpo": {"learning_rate": 1e-4, "batch_size": 16}, "pretrain": {}}.get(stage, {"learning_rate": 5e-5})
    return replace(settings, stage=stage, output_dir=f"{settings.output_dir}/{stage}", **changes)


def meanings(of: type) -> dict[str, str]:
    """The meaning and unit of each field of a pydantic dataclass, by its name."""
    return {name: field.description or "" for name, field in of.__pydantic_fields__.items()}


def trainer_arguments(settings: TrainSettings) -> dict[str, Any]:
    """Those of the settings that transformers' TrainingArguments and TRL's SFTConfig have too, under their names."""
    same = ("max_steps", "learning_rate", "warmup_steps", "weight_decay", "logging_steps", "seed")
    return {name: getattr(settings, name) for name in same} | {
        "per_device_train_batch_size": settings.batch_size,
        "gradient_accumulation_steps": settings.grad_accum,
        "lr_scheduler_type": settings.scheduler,
        "optim": settings.optimizer,
        "gradient_checkpointing": settings.gradient_checkpointing,  # SFTConfig turns it on unless told otherwise
    }
