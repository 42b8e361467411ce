"""What to change in a profile when memory runs out or the GPU stands idle, one step at a time (C37)."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from course_utils.core import budget
from course_utils.core.paths import home
from course_utils.core.profiles import Profile, memory_budget
from course_utils.core.settings import TrainSettings


@dataclass(frozen=True)
class Remedy:
    """One change of a profile, for a GPU that is too small or stands idle."""

    profile: Profile  # with the change
    change: str  # the settings that differ, in words
    cost: str  # or what it brings
    before_gib: float | None  # predicted peak without the change; None for a model whose config is not at hand
    after_gib: float | None  # and with it


def smaller(profile: Profile) -> Remedy | None:
    """The next remedy when memory ran out, the one that harms the result least; None where nothing can be smaller."""
    return next(_remedies(profile, _smaller(profile)), None)


def larger(profile: Profile, room_gib: float) -> Remedy | None:
    """The next remedy for an idle GPU of `room_gib`: more speed first, then more quality; None where no more fits."""
    found = _remedies(profile, _larger(profile))
    return next((remedy for remedy in found if remedy.after_gib is not None and remedy.after_gib < room_gib), None)


_Changes = Iterator[tuple[dict[str, Any], str]]  # new values, all of the profile or all of its training; cost or gain


def _remedies(profile: Profile, changes: _Changes) -> Iterator[Remedy]:
    """One remedy for each of the changes that changes anything in this profile."""
    for new, cost in changes:
        part = profile if all(hasattr(profile, name) for name in new) else profile.train
        changed = replace(part, **new)
        if changed != part:
            after = changed if part is profile else replace(profile, train=changed)
            words = ", ".join(f"{name} {getattr(part, name)} -> {value}" for name, value in new.items())
            yield Remedy(after, words, cost, _peak_gib(profile), _peak_gib(after))


def _peak_gib(profile: Profile) -> float | None:
    """The predicted peak, where the model's config is bundled or on disk."""
    config, file = budget.CONFIGS.get(profile.model), home() / "models" / profile.model / "config.json"
    if config is None and file.is_file():
        config = json.loads(file.read_text(encoding="utf-8"))
    return memory_budget(config, profile).gib if config else None


def _smaller(now: Profile) -> _Changes:
    train = now.train
    yield {"gradient_checkpointing": True}, "the same result, about 25 % slower"
    yield _rows(train, "batch_size"), "the same rows per step, so the same result; more passes, so slower"
    if (train.optimizer, now.device) == ("adamw_torch", "cuda"):  # bitsandbytes has no CPU kernels for the 8-bit ones
        yield {"optimizer": "adamw_8bit"}, "almost the same result"
    yield {"load_in_4bit": True}, "a little quality, and slower steps: the base is unpacked in each"
    if train.max_length > 256:
        cost = "rows longer than that are left out; masking.build_dataset counts them"
        yield {"max_length": train.max_length // 2}, cost
    if train.r > 8:
        yield {"r": train.r // 2, "alpha": train.alpha // 2}, "an adapter that can learn less"
    qwen = [name for name in budget.CONFIGS if name.startswith("Qwen/")]  # from the smallest to the largest
    if now.model in qwen[1:]:
        cost = "a weaker model; Qwen3 below 4B has hybrids only, no Instruct-2507"
        yield {"model": qwen[qwen.index(now.model) - 1]}, cost


def _larger(now: Profile) -> _Changes:
    """Without the rank: vLLM serves up to 16 unless told otherwise (pitfall rank-above-server-limit)."""
    yield _rows(now.train, "grad_accum"), "the same rows per step in fewer passes: faster"
    yield {"gradient_checkpointing": False}, "nothing is computed twice: about 25 % faster"
    yield {"load_in_4bit": False}, "nothing is lost to quantisation, and nothing unpacked: faster"
    if now.train.max_length < 4096:
        gain = "helps only where rows are longer than now: look at their lengths first"
        yield {"max_length": now.train.max_length * 2}, gain


def _rows(train: TrainSettings, fewer: str) -> dict[str, int]:
    """`fewer` divided and the other multiplied by the same number, so that a step sees as many rows as before."""
    sizes = {"batch_size": train.batch_size, "grad_accum": train.grad_accum}
    factor = next((number for number in range(2, sizes[fewer] + 1) if sizes[fewer] % number == 0), 1)
    return {name: size // factor if name == fewer else size * factor for name, size in sizes.items()}
