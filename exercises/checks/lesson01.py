"""Checks of exercise 01: names, downloads, memory, the order of imports."""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from course_utils import budget
from course_utils.core.budget import Shape
from exercises.checks import CheckFailed, ask, check, expect, shown

# ── a model's name ──────────────────────────────────────────────────────────────────────────────────────────────────

NAME_PARTS = ("maker", "family", "size", "active", "kind", "date")
NAMES: dict[str, tuple[str, str, float | None, float | None, str, str]] = {
    "Qwen/Qwen3-4B-Instruct-2507": ("Qwen", "Qwen3", 4.0, None, "Instruct", "2507"),
    "Qwen/Qwen3-30B-A3B-Thinking-2507": ("Qwen", "Qwen3", 30.0, 3.0, "Thinking", "2507"),
    "Qwen3-8B": ("", "Qwen3", 8.0, None, "", ""),
    "Qwen/Qwen3-0.6B-Base": ("Qwen", "Qwen3", 0.6, None, "Base", ""),
    "Qwen1.5-7B-Chat": ("", "Qwen1.5", 7.0, None, "Chat", ""),
    "HuggingFaceTB/SmolLM2-135M-Instruct": ("HuggingFaceTB", "SmolLM2", 0.135, None, "Instruct", ""),
    "Qwen/Qwen2.5-Coder-7B-Instruct": ("Qwen", "Qwen2.5-Coder", 7.0, None, "Instruct", ""),
    "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B": ("deepseek-ai", "DeepSeek-R1-Distill-Qwen", 1.5, None, "", ""),
    "Qwen/Qwen3-Coder-480B-A35B-Instruct": ("Qwen", "Qwen3-Coder", 480.0, 35.0, "Instruct", ""),
    "mistralai/Mistral-Small-24B-Instruct-2501": ("mistralai", "Mistral-Small", 24.0, None, "Instruct", "2501"),
    "meta-llama/Llama-3.2-1B": ("meta-llama", "Llama-3.2", 1.0, None, "", ""),
    "bert-base-chinese": ("", "bert-base-chinese", None, None, "", ""),
    "Model-B-12345-MB-3B": ("", "Model-B-12345-MB", 3.0, None, "", ""),
    "AB-A7-Instructor-250M": ("", "AB-A7-Instructor", 0.25, None, "", ""),
    "X-v2507-250-4BX-1B": ("", "X-v2507-250-4BX", 1.0, None, "", ""),
}


@check
def read_name(attempt: Callable[[str], Mapping[str, Any]]) -> None:
    """`read_name(name)`: maker, family, size, active, kind and date."""
    for name, values in NAMES.items():
        found = ask(attempt, name)
        keys = ", ".join(NAME_PARTS)
        whole = isinstance(found, Mapping) and {*found} == {*NAME_PARTS}
        expect(whole, f"for {name!r} it returned {shown(found)}; expected a dict with the keys {keys}")
        for key, wanted in zip(NAME_PARTS, values, strict=True):
            right = found[key] == wanted and (wanted is None) == (found[key] is None)
            expect(right, f"for {name!r} your {key} is {found[key]!r}; expected {wanted!r}")


# ── what is left of a download ──────────────────────────────────────────────────────────────────────────────────────


@check
def plan_resume(attempt: Callable[..., tuple[Mapping[str, str], int]]) -> None:
    """`plan_resume(wanted, there)`: which files to ask for, from which byte on, and how much that is."""
    draw = random.Random(1)
    cases: list[tuple[dict[str, int], dict[str, int]]] = [
        ({"a": 9}, {}),
        ({"a": 9}, {"a": 4}),
        ({"a": 9}, {"a": 9}),
        ({"a": 9}, {"a": 8}),
        ({"a": 9}, {"a": 12}),
        ({"a": 9}, {"a": 0}),
        ({"a": 0}, {"a": 0}),
        ({"a": 9, "b": 5}, {"b": 1, "of another model": 7}),
        ({}, {}),
    ]
    for _ in range(100):
        wanted = {name: draw.randint(1, 9) for name in draw.sample("abcd", draw.randint(0, 4))}
        cases.append((wanted, {name: draw.randint(0, 11) for name in wanted if draw.random() < 0.7}))
    for wanted, there in cases:
        given = f"wanted {wanted}, there {there}"
        answer = ask(attempt, dict(wanted), dict(there), given=given)
        shape = isinstance(answer, tuple) and len(answer) == 2 and isinstance(answer[0], Mapping)
        expect(shape, f"for {given} it returned {shown(answer)}; expected a dict of headers and the bytes left")
        headers, left = answer
        strange = {*headers} - {*wanted}
        expect(not strange, f"for {given} you ask for {strange}, which nobody wants")
        sent = sum(_download(name, size, there.get(name), headers.get(name), given) for name, size in wanted.items())
        expect(left == sent, f"for {given} you say that {left} bytes are left, but the server sends {sent}")


