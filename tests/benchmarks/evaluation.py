"""Speed of greedy replies, ours and what a newcomer writes, side by side: part of `make bench` (a quarter of an hour).

Prompts that are answered at length go through the loop a newcomer writes, through batches as transformers makes them,
and through `generation.generate`: the base, and the base with the adapter of lesson 04, which is then merged in memory
as `evaluation.evaluate` does it. All ways take the blocks of prompts in turns, in one process, so that what other
guests of a shared machine take away, they take from all. The table lands in `docs/evaluation.md`, its figures in
`docs/evaluation.json`. It needs the adapter of `python -m course_utils train` on the cpu profile, and Linux.
"""

import ctypes
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import course_utils  # noqa: F401  (first: it sets how torch's threads wait)
from course_utils import hardware, profiles
from course_utils.core.files import write_json, write_text

ROOT = Path(__file__).resolve().parents[2]
RESULTS, TABLE = ROOT / "docs" / "evaluation.json", ROOT / "docs" / "evaluation.md"
PROFILE = profiles.choose("cpu")
BASE, ADAPTER = ROOT / "models" / PROFILE.model, ROOT / PROFILE.train.output_dir / "adapter"
BATCH, BLOCKS, NEW_TOKENS = PROFILE.eval_batch_size, 2, 64
LOOKED_AT = 16  # replies whose logits are compared, beside all that differ
ALONE, PLAIN, OURS, MERGED = "one by one", f"{BATCH} at once", "generation.generate", "generation.generate, merged"
WAYS = [("base", ALONE), ("base", PLAIN), ("base", OURS), ("tuned", PLAIN), ("tuned", OURS), ("tuned", MERGED)]
NAMES = {
    ALONE: "one by one (what a newcomer writes)",
    PLAIN: f"{BATCH} at once, as transformers does it",
    OURS: f"`generation.generate`, {BATCH} at once",
    MERGED: "the same, the adapter merged in memory (`evaluate`)",
}
Replies = list[list[int]]


def some_prompts(tokenizer: Any) -> list[str]:
    """Rendered prompts of the general rows: they are answered at length, so no batch is done early."""
    from course_utils import chat, data

    rows = list(data.load_built(PROFILE, "general", ROOT / "data"))[: BATCH * BLOCKS]
    return [chat.render(tokenizer, row["messages"][:-1], add_generation_prompt=True) for row in rows]


def newcomers(model: Any, tokenizer: Any, prompts: list[str], batch_size: int) -> Replies:
    """What the documentation of transformers shows: pad on the left, generate, cut the prompt off."""
    replies = []
    for start in range(0, len(prompts), batch_size):
        batch = prompts[start : start + batch_size]
        inputs = tokenizer(batch, return_tensors="pt", add_special_tokens=False, padding=True, padding_side="left")
        how = {"do_sample": False, "max_new_tokens": NEW_TOKENS, "pad_token_id": tokenizer.pad_token_id}
        for output in model.generate(**inputs, **how)[:, inputs["input_ids"].shape[1] :].tolist():
            end = output.index(tokenizer.eos_token_id) + 1 if tokenizer.eos_token_id in output else len(output)
            replies.append(output[:end])
    return replies


def measured(work: Callable[[], Replies]) -> tuple[Replies, float, float]:
    """The replies of some work, its seconds, and the most memory that the process had meanwhile, in GiB."""
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # Linux's mark of the peak begins anew
    started = time.perf_counter()
    replies = work()
    seconds = time.perf_counter() - started
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return replies, seconds, int(status["VmHWM"].split()[0]) / 2**20


@contextmanager
def as_asked(model: Any, which: str, way: str) -> Iterator[None]:
    """The model as a way wants it: with its adapter or without, mounted or merged in memory."""
    from course_utils.evals.fast_generation import merged_in_memory

    with (
        model.disable_adapter() if which == "base" else nullcontext(),
        merged_in_memory(model) if way == MERGED else nullcontext(),
    ):
        yield


