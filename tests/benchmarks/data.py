"""The data pipeline on 100,000 rows, normalise to export, in time and memory: `python tests/benchmarks/data.py`.

Four files of made-up rows (ShareGPT, Alpaca, OpenAI with tools, and one that must be normalised; English and Chinese,
2 % repeats, 1 % near-duplicates) go the way of `data.build`, with MinHash and without, and, beside them,
through per-row Python as the course owner's notes describe it: `map`, a set of MD5 hashes, a random split,
`interleave_datasets`. Each way runs in a process of its own. The tables land in `docs/data.md`.
"""

import copy
import hashlib
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import chain
from pathlib import Path
from typing import Any

import datasets
import psutil

from course_utils import data, hardware
from course_utils.core.files import write_text
from course_utils.data import export_jsonl
from course_utils.data.loading import load_rows
from course_utils.data.mixing import draw, normalise_weights
from course_utils.data.sources import normalise_rows

ROOT = Path(__file__).resolve().parents[2]
TABLE = ROOT / "docs" / "data.md"
ROWS = {"sharegpt": 40_000, "alpaca": 25_000, "tools": 20_000, "emoji": 15_000}
WEIGHTS = {"sharegpt": 4.0, "alpaca": 3.0, "tools": 2.0, "emoji": 1.0}
REPEATS, NEAR = 0.02, 0.01  # shares of the rows
REGISTRY = {
    "sharegpt": {"file_name": "sharegpt.jsonl", "formatting": "sharegpt"},
    "alpaca": {"file_name": "alpaca.jsonl"},
    "tools": {
        "file_name": "tools.jsonl",
        "formatting": "openai",
        "columns": {"messages": "messages", "tools": "tools"},
        "tags": {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"}
        | {"observation_tag": "tool"},
    },
}
FOUR = {"file_name": "four", "formatting": "sharegpt"}  # a folder that holds the ShareGPT file four times
SCHEMA = json.dumps([{"name": "look_up", "description": "Look a word up.", "parameters": {"word": "string"}}])


# ------------------------------------------------------------------------------------------------------------- the rows
def make_files(folder: Path, seed: int = 42) -> None:
    """The four files and their registry."""
    draw = random.Random(seed)
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = ["".join(draw.choices(letters, k=draw.randint(2, 9))) for _ in range(5000)]
    characters = [chr(code) for code in range(0x4E00, 0x4E00 + 3000)]

    def text(size: int) -> str:
        """About `size` tokens."""
        if draw.random() < 0.5:
            return " ".join(draw.choices(words, k=size))
        return "".join(draw.choices(characters, k=size))

    def row(kind: str) -> dict[str, Any]:
        asked, reply = text(draw.randint(10, 60)), text(draw.randint(20, 150))
        if kind == "alpaca":
            return {"instruction": asked, "input": "", "output": reply}
        if kind == "emoji":
            return {"question": asked, "answer_zh": "", "answer_en": reply}
        if kind == "sharegpt":
            first = [{"from": "human", "value": asked}, {"from": "gpt", "value": reply}]
            second = [{"from": "human", "value": text(20)}, {"from": "gpt", "value": text(60)}]
            return {"conversations": first + second * (draw.random() < 0.3)}
        call = {"type": "function", "function": {"name": "look_up", "arguments": json.dumps({"word": asked[:20]})}}
        turns = [{"role": "user", "content": asked}, {"role": "assistant", "content": None, "tool_calls": [call]}]
        turns += [{"role": "tool", "content": text(15)}, {"role": "assistant", "content": reply}]
        return {"messages": turns, "tools": SCHEMA}

    def edited(row: dict[str, Any]) -> dict[str, Any]:
        """The row with three words more in its last reply."""
        row = copy.deepcopy(row)
        reply = (row.get("conversations") or row.get("messages") or [row])[-1]
        key = next(key for key in ("value", "content", "output", "answer_en") if key in reply)
        reply[key] += f" {text(3)}"
        return row

    for kind, count in ROWS.items():
        made: list[dict[str, Any]] = []
        for _ in range(count):
            chance = draw.random()
            if not made or chance >= REPEATS + NEAR:
                made.append(row(kind))
            else:
                made.append(draw.choice(made) if chance < REPEATS else edited(draw.choice(made)))
        lines = "".join(json.dumps(found, ensure_ascii=False) + "\n" for found in made)
        write_text(folder / f"{kind}.jsonl", lines)
    write_text(folder / "dataset_info.json", json.dumps(REGISTRY | {"four": FOUR}))
    (folder / "four").mkdir()
    for number in range(4):
        (folder / "four" / f"{number}.jsonl").symlink_to(folder / "sharegpt.jsonl")


# ------------------------------------------------------------------------------------------------------------- the ways
class Clock:
    """Seconds of each step."""

    def __init__(self) -> None:
        self.steps: dict[str, float] = {}

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.steps[name] = self.steps.get(name, 0.0) + time.perf_counter() - started


def ours(folder: Path, clock: Clock, minhash: bool = False) -> int:
    """The way of `data.build`: plain dicts from the files to the mixture, then Arrow; returns how many it wrote."""
    with clock.step("normalise"):
        pools = [load_rows(name, folder) for name in REGISTRY]
        pools.append(normalise_rows("emoji", data.read_raw(folder / "emoji.jsonl")))
    with clock.step("clean"):
        rows = list(chain.from_iterable(data.clean(pools.pop(0))[0] for _ in range(len(pools))))
    with clock.step("remove repeats"):
        rows, _ = data.deduplicate(rows)
    if minhash:
        with clock.step("remove near-duplicates"):
            rows, _ = data.deduplicate(rows, by="minhash")
    with clock.step("split"):
        train, valid = data.split(rows, valid_ratio=0.02, min_valid=100, seed=42)
    with clock.step("mix"):
        of = {name: [row for row in train if row["source"] == name] for name in WEIGHTS}
        sizes = {name: len(pool) for name, pool in of.items()}
        order, _ = draw(sizes, normalise_weights(of, WEIGHTS), strategy="interleave", seed=42)
        together = list(chain.from_iterable(of.values()))
        mixture = [together[number] for number in order]
    with clock.step("export"):
        for name, part in (("train", mixture), ("valid", valid)):
            data.to_dataset(part).save_to_disk(folder / "ours" / name)
            export_jsonl(part, folder / "ours" / f"{name}.jsonl")
    return len(mixture) + len(valid)


def by_row(folder: Path, clock: Clock) -> int:
    """Per-row Python: `map` with one function a source, MD5 of the text of the messages, a random split."""

    def clean(text: str) -> str:
        return "".join(character for character in text if character >= " " or character in "\n\t").strip()

    def pair(asked: str, reply: str, source: str) -> dict[str, Any]:
        messages = [{"role": "user", "content": clean(asked)}, {"role": "assistant", "content": clean(reply)}]
        return {"turns": messages, "source": source, "tags": [source]}

    def turns(row: dict[str, Any]) -> dict[str, Any]:
        role = {"human": "user", "gpt": "assistant"}
        messages = [{"role": role[turn["from"]], "content": clean(turn["value"])} for turn in row["conversations"]]
        return {"turns": messages, "source": "sharegpt", "tags": ["sharegpt"]}

    def with_tools(row: dict[str, Any]) -> dict[str, Any]:
        messages = []
        for turn in row["messages"]:  # a call is kept as text, as LLaMA-Factory's converter does
            calls = [call["function"] for call in turn.get("tool_calls") or []]
            text = json.dumps(calls, ensure_ascii=False) if calls else clean(turn["content"])
            messages.append({"role": turn["role"], "content": text})
        return {"turns": messages, "source": "tools", "tags": ["tools"], "tools": row["tools"]}

    readers: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
        "sharegpt": turns,
        "alpaca": lambda row: pair(row["instruction"] + row["input"], row["output"], "alpaca"),
        "tools": with_tools,
        "emoji": lambda row: pair(row["question"], row["answer_zh"] or row["answer_en"], "emoji"),
    }

    def without_repeats(rows: datasets.Dataset) -> datasets.Dataset:
        seen: set[str] = set()

        def is_new(row: dict[str, Any]) -> bool:
            digest = hashlib.md5(json.dumps(row["turns"], ensure_ascii=False, sort_keys=True).encode()).hexdigest()
            new = digest not in seen
            seen.add(digest)
            return new

        return rows.filter(is_new, load_from_cache_file=False)

    pools = {}
    for name, reader in readers.items():
        with clock.step("normalise"):
            file = str(folder / f"{name}.jsonl")
            raw = datasets.load_dataset("json", data_files=file, split="train", cache_dir=str(folder / "cache"))
            pools[name] = raw.map(reader, remove_columns=raw.column_names, load_from_cache_file=False)
        with clock.step("remove repeats"):
            pools[name] = without_repeats(pools[name])
    with clock.step("mix"):
        whole = sum(WEIGHTS.values())
        mixture = datasets.interleave_datasets(
            [pools[name] for name in WEIGHTS],
            probabilities=[weight / whole for weight in WEIGHTS.values()],
            seed=42,
            stopping_strategy="all_exhausted_without_replacement",
        )
    with clock.step("remove repeats"):
        mixture = without_repeats(mixture)
    with clock.step("split"):
        parts = mixture.train_test_split(test_size=0.02, seed=42)
    with clock.step("export"):
        for name, part in parts.items():
            part.save_to_disk(folder / "by_row" / name)
            part.to_json(folder / "by_row" / f"{name}.jsonl", force_ascii=False)
    return len(mixture)


