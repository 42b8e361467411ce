"""The profiles, which hold every default of the course (`profiles.toml`), and which of them suits a machine.

A profile is a set of values that work together on one class of machine. The lessons run the same cells everywhere;
only these values differ. Choose one with `setup(profile="16gb")`, with the variable COURSE_PROFILE, or not at all.
"""

import os
import tomllib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from course_utils.core import budget
from course_utils.core.budget import Budget
from course_utils.core.errors import CourseError
from course_utils.core.hardware import Hardware, detect_hardware
from course_utils.core.settings import TrainSettings, meanings

VARIABLE = "COURSE_PROFILE"
# GPUs of 8, 16 and 24 GB report from 7.5, 14.6 and 22 GiB on.
NEEDED_VRAM_GIB = {"8gb": 7.0, "t4": 14.0, "16gb": 14.0, "24gb": 20.0}
TRITON_SINCE = (7, 0)  # compute capability; Unsloth's kernels are written in Triton
NEEDED_RAM_GIB = {True: 10.0, False: 14.0}  # for the real Qwen on a CPU, in bfloat16 and in float32, and work beside it


class ProfileError(CourseError):
    """There is no profile of that name."""


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Profile:
    """All that differs between machines; each field's meaning and unit stand beside it."""

    name: str = Field(description="tiny, cpu, 8gb, t4, 16gb or 24gb")
    device: budget.Device = Field(description="where the model lies and is trained: cpu, or cuda for an NVIDIA GPU")
    model: str = Field(description="base model, a name for hub.download")
    load_in_4bit: bool = Field(description="hold the frozen base in NF4: a quarter of the memory of bfloat16")
    dtype: Literal["bfloat16", "float16", "float32"] = Field(description="number format of the arithmetic")
    languages: tuple[str, ...] = Field(description="language tags of the rows trained on")
    kinds: tuple[str, ...] = Field(description="kind tags of the rows trained on")
    train: TrainSettings = Field(description="the training settings")
    eval_in_4bit: bool = Field(description="hold the base in NF4 also where it answers: half the speed of 16 bits")
    eval_batch_size: int = Field(description="prompts answered at once in the evaluation")
    max_new_tokens: int = Field(description="longest reply of the evaluation, in tokens")
    weights: tuple[tuple[str, float], ...] = Field((), description="(source, weight) of the mix; none: all rows once")
    notes: tuple[tuple[str, str], ...] = Field((), description="(setting, why) where the profile has its own reason")
    reason: str = Field("", description="why this profile was chosen")

    @property
    def bits(self) -> Literal[4, 16, 32]:
        """Bits of a weight of the frozen base."""
        return 4 if self.load_in_4bit else 32 if self.dtype == "float32" else 16

    def table(self) -> list[tuple[str, str, str]]:
        """(setting, value, why) for each setting, training included; why: the profile's own reason or the meaning."""
        notes, rows = dict(self.notes), []
        for part in (self, self.train):
            for name, meaning in meanings(type(part)).items():
                if name in {"train", "notes", "reason"}:
                    continue
                value = getattr(part, name)
                if isinstance(value, tuple):
                    value = ", ".join(f"{each[0]} x {each[1]:g}" if isinstance(each, tuple) else each for each in value)
                rows.append((name, str(value), notes.get(name, meaning)))
        return rows


def _profile(name: str, tables: Mapping[str, Any]) -> Profile:
    """A table of profiles.toml, checked by pydantic; a run lies in a folder of the profile's name."""
    own, like = tables[name], tables.get(tables[name].get("like"), {})
    train = TrainSettings(output_dir=f"runs/{name}", **like.get("train", {}) | own.get("train", {}))
    pairs = {key: tuple(own.get(key, {}).items()) for key in ("weights", "notes")}
    values = {key: value for key, value in (like | own).items() if key != "like"}
    return Profile(**values | pairs | {"name": name, "train": train})


_TABLES = tomllib.loads(Path(__file__).with_name("profiles.toml").read_text(encoding="utf-8"))
PROFILES: Mapping[str, Profile] = {name: _profile(name, _TABLES) for name in _TABLES}


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
    asked = name if name is not None else os.environ.get(VARIABLE) or None
    if asked is None:
        found, why = _fitting(hardware)
        reason = f'{why}; set {VARIABLE} or setup(profile="…") to change it.'
    else:
        found, asker = asked.strip().lower(), f"{VARIABLE}={asked}" if name is None else f'setup(profile="{name}")'
        if found not in PROFILES:
            raise ProfileError(
                f"There is no profile {asked!r} (asked for by {asker}). The profiles are {', '.join(PROFILES)}; "
                f"name one of them, or none: then the hardware decides."
            )
        reason = f"Profile {found} was asked for by {asker}."
    profile = PROFILES[found]
    if profile.device == "cpu":
        profile = replace(profile, device=hardware.device)  # a small model, on a GPU that is too small for the others
    if not hardware.bf16 and found in ("8gb", "cpu", "tiny"):
        # An old GPU has float16; a CPU emulates bfloat16, slower than its real float32.
        profile = replace(profile, dtype="float16" if profile.device == "cuda" else "float32")
    warning = _misfit(profile, hardware)
    return replace(profile, reason=f"{reason} Warning: {warning}." if warning else reason)


