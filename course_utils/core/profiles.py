"""The hardware found, the profile chosen and why, and every default of the course in one place.

A profile is a set of values that work together on one class of machine. The lessons are the same cells on all of
them; only these values differ. Choose with `setup(profile="16gb")`, with the variable COURSE_PROFILE, or not at all.
"""

import json
import os
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

from course_utils.core import budget
from course_utils.core.budget import Budget
from course_utils.core.errors import CourseError
from course_utils.core.paths import home
from course_utils.core.settings import TrainSettings, why

VARIABLE = "COURSE_PROFILE"
NEEDED_VRAM_GIB = 14.0  # "16 GB" GPUs report 14.6 to 15.7 GiB
ROOMY_VRAM_GIB = 20.0  # "24 GB" GPUs report 22 to 23.6 GiB
CONTAINER_LIMIT = Path("/sys/fs/cgroup/memory.max")  # what Linux shows inside a container
BF16_CAPABILITY = (8, 0)  # Ampere; older GPUs have no bfloat16 arithmetic


class ProfileError(CourseError):
    """A profile was asked for that does not exist."""


@dataclass(frozen=True)
class Profile:
    """All that differs between machines; each field's meaning and unit stand beside it."""

    name: str = field(metadata=why("cpu, t4, 16gb or 24gb"))
    device: budget.Device = field(metadata=why("where the model lies and is trained: cpu, or cuda for an NVIDIA GPU"))
    model: str = field(metadata=why("base model, a name for hub.download"))
    load_in_4bit: bool = field(metadata=why("hold the frozen base in NF4: a quarter of the memory of bfloat16"))
    dtype: Literal["bfloat16", "float16", "float32"] = field(metadata=why("number format of the arithmetic"))
    languages: tuple[str, ...] = field(metadata=why("language tags of the rows trained on"))
    kinds: tuple[str, ...] = field(metadata=why("kind tags of the rows trained on"))
    train: TrainSettings = field(metadata=why("the training settings"))
    eval_batch_size: int = field(metadata=why("prompts answered at once in the evaluation"))
    max_new_tokens: int = field(metadata=why("longest reply of the evaluation, in tokens"))
    weights: tuple[tuple[str, float], ...] = field(
        default=(), metadata=why("(source, weight) of the training mixture; empty: every row once")
    )
    notes: tuple[tuple[str, str], ...] = field(
        default=(), metadata=why("(setting, why) where this profile has a reason of its own")
    )
    reason: str = field(default="", metadata=why("why this profile was chosen"))

    @property
    def bits(self) -> Literal[4, 16, 32]:
        """Bits of a weight of the frozen base."""
        return 4 if self.load_in_4bit else 32 if self.dtype == "float32" else 16

    def table(self) -> list[tuple[str, str, str]]:
        """The profile for people, the training settings among the others.

        Returns:
            (setting, value, why) per setting, in the order of the fields. A reason of this profile alone (`notes`)
            stands in place of the setting's general meaning.
        """
        notes = dict(self.notes)
        rows = []
        for part in (self, self.train):
            for item in fields(part):
                if item.name in {"train", "notes", "reason"}:
                    continue
                value = getattr(part, item.name)
                shown = _shown(value)
                rows.append((item.name, shown, notes.get(item.name, item.metadata["why"])))
        return rows

    def smaller(self) -> "Remedy | None":
        """The next remedy where memory ran out: what costs the result least comes first (C37).

        Returns:
            The change, its cost and its predicted effect; None where nothing is left to make smaller.
        """
        return next((remedy for change in _SMALLER if (remedy := change(self))), None)

    def larger(self, room_gib: float) -> "Remedy | None":
        """The next remedy for a GPU that stands idle: what brings the most speed, then the most quality (C37).

        Args:
            room_gib: the GPU's memory; changes that need more are left out.

        Returns:
            The change, its cost and its predicted effect; None where nothing more fits.
        """
        found = (remedy for change in _LARGER if (remedy := change(self)))
        return next((remedy for remedy in found if remedy.after_gib is not None and remedy.after_gib < room_gib), None)


@dataclass(frozen=True)
class Remedy:
    """One change of a profile, for a GPU that is too small or too idle.

    Attributes:
        profile: with the change.
        change: the settings that differ, in words.
        cost: what it costs, or brings.
        before_gib: predicted peak without the change; None for a model whose config is not at hand.
        after_gib: with it.
    """

    profile: Profile
    change: str
    cost: str
    before_gib: float | None
    after_gib: float | None


