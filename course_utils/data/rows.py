"""The one row schema of the course, and how rows become a `Dataset` or a JSONL file.

    messages  list of turns: role, content; and where present reasoning_content, tool_calls, tool_call_id, name, and
              weight, which is 0 on a turn of the assistant that is not to be learned
    source    the file or data set the row comes from
    tags      language ("en", "zh"), kind ("math", "chat", "json", ...) and what else is worth filtering by

and only where a row has them:

    id        its own, or source:number; traces it back to its file
    tools     their schemas as ONE JSON string
    chosen, rejected        preference: each a list of the one turn that answers `messages`, which is the prompt
    label     KTO: whether the reply that `messages` ends with is a good one
    text      pretraining: the text; `messages` is then []
    images, videos, audios  names of files, one for each placeholder in the turns

Arguments of tool calls and `tools` stay JSON strings, because Arrow would give every call the argument names of all
others (pitfall arrow-invents-arguments). Keys that some rows lack come back as None: a None key counts as absent, and
`plain` drops it. No column is named `prompt`, which would make TRL expect a `completion` (pitfall prompt-column): a
preference's prompt is `messages`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from course_utils.core.files import atomic_file
from course_utils.data.records import DataError, Row
from course_utils.text.messages import LEARN_FLAGS, is_learned
from course_utils.text.script import shows

if TYPE_CHECKING:
    from datasets import Dataset, Features

Rows = TypeVar("Rows", "Dataset", list[Row])  # what most steps take and give back: a data set, or plain dicts
REPLIES = ("chosen", "rejected")
MEDIA = ("images", "videos", "audios")
COLUMNS = {"messages", "source", "tags", "id", "tools", *REPLIES, "label", "text", *MEDIA}
TEXTS = ("content", "reasoning_content")  # keys of a turn
# C0 and C1 controls but tab and line break, the byte order mark, marks that turn the writing direction.
CONTROL = re.compile(r"[\x00-\x08\x0e-\x1f\x7f-\x9f\ufeff\u202a-\u202e\u2066-\u2069]")
HALF = re.compile("[\ud800-\udfff]")
NOT_UTF8 = "holds bytes that are not UTF-8, or half of a character. Save the file as UTF-8, or take it out."
BAR_AFTER = 2.0  # seconds of work before a progress bar appears


def plain(value: Any) -> Any:
    """A row of a `Dataset` (or a part of one) in new containers, without the keys whose value is None, at any depth."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [plain(item) for item in value]
    return value


def weighed(row: Row) -> Row:
    """A row whose turns say by `weight: 0` alone that they are not learned (pitfall do-not-learn-ignored).

    Raises:
        DataError: a flag of another value, or one that wants to learn another turn than a reply; names the turn.
    """
    columns = [column for column in ("messages", *REPLIES) if isinstance(row.get(column), list)]
    flagged = {
        column: [weighed_turn(turn, f"{column}[{index}]") for index, turn in enumerate(row[column])]
        for column in columns
        if any(isinstance(turn, dict) and not turn.keys().isdisjoint(LEARN_FLAGS) for turn in row[column])
    }
    return row | flagged if flagged else row


def weighed_turn(turn: Any, place: str) -> Any:
    """The same for a turn, which `place` names in errors."""
    flags = [flag for flag in LEARN_FLAGS if isinstance(turn, dict) and turn.get(flag) is not None]
    if not flags:
        return turn
    try:
        learned = is_learned(turn)
    except ValueError as error:
        raise DataError(f"{place}.{flags[0]}: {error}.") from None
    of_a_reply = turn.get("role") == "assistant"
    if learned and not of_a_reply:
        raise DataError(f"{place}.{flags[0]}: only replies are learned. Leave the key out.")
    kept = {key: value for key, value in turn.items() if key not in LEARN_FLAGS}
    return kept if learned or not of_a_reply else kept | {"weight": 0}


def half_character(value: Any, where: str = "") -> str | None:
    """The place of a string, key or value at any depth, that cannot be written as UTF-8; None where there is none."""
    if isinstance(value, str):
        return where if HALF.search(value) else None
    parts: Iterable[tuple[str, Any]] = ()
    if isinstance(value, dict):
        if any(half_character(key) is not None for key in value):
            return where or "a key"
        parts = ((f"{where}.{key}" if where else str(key), item) for key, item in value.items())
    elif isinstance(value, list):
        parts = ((f"{where}[{index}]", item) for index, item in enumerate(value))
    found = (half_character(item, place) for place, item in parts)
    return next((place for place in found if place is not None), None)


def is_blank(text: str) -> bool:
    """Whether nothing of a text would be left after cleaning."""
    return not shows(CONTROL.sub("", text))


def kind_of(row: Row) -> str:
    """Which kind of row of the schema this is: "chat", "preference", "kto" or "text"."""
    return "text" if "text" in row else "preference" if row.keys() & REPLIES else "kto" if "label" in row else "chat"


def turns_of(row: Row) -> list[Row]:
    """All turns of a plain row: its messages, and what answers them in a preference."""
    return [turn for column in ("messages", *REPLIES) for turn in row.get(column, ())]


def texts_of(row: Row) -> list[str]:
    """All that a model would read or learn of a row."""
    return [turn.get(key, "") for turn in turns_of(row) for key in TEXTS] + [row.get("text", "")]


