"""A trained adapter: what its folder says, and the 16-bit base with it mounted.

Plain transformers and PEFT, without Unsloth: what is checked here is what any server will load.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from course_utils.core import weights
from course_utils.core.errors import CourseError
from course_utils.core.hardware import detect_hardware

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

TIED = ("lm_head", "embed_tokens")
"""Often one tensor under two names: an adapter on either cannot be merged then (pitfall adapter-on-tied-weights)."""
ROOM = 1.3  # times the weights: a LoRA's delta, the cache of 16 short replies
SERVED_RANK = 16
"""vLLM mounts adapters up to this rank unless `--max-lora-rank` says otherwise (pitfall rank-above-server-limit)."""


class ExportError(CourseError):
    """An adapter that cannot be read or merged, or a merged folder that is not what it should be."""


TABLE = re.compile(
    r"(embed_tokens|lm_head)\.((token_adapter\.)?base_layer\.weight|weight|lora_embedding_A|lora_B\.weight)$"
)
"""The names of tensors that have a row, or a column, for each token."""


@dataclass(frozen=True)
class Adapter:
    """An adapter's folder, read without loading it.

    Attributes:
        folder: where it is.
        base: the model that it was trained on, as its configuration names it, or "".
        rank, alpha: the largest rank of its layers, and its scale; the delta is multiplied by alpha / rank.
        modules: the kinds of layers that it changes, such as "q_proj".
        layers: how many layers it changes.
        whole: those of `modules` that it brings whole and not as a LoRA: trained in full, or tables that have grown.
        rows: how many tokens its tables have, where it brings one; else 0.
        merge_only: what of it vLLM does not mount (its lora/peft_helper.py and lora/lora_model.py), in words.
    """

    folder: Path
    base: str
    rank: int
    alpha: int
    modules: tuple[str, ...]
    layers: int
    whole: tuple[str, ...] = ()
    rows: int = 0
    merge_only: tuple[str, ...] = ()

    @property
    def remarks(self) -> tuple[str, ...]:
        """What to know before it is merged or served; often nothing."""
        high = (
            f"Its rank is {self.rank}: to serve it mounted, vLLM needs a --max-lora-rank of {self.rank} or more, as "
            f"serving.command gives it (it takes {SERVED_RANK} otherwise). Merged, it needs nothing."
        )
        special = f"It has {' and '.join(self.merge_only)}, which vLLM does not mount: serve it merged."
        return (high,) * (self.rank > SERVED_RANK) + (special,) * bool(self.merge_only)


def read_adapter(folder: str | Path) -> Adapter:
    """Read what an adapter's folder says about it.

    Args:
        folder: what training wrote: `adapter_config.json` and `adapter_model.safetensors`.

    Raises:
        ExportError: the folder holds no LoRA that can be added to its base (pitfall adapter-changes-base), or one of
            its two files cannot be read.
    """
    folder = Path(folder)
    try:
        config = weights.adapter_config(folder)
    except ValueError as error:
        raise ExportError(f"{folder} {error}") from None
    patterns = config.get("rank_pattern") or {}, config.get("alpha_pattern") or {}
    shapes = weights.adapter_shapes(folder)
    # "….mlp.down_proj.lora_A.weight" is a layer with LoRA, "….lm_head.weight" one that was trained whole
    mounted = {name.split(".lora_")[0] for name in shapes if ".lora_" in name}
    rest = {re.sub(r"(\.base_layer|\.token_adapter)?\.\w+$", "", name) for name in shapes if ".lora_" not in name}
    whole = _kinds(rest - mounted)
    special = {
        "DoRA": config.get("use_dora"),
        f"layers trained whole ({', '.join(whole)})": whole,
        "rank_pattern or alpha_pattern": any(patterns),
        "biases": config.get("bias", "none") != "none" or config.get("lora_bias"),
    }
    return Adapter(
        folder=folder,
        base=config.get("base_model_name_or_path") or "",
        rank=max(config["r"], *patterns[0].values(), 1),
        alpha=config["lora_alpha"],
        modules=_kinds(mounted | rest),
        layers=len(mounted | rest),
        whole=whole,
        rows=max((max(shape) for name, shape in shapes.items() if TABLE.search(name)), default=0),
        merge_only=tuple(words for words, there in special.items() if there),
    )


def _kinds(layers: set[str]) -> tuple[str, ...]:
    return tuple(sorted({name.rpartition(".")[2] for name in layers}))


def check_base(adapter: Adapter, base: str | Path) -> None:
    """Refuse an adapter that names another base: of Qwen3-4B and its Instruct-2507, only the names differ.

    Raises:
        ExportError: the folder `base` has another name.
    """
    if problem := weights.other_base(adapter.base, base):
        raise ExportError(f"{adapter.folder} {problem}")


def new_tokens(base: str | Path, adapter: str | Path) -> list[str]:
    """The tokens that the tokenizer beside an adapter has and its base's does not, by their ids; often none."""
    known, own = (_vocabulary(Path(folder)) for folder in (base, adapter))
    return sorted(own.keys() - known.keys(), key=own.__getitem__) if known else []


