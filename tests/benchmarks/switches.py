"""What each switch of a training step gives on a CPU: `python tests/benchmarks/switches.py` (a quarter of an hour).

One run of `training.train` on the same rows again and again, in which a callback turns a switch on and off from step to
step, so that what other guests of the machine take away, they take from both. Compiling is a matter of a whole run: it
takes its steps in turns with a run that does not compile. The figures land in `docs/switches.json`; `training.py` puts
them into `docs/training.md`.
"""

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import training

from course_utils import hardware
from course_utils.core.files import write_json

RESULTS = training.ROOT / "docs" / "switches.json"
PAIRS = 8  # steps with and without, for each switch
SHORT, LONG = "rows of 60 tokens", "rows of 250 tokens"
TOKENS = {SHORT: 60, LONG: 250}


def casts(model: Any, on: bool) -> None:
    """PEFT's copies of LoRA's inputs to float32, left out (kept: `cpu.cpu_shortcuts`)."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for module in model.modules():
        if isinstance(module, BaseTunerLayer):
            module.cast_input_dtype_enabled = not on


def attention(model: Any, on: bool) -> None:
    """Attention in plain matrix products up to 256 tokens, torch's fused kernel else (kept: `cpu.cpu_shortcuts`)."""
    model.get_base_model().set_attn_implementation("by_length" if on else "sdpa")


def bfloat16_adapters(model: Any, on: bool) -> None:
    """LoRA's weights in bfloat16 on the way forth and back; the optimiser moves masters in float32."""
    import torch

    for weight in model.parameters():
        if weight.requires_grad:
            weight.data = weight.data.to(torch.bfloat16 if on else torch.float32)


def one_thread(model: Any, on: bool) -> None:
    """One thread instead of one for each core."""
    import torch

    torch.set_num_threads(1 if on else hardware.detect_hardware().cores)


SWITCHES: dict[str, Callable[[Any, bool], None]] = {
    "no copies of LoRA's inputs to float32": casts,
    "attention in plain products": attention,
    "adapters in bfloat16, masters in float32": bfloat16_adapters,
    "one thread": one_thread,
}
if training.PROFILE.dtype == "float32":  # without autocast there is nothing to cast, and a format cannot be mixed
    del SWITCHES["no copies of LoRA's inputs to float32"], SWITCHES["adapters in bfloat16, masters in float32"]
KEPT = {"no copies of LoRA's inputs to float32", "attention in plain products"}


def in_turns(tokens: int) -> dict[str, dict[str, float]]:
    """Milliseconds of a step with and without each switch, the middle of `PAIRS` steps."""
    from course_utils import modeling

    modeling.import_unsloth()
    from datasets import Dataset
    from transformers import AutoTokenizer, TrainerCallback

    tokenizer = AutoTokenizer.from_pretrained(training.MODEL)
    ids = tokenizer(" ".join(f"word {number}" for number in range(tokens)))["input_ids"][:tokens]
    row = {"input_ids": ids, "labels": [-100] * (tokens // 2) + ids[tokens // 2 :]}
    plan = [(name, on) for name in SWITCHES for _ in range(PAIRS) for on in (True, False)]
    spent: dict[tuple[str, bool], list[float]] = {}

    class Turns(TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
            self.at = state.global_step - 2  # the first two steps are slower than the others
            if self.at >= 0:
                SWITCHES[plan[self.at][0]](model, plan[self.at][1])
            self.started = time.perf_counter()

        def on_pre_optimizer_step(self, *_: Any, model: Any = None, **__: Any) -> None:
            seconds = time.perf_counter() - self.started
            if self.at >= 0:
                name, on = plan[self.at]
                spent.setdefault((name, on), []).append(seconds)
                SWITCHES[name](model, name in KEPT)
                for weight in model.parameters():
                    if weight.grad is not None:
                        weight.grad = weight.grad.to(weight.dtype)

    with tempfile.TemporaryDirectory() as folder:
        rows = Dataset.from_list([row] * training.BATCH * (len(plan) + 2))
        training.trained(rows, rows, folder, Turns())
    return {
        name: {way: statistics.median(spent[name, on]) * 1000 for way, on in (("with", True), ("without", False))}
        for name in SWITCHES
    }


def compiled() -> dict[str, float]:
    """Seconds of an epoch with and without `UNSLOTH_CPU_COMPILE=1`, in turns, and of its second half alone."""
    found, _ = training.side_by_side(("ours", "compiled"))
    half = {way: sum(report["seconds"][len(report["seconds"]) // 2 :]) for way, report in found.items()}
    whole = {way: sum(report["seconds"]) for way, report in found.items()}
    return {"whole": whole["compiled"] / whole["ours"], "second half": half["compiled"] / half["ours"]}


def as_table(found: dict[str, Any]) -> list[str]:
    """The table as Markdown."""
    lines = [f"| switch | {SHORT} | {LONG} | |", "|---|---|---|---|"]
    for name in SWITCHES:
        changes = [found[rows][name]["with"] / found[rows][name]["without"] - 1 for rows in TOKENS]
        shown = " | ".join(f"{change:+.0%} time" for change in changes)
        lines.append(f"| {name} | {shown} | {'kept' if name in KEPT else 'left out'} |")
    compile_of = found["compiled"]
    return [
        *lines,
        "",
        f"`UNSLOTH_CPU_COMPILE=1` takes {compile_of['whole']:.2f} times as long for {training.ROWS} rows, and",
        f"{compile_of['second half']:.2f} times for the second half of them, where most is compiled.",
    ]


def main() -> None:
    if len(sys.argv) > 1:
        print(json.dumps(in_turns(int(sys.argv[1]))))
        return
    found: dict[str, Any] = {}
    for rows, tokens in TOKENS.items():
        found[rows] = training.reported(__file__, str(tokens))
    found["compiled"] = compiled()
    write_json(RESULTS, found)
    print("\n".join(as_table(found)))


if __name__ == "__main__":
    main()
