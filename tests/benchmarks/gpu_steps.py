"""The steps of `gpu_check.py`: each asks one thing of a GPU, in a process of its own, and yields what it finds.

A step says each figure as soon as it has it, so that what comes before an error or the time limit is kept. At toy size
every step also runs on a CPU, so that the script is known to work before a GPU is there; its figures then mean nothing.
"""

import hashlib
import json
import os
import re
import resource
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS.parent), str(TESTS)]  # this clone, whichever one is installed

from benchmarks import memory  # noqa: E402
from benchmarks.gpu_shared import (  # noqa: E402
    ROWS_OF,
    Place,
    against_budget,
    course_rows,
    hold_to,
    make,
    meter_of,
    profile_of,
    taken,
    trained,
)

from course_utils import data  # noqa: E402
from course_utils.core.budget import GIB  # noqa: E402
from course_utils.core.settings import trainer_arguments  # noqa: E402

FIRST_SCALE = 2.0**24  # float16's scaler begins at 2**16; from here it has to leave out several steps
TOLERANCE = 0.1  # of a logit, in standard deviations of the logits: above what 16 bits round
SIDES = ("left", "right")
ANSWER = "RESULT "  # begins each line that a process answers with


def cards(place: Place, *, profile: str, cap_gib: float, at_once: bool) -> Iterator[dict[str, Any]]:
    """A training run on the course's rows with the memory of a small GPU, all rows of a step at once or one by one."""
    hold_to(cap_gib)
    settings, meter = profile_of(profile, place, place.size.rows if at_once else 1), meter_of(place)
    _, longest, loaded = trained(place, place.model, settings, [meter])
    found = meter.found()
    yield {"dtype": settings.dtype, "load_seconds": loaded, "longest_row": longest, **found}
    yield against_budget(place, settings, longest, found)


def high_scaler() -> Any:
    """A callback that lets float16's scaler begin at `FIRST_SCALE`, and counts the steps that it leaves out.

    On a GPU the scaler multiplies the loss. On a CPU the Trainer has none, so torch's own for CPUs takes its place, and
    the gradients themselves are multiplied and squeezed through float16.
    """
    import torch
    from transformers import TrainerCallback

    class HighScaler(TrainerCallback):
        skipped: int = 0

        def on_train_begin(self, args: Any, state: Any, control: Any, optimizer: Any = None, **_: Any) -> None:
            self.faked = optimizer.scaler is None
            if self.faked:
                optimizer.optimizer._step_supports_amp_scaling = False  # else a fused AdamW skips, and nobody is told
                scaler = torch.amp.GradScaler("cpu", init_scale=FIRST_SCALE)
                optimizer.__init__(optimizer.optimizer, device_placement=False, scaler=scaler)
            else:
                optimizer.scaler.load_state_dict(optimizer.scaler.state_dict() | {"scale": FIRST_SCALE})

        def on_pre_optimizer_step(
            self, args: Any, state: Any, control: Any, optimizer: Any = None, **more: Any
        ) -> None:
            for weight in more["model"].parameters() if self.faked else ():
                if weight.grad is not None:
                    weight.grad = optimizer.scaler.scale(weight.grad).half().to(weight.dtype)

        def on_step_end(self, args: Any, state: Any, control: Any, optimizer: Any = None, **_: Any) -> None:
            self.skipped += bool(optimizer.step_was_skipped)
            self.scale = optimizer.scaler.get_scale()

    return HighScaler()


def float16(place: Place) -> Iterator[dict[str, Any]]:
    """A run in float16 whose scaler begins far too high: it has to leave steps out and go on."""
    steps = 3 * place.size.steps
    settings = profile_of("t4", place, max_steps=steps, eval_steps=steps)
    meter, scaler = meter_of(place), high_scaler()
    trained(place, place.small, settings, [meter, scaler])
    yield {"dtype": settings.dtype, "scaler": "faked on a CPU" if scaler.faked else "the Trainer's"}
    yield {"steps": len(meter.ends), "skipped_steps": scaler.skipped, "last_scale": scaler.scale}
    yield {"first_loss": meter.losses[0], "last_loss": meter.losses[-1]}
    yield {"holds": 0 < scaler.skipped < steps}


