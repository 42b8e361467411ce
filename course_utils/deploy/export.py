"""Merge an adapter into the 16-bit base, turn the merged model into a GGUF file, and prove what came out.

Plain transformers and PEFT, without Unsloth: what is checked here is what any server will load. Unsloth's
`save_pretrained_merged` refuses a 4-bit base on a CPU and fetches the 16-bit one from a hub on a GPU; PEFT on the
16-bit base that lies on disk does the same addition everywhere.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from course_utils.core.errors import CourseError
from course_utils.core.files import atomic_dir, is_write_failure, write_json
from course_utils.evals import generation
from course_utils.text import chat

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

FULL = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
"""What a merged folder needs beside its weights; without them it behaves as untrained (pitfall
folder-without-template)."""

TIED = ("lm_head", "embed_tokens")
"""One tensor under two names in many models: an adapter on either of them cannot be merged there (pitfall
adapter-on-tied-weights)."""

SERVED_RANK = 16
"""vLLM mounts adapters up to this rank unless `--max-lora-rank` says otherwise (pitfall rank-above-server-limit)."""

CONVERTER = "convert_hf_to_gguf.py"


class ExportError(CourseError):
    """An adapter that cannot be merged, or a merged folder that is not what it should be."""


# ---- what an adapter is


@dataclass(frozen=True)
class Adapter:
    """An adapter's folder, read without loading it.

    Attributes:
        folder: where it lies.
        base: the model that it was trained on, as its configuration names it; "" where it does not.
        rank: the largest rank of its layers.
        alpha: its scale; the delta is multiplied by alpha / rank.
        modules: the kinds of layers that it changes, such as "q_proj".
        layers: how many layers those are.
        remarks: what to know before it is merged or served; often nothing.
    """

    folder: Path
    base: str
    rank: int
    alpha: int
    modules: tuple[str, ...]
    layers: int
    remarks: tuple[str, ...]


def read_adapter(folder: str | Path) -> Adapter:
    """Read what an adapter's folder says about it.

    Args:
        folder: what training wrote: `adapter_config.json` and `adapter_model.safetensors`.

    Raises:
        ExportError: the folder is no adapter's, or one of its two files cannot be read.
    """
    from safetensors import SafetensorError, safe_open

    folder = Path(folder)
    try:
        config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        with safe_open(folder / "adapter_model.safetensors", framework="pt") as weights:
            names = list(weights.keys())
    except FileNotFoundError:
        raise ExportError(
            f"{folder} holds no adapter; lesson 04 or `python -m course_utils train` makes one."
        ) from None
    except (OSError, ValueError, SafetensorError) as error:
        raise ExportError(f"The adapter in {folder} cannot be read ({error}); train or copy it again.") from None
    # "….mlp.down_proj.lora_A.weight" is a layer with LoRA, "….lm_head.weight" one that was trained whole
    changed = {name.split(".lora_")[0] if ".lora_" in name else name.rpartition(".")[0] for name in names}
    rank = max([config["r"], *(config.get("rank_pattern") or {}).values()])
    remarks = ()
    if rank > SERVED_RANK:
        remarks = (
            f"Its rank is {rank}: to serve it mounted, vLLM needs a --max-lora-rank of {rank} or more, as "
            f"serving.command gives it (it takes {SERVED_RANK} otherwise). Merged, it needs nothing.",
        )
    return Adapter(
        folder=folder,
        base=config.get("base_model_name_or_path") or "",
        rank=rank,
        alpha=config["lora_alpha"],
        modules=tuple(sorted({name.rpartition(".")[2] for name in changed})),
        layers=len(changed),
        remarks=remarks,
    )


# ---- loading


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
    # The CPU, so that a merge needs no GPU: it is one addition per weight.
    model = AutoModelForCausalLM.from_pretrained(str(base), dtype="auto", local_files_only=True, use_safetensors=True)
    return model.eval(), AutoTokenizer.from_pretrained(str(base), local_files_only=True)


def load_with_adapter(base: str | Path, adapter: str | Path) -> tuple[PeftModel, PreTrainedTokenizerBase]:
    """The 16-bit base with the adapter mounted, unmerged.

    Args:
        base: the base model's folder.
        adapter: the adapter's folder.

    Raises:
        ExportError: a folder is not what it should be, or the adapter belongs to another model: by the name that it
            holds, by the shapes of its weights, or because layers are left over.
    """
    from peft import PeftModel

    found = read_adapter(adapter)
    known_as = {Path(base).name.lower(), Path(base).resolve().name.lower()}
    if found.base and Path(found.base).name.lower() not in known_as:  # Qwen3-4B and its Instruct-2507 have like shapes
        raise ExportError(
            f"{adapter} was trained on {found.base}, and this is {Path(base).name}. If they are the same weights under "
            "two names, put this name into base_model_name_or_path of its adapter_config.json."
        )
    model, tokenizer = load_base(base)
    try:
        mounted = PeftModel.from_pretrained(model, str(adapter)).eval()
    except (RuntimeError, ValueError) as error:  # PEFT lists every tensor whose shape differs, every layer not found
        raise ExportError(f"{adapter} was not trained on {base}: {str(error).splitlines()[0]}") from error
    there = sum(1 for name, _ in mounted.named_modules() if name.endswith("lora_A"))
    if there != found.layers and not set(TIED) & set(found.modules):
        raise ExportError(f"{adapter} was not trained on {base}: it changes {found.layers} layers of {there}.")
    return mounted, tokenizer


# ---- merging


@dataclass(frozen=True)
class MergeReport:
    """What was merged.

    Attributes:
        path: the merged folder.
        files: its files and their sizes in bytes.
        layers: how many layers the adapter changed.
        adapter: the adapter, with what there is to say about it.
    """

    path: Path
    files: dict[str, int]
    layers: int
    adapter: Adapter


def merge_adapter(base: str | Path, adapter: str | Path, out_dir: str | Path) -> MergeReport:
    """Add the adapter's weights to those of the 16-bit base and write a folder that needs nothing else.

    The base is loaded anew in 16 bits even where training held it in 4: merging into the 4-bit weights would round
    most of the adapter away (pitfall merge-into-4-bit). The tokenizer and the template are the base's own inference
    ones: what a trainer left beside the adapter may be a template for masks (pitfall folder-without-template).

    Args:
        base: the base model's folder.
        adapter: the adapter's folder.
        out_dir: the folder to write; it appears whole or not at all, and takes the place of an older merged model.

    Raises:
        ExportError: the adapter does not belong to the base, lies on tied weights (pitfall adapter-on-tied-weights),
        the base is held in 4
            bits, `out_dir` holds something else, the disk cannot be written to, or a needed file is missing.
    """
    _check_place(base, adapter, out_dir)
    config = Path(base) / "config.json"
    if config.is_file() and "quantization_config" in json.loads(config.read_text(encoding="utf-8")):
        raise ExportError(
            f"{base} holds quantised weights, and a merge into them would round most of the adapter away. Download the "
            "16-bit model that they were made of and merge into that."
        )
    found = read_adapter(adapter)
    model, tokenizer = load_with_adapter(base, adapter)
    tied = sorted(set(TIED) & set(found.modules))
    if tied and model.config.tie_word_embeddings:
        raise ExportError(
            f"{adapter} changes {', '.join(tied)}, and in {Path(base).name} the table that reads tokens and the one "
            "that scores them are the same weights: a merge would change both. Serve it mounted, or train without "
            f"{' and '.join(TIED)} in target_modules."
        )
    merged = model.merge_and_unload()
    try:
        with atomic_dir(out_dir) as folder:
            merged.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
            _check_whole(folder, base, tokenizer)
    except Exception as error:
        if is_write_failure(error):
            raise ExportError(
                f"{out_dir} could not be written ({str(error).splitlines()[0]}), and nothing is left of it. A merged "
                "model needs as much room as its base; free some, or name a folder of your own."
            ) from error
        raise
    files = {path.name: path.stat().st_size for path in sorted(Path(out_dir).iterdir())}
    return MergeReport(Path(out_dir), files, found.layers, found)


def _check_place(base: str | Path, adapter: str | Path, out_dir: str | Path) -> None:
    """Refuse a folder whose content nobody meant to lose."""
    out = Path(out_dir).resolve()
    for name, path in (("base", Path(base).resolve()), ("adapter", Path(adapter).resolve())):
        if out == path or out in path.parents:
            raise ExportError(f"{out_dir} holds the {name} and would be replaced; name another folder.")
    if out.is_file() or (out.is_dir() and any(out.iterdir()) and not (out / "config.json").is_file()):
        raise ExportError(f"{out_dir} holds something else than a model and would be replaced; name another folder.")


def _check_whole(folder: Path, base: str | Path, tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuse a merged folder that would behave as untrained."""
    if missing := [name for name in FULL if not (folder / name).is_file()]:
        raise ExportError(f"The merged model would lack {', '.join(missing)}; {base} must hold them, or what they say.")
    if (folder / "chat_template.jinja").read_text(encoding="utf-8") != tokenizer.chat_template:
        raise ExportError(f"The merged model would have another template than {base}; it was not written.")


