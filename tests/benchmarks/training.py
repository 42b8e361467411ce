"""Training speed, ours and what a newcomer writes, side by side: `make bench` (a quarter of an hour on two cores).

One epoch of mixed rows goes through Hugging Face's Trainer with PEFT in float32, the same in bfloat16 autocast, and
`training.train`: same model, rows, rows per step, steps and learning rate. Each runs in a process of its own, and they
take their steps in turns: one step of each, while the others wait, and then the speed of matrix products. So what other
guests of a shared machine take away, they take from all. Before that, some of our steps are taken apart by operation.
The tables land in `docs/training.md`, their figures in `docs/training.json`.
"""

import json
import math
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import psutil

import course_utils  # noqa: F401  (first: it sets how torch's threads wait)
from course_utils import budget, hardware, profiles
from course_utils.core.files import write_json, write_text
from course_utils.core.settings import TrainSettings, trainer_arguments

ROOT = Path(__file__).resolve().parents[2]
RESULTS, TABLE = ROOT / "docs" / "training.json", ROOT / "docs" / "training.md"
PROFILE = profiles.choose("cpu")
MODEL = ROOT / "models" / PROFILE.model
ROWS, HELD, TOKENS = 64, 32, 512  # to train on, to be judged by, and the longest
BATCH, RATE = PROFILE.train.batch_size, 2e-4
TURN = "my turn"
TAKEN_APART = range(4, 12)  # steps of the profile by operation
NEEDED_GIB = 18  # one of the three at its peak, the others at rest
WAYS = {
    "fp32": "Trainer + PEFT, float32 (what a newcomer writes)",
    "bf16": "Trainer + PEFT, bfloat16 autocast",
    "ours": "`training.train`",
}
NEWCOMERS = ("fp32", "bf16")
if PROFILE.dtype == "float32":  # a CPU that emulates bfloat16, a hundred times slower than its float32
    del WAYS["bf16"]
COMPILED = "compiled"  # ours with torch.compile, for `switches.py`
OPERATIONS = (
    "matrix products of the frozen layers",
    "head and loss",
    "thin products of LoRA",
    "attention",
    "casts and copies",
    "optimiser and clipping",
    "all else",
)


def mixed_rows(seed: int = 42) -> list[dict[str, Any]]:
    """Conversations of very different length, the course's rows but those with tools, joined turn by turn."""
    from course_utils import data

    turns = [
        [message for message in row["messages"] if message["role"] != "system"]
        for part in ("train", "valid")
        for row in data.load_built(PROFILE, part, ROOT / "data")
        if row["source"] != "tools"
    ]
    draw, rows = random.Random(seed), []
    for _ in range(ROWS + HELD):
        characters, messages = math.exp(draw.uniform(math.log(60), math.log(350))), []
        while sum(len(message["content"]) for message in messages) < characters:
            messages += draw.choice(turns)
        rows.append({"messages": messages})
    return rows


def one_run(way: str) -> dict[str, Any]:
    """Train in this process and return the figures of the run."""
    if way not in NEWCOMERS:
        from course_utils import modeling

        modeling.import_unsloth()
    import torch
    from transformers import AutoTokenizer

    from course_utils import masking, packing
    from course_utils.train import callbacks

    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    examples = masking.build_dataset(mixed_rows(), tokenizer, max_length=TOKENS).select_columns(["input_ids", "labels"])
    train, valid = examples.select(range(ROWS)), examples.select(range(ROWS, len(examples)))
    lengths = [len(ids) for ids in train["input_ids"]]
    with tempfile.TemporaryDirectory() as folder:
        if way == "by operation":
            return _by_operation(train, valid, folder)
        seconds, model = (_newcomers if way in NEWCOMERS else _ours)(way, train, valid, tokenizer, folder)
    memory = callbacks.peak_memory_gib()
    return {
        "seconds": seconds,
        "peak_memory_gib": memory,
        "eval_loss": _loss(model, valid, torch),
        "padding_of_random_batches": packing.padding_share(lengths, BATCH),
        "lengths": lengths,
    }


def _settings(folder: str) -> TrainSettings:
    """The same for every way."""
    changes = {"epochs": 1, "batch_size": BATCH, "learning_rate": RATE, "max_length": TOKENS, "output_dir": folder}
    return replace(PROFILE.train, **changes, tracker="none")


def _ours(way: str, train: Any, valid: Any, tokenizer: Any, folder: str) -> tuple[list[float], Any]:
    """Seconds of each step, and the trained model."""
    watch = _stopwatch()
    return watch.seconds, trained(train, valid, folder, watch)


