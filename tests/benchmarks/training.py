"""Training speed, ours and what a newcomer writes, side by side: `make bench` (about ten minutes on two cores).

One epoch of mixed rows goes through Hugging Face's Trainer with PEFT in float32, the same in bfloat16 autocast, and
`training.train`: same model, rows, rows per step, steps and learning rate. Each runs in a process of its own, one
after the other, twice in turns; the faster run of each counts, since other guests of a shared machine only ever take
time away. The table lands in `docs/training.md`, its figures in `docs/training.json`.
"""

import json
import math
import random
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from typing import Any

import course_utils  # noqa: F401  (first: it sets how torch's threads wait)
from course_utils import budget, profiles
from course_utils.files import write_json, write_text
from course_utils.profiles import ROOT

RESULTS, TABLE = ROOT / "docs" / "training.json", ROOT / "docs" / "training.md"
MODEL, PROFILE = ROOT / "models" / "smollm2-135m-instruct", profiles.PROFILES["cpu"]
ROWS, HELD, TOKENS = 96, 48, 512  # to train on, to be judged by, and the longest
BATCH, RATE, RUNS = 8, 2e-4, 2
WAYS = {
    "fp32": "Trainer + PEFT, float32 (what a newcomer writes)",
    "bf16": "Trainer + PEFT, bfloat16 autocast",
    "ours": "`training.train`",
}


def mixed_rows(seed: int = 42) -> list[dict[str, Any]]:
    """Conversations of very different length, made of the course's English rows joined turn by turn."""
    from course_utils import data

    turns = [
        [message for message in row["messages"] if message["role"] != "system"]
        for part in ("train", "valid")
        for row in data.load_built(PROFILE, part, ROOT / "data")
    ]
    draw, rows = random.Random(seed), []
    for _ in range(ROWS + HELD):
        characters, messages = math.exp(draw.uniform(math.log(60), math.log(700))), []
        while sum(len(message["content"]) for message in messages) < characters:
            messages += draw.choice(turns)
        rows.append({"messages": messages})
    return rows


def one_run(way: str) -> dict[str, float]:
    """Train in this process and return the figures of the run."""
    if way == "ours":
        from course_utils import modeling

        modeling.import_unsloth()
    import torch
    from transformers import AutoTokenizer

    from course_utils import masking, packing, watching

    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    examples = masking.build_dataset(mixed_rows(), tokenizer, max_length=TOKENS).select_columns(["input_ids", "labels"])
    train, valid = examples.select(range(ROWS)), examples.select(range(ROWS, len(examples)))
    lengths = [len(ids) for ids in train["input_ids"]]
    peak = profiles.matmul_speed(PROFILE)
    with tempfile.TemporaryDirectory() as folder:
        seconds, model = (_ours if way == "ours" else _newcomers)(way, train, valid, tokenizer, folder)
    peak = max(peak, profiles.matmul_speed(PROFILE))  # before and after: a shared machine is not always the same
    work = budget.training_flops(
        budget.Shape.of(json.loads((MODEL / "config.json").read_text(encoding="utf-8"))),
        rank=PROFILE.train.r,
        targets=PROFILE.train.target_modules,
        tokens=sum(lengths),
        length=sum(lengths) // len(lengths),
        again=False,
    )
    memory = watching.peak_memory_gib()
    return {
        "seconds": seconds,
        "samples_per_second": ROWS / seconds,
        "tokens_per_second": sum(lengths) / seconds,
        "gemm_share": work / seconds / peak,
        "gemm_gflops": peak / 1e9,
        "peak_memory_gib": memory,
        "eval_loss": _loss(model, valid, torch),
        "padding_of_random_batches": packing.padding_share(lengths, BATCH),
        "tokens": sum(lengths),
    }


def _ours(way: str, train: Any, valid: Any, tokenizer: Any, folder: str) -> tuple[float, Any]:
    """Seconds of the steps alone, and the trained model."""
    from course_utils import modeling, training

    changes = {"epochs": 1, "batch_size": BATCH, "learning_rate": RATE, "max_length": TOKENS, "output_dir": folder}
    profile = replace(PROFILE, train=replace(PROFILE.train, **changes, tracker="none"))
    model, tokenizer = modeling.load_model(MODEL, profile)
    model = modeling.attach_lora(model, profile)
    watch = _stopwatch()
    # One row to look at: evaluations and their rows are the same work in every way, and timed in none.
    training.train(model, tokenizer, train, valid.select([0]), profile.train, callbacks=[watch], audit=False)
    return watch.seconds, model