def whole(name: str) -> Callable[[Path, Clock], int]:
    """A data set cleaned and written, all rows in memory."""

    def run(folder: Path, clock: Clock) -> int:
        with clock.step("load, clean, write"):
            cleaned, _ = data.clean(data.load(name, folder))
            return export_jsonl(cleaned, folder / "whole.jsonl")

    return run


def streamed(name: str) -> Callable[[Path, Clock], int]:
    """The same row by row."""

    def run(folder: Path, clock: Clock) -> int:
        with clock.step("load, clean, write"):
            return export_jsonl(data.stream(name, folder).map(data.clean_row), folder / "stream.jsonl")

    return run


def mapped(processes: int) -> Callable[[Path, Clock], int]:
    """`clean_row` as a map, in so many processes."""

    def run(folder: Path, clock: Clock) -> int:
        rows = data.load("sharegpt", folder)
        with clock.step("map"):
            return len(rows.map(data.clean_row, num_proc=processes, load_from_cache_file=False))

    return run


WAYS: dict[str, Callable[[Path, Clock], int]] = {
    "ours": ours,
    "ours, MinHash": lambda folder, clock: ours(folder, clock, minhash=True),
    "by row": by_row,
    "whole": whole("sharegpt"),
    "streamed": streamed("sharegpt"),
    "whole, 4 files": whole("four"),
    "streamed, 4 files": streamed("four"),
    "map, 1 process": mapped(1),
    "map, 2 processes": mapped(2),
}


