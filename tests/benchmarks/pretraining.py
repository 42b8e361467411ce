"""What a model can learn from plain text: `python tests/benchmarks/pretraining.py` (over an hour on two cores).

The texts tell of a town that does not exist (`data/raw/town.jsonl`), so all that a model knows of it, it has from here.
Each way to teach it is judged by held-out texts of the town, by texts of other kinds, and by the questions about its
facts: those of twenty facts may be learned from, those of the other twenty are only asked. The figures land in
`docs/pretraining.json`, which lesson 08 reads, and the page in `docs/pretraining.md`.
`python tests/benchmarks/pretraining.py NAME …` runs some of them again and keeps the rest.
"""

import json
import sys
from dataclasses import asdict, replace
from itertools import islice
from typing import Any

import training

from course_utils.core.files import write_json, write_text

RESULTS, PAGE = training.ROOT / "docs" / "pretraining.json", training.ROOT / "docs" / "pretraining.md"
RATE, PIECE, PIECES = 4e-4, 256, 4  # tokens of a piece, and pieces of a step: 1,024 tokens move the weights once
NEW_TOKENS, SHOWN = 48, 6
OTHERS = 60  # texts of another kind
RUNS: dict[str, dict[str, Any]] = {  # steps on the texts, and whether supervised tuning comes on top
    "base": {},
    "questions": {"questions": True},
    "text, 24 steps": {"steps": 24, "questions": True},
    "text, 72 steps": {"steps": 72, "questions": True},
    "text, 24 steps, embeddings and head, too": {"steps": 24, "whole": ["embed_tokens", "lm_head"]},
}
EPOCHS = 3  # on the questions of twenty facts
WITH_TEXT = "the text in the prompt"
PARTS = ("asked", "held")


def one_run(name: str, folder: str) -> dict[str, dict[str, Any]]:
    """Train once, and judge each way that this passes through: after the texts, and after the questions on top."""
    from course_utils import masking, modeling, packing

    unsloth = modeling.import_unsloth()
    from datasets import Dataset

    from course_utils.train.training import train
    from notebooks import town

    how = RUNS[name]
    told = {"learning_rate": RATE, "max_length": PIECE, "batch_size": PIECES, "grad_accum": 1, "tracker": "none"}
    told |= {"output_dir": folder, "eval_steps": 30, "max_steps": how.get("steps", -1)}
    profile = replace(training.PROFILE, train=replace(training.PROFILE.train, **told))
    model, tokenizer = modeling.load_model(training.MODEL, profile)
    trained: dict[str, Any] = {"seconds": 0.0, "tokens": 0}
    if name == "base":
        ways = {name: False, WITH_TEXT: True}
        return {way: trained | judged(model, tokenizer, with_text=with_text) for way, with_text in ways.items()}
    if "whole" in how:
        targets = {"target_modules": list(profile.train.target_modules), "modules_to_save": how["whole"]}
        lora = {"r": profile.train.r, "lora_alpha": profile.train.alpha, "random_state": profile.train.seed}
        model = unsloth.FastLanguageModel.get_peft_model(model, **targets, **lora, use_gradient_checkpointing=False)
    else:
        model = modeling.attach_lora(model, profile)
    found = {}
    if "steps" in how:
        parts = (packing.chunks(Dataset.from_list(town.texts(held)), tokenizer, PIECE) for held in (False, True))
        run = train(model, tokenizer, *parts, profile.train, audit=False)
        trained = {key: run.metrics[key] for key in ("seconds", "tokens", "peak_memory_gib")}
        found[name] = trained | judged(model, tokenizer)
    if "questions" in how:
        rows = [row for row in town.questions() if "asked" in row["tags"]]
        examples = masking.build_dataset([{"messages": row["messages"]} for row in rows], tokenizer)
        more = {"max_steps": -1, "epochs": EPOCHS, "batch_size": 8, "output_dir": f"{folder}/questions"}
        run = train(model, tokenizer, examples, examples.select(range(8)), replace(profile.train, **more))
        trained = trained | {"seconds": trained["seconds"] + run.metrics["seconds"]}
        found[f"{name}, then questions" if found else name] = trained | judged(model, tokenizer)
    return found


def other_texts() -> dict[str, list[dict[str, Any]]]:
    """Texts of other kinds, which nobody trains on: news in Chinese, and stories with sums in English."""
    from course_utils import data

    raw = training.ROOT / "data" / "raw"
    lines = (raw / "entities.jsonl").read_text(encoding="utf-8").splitlines()
    stories = data.normalise("mawps", data.read_raw(raw / "mawps.csv"))
    return {
        "Chinese news": [{"text": json.loads(line)["text"]} for line in islice(lines, OTHERS)],
        "English stories": [{"text": row["messages"][0]["content"]} for row in islice(stories, OTHERS)],
    }


