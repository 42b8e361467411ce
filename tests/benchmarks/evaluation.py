"""Speed of greedy replies, in batches and one by one, side by side: part of `make bench` (some minutes on two cores).

200 prompts are answered by `generation.generate` in batches and by the loop a newcomer writes: same model, machine and
process. The prompts are cut into blocks, and the two take the blocks in turns, so that what other guests of a
shared machine take away, they take from both. The table lands in `docs/evaluation.md`, its figures in
`docs/evaluation.json`.
"""

import random
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import course_utils  # noqa: F401  (first: it sets how torch's threads wait)
from course_utils import hardware, profiles
from course_utils.core.files import write_json, write_text

ROOT = Path(__file__).resolve().parents[2]
RESULTS, TABLE = ROOT / "docs" / "evaluation.json", ROOT / "docs" / "evaluation.md"
MODEL, PROFILE = ROOT / "models" / "smollm2-135m-instruct", profiles.PROFILES["tiny"]
PROMPTS, BLOCKS = 200, 4


def some_prompts(tokenizer: Any) -> list[str]:
    """Rendered prompts of the course's rows, in random order: all held-out ones, and training rows up to the number."""
    from course_utils import chat, data

    rows = [row for part in ("valid", "general", "train") for row in data.load_built(PROFILE, part, ROOT / "data")]
    rows = rows[:PROMPTS]
    random.Random(42).shuffle(rows)
    return [chat.render(tokenizer, row["messages"][:-1], add_generation_prompt=True) for row in rows]


def one_by_one(model: Any, tokenizer: Any, prompts: list[str]) -> list[list[int]]:
    """What a newcomer writes: one prompt, one call."""
    replies = []
    for prompt in prompts:
        inputs = tokenizer(prompt, return_tensors="pt", add_special_tokens=False)
        output = model.generate(
            **inputs, do_sample=False, max_new_tokens=PROFILE.max_new_tokens, pad_token_id=tokenizer.pad_token_id
        )
        replies.append(output[0, inputs["input_ids"].shape[1] :].tolist())
    return replies


def side_by_side() -> dict[str, Any]:
    """Answer the blocks in turns; returns the figures of the page."""
    from course_utils import adapters, generation

    model, tokenizer = adapters.load_base(MODEL)
    prompts = some_prompts(tokenizer)
    size = len(prompts) // BLOCKS
    how = {"batch_size": PROFILE.eval_batch_size, "max_new_tokens": PROFILE.max_new_tokens}
    one_by_one(model, tokenizer, prompts[:1])  # the first call of a process is slower than the others
    blocks, alone, batched = [], [], []
    for start in range(0, len(prompts), size):
        block, seconds = prompts[start : start + size], {}
        started = time.perf_counter()
        batched += generation.generate(model, tokenizer, block, **how)
        seconds["batched"] = time.perf_counter() - started
        started = time.perf_counter()
        alone += one_by_one(model, tokenizer, block)
        seconds["one by one"] = time.perf_counter() - started
        blocks.append(seconds)
        print(f"block {len(blocks)} of {BLOCKS}: {seconds}", file=sys.stderr, flush=True)
    found = compared(model, tokenizer, prompts, alone, batched)
    machine = hardware.detect_hardware()
    total = {way: sum(block[way] for block in blocks) for way in ("one by one", "batched")}
    return {
        "machine": machine.gpu or f"a CPU with {machine.cores} cores",
        "prompts": len(prompts),
        "tokens": sum(map(len, alone)),
        **how,
        "seconds": total,
        "seconds_of_blocks": blocks,
        "ratio": total["one by one"] / total["batched"],
        "near_ties": found.near_ties,
        "different": found.prompts - found.equal - found.near_ties,
        "equal": found.equal,
        "logit_error": found.logit_error,
    }


def compared(model: Any, tokenizer: Any, prompts: list[str], alone: list, batched: list) -> Any:
    """How the replies differ; the logits are compared on those that do and on 32 others."""
    from course_utils import generation

    differ = [number for number, pair in enumerate(zip(alone, batched, strict=True)) if pair[0] != pair[1]]
    same = [number for number in range(len(prompts)) if number not in differ]
    # Not all: the logits of 200 replies take gigabytes.
    few = differ + same[:32]
    asked, first, second = ([lines[number] for number in few] for lines in (prompts, alone, batched))
    scores = generation.reply_logits(model, tokenizer, asked, first)
    shifted = generation.reply_logits(model, tokenizer, asked, first, batch_size=PROFILE.eval_batch_size)
    found = generation.agreement(first, scores, second, shifted)
    return replace(found, prompts=len(prompts), equal=len(same))


def as_page(found: dict[str, Any]) -> str:
    """The page that people read."""
    ratios = [block["one by one"] / block["batched"] for block in found["seconds_of_blocks"]]
    lines = [
        "# Evaluation: speed",
        "",
        f"{found['prompts']} prompts of the course, greedy replies of SmolLM2-135M-Instruct in bfloat16, at most "
        f"{found['max_new_tokens']} tokens each ({found['tokens'] / found['prompts']:.0f} on average),",
        f"on {found['machine']}. Both ways take {len(ratios)} blocks of prompts in turns, in one process. Made by "
        "`make bench`.",
        "",
        "| way | seconds | prompts/s | ratio |",
        "|---|---|---|---|",
    ]
    for way, name in (
        ("one by one", "one by one (what a newcomer writes)"),
        ("batched", f"`generation.generate`, {found['batch_size']} at once"),
    ):
        seconds = found["seconds"][way]
        speed, ratio = found["prompts"] / seconds, found["seconds"]["one by one"] / seconds
        lines.append(f"| {name} | {seconds:.0f} | {speed:.1f} | {ratio:.1f} |")
    lines += [
        "",
        f"Block by block the batches are {min(ratios):.1f} to {max(ratios):.1f} times as fast. {found['equal']} of the",
        f"{found['prompts']} replies are the same, id by id; {found['near_ties']} part at a near-tie, where the two",
        f"best logits are nearer than the error of a logit between the two ways ({found['logit_error']:.2f});",
        f"{found['different']} part elsewhere.",
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    found = side_by_side()
    write_json(RESULTS, found)
    write_text(TABLE, as_page(found))
    print(as_page(found))


if __name__ == "__main__":
    main()
