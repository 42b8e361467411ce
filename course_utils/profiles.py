"""The hardware found, the profile chosen and why, and every default of the course in one place.

A profile is a set of values that work together on one class of machine. The lessons are the same cells on all of
them; only these values differ. Choose with `setup(profile="16gb")`, with the variable COURSE_PROFILE, or not at all.
"""

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Literal

from course_utils.errors import CourseError

ROOT = Path(__file__).resolve().parent.parent
"""The clone's folder: `data/`, `models/` and `runs/` lie in it."""

VARIABLE = "COURSE_PROFILE"
NEEDED_VRAM_GIB = 14.0  # "16 GB" cards report 14.6 to 15.7 GiB
ROOMY_VRAM_GIB = 20.0  # "24 GB" cards report 22 to 23.6 GiB
BF16_CAPABILITY = (8, 0)  # Ampere; older cards have no bfloat16 arithmetic


class ProfileError(CourseError):
    """A profile was asked for that does not exist."""


def _why(text: str) -> dict[str, str]:
    """Metadata of a field: its meaning and unit, shown by `Profile.table`."""
    return {"why": text}


@dataclass(frozen=True)
class TrainSettings:
    """How an adapter is trained; each field's meaning and unit stand beside it."""

    learning_rate: float = field(
        metadata=_why("peak step size of the optimiser; LoRA bears about ten times that of full training")
    )
    epochs: float = field(metadata=_why("how often every training row is seen"))
    batch_size: int = field(metadata=_why("rows per forward pass"))
    grad_accum: int = field(
        metadata=_why("forward passes per step: batch_size x grad_accum rows move the weights once")
    )
    max_length: int = field(metadata=_why("longest row in tokens; longer ones are reported, never cut"))
    optimizer: Literal["adamw_torch", "adamw_8bit"] = field(
        metadata=_why("AdamW; the 8-bit one keeps its state in a quarter of it")
    )
    gradient_checkpointing: bool = field(
        metadata=_why("recompute activations in the backward pass: half the memory, 25 % slower")
    )
    eval_steps: int = field(metadata=_why("steps between two looks at the validation rows"))
    output_dir: str = field(metadata=_why("where adapter, log and report go, seen from the clone's folder"))
    max_steps: int = field(default=-1, metadata=_why("stop after this many steps; -1 means: as many as epochs gives"))
    warmup_steps: float = field(
        default=0.05, metadata=_why("steps of rising learning rate; below 1 it is a share of all steps")
    )
    scheduler: str = field(default="cosine", metadata=_why("shape of the learning rate after the warmup"))
    weight_decay: float = field(
        default=0.01, metadata=_why("pull of the adapter's weights to zero, per step and unit of learning rate")
    )
    r: int = field(default=16, metadata=_why("LoRA rank; vLLM serves up to 16 unless told otherwise"))
    alpha: int = field(default=32, metadata=_why("LoRA scale: the adapter's output is multiplied by alpha / r"))
    dropout: float = field(
        default=0.0, metadata=_why("share of the adapter's inputs dropped; Unsloth's fast path wants 0")
    )
    target_modules: tuple[str, ...] = field(
        default=("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
        metadata=_why(
            "layers that get an adapter: all projections, never lm_head or embed_tokens (tied; the merge would break)"
        ),
    )
    logging_steps: int = field(default=1, metadata=_why("steps between two lines of the log"))
    seed: int = field(default=42, metadata=_why("one seed for LoRA's start, row order and splits"))


@dataclass(frozen=True)
class Profile:
    """All that differs between machines; each field's meaning and unit stand beside it."""

    name: str = field(metadata=_why("cpu, t4, 16gb or 24gb"))
    model: str = field(metadata=_why("base model, a name for hub.download"))
    load_in_4bit: bool = field(metadata=_why("hold the frozen base in NF4: a quarter of the memory of bfloat16"))
    dtype: Literal["bfloat16", "float16", "float32"] = field(metadata=_why("number format of the arithmetic"))
    languages: tuple[str, ...] = field(metadata=_why("language tags of the rows trained on"))
    kinds: tuple[str, ...] = field(metadata=_why("kind tags of the rows trained on"))
    train: TrainSettings = field(metadata=_why("the training settings"))
    eval_batch_size: int = field(metadata=_why("prompts answered at once in the evaluation"))
    max_new_tokens: int = field(metadata=_why("longest reply of the evaluation, in tokens"))
    weights: tuple[tuple[str, float], ...] = field(
        default=(), metadata=_why("(source, weight) of the training mixture; empty: every row once")
    )
    notes: tuple[tuple[str, str], ...] = field(
        default=(), metadata=_why("(setting, why) where this profile has a reason of its own")
    )
    reason: str = field(default="", metadata=_why("why this profile was chosen"))

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


def _shown(value: object) -> str:
    """A setting as text: tuples with commas, pairs as `name x number`."""
    if isinstance(value, tuple):
        return ", ".join(f"{part[0]} x {part[1]:g}" if isinstance(part, tuple) else part for part in value)
    return str(value)


@dataclass(frozen=True)
class Hardware:
    """What this machine has. Sizes in GiB (2**30 bytes)."""

    device: Literal["cpu", "cuda"]
    card: str | None  # name of the first NVIDIA card
    vram_gib: float  # its memory; 0 without a card
    capability: tuple[int, int] | None  # its compute capability, (7, 5) for a T4
    bf16: bool  # bfloat16 arithmetic in hardware, on the card or else on the CPU
    ram_gib: float
    cores: int  # CPU cores this process may use
    disk_free_gib: float  # where the clone lies


_WHY_QWEN = "speaks both languages and calls tools; its 8B sister has no Instruct version (Qwen3-8B is a hybrid)"
_CARD_16GB = Profile(
    name="16gb",
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
        model="smollm2-135m-instruct",
        load_in_4bit=False,
        dtype="bfloat16",
        languages=("en",),
        kinds=("math", "chat", "json"),
        train=TrainSettings(
            learning_rate=1e-3,
            epochs=1.5,
            batch_size=4,
            grad_accum=1,
            max_length=512,
            optimizer="adamw_torch",
            gradient_checkpointing=False,
            eval_steps=70,
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
            ("learning_rate", "high, because a small model sees few rows: measured, JSON validity 0.60 to 1.00"),
            ("batch_size", "few rows, many steps: with 8 at once fewer replies took on the style"),
            ("optimizer", "the adapter has 5 million weights: nothing to save with the 8-bit one"),
            ("gradient_checkpointing", "3.7 GB fit; with it 1.8 GB and 25 % slower"),
            ("eval_batch_size", "a third faster than 16 at once"),
            ("weights", "the style takes the most rows; sums are beyond this model, so it sees few of them"),
        ),
    ),
    # A 16 GB card with two differences: no bfloat16, and 1 GiB less.
    "t4": replace(
        _CARD_16GB,
        name="t4",
        dtype="float16",
        train=replace(_CARD_16GB.train, output_dir="runs/t4"),
        eval_batch_size=8,
        notes=(
            *_CARD_16GB.notes,
            ("load_in_4bit", "2.6 GiB of weights in place of 7.5, on a card with 15 GiB"),
            ("dtype", "the card is older than Ampere and has no bfloat16"),
        ),
    ),
    "16gb": _CARD_16GB,
    # The same model as on 16 GB: there is no larger Qwen3 of this size class with an Instruct version (trap 8). The
    # room goes into a 16-bit base: nothing lost to quantisation, no unpacking of NF4 in every step, and a merge into
    # the very weights that were trained beside. 7.5 GiB of weights leave about 14 for 4 rows of 2048 tokens.
    "24gb": replace(
        _CARD_16GB,
        name="24gb",
        load_in_4bit=False,
        train=replace(_CARD_16GB.train, batch_size=4, grad_accum=4, max_length=2048, output_dir="runs/24gb"),
        eval_batch_size=32,
        notes=(
            ("model", _WHY_QWEN),
            ("load_in_4bit", "7.5 GiB in 16 bits fit, and nothing is lost to quantisation"),
            ("max_length", "tokens; twice that of 16gb, for rows of one's own"),
        ),
    ),
}


