"""What to change in a profile when memory runs out or the GPU stands idle, one step at a time (C37)."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from course_utils.core import budget
from course_utils.core.paths import home
from course_utils.core.profiles import Profile, memory_budget


@dataclass(frozen=True)
class Remedy:
    """One change of a profile, for a GPU that is too small or stands idle."""

    profile: Profile  # with the change
    change: str  # the settings that differ, in words
    cost: str  # or what it brings
    before_gib: float | None  # predicted peak without the change; None for a model whose config is not at hand
    after_gib: float | None  # and with it


def smaller(profile: Profile) -> Remedy | None:
    """The next remedy when memory ran out; the one that harms the result least comes first.

    Returns:
        The change, its cost and its predicted effect; None where nothing is left to make smaller.
    """
    return next(_remedies(profile, _SMALLER), None)


def larger(profile: Profile, room_gib: float) -> Remedy | None:
    """The next remedy for a GPU that stands idle: more speed first, then more quality.

    Args:
        profile: what to change.
        room_gib: the GPU's memory; changes that need more are left out.

    Returns:
        The change, its cost and its predicted effect; None where nothing more fits.
    """
    found = _remedies(profile, _LARGER)
    return next((remedy for remedy in found if remedy.after_gib is not None and remedy.after_gib < room_gib), None)


def _remedies(profile: Profile, table: "_Table") -> Iterator[Remedy]:
    """One remedy for each row of the table that changes anything in this profile."""
    for changes, cost in table:
        new = changes(profile)
        part = profile if all(hasattr(profile, name) for name in new) else profile.train  # no row changes both
        changed = replace(part, **new)
        if changed == part:
            continue
        after = changed if part is profile else replace(profile, train=changed)
        words = ", ".join(f"{name} {getattr(part, name)} -> {value}" for name, value in new.items())
        yield Remedy(after, words, cost, _peak_gib(profile), _peak_gib(after))


def _peak_gib(profile: Profile) -> float | None:
    """The predicted peak, where the model's config is bundled or on disk."""
    config, file = budget.CONFIGS.get(profile.model), home() / "models" / profile.model / "config.json"
    if config is None and file.is_file():
        config = json.loads(file.read_text(encoding="utf-8"))
    return memory_budget(config, profile).gib if config else None


# ---- the tables: new values, which are the old ones where there is nothing to change, and what they cost or bring

_Table = tuple[tuple[Callable[[Profile], dict[str, Any]], str], ...]


def _rows(now: Profile, fewer: str) -> dict[str, int]:
    """`fewer` divided and the other multiplied by the same number, so that a step sees as many rows as before."""
    sizes = {"batch_size": now.train.batch_size, "grad_accum": now.train.grad_accum}
    factor = next((number for number in range(2, sizes[fewer] + 1) if sizes[fewer] % number == 0), 1)
    return {name: size // factor if name == fewer else size * factor for name, size in sizes.items()}


def _half(value: int, least: int) -> int:
    return value // 2 if value > least else value


def _optimizer(now: Profile) -> str:
    """The 8-bit one on a GPU; bitsandbytes has no CPU kernels for it."""
    return "adamw_8bit" if (now.train.optimizer, now.device) == ("adamw_torch", "cuda") else now.train.optimizer


_QWEN = [name for name in budget.CONFIGS if name.startswith("Qwen/")]  # from the smallest to the largest
_NEXT_SMALLER = dict(zip(_QWEN[1:], _QWEN, strict=False))

_SMALLER: _Table = (
    (lambda now: {"gradient_checkpointing": True}, "the same result, about 25 % slower"),
    (lambda now: _rows(now, "batch_size"), "the same rows per step, so the same result; more passes, so slower"),
    (lambda now: {"optimizer": _optimizer(now)}, "almost the same result"),
    (lambda now: {"load_in_4bit": True}, "a little quality, and slower steps: the base is unpacked in each"),
    (
        lambda now: {"max_length": _half(now.train.max_length, least=256)},
        "rows longer than that are left out; masking.build_dataset counts them",
    ),
    (
        lambda now: {"r": _half(now.train.r, least=8), "alpha": now.train.alpha // (2 if now.train.r > 8 else 1)},
        "an adapter that can learn less",
    ),
    (
        lambda now: {"model": _NEXT_SMALLER.get(now.model, now.model)},
        "a weaker model; Qwen3 below 4B has hybrids only, no Instruct-2507",
    ),
)
# The rank is not among these: vLLM serves up to 16 unless told otherwise (pitfall rank-above-server-limit), and
# memory to spare is no reason for more.
_LARGER: _Table = (
    (lambda now: _rows(now, "grad_accum"), "the same rows per step in fewer passes: faster"),
    (lambda now: {"gradient_checkpointing": False}, "nothing is computed twice: about 25 % faster"),
    (lambda now: {"load_in_4bit": False}, "nothing is lost to quantisation, and nothing unpacked: faster"),
    (
        lambda now: {"max_length": now.train.max_length * (2 if now.train.max_length < 4096 else 1)},
        "helps only where rows are longer than now: look at their lengths first",
    ),
)
