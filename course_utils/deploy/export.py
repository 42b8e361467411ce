"""Merge an adapter into the 16-bit base, and prove what came out.

Unsloth's `save_pretrained_merged` refuses a 4-bit base on a CPU and fetches the 16-bit one from a hub on a GPU; PEFT
on the 16-bit base in the local folder does the same addition everywhere.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from course_utils.core.files import atomic_dir, is_write_failure
from course_utils.deploy.adapters import TIED, Adapter, ExportError, load_base, load_with_adapter, read_adapter, upcast
from course_utils.evals import generation

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

FULL = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
"""A merged folder without these beside its weights behaves as untrained (pitfall folder-without-template)."""


@dataclass(frozen=True)
class MergeReport:
    """What was merged.

    Attributes:
        path: the merged folder.
        files: its files and their sizes in bytes.
        adapter: what was merged into the base.
    """

    path: Path
    files: dict[str, int]
    adapter: Adapter


def merge_adapter(base: str | Path, adapter: str | Path, out_dir: str | Path) -> MergeReport:
    """Add the adapter's weights to those of the 16-bit base and write a folder that needs nothing else.

    The base is loaded anew in 16 bits even if training held it in 4: merging into the 4-bit weights would round
    most of the adapter away (pitfall merge-into-4-bit). Tokenizer and template are the base's own, for inference: a
    trainer may have left a template for masks beside the adapter (pitfall folder-without-template). Only where tokens
    were added for the training is the tokenizer the adapter's.

    Args:
        base, adapter: the folders of the base model and of the adapter.
        out_dir: the folder to write; it appears whole or not at all, and takes the place of an older merged model.

    Raises:
        ExportError: the adapter does not belong to the base or is on tied weights (pitfall adapter-on-tied-weights),
            the base is held in 4 bits, `out_dir` holds something else, the disk cannot be written to, or a needed file
            is missing.
    """
    _check_place(base, adapter, out_dir)
    found = read_adapter(adapter)
    if _is_quantised(base):
        raise ExportError(
            f"{base} holds quantised weights, and a merge into them would round most of the adapter away. Download the "
            "16-bit model that they were made of and merge into that."
        )
    model, tokenizer = load_with_adapter(base, adapter)
    tied = sorted(set(TIED) & (set(found.modules) - set(found.whole)))
    if tied and model.config.tie_word_embeddings:
        raise ExportError(
            f"{adapter} changes {', '.join(tied)}, and in {Path(base).name} the table that reads tokens and the one "
            "that scores them are the same weights: a merge would change both. Serve it mounted, or train without "
            f"{' and '.join(TIED)} in target_modules."
        )
    merged = _merged(model)
    settings = merged.generation_config
    if not settings.do_sample:  # transformers writes no settings that say both (pitfall greedy-in-config)
        settings.update(temperature=None, top_p=None, top_k=None, min_p=None, typical_p=None)
    try:
        with atomic_dir(out_dir) as folder:
            merged.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
            if missing := [name for name in FULL if not (folder / name).is_file()]:
                raise ExportError(f"The merged model would lack {', '.join(missing)}; {base} must hold them.")
    except Exception as error:
        if not is_write_failure(error):
            raise
        raise ExportError(
            f"{out_dir} could not be written ({str(error).splitlines()[0]}), and nothing is left of it. A merged "
            "model needs as much room as its base; free some, or name a folder of your own."
        ) from error
    files = {path.name: path.stat().st_size for path in sorted(Path(out_dir).iterdir())}
    return MergeReport(Path(out_dir), files, found)


def _merged(model: PeftModel) -> PreTrainedModel:
    """Base and adapter in one, in the format in which the base's folder holds its weights."""
    merged = model.merge_and_unload()
    for weight in merged.parameters():  # and no buffer: RoPE's frequencies would be rounded
        weight.data = weight.data.to(merged.config.dtype)
    return merged


def _is_quantised(base: str | Path) -> bool:
    """Whether the configuration of a model says so; one that cannot be read is told when the model is loaded."""
    try:
        return bool(json.loads((Path(base) / "config.json").read_text(encoding="utf-8")).get("quantization_config"))
    except (OSError, ValueError, AttributeError):
        return False


