"""Preferences and rewards, all ways side by side: `python tests/benchmarks/preferences.py` (over two hours).

The same base, seed and prompts for each: strict JSON and nothing else is what is wanted. Each way trains in a process
of its own, and all are judged by the same held-out prompts and by general ones, which show what was forgotten. The
figures and curves land in `docs/preferences.json`, which lesson 09 reads, and the page in `docs/preferences.md`.
`python tests/benchmarks/preferences.py NAME …` runs some of the ways again and keeps the rest; "a step" takes the time
of a step of each stage.
"""

import json
import statistics
import sys
from dataclasses import asdict, replace
from typing import Any

import training

from course_utils import settings
from course_utils.core.files import write_json, write_text

RESULTS, PAGE = training.ROOT / "docs" / "preferences.json", training.ROOT / "docs" / "preferences.md"
GENERAL = 42  # prompts of the general rows, every second one
NEW_TOKENS = 96
SHOWN = 4  # prompts whose replies are kept
FORM, ALL = ("extra_text", "fenced"), ("extra_text", "fenced", "wrong_type", "missing_field")
KEPT = ("loss", "reward", "reward_std", "completions/mean_length", "accuracy", "eval_accuracy", "eval_loss")
KEPT += ("logps/chosen", "logps/rejected")  # and the rewards, each by its name
WATCHED = {"eval_steps": 8, "logging_steps": 1, "tracker": "none"}
WAYS: dict[str, tuple[str, dict[str, Any]]] = {
    "base": ("", {}),
    "SFT": ("sft", {"max_steps": 16}),
    "DPO": ("dpo", {"max_steps": 16}),
    "DPO, 48 steps": ("dpo", {"max_steps": 48}),
    "DPO, 48 steps, beta 0.5": ("dpo", {"max_steps": 48, "beta": 0.5}),
    "DPO, 48 steps, SFT term": ("dpo", {"max_steps": 48, "sft_weight": 1.0}),
    "ORPO": ("orpo", {"max_steps": 32, "learning_rate": 1e-4}),
    "KTO": ("kto", {"max_steps": 32, "learning_rate": 1e-4}),
    "GRPO": ("grpo", {"max_steps": 20}),
    "GRPO, short": ("grpo", {"max_steps": 40}),
    "GRPO, short if right": ("grpo", {"max_steps": 20}),
    "reward model": ("reward", {"max_steps": 16}),
    "DPO, length and scope": ("dpo", {"max_steps": 40}),
    "DPO, against its own replies": ("dpo", {"max_steps": 40}),
}
STEP = "a step"  # the seconds of each stage's, taken one after the other
TIMED = ("SFT", "DPO", "ORPO", "KTO", "GRPO", "reward model")  # one way of each stage
# The ways that learn from data/raw/preferences.jsonl, and are judged by every fifth of it; the second one with what the
# base itself replies in place of the rejected replies.
OWN, ITS_OWN = "DPO, length and scope", "DPO, against its own replies"


def rewards_of(way: str) -> list[Any]:
    """What a way with GRPO is rewarded for."""
    from notebooks import rewards

    extra = {"GRPO": rewards.right, "GRPO, short": rewards.short, "GRPO, short if right": rewards.short_if_right}
    return [rewards.valid, extra[way]] if way in extra else []


def own_pairs() -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The pairs on length and scope: those to learn from, and those held out."""
    from course_utils import data
    from course_utils.data.rows import plain_rows

    rows = list(plain_rows(data.load("preferences", training.ROOT / "data")))
    return [row for place, row in enumerate(rows) if place % 5], rows[::5]


def rows_of(stage: str, part: str) -> list[dict[str, Any]]:
    """The rows that a stage learns from: the course's own for strict JSON, or pairs of them and a broken reply."""
    from course_utils import data
    from course_utils.data.rows import plain_rows
    from notebooks.negatives import negatives

    strict = data.load_built(training.PROFILE, part, training.ROOT / "data").filter(lambda row: row["source"] == "json")
    if stage in ("", "sft", "grpo"):
        return list(plain_rows(strict))
    pairs = list(plain_rows(negatives(strict, form="preference", faults=ALL if stage == "reward" else FORM)))
    if stage != "kto":
        return pairs
    verdicts = [(pair, name) for pair in pairs for name in ("chosen", "rejected")]
    return [{"messages": pair["messages"] + pair[name], "label": name == "chosen"} for pair, name in verdicts]