def detect_hardware() -> Hardware:
    """Look at the first NVIDIA card (through torch), the CPU, the memory and the disk of this machine."""
    import torch

    common = {
        "ram_gib": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        "disk_free_gib": shutil.disk_usage(ROOT).free / 2**30,
    }
    if torch.cuda.is_available():
        card = torch.cuda.get_device_properties(0)
        capability = (card.major, card.minor)
        return Hardware(
            device="cuda",
            card=card.name,
            vram_gib=card.total_memory / 2**30,
            capability=capability,
            bf16=capability >= BF16_CAPABILITY,  # torch's own answer counts emulation on a T4 too
            **common,
        )
    abilities = torch.cpu.get_capabilities()
    return Hardware(
        device="cpu",
        card=None,
        vram_gib=0.0,
        capability=None,
        bf16=any(abilities.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16")),  # x86, x86, ARM
        **common,
    )


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
    if found == "cpu" and hardware.device == "cuda" and not hardware.bf16:
        profile = replace(profile, dtype="float16")  # a small old card
    if found == "cpu" and hardware.device == "cpu" and not hardware.bf16:
        profile = replace(profile, dtype="float32")  # emulated bfloat16 is slower than the real float32
    warning = _misfit(profile, hardware)
    return replace(profile, reason=f"{reason} Warning: {warning}." if warning else reason)


def _fitting(hardware: Hardware) -> tuple[str, str]:
    """The name of the profile that the hardware asks for, and the first half of the sentence that says why."""
    if hardware.device == "cpu":
        return "cpu", "No NVIDIA card was found, so the small model is trained on the CPU (profile cpu)"
    card = f"{hardware.card} with {hardware.vram_gib:.1f} GiB"
    if hardware.vram_gib < NEEDED_VRAM_GIB:
        return (
            "cpu",
            f"Found {card}, but the 4-billion model needs a 16 GB card, so it is the small model (profile cpu)",
        )
    if not hardware.bf16:
        major, minor = hardware.capability or (0, 0)
        return "t4", f"Found {card}, of compute capability {major}.{minor} without bfloat16, so it is profile t4"
    if hardware.vram_gib < ROOMY_VRAM_GIB:
        return "16gb", f"Found {card}, so the base model is held in 4 bits (profile 16gb)"
    return "24gb", f"Found {card}, so the base model fits in 16 bits (profile 24gb)"


def _misfit(profile: Profile, hardware: Hardware) -> str:
    """What of this hardware does not fit the profile, or ""."""
    if profile.name == "cpu":
        if hardware.device == "cpu" and not hardware.bf16:
            return "this CPU has no bfloat16 instructions, so it computes in float32 and takes about twice as long"
        return ""
    if hardware.device == "cpu":
        return f"no NVIDIA card was found, and profile {profile.name} needs one; profile cpu runs here"
    needed = ROOMY_VRAM_GIB if profile.name == "24gb" else NEEDED_VRAM_GIB
    if hardware.vram_gib < needed:
        return f"{hardware.card} has {hardware.vram_gib:.1f} GiB and profile {profile.name} needs {needed:.0f}"
    if profile.dtype == "bfloat16" and not hardware.bf16:
        return f"{hardware.card} has no bfloat16 and profile {profile.name} uses it; profile t4 uses float16"
    return ""