# ---- proof


@dataclass(frozen=True)
class MergeCheck:
    """How the merged folder answers, against the merged model in memory and against base + adapter.

    Attributes:
        prompts: how many prompts were answered greedily.
        same_weights: every tensor of the folder, loaded in a new process, is that of the merged model in memory to the
            last bit.
        equal_to_memory: replies of the folder in the new process equal to those of the merged model in memory.
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
    reloaded, digest = _in_new_process(merged, {"prompts": list(prompts), **how})
    return MergeCheck(
        prompts=len(prompts),
        same_weights=digest == _digest(in_memory),
        equal_to_memory=sum(a == b for a, b in zip(remembered, reloaded, strict=True)),
        adapter=generation.agreement(mounted, mounted_logits, reloaded, merged_logits),
    )


def check_gguf(
    merged: str | Path, gguf_file: str | Path, prompts: Sequence[str], *, batch_size: int = 16, max_new_tokens: int = 64
) -> generation.Agreement:
    """Answer the prompts with the merged folder and with the GGUF file made of it, read back by transformers.

    Both get their ids from the folder's tokenizer: transformers reads a GGUF file's tokenizer only by halves (it does
    not split digits, for one), llama.cpp's own reading is another program.

    Args:
        merged: what `merge_adapter` wrote.
        gguf_file: what `to_gguf` made of it.
        prompts: rendered prompts.
        batch_size: prompts answered at once.
        max_new_tokens: longest reply, in tokens.
    """
    from transformers import AutoModelForCausalLM

    how = {"batch_size": batch_size, "max_new_tokens": max_new_tokens}
    model, tokenizer = load_base(merged)
    replies = generation.generate(model, tokenizer, prompts, **how)
    logits = generation.reply_logits(model, tokenizer, prompts, replies)
    path = Path(gguf_file)
    read = AutoModelForCausalLM.from_pretrained(str(path.parent), gguf_file=path.name, dtype=model.dtype)
    read.generation_config = model.generation_config  # the stop tokens
    others = generation.generate(read.eval(), tokenizer, prompts, **how)
    return generation.agreement(replies, logits, others, generation.reply_logits(read, tokenizer, prompts, replies))


def _digest(model: PreTrainedModel) -> str:
    """A hash of the names, types and bits of all weights."""
    digest = hashlib.sha256()
    for name, weight in sorted(model.state_dict().items()):
        digest.update(f"{name} {weight.dtype} {tuple(weight.shape)}".encode())
        digest.update(weight.contiguous().view(torch.uint8).numpy())
    return digest.hexdigest()


def _in_new_process(folder: str | Path, order: dict[str, Any]) -> tuple[list[list[int]], str]:
    """Greedy replies of the model in `folder` and a hash of its weights, from a Python that knows only that folder.

    Raises:
        ExportError: the folder does not load; the message ends with the process's last words.
    """
    with tempfile.TemporaryDirectory() as scratch:
        asked, answered = Path(scratch) / "asked.json", Path(scratch) / "answered.json"
        write_json(asked, order)
        command = [
            sys.executable,
            "-m",
            "course_utils.deploy.export",
            str(Path(folder).resolve()),
            str(asked),
            str(answered),
        ]
        run = subprocess.run(command, capture_output=True, text=True, check=False)
        if run.returncode:
            raise ExportError(f"{folder} did not load in a new process: {_last_words(run.stderr)}")
        answer = json.loads(answered.read_text(encoding="utf-8"))
        return answer["replies"], answer["digest"]


def _answer(folder: str, asked: str, answered: str) -> None:
    """The other side of `_in_new_process`."""
    order = json.loads(Path(asked).read_text(encoding="utf-8"))
    model, tokenizer = load_base(folder)
    replies = generation.generate(model, tokenizer, **order)
    write_json(answered, {"replies": replies, "digest": _digest(model)})


def _last_words(said: str) -> str:
    return (said.strip().splitlines() or ["it said nothing"])[-1]


# ---- GGUF, for llama.cpp and Ollama


def to_gguf(merged: str | Path, out_file: str | Path, *, outtype: Literal["bf16", "f16", "q8_0"] = "bf16") -> Path:
    """Turn a merged folder into one GGUF file, with llama.cpp's own converter.

    Args:
        merged: what `merge_adapter` wrote.
        out_file: the file to write, with its ending `.gguf`; it appears whole or not at all.
        outtype: number format of the weights. bf16 keeps them as they are, q8_0 halves the file. llama.cpp's
            `llama-quantize` makes smaller ones of either.

    Returns:
        The path of the file.

    Raises:
        ExportError: the converter is not here (the message says how to get it), it failed, or the file cannot be
            written.
    """
    from tqdm.auto import tqdm

    converter, out = find_converter(), Path(out_file)
    expected = sum(path.stat().st_size for path in Path(merged).glob("*.safetensors"))
    expected //= 2 if outtype == "q8_0" else 1
    with _whole_path(out) as draft, tempfile.TemporaryFile("w+", encoding="utf-8") as said:
        command = [sys.executable, str(converter), str(merged), "--outfile", str(draft), "--outtype", outtype]
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=said, stderr=said, env=os.environ | {"HF_HUB_OFFLINE": "1"}
        )
        try:
            with tqdm(desc=out.name, total=expected, unit="B", unit_scale=True, leave=False) as bar:
                while process.poll() is None:
                    time.sleep(0.2)
                    written = draft.stat().st_size if draft.is_file() else 0
                    bar.update(min(written, expected) - bar.n)
        finally:
            process.kill()
            process.wait()
        if process.returncode or not draft.is_file():
            said.seek(0)
            raise ExportError(f"{converter} made no file of {merged}: {_last_words(said.read())}")
    return out


def find_converter() -> Path:
    """llama.cpp's `convert_hf_to_gguf.py`: in the folder that the variable LLAMA_CPP names, or on the PATH.

    Raises:
        ExportError: it is in neither place; the message says how to get it.
    """
    folder = os.environ.get("LLAMA_CPP", "")
    found = shutil.which(CONVERTER) if not folder else Path(folder) / CONVERTER
    if found and Path(found).is_file():
        return Path(found)
    raise ExportError(
        f"llama.cpp's converter is not here{f' (LLAMA_CPP is {folder})' if folder else ''}. Get it once with\n"
        "  git clone --depth 1 https://github.com/ggml-org/llama.cpp\n"
        "and set the variable LLAMA_CPP to that folder. Nothing has to be compiled: the converter is Python, and runs "
        "with the course's packages."
    )


@contextmanager
def _whole_path(path: Path) -> Iterator[Path]:
    """Give a name beside `path` that another program may write to; it becomes `path` when the block ends well."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{path.name}.", suffix=".part", dir=path.parent) as scratch:
            draft = Path(scratch) / path.name
            yield draft
            os.replace(draft, path)
    except OSError as error:
        raise ExportError(f"{path} could not be written ({error}); name a folder of your own.") from error