def one_run(way: str, folder: str, only_time: str = "") -> dict[str, Any]:
    """Train one way and judge it, or take the time of a step: the mean of three, after a first one."""
    from course_utils import masking, modeling

    stage, changes = WAYS[way]
    modeling.import_unsloth()
    from course_utils.train import preferences
    from course_utils.train.training import train

    profile = training.PROFILE
    told = profile.train
    if stage:
        told = replace(settings.for_stage(profile.train, stage), **WATCHED | {"output_dir": folder} | changes)
        told = replace(told, max_steps=4, eval_steps=8) if only_time else told
    profile = replace(profile, train=told)
    load = modeling.load_reward_model if stage == "reward" else modeling.load_model
    model, tokenizer = load(training.MODEL, profile)
    found: dict[str, Any] = {"stage": stage, "settings": changes}
    if stage:
        model = model if stage == "reward" else modeling.attach_lora(model, profile)
        parts = own_pairs() if way in (OWN, ITS_OWN) else (rows_of(stage, "train"), rows_of(stage, "valid"))
        if way == ITS_OWN:
            parts = tuple(against_its_own(part, model, tokenizer) for part in parts)
        if stage == "sft":
            run = train(model, tokenizer, *(masking.build_dataset(part, tokenizer) for part in parts), told)
        else:
            run = preferences.train(model, tokenizer, *parts, told, rewards=rewards_of(way))
        found |= {
            "rows": len(parts[0]),
            "settings": {name: getattr(told, name) for name in ("learning_rate", *changes)},
        }
        found |= {"seconds": run.metrics["seconds"], "gib": run.metrics["peak_memory_gib"]}
        if only_time:
            [first, *_, last] = [entry["seconds"] for entry in run.log if "loss" in entry]
            return {"step_seconds": (last - first) / 3}
        found["log"] = [{"step": entry["step"]} | kept(entry) for entry in run.log]
    if stage == "reward":
        return found | judged_pairs(model, tokenizer)
    own = {"own": answered(model, tokenizer, own_pairs()[1])} if way in ("base", OWN, ITS_OWN) else {}
    return found | judged(model, tokenizer) | own


def kept(entry: dict[str, float]) -> dict[str, float]:
    """What the lesson draws of a line of the log."""
    return {name: round(entry[name], 4) for name in entry if name in KEPT or name.startswith("rewards/")}


def judged(model: Any, tokenizer: Any) -> dict[str, Any]:
    """Strict replies, right contents and forgetting: each prompt's own, so that two ways can be compared in pairs."""
    from course_utils import data, evaluation, modeling
    from course_utils.data.rows import plain_rows
    from notebooks.rewards import is_right

    held = rows_of("", "test")
    general = list(plain_rows(data.load_built(training.PROFILE, "general", training.ROOT / "data")))[::2][:GENERAL]
    how = {"batch_size": training.PROFILE.eval_batch_size, "max_new_tokens": NEW_TOKENS}
    report = evaluation.evaluate(modeling.for_inference(model), tokenizer, held + general, **how)
    replies, others = report.rows[: len(held)], report.rows[len(held) :]
    return {
        "strict": [row["json_strict"] for row in replies],
        "right": [is_right(row["reply"], row["reference"]) for row in replies],
        "tokens": sum(row["tokens"] for row in replies) / len(replies),
        "general_perplexity": asdict(evaluation.FIGURES["perplexity"].interval(others)),
        "general_tokens": sum(row["tokens"] for row in others) / len(others),
        "shown": [{name: row[name] for name in ("prompt", "reference", "reply")} for row in replies[:SHOWN]],
    }


def against_its_own(rows: list[dict[str, Any]], model: Any, tokenizer: Any) -> list[dict[str, Any]]:
    """Pairs whose rejected replies are those that the model itself gives."""
    replies = [each["reply"] for each in answered(model, tokenizer, rows)]
    rejected = ([{"role": "assistant", "content": reply}] for reply in replies)
    return [row | {"rejected": reply} for row, reply in zip(rows, rejected, strict=True)]