def _download(name: str, size: int, have: int | None, header: str | None, given: str) -> int:
    """Play the server and the disk for one file; the bytes sent."""
    content = bytes(range(1, size + 1))
    disk = None if have is None else content[:have] if have <= size else bytes(have)  # too long: another file's bytes
    sent = b""
    if header is not None:
        asked = re.fullmatch(r"bytes=(\d+)-", header)
        expect(bool(asked), f"for {given} the header of {name} is {header!r}; it looks like 'bytes=0-'")
        start = int(asked[1]) if asked else 0
        expect(
            start < size, f"for {given} you ask for {name} from byte {start} on; it has {size}: the server answers 416"
        )
        sent = content[start:]
        disk = (disk or b"")[:start] + sent
    expect(disk == content, f"for {given} the file {name} is not whole or not right afterwards (header: {header})")
    if have is not None and have <= size:
        expect(len(sent) <= size - have, f"for {given} you fetch bytes of {name} that are on the disk already")
    return len(sent)


# ── memory of a training ────────────────────────────────────────────────────────────────────────────────────────────

TERMS = ("weights", "LoRA", "gradients", "optimiser")


@check
def training_memory(attempt: Callable[..., Mapping[str, int]]) -> None:
    """`training_memory(config, rank)`: bytes of four terms, as `course_utils.core.budget` counts them."""
    qwen = budget.CONFIGS["Qwen/Qwen3-4B-Instruct-2507"]
    configs = dict(budget.CONFIGS) | {
        "Qwen3-4B with an output table of its own": qwen | {"tie_word_embeddings": False},
        "Qwen3-4B with one layer": qwen | {"num_hidden_layers": 1},
        "Qwen3-4B without norms in the heads": qwen | {"model_type": "llama"},
        "Qwen3-4B with wide heads": qwen | {"head_dim": 256},
    }
    for name, config in configs.items():
        for rank in (1, 16):
            given = f"{name}, rank {rank}"
            found = ask(attempt, config, rank, given=given)
            whole = isinstance(found, Mapping) and {*found} == {*TERMS}
            expect(whole, f"for {given} it returned {shown(found)}; expected a dict with the keys {', '.join(TERMS)}")
            shape = Shape.of(config)
            lora = budget.adapter(shape, rank, tuple(shape.projections), "adamw_torch")
            for key, term in zip(TERMS, (budget.weights(shape, 16), *lora), strict=True):
                expect(
                    isinstance(found[key], int),
                    f"for {given} {key} is {found[key]!r}; bytes are a whole number",
                )
                if found[key] != term.bytes:
                    raise CheckFailed(
                        f"for {given} {key} is {found[key]:,} bytes, {_off(found[key], term.bytes, shape)}"
                    )


def _off(found: int, wanted: int, shape: Shape) -> str:
    """How far off, and what is as large as the difference."""
    parts = {
        "one table of the vocabulary": shape.vocabulary * shape.hidden,
        "all norms": replace(shape, biases=False).norms,
        "the biases": shape.norms - replace(shape, biases=False).norms,
        "the norms inside the heads": shape.norms - replace(shape, head_norms=False).norms,
        "the norm after the last layer": shape.hidden,
    } | {f"{key} in all layers": shape.layers * a * b for key, (a, b, _) in shape.projections.items()}
    side = "too few" if found < wanted else "too many"
    for part, count in parts.items():
        if count and abs(found - wanted) == 2 * count:
            return f"{side} by just the size of {part}"
    return f"{side}: {found / wanted:.3g} times what it should be"


# ── is a folder whole? ──────────────────────────────────────────────────────────────────────────────────────────────

SMALL = {"config.json": "{}", "tokenizer.json": "{}", "tokenizer_config.json": "{}"}
TEMPLATE, ONE, INDEX = "chat_template.jinja", "model.safetensors", "model.safetensors.index.json"
SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")


