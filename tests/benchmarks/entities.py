"""Named entities, what more rows bring: `python tests/benchmarks/entities.py [FILE]` (a quarter of an hour a file).

One epoch on 50, 100, 200 and 400 rows, each from the same base and seed in a process of its own, and all of them judged
by the same held-out rows; 0 rows is the base. Without a file it takes the course's own sentences; of a file, CLUENER or
anything in its shape, the base and 400 rows, once and twice. The figures land in `docs/entities.json`, the page in
`docs/entities.md`.
"""

import json
import sys
import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import training

from course_utils.core.files import write_json, write_text
from course_utils.core.profiles import Profile

RESULTS, PAGE = training.ROOT / "docs" / "entities.json", training.ROOT / "docs" / "entities.md"
OWN = training.ROOT / "data" / "raw" / "entities.jsonl"
RUNS = (0, 1), (50, 1), (100, 1), (200, 1), (400, 1)  # rows, epochs
OF_A_FILE = (0, 1), (400, 1), (400, 2)
HELD, SEED = 100, 0
RATE = 4e-4  # twice the profile's, which has to keep a mixture's model from forgetting; one narrow job bears more
NEW_TOKENS = 160
UNWATCHED = {"eval_steps": 10_000, "tracker": "none"}  # the validation loss before the first step and at the end


def split_rows(file: Path) -> tuple[Any, Any]:
    """The rows of a file in CLUENER's shape: those to train on, and those held out."""
    from course_utils import data

    every = data.normalise("cluener", data.read_raw(file))
    return data.split(every, valid_ratio=HELD / len(every), min_valid=HELD, seed=SEED)


def trained(profile: Profile, rows: Any, held: Any) -> tuple[Any, Any, Any]:
    """Model, tokenizer and what the run left, after a training on these rows."""
    from course_utils import masking, modeling
    from course_utils.train.training import train

    modeling.import_unsloth()
    model, tokenizer = modeling.load_model(training.MODEL, profile)
    model = modeling.attach_lora(model, profile)
    examples, few = (masking.build_dataset(part, tokenizer) for part in (rows, held.select(range(4))))
    return model, tokenizer, train(model, tokenizer, examples, few, profile.train, profile=profile)


def judged(model: Any, tokenizer: Any, held: Any) -> dict[str, Any]:
    """How many replies are valid JSON, and strict F1 by label with the names due."""
    from course_utils import evaluation, modeling
    from notebooks import entities

    how = {"batch_size": training.PROFILE.eval_batch_size, "max_new_tokens": NEW_TOKENS}
    replies = evaluation.evaluate(modeling.for_inference(model), tokenizer, list(held), **how).rows
    labels = {label: {"due": due, **asdict(f1)} for label, (due, f1) in entities.by_label(replies).items()}
    return {"json": sum(row["json_strict"] for row in replies), "prompts": len(replies), "f1": labels}


def one_run(file: str, rows: str, epochs: str, folder: str) -> dict[str, Any]:
    """Train on the first rows of a file and judge by those held out; 0 rows: the base."""
    from course_utils import modeling

    profile, size, minutes = training.PROFILE, int(rows), 0.0
    pool, held = split_rows(Path(file))
    if size:
        how = {"learning_rate": RATE, "epochs": int(epochs), "output_dir": folder, **UNWATCHED}
        profile = replace(profile, train=replace(profile.train, **how))
        model, tokenizer, run = trained(profile, pool.select(range(size)), held)
        minutes = run.metrics["seconds"] / 60
    else:
        modeling.import_unsloth()
        model, tokenizer = modeling.load_model(training.MODEL, profile)
    judgement = judged(model, tokenizer, held)
    from course_utils.train.callbacks import peak_memory_gib  # transformers comes with it, so after Unsloth

    return {"rows": size, "epochs": int(epochs), "minutes": minutes, "gib": peak_memory_gib()} | judgement


def told(f1: dict[str, float]) -> str:
    """A figure with its interval."""
    return f"{f1['value']:.2f} ({f1['low']:.2f} to {f1['high']:.2f})"


def as_page(found: dict[str, list[dict[str, Any]]]) -> str:
    """The page: a table for each file."""
    lines = [
        "# Named entities: what more rows bring",
        "",
        "`python tests/benchmarks/entities.py`, then the same with a file in CLUENER's shape, make this page (two",
        "cores, profile `cpu`). So many rows, one run each, judged by 100 held-out sentences. Strict F1:",
        "label and text must both be right, each pair counted once a sentence. In brackets the 95 % interval over",
        "the sentences. Minutes are those of a shared machine, on which the same run took 6.6 and 13.2.",
    ]
    for name, runs in found.items():
        lines += [
            "",
            f"## {name}",
            "",
            "| rows | epochs | minutes of training | valid JSON | strict F1 |",
            "|---|---|---|---|---|",
        ]
        for run in runs:
            seen = f"{run['rows']} | {run['epochs']} | {run['minutes']:.1f}"
            lines.append(f"| {seen} | {run['json']} of {run['prompts']} | {told(run['f1']['all'])} |")
        lines += ["", f"Each label after {runs[-1]['rows']} rows:", "", "| label | due | strict F1 |", "|---|---|---|"]
        for label, f1 in runs[-1]["f1"].items():
            lines.append(f"| {label} | {f1['due']} | {told(f1)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    if len(sys.argv) > 2:  # a process of its own for each line, and its last line of output are the figures
        print(json.dumps(one_run(*sys.argv[1:])))
        return
    file = Path(sys.argv[1]).resolve() if sys.argv[1:] else OWN
    runs = []
    for size, epochs in RUNS if file == OWN else OF_A_FILE:
        with tempfile.TemporaryDirectory() as folder:
            runs.append(training.reported(__file__, str(file), str(size), str(epochs), folder))
        print({key: value for key, value in runs[-1].items() if key != "f1"}, runs[-1]["f1"]["all"], flush=True)
    found = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.is_file() else {}
    found[file.stem] = runs
    write_json(RESULTS, found)
    write_text(PAGE, as_page(found))


if __name__ == "__main__":
    main()