def _shown(value: object) -> str:
    """A setting as text: tuples with commas, pairs as `name x number`."""
    if isinstance(value, tuple):
        return ", ".join(f"{part[0]} x {part[1]:g}" if isinstance(part, tuple) else part for part in value)
    return str(value)


@dataclass(frozen=True)
class Hardware:
    """What this machine has. Sizes in GiB (2**30 bytes)."""

    device: Literal["cpu", "cuda"]
    gpu: str | None  # name of the first NVIDIA GPU
    vram_gib: float  # its memory; 0 without a GPU
    capability: tuple[int, int] | None  # its compute capability, (7, 5) for a T4
    bf16: bool  # bfloat16 arithmetic in hardware, on the GPU or else on the CPU
    ram_gib: float
    cores: int  # CPU cores this process may use
    disk_free_gib: float  # where the clone lies


_WHY_QWEN = "speaks both languages and calls tools; its 8B sister has no Instruct version (Qwen3-8B is a hybrid)"
_GPU_16GB = Profile(
    name="16gb",
    device="cuda",
    model="Qwen/Qwen3-4B-Instruct-2507",
    load_in_4bit=True,
    dtype="bfloat16",
    languages=("en", "zh"),
    # The Instruct-2507 template drops reasoning_content, so thinking rows would be learned as plain answers: left out.
    kinds=("math", "chat", "json", "tools"),
    train=TrainSettings(
        learning_rate=2e-4,
        epochs=2,
        batch_size=1,
        grad_accum=16,
        max_length=1024,
        optimizer="adamw_8bit",
        gradient_checkpointing=True,
        eval_steps=20,
        output_dir="runs/16gb",
    ),
    eval_batch_size=16,
    max_new_tokens=256,
    notes=(
        ("model", _WHY_QWEN),
        ("load_in_4bit", "2.6 GiB of weights in place of 7.5 leave room for the activations"),
        ("batch_size", "one row at a time keeps memory flat; grad_accum makes the batch of 16"),
    ),
)

PROFILES: Mapping[str, Profile] = {
    "cpu": Profile(
        name="cpu",
        device="cpu",
        model="smollm2-135m-instruct",
        load_in_4bit=False,
        dtype="bfloat16",
        languages=("en",),
        kinds=("math", "chat", "json"),
        train=TrainSettings(
            learning_rate=1e-3,
            epochs=1.0,
            batch_size=4,
            grad_accum=1,
            max_length=512,
            optimizer="adamw_torch",
            gradient_checkpointing=False,
            eval_steps=47,
            output_dir="runs/cpu",
        ),
        eval_batch_size=32,
        max_new_tokens=64,
        weights=(("emoji", 5.0), ("json", 4.0), ("mawps", 1.0)),
        notes=(
            ("model", "135 million parameters: small enough for two cores to train in minutes"),
            ("load_in_4bit", "the model is small; NF4 would generate half as fast"),
            ("dtype", "1.9 times the speed of float32 where the CPU has it, and several times slower where not"),
            ("languages", "Chinese is too much for this model"),
            ("kinds", "this model's template silently drops tools and thinking"),
            ("epochs", "measured: 1.5 took half as long again, and the validation loss fell by less than 1 %"),
            ("eval_steps", "of 94 steps: before, half-way and at the end"),
            ("learning_rate", "high, because a small model sees few rows: measured, JSON validity 0.60 to 1.00"),
            ("batch_size", "few rows, many steps: with 8 at once fewer replies took on the style"),
            ("optimizer", "the adapter has 5 million weights: nothing to save with the 8-bit one"),
            ("gradient_checkpointing", "3.7 GB fit; with it 1.8 GB and 25 % slower"),
            ("eval_batch_size", "a third faster than 16 at once"),
            ("weights", "the style takes the most rows; sums are beyond this model, so it sees few of them"),
        ),
    ),
    # A 16 GB GPU with two differences: no bfloat16, and 1 GiB less.
    "t4": replace(
        _GPU_16GB,
        name="t4",
        dtype="float16",
        train=replace(_GPU_16GB.train, output_dir="runs/t4"),
        eval_batch_size=8,
        notes=(
            *_GPU_16GB.notes,
            ("load_in_4bit", "2.6 GiB of weights in place of 7.5, on a GPU with 15 GiB"),
            ("dtype", "the GPU is older than Ampere and has no bfloat16"),
        ),
    ),
    "16gb": _GPU_16GB,
    # The same model as on 16 GB: there is no larger Qwen3 of this size class with an Instruct version (pitfall
    # invented-names). The
    # room goes into a 16-bit base: nothing lost to quantisation, no unpacking of NF4 in every step, and a merge into
    # the very weights that were trained beside. 7.5 GiB of weights leave about 14 for 4 rows of 2048 tokens.
    "24gb": replace(
        _GPU_16GB,
        name="24gb",
        load_in_4bit=False,
        train=replace(_GPU_16GB.train, batch_size=4, grad_accum=4, max_length=2048, output_dir="runs/24gb"),
        eval_batch_size=32,
        notes=(
            ("model", _WHY_QWEN),
            ("load_in_4bit", "7.5 GiB in 16 bits fit, and nothing is lost to quantisation"),
            ("max_length", "tokens; twice that of 16gb, for rows of one's own"),
        ),
    ),
}


