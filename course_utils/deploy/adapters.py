"""A trained adapter: what its folder says, and the 16-bit base with it mounted.

Plain transformers and PEFT, without Unsloth: what is checked here is what any server will load.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError, safe_open

from course_utils.core.errors import CourseError

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

TIED = ("lm_head", "embed_tokens")
"""Often one tensor under two names: an adapter on either cannot be merged then (pitfall adapter-on-tied-weights)."""
SERVED_RANK = 16
"""vLLM mounts adapters up to this rank unless `--max-lora-rank` says otherwise (pitfall rank-above-server-limit)."""


class ExportError(CourseError):
    """An adapter that cannot be read or merged, or a merged folder that is not what it should be."""


@dataclass(frozen=True)
class Adapter:
    """An adapter's folder, read without loading it.

    Attributes:
        folder: where it is.
        base: the model that it was trained on, as its configuration names it, or "".
        rank, alpha: the largest rank of its layers, and its scale; the delta is multiplied by alpha / rank.
        modules: the kinds of layers that it changes, such as "q_proj".
        layers: how many layers it changes.
    """

    folder: Path
    base: str
    rank: int
    alpha: int
    modules: tuple[str, ...]
    layers: int

    @property
    def remarks(self) -> tuple[str, ...]:
        """What to know before it is merged or served; often nothing."""
        high = (
            f"Its rank is {self.rank}: to serve it mounted, vLLM needs a --max-lora-rank of {self.rank} or more, as "
            f"serving.command gives it (it takes {SERVED_RANK} otherwise). Merged, it needs nothing."
        )
        return (high,) if self.rank > SERVED_RANK else ()


def read_adapter(folder: str | Path) -> Adapter:
    """Read what an adapter's folder says about it.

    Args:
        folder: what training wrote: `adapter_config.json` and `adapter_model.safetensors`.

    Raises:
        ExportError: the folder holds no adapter, or one of its two files cannot be read.
    """
    folder = Path(folder)
    try:
        config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        ranks = [config["r"], *(config.get("rank_pattern") or {}).values()]
        base, alpha = config.get("base_model_name_or_path") or "", config["lora_alpha"]
        with safe_open(folder / "adapter_model.safetensors", framework="pt") as weights:
            names = list(weights.keys())
    except FileNotFoundError:
        raise ExportError(
            f"{folder} holds no adapter; lesson 04 or `python -m course_utils train` makes one."
        ) from None
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise ExportError(f"The adapter in {folder} cannot be read ({error}); train or copy it again.") from None
    # "….mlp.down_proj.lora_A.weight" is a layer with LoRA, "….lm_head.weight" one that was trained whole
    changed = {name.split(".lora_")[0] if ".lora_" in name else name.rpartition(".")[0] for name in names}
    modules = tuple(sorted({name.rpartition(".")[2] for name in changed}))
    return Adapter(folder, base, max(ranks), alpha, modules, len(changed))


def load_base(base: str | Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A model in 16 bits and its tokenizer, with plain transformers, from a folder and offline.

    Args:
        base: a folder with config, safetensors and tokenizer.

    Raises:
        ExportError: the folder holds no model.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    if not (Path(base) / "config.json").is_file():
        raise ExportError(f"{base} holds no model; `python -m course_utils download NAME` brings one.")
    # On the CPU, so that a merge needs no GPU: it is one addition per weight.
    model = AutoModelForCausalLM.from_pretrained(str(base), dtype="auto", local_files_only=True, use_safetensors=True)
    return model.eval(), AutoTokenizer.from_pretrained(str(base), local_files_only=True)


def load_with_adapter(base: str | Path, adapter: str | Path) -> tuple[PeftModel, PreTrainedTokenizerBase]:
    """The 16-bit base with the adapter mounted, unmerged.

    Args:
        base, adapter: the folders of the base model and of the adapter.

    Raises:
        ExportError: a folder is not what it should be, or the adapter belongs to another model: by the base that it
            names, by the shapes of its weights, or because some of its layers find no place.
    """
    from peft import PeftModel

    found = read_adapter(adapter)
    known_as = {Path(base).name.lower(), Path(base).resolve().name.lower()}
    # Qwen3-4B and its Instruct-2507 have the same shapes, so only the name tells them apart.
    if found.base and Path(found.base).name.lower() not in known_as:
        raise ExportError(
            f"{adapter} was trained on {found.base}, and this is {Path(base).name}. If they are the same weights under "
            "two names, put this name into base_model_name_or_path of its adapter_config.json."
        )
    model, tokenizer = load_base(base)
    try:
        mounted = PeftModel.from_pretrained(model, str(adapter)).eval()
    except (RuntimeError, ValueError) as error:  # PEFT lists every tensor whose shape differs, every layer not found
        raise ExportError(f"{adapter} was not trained on {base}: {str(error).splitlines()[0]}") from error
    there = sum(name.endswith("lora_A") for name, _ in mounted.named_modules())
    if there != found.layers and not set(TIED) & set(found.modules):
        raise ExportError(f"{adapter} was not trained on {base}: it changes {found.layers} layers of {there}.")
    return mounted, tokenizer