def merge(place: Place) -> Iterator[dict[str, Any]]:
    """Merge and its proof, in seconds and memory."""
    from transformers import AutoTokenizer

    from course_utils import chat, export

    started = time.perf_counter()
    report = export.merge_adapter(base=place.model, adapter=place.adapter, out_dir=place.merged)
    yield {"merge_seconds": time.perf_counter() - started, "merge_process_gib": taken(place)["process_gib"]}
    yield {"written_gib": sum(report.files.values()) / GIB}
    tokenizer = AutoTokenizer.from_pretrained(place.model)
    rows = data.load_built(ROWS_OF, "general", place.data).select(range(place.size.prompts))
    prompts = [chat.render(tokenizer, row["messages"][:-1], add_generation_prompt=True) for row in rows]
    started = time.perf_counter()
    how = {"batch_size": len(prompts), "max_new_tokens": place.size.new_tokens}
    check = export.check_merge(base=place.model, adapter=place.adapter, merged=place.merged, prompts=prompts, **how)
    yield {"proof_seconds": time.perf_counter() - started, **taken(place)}
    yield {"new_process_gib": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 / GIB}
    yield {"same_weights": check.same_weights, "equal_to_memory": check.equal_to_memory, "prompts": check.prompts}
    yield {"equal_to_adapter": check.adapter.equal, "near_ties": check.adapter.near_ties, "holds": check.holds}


def evaluation(place: Place, *, cap_gib: float) -> Iterator[dict[str, Any]]:
    """Lesson 05 and 06: the evaluation rows answered by the 16-bit base, then by the merged model in its place."""
    import torch
    from accelerate.utils.memory import clear_device_cache

    from course_utils import evaluation, masking, modeling

    hold_to(cap_gib)
    profile = replace(profile_of("16gb", place), max_new_tokens=place.size.new_tokens)
    rows = [row for part in ("test", "general") for row in data.load_built(ROWS_OF, part, place.data)]
    rows = rows[: place.size.asked]
    for name, folder in (("base", place.model), ("merged", place.merged)):
        started = time.perf_counter()
        model, tokenizer = modeling.load_model(folder, profile, load_in_4bit=False)
        model = modeling.for_inference(model)
        loaded = time.perf_counter()
        evaluation.evaluate(
            model,
            tokenizer,
            rows,
            batch_size=profile.eval_batch_size,
            max_new_tokens=profile.max_new_tokens,
        )
        found = taken(place)
        yield {"rows": len(rows), f"{name}_load_seconds": loaded - started}
        yield {f"{name}_seconds": time.perf_counter() - loaded}
        yield {f"{name}_{kind}": value for kind, value in found.items()}
        if name == "base":
            references = masking.build_dataset(rows, tokenizer, train_on="last", train_on_tool_calls=True)
            longest = max(map(len, references["input_ids"]))
            yield {"longest_row": longest, **against_budget(place, profile, longest, found, generate=True)}
        del model  # one at a time: two of them do not fit a small GPU
        clear_device_cache(garbage_collection=True)
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()


