"""Where each concept of the course is taught, as a page: lesson, section and cells that carry its id.

make concepts
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path

from course_utils.core.files import write_text

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "concepts.md"
LESSONS = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))
EXTRAS = sorted((ROOT / "notebooks" / "extras").glob("[0-9]*.ipynb"))  # what is more than a lesson holds
CONCEPTS = {
    "C1": "environment: versions, CUDA, what this machine can run",
    "C2": "`dataset_info.json`, the registry of all data sets",
    "C3": "Alpaca rows: instruction, input, output, system, history",
    "C4": "pretraining rows",
    "C5": "preference rows, in Alpaca and ShareGPT form",
    "C6": "KTO rows",
    "C7": "multimodal rows: images, videos, audios",
    "C8": "ShareGPT: roles, `columns`, `tags`, `ranking`, `tools`",
    "C9": "OpenAI `messages`",
    "C10": "download through a mirror, cache, resume, real files in a folder, ModelScope",
    "C11": "load from the folder, offline",
    "C12": "generation in six steps, sampling settings",
    "C13": "model names decoded",
    "C14": "full, frozen and LoRA fine-tuning; rank, alpha, dropout; rsLoRA, LoftQ, DoRA, GaLore",
    "C15": "number formats, quantisation error, NF4, double quantisation, QLoRA",
    "C16": "conversation template: why, piece by piece, system prompt, tools, thinking",
    "C17": "byte-pair encoding; special tokens",
    "C18": "acceleration: FlashAttention-2, Unsloth, Liger",
    "C19": "LLaMA-Factory: its panels, its YAML, Unsloth against it",
    "C20": "assistant-only loss: label -100, the turns learned, the closing token",
    "C21": "chat JSONL: id, messages, tags, domain, difficulty",
    "C22": "strict-JSON rows, with negative examples",
    "C23": "tool calls: schema, call, result, answer; what is learned",
    "C24": "thinking rows beside plain rows; `enable_thinking`",
    "C25": "choosing the base model; Instruct against Base; what fits 16 GB",
    "C26": "choosing data sets",
    "C27": "normalising to one schema",
    "C28": "metadata: source and tags",
    "C29": "removing repeats, within and across sources",
    "C30": "pools on disk as Arrow",
    "C31": "mixing by weight: interleave against exact resample",
    "C32": "split: seeded, with a floor, groups kept apart",
    "C33": "packing and its mask",
    "C34": "export: Arrow and JSONL, Chinese kept readable",
    "C35": "checking a data set before training",
    "C36": "training settings, in one place",
    "C37": "remedies for too little memory and for an idle GPU; the budget of a 16 GB GPU",
    "C38": "Unsloth: loading, LoRA, training mode; reading the printed model",
    "C39": "SFTConfig against TrainingArguments",
    "C40": "reading the run: steps, loss curve, learning rate, tokens/s, memory; trackers",
    "C41": "seeds and reproducibility; the small fixed evaluation set",
    "C42": "subjective evaluation: fixed prompts, chat, side by side",
    "C43": "objective evaluation: perplexity, usability, JSON validity; the baseline table",
    "C44": "mounting an adapter against merging; 16-bit export; switching adapters",
    "C45": "serving: vLLM flags for 16 GB, OpenAI client, load test",
    "C46": "forgetting: why, and what helps, measured",
    "C47": "named entities: CLUENER row to Alpaca row, label set, entity F1, training",
    "C48": "system prompt in training data",
    "C49": "causal mask against BERT's mask",
    "C50": "continued pretraining",
    "C51": "DPO, ORPO, KTO, reward model, GRPO; PPO explained",
    "C52": "from one GPU to several",
}


def taught() -> Iterator[tuple[str, Path, str, str]]:
    """Concept, notebook, section and cell id, for each cell that carries a concept's id."""
    for path in LESSONS + EXTRAS:
        section = ""
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            if cell["cell_type"] == "markdown":
                headings = re.findall(r"^#{1,3} (.+)$", "".join(cell["source"]), re.MULTILINE)
                section = headings[-1] if headings else section
            for concept in cell["metadata"].get("concept", ()):
                yield concept, path, section, cell["id"]


def page() -> str:
    """The table of all concepts as Markdown."""
    places: dict[str, dict[Path, dict[str, list[str]]]] = {concept: {} for concept in CONCEPTS}
    for concept, path, section, cell in taught():
        places[concept].setdefault(path, {}).setdefault(section, []).append(cell)
    rows = [f"| {concept} | {what} | {_where(places[concept])} |" for concept, what in CONCEPTS.items()]
    return "\n".join(
        [
            "# What the course teaches, and where",
            "",
            f'{len(CONCEPTS)} concepts. A cell that teaches one carries its id in its metadata (`"concept": ["C20"]`);',
            "this table is made from them by `make concepts`. In brackets stands the first such cell of a section, by",
            "its id.",
            "",
            "| id | concept | notebook: sections |",
            "|---|---|---|",
            *rows,
            "",
        ]
    )


def _where(notebooks: dict[Path, dict[str, list[str]]]) -> str:
    """Where one concept is taught."""
    if not notebooks:
        return "comes later"
    return "<br>".join(
        f"[{'extra ' if path.parent.name == 'extras' else ''}{path.stem.replace('_', ' ')}]"
        f"(../{path.relative_to(ROOT).as_posix()}): "
        + "; ".join(f"{section.split(' · ')[-1].replace('|', '/')} [{cells[0]}]" for section, cells in sections.items())
        for path, sections in notebooks.items()
    )


if __name__ == "__main__":
    write_text(PAGE, page())