@check
def missing_files(attempt: Callable[[Path], list[str]]) -> None:
    """`missing_files(folder)`: what a model's folder lacks."""
    whole = SMALL | {TEMPLATE: "x", ONE: "x"}
    index = json.dumps({"metadata": {}, "weight_map": {"a": SHARDS[0], "b": SHARDS[1], "c": SHARDS[0]}})
    split = SMALL | {TEMPLATE: "x", INDEX: index}
    inside = {"tokenizer_config.json": '{"chat_template": "x"}'}
    cases: list[tuple[str, dict[str, str], list[str]]] = [
        ("a whole folder", whole, []),
        ("an empty folder", {}, sorted([*SMALL, TEMPLATE, ONE])),
        *((f"a folder without {name}", {key: whole[key] for key in whole if key != name}, [name]) for name in whole),
        *((f"a folder whose {name} is empty", whole | {name: ""}, [name]) for name in whole),
        ("a template inside of tokenizer_config.json", SMALL | inside | {ONE: "x"}, []),
        ("neither template nor tokenizer_config.json", {"config.json": "{}", "tokenizer.json": "{}", ONE: "x"},
         [TEMPLATE, "tokenizer_config.json"]),
        ("two shards and their index", split | dict.fromkeys(SHARDS, "x"), []),
        ("an index, and one of two shards", split | {SHARDS[1]: "x"}, [SHARDS[0]]),
        ("an index, and an empty shard", split | {SHARDS[0]: "x", SHARDS[1]: ""}, [SHARDS[1]]),
        ("an index and no shard", split, [*SHARDS]),
        ("shards without their index", SMALL | {TEMPLATE: "x"} | dict.fromkeys(SHARDS, "x"), [ONE]),
        ("weights that are still a .part", SMALL | {TEMPLATE: "x", f"{ONE}.part": "x"}, [ONE]),
        ("weights as a pickle", SMALL | {TEMPLATE: "x", "pytorch_model.bin": "x"}, [ONE]),
    ]  # fmt: skip
    for given, files, wanted in cases:
        with tempfile.TemporaryDirectory() as root:
            for name, text in files.items():
                Path(root, name).write_text(text, encoding="utf-8")
            found = ask(attempt, Path(root), given=given)
        expect(isinstance(found, list), f"for {given} it returned {shown(found)}; expected a list of names")
        over, under = [each for each in found if each not in wanted], [each for each in wanted if each not in found]
        expect(not over, f"for {given} you report {over}, which is there or not needed")
        expect(not under, f"for {given} you do not report {under}")
        expect(found == wanted, f"for {given} the names are right; expected each once and in order, found {found}")


# ── find the bug, and the bug in general ────────────────────────────────────────────────────────────────────────────


@check
def script(attempt: Callable[[str], str]) -> None:
    """`script(address)`: a script in which the library really uses the address."""
    for address, before in (("https://hf-mirror.com", None), ("https://my.mirror", None), ("https://a", "https://b")):
        text = ask(attempt, address)
        expect(isinstance(text, str), f"it returned {shown(text)}; expected the text of a script")
        clean = {key: value for key, value in os.environ.items() if key != "HF_ENDPOINT"}
        told = "\nimport huggingface_hub.constants\nprint(huggingface_hub.constants.ENDPOINT)\n"
        run = subprocess.run(
            [sys.executable, "-c", text + told],
            env=clean | ({"HF_ENDPOINT": before} if before else {}),
            capture_output=True,
            text=True,
            check=False,
        )
        given = f"with the address {address}{f' and HF_ENDPOINT={before} set outside' if before else ''}"
        last = (run.stderr.strip().splitlines() or [""])[-1]
        expect(run.returncode == 0, f"{given} the script fails: {last}")
        *said, used = run.stdout.split()
        wanted = before or address
        expect(used == wanted, f"{given} the library uses {used}")
        expect(said == [wanted], f"{given} the script prints {' '.join(said) or 'nothing'}; the library uses {used}")


@check
def too_late(attempt: Callable[[list[str]], list[str]]) -> None:
    """`too_late(cells)`: the variables that a notebook sets after the import that reads them."""
    mirror, home = 'os.environ["HF_ENDPOINT"] = "https://hf-mirror.com"', "os.environ['HF_HOME'] = 'x'"
    cases: list[tuple[list[str], list[str]]] = [
        ([mirror, "import huggingface_hub"], []),
        (["import huggingface_hub", mirror], ["HF_ENDPOINT"]),
        ([f"import os\nimport transformers\n{mirror}"], ["HF_ENDPOINT"]),
        (["from datasets import load_dataset", home, mirror], ["HF_HOME", "HF_ENDPOINT"]),
        (["from transformers.utils import logging", home, home], ["HF_HOME"]),
        (["import os, transformers as t", mirror], ["HF_ENDPOINT"]),
        (["import huggingface_hub.constants", home], ["HF_HOME"]),
        ([mirror, "import datasets", mirror, "import transformers"], ["HF_ENDPOINT"]),
        ([home, "import datasets", mirror], ["HF_ENDPOINT"]),
        (["import os", "import json", mirror], []),
        (["import transformers_like", mirror], []),
        (["from os import environ", "from json import loads", mirror], []),
        (["# import transformers", mirror], []),
        (['text = "import transformers"', mirror], []),
        (["import transformers", "# " + mirror], []),
        (["import transformers", "text = '''\n" + mirror + "\n'''"], []),
        (["import transformers", 'os.environ["HF_TOKEN"] = "…"', 'os.environ["HOME"] = "x"'], []),
        (["import transformers", 'settings["HF_HOME"] = "x"'], []),
        (["import transformers", 'print(os.environ["HF_HOME"])'], []),
        (["import transformers", 'os.environ["HF_HUB_OFFLINE"] = "1"'], ["HF_HUB_OFFLINE"]),
        (["import transformers", 'a = os.environ["HF_HOME"] = "x"'], ["HF_HOME"]),
        ([], []),
    ]
    for cells, wanted in cases:
        found = ask(attempt, list(cells))
        expect(isinstance(found, list), f"for {cells} it returned {shown(found)}; expected a list of names")
        expect(found == wanted, f"for {cells} you report {found or 'nothing'}; expected {wanted or 'nothing'}")
