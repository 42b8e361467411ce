"""What the steps of `gpu_check.py` share: models and rows, a GPU made smaller, a run that is measured.

The weights are random, in the published shape of Qwen3-4B-Instruct-2507: its bytes, and nothing is downloaded. At toy
size all of it is small enough for a CPU.
"""

import json
import resource
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS.parent), str(TESTS)]  # this clone, whichever one is installed

from benchmarks import memory  # noqa: E402

from course_utils import budget, data, hardware, profiles  # noqa: E402
from course_utils.core.budget import GIB  # noqa: E402
from course_utils.core.files import write_json  # noqa: E402
from course_utils.core.profiles import Profile  # noqa: E402

ROOT = TESTS.parent
MODEL = "Qwen/Qwen3-4B-Instruct-2507"
TOKENIZER = ROOT / "models" / "qwen3-instruct-2507-tokenizer"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
ROWS_OF = profiles.PROFILES["16gb"]  # whose rows are trained on
SPECIAL = ("<|endoftext|>", "<|im_end|>", "<|im_start|>")  # of the tokenizer at toy size
TOY_SHAPE = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, "num_key_value_heads": 2}


@dataclass(frozen=True)
class Size:
    """How much the steps do."""

    layers: int
    small_layers: int  # of the copy that is enough for scaler and resuming
    steps: int  # of a timed run
    warm: int  # of these, before the clock runs: they compile
    rows: int  # that move the weights once
    longest: int  # tokens of a course's row
    full: int  # tokens of a row that is as long as profile 24gb allows
    prompt: int  # tokens of the long prompt
    prompts: int  # that prove the merge
    new_tokens: int  # of a reply; random weights never end one by themselves
    asked: int | None  # rows of the evaluation; None: all


FULL = Size(36, 4, 6, 2, 16, ROWS_OF.train.max_length, profiles.PROFILES["24gb"].train.max_length, 1536, 8, 32, None)
TOY = Size(4, 2, 3, 1, 4, 640, 48, 96, 2, 4, 4)


@dataclass(frozen=True)
class Place:
    """Where the processes of one run find what the step `make` made.

    Args:
        folder: of models, rows and runs.
        toy: whether they are of toy size.
        before: bytes of the GPU that were taken before this process started CUDA.
    """

    folder: Path
    toy: bool
    before: int = 0

    @property
    def size(self) -> Size:
        return TOY if self.toy else FULL

    def __getattr__(self, name: str) -> Path:
        if name in ("model", "small", "merged", "adapter", "data"):
            return self.folder / name
        raise AttributeError(name)


