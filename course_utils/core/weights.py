"""What the files of a model or of an adapter say before they are loaded."""

from __future__ import annotations

import json
import os
import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from course_utils.core.strict_json import STRICT

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")
LOADED = (
    *("config.json", "generation_config.json", "adapter_config.json", "chat_template.*", "special_tokens_map.json"),
    *("tokenizer*.json", "added_tokens.json", "vocab*", "merges.txt", "*.model"),
)
"""What transformers reads of a folder besides weights."""
KEEPS_BASE = (None, True, False, "gaussian", "orthogonal", "eva", "mica")
"""Values of PEFT's `init_lora_weights` that leave the base as it is (its tuners/lora/layer.py); those of PiSSA, OLoRA,
CorDA, LoftQ and LoRA-GA take a part out of it (pitfall adapter-changes-base)."""
NO_SUM = ("alora_invocation_tokens", "arrow_config", "kasa_config", "layer_replication", "use_qalora")
"""Settings of PEFT with which an adapter is more than something to be added to weights."""
_FLAG = ({bool, type(None)}, "true or false, without quotes, belongs there")
FIELDS = {
    "r": ({int}, "a whole number belongs there"),
    "lora_alpha": ({int, float}, "a number belongs there"),
    "rank_pattern": ({int, type(None)}, "an object of whole numbers belongs there"),
    "alpha_pattern": ({int, float, type(None)}, "an object of numbers belongs there"),
    "base_model_name_or_path": ({str, type(None)}, "a name or a folder belongs there"),
    **dict.fromkeys(("use_rslora", "use_dora", "lora_bias", "fan_in_fan_out"), _FLAG),
}
"""What an adapter's settings may be; PEFT takes any, and then reckons with "false" as true."""
COPY = re.compile(r"\.(modules_to_save|original_module)\.")
"""In the names of tensors that PEFT writes twice, where the vocabulary has grown and its tables were trained."""
PICKLE = (
    "which can run code when it is loaded. Load it where it was made with transformers or PEFT, and save it once more "
    "by save_pretrained: that writes safetensors."
)
CONVERT = (
    "Convert it where it was trained: save_pretrained(folder, path_initial_model_for_weight_conversion=start), where "
    "start holds the adapter as it was before the first step; or use the base without that part, which training saved."
)


def fault(folder: str | Path, *, model: bool = False) -> str:
    """What keeps the files of a folder from being loaded, and what to do; "" for nothing (pitfall pointer-for-weights).

    Of a model or an adapter only what is loaded is looked at, of weights only their header; of any other folder all
    files at its top. A `model` must hold weights with a header that can be read, and a tokenizer.
    """
    folder = Path(folder)
    loaded = {file for pattern in LOADED for file in folder.glob(pattern)}
    whole = [folder / name for name in (ADAPTER_FILES[1], "model.safetensors") if os.path.lexists(folder / name)]
    known = any((folder / name).exists() for name in ("config.json", ADAPTER_FILES[0]))
    for file in sorted({*loaded, *whole} if known else folder.glob("*")):
        if found := file_fault(file, model):
            return found
        is_json = file in loaded and file.suffix == ".json" and file.is_file()
        if is_json and (found := _json_fault(file, file.stat().st_mtime_ns)):
            return found
    index = folder / "model.safetensors.index.json"
    if folder / "model.safetensors" not in whole and index.exists():
        try:
            whole = [folder / shard for shard in sorted(set(json.loads(index.read_bytes())["weight_map"].values()))]
        except (ValueError, KeyError, TypeError, AttributeError):
            return f"{index.name} names no files of weights. Copy or download it again."
        for shard in whole:
            if not shard.is_file():
                return f"{shard.name}, which {index.name} names, is not there. Copy or download it again."
            if found := file_fault(shard, model):
                return found
    if not model:
        return ""
    if not set(whole) - {folder / ADAPTER_FILES[1]}:
        if other := min(folder.glob("*.safetensors"), default=None):
            return f"it holds {other.name}, and no {index.name} that says what is in it. Copy or download that, too."
        if pickle := min(folder.glob("pytorch_model*.bin"), default=None):
            return f"it holds its weights as a pickle ({pickle.name}), {PICKLE}"
        return "it holds no safetensors. Download it again."
    if not any(re.fullmatch(r"tokenizer\.json|vocab\..*|.*\.model", file.name) for file in loaded):
        return "it holds no tokenizer (tokenizer.json). Copy or download its files, too."
    return ""


@cache
def _json_fault(file: Path, changed: int) -> str:
    """The same of a file that holds a JSON object; of a tokenizer's 11 MB read once, until the file is `changed`."""
    try:
        value = json.loads(file.read_bytes())
    except ValueError as error:
        return f"{file.name} was cut, or is no JSON ({error}). Copy or download it again."
    return "" if isinstance(value, dict) else f"{file.name} holds no JSON object. Copy or download it again."