def _vocabulary(folder: Path) -> dict[str, int]:
    """The tokens of the tokenizer in a folder, in whichever of its files they stand; often none beside an adapter."""
    from tokenizers import Tokenizer

    if (folder / "tokenizer.json").is_file():
        try:
            return Tokenizer.from_file(str(folder / "tokenizer.json")).get_vocab()
        except Exception as error:  # tokenizers has no class of its own
            raise ExportError(f"The tokenizer in {folder} cannot be read ({error}); copy it again.") from None
    files = [folder / name for name in ("vocab.json", "added_tokens.json")]  # the slow form
    try:
        found = [json.loads(file.read_bytes()).items() for file in files if file.is_file()]
        return dict(chain.from_iterable(found))
    except (ValueError, AttributeError) as error:
        raise ExportError(f"The tokenizer in {folder} cannot be read ({error}); copy it again.") from None


def load_base(base: str | Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A model in 16 bits (see `upcast`) and its tokenizer, with plain transformers, from a folder and offline.

    Args:
        base: a folder with config, safetensors and tokenizer.

    Raises:
        ExportError: the folder holds no model.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    if not (Path(base) / "config.json").is_file():
        raise ExportError(f"{base} holds no model; `python -m course_utils download NAME` brings one.")
    if problem := weights.model_fault(base):
        raise ExportError(f"{base} cannot be loaded: {problem}")
    options = {"dtype": "auto", "device_map": "cuda" if _fits_gpu(base) else None}
    model = AutoModelForCausalLM.from_pretrained(str(base), local_files_only=True, use_safetensors=True, **options)
    return upcast(model).eval(), AutoTokenizer.from_pretrained(str(base), local_files_only=True)


def _fits_gpu(base: str | Path) -> bool:
    """Whether a GPU has room for the model and its answers. The CPU can merge as well, but answers slowly."""
    import torch

    size = sum(file.stat().st_size for file in Path(base).glob("*.safetensors"))
    return torch.cuda.is_available() and ROOM * size < torch.cuda.mem_get_info()[0]


def upcast(model: PreTrainedModel) -> PreTrainedModel:
    """The model, in float32 where this CPU has no 16-bit arithmetic: it emulates it, a hundred times as slowly."""
    hardware = detect_hardware()
    return model.float() if hardware.device == "cpu" and not hardware.bf16 else model


def load_with_adapter(base: str | Path, adapter: str | Path) -> tuple[PeftModel, PreTrainedTokenizerBase]:
    """The 16-bit base with the adapter mounted, unmerged.

    Where tokens were added for the training, the model has their rows and the tokenizer is the adapter's own.

    Args:
        base, adapter: the folders of the base model and of the adapter.

    Raises:
        ExportError: a folder is not what it should be, the adapter belongs to another model (by the base that it names,
            by the shapes of its weights, or because some of its layers find no place), its tokens and its tables do not
            fit together, or its start was taken out of the base (pitfall adapter-changes-base).
    """
    found = read_adapter(adapter)
    check_base(found, base)
    model, tokenizer = load_base(base)
    tokenizer = _with_new_tokens(model, tokenizer, base, found)
    try:
        return weights.mount(model, found.folder).eval(), tokenizer
    except ValueError as error:
        raise ExportError(f"{adapter} {error}") from error


def _with_new_tokens(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, base: str | Path, adapter: Adapter
) -> PreTrainedTokenizerBase:
    """Give the model as many rows as the adapter's tables have; returns the tokenizer that goes with them."""
    from transformers import AutoTokenizer

    new, before = new_tokens(base, adapter.folder), model.get_input_embeddings().weight.shape[0]
    if new:
        template = tokenizer.chat_template
        tokenizer = AutoTokenizer.from_pretrained(str(adapter.folder), local_files_only=True)
        if template and "{% generation %}" in str(tokenizer.chat_template):  # a trainer's, for masks
            tokenizer.chat_template = template
    rows = adapter.rows or before
    if len(tokenizer) > rows or (rows > before and not _vocabulary(adapter.folder)):
        raise ExportError(
            f"{adapter.folder} was trained with {max(rows, len(tokenizer))} tokens, and {base} has {before}. Save it "
            "again where it was trained, with the new tokens and their rows: tokenizer.save_pretrained(folder), "
            "model.save_pretrained(folder, save_embedding_layers=True)."
        )
    if rows != before:
        model.resize_token_embeddings(rows, mean_resizing=False)  # the adapter brings what stands in them
    return tokenizer
