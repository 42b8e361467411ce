"""Preferences and rewards: DPO, ORPO, KTO, a reward model and GRPO, each by TRL's own trainer on Unsloth."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any

from course_utils.core.settings import LEARNS_FROM, TrainSettings
from course_utils.data.rows import kind_of, plain_rows
from course_utils.evals import metrics
from course_utils.evals.fast_generation import faster_decoding
from course_utils.text import masking
from course_utils.train import runs
from course_utils.train.modeling import import_unsloth
from course_utils.train.runs import TrainingError, TrainResult

if TYPE_CHECKING:
    from datasets import Dataset
    from peft import PeftModel
    from transformers import PreTrainedTokenizerBase, TrainerCallback

    from course_utils.core.profiles import Profile


def train(
    model: PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    train: Dataset | Sequence[Mapping[str, Any]],
    valid: Dataset | Sequence[Mapping[str, Any]],
    settings: TrainSettings,
    *,
    rewards: Sequence[Callable[..., list[float]]] = (),
    resume: bool = False,
    callbacks: Sequence[TrainerCallback] = (),
    profile: Profile | None = None,
) -> TrainResult:
    """Train the adapter of `model` as `settings.stage` says: dpo, orpo, kto, reward or grpo.

    The reference of DPO and KTO is the model as it comes in: with a fresh adapter that is its base.

    Args:
        model: what `modeling.attach_lora` returned, or for a reward model `modeling.load_reward_model`.
        tokenizer: the model's.
        train: rows of the course's schema: preferences, KTO rows, or for GRPO chats, whose last reply the rewards get
            as `reference`.
        valid: rows of the same kind; GRPO does not look at them.
        rewards: of GRPO, which adds them up: `reward(completions, reference, **others)` gives each reply a number.
        settings, resume, callbacks, profile: see `training.train`.

    Raises:
        TrainingError: rows of another kind, none that fit into `max_length`, and as `training.train`.
        MessageError, MaskError: a row that cannot be rendered (`masking.build_examples`).
    """
    import_unsloth()
    parts = {"train": as_text(train, tokenizer, settings)}
    if settings.stage != "grpo":
        parts["valid"] = as_text(valid, tokenizer, settings)
    trainer = partial(_trainer, model, tokenizer, parts, settings, list(rewards))
    how = {"resume": resume, "callbacks": callbacks, "profile": profile}
    try:
        with faster_decoding(model) if settings.stage == "grpo" else nullcontext():
            return runs.run(model, tokenizer, parts, settings, trainer, epochs=settings.epochs, **how)
    finally:
        if "ref" in model.peft_config:  # TRL's copy of the adapter as it came in
            model.delete_adapter("ref")


def answered(completions: Sequence[str], reference: Sequence[str], **_: Any) -> list[float]:
    """The reward of `train --stage grpo`: 1 for the right answer alone, a half for a number among words, else 0."""

    def earned(reply: str, due: str) -> float:
        alone = metrics.parse_number(due) is None or metrics.bare_answer(reply, due)
        return metrics.same_answer(reply, due) * (1.0 if alone else 0.5)

    return list(map(earned, completions, reference))


def as_text(
    rows: Dataset | Sequence[Mapping[str, Any]], tokenizer: PreTrainedTokenizerBase, settings: TrainSettings
) -> Dataset:
    """Prompts and replies as text whose tokens are those of supervised tuning and of use.

    TRL takes no masks here. So each row goes through `masking.build_examples`, and the ids on both sides of the mask
    become text again, up to the stop token: after a line break behind it TRL would add a second one.

    Returns:
        The columns that TRL's trainers name: prompt, and chosen and rejected, completion and label, or reference.

    Raises:
        TrainingError, MessageError, MaskError: see `train`.
    """
    from datasets import Dataset

    wanted, made, too_long = LEARNS_FROM[settings.stage], [], 0
    for number, row in enumerate(plain_rows(rows)):
        if (kind := kind_of(row)) != wanted:
            raise TrainingError(f"Row {number} is of the kind {kind}, and {settings.stage} learns from {wanted} rows.")
        texts, tokens = _texts(row, tokenizer)
        too_long += tokens > settings.max_length
        made += [texts] if tokens <= settings.max_length else []
    if too_long:
        warnings.warn(f"{too_long} rows are longer than {settings.max_length} tokens and left out.", stacklevel=3)
    if not made:
        raise TrainingError(f"None of {too_long} rows fits into max_length, {settings.max_length} tokens. Raise it.")
    return Dataset.from_list(made)


def _texts(row: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase) -> tuple[dict[str, Any], int]:
    """A row as TRL wants it, and its tokens."""

    def parted(messages: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
        """Prompt and reply, each as the text of its ids."""
        how = {"tools": row.get("tools"), "train_on": "last", "train_on_tool_calls": True}
        [example] = masking.build_examples(messages, tokenizer, **how) or [{"input_ids": [], "labels": []}]
        ids = example["input_ids"]
        learned = [place for place, label in enumerate(example["labels"]) if label != masking.IGNORED]
        stops = [place for place in learned if ids[place] == tokenizer.eos_token_id]
        if not stops:
            raise masking.MaskError("of the reply no stop token is learned: it has weight 0, or the template none")
        parts = ids[: learned[0]], ids[learned[0] : stops[-1] + 1]
        lengths.append(stops[-1] + 1)
        texts = tuple(tokenizer.decode(part, skip_special_tokens=False) for part in parts)
        if tokenizer("".join(texts))["input_ids"] != parts[0] + parts[1]:
            raise masking.MaskError("the tokenizer reads its own text as other tokens, so TRL would learn these")
        return texts

    lengths: list[int] = []
    prompt = row["messages"]
    if "chosen" in row:
        (asked, chosen), (_, rejected) = (parted([*prompt, *row[name]]) for name in ("chosen", "rejected"))
        return {"prompt": asked, "chosen": chosen, "rejected": rejected}, max(lengths)
    asked, reply = parted(prompt)
    if "label" in row:
        return {"prompt": asked, "completion": reply, "label": row["label"]}, max(lengths)
    return {"prompt": asked, "reference": prompt[-1]["content"]}, max(lengths)


def _trainer(
    model: PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    parts: Mapping[str, Dataset],
    settings: TrainSettings,
    rewards: list[Any],
    arguments: dict[str, Any],
) -> Any:
    """TRL's trainer of the stage."""
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")  # TRL 1.15 calls ORPO experimental, and lesson 09 says so
    import trl
    from trl.experimental.orpo import ORPOConfig, ORPOTrainer

    how = arguments | {"num_train_epochs": settings.epochs}
    how |= {} if settings.beta is None else {"beta": settings.beta}
    given = {"model": model, "processing_class": tokenizer, "train_dataset": parts["train"]}
    if settings.stage == "grpo":
        how |= {"num_generations": settings.group_size, "max_completion_length": settings.reply_tokens}
        how |= {"eval_strategy": "no", "eval_on_start": False}  # every look would be as slow as a step
        return trl.GRPOTrainer(**given, reward_funcs=rewards, args=trl.GRPOConfig(**how))
    if settings.stage == "dpo":
        weights = {"sigmoid": 1.0} | ({"sft": settings.sft_weight} if settings.sft_weight else {})
        how |= {"loss_type": [*weights], "loss_weights": [*weights.values()]}
    trainer, config = {
        "dpo": (trl.DPOTrainer, trl.DPOConfig),
        "orpo": (ORPOTrainer, ORPOConfig),
        "kto": (trl.KTOTrainer, trl.KTOConfig),
        "reward": (trl.RewardTrainer, trl.RewardConfig),
    }[settings.stage]
    return trainer(**given, eval_dataset=parts["valid"], args=config(**how, max_length=settings.max_length))
