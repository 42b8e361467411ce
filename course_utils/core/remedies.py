"""What to change where memory ran out, or where the GPU stands idle, in the order in which to try it (C37)."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from course_utils.core import budget
from course_utils.core.paths import home
from course_utils.core.profiles import Profile, memory_budget

LONGEST = 4096  # tokens; rows beyond it are rare
SHORTEST = 256
LOWEST_RANK = 8


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


def smaller(profile: Profile) -> Remedy | None:
    """The next remedy where memory ran out: what costs the result least comes first.

    Args:
        profile: the one that was too large.

    Returns:
        The change, its cost and its predicted effect; None where nothing is left to make smaller.
    """
    return next(_remedies(profile, _SMALLER), None)


def larger(profile: Profile, room_gib: float) -> Remedy | None:
    """The next remedy for a GPU that stands idle: what brings the most speed, then the most quality.

    Args:
        profile: the one that leaves room.
        room_gib: the GPU's memory; changes that need more are left out.

    Returns:
        The change, its cost and its predicted effect; None where nothing more fits.
    """
    found = _remedies(profile, _LARGER)
    return next((remedy for remedy in found if remedy.after_gib is not None and remedy.after_gib < room_gib), None)


Change = Callable[[Profile], dict[str, Any]]
"""The settings that a remedy changes; none where it has nothing to change."""


def _remedies(profile: Profile, changes: Sequence[tuple[Change, str]]) -> Iterator[Remedy]:
    """Each remedy that has something to change, in order."""
    own = {item.name for item in fields(Profile)}
    for change, cost in changes:
        settings = change(profile)
        if not settings:
            continue
        outer = {name: value for name, value in settings.items() if name in own}
        training = {name: value for name, value in settings.items() if name not in own}
        after = replace(profile, **outer, train=replace(profile.train, **training))
        words = [
            f"{name} {getattr(profile if name in own else profile.train, name)} -> {value}"
            for name, value in settings.items()
        ]
        yield Remedy(after, ", ".join(words), cost, _peak_gib(profile), _peak_gib(after))


def _peak_gib(profile: Profile) -> float | None:
    """The predicted peak, where the model's config is bundled or on disk."""
    config, file = budget.CONFIGS.get(profile.model), home() / "models" / profile.model / "config.json"
    if config is None and file.is_file():
        config = json.loads(file.read_text(encoding="utf-8"))
    return memory_budget(config, profile).gib if config else None


def _fewer_rows(profile: Profile) -> dict[str, Any]:
    rows = profile.train.batch_size
    if rows == 1:
        return {}
    return {"batch_size": rows // 2, "grad_accum": profile.train.grad_accum * rows // (rows // 2)}


def _states_in_8_bits(profile: Profile) -> dict[str, Any]:
    if profile.train.optimizer == "adamw_8bit" or profile.device == "cpu":  # bitsandbytes' has no CPU kernels
        return {}
    return {"optimizer": "adamw_8bit"}


def _lower_rank(profile: Profile) -> dict[str, Any]:
    rank, alpha = profile.train.r, profile.train.alpha
    return {"r": rank // 2, "alpha": alpha // 2} if rank > LOWEST_RANK else {}


def _smaller_model(profile: Profile) -> dict[str, Any]:
    family = [name for name in budget.CONFIGS if name.startswith("Qwen/")]
    return {"model": family[family.index(profile.model) - 1]} if profile.model in family[1:] else {}


def _more_rows(profile: Profile) -> dict[str, Any]:
    if profile.train.grad_accum == 1:
        return {}
    return {"batch_size": 2 * profile.train.batch_size, "grad_accum": profile.train.grad_accum // 2}


def _shorter(profile: Profile) -> dict[str, Any]:
    length = profile.train.max_length
    return {"max_length": length // 2} if length > SHORTEST else {}


def _longer(profile: Profile) -> dict[str, Any]:
    length = profile.train.max_length
    return {"max_length": 2 * length} if length < LONGEST else {}


def _checkpointing(on: bool) -> Change:
    return lambda profile: {} if profile.train.gradient_checkpointing is on else {"gradient_checkpointing": on}


def _in_4_bits(on: bool) -> Change:
    return lambda profile: {} if profile.load_in_4bit is on else {"load_in_4bit": on}


_SMALLER = (
    (_checkpointing(True), "the same result, about 25 % slower"),
    (_fewer_rows, "the same rows per step, so the same result; more passes, so slower"),
    (_states_in_8_bits, "almost the same result"),
    (_in_4_bits(True), "a little quality, and slower steps: the base is unpacked in each"),
    (_shorter, "rows longer than that are left out; masking.build_dataset counts them"),
    (_lower_rank, "an adapter that can learn less"),
    (_smaller_model, "a weaker model; Qwen3 below 4B has hybrids only, no Instruct-2507"),
)
# The rank is not among these: vLLM serves up to 16 unless told otherwise (pitfall rank-above-server-limit), and memory
# is no reason for more.
_LARGER = (
    (_more_rows, "the same rows per step in fewer passes: faster"),
    (_checkpointing(False), "nothing is computed twice: about 25 % faster"),
    (_in_4_bits(False), "nothing is lost to quantisation, and nothing unpacked: faster"),
    (_longer, "helps only where rows are longer than now: look at their lengths first"),
)
