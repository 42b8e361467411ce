"""The merge, proved on 50 held-out prompts, and the wrong one beside it: `python tests/benchmarks/merge.py`.

It needs the adapter of `python -m course_utils train` on the cpu profile. The page lands in `docs/merge.md`, its
figures in `docs/merge.json`. Where llama.cpp's converter is at hand (LLAMA_CPP), the GGUF file is proved, too.
"""

import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from course_utils import adapters, chat, data, evaluation, export, masking, profiles
from course_utils.core.files import write_json, write_text
from notebooks import gguf_file

ROOT = Path(__file__).resolve().parents[2]
RESULTS, PAGE = ROOT / "docs" / "merge.json", ROOT / "docs" / "merge.md"
PROFILE = profiles.choose("cpu")
BASE, ADAPTER = ROOT / "models" / PROFILE.model, ROOT / PROFILE.train.output_dir / "adapter"
PROMPTS = 50
HOW = {"batch_size": 16, "max_new_tokens": 32}


def held_out() -> list[dict[str, Any]]:
    """As many rows, spread over all sources."""
    rows = [row for part in ("valid", "general") for row in data.load_built(PROFILE, part, ROOT / "data")]
    return [rows[place * len(rows) // PROMPTS] for place in range(PROMPTS)]


def wrong_way(rows: list[dict[str, Any]], merged: Path) -> dict[str, Any]:
    """Merge into the base in NF4, and compare what is left of the adapter with the right way.

    Returns:
        The share of the delta that each merge keeps (its projection on the delta, over all layers together), and the
        perplexity of the rows' replies with each model.
    """
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    right, tokenizer = adapters.load_base(merged)
    base, _ = adapters.load_base(BASE)
    examples = masking.build_dataset(rows, tokenizer, train_on="last")
    perplexity = {
        "base, 16 bits": evaluation.perplexity(base, tokenizer, examples, batch_size=16).learned,
        "merged into 16 bits": evaluation.perplexity(right, tokenizer, examples, batch_size=16).learned,
    }
    mounted, _ = adapters.load_with_adapter(BASE, ADAPTER)
    perplexity["base + adapter, 16 bits"] = evaluation.perplexity(mounted, tokenizer, examples, batch_size=16).learned
    deltas = {
        name.removeprefix("base_model.model."): layer.get_delta_weight("default").float().detach()
        for name, layer in mounted.named_modules()
        if hasattr(layer, "get_delta_weight")
    }
    dtype = getattr(torch, PROFILE.dtype)
    in_nf4 = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype)
    four = AutoModelForCausalLM.from_pretrained(BASE, quantization_config=in_nf4)
    before = {name: _weights(four.get_submodule(name)) for name in deltas}
    # Merged before any forward pass: on a CPU bitsandbytes then changes the layout, and the merge makes noise of it.
    wrong = PeftModel.from_pretrained(four, str(ADAPTER)).eval().merge_and_unload()
    after = {name: _weights(wrong.get_submodule(name)) for name in deltas}
    perplexity["merged into NF4"] = evaluation.perplexity(wrong, tokenizer, examples, batch_size=16).learned
    four = AutoModelForCausalLM.from_pretrained(BASE, quantization_config=in_nf4)
    four = PeftModel.from_pretrained(four, str(ADAPTER)).eval()
    perplexity["base + adapter, NF4"] = evaluation.perplexity(four, tokenizer, examples, batch_size=16).learned
    start = {name: base.get_submodule(name).weight.float() for name in deltas}
    end = {name: right.get_submodule(name).weight.float() for name in deltas}
    return {
        "kept_16_bits": _kept(deltas, start, end),
        "kept_nf4": _kept(deltas, before, after),
        "perplexity": perplexity,
    }


def _weights(layer: Any) -> torch.Tensor:
    from bitsandbytes.functional import dequantize_4bit

    return dequantize_4bit(layer.weight.data, layer.weight.quant_state).float()


def _kept(deltas: dict[str, torch.Tensor], start: Any, end: Any) -> float:
    """The projection of the change on the delta, over all layers: 1 is all of it."""
    pairs = [(end[name] - start[name], delta) for name, delta in deltas.items()]
    return sum(float((change * delta).sum()) for change, delta in pairs) / sum(
        float((delta * delta).sum()) for _, delta in pairs
    )


def as_page(found: dict[str, Any]) -> str:
    """The page that people read."""
    check, wrong = found["merge"], found["wrong_way"]
    agreement = check["adapter"]
    lines = [
        "# The merge, proved",
        "",
        f"{PROFILE.model} with the adapter of lesson 04 (rank {found['rank']}, {found['dtype']}), {check['prompts']} "
        "held-out prompts, greedy replies",
        f"of at most {HOW['max_new_tokens']} tokens. Made by `python tests/benchmarks/merge.py`.",
        "",
        "| merged folder, loaded in a new process | |",
        "|---|---|",
        f"| weights equal to those of the merged model in memory, to the last bit | {check['same_weights']} |",
        f"| replies equal to those of the merged model in memory | {check['equal_to_memory']} of {check['prompts']} |",
        *_agreement(agreement, "base + adapter"),
        "",
        "The logits are compared at every token of the adapter's replies, over the whole vocabulary. A near-tie is a",
        "reply whose first difference lies where the top two logits of base + adapter are nearer than the largest",
        "error of a logit in that very reply.",
    ]
    for kind, read in found["gguf"].items():
        lines += [
            "",
            f"| GGUF, {kind}, read back by transformers | |",
            "|---|---|",
            *_agreement(read, "the merged folder"),
        ]
    lines += [
        "",
        "The wrong way, on the same model: PEFT merges into a base held in NF4 without an error. *Kept* is the share",
        f"of the adapter's delta that the weights have taken up, over all layers: {wrong['kept_16_bits']:.3f} in 16",
        f"bits, {wrong['kept_nf4']:.3f} in NF4.",
        "",
        "| model | perplexity of the reference replies |",
        "|---|---|",
        *(f"| {name} | {value:.2f} |" for name, value in wrong["perplexity"].items()),
        "",
        "Unsloth's own `save_pretrained_merged` refuses a 4-bit base on a CPU, and on a GPU it fetches the 16-bit",
        "base from a hub. The course merges with PEFT everywhere: one way, on every machine.",
    ]
    return "\n".join(lines) + "\n"


def _agreement(found: dict[str, Any], other: str) -> list[str]:
    return [
        f"| replies equal to those of {other} | {found['equal']} of {found['prompts']} |",
        f"| of the others, near-ties | {found['near_ties']} of {found['prompts'] - found['equal']} |",
        f"| widest gap of the top two logits at a first difference | {found['widest_gap']:.3f} |",
        f"| largest error of a logit, at {found['places']} places | {found['logit_error']:.3f} |",
        f"| mean error | {found['mean_error']:.3f} |",
        f"| places where both rank the same token first | {found['same_top']:.1%} |",
    ]


def main() -> None:
    rows = held_out()
    with tempfile.TemporaryDirectory() as scratch:
        merged = Path(scratch) / "merged"
        report = export.merge_adapter(BASE, ADAPTER, merged)
        _, tokenizer = adapters.load_base(merged)
        prompts = [chat.render(tokenizer, row["messages"][:-1], add_generation_prompt=True) for row in rows]
        found = {
            "rank": report.adapter.rank,
            "dtype": PROFILE.dtype,
            "merge": asdict(export.check_merge(BASE, ADAPTER, merged, prompts, **HOW)),
            "wrong_way": wrong_way(rows, merged),
            "gguf": {},
        }
        try:
            gguf_file.find_converter()
        except export.ExportError as error:
            print(error)
        else:
            for kind in ("bf16", "q8_0"):
                file = gguf_file.to_gguf(merged, Path(scratch) / f"{kind}.gguf", outtype=kind)
                found["gguf"][kind] = asdict(gguf_file.check_gguf(merged, file, prompts, **HOW))
    write_json(RESULTS, found)
    write_text(PAGE, as_page(found))
    print(as_page(found))


if __name__ == "__main__":
    main()