def measured(way: str, folder: Path) -> dict[str, Any]:
    """Run one way in a process of its own: seconds of each step, rows, and the most memory of it and its children."""
    most = 0
    with subprocess.Popen([sys.executable, __file__, way, str(folder)], stdout=subprocess.PIPE, text=True) as run:
        asked = psutil.Process(run.pid)
        while run.poll() is None:
            with suppress(psutil.NoSuchProcess):  # it or a child may end meanwhile
                family = [asked, *asked.children(recursive=True)]
                most = max(most, sum(process.memory_info().rss for process in family))
            time.sleep(0.02)
        found = json.loads(run.stdout.read().splitlines()[-1]) | {"gib": most / 2**30}
    print(way, found, flush=True)
    return found


def run_one(way: str, folder: Path) -> None:
    datasets.disable_progress_bars()
    clock = Clock()
    print(json.dumps({"rows": WAYS[way](folder, clock), "seconds": clock.steps}))


def main() -> None:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        make_files(folder)
        size = sum(file.stat().st_size for file in folder.glob("*.jsonl")) / 2**20
        found = {way: measured(way, folder) for way in WAYS}
    write_text(TABLE, page(found, size))


def page(found: dict[str, dict[str, Any]], size: float) -> str:
    """The tables as Markdown."""
    names = ("ours", "ours, MinHash", "by row")
    taken = {name: found[name]["seconds"] for name in names}
    total = {name: sum(result["seconds"].values()) for name, result in found.items()}
    figures = {
        step: [f"{taken[name][step]:.1f}" if step in taken[name] else "–" for name in names]
        for step in dict.fromkeys(step for name in names for step in taken[name])
    }
    figures["**seconds in all**"] = [f"**{total[name]:.1f}**" for name in names]
    figures["most memory, GiB"] = [f"{found[name]['gib']:.2f}" for name in names]
    figures["rows written"] = [f"{found[name]['rows']:,}" for name in names]
    lines = [f"| {what} | {' | '.join(columns)} |" for what, columns in figures.items()]

    def both(way: str) -> str:
        return " | ".join(f"{total[name]:.1f} s, {found[name]['gib']:.2f} GiB" for name in (way, f"{way}, 4 files"))

    one, two = total["map, 1 process"], total["map, 2 processes"]
    return f"""# Building data: time and memory

{sum(ROWS.values()):,} made-up rows in four files ({size:.0f} MiB; ShareGPT, Alpaca, OpenAI with tools, and one to be
normalised; English and Chinese; 2 % repeats, 1 % near-duplicates), from the files to Arrow and JSONL, each way in a
process of its own on a machine with {hardware.detect_hardware().cores} cores. Made by
`python tests/benchmarks/data.py`; times of a shared machine vary by half, so compare columns and not runs.

| step | the package | with MinHash | per-row Python |
|---|---|---|---|
{chr(10).join(lines)}

"Per-row Python" is what most notes do: `map` with a function of one row, a set of MD5 hashes of the messages, once
before mixing and once after, `interleave_datasets`, a random split, `to_json`. It does less: control characters are
its only cleaning, its split may leak, its mixture ends up with the sizes of the pools, and it reports nothing. The
package's rows stay plain dicts from the files to the mixture and become Arrow once, at the end, which saves time and
holds them all in memory; each row is validated.

## Memory that does not grow
`data.stream` gives rows one by one; `data.clean_row` is the same work for one row. ShareGPT rows, loaded, cleaned and
written as JSONL:

| way | {found["whole"]["rows"]:,} rows | {found["whole, 4 files"]["rows"]:,} rows |
|---|---|---|
| `data.load`, `data.clean` | {both("whole")} |
| `data.stream(…).map(data.clean_row)` | {both("streamed")} |

Two processes, `Dataset.map(data.clean_row, num_proc=2)`, took
{two:.1f} s where one took {one:.1f} s ({one / two:.1f} times as fast, starting them included).
"""


if __name__ == "__main__":
    if len(sys.argv) > 1:
        run_one(sys.argv[1], Path(sys.argv[2]))
    else:
        main()