def trained(train: Any, valid: Any, folder: str, watch: Any) -> Any:
    """The model that `training.train` makes, a callback watching."""
    from course_utils import modeling, training

    profile = replace(PROFILE, train=_settings(folder))
    model, tokenizer = modeling.load_model(MODEL, profile)
    model = modeling.attach_lora(model, profile)
    # One row to look at: evaluations and their rows are the same work in every way, and timed in none.
    training.train(model, tokenizer, train, valid.select([0]), profile.train, callbacks=[watch], audit=False)
    return model


def _by_operation(train: Any, valid: Any, folder: str) -> dict[str, float]:
    """Milliseconds of one of our steps for each kind of operation, by torch's profiler, the mean of `TAKEN_APART`."""
    from torch.profiler import ProfilerActivity, profile
    from transformers import TrainerCallback

    watched = profile(activities=[ProfilerActivity.CPU], record_shapes=True)

    class Watch(TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step == TAKEN_APART[0]:
                watched.start()

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step == TAKEN_APART[-1] + 1:
                watched.stop()
                control.should_training_stop = True

    model = trained(train, valid, folder, Watch())
    spent = dict.fromkeys(OPERATIONS, 0.0)
    for event in watched.key_averages(group_by_input_shape=True):
        sizes = {size for shape in event.input_shapes if isinstance(shape, list) for size in shape}
        kind = _kind(event.key, sizes, model.config.vocab_size)
        spent[kind] += event.self_cpu_time_total / 1000 / len(TAKEN_APART)
    return spent


def _kind(operation: str, sizes: set[int], vocabulary: int) -> str:
    """What an operation of a step belongs to, by its name and the sizes of what goes in."""
    name = operation.removeprefix("aten::")
    of_heads = name in ("bmm", "baddbmm")
    product = of_heads or name in ("mm", "addmm", "mkldnn_linear", "matmul", "linear")
    if vocabulary in sizes:
        return "head and loss"
    if "adam" in name.lower() or "_foreach" in name:
        return "optimiser and clipping"
    if product and PROFILE.train.r in sizes:
        return "thin products of LoRA"
    if of_heads or "softmax" in name or "attention" in name:
        return "attention"
    if product:
        return "matrix products of the frozen layers"
    if name in ("copy_", "_to_copy", "clone", "contiguous"):
        return "casts and copies"
    return "all else"


def _newcomers(way: str, train: Any, valid: Any, tokenizer: Any, folder: str) -> tuple[list[float], Any]:
    """Seconds of each step, and the trained model."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, DataCollatorForSeq2Seq, Trainer, TrainingArguments, set_seed

    settings = _settings(folder)
    set_seed(settings.seed)
    model = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32)
    lora = LoraConfig(r=settings.r, lora_alpha=settings.alpha, target_modules=list(settings.target_modules))
    model = get_peft_model(model, lora)
    arguments = TrainingArguments(
        output_dir=folder,
        num_train_epochs=settings.epochs,
        **trainer_arguments(settings),
        bf16=way == "bf16",
        use_cpu=True,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    watch = _stopwatch()
    collator = DataCollatorForSeq2Seq(tokenizer)
    Trainer(model, arguments, train_dataset=train, data_collator=collator, callbacks=[watch]).train()
    return watch.seconds, model


def _stopwatch() -> Any:
    """A callback that waits for its turn before each step and notes how many seconds the step took."""
    from transformers import TrainerCallback

    class Stopwatch(TrainerCallback):
        def __init__(self) -> None:
            self.seconds: list[float] = []

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            print(TURN, flush=True)
            if not sys.stdin.readline():
                sys.exit("whoever gave the turns is gone")
            self.started = time.perf_counter()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            self.seconds.append(time.perf_counter() - self.started)

    return Stopwatch()


def _loss(model: Any, valid: Any, torch: Any) -> float:
    """Loss per learned token of the held rows, one by one, in float32: the same measure for every way."""
    model = model.float().eval()
    total, count = 0.0, 0
    with torch.no_grad():
        for row in valid:
            ids, labels = torch.tensor([row["input_ids"]]), torch.tensor([row["labels"]])
            learned = int((labels[:, 1:] != -100).sum())
            logits = model(input_ids=ids).logits[0, :-1].float()
            total += float(torch.nn.functional.cross_entropy(logits, labels[0, 1:], reduction="sum"))
            count += learned
    return total / count


def reported(script: str, *arguments: str) -> dict[str, Any]:
    """What a script prints in its last line, run in a process of its own."""
    command = [sys.executable, script, *arguments]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1])


def measured(script: str, way: str, *more: str) -> dict[str, Any]:
    """What `script --one WAY FOLDER …` reports of a run in a folder of its own, which is gone afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        return reported(script, "--one", way, folder, *more)


def side_by_side(ways: Sequence[str]) -> tuple[dict[str, dict[str, Any]], list[float]]:
    """Run these ways in turns.

    Returns:
        What each way's process reports, and the speed of matrix products in FLOP/s after each round.
    """
    free = psutil.virtual_memory().available / 2**30
    if free < NEEDED_GIB:
        sys.exit(
            f"This holds three models at once, {NEEDED_GIB} GiB at most, and {free:.1f} GiB are free. Close others."
        )
    started = {}
    for way in ways:
        compiles = {"UNSLOTH_CPU_COMPILE": str(int(way == COMPILED))}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        started[way] = subprocess.Popen([sys.executable, __file__, way], env=os.environ | compiles, **pipes)
    found, speeds = {}, []
    for way, process in started.items():  # one after the other: loading is not to disturb anyone's step
        while (line := process.stdout.readline().strip()) != TURN:
            if not line and process.poll() is not None:
                sys.exit(_ended(way, process, "before its first step"))
    while len(found) < len(ways):
        for way, process in started.items():
            if way in found:
                continue
            process.stdin.write("go\n")
            process.stdin.flush()
            line = process.stdout.readline()
            while line and line.strip() != TURN and not line.startswith('{"seconds"'):
                line = process.stdout.readline()
            if not line:
                sys.exit(_ended(way, process, "in the middle of its run"))
            if line.startswith('{"seconds"'):
                found[way] = json.loads(line)
        speeds.append(matmul_speed(PROFILE.dtype))
        print(f"round {len(speeds)}: matrix products at {speeds[-1] / 1e9:.0f} GFLOP/s", file=sys.stderr, flush=True)
    return found, speeds


def _ended(way: str, process: subprocess.Popen, when: str) -> str:
    """Why there are no figures: the system ends a process with signal 9 where memory runs out."""
    reason = ": most likely the memory ran out" if process.wait() == -9 else f" with code {process.returncode}"
    return f"{way} ended {when}{reason}."


def matmul_speed(dtype: str) -> float:
    """Operations per second of matrix products in torch's `dtype`: the fastest of a second's worth of them."""
    import torch
    from torch.utils.benchmark import Timer

    device, width = ("cuda", 8192) if torch.cuda.is_available() else ("cpu", 2048)
    left, right = torch.randn(2, width, width, device=device).to(getattr(torch, dtype))
    timer = Timer("left @ right", globals={"left": left, "right": right}, num_threads=torch.get_num_threads())
    return 2 * width**3 / min(timer.blocked_autorange(min_run_time=0.5).times)


def figures(found: dict[str, dict[str, Any]], speeds: list[float], operations: dict[str, float]) -> dict[str, Any]:
    """The figures of the page."""
    lengths = found["ours"]["lengths"]
    steps = len(found["ours"]["seconds"])
    shape = budget.Shape.of(json.loads((MODEL / "config.json").read_text(encoding="utf-8")))
    settings = replace(PROFILE.train, max_length=sum(lengths) // len(lengths), gradient_checkpointing=False)
    work = budget.training_flops(shape, settings, sum(lengths))
    speed = statistics.median(speeds)
    ways = {}
    for way, report in found.items():
        seconds = sum(report["seconds"])
        ways[way] = {
            "seconds": seconds,
            "samples_per_second": ROWS / seconds,
            "tokens_per_second": sum(lengths) / seconds,
            "gemm_share": work / seconds / speed,
            "peak_memory_gib": report["peak_memory_gib"],
            "eval_loss": report["eval_loss"],
            "seconds_of_steps": report["seconds"],
        }
    machine = hardware.detect_hardware()
    return {
        "machine": machine.gpu or f"a CPU with {machine.cores} cores",
        "dtype": PROFILE.dtype,
        "gemm_gflops": speed / 1e9,
        "gemm_gflops_of_rounds": [round(each / 1e9) for each in speeds],
        "padding": found["ours"]["padding_of_random_batches"],
        "shortest": min(lengths),
        "longest": max(lengths),
        "mean": sum(lengths) / len(lengths),
        "steps": steps,
        "ways": ways,
        "milliseconds_of_a_step": operations,
    }


def as_page(found: dict[str, Any]) -> str:
    """The page that people read."""
    ways, speeds = found["ways"], found["gemm_gflops_of_rounds"]
    lines = [
        "# Training: speed",
        "",
        f"{PROFILE.model}, LoRA of rank {PROFILE.train.r} on seven projections, one epoch of {ROWS} rows of",
        f"{found['shortest']} to {found['longest']} tokens ({found['mean']:.0f} on average), {BATCH} rows per step, on "
        f"{found['machine']}.",
        f"In random batches {found['padding']:.0%} of the tokens are padding. The ways take their steps in turns, each",
        "in a process of its own. *Share of the peak* is the work on real tokens (padding is no work;",
        f"`budget.training_flops`) over the speed of matrix products in {found['dtype']}, measured after each round",
        f"of steps: the middle of {len(speeds)} values from {min(speeds)} to {max(speeds)} GFLOP/s.",
        f"*Loss* is that of {HELD} held rows in float32. Made by `make bench`.",
        "",
        "| way | samples/s | real tokens/s | ratio | share of the peak | peak memory | loss |",
        "|---|---|---|---|---|---|---|",
    ]
    for way, name in WAYS.items():
        row = ways[way]
        lines.append(
            f"| {name} | {row['samples_per_second']:.2f} | {row['tokens_per_second']:.0f} | "
            f"{row['samples_per_second'] / ways['fp32']['samples_per_second']:.1f} | {row['gemm_share']:.0%} | "
            f"{row['peak_memory_gib']:.1f} GiB | {row['eval_loss']:.3f} |"
        )
    if "bf16" in ways:
        ratio = ways["ours"]["samples_per_second"] / ways["bf16"]["samples_per_second"]
        lines += ["", f"Against the bfloat16 Trainer that is {ratio:.1f} times as fast."]
    spent = found["milliseconds_of_a_step"]
    lines += [
        "",
        f"One of our steps by operation: {len(TAKEN_APART)} steps under torch's profiler, on an own run.",
        "",
        "| operation | ms a step | share |",
        "|---|---|---|",
        *(f"| {name} | {spent[name]:.0f} | {spent[name] / sum(spent.values()):.0%} |" for name in OPERATIONS),
    ]
    return "\n".join([*lines, "", MEANS, *_found_by("switches", SWITCHED), *_found_by("settings", TRIED)])


def _found_by(script: str, words: str) -> list[str]:
    """The table of another script of this folder under some words, where that script was run."""
    other = import_module(script)
    if not other.RESULTS.is_file():
        return []
    return ["", words, *other.as_table(json.loads(other.RESULTS.read_text(encoding="utf-8"))), ""]


SWITCHED = """Switches of a step, turned on and off from step to step in one run. Made by
`python tests/benchmarks/switches.py`.
"""
TRIED = """# Training: the settings

What was tried for the profile `cpu`: the same seed and rows, some settings changed, the rest as in the profile.
Settings are chosen by the validation rows and by the general ones, which are never trained on; the test rows are asked
once, in the end. *Plain rows* are ordinary questions with plain answers. *Minutes* are those of the training alone, on
a machine whose speed moves by a third. Made by `python tests/benchmarks/settings.py`.
"""
MEANS = """How much faster depends on the rows: the more their lengths differ, the more of a random batch is padding,
which `training.train` leaves out. With rows of 57 to 430 tokens (36 % padding) it was 3.9 and 2.2 times as fast.

What makes the difference, each measured alone on SmolLM2-135M with single steps of 8 rows:

- Rows of like length in a step (`training.row_order`): of the course's rows at random 42 % of a batch of 4 is padding,
  in this order 3 % (`04_inside_the_run.ipynb`).
- Unsloth's loss in chunks, over the learned tokens only; the base in bfloat16, which autocast need not convert.
- No copies of LoRA's inputs to float32 (`peft.helpers.disable_input_dtype_casting`): 10 % less time, the same bits.
- Attention in plain matrix products for rows of at most 256 tokens (`AttentionInterface` of transformers): steps of
  100, 139 and 224 tokens a row took 30, 27 and 11 % less time. At 128 tokens torch's fused kernel for CPUs takes 31 ms
  on the way back, plain products take 7.

Tried and left out: no attention mask at all (no change); `OMP_WAIT_POLICY=ACTIVE` and other spin counts (no change
beyond the noise); larger blocks from the C library by `mallopt` (5 %, and memory that is not given back); transparent
huge pages (slower attention); one thread (slower); plain products for longer rows (no gain at 450 tokens, and twice
the memory for activations); `UNSLOTH_CPU_COMPILE=1` (lost to its compile time before the course was written). The
machine is shared, and its speed moves by a third within minutes.
"""


def main() -> None:
    if len(sys.argv) > 1:
        print(json.dumps(one_run(sys.argv[1])))
        return
    operations = reported(__file__, "by operation")
    found = figures(*side_by_side(tuple(WAYS)), operations)
    write_json(RESULTS, found)
    write_text(TABLE, as_page(found))
    print(as_page(found))


if __name__ == "__main__":
    main()