def features_of(rows: Sequence[Row]) -> Features:
    """The narrowest Arrow features that hold all keys of `rows`, so that plain chat rows stay role and content."""
    from datasets import Features, List, Value

    text = Value("string")
    call = {"type": text, "id": text, "function": {"name": text, "arguments": text}}
    optional = {"reasoning_content": text, "tool_calls": List(call), "tool_call_id": text, "name": text}
    optional |= {"weight": Value("int64")}

    def turns(column: str) -> Any:
        turns = (turn for row in rows for turn in row.get(column) or ())
        found = {key for turn in turns for key, value in turn.items() if value is not None}
        return List({"role": text, "content": text} | {key: optional[key] for key in optional if key in found})

    used = {key for row in rows for key, value in row.items() if value is not None}
    extra = {"id": text, "tools": text, "label": Value("bool"), "text": text} | dict.fromkeys(MEDIA, List(text))
    columns = {"messages": turns("messages"), "source": text, "tags": List(text)}
    columns |= {reply: turns(reply) for reply in REPLIES if reply in used}
    return Features(columns | {name: feature for name, feature in extra.items() if name in used})


def to_dataset(rows: Sequence[Row], features: Features | None = None) -> Dataset:
    """Rows of the schema above, if any, as a `Dataset`; `source` and `tags` may be missing and are then "" and [].

    `features` are the columns and keys: by default messages, source, tags and the narrowest that hold the rows.

    Raises:
        DataError: half of a character in a text, or a flag of another value than yes or no; names row (counted from 0)
            and field.
    """
    import pyarrow as pa
    from datasets import Dataset

    rows = [{"source": "", "tags": []} | row for row in plain_rows(list(rows))]
    features = features or features_of(rows)
    # Not Dataset.from_list, which looks at every value in Python once more: that doubles the time.
    try:
        return Dataset(pa.Table.from_pylist(rows, schema=features.arrow_schema))
    except UnicodeEncodeError:
        places = ((index, half_character(row)) for index, row in enumerate(rows))
        index, field = next((index, place) for index, place in places if place is not None)
        raise DataError(f"rows[{index}], {field}: {NOT_UTF8}") from None


def plain_rows(rows: Rows, columns: Sequence[str] = ()) -> Iterator[Row]:
    """The rows of a list, `weighed`; those of a data set also `plain`, and by default with all columns."""
    name = "rows" if isinstance(rows, list) else "dataset"
    if not isinstance(rows, list):
        names = [column for column in columns or rows.column_names if column in rows.column_names]
        rows = rows_of(rows.select_columns(names))
    for number, row in enumerate(rows):
        try:
            yield weighed(row)
        except DataError as error:
            raise DataError(f"{name}[{number}], {error}") from None


def rows_of(dataset: Dataset) -> Iterator[Row]:
    """The plain rows of a data set: in batches, five times as fast as `for row in dataset`, and never all in memory."""
    try:
        for batch in dataset.with_format("arrow").iter(1000):
            yield from map(plain, batch.to_pylist())
    except UnicodeDecodeError:
        raise DataError(f"A text of the data set {NOT_UTF8}") from None


def select(rows: Rows, numbers: list[int]) -> Rows:
    """These rows in this order, as a list or a data set as they came."""
    return [rows[number] for number in numbers] if isinstance(rows, list) else rows.select(numbers)


def join(parts: Sequence[Dataset]) -> Dataset:
    """Put data sets (at least one) after one another; a key that one lacks and another has is None there.

    `datasets.concatenate_datasets` refuses a struct with an extra key; Arrow itself widens each part to all keys.

    Raises:
        DataError: where one column holds two kinds of values.
    """
    import pyarrow as pa
    from datasets import Dataset, concatenate_datasets

    if all(part.features == parts[0].features for part in parts):
        return concatenate_datasets(list(parts))  # copies nothing
    tables = [part.with_format("arrow")[:] for part in parts]
    try:
        joined = pa.concat_tables(tables, promote_options="default")
    except pa.ArrowException as error:
        found = r"row.\1 is \2 in one and \3 in another"
        reason = re.sub(r".*Field (\S+) has incompatible types: (.*) vs (.*)", found, str(error), flags=re.DOTALL)
        raise DataError(f"These data sets cannot be joined: {reason}. Make them alike first.") from None
    # A part of another set comes in slices, each of which would be pickled with all of that set for the fingerprint.
    return Dataset(joined.combine_chunks())


def export_jsonl(rows: Dataset | Iterable[Row], path: str | Path) -> int:
    """Write one JSON object a line, Chinese readable, without the keys that a row lacks; returns how many there were.

    Of rows that come one by one, as from a stream, only one is in memory. The file is written whole or not at all.

    Raises:
        DataError: half of a character in a text; names row (counted from 0) and field.
    """
    from datasets import Dataset

    count = 0
    with atomic_file(path) as file:
        for row in plain_rows(rows) if isinstance(rows, Dataset) else map(plain, rows):
            try:
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
            except UnicodeEncodeError:
                raise DataError(f"rows[{count}], {half_character(row)}: {NOT_UTF8}") from None
            count += 1
    return count


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
