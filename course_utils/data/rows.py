"""The one row schema of the course, and how rows become a `datasets.Dataset`.

    messages  list of turns: role, content; and where present reasoning_content, tool_calls, tool_call_id
    source    the file or data set the row comes from
    tags      language ("en", "zh"), kind ("math", "chat", "json", ...) and what else is worth filtering by
    tools     only where a row has tools: their schemas as ONE JSON string

Arguments of tool calls and `tools` stay JSON strings, because Arrow would give every call the argument names of all
others (trap 10). Keys that some rows lack come back as None: a None key counts as absent, and `plain` drops it. No
column is named `prompt`, which would make TRL expect a `completion` (trap 11).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from course_utils.errors import CourseError

if TYPE_CHECKING:
    from datasets import Dataset, Features

Row = dict[str, Any]
OPTIONAL_KEYS = ("reasoning_content", "tool_calls", "tool_call_id")  # of a message


class DataError(CourseError):
    """A file, a row or a request for data that cannot be used as it is."""


def plain(value: Any) -> Any:
    """A row (or a part of one) without the keys whose value is None, at any depth.

    Args:
        value: a row, a list of messages or a message, as a `Dataset` gives it.

    Returns:
        The same in new containers. What stands inside JSON strings is not touched.
    """
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [plain(item) for item in value]
    return value


def features_of(rows: Iterable[Row]) -> Features:
    """The narrowest Arrow features that hold all keys of `rows`, so that plain chat rows stay role and content."""
    from datasets import Features, List, Value

    text = Value("string")
    call = {"type": text, "id": text, "function": {"name": text, "arguments": text}}
    optional = {"reasoning_content": text, "tool_calls": List(call), "tool_call_id": text}
    used: set[str] = set()
    has_tools = False
    for row in rows:
        has_tools = has_tools or row.get("tools") is not None
        used.update(key for message in row["messages"] for key in OPTIONAL_KEYS if message.get(key) is not None)
    message = {"role": text, "content": text} | {key: optional[key] for key in OPTIONAL_KEYS if key in used}
    columns = {"messages": List(message), "source": text, "tags": List(text)}
    return Features(columns | ({"tools": text} if has_tools else {}))


def to_dataset(rows: Sequence[Row]) -> Dataset:
    """Rows of the schema above as a `Dataset`; `source` and `tags` may be missing and are then "" and [].

    Args:
        rows: dicts with `messages` and optionally `source`, `tags`, `tools`. May be empty.

    Returns:
        A Dataset with the columns messages, source, tags, and tools where a row has some.
    """
    from datasets import Dataset

    features = features_of(rows)
    known = {"source": "", "tags": []}
    columns = {name: [row.get(name, known.get(name)) for row in rows] for name in features}
    return Dataset.from_dict(columns, features=features)


def join(parts: Sequence[Dataset]) -> Dataset:
    """Put data sets after one another, also where one has keys that another lacks.

    `datasets.concatenate_datasets` refuses a struct with an extra key; here each part is first cast to all keys.

    Args:
        parts: at least one Dataset.

    Returns:
        One Dataset; keys that a part lacked are None there.

    Raises:
        DataError: where one column holds two kinds of values.
    """
    from datasets import Features, concatenate_datasets

    merged: Any = dict(parts[0].features)
    for part in parts[1:]:
        merged = _merged(merged, dict(part.features), "row")
    features = Features(merged)
    return concatenate_datasets([part if part.features == features else _cast(part, features) for part in parts])


def _merged(left: Any, right: Any, where: str) -> Any:
    """The union of two feature trees."""
    from datasets import List

    if isinstance(left, dict) and isinstance(right, dict):
        both = {key: _merged(left[key], right[key], f"{where}.{key}") for key in left if key in right}
        return left | right | both
    if isinstance(left, List) and isinstance(right, List):
        return List(_merged(left.feature, right.feature, where))
    if left == right:
        return left
    raise DataError(
        f"These data sets cannot be joined: {where} is {left} in one and {right} in another. Make them alike first."
    )


def _cast(dataset: Dataset, features: Features) -> Dataset:
    """`dataset` with the columns and keys it lacks added as nulls (`Dataset.cast` wants the columns there)."""
    import pyarrow as pa
    from datasets import Dataset
    from datasets.table import InMemoryTable, table_cast

    if not len(dataset):
        return Dataset.from_dict({name: [] for name in features}, features=features)
    table = dataset.with_format("arrow")[:]
    schema = features.arrow_schema
    for field in schema:
        if field.name not in table.column_names:
            table = table.append_column(field.name, pa.nulls(len(table), field.type))
    return Dataset(InMemoryTable(table_cast(table.select(schema.names), schema)))


@contextmanager
def quiet() -> Iterator[None]:
    """No progress bar of `datasets` inside the block; the caller's setting is put back after it."""
    from datasets import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    were_disabled = are_progress_bars_disabled()
    disable_progress_bars()
    try:
        yield
    finally:
        if not were_disabled:
            enable_progress_bars()
