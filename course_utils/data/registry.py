"""`dataset_info.json`: which data sets there are, where each lies, how it is written, in LLaMA-Factory's schema (C2).

Read as LLaMA-Factory 0.9.5 reads it (`llamafactory/data/parser.py`): where an entry has `columns` (or `tags`), whatever
that object does not name is None and not its default (trap 15). Unlike there, an unknown key is an error, not silence.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from course_utils.data import formats
from course_utils.data.reading import read_raw
from course_utils.data.rows import DataError, to_dataset

if TYPE_CHECKING:
    from datasets import Dataset

REGISTRY = "dataset_info.json"
HUB_KEYS = ("hf_hub_url", "ms_hub_url", "om_hub_url", "script_url", "cloud_file_name")
ENTRY_KEYS = (
    "file_name",
    "formatting",
    "columns",
    "tags",
    "ranking",
    "subset",
    "split",
    "folder",
    "num_samples",
    *HUB_KEYS,
)
READ_NOW = "This version reads local .json, .jsonl and .csv files with alpaca, sharegpt or openai conversations."


@dataclass(frozen=True)
class Entry:
    """One data set of the registry: its name, its file, and the layout of its rows."""

    name: str
    file: Path
    layout: formats.Layout


def load(name: str, dataset_dir: str | Path = "data") -> Dataset:
    """Load a data set by its name in `dataset_info.json`.

    Args:
        name: a key of the registry.
        dataset_dir: the folder that holds `dataset_info.json` and the files it names.

    Returns:
        A Dataset with the columns messages, source (the name), tags (those of the row, else none), and tools where a
        row has some. Every row of the file is there: a row that cannot be read raises.

    Raises:
        DataError: unknown name, an entry or a row that cannot be read; names file, row and field.
    """
    entry = find(name, dataset_dir)
    rows = read_raw(entry.file)
    return to_dataset([dict(row, source=name) for row in formats.convert(rows, entry.layout, str(entry.file))])


def find(name: str, dataset_dir: str | Path = "data") -> Entry:
    """The entry of a data set, checked: its keys are known, its file lies inside `dataset_dir`.

    Raises:
        DataError: names the registry, the entry and the key.
    """
    folder = Path(dataset_dir)
    registry = folder / REGISTRY
    try:
        known = json.loads(registry.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{registry} is missing: `dataset_dir` must be the folder that holds {REGISTRY}.") from None
    except json.JSONDecodeError as error:
        raise DataError(f"{registry}, line {error.lineno}: not JSON ({error.msg}).") from None
    if not isinstance(known, dict):
        raise DataError(f"{registry}: expected an object of data sets, found {type(known).__name__}.")
    if name not in known:
        raise DataError(f"{registry} has no data set {name!r}. It has: {', '.join(sorted(known)) or 'none'}.")
    where = f"{registry}, {name}"
    entry = known[name]
    if not isinstance(entry, dict):
        raise DataError(f"{where}: expected an object, found {type(entry).__name__}.")
    _check_keys(entry, ENTRY_KEYS, where)
    hub = [key for key in HUB_KEYS if key in entry]
    if hub:
        raise DataError(f"{where}: {hub[0]} is a source that comes later. {READ_NOW}")
    for key in ("ranking", "num_samples"):
        if entry.get(key):
            raise DataError(f"{where}: {key} is not read yet. {READ_NOW}")
    return Entry(name, _file_inside(folder, entry.get("file_name"), where), _layout(entry, where))


def _check_keys(found: Any, known: tuple[str, ...], where: str) -> None:
    if not isinstance(found, dict):
        raise DataError(f"{where}: expected an object, found {type(found).__name__}.")
    unknown = sorted(set(found) - set(known))
    if unknown:
        raise DataError(f"{where}: unknown key {unknown[0]!r}. Known are: {', '.join(known)}.")


def _file_inside(folder: Path, file_name: Any, where: str) -> Path:
    """The file an entry names, if it lies inside the folder once links and ".." are followed."""
    if not isinstance(file_name, str) or not file_name:
        raise DataError(f"{where}: file_name is missing. {READ_NOW}")
    path = folder / file_name
    if not path.resolve().is_relative_to(folder.resolve()):
        raise DataError(f"{where}: file_name {file_name!r} leads out of {folder}. Put the file inside that folder.")
    if not path.is_file():
        raise DataError(f"{where}: there is no file {path}.")
    return path


def _layout(entry: dict[str, Any], where: str) -> formats.Layout:
    """What the entry says about its rows, with LLaMA-Factory's defaults only where `columns` or `tags` is absent."""
    formatting = entry.get("formatting", "alpaca")
    if formatting not in formats.FORMATTINGS:
        raise DataError(f"{where}: unknown formatting {formatting!r}; expected {', '.join(formats.FORMATTINGS)}.")
    columns: dict[str, str | None] = dict(formats.DEFAULT_COLUMNS)
    tags: dict[str, str | None] = dict(formats.DEFAULT_TAGS)
    named = entry.get("columns")
    if named is not None:
        _check_keys(named, (*formats.DEFAULT_COLUMNS, *formats.LATER_COLUMNS), f"{where}.columns")
        later = [key for key in formats.LATER_COLUMNS if named.get(key)]
        if later:
            raise DataError(f"{where}.columns: {later[0]} is not read yet. {READ_NOW}")
        columns = {key: named.get(key) for key in formats.DEFAULT_COLUMNS}
    if entry.get("tags") is not None:
        _check_keys(entry["tags"], tuple(formats.DEFAULT_TAGS), f"{where}.tags")
        tags = {key: entry["tags"].get(key) for key in formats.DEFAULT_TAGS}
    needed = ("prompt", "response") if formatting == "alpaca" else ("messages",)
    for key in needed:
        if columns[key] is None:
            raise DataError(
                f"{where}.columns does not name {key}, so it is None, not its default {formats.DEFAULT_COLUMNS[key]!r} "
                f"(LLaMA-Factory reads it so too). Name it. {READ_NOW}"
            )
    if formatting != "alpaca":
        for key in ("role_tag", "content_tag", "user_tag", "assistant_tag"):
            if tags[key] is None:
                raise DataError(
                    f"{where}.tags does not name {key}, so it is None, not {formats.DEFAULT_TAGS[key]!r}. Name it."
                )
    return formats.Layout(formatting, columns, tags, explicit=tuple(named or ()))
