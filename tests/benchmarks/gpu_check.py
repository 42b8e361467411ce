"""What training takes and yields on this machine's GPU: `python tests/benchmarks/gpu_check.py`.

Qwen3 in three sizes, random weights from the published configs (the bytes are those of the real ones, and nothing is
downloaded), in NF4 as the profile `16gb` has it. Each case trains for a few steps in a process of its own, with the
allocator held to what a 16 GB GPU has; the first steps, which compile, are not timed. Two cases run a second time by
plain TRL and PEFT: SFTTrainer as it comes, on the same rows. A case that fails is written down with its error.

The figures are printed and land in `docs/gpu_check.json`, after every case anew. The largest model needs 17 GB of
main memory and of disk (TMPDIR says where). Unsloth asks the GPU and not the allocator how much is free when it cuts
its loss into chunks, at most 4 GiB each; a real 16 GB GPU may give it less.
"""

import json
import math
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

TESTS = Path(__file__).resolve().parents[1]
sys.path += [str(TESTS.parent), str(TESTS)]  # so that it runs where only the libraries are installed

from benchmarks import memory  # noqa: E402

from course_utils import budget, hardware, machine, profiles  # noqa: E402
from course_utils.core.budget import GIB  # noqa: E402
from course_utils.core.files import write_json  # noqa: E402
from course_utils.core.profiles import Profile  # noqa: E402
from course_utils.core.settings import trainer_arguments  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "docs" / "gpu_check.json"
MODELS = ("Qwen/Qwen3-0.6B", "Qwen/Qwen3-4B-Instruct-2507", "Qwen/Qwen3-8B")
LENGTHS = (1024, 2048)  # tokens of every row
BESIDE = MODELS[:2]  # also by plain TRL and PEFT, at the first length
CAP_GIB = 16
WARM, TIMED, ACCUMULATED = 3, 8, 4  # steps before the clock runs, and on it; rows of a step, one at a time
SECONDS = 240  # that a process may take
PACKAGES = ("torch", "transformers", "trl", "peft", "bitsandbytes", "accelerate", "unsloth", "unsloth_zoo", "xformers")
ANSWER = "RESULT "  # begins the line that a process answers with


@dataclass(frozen=True)
class Case:
    """One training run."""

    model: str
    tokens: int
    by: Literal["unsloth", "plain"] = "unsloth"


NO_CASE = Case("", 0)


def cases() -> list[Case]:
    """Every run, in order; those of one model stand together."""
    found = []
    for model in MODELS:
        found += [Case(model, tokens) for tokens in LENGTHS]
        found += [Case(model, LENGTHS[0], "plain")] if model in BESIDE else []
    return found


def profile_of(tokens: int, dtype: str) -> Profile:
    """The profile `16gb` for rows of so many tokens, with the steps of this script."""
    base, steps = profiles.PROFILES["16gb"], WARM + TIMED
    train = replace(
        base.train,
        max_length=tokens,
        batch_size=1,
        grad_accum=ACCUMULATED,
        max_steps=steps,
        eval_steps=steps,
        tracker="none",
    )
    return replace(base, load_in_4bit=True, dtype=dtype, train=train)


# ---- in a process of its own


def look() -> dict[str, Any]:
    """The GPU."""
    import torch

    gpu = torch.cuda.get_device_properties(0)
    return {
        "device": gpu.name,
        "memory_gib": round(gpu.total_memory / GIB, 2),
        "capability": f"{gpu.major}.{gpu.minor}",
        "cuda": torch.version.cuda,
    }


def put_tokenizer(folder: Path, vocabulary: int) -> None:
    """Put a tokenizer beside a model: Qwen's where it lies in models/, else one of bytes; the rows are ids anyway."""
    kept = ROOT / "models" / "qwen3-instruct-2507-tokenizer"
    if vocabulary == budget.CONFIGS[MODELS[0]]["vocab_size"] and (kept / "tokenizer.json").is_file():
        for file in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
            (folder / file).write_bytes((kept / file).read_bytes())
        return
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["<|endoftext|>", "<|im_end|>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    made = Tokenizer(models.BPE(vocab={word: number for number, word in enumerate(words)}, merges=[]))
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=made, pad_token=words[0], eos_token=words[1])
    fast.save_pretrained(folder)


