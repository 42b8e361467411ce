"""The course and LLaMA-Factory on the same rows: `python tests/benchmarks/llamafactory.py` (a quarter of an hour).

Both train the same rank, rate, batch and number of steps on sentences with entities, one after the other on two cores;
their labels are compared row by row, and their adapters answer the same held-out sentences. Then LLaMA-Factory's
launcher trains on two processes, and its adapter is merged and served by the course. It needs `make llamafactory`. The
figures land in `docs/llamafactory.json`, the page in `docs/llamafactory.md`.
"""

import json
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import entities
import training

from course_utils.core.files import write_json, write_text
from course_utils.core.profiles import Profile

RESULTS, PAGE = training.ROOT / "docs" / "llamafactory.json", training.ROOT / "docs" / "llamafactory.md"
ROWS, STEPS = 160, 40
LAUNCHED = 4  # steps on two processes
OURS, THEIRS = "course", "LLaMA-Factory"


def profile_of(folder: str, steps: int = STEPS) -> Profile:
    """The settings that both take."""
    how = {"output_dir": folder, "max_steps": steps, "r": 8, "alpha": 16, **entities.UNWATCHED}
    return replace(training.PROFILE, train=replace(training.PROFILE.train, **how))


def split_rows() -> tuple[Any, Any]:
    """Rows to train on, and rows to judge by."""
    pool, held = entities.split_rows(entities.OWN)
    return pool.select(range(ROWS)), held


def train_ours(folder: str) -> dict[str, Any]:
    """A run of the course, in this process."""
    _, _, run = entities.trained(profile_of(folder), *split_rows())
    from course_utils.train.callbacks import peak_memory_gib  # transformers comes with it, so after Unsloth

    losses = [entry["loss"] for entry in run.log if "loss" in entry]
    return {"seconds": run.metrics["seconds"], "gib": peak_memory_gib(), "losses": losses}


def judge(adapter: str) -> dict[str, Any]:
    """Strict F1 of an adapter on the held-out sentences."""
    from course_utils import modeling

    modeling.import_unsloth()
    model, tokenizer = modeling.load_model(training.MODEL, training.PROFILE)
    found = entities.judged(modeling.load_adapter(model, adapter), tokenizer, split_rows()[1])
    return {"f1": found["f1"]["all"], "json": found["json"]}


def same_labels(theirs: list[dict[str, list[int]]]) -> int:
    """In how many rows LLaMA-Factory has the ids and labels of the course."""
    from transformers import AutoTokenizer

    from course_utils import masking

    ours = masking.build_dataset(split_rows()[0], AutoTokenizer.from_pretrained(training.MODEL))
    keys = ("input_ids", "labels")
    return sum(all(list(one[key]) == other[key] for key in keys) for one, other in zip(ours, theirs, strict=True))


def served_by_us(adapter: Path, folder: Path) -> dict[str, Any]:
    """Merge LLaMA-Factory's adapter into the base, serve the folder, and ask it one held-out sentence."""
    from course_utils import export, serving
    from course_utils.deploy.client import ask

    merged = export.merge_adapter(training.MODEL, adapter, folder / "merged")
    row = split_rows()[1][0]
    line = serving.command(training.PROFILE, merged.path, port=serving.free_port())
    with serving.serve(line, timeout=300) as server:
        reply = ask(server.url, server.model, row["messages"][:-1], timeout=120)
    return {"layers": merged.adapter.layers, "reply": reply.answer, "due": row["messages"][-1]["content"]}


def as_page(found: dict[str, Any]) -> str:
    """The page: the table, then what else was done."""
    ours, theirs, launched, served = found[OURS], found[THEIRS], found["launcher"], found["served"]
    lines = []
    for name, run in ((OURS, ours), (THEIRS, theirs)):
        figures = f"{run['rows_per_second']:.2f} | {run['gib']:.1f} | {sum(run['losses'][-10:]) / 10:.3f}"
        lines.append(f"| {name} | {figures} | {run['json']} of {entities.HELD} | {entities.told(run['f1'])} |")
    return f"""\
# The course and LLaMA-Factory on the same rows

`make llamafactory`, then `python tests/benchmarks/llamafactory.py`: {ROWS} sentences with entities, {STEPS} steps of
four rows, rank 8, the same rate, cosine and warmup, bfloat16, the real Qwen of profile `cpu`, two cores; one after the
other in one run. LLaMA-Factory is version {found["version"]}. F1 is judged by {entities.HELD} held-out sentences.

| | rows a second | GiB at most | loss, mean of the last 10 steps | valid JSON | strict F1 |
|---|---|---|---|---|---|
{chr(10).join(lines)}

The course is {ours["rows_per_second"] / theirs["rows_per_second"]:.1f} times as fast here, and needs \
{ours["gib"] / theirs["gib"]:.2f} times the memory. The owner's notes say 2 to 5 times as fast and
50 to 80 % less memory of Unsloth, on GPUs; no GPU was measured. The rows come in another order in the two (the course
puts rows of like length into one step), so losses of single steps do not compare, and F1 differs by chance, too.

- **Labels**: ids and labels are equal in {found["same"]} of {ROWS} rows.
- **Its launcher on two processes** (`FORCE_TORCHRUN=1 NPROC_PER_NODE=2 llamafactory-cli train`, gloo): {LAUNCHED} steps
  of 2 x 2 rows in {launched["seconds"]:.0f} s and {launched["gib"]:.1f} GiB, both processes together; \
losses {", ".join(f"{loss:.2f}" for loss in launched["losses"])}.
- **Its adapter, merged and served by the course**: {served["layers"]} layers. Asked for a held-out sentence, it says
  `{served["reply"]}`; due is `{served["due"]}`.
"""


def main() -> None:
    if sys.argv[1:]:  # in a process of its own, whose last line of output is the result
        print(json.dumps({"train": train_ours, "judge": judge}[sys.argv[1]](sys.argv[2])))
        return
    from notebooks import llamafactory, llamafactory_env

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = llamafactory.export_llamafactory(split_rows()[0], folder / "rows", "entities")
        recipe = llamafactory.recipe(profile_of(str(folder / "theirs")), model=training.MODEL, rows=path)
        found: dict[str, Any] = {
            "version": llamafactory_env.VERSION,
            "same": same_labels(llamafactory_env.labels(recipe)),
        }
        found[OURS] = training.reported(__file__, "train", str(folder / "ours"))
        run = llamafactory_env.train(recipe)
        found[THEIRS] = {"seconds": run.seconds, "gib": run.gib, "losses": [line["loss"] for line in run.log]}
        for key, adapter in ((OURS, folder / "ours" / "adapter"), (THEIRS, run.adapter)):
            found[key] |= {"rows_per_second": STEPS * training.BATCH / found[key]["seconds"]}
            found[key] |= training.reported(__file__, "judge", str(adapter))
        halved = profile_of(str(folder / "launched"), LAUNCHED)
        halved = replace(halved, train=replace(halved.train, batch_size=training.BATCH // 2))
        two = llamafactory_env.train(llamafactory.recipe(halved, model=training.MODEL, rows=path), processes=2)
        found["launcher"] = {"seconds": two.seconds, "gib": two.gib, "losses": [line["loss"] for line in two.log]}
        found["served"] = served_by_us(run.adapter, folder)
    write_json(RESULTS, found)
    write_text(PAGE, as_page(found))
    print(as_page(found))


if __name__ == "__main__":
    main()
