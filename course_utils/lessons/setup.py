"""The first cell of every lesson: the profile, the paths, and what the lesson needs, made where it is missing."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from course_utils import data, hub
from course_utils.core import profiles
from course_utils.core.errors import CourseError
from course_utils.core.hardware import Hardware, detect_hardware
from course_utils.core.language import said
from course_utils.core.paths import home, large_dir, seen_from_here
from course_utils.core.profiles import Profile
from course_utils.core.programs import TEXT
from course_utils.lessons import machine, tables
from course_utils.train import modeling

TOKENIZERS = ("qwen3-tokenizer", "qwen3-instruct-2507-tokenizer")


class LessonError(CourseError):
    """A lesson that failed, or that needs something nobody can make for it."""


@dataclass(frozen=True)
class Need:
    """Something that a lesson finds on disk, or has made for it."""

    what: str  # in words, with the time it takes to make it on two cores
    there: Callable[[Profile], bool]  # True where it is on disk already
    make: Callable[[Profile], Any]
    after: tuple[str, ...] = ()  # the needs that must be there first


def _command(name: str) -> Callable[[Profile], None]:
    """Make a need with `python -m course_utils NAME`, in a process of its own: it may need Unsloth, or much memory."""

    def run(profile: Profile) -> None:
        command = ["-m", "course_utils", name, "--profile", profile.name, "--model", profile.model]
        done = subprocess.run([sys.executable, *command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **TEXT)
        if done.returncode:
            last = " | ".join(done.stdout.strip().splitlines()[-3:])
            raise LessonError(f"`python {' '.join(command)}` failed: {last}")

    return run


def at_home(profile: Profile) -> Profile:
    """The profile with its run's folder as seen from the current one, so that every later call finds it."""
    folder = seen_from_here(home() / profile.train.output_dir)
    return replace(profile, train=replace(profile.train, output_dir=str(folder)))


def with_model(profile: Profile, model: str | None) -> Profile:
    """The profile with another model (None: with its own), whose runs lie in a folder inside that of the profile's."""
    if model in {None, profile.model}:
        return profile
    folder = f"{profile.train.output_dir}/{model.replace('/', '--')}"
    return replace(profile, model=model, train=replace(profile.train, output_dir=folder))


def run_dir(profile: Profile) -> Path:
    """The folder of everything that a profile's run writes."""
    return Path(profile.train.output_dir)


def merged_dir(profile: Profile) -> Path:
    """The folder of the merged model."""
    return large_dir(run_dir(profile)) / "merged"


NEEDS: dict[str, Need] = {
    "tokenizers": Need(
        "both Qwen3 tokenizers (half a minute)",
        lambda profile: all((home() / "models" / name / "tokenizer.json").is_file() for name in TOKENIZERS),
        lambda profile: [hub.download(name) for name in TOKENIZERS],
    ),
    "model": Need(
        "the base model (a minute for the small one; 8 GB for Qwen3-4B)",
        lambda profile: (home() / "models" / profile.model / "config.json").is_file(),
        lambda profile: hub.download(profile.model),
    ),
    "data": Need(
        "the training and validation rows (seconds)",
        lambda profile: (home() / "data/build" / profile.name / "train").is_dir(),
        data.build,
    ),
    "adapter": Need(
        "the trained adapter (10 minutes)",
        lambda profile: (run_dir(profile) / "adapter/adapter_model.safetensors").is_file(),
        _command("train"),
        after=("model", "data"),
    ),
    "evaluation": Need(
        "the before/after table (a quarter of an hour)",
        lambda profile: (run_dir(profile) / "evaluation.json").is_file(),
        _command("evaluate"),
        after=("adapter",),
    ),
    "merged": Need(
        "the merged model (10 seconds)",
        lambda profile: (merged_dir(profile) / "config.json").is_file(),
        _command("merge"),
        after=("adapter",),
    ),
}


@dataclass(frozen=True, repr=False)
class Setup(tables.Shown):
    """What the first cell of a lesson found and made."""

    profile: Profile  # the profile in use, with the reason
    hardware: Hardware
    versions: dict[str, str]  # of the packages that a lesson computes with
    made: tuple[str, ...]  # what was missing and has been made, in words
    home: Path  # the folder of `data/`, `models/` and `runs/`, seen from the current one
    model_dir: Path  # where the base model lies (or will lie)
    run_dir: Path  # where this profile's run is written

    @property
    def merged_dir(self) -> Path:
        """The folder of the merged model; a GGUF file lies in a folder beside it."""
        return merged_dir(self.profile)


def setup(needs: Sequence[str] = (), profile: str | None = None, model: str | None = None) -> Setup:
    """The first cell of every lesson: choose the profile, and make what is missing.

    Args:
        needs: names out of `NEEDS`. What is missing is made by the package's own commands, and what those need before
            it. "model" also imports Unsloth, which must come before transformers.
        profile: a profile's name; None leaves the choice to COURSE_PROFILE and the hardware.
        model: another model than the profile's, a name for `hub.download`; see `with_model`.

    Returns:
        A table for people, with the profile and the paths as attributes.

    Raises:
        LessonError: an unknown need, or one that could not be made.
        ProfileError: an unknown profile.
    """
    if unknown := [name for name in needs if name not in NEEDS]:
        raise LessonError(f"Nothing is called {', '.join(unknown)}; a lesson can need {', '.join(NEEDS)}.")
    hardware = detect_hardware()
    chosen = at_home(with_model(profiles.choose(profile, hardware), model))
    if "model" in needs:
        modeling.import_unsloth()
    made = tuple(what for name in needs for what in _provide(name, chosen))
    root = seen_from_here(home())
    versions = machine.versions(machine.STACK)
    gpu = f"{hardware.gpu}, {hardware.vram_gib:.1f} GiB" if hardware.gpu else "no NVIDIA GPU"
    rows = [
        ("profile", chosen.name),
        ("why", chosen.reason),
        ("model", f"{chosen.model}{', in 4 bits' if chosen.load_in_4bit else ''}, {chosen.dtype}"),
        ("machine", f"{gpu}; {hardware.cores} cores, {hardware.ram_gib:.0f} GiB memory"),
        ("versions", " · ".join(f"{name} {number}" for name, number in versions.items())),
        *(("made just now", what) for what in made),
    ]
    shown = tables.table([tuple(map(said, row)) for row in rows], columns=("setup", "value"))
    folders = root, root / "models" / chosen.model
    return Setup(shown.text, shown.html, chosen, hardware, versions, made, *folders, run_dir(chosen))


def _provide(name: str, profile: Profile) -> Iterator[str]:
    """Make a need and what it needs before it, where they are missing; yield each in words."""
    need = NEEDS[name]
    if need.there(profile):
        return
    for earlier in need.after:
        yield from _provide(earlier, profile)
    started = time.monotonic()
    need.make(profile)
    yield f"{need.what.split(' (')[0]}, {time.monotonic() - started:.0f} s"