def _fitting(hardware: Hardware) -> tuple[str, str]:
    """The name of the profile that the hardware asks for, and the first half of the sentence that says why."""
    if hardware.device == "cpu":
        memory, name = f"{hardware.ram_gib:.0f} GiB of memory", PROFILES["cpu"].model
        if hardware.ram_gib < NEEDED_RAM_GIB[hardware.bf16]:
            return "tiny", f"No NVIDIA GPU and only {memory}, so the smallest model is trained here (profile tiny)"
        return "cpu", f"No NVIDIA GPU was found, and {memory}, so {name} is trained on the CPU (profile cpu)"
    gpu = f"{hardware.gpu} with {hardware.vram_gib:.1f} GiB"
    major, minor = hardware.capability or (0, 0)
    if hardware.vram_gib < NEEDED_VRAM_GIB["8gb"] or (major, minor) < TRITON_SINCE:
        needs = "an 8 GB GPU of compute capability 7.0"
        return "cpu", f"Found {gpu}, but the 4-billion model needs {needs}, so it is a small one (profile cpu)"
    if hardware.vram_gib < NEEDED_VRAM_GIB["16gb"]:
        return "8gb", f"Found {gpu}, so the base model is held in 4 bits and answers so, too (profile 8gb)"
    if not hardware.bf16:
        return "t4", f"Found {gpu}, of compute capability {major}.{minor} without bfloat16, so it is profile t4"
    if hardware.vram_gib < NEEDED_VRAM_GIB["24gb"]:
        return "16gb", f"Found {gpu}, so the base model is held in 4 bits (profile 16gb)"
    return "24gb", f"Found {gpu}, so the base model fits in 16 bits (profile 24gb)"


def _misfit(profile: Profile, hardware: Hardware) -> str:
    """What of this hardware does not fit the profile, or ""."""
    if profile.name in ("cpu", "tiny"):
        if profile.name == "cpu" and hardware.device == "cpu" and hardware.ram_gib < NEEDED_RAM_GIB[hardware.bf16]:
            return f"this machine has {hardware.ram_gib:.0f} GiB of memory; profile tiny needs less"
        slow = "this CPU has no bfloat16 instructions, so it computes in float32 and takes about 2.5 times as long"
        return slow if hardware.device == "cpu" and not hardware.bf16 else ""
    if hardware.device == "cpu":
        return f"no NVIDIA GPU was found, and profile {profile.name} needs one; profile cpu runs here"
    needed = NEEDED_VRAM_GIB[profile.name]
    if hardware.vram_gib < needed:
        return f"{hardware.gpu} has {hardware.vram_gib:.1f} GiB and profile {profile.name} needs {needed:.0f}"
    if profile.dtype == "bfloat16" and not hardware.bf16:
        return f"{hardware.gpu} has no bfloat16 and profile {profile.name} uses it; profile t4 uses float16"
    return ""


def memory_budget(
    config: Mapping[str, Any], profile: Profile, *, generate: bool = False, bits: Literal[4, 8, 16, 32] | None = None
) -> Budget:
    """The memory that a model needs with a profile's settings, from its config alone.

    Args:
        config: a `config.json` as a mapping, or a row of `budget.CONFIGS`.
        profile: rows, length, LoRA, optimiser, checkpointing, number format, and whether Unsloth's CPU or CUDA
            backend trains.
        generate: count the evaluation (its rows, with `max_new_tokens` after `max_length`), not training.
        bits: hold the base model in this many bits; None: as the profile says.

    Returns:
        The peak, term by term. `docs/memory.md` sets it against what was measured.

    Raises:
        BudgetError: this is no config of a dense Llama- or Qwen-type model.
    """
    shape, device, settings = budget.Shape.of(config), profile.device, profile.train
    number = 4 if profile.dtype == "float32" else 2
    in_16 = shape.linear_layers or (generate and not profile.eval_in_4bit)  # `modeling.load_model` says why
    bits = bits or (8 * number if in_16 else profile.bits)
    terms = [budget.overhead(shape, device, bits), budget.weights(shape, bits)]
    if generate:
        length = settings.max_length + profile.max_new_tokens
        cache = budget.key_value_cache(shape, rows=profile.eval_batch_size, length=length, number=number)
        scores = budget.scores(shape, rows=profile.eval_batch_size, length=settings.max_length, number=number)
        terms.append(max(cache, scores, key=lambda term: term.bytes))  # one after the other
    else:
        terms += budget.adapter(shape, settings.r, settings.target_modules, settings.optimizer)
        terms.append(budget.activations(shape, device, settings, number))
        terms.append(budget.loss(shape, device, settings.batch_size * settings.max_length, number))
    return Budget(tuple(terms))
