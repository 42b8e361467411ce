"""JSON that every reader reads alike: no key twice in one object, no NaN, nothing too deep."""

from __future__ import annotations

import json
from typing import Any

from course_utils.core.errors import printable


class Unfit(ValueError):
    """JSON that Python would read and that other readers refuse, or read in another way."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(reason)
        self.field = field


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = printable(next(name for name in found if names.count(name) > 1))
        raise Unfit(twice, f"the key {twice!r} stands twice in one object, and one value would be lost. Keep one.")
    return found


def _constant(name: str) -> None:
    raise Unfit("", f"{name} is no JSON. Write null, or leave the key out.")


class _StrictDecoder(json.JSONDecoder):
    """Reads what every reader of JSON reads alike; all else is a ValueError, a JSONDecodeError where it is misspelt."""

    def raw_decode(self, s: str, idx: int = 0) -> tuple[Any, int]:
        try:
            return super().raw_decode(s, idx)
        except RecursionError:
            raise Unfit("", "objects stand too deep in one another. Keep such a value as text.") from None


STRICT = _StrictDecoder(object_pairs_hook=_object, parse_constant=_constant)