def prompts(place: Place, *, by: str) -> Iterator[dict[str, Any]]:
    """The logits after a long and a short prompt, alone and padded on either side, with and without the adapter.

    Args:
        by: "unsloth" or "plain": transformers and PEFT alone, which is then set beside what Unsloth said.
    """
    if by == "unsloth":
        from course_utils import modeling

        model, tokenizer = modeling.load_model(place.model, profile_of("16gb", place), load_in_4bit=False)
        model = modeling.for_inference(modeling.load_adapter(model, place.adapter))
    else:
        from course_utils.deploy import adapters

        model, tokenizer = adapters.load_with_adapter(base=place.model, adapter=place.adapter)
    import torch

    model = model.to("cuda" if torch.cuda.is_available() else "cpu")
    rows = data.load_built(ROWS_OF, "train", place.data)
    texts = "\n".join(message["content"] or "" for row in rows.select(range(200)) for message in row["messages"])
    words = tokenizer(texts, add_special_tokens=False)["input_ids"]
    batch = [words[: place.size.prompt], words[-place.size.prompt // 8 :]]
    said = {"on": last_logits(model, tokenizer, batch)}
    with model.disable_adapter():
        said["off"] = last_logits(model, tokenizer, batch)
    torch.save(said, place.folder / f"prompts_{by}.pt")
    errors = {f"{side}_padded_{when}": far(each[side], each["alone"]) for when, each in said.items() for side in SIDES}
    adapter = far(said["on"]["alone"], said["off"]["alone"])
    yield {"dtype": str(model.dtype).removeprefix("torch."), "prompt": len(batch[0]), **errors, "adapter": adapter}
    if by == "plain":
        other = torch.load(place.folder / "prompts_unsloth.pt")
        beside = {f"unsloth_{when}": far(other[when]["alone"], each["alone"]) for when, each in said.items()}
        yield beside
        errors |= beside
    yield {"holds": all(error < TOLERANCE for error in errors.values()) and adapter > TOLERANCE}


def last_logits(model: Any, tokenizer: Any, batch: Sequence[list[int]]) -> dict[str, Any]:
    """The logits after each row's last token, (rows, vocabulary): each row alone, and padded on either side."""
    import torch

    found = {}
    with torch.inference_mode():
        alone = [model(input_ids=torch.tensor([row], device=model.device)).logits[0, -1] for row in batch]
        found["alone"] = torch.stack(alone).float().cpu()
        for side in SIDES:
            padded = tokenizer.pad({"input_ids": list(batch)}, padding_side=side, return_tensors="pt").to(model.device)
            mask = padded["attention_mask"]
            places = (mask.cumsum(-1) - 1).clamp(min=0)  # of each token in its own row
            logits = model(**padded, position_ids=places).logits
            last = [row.nonzero().max() for row in mask]
            found[side] = torch.stack([row[at] for row, at in zip(logits, last, strict=True)]).float().cpu()
    return found


def far(these: Any, those: Any) -> float:
    """The largest difference of two sets of logits, in standard deviations of the second."""
    return float((these - those).abs().max() / those.std())


def resume(place: Place, *, profile: str) -> Iterator[dict[str, Any]]:
    """A run that is stopped after a checkpoint and goes on, against one in one go, and that one a second time."""
    from safetensors.torch import load_file
    from transformers import TrainerCallback

    class Stop(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step == 3:
                raise InterruptedError

    settings = profile_of(profile, place, max_steps=4, eval_steps=2)
    if settings.device == "cpu":  # there TRL makes LoRA bfloat16 on a 4-bit base, and going on makes it float32 again
        settings = replace(settings, load_in_4bit=False)
    yield {"dtype": settings.dtype, "bits": settings.bits}

    def run(name: str, *callbacks: Any, **how: Any) -> Path:
        own = replace(settings.train, output_dir=str(place.folder / f"resume-{profile}-{name}"))
        result, _, _ = trained(place, place.small, replace(settings, train=own), callbacks, **how)
        return result.adapter_dir / "adapter_model.safetensors"

    files = {"whole": run("whole"), "again": run("again")}
    try:
        run("resumed", Stop())
    except InterruptedError:
        meter = meter_of(place)
        files["resumed"] = run("resumed", meter, resume=True)
    yield {"resumed_steps": len(meter.ends)}
    yield {name: hashlib.sha256(file.read_bytes()).hexdigest()[:16] for name, file in files.items()}
    weights = {name: load_file(file) for name, file in files.items()}

    def apart(name: str) -> float:
        return max(float((weights[name][key] - value).abs().max()) for key, value in weights["whole"].items())

    yield {"again_apart": apart("again"), "resumed_apart": apart("resumed")}
    # Where a GPU adds in another order each time, going on may differ by no more than a run from itself.
    yield {"holds": len(meter.ends) == 2 and apart("resumed") <= 2 * apart("again")}


def roomy(place: Place, *, cap_gib: float) -> Iterator[dict[str, Any]]:
    """The peak of profile 24gb, every row as long as it allows."""
    import torch

    hold_to(cap_gib)
    longest, words = place.size.full, json.loads((place.model / "config.json").read_text())["vocab_size"]
    settings = profile_of("24gb", place, place.size.rows, max_length=longest)
    shape = (settings.train.max_steps * place.size.rows, longest)
    ids = torch.randint(words // 10, 9 * words // 10, shape, generator=torch.Generator().manual_seed(0)).tolist()
    rows, meter = [{"input_ids": row, "labels": row} for row in ids], meter_of(place)
    trained(place, place.model, settings, [meter], rows=(rows, rows[:1]))
    found = meter.found()
    yield {"dtype": settings.dtype, "longest_row": longest, **found}
    yield {"tokens_per_second": place.size.rows * longest / found["step_seconds"]}
    yield against_budget(place, settings, longest, found)


def plain(place: Place, *, cap_gib: float) -> Iterator[dict[str, Any]]:
    """TRL and PEFT alone on the rows of `cards`, one by one and in the same order."""
    import torch
    import transformers
    from datasets import Dataset
    from peft import LoraConfig
    from trl import SFTConfig, SFTTrainer

    from course_utils.train.row_order import row_order
    from course_utils.train.training import precision

    hold_to(cap_gib)
    profile, meter = profile_of("16gb", place), meter_of(place)
    settings, dtype, cuda = profile.train, getattr(torch, profile.dtype), torch.cuda.is_available()
    tokenizer = transformers.AutoTokenizer.from_pretrained(place.model)
    rows, _ = course_rows(place, settings.max_steps * place.size.rows)
    order = row_order([len(row["input_ids"]) for row in rows], place.size.rows, 1.0, settings.seed)
    if not cuda:  # TRL's own loss needs Triton, which a CPU has not
        SFTTrainer.compute_loss = transformers.Trainer.compute_loss
    nf4 = transformers.BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
    )
    trainer = SFTTrainer(
        transformers.AutoModelForCausalLM.from_pretrained(
            place.model, dtype=dtype, quantization_config=nf4, device_map={"": 0 if cuda else "cpu"}
        ),
        SFTConfig(
            output_dir=settings.output_dir,
            **trainer_arguments(settings),
            max_length=settings.max_length,
            **precision(dtype),
            train_sampling_strategy="sequential",
            save_strategy="no",
            dataset_kwargs={"skip_prepare_dataset": True},
            disable_tqdm=True,
            report_to="none",
            use_cpu=not cuda,
        ),
        train_dataset=Dataset.from_list([rows[number] for number in order]),
        processing_class=tokenizer,
        peft_config=LoraConfig(
            r=settings.r,
            lora_alpha=settings.alpha,
            lora_dropout=settings.dropout,
            target_modules=list(settings.target_modules),
            task_type="CAUSAL_LM",
        ),
        callbacks=[meter],
    )
    trainer.train()
    found = meter.found()
    yield {"dtype": profile.dtype, "longest_row": max(len(row["input_ids"]) for row in rows), **found}


STEPS: dict[str, Callable[..., Iterator[dict[str, Any]]]] = {
    "make": make,
    "cards": cards,
    "float16": float16,
    "merge": merge,
    "evaluation": evaluation,
    "prompts": prompts,
    "resume": resume,
    "24gb": roomy,
    "plain": plain,
}


def said(error: str) -> str:
    """An error's first line without this machine's folders."""
    return re.sub(r"(?:/[^\s/'\":]+)+/", "", error.strip().split("\n")[0])[:400]


def main() -> None:
    """Run the cases that the arguments name, and print each figure as a line of JSON.

    Unsloth comes first where a case needs it, since it patches the libraries that the steps import.
    """
    folder, size, asked = sys.argv[1:]
    place = Place(Path(folder), size == "toy", memory.gpu_in_use())  # to look at the GPU through torch starts CUDA
    cases = json.loads(asked)
    for case in cases:
        os.environ.update(case["variables"])
        if any(each["unsloth"] for each in cases):
            from course_utils import modeling

            modeling.import_unsloth()
        started = time.perf_counter()
        try:
            for found in STEPS[case["function"]](place, **case["arguments"]):
                print(ANSWER + json.dumps({"key": case["key"], **found}), flush=True)
            found = {"seconds": time.perf_counter() - started}
        except Exception as error:
            traceback.print_exc()
            found = {"error": said(f"{type(error).__name__}: {error}")}
        print(ANSWER + json.dumps({"key": case["key"], **found}), flush=True)


if __name__ == "__main__":
    main()