def side_by_side() -> dict[str, Any]:
    """Answer the blocks in turns; returns the figures of the page."""
    from course_utils import adapters, generation

    model, tokenizer = adapters.load_with_adapter(BASE, ADAPTER)
    prompts = some_prompts(tokenizer)
    how = {
        ALONE: lambda block: newcomers(model, tokenizer, block, 1),
        PLAIN: lambda block: newcomers(model, tokenizer, block, BATCH),
        OURS: lambda block: generation.generate(model, tokenizer, block, batch_size=BATCH, max_new_tokens=NEW_TOKENS),
    }
    how[MERGED] = how[OURS]
    how[ALONE](prompts[:1])  # the first call of a process is slower than the others
    found = {way: {"seconds": [], "gib": [], "replies": []} for way in WAYS}
    for start in range(0, len(prompts), BATCH):
        block = prompts[start : start + BATCH]
        for which, way in WAYS:
            with as_asked(model, which, way):
                replies, seconds, gib = measured(lambda way=way, block=block: how[way](block))
            line = found[which, way]
            line["seconds"].append(seconds)
            line["gib"].append(gib)
            line["replies"] += replies
            print(f"{which}, {way}: {seconds:.0f} s, {gib:.1f} GiB", file=sys.stderr, flush=True)
    pairs = {"base": (ALONE, OURS), "tuned": (OURS, MERGED)}
    machine = hardware.detect_hardware()
    return {
        "machine": machine.gpu or f"a CPU with {machine.cores} cores",
        "dtype": PROFILE.dtype,
        "prompts": len(prompts),
        "lines": [
            {
                "model": which,
                "way": way,
                "seconds": line["seconds"],
                "tokens": sum(map(len, line["replies"])),
                "tokens_per_second": sum(map(len, line["replies"])) / sum(line["seconds"]),
                "gib": max(line["gib"]),
            }
            for (which, way), line in found.items()
        ],
        "agreement": {
            which: asdict(compared(model, tokenizer, prompts, which, ways, [found[which, way] for way in ways]))
            for which, ways in pairs.items()
        },
    }


def compared(model: Any, tokenizer: Any, prompts: list[str], which: str, ways: tuple[str, str], found: list) -> Any:
    """How the replies of two ways differ; the logits are compared on those that do and on some others."""
    from course_utils import generation

    first, second = (line["replies"] for line in found)
    differ = [number for number, pair in enumerate(zip(first, second, strict=True)) if pair[0] != pair[1]]
    same = [number for number in range(len(prompts)) if number not in differ]
    few = differ + same[:LOOKED_AT]  # not all: the logits of a reply take 39 MB
    asked, one, other = ([lines[number] for number in few] for lines in (prompts, first, second))
    scores = []
    for way in ways:
        with as_asked(model, which, way):
            size = 1 if way == ALONE else LOOKED_AT
            scores.append(generation.reply_logits(model, tokenizer, asked, one, batch_size=size))
    return replace(generation.agreement(one, scores[0], other, scores[1]), prompts=len(prompts), equal=len(same))


def as_page(found: dict[str, Any]) -> str:
    """The page that people read."""
    speeds = {(line["model"], line["way"]): line["tokens_per_second"] for line in found["lines"]}
    lines = [
        "# Evaluation: speed",
        "",
        f"{found['prompts']} general prompts of the course, Chinese and English, greedy replies of {PROFILE.model} in "
        f"{found['dtype']},",
        f"at most {NEW_TOKENS} tokens each, on {found['machine']}. *Tuned* has the adapter of lesson 04. All ways take "
        f"{BLOCKS} blocks of",
        "prompts in turns, in one process. *Ratio* is to the batches of transformers. Made by `make bench`.",
        "",
        "| model | way | new tokens/s | ratio | peak memory |",
        "|---|---|---|---|---|",
    ]
    for line in found["lines"]:
        ratio = line["tokens_per_second"] / speeds[line["model"], PLAIN]
        lines.append(
            f"| {line['model']} | {NAMES[line['way']]} | {line['tokens_per_second']:.1f} | {ratio:.2f} | "
            f"{line['gib']:.1f} GiB |"
        )
    for which, what in (
        ("base", "Of the base, one by one and in our batches,"),
        ("tuned", "Of the tuned model, with the adapter mounted and merged,"),
    ):
        agreed = found["agreement"][which]
        apart = agreed["prompts"] - agreed["equal"]
        error, mean = agreed["logit_error"], agreed["mean_error"]
        lines += [
            "",
            f"{what} {agreed['equal']} of {agreed['prompts']} replies are the same,",
            f"id by id; of the other {apart}, {agreed['near_ties']} part at a near-tie: the two best logits are nearer",
            "there than the two ways' logits lie apart somewhere in that reply. The widest such gap is",
            f"{agreed['widest_gap']:.2f}; a logit differs by {error:.2f} at most, and by {mean:.2f} in the mean.",
        ]
    return "\n".join([*lines, "", MEANS])


MEANS = """Three findings make the difference (`course_utils/evals/fast_generation.py`). Where a prompt is read,
transformers gives the head a slice of the hidden states that is not in one piece, and torch then copies the head's
weight once for each row of the batch; made contiguous, the slice costs nothing. For each new token every key and value
is copied for all the query heads that share it, seven in this model; asked together, they need no copy. And a mounted
adapter takes two thin products for each layer and token, which are spared where it is merged into the weights.
"""


def main() -> None:
    found = side_by_side()
    write_json(RESULTS, found)
    write_text(TABLE, as_page(found))
    print(as_page(found))


if __name__ == "__main__":
    main()