def _newcomers(way: str, train: Any, valid: Any, tokenizer: Any, folder: str) -> tuple[float, Any]:
    """Seconds of the steps alone, and the trained model."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, DataCollatorForSeq2Seq, Trainer, TrainingArguments, set_seed

    settings = PROFILE.train
    set_seed(settings.seed)
    model = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32)
    lora = LoraConfig(r=settings.r, lora_alpha=settings.alpha, target_modules=list(settings.target_modules))
    model = get_peft_model(model, lora)
    arguments = TrainingArguments(
        output_dir=folder,
        num_train_epochs=1,
        per_device_train_batch_size=BATCH,
        learning_rate=RATE,
        lr_scheduler_type=settings.scheduler,
        warmup_steps=settings.warmup_steps,
        weight_decay=settings.weight_decay,
        bf16=way == "bf16",
        use_cpu=True,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        seed=settings.seed,
    )
    watch = _stopwatch()
    collator = DataCollatorForSeq2Seq(tokenizer)
    Trainer(model, arguments, train_dataset=train, data_collator=collator, callbacks=[watch]).train()
    return watch.seconds, model


def _stopwatch() -> Any:
    """A callback that adds up the seconds between the beginning and the end of each step."""
    from transformers import TrainerCallback

    class Stopwatch(TrainerCallback):
        seconds = 0.0

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self.started = time.perf_counter()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            self.seconds += time.perf_counter() - self.started

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


def as_page(found: dict[str, Any]) -> str:
    """The page that people read."""
    ways = found["ways"]
    lines = [
        "# Training: speed",
        "",
        f"SmolLM2-135M-Instruct, LoRA of rank {PROFILE.train.r} on seven projections, one epoch of {ROWS} rows of",
        f"{found['shortest']} to {found['longest']} tokens ({found['tokens'] / ROWS:.0f} on average), {BATCH} rows per "
        f"step, on {found['machine']}.",
        f"In random batches {found['padding']:.0%} of the tokens are padding. Each way ran {RUNS} times in a process",
        "of its own, in turns; the faster run counts. Time is that of the steps alone. *Share of the peak* is the work",
        "on real tokens (padding is no work; `budget.training_flops`) over that of the fastest bfloat16 matrix product",
        f"measured before and after the runs, {found['gemm_gflops']:.0f} GFLOP/s; on a shared machine it moves a",
        "lot. *Loss* is that of 48 held rows, in float32. Made by `make bench`.",
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
    ratio = ways["ours"]["samples_per_second"] / ways["bf16"]["samples_per_second"]
    lines += ["", f"Against the bfloat16 Trainer that is {ratio:.1f} times as fast.", ""]
    return "\n".join(lines)


def main() -> None:
    if len(sys.argv) > 1:
        print(json.dumps(one_run(sys.argv[1])))
        return
    from transformers import AutoTokenizer

    from course_utils import masking

    machine = profiles.detect_hardware()
    runs: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    for _ in range(RUNS):
        for way in WAYS:
            done = subprocess.run([sys.executable, __file__, way], capture_output=True, text=True, check=False)
            if done.returncode:
                sys.exit(f"{way} failed: {(done.stderr.strip().splitlines() or ['no message'])[-1]}")
            runs[way].append(json.loads(done.stdout.strip().splitlines()[-1]))
            print(f"{way}: {runs[way][-1]['samples_per_second']:.2f} samples/s", flush=True)
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    lengths = [len(ids) for ids in masking.build_dataset(mixed_rows(), tokenizer, max_length=TOKENS)["input_ids"]][
        :ROWS
    ]
    # The peak is the machine's: the best of all that were measured, the same for every way.
    peak = max(run["gemm_gflops"] for several in runs.values() for run in several)
    best = {}
    for way, several in runs.items():
        fastest = min(several, key=lambda run: run["seconds"])
        best[way] = fastest | {"gemm_share": fastest["gemm_share"] * fastest["gemm_gflops"] / peak}
    first = best["ours"]
    found = {
        "machine": machine.card or f"a CPU with {machine.cores} cores",
        "gemm_gflops": peak,
        "padding": first["padding_of_random_batches"],
        "tokens": first["tokens"],
        "shortest": min(lengths),
        "longest": max(lengths),
        "ways": best,
        "runs": runs,
    }
    write_json(RESULTS, found)
    write_text(TABLE, as_page(found))
    print(as_page(found))


if __name__ == "__main__":
    main()