def detect_hardware() -> Hardware:
    """Look at the first NVIDIA GPU (through torch), the CPU, the memory and the disk of this machine."""
    import torch

    found = hardware_without_torch()
    if torch.cuda.is_available():
        gpu = torch.cuda.get_device_properties(0)
        capability = (gpu.major, gpu.minor)
        return replace(
            found,
            device="cuda",
            gpu=gpu.name,
            vram_gib=gpu.total_memory / 2**30,
            capability=capability,
            bf16=capability >= BF16_CAPABILITY,  # torch's own answer counts emulation on a T4 too
        )
    return replace(found, bf16=bool(cpu_bf16()))


def hardware_without_torch() -> Hardware:
    """The machine as it is seen where torch cannot be imported: no GPU and no bfloat16, but memory, cores and disk."""
    import psutil

    return Hardware(
        device="cpu",
        gpu=None,
        vram_gib=0.0,
        capability=None,
        bf16=False,
        ram_gib=min(psutil.virtual_memory().total / 2**30, _container_limit()),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        disk_free_gib=shutil.disk_usage(home()).free / 2**30,
    )


def _container_limit() -> float:
    """GiB of memory that a container may use; infinite outside of one."""
    try:
        return int(CONTAINER_LIMIT.read_text()) / 2**30
    except (OSError, ValueError):  # no such file, or "max"
        return float("inf")


def cpu_bf16() -> tuple[str, ...]:
    """The bfloat16 instructions that this CPU has, of those that torch's kernels use on x86 (two) and ARM (one)."""
    import torch

    abilities = torch.cpu.get_capabilities()
    return tuple(name for name in ("avx512_bf16", "amx_bf16", "bf16") if abilities.get(name))


def choose(name: str | None = None, hardware: Hardware | None = None) -> Profile:
    """The profile for this machine: the argument, else COURSE_PROFILE, else what the hardware asks for.

    Args:
        name: a profile's name; None leaves the choice to COURSE_PROFILE and the hardware.
        hardware: what to choose for; None looks at this machine.

    Returns:
        The profile, with `reason`: why it was chosen, and a warning where it does not fit the hardware.

    Raises:
        ProfileError: there is no profile of that name.
    """
    hardware = hardware or detect_hardware()
    asked, asker = name, f'setup(profile="{name}")'
    if asked is None and os.environ.get(VARIABLE):
        asked, asker = os.environ[VARIABLE], f"{VARIABLE}={os.environ[VARIABLE]}"
    if asked is None:
        found, why = _fitting(hardware)
        reason = f'{why}; set {VARIABLE} or setup(profile="…") to change it.'
    else:
        found = asked.strip().lower()
        if found not in PROFILES:
            raise ProfileError(
                f"There is no profile {asked!r} (asked for by {asker}). The profiles are {', '.join(PROFILES)}; "
                f"name one of them, or none: then the hardware decides."
            )
        reason = f"Profile {found} was asked for by {asker}."
    profile = PROFILES[found]
    if found == "cpu":
        profile = replace(profile, device=hardware.device)  # the small model, on a GPU that is too small for the others
        if not hardware.bf16:  # an old GPU has float16; a CPU emulates bfloat16, slower than its real float32
            profile = replace(profile, dtype="float16" if profile.device == "cuda" else "float32")
    warning = _misfit(profile, hardware)
    return replace(profile, reason=f"{reason} Warning: {warning}." if warning else reason)


