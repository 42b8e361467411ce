"""What the files of a model or of an adapter say before they are loaded."""

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")
KEEPS_BASE = (None, True, False, "gaussian", "orthogonal", "eva", "mica")
"""Values of PEFT's `init_lora_weights` that leave the base as it is (its tuners/lora/layer.py); those of PiSSA, OLoRA,
CorDA, LoftQ and LoRA-GA take a part out of it (pitfall adapter-changes-base)."""
NO_SUM = ("alora_invocation_tokens", "arrow_config", "kasa_config", "layer_replication", "use_qalora")
"""Settings of PEFT with which an adapter is more than something to be added to weights."""
CONVERT = (
    "Convert it where it was trained: save_pretrained(folder, path_initial_model_for_weight_conversion=start), where "
    "start holds the adapter as it was before the first step; or use the base without that part, which training saved."
)


def fault(folder: str | Path, *, model: bool = False) -> str:
    """What keeps the files of a folder from being loaded, and what to do; "" for nothing (pitfall pointer-for-weights).

    Args:
        folder: only its top is looked at, and of weights only their header.
        model: it must hold weights with a header that can be read.
    """
    folder = Path(folder)
    if found := next(filter(None, (file_fault(file, model) for file in sorted(folder.glob("*")))), ""):
        return found
    for index in folder.glob("*.safetensors.index.json"):
        try:
            shards = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
            missing = [shard for shard in shards if not (folder / shard).is_file()]
        except (ValueError, KeyError, TypeError, AttributeError):
            return f"{index.name} names no files of weights. Copy or download it again."
        if missing:
            return f"{missing[0]}, which {index.name} names, is not there. Copy or download it again."
    return "" if not model or any(folder.glob("*.safetensors")) else "it holds no safetensors. Download it again."


def file_fault(file: Path, readable: bool = False) -> str:
    """The same of one file; with `readable`, also of safetensors that have no header."""
    if file.is_dir():
        return ""
    if not file.exists():
        return f"{file.name} is a link to a file that is not there. Copy the file itself."
    with file.open("rb") as opened:
        if opened.read(23) == b"version https://git-lfs":
            return (
                f"{file.name} is a Git LFS pointer, not the file that it stands for. Run `git lfs pull` in the clone, "
                "or delete the folder and download it again."
            )
    try:
        if file.suffix == ".safetensors":
            with safe_open(file, framework="np"):
                pass
    except SafetensorError as error:
        if readable or not ("too large" in str(error) or "JSON" in str(error)):
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
        raise ValueError(
            f"holds its weights as a pickle ({pickles[0]}), which can run code when it is loaded. If you trust whoever "
            'made it, convert it in that folder: python -c "import torch, safetensors.torch as s; s.save_file({name: w'
            f".clone() for name, w in torch.load('{pickles[0]}', map_location='cpu', weights_only=True).items()}}, "
            f"'{ADAPTER_FILES[1]}')\""
        )
    for name in ADAPTER_FILES:
        if not (folder / name).exists():
            inside = "".join(f" There is one in {each.parent}." for each in sorted(folder.glob(f"*/{name}"))[-1:])
            raise ValueError(
                f"holds no adapter; lesson 04 or `python -m course_utils train` makes one. {name} is not there.{inside}"
            )
    if problem := fault(folder, model=True):
        raise ValueError(f"cannot be read: {problem}")
    try:
        config = json.loads((folder / ADAPTER_FILES[0]).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"cannot be read: {ADAPTER_FILES[0]} is no JSON ({error}). Copy it again.") from None
    if not isinstance(config, dict):
        raise ValueError(
            f"cannot be read: {ADAPTER_FILES[0]} holds a {type(config).__name__}, no object. Copy it again."
        )
    kind, start = config.get("peft_type", "LORA"), config.get("init_lora_weights")
    if kind != "LORA":
        raise ValueError(
            f"is no LoRA but {kind}, which this course does not read. Use it with PEFT: what changes weights is merged "
            "by PeftModel.from_pretrained(base, folder).merge_and_unload(), what changes the prompt cannot be."
        )
    if special := [name for name in NO_SUM if config.get(name)]:
        raise ValueError(f"is a LoRA with {special[0]}, which cannot be added to weights. Use it as it was trained.")
    if (start.lower() if isinstance(start, str) else start) not in KEEPS_BASE:
        raise ValueError(f"starts with a part that was taken out of its base (init_lora_weights {start!r}). {CONVERT}")
    return config
