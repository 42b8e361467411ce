"""Unsloth's FastLanguageModel: load a model from its folder, attach LoRA, switch between training and answering."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from course_utils.core import weights
from course_utils.core.budget import lora_targets
from course_utils.core.errors import CourseError

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from course_utils.core.profiles import Profile
    from course_utils.core.settings import TrainSettings

CONTEXT = 4096  # tokens that a conversation may have: Unsloth cuts what is longer without a word


class ModelError(CourseError):
    """A model or an adapter that cannot be loaded as asked."""


def import_unsloth() -> Any:
    """Import Unsloth, which patches transformers, TRL and PEFT, and so must come before them.

    Raises:
        ModelError: transformers, TRL or PEFT came first in this process; nothing can mend that but a restart.
    """
    if "unsloth" not in sys.modules:
        early = [name for name in ("trl", "peft", "transformers") if name in sys.modules]
        if early:
            raise ModelError(
                f"{', '.join(early)} came before Unsloth in this process, so Unsloth's patches would be incomplete. "
                "Restart the kernel and run setup() first."
            )
    # Compiling the layers takes minutes, which only runs of thousands of passes win back (unsloth/models/llama.py).
    os.environ.setdefault("UNSLOTH_BLOCK_COMPILE_LEGACY", "0")
    # On a Mac with `mlx` Unsloth would take MLX, whose models are not torch's: it gets the CPU. Elsewhere no matter.
    os.environ["UNSLOTH_FORCE_GPU_PATH"] = "1"
    # Notes on the libraries' own affairs, which a notebook would show in red above the lesson's first table.
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)  # an optional kernel that is not there
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*HF_HUB_ENABLE_HF_TRANSFER")  # Unsloth sets it; it does nothing
        import unsloth

    return unsloth


def load_model(
    path: str | Path, profile: Profile, *, load_in_4bit: bool | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a base model and its tokenizer from a folder, offline; of one that also reads pictures, its text part.

    A local folder, never a hub id: Unsloth would swap the repository for one of its own (pitfall
    unsloth-swaps-repository).

    Args:
        path: what `hub.download` returned.
        profile: gives dtype, the least sequence length and whether the base is held in 4 bits.
        load_in_4bit: overrides the profile (NF4 with double quantisation where True). Qwen3.5 and later lose more in 4
            bits than others, so without it they are held in 16, as Unsloth advises.

    Returns:
        The model and its tokenizer.

    Raises:
        ModelError: the folder holds no model or one that is not whole (pitfall pointer-for-weights), or the tokenizer's
            padding token is its stop token (pitfall pad-is-eos).
    """
    unsloth, path = import_unsloth(), _whole(path)  # the check of the weights imports transformers
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(path, trust_remote_code=False)
    if load_in_4bit is None:
        load_in_4bit = profile.load_in_4bit and not _linear_attention(config)
    pictures = hasattr(config, "vision_config") and torch.cuda.is_available()  # on a CPU Unsloth leaves them out itself
    model, tokenizer = unsloth.FastLanguageModel.from_pretrained(
        model_name=str(path),
        max_seq_length=max(CONTEXT, profile.train.max_length + profile.max_new_tokens),
        dtype=getattr(torch, profile.dtype),
        load_in_4bit=load_in_4bit,
        trust_remote_code=False,
        local_files_only=True,
        **({"text_only": True} if pictures else {}),
    )
    tokenizer = getattr(tokenizer, "tokenizer", tokenizer)  # of a processor, which also takes pictures
    return model, _with_padding(tokenizer, path)


