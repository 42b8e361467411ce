"""Equal conversations once: by a hash of their messages, within a source and across sources (C29)."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from course_utils.data.rows import plain

if TYPE_CHECKING:
    from datasets import Dataset


@dataclass(frozen=True)
class Removed:
    """A row that was taken out, and the earlier row that it repeats; rows count from 0 in the data set given."""

    row: int
    source: str
    first_row: int
    first_source: str


def message_hash(messages: list[dict[str, Any]]) -> str:
    """A hash of what is said: equal for equal messages, whatever keys Arrow added as None."""
    text = json.dumps(plain(messages), ensure_ascii=False, sort_keys=True)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def deduplicate(dataset: Dataset) -> tuple[Dataset, list[Removed]]:
    """Keep the first of equal conversations.

    Do this before splitting and mixing: after a resample it would take the asked shares apart again (trap 13).

    Args:
        dataset: rows with messages, and source where there is one.

    Returns:
        The Dataset without repeats, in its order, and what was removed.
    """
    sources = dataset["source"] if "source" in dataset.column_names else [""] * len(dataset)
    first: dict[str, int] = {}
    removed = []
    for index, (messages, source) in enumerate(zip(dataset["messages"], sources, strict=True)):
        earlier = first.setdefault(message_hash(messages), index)
        if earlier != index:
            removed.append(Removed(index, source, earlier, sources[earlier]))
    return dataset.select(sorted(first.values())), removed