def _check_place(base: str | Path, adapter: str | Path, out_dir: str | Path) -> None:
    """Refuse a folder whose content nobody meant to lose."""
    out = Path(out_dir).resolve()
    for name, path in (("base", Path(base).resolve()), ("adapter", Path(adapter).resolve())):
        if out == path or out in path.parents:
            raise ExportError(f"{out_dir} holds the {name} and would be replaced; name another folder.")
    if out.is_file() or (out.is_dir() and any(out.iterdir()) and not (out / "config.json").is_file()):
        raise ExportError(f"{out_dir} holds something else than a model and would be replaced; name another folder.")


@dataclass(frozen=True)
class MergeCheck:
    """How the merged folder answers in a new process, against the merged model in memory and against base + adapter.

    Attributes:
        prompts: how many prompts were answered greedily.
        same_weights: whether every tensor of the folder is that of the merged model in memory to the last bit.
        equal_to_memory: replies of the folder equal to those of the merged model in memory.
        adapter: the merged model against base + adapter.
    """

    prompts: int
    same_weights: bool
    equal_to_memory: int
    adapter: generation.Agreement

    @property
    def holds(self) -> bool:
        """Exact against memory, and every difference to the adapter is a near-tie of rounding."""
        return self.same_weights and self.equal_to_memory == self.prompts and self.adapter.holds


def check_merge(
    base: str | Path,
    adapter: str | Path,
    merged: str | Path,
    prompts: Sequence[str],
    *,
    batch_size: int = 16,
    max_new_tokens: int = 64,
) -> MergeCheck:
    """Answer the prompts with base + adapter, with the merged model in memory, and with the folder in a new process.

    One after the other: a GPU, or the memory of a small machine, holds one large model.

    Args:
        base, adapter, merged: what `merge_adapter` read, and what it wrote.
        prompts, batch_size, max_new_tokens: as for `generation.generate`.
    """
    from accelerate.utils.memory import clear_device_cache

    how = {"batch_size": batch_size, "max_new_tokens": max_new_tokens}
    model, tokenizer = load_with_adapter(base, adapter)
    mounted = generation.generate(model, tokenizer, prompts, **how)
    mounted_logits = generation.reply_logits(model, tokenizer, prompts, mounted)
    in_memory = upcast(_merged(model))
    remembered = generation.generate(in_memory, tokenizer, prompts, **how)
    merged_logits = generation.reply_logits(in_memory, tokenizer, prompts, mounted)
    own_digest = _digest(in_memory)
    del model, in_memory
    clear_device_cache(garbage_collection=True)
    reloaded, digest = _in_new_process(merged, {"prompts": list(prompts), **how})
    return MergeCheck(
        prompts=len(prompts),
        same_weights=digest == own_digest,
        equal_to_memory=sum(a == b for a, b in zip(remembered, reloaded, strict=True)),
        adapter=generation.agreement(mounted, mounted_logits, reloaded, merged_logits),
    )


def _digest(model: PreTrainedModel) -> str:
    """A hash of the names, types and bits of all weights."""
    digest = hashlib.sha256()
    for name, weight in sorted(model.state_dict().items()):
        digest.update(f"{name} {weight.dtype} {tuple(weight.shape)}".encode())
        digest.update(weight.contiguous().view(torch.uint8).cpu().numpy())
    return digest.hexdigest()


def _in_new_process(folder: str | Path, order: dict[str, Any]) -> tuple[list[list[int]], str]:
    """Greedy replies of the model in `folder` and a hash of its weights, from a Python that knows only that folder."""
    command = [sys.executable, "-m", __name__, str(Path(folder).resolve())]
    run = subprocess.run(command, input=json.dumps(order), capture_output=True, text=True, check=False)
    if run.returncode:
        said = run.stderr.strip().rpartition("\n")[2] or "it said nothing"
        raise ExportError(f"{folder} did not load in a new process: {said}")
    return tuple(json.loads(run.stdout.splitlines()[-1]))


if __name__ == "__main__":  # the new process
    model, tokenizer = load_base(sys.argv[1])
    print(json.dumps([generation.generate(model, tokenizer, **json.load(sys.stdin)), _digest(model)]))