def model_fault(folder: str | Path) -> str:
    """The same of a model that is loaded next: also whether tensors are missing, and transformers can read the rest.

    Of the weights only names and shapes are read.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    if problem := fault(folder, model=True):
        return problem
    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        _, told = AutoModelForCausalLM.from_pretrained(
            str(folder), device_map="meta", output_loading_info=True, local_files_only=True, use_safetensors=True
        )
        AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    except Exception as error:  # whatever a model's own classes make of its files
        said = (str(error).strip().splitlines() or [""])[0]
        return f"transformers cannot read it ({type(error).__name__}: {said})."
    finally:
        if bars:
            logging.enable_progress_bar()
    if missing := sorted(told["missing_keys"]):
        first = f"{', '.join(missing[:3])}{', …' * (len(missing) > 3)}"
        return f"its files lack {len(missing)} tensors, which would be random ({first}). Copy or download it again."
    return ""


def file_fault(file: Path, readable: bool = False) -> str:
    """The same of one file; with `readable`, also of safetensors that have no header."""
    if file.is_dir():
        return ""
    if not file.exists():
        return f"{file.name} is a link to a file that is not there. Copy the file itself."
    with file.open("rb") as opened:
        head = opened.read(23)
        if head == b"version https://git-lfs":
            return (
                f"{file.name} is a Git LFS pointer, not the file that it stands for. Run `git lfs pull` in the clone, "
                "or delete the folder and download it again."
            )
    try:
        if file.suffix == ".safetensors":
            with safe_open(file, framework="np"):
                pass
    except SafetensorError as error:
        page = head.lstrip()[:1] == b"<"
        if readable or page or not ("too large" in str(error) or "JSON" in str(error)):
            return f"{file.name} was cut, or is no safetensors file ({error}). Copy or download it again."
    return ""


def adapter_config(folder: Path) -> dict[str, Any]:
    """The configuration of a LoRA adapter that can be added to the weights of its base.

    Raises:
        ValueError: the folder holds no adapter, a file that is not whole, or an adapter of another kind; what it is and
            what to do, as a sentence whose subject is the folder.
    """
    pickles = [file.name for end in ("bin", "pt") for file in folder.glob(f"adapter_model*.{end}")]
    if pickles and not (folder / ADAPTER_FILES[1]).exists():
        raise ValueError(f"holds its weights as a pickle ({pickles[0]}), {PICKLE}")
    for name in ADAPTER_FILES:
        if not (folder / name).exists():
            inside = "".join(f" There is one in {each.parent}." for each in sorted(folder.glob(f"*/{name}"))[-1:])
            raise ValueError(
                f"holds no adapter; lesson 04 or `python -m course_utils train` makes one. {name} is not there.{inside}"
            )
    if problem := fault(folder) or file_fault(folder / ADAPTER_FILES[1], readable=True):
        raise ValueError(f"cannot be read: {problem}")
    try:
        config = STRICT.decode((folder / ADAPTER_FILES[0]).read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise ValueError(f"cannot be read: {ADAPTER_FILES[0]} is no JSON ({error}). Copy it again.") from None
    kind, start = config.get("peft_type", "LORA"), config.get("init_lora_weights")
    if not isinstance(kind, str) or kind.upper() != "LORA":
        raise ValueError(
            f"is no LoRA but {kind}, which this course does not read. Use it with PEFT: what changes weights is merged "
            "by PeftModel.from_pretrained(base, folder).merge_and_unload(), what changes the prompt cannot be."
        )
    for name, (kinds, words) in FIELDS.items():
        value = config.get(name)
        each = value.values() if name.endswith("_pattern") and isinstance(value, dict) else [value]
        if any(type(one) not in kinds for one in each):
            raise ValueError(f"cannot be read: {name} in {ADAPTER_FILES[0]} is {value!r}; {words}. Mend it there.")
    if special := [name for name in NO_SUM if config.get(name)]:
        raise ValueError(f"is a LoRA with {special[0]}, which cannot be added to weights. Use it as it was trained.")
    if (start.lower() if isinstance(start, str) else start) not in KEEPS_BASE:
        raise ValueError(f"starts with a part that was taken out of its base (init_lora_weights {start!r}). {CONVERT}")
    if problem := _numbers_fault(folder, config["lora_alpha"]):
        raise ValueError(f"{problem} Train it again, or copy it again from where it was trained.")
    return config


def _numbers_fault(folder: Path, alpha: float) -> str:
    """Whether an adapter's tensors hold no numbers, or change nothing."""
    with safe_open(folder / ADAPTER_FILES[1], framework="pt") as opened:
        names = list(opened.keys())
        changes = not names  # of an empty file a merge says that it finds no layer of its base
        for name in names:
            tensor = opened.get_tensor(name).float()
            if not tensor.isfinite().all():
                return f"holds NaN or infinity ({name}): its training went wrong."
            # the half of a LoRA that starts as random numbers changes nothing without the other
            half = re.search(r"\.lora_(A|embedding_B)\b", name)
            changes |= not half and bool(tensor.any()) and (alpha != 0 or ".lora_" not in name)
    return "" if changes else f"changes nothing: {'its lora_alpha is 0' if alpha == 0 else 'all it would add is zero'}."