def load_reward_model(path: str | Path, profile: Profile) -> tuple[PeftModel, PreTrainedTokenizerBase]:
    """As `load_model` and `attach_lora`, with a new head that gives a text one number in place of the next token.

    By transformers and PEFT: Unsloth's CPU backend (unsloth_zoo/cpu/loader.py) hears of `num_labels`, and loads a model
    that writes all the same. The base is held in 16 bits, the head in 32.
    """
    import_unsloth()
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    path, settings = _whole(path), profile.train
    tokenizer = _with_padding(AutoTokenizer.from_pretrained(path, local_files_only=True), path)
    torch.manual_seed(settings.seed)  # for the head and for LoRA, which begin at random
    # The number is read at the last token before the padding.
    how = {"num_labels": 1, "pad_token_id": tokenizer.pad_token_id, "dtype": getattr(torch, profile.dtype)}
    how |= {"local_files_only": True, "trust_remote_code": False}
    model = AutoModelForSequenceClassification.from_pretrained(path, **how)
    model.score.float()  # small steps would be lost in 16 bits
    lora = {"r": settings.r, "lora_alpha": settings.alpha, "lora_dropout": settings.dropout}
    lora |= {"task_type": "SEQ_CLS", "target_modules": _layers(model, settings)}
    return get_peft_model(model, LoraConfig(**lora)), tokenizer


def _whole(path: str | Path) -> Path:
    """The folder, where it holds a model."""
    path = Path(path)
    if not (path / "config.json").is_file():
        raise ModelError(f"{path} holds no config.json; hub.download({str(path.name)!r}) makes a model's folder.")
    if problem := weights.model_fault(path):
        raise ModelError(f"{path} cannot be loaded: {problem}")
    return path


def _with_padding(tokenizer: PreTrainedTokenizerBase, path: Path) -> PreTrainedTokenizerBase:
    """The tokenizer, where its padding is a token of its own."""
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id == tokenizer.eos_token_id:
        raise ModelError(
            f"{path}: the padding token is {tokenizer.pad_token!r}, which is also the stop token; a model trained so "
            "never learns to stop. Set another pad_token in tokenizer_config.json."
        )
    return tokenizer


def attach_lora(model: PreTrainedModel, profile: Profile) -> PeftModel:
    """Add LoRA layers, the only ones that will be trained.

    The seed is set here, before the layers get their first values: the Trainer's own seed comes too late (pitfall
    seed-too-late).

    Args:
        model: what `load_model` returned.
        profile: its `train` gives rank, alpha, dropout, target layers, seed. Where these name attention, layers of
            linear attention get LoRA, too (`budget.lora_targets`).
    """
    settings = profile.train
    return import_unsloth().FastLanguageModel.get_peft_model(
        model,
        r=settings.r,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=_layers(model, settings),
        bias="none",
        use_gradient_checkpointing="unsloth" if settings.gradient_checkpointing else False,
        random_state=settings.seed,
    )


def _layers(model: PreTrainedModel, settings: TrainSettings) -> list[str]:
    """The layers of a model that get LoRA."""
    return list(lora_targets(settings.target_modules, _linear_attention(model.config)))


def _linear_attention(config: Any) -> bool:
    """Whether most layers have linear attention: Qwen3.5 and later."""
    return "linear_attention" in (getattr(config.get_text_config(), "layer_types", None) or ())


def load_adapter(model: PreTrainedModel, adapter_dir: str | Path) -> PeftModel:
    """Mount a trained adapter on its base; `with model.disable_adapter():` gives the base back for a while.

    Args:
        model: what `load_model` returned, of the model that the adapter was trained on.
        adapter_dir: `TrainResult.adapter_dir`.

    Raises:
        ModelError: the folder holds no LoRA that can be added to this model, by what its configuration, its numbers or
            their names say (pitfall adapter-changes-base).
    """
    try:
        named, base = (
            weights.adapter_config(Path(adapter_dir)).get("base_model_name_or_path"),
            model.config.name_or_path,
        )
        if base and (problem := weights.other_base(named or "", base)):
            raise ValueError(problem)
        return weights.mount(model, Path(adapter_dir))
    except ValueError as error:
        raise ModelError(f"{adapter_dir} {error}") from error


def for_inference(model: PreTrainedModel | PeftModel) -> PreTrainedModel | PeftModel:
    """Switch to answering: no dropout, the key-value cache on, Unsloth's faster generation on a GPU."""
    return import_unsloth().FastLanguageModel.for_inference(model)
