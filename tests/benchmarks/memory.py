"""Predicted against measured peak memory of training steps, on this machine: `python tests/benchmarks/memory.py`.

Every case runs in a process of its own: a model with random weights is made from its published config (the bytes are
those of the real one, and nothing is downloaded), held as the profile says, and trained for a few steps on rows of
full length. The rows of this machine in `docs/memory.json` are replaced, and the table `docs/memory.md` is written.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import course_utils  # noqa: F401  (first: it sets how torch's threads wait)
from course_utils import budget, hardware, profiles
from course_utils.core.files import write_json, write_text
from course_utils.core.profiles import Profile

ROOT = Path(__file__).resolve().parents[2]
RESULTS, TABLE = ROOT / "docs" / "memory.json", ROOT / "docs" / "memory.md"
STEPS = 3
# glibc keeps freed blocks for later, which hides how much was needed at once. With these it gives them back.
GIVE_BACK = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}

# (model, changes of the profile, changes of its training settings). NF4 is not measured on a CPU: the file that it is
# made from stays mapped there, and counts as the process's memory although the system may drop it at any time.
CPU_CASES = [
    ("smollm2-135m-instruct", {}, {}),
    ("smollm2-135m-instruct", {}, {"gradient_checkpointing": True}),
    ("smollm2-135m-instruct", {}, {"batch_size": 8}),
    ("Qwen/Qwen3-0.6B", {}, {"batch_size": 1}),
    ("Qwen/Qwen3-0.6B", {}, {"batch_size": 2, "gradient_checkpointing": True}),
]
GPU_CASES = [(model, {}, {}) for model in budget.CONFIGS if model.startswith("Qwen/")] + [
    ("Qwen/Qwen3-4B-Instruct-2507", {}, {"gradient_checkpointing": False}),
    ("Qwen/Qwen3-4B-Instruct-2507", {}, {"batch_size": 4, "max_length": 2048}),
    ("Qwen/Qwen3-4B-Instruct-2507", {"load_in_4bit": False}, {}),
]


def changed(profile: Profile, changes: dict[str, Any], settings: dict[str, Any]) -> Profile:
    """The profile of a case."""
    return replace(profile, **changes, train=replace(profile.train, **settings))


def measure(model_name: str, profile: Profile, folder: Path, before: int) -> dict[str, int]:
    """Train for a few steps in this process.

    Args:
        model_name: a key of `budget.CONFIGS`.
        profile: of the case.
        folder: takes the model and the run.
        before: bytes of the GPU that were taken before this process started CUDA.

    Returns:
        The peak in bytes, and on a CPU what the process held before the model.
    """
    from course_utils import modeling, training

    modeling.import_unsloth()
    import torch
    import trl  # noqa: F401  (all libraries are in before the process is weighed)

    vocabulary = make_model(budget.CONFIGS[model_name], folder)
    cuda = torch.cuda.is_available()
    process = 0 if cuda else _resident("VmRSS")
    model, tokenizer = modeling.load_model(folder, profile)
    model = modeling.attach_lora(model, profile)
    generator = torch.Generator().manual_seed(0)
    shape = (4 * profile.train.batch_size, profile.train.max_length)
    ids = torch.randint(100, vocabulary - 1000, shape, generator=generator).tolist()
    rows = [{"input_ids": row, "labels": row} for row in ids]
    settings = replace(profile.train, max_steps=STEPS, grad_accum=1, eval_steps=STEPS, output_dir=str(folder / "run"))
    if cuda:
        torch.cuda.empty_cache()
    else:
        Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts anew here
    training.train(model, tokenizer, rows, rows[: profile.train.batch_size], settings, audit=False)
    # A GPU's allocator keeps what it once had, so what is in use at the end is the peak, context included.
    return {"measured": gpu_in_use() - before if cuda else _resident("VmHWM"), "process": process}


def make_model(shape: Mapping[str, Any], folder: Path) -> int:
    """Write a model with random weights in a shape out of `budget.CONFIGS`; returns the size of its vocabulary."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(**shape)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.to_empty(device="cpu")
    model.tie_weights()
    device = "cuda" if torch.cuda.is_available() else "cpu"  # a GPU draws billions of numbers in seconds
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            values = 0.02 * torch.randn(parameter.shape, device=device, dtype=torch.bfloat16)
            parameter.copy_(1 + values if name.endswith("norm.weight") else values)
    model.save_pretrained(folder)
    return config.vocab_size