def answered(model: Any, tokenizer: Any, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Replies to the prompts of pairs on length and scope."""
    from course_utils import chat, generation, modeling, thinking

    prompts = [chat.render(tokenizer, row["messages"], add_generation_prompt=True) for row in rows]
    how = {"batch_size": training.PROFILE.eval_batch_size, "max_new_tokens": 2 * NEW_TOKENS}
    replies = generation.generate(modeling.for_inference(model), tokenizer, prompts, **how)
    texts = [thinking.parse_output(ids, tokenizer).answer or "" for ids in replies]
    return [
        {"id": row["id"], "task": row["tags"][-1], "tokens": len(ids), "reply": text}
        for row, ids, text in zip(rows, replies, texts, strict=True)
    ]


def judged_pairs(model: Any, tokenizer: Any) -> dict[str, Any]:
    """Of a reward model: in which held-out pairs, by fault, the right reply gets the higher score."""
    import torch

    from course_utils.train import preferences

    told = replace(training.PROFILE.train, stage="reward")
    pairs = rows_of("reward", "test")
    found: dict[str, list[bool]] = {}
    model.eval()
    for pair, text in zip(pairs, preferences.as_text(pairs, tokenizer, told), strict=True):
        scores = []
        for name in ("chosen", "rejected"):
            ids = tokenizer(text["prompt"] + text[name], return_tensors="pt")
            with torch.inference_mode(), torch.autocast(model.device.type, torch.bfloat16):
                scores.append(float(model(**ids).logits[0, 0]))
        [fault] = [tag for tag in pair["tags"] if tag in ALL]
        found.setdefault(fault, []).append(scores[0] > scores[1])
    return {"pairs": {fault: [sum(right), len(right)] for fault, right in sorted(found.items())}}


def as_page(found: dict[str, dict[str, Any]]) -> str:
    """The page: one table for all ways, and what the reward model and the own pairs gave."""
    held = len(found["base"]["strict"])
    lines = [
        "# Preferences and rewards: all ways on one task",
        "",
        "`python tests/benchmarks/preferences.py` makes this page (two cores, profile `cpu`, one seed). Each way",
        f"starts from the same base and is judged by the same {held} held-out prompts, which ask for JSON. *Strict*:",
        "nothing but the JSON object. *Right*: it holds what was due, whatever stands around it; the verdict compares",
        f"with the base, prompt by prompt. *General*: perplexity of {GENERAL} replies that no way trains on; higher:",
        "more was forgotten. In brackets the 95 % interval. *A step*: its time against one of SFT.",
        "",
        "| way | steps | learning rate | a step | memory | strict | right | tokens a reply | general |",
        "|---|---|---|---|---|---|---|---|---|",
        *(_line(way, run, found) for way, run in found.items() if "strict" in run),
    ]
    if ITS_OWN in found:
        base, own, its_own = (
            statistics.mean(line["tokens"] for line in found[way]["own"] if line["task"] == "short")
            for way in ("base", OWN, ITS_OWN)
        )
        lines += [
            "",
            f"*{OWN}* learns from 80 pairs of `data/raw/preferences.jsonl`; *{ITS_OWN}* from the same",
            "prompts and chosen replies, with the base's own replies as the rejected ones. Asked the held-out",
            f"questions without a system turn, the base writes {base:.0f} tokens in the mean, the one {own:.0f},",
            f"and the other {its_own:.0f}.",
        ]
    if judge := found.get("reward model"):
        lines += [
            "",
            f"The reward model after {judge['settings']['max_steps']} steps: how often the right one of two held-out",
            "replies has the higher score.",
            "",
            "| what is wrong with the other one | right of pairs |",
            "|---|---|",
            *(f"| {fault.replace('_', ' ')} | {hit} of {pairs} |" for fault, (hit, pairs) in judge["pairs"].items()),
        ]
    return "\n".join(lines) + "\n"


def _line(way: str, run: dict[str, Any], found: dict[str, dict[str, Any]]) -> str:
    """One way in the table."""
    from course_utils.evals.statistics import verdict

    took, told, prompts, general = " | | | |", "", len(run["strict"]), run["general_perplexity"]
    if run["stage"]:
        how, [timed] = run["settings"], [each for each in TIMED if WAYS[each][0] == run["stage"]]
        step = f"{found[STEP][timed] / found[STEP]['SFT']:.1f} x"
        took = f" {how['max_steps']} | {how['learning_rate']:g} | {step} | {run['gib']:.1f} GiB |"
        parts = [[(int(value), 1) for value in line["right"]] for line in (found["base"], run)]
        told = f", {verdict(*parts, higher_is_better=True)}"
    return (
        f"| {way} |{took} {sum(run['strict'])} of {prompts} | {sum(run['right'])} of {prompts}{told} | "
        f"{run['tokens']:.0f} | {general['value']:.2f} ({general['low']:.2f} to {general['high']:.2f}) |"
    )


def main() -> None:
    if sys.argv[1:2] == ["--one"]:  # a process of its own for each way, and its last line of output are the figures
        print(json.dumps(one_run(*sys.argv[2:])))
        return
    found = json.loads(RESULTS.read_text(encoding="utf-8")) if sys.argv[1:] else {}
    for way in sys.argv[1:] or [*WAYS, STEP]:
        if way == STEP:
            found[STEP] = {each: training.measured(__file__, each, "time")["step_seconds"] for each in TIMED}
            print(found[STEP])
        else:
            found[way] = training.measured(__file__, way)
            kept_back = ("log", "shown", "strict", "right")
            brief = {name: value for name, value in found[way].items() if name not in kept_back}
            print(way, sum(found[way].get("strict", ())), sum(found[way].get("right", ())), brief, flush=True)
        found = {name: found[name] for name in (*WAYS, STEP) if name in found}
        write_json(RESULTS, found)
    write_text(PAGE, as_page(found))


if __name__ == "__main__":
    main()