def measure(
    by: str, folder: Path, profile: Profile, *, warm: int = WARM, cap_gib: float | None = None
) -> dict[str, float | None]:
    """Train in this process.

    Args:
        by: "unsloth", through `course_utils.train.training`, or "plain".
        folder: of the model; the run is written below it, too.
        profile: of the case; its settings say how many steps.
        warm: steps before the clock runs.
        cap_gib: what the GPU's allocator may take; None, and a smaller GPU: all there is.

    Returns:
        Tokens per second, seconds of a timed step, the last step's loss; and where there is a GPU, the most that its
        tensors took (`allocated_gib`), that the allocator held for them (`reserved_gib`), and that the GPU counts for
        this process (`in_use_gib`, None where nvidia-smi does not say), CUDA's own part included.
    """
    before = memory.gpu_in_use()  # first of all: to look at the GPU through torch starts CUDA
    if by == "unsloth":
        from course_utils import modeling

        modeling.import_unsloth()
    import torch

    cuda = torch.cuda.is_available()
    if cuda and cap_gib is not None:
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, cap_gib * GIB / total))
    settings = replace(profile.train, output_dir=str(folder / f"run-{by}-{profile.train.max_length}"))
    vocabulary = json.loads((folder / "config.json").read_text(encoding="utf-8"))["vocab_size"]
    put_tokenizer(folder, vocabulary)
    rows_per_step = settings.batch_size * settings.grad_accum
    shape = (settings.max_steps * rows_per_step, settings.max_length)
    ids = torch.randint(vocabulary // 10, 9 * vocabulary // 10, shape, generator=torch.Generator().manual_seed(0))
    rows = [{"input_ids": row, "labels": row} for row in ids.tolist()]
    meter = _meter(before)
    train = _train_through_the_course if by == "unsloth" else _train_plainly
    train(folder, rows, replace(profile, train=settings), meter)
    seconds = (meter.ends[-1] - meter.ends[warm - 1]) / (len(meter.ends) - warm)
    tokens_per_second = rows_per_step * settings.max_length / seconds
    return {
        "tokens_per_second": tokens_per_second,
        "step_seconds": seconds,
        "last_loss": meter.losses[-1],
        **meter.memory,
    }


def _meter(before: int) -> Any:
    """A callback that notes when steps end, their losses, and the most memory that they took, evaluations left out."""
    import torch
    from transformers import TrainerCallback

    class Meter(TrainerCallback):
        def __init__(self) -> None:
            self.ends: list[float] = []
            self.losses: list[float] = []
            self.memory: dict[str, float | None] = {}

        def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if not self.ends and torch.cuda.is_available():
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats()

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            self.ends.append(time.perf_counter())
            if torch.cuda.is_available() and state.global_step == state.max_steps:
                taken = memory.gpu_in_use()
                self.memory = {
                    "allocated_gib": torch.cuda.max_memory_allocated() / GIB,
                    "reserved_gib": torch.cuda.max_memory_reserved() / GIB,
                    "in_use_gib": (taken - before) / GIB if taken else None,
                }

        def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **_: Any) -> None:
            self.losses += [logs["loss"]] if "loss" in logs else []

    return Meter()


def _train_through_the_course(folder: Path, rows: list[dict[str, Any]], profile: Profile, meter: Any) -> None:
    """`modeling` and `training`, as lesson 04 has it."""
    from course_utils import modeling, training

    model, tokenizer = modeling.load_model(folder, profile)
    model = modeling.attach_lora(model, profile)
    training.train(model, tokenizer, rows, rows[:1], profile.train, callbacks=[meter], audit=False, profile=profile)


def _train_plainly(folder: Path, rows: list[dict[str, Any]], profile: Profile, meter: Any) -> None:
    """TRL and PEFT alone, told to do the same."""
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig
    from trl import SFTConfig, SFTTrainer

    settings, dtype = profile.train, getattr(torch, profile.dtype)
    nf4 = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
    )
    lora = LoraConfig(
        r=settings.r,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=list(settings.target_modules),
        task_type="CAUSAL_LM",
    )
    config = SFTConfig(
        output_dir=settings.output_dir,
        **trainer_arguments(settings),
        max_length=settings.max_length,
        bf16=profile.dtype == "bfloat16",
        fp16=profile.dtype == "float16",
        save_strategy="no",
        dataset_kwargs={"skip_prepare_dataset": True},
        disable_tqdm=True,
        report_to="none",
        use_cpu=not torch.cuda.is_available(),
    )
    trainer = SFTTrainer(
        AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, quantization_config=nf4, device_map={"": 0 if torch.cuda.is_available() else "cpu"}
        ),
        config,
        train_dataset=Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(folder),
        peft_config=lora,
        callbacks=[meter],
    )
    trainer.train()


def answer(task: str, folder: Path, model: str, tokens: int, by: str, dtype: str) -> dict[str, Any]:
    """What a process of its own does: look at the GPU, make a model, or train; an error is an answer, too."""
    try:
        if task == "look":
            return look()
        if task == "make":
            memory.make_model(budget.CONFIGS[model], folder)
            return {}
        return measure(by, folder, profile_of(tokens, dtype), cap_gib=CAP_GIB)
    except Exception as error:
        return {"error": said(f"{type(error).__name__}: {error}")}


def said(error: str) -> str:
    """An error's first line without this machine's folders."""
    return re.sub(r"(?:/[^\s/'\":]+)+/", "", error.strip().split("\n")[0])[:400]


