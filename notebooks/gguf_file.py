"""Turn a merged model into a GGUF file for llama.cpp and Ollama, and prove what came out."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from subprocess import PIPE, STDOUT
from typing import Literal

from course_utils.core import weights
from course_utils.core.files import atomic_file
from course_utils.core.programs import TEXT
from course_utils.deploy.adapters import ExportError, load_base
from course_utils.evals import generation

CONVERTER = "convert_hf_to_gguf.py"


def to_gguf(merged: str | Path, out_file: str | Path, *, outtype: Literal["bf16", "f16", "q8_0"] = "bf16") -> Path:
    """Turn a merged folder into one GGUF file, with llama.cpp's own converter.

    Args:
        merged: what `merge_adapter` wrote.
        out_file: the file to write, ending in `.gguf`; it appears whole or not at all.
        outtype: number format of the weights. bf16 keeps them as they are, q8_0 halves the file. llama.cpp's
            `llama-quantize` makes smaller files of either.

    Returns:
        The path of the file.

    Raises:
        ExportError: the folder is not whole, the converter is not here or failed, or the file cannot be written.
    """
    from tqdm.auto import tqdm

    converter = find_converter()
    if problem := weights.fault(merged):
        raise ExportError(f"{merged} cannot be converted: {problem}")
    command = [sys.executable, str(converter), str(merged), "--outtype", outtype, "--outfile"]
    waiting = tqdm(desc=f"Converting {merged}: up to some minutes", bar_format="{desc}", leave=False)
    try:
        # Of the file only its temporary name is used: the converter opens it by that.
        with waiting, atomic_file(out_file) as file:
            offline = os.environ | {"HF_HUB_OFFLINE": "1"}
            run = subprocess.run([*command, file.name], env=offline, stdout=PIPE, stderr=STDOUT, **TEXT)
            if run.returncode or not Path(file.name).stat().st_size:
                last = run.stdout.strip().rpartition("\n")[2] or "it said nothing"
                raise ExportError(f"{converter} made no file of {merged}: {last}")
    except OSError as error:
        raise ExportError(f"{out_file} could not be written ({error}); name a folder of your own.") from error
    return Path(out_file)


def find_converter() -> Path:
    """llama.cpp's `convert_hf_to_gguf.py`: in the folder that the variable LLAMA_CPP names, or on the PATH.

    Raises:
        ExportError: it is in neither place; the message says how to get it.
    """
    folder = os.environ.get("LLAMA_CPP", "")
    found = Path(folder) / CONVERTER if folder else shutil.which(CONVERTER)
    if found and Path(found).is_file():
        return Path(found)
    raise ExportError(
        f"llama.cpp's converter is not here{f' (LLAMA_CPP is {folder})' if folder else ''}. Get it once with\n"
        "  git clone --depth 1 https://github.com/ggml-org/llama.cpp\n"
        "and set the variable LLAMA_CPP to that folder. Nothing has to be compiled: the converter is Python, and runs "
        "with the course's packages."
    )


def check_gguf(
    merged: str | Path, gguf_file: str | Path, prompts: Sequence[str], *, batch_size: int = 16, max_new_tokens: int = 64
) -> generation.Agreement:
    """Answer the prompts with the merged folder and with the GGUF file made of it, read back by transformers.

    Both get their ids from the folder's tokenizer: transformers reads a GGUF file's tokenizer only in part (it does
    not split digits, for one), and llama.cpp's own reader is another program.

    Args:
        merged, gguf_file: what `merge_adapter` wrote, and what `to_gguf` made of it.
        prompts, batch_size, max_new_tokens: as for `generation.generate`.
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