def gpu_in_use() -> int:
    """Bytes of the first GPU that are taken, by whoever; 0 where nobody says. CUDA is not started for it."""
    if not (smi := shutil.which("nvidia-smi")):
        return 0
    gpu = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    asked = [smi, f"--id={gpu}", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
    said = subprocess.run(asked, capture_output=True, text=True, check=False).stdout.split()
    return int(said[0]) * 2**20 if said and said[0].isdigit() else 0  # a slice of a GPU says [N/A]


def _resident(field: str) -> int:
    """VmRSS (now) or VmHWM (highest) of this process, in bytes."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def one_case(number: int) -> dict[str, Any]:
    """Run a case in this process and return its line of the results."""
    before = gpu_in_use()  # first of all: to look at the GPU through torch starts CUDA
    machine = hardware.detect_hardware()
    cases, base = (GPU_CASES, "16gb") if machine.device == "cuda" else (CPU_CASES, "cpu")
    model, changes, settings = cases[number]
    profile = changed(profiles.PROFILES[base], changes, settings)
    predicted = profiles.memory_budget(budget.CONFIGS[model], profile)
    with tempfile.TemporaryDirectory() as folder:
        # A tokenizer is needed to save beside the adapter; any will do.
        from course_utils import hub

        tokens = hub.download("qwen3-instruct-2507-tokenizer" if "Qwen" in model else "smollm2-135m-instruct")
        for file in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
            (Path(folder) / file).write_bytes((tokens / file).read_bytes())
        found = measure(model, profile, Path(folder), before)
    return {
        "machine": machine.gpu or f"CPU with {machine.cores} cores",
        "model": model,
        "bits": profile.bits,
        "checkpointing": profile.train.gradient_checkpointing,
        "rows x tokens": f"{profile.train.batch_size} x {profile.train.max_length}",
        "predicted": predicted.total,
        "terms": {term.name: term.bytes for term in predicted.terms},
        **found,
    }


def as_table(results: list[dict[str, Any]]) -> str:
    """The page that people read."""
    lines = [
        "# Memory: predicted and measured",
        "",
        "`profiles.memory_budget` counts from a config alone. Here is how near it comes to the peak of a few training",
        "steps, with random weights in the published shapes. Made by `python tests/benchmarks/memory.py`, which adds",
        "the rows of the machine that it runs on. On a CPU *measured* is the peak of a process that gives freed memory",
        "back at once; *as it runs* is the peak without that: glibc keeps freed blocks, so the process looks larger",
        "than what it needs. No GPU has been measured yet: the terms that differ there (activations, logits and loss,",
        "overhead) are read from Unsloth's code, and the CUDA context is an estimate.",
        "`python tests/benchmarks/gpu_check.py` measures them on a GPU in one go. Sizes are in GiB.",
        "",
        "| machine | model | base | checkpointing | rows x tokens | predicted | measured | off by | as it runs |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in results:
        cells = [
            row["machine"],
            row["model"],
            f"{row['bits']} bits",
            "yes" if row["checkpointing"] else "no",
            row["rows x tokens"],
            f"{row['predicted'] / 2**30:.2f}",
            f"{row['measured'] / 2**30:.2f}",
            f"{row['predicted'] / row['measured'] - 1:+.1%}",
            f"{row['as it runs'] / 2**30:.2f}" if "as it runs" in row else "",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def in_a_process(number: int, variables: dict[str, str]) -> dict[str, Any] | None:
    """The line of a case that ran in a process of its own; None where it failed, most often for want of memory."""
    run = subprocess.run(
        [sys.executable, __file__, str(number)],
        env=os.environ | variables,
        capture_output=True,
        text=True,
        check=False,
    )
    if run.returncode:
        print(f"case {number} failed: {(run.stderr.strip().splitlines() or ['no message'])[-1]}", file=sys.stderr)
        return None
    return json.loads(run.stdout.strip().splitlines()[-1])


def main() -> None:
    if len(sys.argv) > 1:
        print(json.dumps(one_case(int(sys.argv[1]))))
        return
    machine = hardware.detect_hardware()
    found = []
    for number in range(len(GPU_CASES if machine.device == "cuda" else CPU_CASES)):
        row = in_a_process(number, GIVE_BACK)
        if row and machine.device == "cpu" and (kept := in_a_process(number, {})):
            row["as it runs"] = kept["measured"]
        if row:
            found.append(row)
            print(as_table([row]).splitlines()[-1], flush=True)
    others = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.is_file() else []
    machines = {row["machine"] for row in found}
    results = [row for row in others if row["machine"] not in machines] + found
    write_json(RESULTS, results)
    write_text(TABLE, as_table(results))


if __name__ == "__main__":
    main()
