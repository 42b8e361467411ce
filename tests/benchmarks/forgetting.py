"""What a narrow training costs, and what helps: `python tests/benchmarks/forgetting.py` (over an hour on two cores).

Each way starts from the same base, takes the same steps of the same size, and learns English chats with an emoji in the
reply. All are judged by the same held-out rows: those of the task, and four sets that nobody trains on. The figures
land in `docs/forgetting.json`, which lesson 08 reads, and the page in `docs/forgetting.md`.
`python tests/benchmarks/forgetting.py NAME …` runs some of the ways again and keeps the rest.
"""

import json
import statistics
import sys
from dataclasses import asdict, replace
from typing import Any

import training

from course_utils.core.files import write_json, write_text

RESULTS, PAGE = training.ROOT / "docs" / "forgetting.json", training.ROOT / "docs" / "forgetting.md"
STEPS, RATE, SECOND_STAGE = 100, 4e-4, 16
NEW_TOKENS = 64
SCALES = (0.75, 0.5)
SEEDS = (42, 43, 44)  # of the two ways that matter most
WAYS: dict[str, dict[str, Any]] = {
    "base": {},
    "plain": {"seeds": SEEDS},
    "10 % general rows": {"share": 0.1},
    "20 % general rows": {"share": 0.2, "seeds": SEEDS},
    "a quarter of the rate": {"learning_rate": RATE / 4},
    "a third of the steps": {"max_steps": STEPS // 3},
    "rank 4": {"r": 4, "alpha": 8},
    "KL term": {"kl": True},
    "two stages": {"max_steps": STEPS - SECOND_STAGE, "then": SECOND_STAGE},
}


def one_run(way: str, folder: str, seed: str) -> dict[str, Any]:
    """Train one way and judge it; of the plain one also weaker, with its adapter scaled."""
    from course_utils import masking, modeling

    modeling.import_unsloth()
    from peft.helpers import rescale_adapter_scale

    from course_utils.train.training import train
    from notebooks import forgetting, kl

    how = {name: value for name, value in WAYS[way].items() if name not in ("seeds", "share", "kl", "then")}
    told = {"learning_rate": RATE, "max_steps": STEPS, "eval_steps": STEPS, "tracker": "none", "seed": int(seed)} | how
    profile = replace(training.PROFILE, train=replace(training.PROFILE.train, output_dir=folder, **told))
    model, tokenizer = modeling.load_model(training.MODEL, profile)
    if way == "base":
        return judged(model, tokenizer)
    model = modeling.attach_lora(model, profile)
    share = WAYS[way].get("share", 0)
    rows = forgetting.mixed(profile, share, int(seed)) if share else forgetting.narrow(profile)
    examples, valid, general = (
        masking.build_dataset(part, tokenizer)
        for part in (rows, forgetting.narrow(profile, "valid"), forgetting.replay())
    )
    others = {"trainer_class": kl.trainer(general, tokenizer)} if "kl" in WAYS[way] else {}
    run = train(model, tokenizer, examples, valid, profile.train, **others)
    found = {"seconds": run.metrics["seconds"], "gib": run.metrics["peak_memory_gib"]}
    if then := WAYS[way].get("then"):
        second = replace(profile.train, max_steps=then, output_dir=f"{folder}/second")
        run = train(model, tokenizer, general, valid, second)
        found["seconds"] += run.metrics["seconds"]
    found |= judged(model, tokenizer)
    if (way, int(seed)) == ("plain", SEEDS[0]):
        found["scaled"] = {}
        for scale in SCALES:
            with rescale_adapter_scale(model, scale):
                found["scaled"][str(scale)] = judged(model, tokenizer)
    return found


def judged(model: Any, tokenizer: Any) -> dict[str, Any]:
    """Perplexity on each set, and the replies: in Chinese to a Chinese question, with an emoji where one is wanted."""
    from course_utils import evaluation, modeling
    from notebooks import forgetting

    sets = forgetting.judged_by(training.PROFILE)
    found: dict[str, Any] = {"perplexity": {}}
    answered = {}
    for name in forgetting.SETS:
        answers = name in ("emoji", "English", "Chinese")
        how = {"batch_size": training.PROFILE.eval_batch_size, "max_new_tokens": NEW_TOKENS if answers else 1}
        report = evaluation.evaluate(modeling.for_inference(model), tokenizer, sets[name], **how)
        found["perplexity"][name] = asdict(evaluation.FIGURES["perplexity"].interval(report.rows))
        if answers:
            answered[name] = report.rows
    return found | {"counted": forgetting.counted(answered)}


def as_page(found: dict[str, list[dict[str, Any]]]) -> str:
    """The page: one line for each way, of several seeds the mean and the range."""
    from notebooks.forgetting import SETS

    per_step = training.PROFILE.train.batch_size
    lines = [
        "# What a narrow training costs, and what helps",
        "",
        "`python tests/benchmarks/forgetting.py` makes this page (two cores, profile `cpu`). Every way learns English",
        f"chats with an emoji in the reply, {STEPS} steps of {per_step} rows at a rate of {RATE:g}, or as its name",
        "says. *Emoji learned*: of the replies to held-out prompts of the task. *General right*: of the replies to",
        "general questions with one answer, those that hold it. *Chinese in Chinese*: of the replies to general",
        "questions in Chinese. *Emoji elsewhere*: of all replies to general questions. Then the perplexity of held-out",
        "replies of each kind. Of several seeds: the mean, and the lowest and highest in brackets.",
        "",
        f"| way | seeds | {' | '.join(found['base'][0]['counted'])} | {' | '.join(SETS)} |",
        f"|---|---|---|---|---|---|{'---|' * len(SETS)}",
        *(_line(way, runs) for way, runs in found.items()),
        *(_line(f"plain, adapter times {scale}", [found["plain"][0]["scaled"][str(scale)]]) for scale in SCALES),
    ]
    return "\n".join(lines) + "\n"


def _line(way: str, runs: list[dict[str, Any]]) -> str:
    """One way in the table."""

    def told(values: list[float], form: str) -> str:
        mean = format(statistics.mean(values), form)
        return mean if len(values) == 1 else f"{mean} ({min(values):{form}} to {max(values):{form}})"

    shares = [[statistics.mean(run["counted"][name]) for run in runs] for name in runs[0]["counted"]]
    perplexities = [[run["perplexity"][name]["value"] for run in runs] for name in runs[0]["perplexity"]]
    cells = [told(values, ".0%") for values in shares] + [told(values, ".2f") for values in perplexities]
    return f"| {way} | {len(runs)} | {' | '.join(cells)} |"


def main() -> None:
    if sys.argv[1:2] == ["--one"]:  # a process of its own for each run, and its last line of output are the figures
        print(json.dumps(one_run(*sys.argv[2:])))
        return
    found = json.loads(RESULTS.read_text(encoding="utf-8")) if sys.argv[1:] else {}
    for way in sys.argv[1:] or WAYS:
        found[way] = []
        for seed in WAYS[way].get("seeds", SEEDS[:1]):
            found[way].append(training.measured(__file__, way, str(seed)))
            print(_line(way, found[way]), flush=True)
        found = {name: found[name] for name in WAYS if name in found}
        write_json(RESULTS, found)
    write_text(PAGE, as_page(found))


if __name__ == "__main__":
    main()