def modelfile(merged: str | Path, gguf_file: str | Path) -> str:
    """The text of an Ollama Modelfile that asks the GGUF file as the course asked the model.

    Ollama's templates are another language than the model's Jinja. So the model's template is not translated but
    looked at: rendered on sample conversations it must be ChatML (`<|im_start|>role … <|im_end|>`), as in Qwen and
    SmolLM2. A system prompt that it adds by itself becomes SYSTEM, and what it adds behind the opened reply is kept.
    Without sampling settings in `generation_config.json` the replies are greedy, as in lesson 05. The same lines hold
    for plain conversations; a template's tools and thinking are not carried over.

    Args:
        merged: the merged folder.
        gguf_file: what `to_gguf` made of it; the Modelfile names it as lying beside it.

    Raises:
        ExportError: the template is no ChatML.
    """
    from transformers import AutoTokenizer, GenerationConfig

    tokenizer = AutoTokenizer.from_pretrained(str(merged), local_files_only=True)
    settings = GenerationConfig.from_pretrained(str(merged))
    system, opened = _chatml(tokenizer, merged)
    stops = settings.eos_token_id if isinstance(settings.eos_token_id, list) else [settings.eos_token_id]
    parameters = {"temperature": 0, "repeat_penalty": settings.repetition_penalty or 1}
    if settings.do_sample:
        parameters |= {"temperature": settings.temperature, "top_p": settings.top_p, "top_k": settings.top_k}
    lines = [
        f"FROM ./{Path(gguf_file).name}",
        'TEMPLATE """{{ range .Messages }}<|im_start|>{{ .Role }}',
        "{{ .Content }}<|im_end|>",
        "{{ end }}<|im_start|>assistant",
        f'{opened}"""',
        *([f'SYSTEM """{system}"""'] if system else []),
        *(f'PARAMETER stop "{tokenizer.decode([stop])}"' for stop in stops),
        *(f"PARAMETER {name} {value:g}" for name, value in parameters.items() if value is not None),
    ]
    return "\n".join(lines) + "\n"