def _fitting(hardware: Hardware) -> tuple[str, str]:
    """The name of the profile that the hardware asks for, and the first half of the sentence that says why."""
    if hardware.device == "cpu":
        return "cpu", "No NVIDIA GPU was found, so the small model is trained on the CPU (profile cpu)"
    gpu = f"{hardware.gpu} with {hardware.vram_gib:.1f} GiB"
    if hardware.vram_gib < NEEDED_VRAM_GIB:
        return (
            "cpu",
            f"Found {gpu}, but the 4-billion model needs a 16 GB GPU, so it is the small model (profile cpu)",
        )
    if not hardware.bf16:
        major, minor = hardware.capability or (0, 0)
        return "t4", f"Found {gpu}, of compute capability {major}.{minor} without bfloat16, so it is profile t4"
    if hardware.vram_gib < ROOMY_VRAM_GIB:
        return "16gb", f"Found {gpu}, so the base model is held in 4 bits (profile 16gb)"
    return "24gb", f"Found {gpu}, so the base model fits in 16 bits (profile 24gb)"


def _misfit(profile: Profile, hardware: Hardware) -> str:
    """What of this hardware does not fit the profile, or ""."""
    if profile.name == "cpu":
        if hardware.device == "cpu" and not hardware.bf16:
            return "this CPU has no bfloat16 instructions, so it computes in float32 and takes about twice as long"
        return ""
    if hardware.device == "cpu":
        return f"no NVIDIA GPU was found, and profile {profile.name} needs one; profile cpu runs here"
    needed = ROOMY_VRAM_GIB if profile.name == "24gb" else NEEDED_VRAM_GIB
    if hardware.vram_gib < needed:
        return f"{hardware.gpu} has {hardware.vram_gib:.1f} GiB and profile {profile.name} needs {needed:.0f}"
    if profile.dtype == "bfloat16" and not hardware.bf16:
        return f"{hardware.gpu} has no bfloat16 and profile {profile.name} uses it; profile t4 uses float16"
    return ""


def memory_budget(
    config: Mapping[str, Any],
    profile: Profile,
    *,
    generate: bool = False,
    bits: Literal[4, 8, 16, 32] | None = None,
) -> Budget:
    """The memory that a model needs with a profile's settings, from its config alone.

    Args:
        config: a `config.json` as a mapping, or a row of `budget.CONFIGS`.
        profile: rows, length, LoRA, optimiser, checkpointing and number format. On a CPU it is
            counted for Unsloth's CPU backend.
        generate: count generating (the evaluation's rows, with `max_new_tokens` after `max_length`) and not training.
        bits: hold the base model in so many bits; None: as the profile says.

    Returns:
        The peak, term by term. How near it came to what was measured stands in `docs/memory.md`.

    Raises:
        BudgetError: this is no config of a dense Llama- or Qwen-type model.
    """
    shape = budget.Shape.of(config)
    bits = bits or profile.bits
    always = (budget.overhead(shape, profile.device, bits), budget.weights(shape, bits))
    settings = profile.train
    if generate:
        length = settings.max_length + profile.max_new_tokens
        return Budget((*always, budget.key_value_cache(shape, rows=profile.eval_batch_size, length=length)))
    return Budget(
        (
            *always,
            *budget.adapter(shape, settings.r, settings.target_modules, settings.optimizer),
            budget.activations(
                shape,
                profile.device,
                rank=settings.r,
                rows=settings.batch_size,
                length=settings.max_length,
                checkpointing=settings.gradient_checkpointing,
            ),
            budget.loss(shape, profile.device, settings.batch_size * settings.max_length),
        )
    )


def time_budget(config: Mapping[str, Any], profile: Profile, tokens: int, speed: float) -> float:
    """The least time that training takes, from the config alone.

    Args:
        config: as for `memory_budget`.
        profile: length, LoRA and checkpointing.
        tokens: of all rows and epochs together.
        speed: floating point operations per second of the machine's matrix products, as `matmul_speed` measures.

    Returns:
        Seconds if every step ran at that speed. A real run reaches a part of it; lesson 04 shows which.
    """
    settings = profile.train
    work = budget.training_flops(
        budget.Shape.of(config),
        rank=settings.r,
        targets=settings.target_modules,
        tokens=tokens,
        length=settings.max_length,
        again=settings.gradient_checkpointing,
    )
    return work / speed


def matmul_speed(profile: Profile) -> float:
    """Floating point operations per second of this machine's matrix products, in the profile's number format.

    The fastest of a few products of a size that keeps the machine busy; takes about a second.
    """
    import torch

    cuda = torch.cuda.is_available()
    width = 8192 if cuda else 2048
    factors = torch.randn(2, width, width, device="cuda" if cuda else "cpu").to(getattr(torch, profile.dtype))
    times = []
    for _ in range(6):
        started = time.perf_counter()
        _ = factors[0] @ factors[1]
        if cuda:
            torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    return 2 * width**3 / min(times)


