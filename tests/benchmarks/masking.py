"""Masks per second, ours and TRL's, side by side in one process: `python tests/benchmarks/masking.py`.

10,000 conversations of one to three turns, put together from the course's own rows, go five times through
`masking.build_dataset` and five times through the preprocessing of TRL's `SFTTrainer` with `assistant_only_loss`, in
turns; the fastest of each counts. Unsloth is not imported, so TRL's trainer is TRL's own. The table lands in
`docs/masking.md`.
"""

import json
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
from transformers import AutoTokenizer, Qwen3Config, Qwen3ForCausalLM
from trl import SFTConfig, SFTTrainer

from course_utils import data, hardware, hub, masking
from course_utils.core.files import write_text

ROOT = Path(__file__).resolve().parents[2]
TABLE = ROOT / "docs" / "masking.md"
ROWS, TURNS, CHARACTERS = 10_000, (1, 3), 790  # characters of a whole conversation, for about 320 tokens
RUNS = 5


def conversations(seed: int = 42) -> list[dict[str, Any]]:
    """Conversations whose messages are contents of the bundled rows, drawn and joined until they are long enough."""
    names = json.loads((ROOT / "data" / "dataset_info.json").read_text(encoding="utf-8"))
    contents = [
        message["content"]
        for name in names
        for row in data.load(name, ROOT / "data")
        for message in row["messages"]
        if message["content"]
    ]
    draw = random.Random(seed)
    rows = []
    for _ in range(ROWS):
        turns = draw.randint(*TURNS)
        messages = []
        for role in ("user", "assistant") * turns:
            text = draw.choice(contents)
            while len(text) < CHARACTERS / (2 * turns):
                text += " " + draw.choice(contents)
            messages.append({"role": role, "content": text[: CHARACTERS // turns].strip()})
        rows.append({"messages": messages})
    return rows


def by_trl(rows: list[dict[str, Any]], tokenizer: Any, model: Any) -> datasets.Dataset:
    """What SFTTrainer trains on: its constructor prepares the rows."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = SFTConfig(
            output_dir=folder, assistant_only_loss=True, max_length=None, bf16=False, use_cpu=True, report_to="none"
        )
        trainer = SFTTrainer(
            model, arguments, train_dataset=datasets.Dataset.from_list(rows), processing_class=tokenizer
        )
        return trainer.train_dataset


def seconds(work: Callable[[], Any]) -> tuple[float, Any]:
    """How long the work took, and what it returned."""
    started = time.perf_counter()
    result = work()
    return time.perf_counter() - started, result


def main() -> None:
    datasets.disable_progress_bars()
    tokenizer = AutoTokenizer.from_pretrained(hub.download("qwen3-instruct-2507-tokenizer", models_dir=ROOT / "models"))
    shape = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    model = Qwen3ForCausalLM(Qwen3Config(vocab_size=len(tokenizer), num_key_value_heads=1, head_dim=8, **shape))
    rows = conversations()
    times: dict[str, list[float]] = {"TRL": [], "ours": []}
    for _ in range(RUNS):
        took, theirs = seconds(lambda: by_trl(rows, tokenizer, model))
        times["TRL"].append(took)
        took, ours = seconds(lambda: masking.build_dataset(rows, tokenizer))
        times["ours"].append(took)
        print({name: round(ROWS / taken[-1]) for name, taken in times.items()}, "rows/s", flush=True)
    same = sum(
        (a["input_ids"], a["labels"]) == (b["input_ids"], b["labels"]) for a, b in zip(theirs, ours, strict=True)
    )
    tokens = sum(map(len, ours["input_ids"])) / ROWS
    best = {name: ROWS / min(taken) for name, taken in times.items()}
    write_text(
        TABLE,
        f"""# Making masks: speed

{ROWS:,} conversations of one to three turns, {tokens:.0f} tokens on average, put together from the course's own rows,
tokenised and masked with the template of Qwen3-Instruct-2507, in one process on a machine with
{hardware.detect_hardware().cores} cores. Each way ran {RUNS} times, in turns; the fastest run counts. {same:,} of the
{ROWS:,} rows have the same ids and labels both ways. Made by `python tests/benchmarks/masking.py`.

| way | conversations per second | ratio |
|---|---|---|
| `SFTTrainer`'s preprocessing with `assistant_only_loss=True` (TRL) | {best["TRL"]:,.0f} | 1.0 |
| `masking.build_dataset` | {best["ours"]:,.0f} | {best["ours"] / best["TRL"]:.1f} |

TRL renders and tokenises row by row, and asks for every token which character it came from. Here a thousand rows are
tokenised in one call, on all cores, without that question: the borders are known, because the last prompt and the last
reply are tokenised apart, and a tokenizer cuts a text at its special tokens first. What a template writes around plain
contents is learned once for every order of roles; then one rendering of each row proves it. Rows with tools, thinking,
further keys or empty contents, and rows without the guard, are rendered turn by turn, twice each. The ratio falls where
there is only one core: tokenising in one call is what uses the second.
""",
    )


if __name__ == "__main__":
    main()