def _chatml(tokenizer: PreTrainedTokenizerBase, merged: str | Path) -> tuple[str, str]:
    """The system prompt that the template adds by itself, and what it adds behind the opened reply."""

    def turns(*messages: chat.Message) -> str:
        return "".join(f"<|im_start|>{turn['role']}\n{turn['content']}<|im_end|>\n" for turn in messages)

    system, question = {"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello?"}
    talk = (system, question, {"role": "assistant", "content": "Hello."}, {"role": "user", "content": "Who?"})
    with_system, without = (
        chat.render(tokenizer, list(messages), enable_thinking=False, add_generation_prompt=True)
        for messages in (talk, talk[1:])
    )
    start = turns(*talk) + "<|im_start|>assistant\n"
    added = re.fullmatch(
        r"(?:<\|im_start\|>system\n(.*)<\|im_end\|>\n)?" + re.escape(turns(*talk[1:])) + ".*", without, re.DOTALL
    )
    if not with_system.startswith(start) or not added:
        raise ExportError(
            f"The template of {merged} is no ChatML, so its TEMPLATE for Ollama must be written by hand: "
            "https://github.com/ollama/ollama/blob/main/docs/modelfile.md"
        )
    return added[1] or "", with_system.removeprefix(start)


if __name__ == "__main__":
    _answer(*sys.argv[1:])
