"""Merge an adapter into the 16-bit base, and prove that the merged folder answers as the adapter did.

Plain transformers and PEFT, without Unsloth: what is checked here is what any server will load.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from course_utils import generation
from course_utils.errors import CourseError
from course_utils.files import whole_folder, write_json

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

FULL = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
"""What a merged folder needs beside its weights; without them it behaves as untrained (trap 29)."""


class ExportError(CourseError):
    """An adapter that cannot be merged, or a merged folder that is not what it should be."""


@dataclass(frozen=True)
class MergeReport:
    """What was merged.

    Attributes:
        path: the merged folder.
        files: its files and their sizes in bytes.
        layers: how many layers the adapter changed.
    """

    path: Path
    files: dict[str, int]
    layers: int


@dataclass(frozen=True)
class MergeCheck:
    """How the merged folder answers, against the merged model in memory and against base + adapter.

    Attributes:
        prompts: how many prompts were answered greedily.
        equal_to_memory: replies of the reloaded folder (new process) equal to those of the merged model in memory.
        equal_to_adapter: replies of the reloaded folder equal to those of base + adapter.
        near_ties: of the replies that differ from the adapter's, those whose first difference lies where the top two
            logits of base + adapter are nearer than `logit_error`.
        logit_error: largest difference of a logit between base + adapter and the merged model, at the tokens of the
            adapter's replies.
    """

    prompts: int
    equal_to_memory: int
    equal_to_adapter: int
    near_ties: int
    logit_error: float

    @property
    def holds(self) -> bool:
        """Exact against memory, and every difference to the adapter is a near-tie of rounding."""
        return self.equal_to_memory == self.prompts and self.equal_to_adapter + self.near_ties == self.prompts


def load_base(base: str | Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A model in 16 bits and its tokenizer, with plain transformers, from a folder and offline.

    Args:
        base: a folder with config, safetensors and tokenizer.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    # The CPU, so that a merge needs no card: it is one addition per weight.
    model = AutoModelForCausalLM.from_pretrained(str(base), dtype="auto", local_files_only=True, use_safetensors=True)
    return model.eval(), AutoTokenizer.from_pretrained(str(base), local_files_only=True)


def load_with_adapter(base: str | Path, adapter: str | Path) -> tuple[PeftModel, PreTrainedTokenizerBase]:
    """The 16-bit base with the adapter mounted, unmerged.

    Args:
        base: the base model's folder.
        adapter: the adapter's folder.

    Raises:
        ExportError: the adapter's folder is not one, or belongs to a model of other shapes.
    """
    from peft import PeftModel

    if not (Path(adapter) / "adapter_model.safetensors").is_file():
        raise ExportError(f"{adapter} holds no adapter; lesson 04 or `python -m course_utils train` makes one.")
    model, tokenizer = load_base(base)
    try:
        return PeftModel.from_pretrained(model, str(adapter)).eval(), tokenizer
    except RuntimeError as error:  # PEFT lists every tensor whose shape differs
        raise ExportError(f"{adapter} was not trained on {base}: {str(error).splitlines()[0]}") from error


def merge_adapter(base: str | Path, adapter: str | Path, out_dir: str | Path) -> MergeReport:
    """Add the adapter's weights to those of the 16-bit base and write a folder that needs nothing else.

    The base is loaded anew in 16 bits even where training held it in 4: merging into the 4-bit weights would round
    most of the adapter away (trap 28). The tokenizer and the template are the base's own inference ones.

    Args:
        base: the base model's folder.
        adapter: the adapter's folder.
        out_dir: the folder to write; it appears whole or not at all.

    Raises:
        ExportError: the adapter does not belong to the base, or a needed file is missing from the result.
    """
    model, tokenizer = load_with_adapter(base, adapter)
    layers = sum(1 for name, _ in model.named_modules() if name.endswith("lora_A"))
    merged = model.merge_and_unload()
    with whole_folder(out_dir) as folder:
        merged.save_pretrained(folder, safe_serialization=True)
        tokenizer.save_pretrained(folder)
        missing = [name for name in FULL if not (folder / name).is_file()]
        if missing:
            raise ExportError(f"The merged model lacks {', '.join(missing)}; take them from the base in {base}.")
    files = {path.name: path.stat().st_size for path in sorted(Path(out_dir).iterdir())}
    return MergeReport(Path(out_dir), files, layers)


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

    Args:
        base: the base model's folder.
        adapter: the adapter's folder.
        merged: what `merge_adapter` wrote.
        prompts: rendered prompts.
        batch_size: prompts answered at once.
        max_new_tokens: longest reply, in tokens.
    """
    how = {"batch_size": batch_size, "max_new_tokens": max_new_tokens}
    model, tokenizer = load_with_adapter(base, adapter)
    mounted = generation.generate(model, tokenizer, prompts, **how)
    mounted_logits = generation.reply_logits(model, tokenizer, prompts, mounted)
    in_memory = model.merge_and_unload()
    remembered = generation.generate(in_memory, tokenizer, prompts, **how)
    merged_logits = generation.reply_logits(in_memory, tokenizer, prompts, mounted)
    error = generation.logit_error(mounted_logits, merged_logits)
    reloaded = replies_in_new_process(merged, prompts, **how)
    against_adapter = generation.differences(mounted, reloaded, mounted_logits, error=error)
    return MergeCheck(
        prompts=len(prompts),
        equal_to_memory=sum(a == b for a, b in zip(remembered, reloaded, strict=True)),
        equal_to_adapter=against_adapter.equal,
        near_ties=against_adapter.near_ties,
        logit_error=error,
    )


def replies_in_new_process(
    folder: str | Path, prompts: Sequence[str], *, batch_size: int, max_new_tokens: int
) -> list[list[int]]:
    """Greedy replies of the model in `folder`, from a Python that knows nothing but that folder.

    Args:
        folder: a complete model folder.
        prompts: rendered prompts.
        batch_size: prompts answered at once.
        max_new_tokens: longest reply, in tokens.

    Raises:
        ExportError: the folder does not load; the message ends with the process's last words.
    """
    with tempfile.TemporaryDirectory() as scratch:
        asked, answered = Path(scratch) / "asked.json", Path(scratch) / "answered.json"
        write_json(asked, {"prompts": list(prompts), "batch_size": batch_size, "max_new_tokens": max_new_tokens})
        command = [sys.executable, "-m", "course_utils.export", str(Path(folder).resolve()), str(asked), str(answered)]
        run = subprocess.run(command, capture_output=True, text=True, check=False)
        if run.returncode:
            raise ExportError(f"{folder} did not load in a new process: {run.stderr.strip().splitlines()[-1]}")
        return json.loads(answered.read_text(encoding="utf-8"))


def _answer(folder: str, asked: str, answered: str) -> None:
    """The other side of `replies_in_new_process`."""
    order = json.loads(Path(asked).read_text(encoding="utf-8"))
    model, tokenizer = load_base(folder)
    write_json(answered, generation.generate(model, tokenizer, **order))


if __name__ == "__main__":
    _answer(*sys.argv[1:])