# ---- remedies: each takes a profile and gives the changed one, or None where it has nothing to change


def _remedy(profile: Profile, cost: str, **changes: Any) -> Remedy:
    """The profile with some settings changed, whichever of the two classes holds them."""
    own = {item.name for item in fields(Profile)}
    training = {name: value for name, value in changes.items() if name not in own}
    outer = {name: value for name, value in changes.items() if name in own}
    after = replace(profile, **outer, train=replace(profile.train, **training))
    words = [
        f"{name} {getattr(profile if name in own else profile.train, name)} -> {value}"
        for name, value in changes.items()
    ]
    return Remedy(after, ", ".join(words), cost, _peak_gib(profile), _peak_gib(after))


def _peak_gib(profile: Profile) -> float | None:
    """The predicted peak, where the model's config is bundled or on disk."""
    config, file = budget.CONFIGS.get(profile.model), home() / "models" / profile.model / "config.json"
    if config is None and file.is_file():
        config = json.loads(file.read_text(encoding="utf-8"))
    return memory_budget(config, profile).gib if config else None


def _checkpointing_on(profile: Profile) -> Remedy | None:
    if profile.train.gradient_checkpointing:
        return None
    return _remedy(profile, "the same result, about 25 % slower", gradient_checkpointing=True)


def _fewer_rows(profile: Profile) -> Remedy | None:
    rows = profile.train.batch_size
    if rows == 1:
        return None
    accumulated = profile.train.grad_accum * rows // (rows // 2)
    cost = "the same rows per step, so the same result; more passes, so slower"
    return _remedy(profile, cost, batch_size=rows // 2, grad_accum=accumulated)


def _states_in_8_bits(profile: Profile) -> Remedy | None:
    if profile.train.optimizer == "adamw_8bit" or profile.device == "cpu":  # bitsandbytes' has no CPU kernels
        return None
    return _remedy(profile, "almost the same result", optimizer="adamw_8bit")


def _base_in_4_bits(profile: Profile) -> Remedy | None:
    if profile.load_in_4bit:
        return None
    return _remedy(profile, "a little quality, and slower steps: the base is unpacked in each", load_in_4bit=True)


def _shorter_rows(profile: Profile) -> Remedy | None:
    length = profile.train.max_length
    if length <= 256:
        return None
    return _remedy(
        profile, "rows longer than that are left out; masking.build_dataset counts them", max_length=length // 2
    )


def _lower_rank(profile: Profile) -> Remedy | None:
    rank, alpha = profile.train.r, profile.train.alpha
    if rank <= 8:
        return None
    return _remedy(profile, "an adapter that can learn less", r=rank // 2, alpha=alpha // 2)


def _smaller_model(profile: Profile) -> Remedy | None:
    family = [name for name in budget.CONFIGS if name.startswith("Qwen/")]
    if profile.model not in family[1:]:
        return None
    model = family[family.index(profile.model) - 1]
    return _remedy(profile, "a weaker model; Qwen3 below 4B has hybrids only, no Instruct-2507", model=model)


def _more_rows(profile: Profile) -> Remedy | None:
    if profile.train.grad_accum == 1:
        return None
    rows, accumulated = 2 * profile.train.batch_size, profile.train.grad_accum // 2
    cost = "the same rows per step in fewer passes: faster"
    return _remedy(profile, cost, batch_size=rows, grad_accum=accumulated)


def _checkpointing_off(profile: Profile) -> Remedy | None:
    if not profile.train.gradient_checkpointing:
        return None
    return _remedy(profile, "nothing is computed twice: about 25 % faster", gradient_checkpointing=False)


def _base_in_16_bits(profile: Profile) -> Remedy | None:
    if not profile.load_in_4bit:
        return None
    return _remedy(profile, "nothing is lost to quantisation, and nothing unpacked: faster", load_in_4bit=False)


def _longer_rows(profile: Profile) -> Remedy | None:
    if profile.train.max_length >= 4096:
        return None
    cost = "helps only where rows are longer than now: look at their lengths first"
    return _remedy(profile, cost, max_length=2 * profile.train.max_length)


_SMALLER = (
    _checkpointing_on,
    _fewer_rows,
    _states_in_8_bits,
    _base_in_4_bits,
    _shorter_rows,
    _lower_rank,
    _smaller_model,
)
# The rank is not among these: vLLM serves up to 16 unless told otherwise (pitfall rank-above-server-limit), and
# memory is no reason for more.
_LARGER = (_more_rows, _checkpointing_off, _base_in_16_bits, _longer_rows)
