"""What was tried for the profile of the real Qwen: `python tests/benchmarks/settings.py` (ten minutes a line).

Every line is a training from the same seed with some settings changed, judged by the validation rows and by the general
ones, never by the test rows. The figures land in `docs/settings.json`; `training.py` puts them into `docs/training.md`.
A name as the argument tries that line only.
"""

import json
import sys
import tempfile
from dataclasses import replace
from typing import Any

import training

from course_utils.core.files import write_json
from course_utils.core.profiles import Profile

RESULTS = training.ROOT / "docs" / "settings.json"
PROFILE = training.PROFILE
WEIGHTS, KINDS = {"plain": 0.0} | dict(PROFILE.weights), (*PROFILE.kinds, "plain")
LEFT_OUT = "tools"  # a validation row ends with the answer, not with the call, so there is no call to judge
NEW_TOKENS = 160
# What is changed, of the weights of the sources and of the training.
TRIED: dict[str, tuple[dict[str, float], dict[str, float]]] = {
    "the profile": ({}, {}),
    "twice the learning rate": ({}, {"learning_rate": 4e-4}),
    "twice the learning rate, each sum 4 times": ({"cmath": 4.0, "mawps": 4.0}, {"learning_rate": 4e-4}),
    "twice the learning rate, 5 % plain rows": ({"plain": 0.6}, {"learning_rate": 4e-4}),
    "half the learning rate": ({}, {"learning_rate": 1e-4}),
    "8 rows a step": ({}, {"batch_size": 8}),
    "5 % plain rows": ({"plain": 0.6}, {}),
    "12 % plain rows": ({"plain": 1.7}, {}),
}
SHOWN = {
    "minutes": "minutes",
    "perplexity": "perplexity, valid",
    "json": "JSON, strict",
    "sums": "sums, as asked",
    "emoji": "emoji, of them Chinese",
    "fits": "general: emoji where none belongs",
    "general": "general: perplexity",
}


def changed(name: str, folder: str) -> Profile:
    """The profile of a line, its run in this folder."""
    weights, settings = TRIED[name]
    train = replace(PROFILE.train, output_dir=folder, tracker="none", **settings)
    return replace(PROFILE, name="tried", kinds=KINDS, weights=tuple((WEIGHTS | weights).items()), train=train)


def one_run(name: str, folder: str) -> dict[str, Any]:
    """Train and judge in this process; returns a line of the table."""
    from course_utils import data, evaluation, hub, masking, modeling
    from course_utils.train.training import train as fit

    modeling.import_unsloth()
    profile = changed(name, folder)
    data.build(profile)
    parts = {part: list(data.load_built(profile, part)) for part in ("train", "valid", "general")}
    model, tokenizer = modeling.load_model(hub.download(profile.model), profile)
    model = modeling.attach_lora(model, profile)
    train, valid = (
        masking.build_dataset(parts[part], tokenizer, max_length=profile.train.max_length, train_on_tool_calls=True)
        for part in ("train", "valid")
    )
    metrics = fit(model, tokenizer, train, valid.select(range(4)), profile.train, profile=profile).metrics
    model = modeling.for_inference(model)
    rows = [row for part in ("valid", "general") for row in parts[part] if row["source"] != LEFT_OUT]
    how = {"batch_size": profile.eval_batch_size, "max_new_tokens": NEW_TOKENS}
    replies = evaluation.evaluate(model, tokenizer, rows, **how).rows

    def share(figure: str, *sources: str, tag: str | None = None) -> str:
        asked = [row for row in replies if row["source"] in sources and (tag is None or tag in row["tags"])]
        return f"{sum(bool(row[figure]) for row in asked)} of {len(asked)}"

    general = [row for row in replies if row["source"] == "general"]
    held = [row for row in replies if row["source"] != "general"]
    wrong = [row for row in general if not row["emoji_fits"]]
    return {
        "steps": metrics["steps"],
        "minutes": metrics["seconds"] / 60,
        "perplexity": evaluation.EvalReport(held).perplexities["all"].learned,
        "json": share("json_strict", "json"),
        "sums": share("bare", "cmath", "mawps"),
        "emoji": f"{share('emoji', 'emoji')}, {share('emoji', 'emoji', tag='zh')}",
        "fits": f"{len(wrong)} of {len(general)}",
        "general": evaluation.EvalReport(general).perplexities["all"].learned,
    }


def as_table(tried: dict[str, dict[str, Any]]) -> list[str]:
    """The lines of the table."""
    lines = [f"| tried | {' | '.join(SHOWN.values())} |", "|---" * (len(SHOWN) + 1) + "|"]
    for name, line in tried.items():
        found = (line.get(key, "not kept") for key in SHOWN)
        values = (f"{value:.2f}" if isinstance(value, float) else value for value in found)
        lines.append(f"| {name} | {' | '.join(values)} |")
    return lines


def main() -> None:
    if len(sys.argv) > 2:  # a process of its own for each line, and its last line of output are the figures
        print(json.dumps(one_run(*sys.argv[1:])))
        return
    for name in sys.argv[1:] or TRIED:
        with tempfile.TemporaryDirectory() as folder:
            line = training.reported(__file__, name, folder)
        found = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.is_file() else {}
        found[name] = line
        write_json(RESULTS, {line: found[line] for line in TRIED if line in found})
    print("\n".join(as_table(json.loads(RESULTS.read_text(encoding="utf-8")))))


if __name__ == "__main__":
    main()