# ---- in the first process


def in_a_process(task: str, folder: Path, case: Case = NO_CASE, dtype: str = "") -> dict[str, Any]:
    """The answer of a process of its own, which sees the first GPU and no other."""
    gpu = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    arguments = [task, str(folder), case.model, str(case.tokens), case.by, dtype]
    try:
        run = subprocess.run(
            [sys.executable, str(Path(__file__).resolve()), *arguments],
            env=os.environ | {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": gpu},
            cwd=folder,  # Unsloth leaves what it compiles in the working folder
            capture_output=True,
            text=True,
            check=False,
            timeout=SECONDS,
        )
    except subprocess.TimeoutExpired:
        return {"error": f"no answer after {SECONDS} seconds"}
    answers = [line for line in run.stdout.splitlines() if line.startswith(ANSWER)]
    if not answers:
        return {"error": said(f"exit code {run.returncode}: {(run.stderr.strip().splitlines() or [''])[-1]}")}
    return json.loads(answers[-1].removeprefix(ANSWER))


def row(case: Case, profile: Profile, found: dict[str, Any]) -> dict[str, Any]:
    """A case's line of the results: what was found, beside what `profiles.memory_budget` says of Unsloth's run."""
    predicted = profiles.memory_budget(budget.CONFIGS[case.model], profile)
    told = {name: _figure(value) if isinstance(value, float) else value for name, value in found.items()}
    rows = profile.train.batch_size * profile.train.grad_accum
    line = {**asdict(case), "dtype": profile.dtype, "rows_per_step": rows, **told}
    if case.by == "plain":
        return line
    line["predicted_gib"] = round(predicted.gib, 4)
    line["predicted_terms_gib"] = {term.name: round(term.bytes / GIB, 4) for term in predicted.terms}
    if found.get("reserved_gib"):
        # Where the GPU does not say what CUDA takes for itself, the budget's own estimate stands for it.
        taken = found.get("in_use_gib") or found["reserved_gib"] + budget.CUDA_CONTEXT / GIB
        line["budget_error"] = round(predicted.gib / taken - 1, 4)
    return line


def _figure(value: float) -> float | None:
    """A number short enough to read; None for what is none, which JSON cannot hold."""
    return round(value, 4) if math.isfinite(value) else None


def side_by_side(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Unsloth against plain TRL and PEFT, where both came to their end."""
    whole = {(line["model"], line["tokens"], line["by"]): line for line in rows if "error" not in line}
    found = []
    for (model, tokens, by), plain in whole.items():
        if by == "plain" and (ours := whole.get((model, tokens, "unsloth"))):
            pair = {"model": model, "tokens": tokens}
            for name in ("tokens_per_second", "allocated_gib", "reserved_gib", "last_loss"):
                pair[name] = {"unsloth": ours.get(name), "plain": plain.get(name)}
            pair["speed_ratio"] = round(ours["tokens_per_second"] / plain["tokens_per_second"], 3)
            if plain.get("allocated_gib"):
                pair["memory_ratio"] = round(ours["allocated_gib"] / plain["allocated_gib"], 3)
            found.append(pair)
    return found


def report(gpu: dict[str, Any], rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """All figures, with what they hang on."""
    return {
        **gpu,
        "cap_gib": CAP_GIB if gpu["memory_gib"] > CAP_GIB else None,
        "base": "NF4",
        "steps": {"warm": WARM, "timed": TIMED},
        "versions": machine.versions(PACKAGES),
        "cases": list(rows),
        "unsloth_against_plain": side_by_side(rows),
    }


def main() -> int:
    if len(sys.argv) > 1:
        task, folder, model, tokens, by, dtype = sys.argv[1:]
        print(ANSWER + json.dumps(answer(task, Path(folder), model, int(tokens), by, dtype)), flush=True)
        return 0
    import torch

    if not torch.cuda.is_available():
        print("gpu_check: torch sees no CUDA GPU here, so nothing was measured.", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory() as work:
        gpu = in_a_process("look", Path(work))
        if "error" in gpu:
            print(f"gpu_check: the GPU cannot be used: {gpu['error']}", file=sys.stderr)
            return 1
        capability = tuple(map(int, gpu["capability"].split(".")))
        dtype = "bfloat16" if capability >= hardware.BF16_CAPABILITY else "float16"
        rows: list[dict[str, Any]] = []
        for model in MODELS:
            with tempfile.TemporaryDirectory(dir=work) as folder:
                made = in_a_process("make", Path(folder), Case(model, 0))
                for case in cases():
                    if case.model != model:
                        continue
                    found = made if "error" in made else in_a_process("train", Path(folder), case, dtype)
                    rows.append(row(case, profile_of(case.tokens, dtype), found))
                    print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
                    write_json(RESULTS, report(gpu, rows))
    print(RESULTS.read_text(encoding="utf-8"), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