def adapter_shapes(folder: Path) -> dict[str, list[int]]:
    """The names and shapes of an adapter's tensors."""
    with safe_open(folder / ADAPTER_FILES[1], framework="np") as opened:
        names = [name for name in opened.keys() if not COPY.search(name)]  # noqa: SIM118
        return {name: opened.get_slice(name).get_shape() for name in names}


def other_base(named: str, base: str | Path) -> str:
    """What to do where the base that an adapter names is another one, as a sentence whose subject is the folder.

    Of Qwen3-4B and its Instruct-2507, only the names differ. "" where it is this one, or none is named.
    """
    if _model_name(named) in {"", _model_name(str(base)), _model_name(str(Path(base).resolve()))}:
        return ""
    return (
        f"was trained on {named}, and this is {Path(base).name}. Download that base and use it: a part may have been "
        "taken out of it for the training (pitfall adapter-changes-base). Only if they are the same weights under two "
        "names, put this name into base_model_name_or_path of its adapter_config.json."
    )


def _model_name(path: str) -> str:
    """A model's name as the hubs' caches, Unsloth's 4-bit copies and GGUF repositories write it, in small letters."""
    path = path.lower().replace("\\", "/").replace("___", ".")
    path = re.sub(r".*/?models--([^/]+?)--([^/]+)/snapshots/.*", r"\2", path)
    return re.sub(r"(-unsloth)?-bnb-4bit$|-gguf$", "", Path(path).name)


def mount(model: PreTrainedModel, folder: Path) -> PeftModel:
    """An adapter (see `adapter_config`) on a model of its base (see `other_base`), with every tensor in its place.

    Raises:
        ValueError: the adapter is of another model, as a sentence whose subject is the folder.
    """
    from peft import PeftModel, get_peft_model_state_dict

    base = model.config.name_or_path
    try:
        mounted = PeftModel.from_pretrained(model, str(folder), is_trainable=False)
    except (RuntimeError, ValueError, KeyError, TypeError) as error:  # PEFT lists every tensor whose shape differs
        first = "; ".join(line.strip() for line in str(error).splitlines()[:2])
        raise ValueError(f"was not trained on {base}, but on another base model. First difference: {first}") from error
    placed, brought = get_peft_model_state_dict(mounted, save_embedding_layers=False).keys(), adapter_shapes(folder)
    if model.config.tie_word_embeddings:  # the rows of trained tokens are then saved a second time
        brought = {name: shape for name, shape in brought.items() if ".lm_head.token_adapter." not in name}
    if lost := sorted(placed - brought.keys()) or sorted(brought.keys() - placed - mounted.state_dict().keys()):
        mounted.unload()
        layers = [len({name.split(".lora_")[0] for name in names if ".lora_" in name}) for names in (brought, placed)]
        raise ValueError(
            f"was not trained on {base}, but on another base model: it changes {layers[0]} layers of {layers[1]} "
            f"(first without a place: {lost[0]})."
        )
    if _repeats_base(mounted):
        mounted.unload()
        raise ValueError(
            f"repeats what stands in the weights of {base}: its start was taken out of them, although its "
            f"configuration does not say so. {CONVERT}"
        )
    return mounted


def _repeats_base(mounted: PeftModel) -> bool:
    """Whether the adapter's start was taken out of the base, as PiSSA and OLoRA do, and this base still has it.

    Such a start points where the weights point: of all that B can reach, Bᵀ·B·A has then the direction of Bᵀ·W. That
    of another adapter has nothing to do with it.
    """
    import torch
    from peft.utils.integrations import dequantize_module_weight

    alike = []
    for layer in mounted.modules():
        base = getattr(layer, "base_layer", None)
        if isinstance(base, torch.nn.Linear) and "default" in getattr(layer, "lora_A", ()):
            weight = dequantize_module_weight(base).detach().float()
            down, up = (getattr(layer, name)["default"].weight.detach().float() for name in ("lora_A", "lora_B"))
            pair = up.T @ weight, up.T @ up @ down
            alike.append(torch.cosine_similarity(*(each.flatten() for each in pair), dim=0))
    return bool(alike) and bool(torch.stack(alike).median() > 0.5)