def judged(model: Any, tokenizer: Any, *, with_text: bool = False) -> dict[str, Any]:
    """Perplexity on each kind of text, and which questions are answered right."""
    from datasets import Dataset

    from course_utils import chat, evaluation, generation, modeling, packing
    from notebooks import town

    model = modeling.for_inference(model)
    kinds = {"the town, held out": town.texts(held=True)} | other_texts()
    found: dict[str, Any] = {"perplexity": {}}
    for name, rows in kinds.items():
        pieces = packing.chunks(Dataset.from_list(rows), tokenizer, PIECE)
        found["perplexity"][name] = evaluation.perplexity(model, tokenizer, pieces, batch_size=PIECES).learned
    questions, learned, prompts = town.questions(), town.texts(held=False), []
    for row in questions:
        [asked] = row["messages"][:1]
        if with_text:
            texts = (each["text"] for each in learned if row["tags"][1] in each["tags"])
            told = next(text for text in texts if town.is_right(text, row["answers"]))
            asked = asked | {"content": f"{told}\n\n{asked['content']}"}
        prompts.append(chat.render(tokenizer, [asked], add_generation_prompt=True))
    how = {"batch_size": training.PROFILE.eval_batch_size, "max_new_tokens": NEW_TOKENS}
    replies = generation.generate(model, tokenizer, prompts, **how)
    texts = [tokenizer.decode(ids, skip_special_tokens=True).strip() for ids in replies]
    found["right"] = {
        part: [
            town.is_right(text, row["answers"])
            for row, text in zip(questions, texts, strict=True)
            if part in row["tags"]
        ]
        for part in PARTS
    }
    found["ended"] = {
        str(tokenizer.convert_ids_to_tokens(token)): sum(bool(ids) and ids[-1] == token for ids in replies)
        for token in generation.stop_ids(model, tokenizer)
    }
    held = [place for place, row in enumerate(questions) if "held" in row["tags"]][:: 80 // SHOWN][:SHOWN]
    found["shown"] = [
        {
            "prompt": questions[place]["messages"][0]["content"],
            "right": questions[place]["answers"][0],
            "reply": texts[place],
        }
        for place in held
    ]
    return found


def as_page(found: dict[str, dict[str, Any]]) -> str:
    """The page: one line for each way."""
    kinds = list(found["base"]["perplexity"])
    lines = [
        "# What a model can learn from plain text",
        "",
        "`python tests/benchmarks/pretraining.py` makes this page (two cores, profile `cpu`, one seed). The texts tell",
        f"of a town that does not exist. A step takes {PIECES * PIECE:,} tokens of them, at a rate of {RATE:g}.",
        f"*Questions*: those of twenty facts, {EPOCHS} epochs of supervised tuning. *Asked* and *held*: the share of",
        "80 questions each that is answered right; nobody learns from the held ones. In brackets the 95 % interval.",
        "",
        f"| way | tokens of text | asked | held | {' | '.join(f'perplexity, {kind}' for kind in kinds)} |",
        f"|---|---|---|---|{'---|' * len(kinds)}",
        *(_line(way, run) for way, run in found.items()),
    ]
    return "\n".join(lines) + "\n"


def _line(way: str, run: dict[str, Any]) -> str:
    """One way in the table."""
    from course_utils.evals.statistics import ratio

    def told(right: list[bool]) -> str:
        found = asdict(ratio([(int(value), 1) for value in right]))
        return f"{found['value']:.2f} ({found['low']:.2f} to {found['high']:.2f})"

    cells = [f"{run['tokens']:,.0f}", *(told(run["right"][part]) for part in PARTS)]
    cells += [f"{value:.2f}" for value in run["perplexity"].values()]
    return f"| {way} | {' | '.join(cells)} |"


def main() -> None:
    if sys.argv[1:2] == ["--one"]:  # a process of its own for each way, and its last line of output are the figures
        print(json.dumps(one_run(*sys.argv[2:])))
        return
    found = json.loads(RESULTS.read_text(encoding="utf-8")) if sys.argv[1:] else {}
    for name in sys.argv[1:] or RUNS:
        for way, figures in training.measured(__file__, name).items():
            found[way] = figures
            print(_line(way, figures), figures["seconds"], flush=True)
        write_json(RESULTS, found)
    write_text(PAGE, as_page(found))


if __name__ == "__main__":
    main()