def profile_of(name: str, place: Place, batch_size: int = 1, **settings: Any) -> Profile:
    """A profile of the course with the steps of this script, in arithmetic that this machine has."""
    machine, base = hardware.detect_hardware(), profiles.PROFILES[name]
    rows = place.size.rows
    settings = {"max_steps": place.size.steps, "eval_steps": place.size.steps, "tracker": "none"} | settings
    settings |= {"batch_size": batch_size, "grad_accum": rows // batch_size, "output_dir": str(place.folder / "run")}
    dtype = base.dtype
    if machine.device == "cpu":
        settings["optimizer"] = "adamw_torch"
        dtype = "bfloat16" if machine.bf16 else "float32"
    elif not machine.bf16:
        dtype = "float16"
    return replace(base, device=machine.device, dtype=dtype, train=replace(base.train, **settings))


def hold_to(cap_gib: float) -> None:
    """Let this process have as much of the GPU as a smaller one has, and tell so whoever asks how much is free.

    Unsloth cuts its loss by what the GPU says is free, not by what the allocator may take.
    """
    import torch

    if not torch.cuda.is_available():
        return
    total = torch.cuda.get_device_properties(0).total_memory
    cap = min(int(cap_gib * GIB), total)
    torch.cuda.set_per_process_memory_fraction(cap / total)
    torch.cuda.mem_get_info = lambda device=None: (max(0, cap - torch.cuda.memory_reserved()), cap)


def taken(place: Place) -> dict[str, float]:
    """The most memory so far, in GiB: of this process, and where there is a GPU, of its tensors and of the allocator.

    What the GPU itself counts (`in_use_gib`, where nvidia-smi says) is of now, CUDA's own part included.
    """
    import torch

    found = {"process_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GIB}
    if torch.cuda.is_available():
        found |= {
            "allocated_gib": torch.cuda.max_memory_allocated() / GIB,
            "reserved_gib": torch.cuda.max_memory_reserved() / GIB,
        }
        if in_use := memory.gpu_in_use():
            found["in_use_gib"] = (in_use - place.before) / GIB
    return found


def against_budget(place: Place, profile: Profile, longest: int, found: dict[str, float], **how: Any) -> dict[str, Any]:
    """What `profiles.memory_budget` says of rows of at most `longest` tokens, and how far it is off."""
    config = json.loads((place.model / "config.json").read_text(encoding="utf-8"))
    profile = replace(profile, train=replace(profile.train, max_length=longest))
    predicted = profiles.memory_budget(config, profile, **how).gib
    if "reserved_gib" not in found:
        return {"predicted_gib": predicted}
    # Where the GPU does not say what CUDA takes for itself, the budget's own estimate stands for it.
    measured = found.get("in_use_gib") or found["reserved_gib"] + budget.CUDA_CONTEXT / GIB
    return {"predicted_gib": predicted, "budget_error": predicted / measured - 1}


# ---- what the steps share


def make(place: Place) -> Iterator[dict[str, Any]]:
    """The machine, the models with random weights, an adapter with random weights, and the course's rows."""
    import torch

    if torch.cuda.is_available():
        gpu = torch.cuda.get_device_properties(0)
        machine = {"device": gpu.name, "memory_gib": gpu.total_memory / GIB, "cuda": torch.version.cuda}
        yield {**machine, "capability": f"{gpu.major}.{gpu.minor}"}
    else:
        yield {"device": "cpu"}
    shape, size = dict(budget.CONFIGS[MODEL]), place.size
    shape |= {**TOY_SHAPE, "head_dim": 16} if place.toy else {}
    for folder, layers in ((place.model, size.layers), (place.small, size.small_layers)):
        words = put_tokenizer(folder, place.toy)
        memory.make_model(shape | {"num_hidden_layers": layers, "vocab_size": words}, folder)
    make_adapter(place.model, place.adapter)
    shutil.copytree(ROOT / "data", place.data, ignore=shutil.ignore_patterns("build", "hub"))
    mask_rows(place)
    yield {"layers": size.layers}


def put_tokenizer(folder: Path, toy: bool) -> int:
    """Put Qwen3's tokenizer into a folder, or at toy size one of bytes; returns the size of the model's vocabulary.

    Most of the time at toy size would go into reading Qwen3's 18 MB again and again.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if not toy:
        for file in TOKENIZER_FILES:
            shutil.copy2(TOKENIZER / file, folder / file)
        return budget.CONFIGS[MODEL]["vocab_size"]
    import trl
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    template = Path(trl.__file__).with_name("chat_templates") / "qwen3_instruct_2507.jinja"
    words = [*SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    made = Tokenizer(models.BPE(vocab={word: number for number, word in enumerate(words)}, merges=[]))
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token=SPECIAL[0], eos_token=SPECIAL[1], extra_special_tokens=list(SPECIAL[2:])
    )
    fast.chat_template = template.read_text(encoding="utf-8")
    fast.save_pretrained(folder)
    return len(words)


def make_adapter(base: Path, folder: Path) -> None:
    """Write a LoRA for the model in `base` whose both halves are random, so that it changes every layer."""
    import torch
    from peft import LoraConfig
    from safetensors.torch import save_file

    shape = budget.Shape.of(json.loads((base / "config.json").read_text(encoding="utf-8")))
    draw, settings, tensors = torch.Generator().manual_seed(0), ROWS_OF.train, {}
    for layer in range(shape.layers):
        for name, (inputs, outputs, _) in shape.projections.items():
            part = "self_attn" if name in ("q_proj", "k_proj", "v_proj", "o_proj") else "mlp"
            for half, rows, columns in (("A", settings.r, inputs), ("B", outputs, settings.r)):
                key = f"base_model.model.model.layers.{layer}.{part}.{name}.lora_{half}.weight"
                tensors[key] = torch.randn(rows, columns, generator=draw) * 0.1 / settings.r**0.5
    folder.mkdir()
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    LoraConfig(
        base_model_name_or_path=str(base),
        r=settings.r,
        lora_alpha=settings.alpha,
        target_modules=list(settings.target_modules),
        task_type="CAUSAL_LM",
        inference_mode=True,
    ).save_pretrained(folder)


def mask_rows(place: Place) -> None:
    """Write the course's rows for training and validation as ids and labels, the longest first."""
    from transformers import AutoTokenizer

    from course_utils import masking

    data.build(ROWS_OF, dataset_dir=place.data)
    tokenizer, how = AutoTokenizer.from_pretrained(place.model), {"max_length": place.size.longest}
    found = {}
    for part in ("train", "valid"):
        rows = data.load_built(ROWS_OF, part, place.data)
        examples = masking.build_dataset(rows, tokenizer, train_on_tool_calls=True, **how)
        lines = examples.select_columns(["input_ids", "labels"]).to_list()
        found[part] = sorted(lines, key=lambda line: -len(line["input_ids"]))
    write_json(place.data / "masked.json", found)


def course_rows(place: Place, count: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """So many of the course's masked rows, evenly from the longest to the shortest, and some to validate with."""
    found = json.loads((place.data / "masked.json").read_text(encoding="utf-8"))
    every = max(1, len(found["train"]) // count)
    return found["train"][::every][:count], found["valid"][-4:]


# ---- a measured run


def meter_of(place: Place) -> Any:
    """A callback that notes when steps end, their losses, and the memory at the last one, evaluations left out."""
    import torch
    from transformers import TrainerCallback

    class Meter(TrainerCallback):
        def __init__(self) -> None:
            self.ends: list[float] = []
            self.losses: list[float] = []

        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.began = time.perf_counter()

        def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if not self.ends and torch.cuda.is_available():
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats()

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            self.ends.append(time.perf_counter())
            if state.global_step == state.max_steps:
                self.memory = taken(place)

        def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **_: Any) -> None:
            self.losses += [logs["loss"]] if "loss" in logs else []

        def found(self) -> dict[str, float]:
            warm, last = place.size.warm, len(self.ends)
            return {
                "first_step_seconds": self.ends[0] - self.began,
                "step_seconds": (self.ends[-1] - self.ends[warm - 1]) / (last - warm),
                "first_loss": self.losses[0],
                "last_loss": self.losses[-1],
                **self.memory,
            }

    return Meter()


def trained(
    place: Place,
    base: Path,
    profile: Profile,
    callbacks: Sequence[Any],
    rows: tuple[Any, Any] | None = None,
    **how: Any,
) -> tuple[Any, int, float]:
    """Load, attach and train as lesson 04 does; returns training's result, the longest row and the seconds to load.

    Args:
        base: the model's folder.
        callbacks, how: for `training.train`.
        rows: to train on and to validate with; None: the course's, as many as the run takes.
    """
    from course_utils import modeling, training

    started, settings = time.perf_counter(), profile.train
    model, tokenizer = modeling.load_model(base, profile)
    model = modeling.attach_lora(model, profile)
    loaded = time.perf_counter() - started
    train, valid = rows or course_rows(place, settings.max_steps * place.size.rows)
    how = {"callbacks": callbacks, "audit": False, "profile": profile} | how
    result = training.train(model, tokenizer, train, valid, settings, **how)
    return result, max(len(row["input_ids"]) for row in train), loaded
