"""`dataset_info.json`: which data sets there are, where each lies, how it is written, in LLaMA-Factory's schema (C2).

Read as LLaMA-Factory 0.9.5 reads it (`llamafactory/data/parser.py`, `loader.py`): where an entry has `columns` (or
`tags`), whatever that object does not name is None and not its default (pitfall registry-silence). A hub wins over a
script and that over a file. Unlike there, a key that is unknown or would go unread is an error, not silence.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from course_utils import hub
from course_utils.core.paths import home
from course_utils.data import formats
from course_utils.data.reading import SUFFIXES, read
from course_utils.data.rows import REPLIES, DataError, Problem, Record, Row, all_usable, plain, to_dataset, usable

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset

REGISTRY = "dataset_info.json"
HUB_KEYS = ("hf_hub_url", "ms_hub_url", "om_hub_url")
HUB_OPTIONS = ("subset", "folder")
ENTRY_KEYS = (
    "file_name",
    *HUB_KEYS,
    "script_url",
    "cloud_file_name",
    "formatting",
    "columns",
    "tags",
    "ranking",
    "split",
    "num_samples",
    *HUB_OPTIONS,
)
NO_ROWS = ("", ".md")  # suffixes of what may lie beside the rows: README.md, LICENSE
SAMPLE_SEED = 42
AS_FILE = "Save its rows once as JSONL in the data folder and name that file as file_name, in an entry without the hub."


@dataclass(frozen=True)
class Entry:
    """One data set of the registry: where its rows are, how they are written, and which of them are taken.

    Rows come from `files` or, where there are none, from the data set `address` on a hub.
    """

    name: str
    folder: Path
    layout: formats.Layout
    files: tuple[Path, ...] = ()
    hub_source: str = "auto"
    address: str = ""
    subset: str | None = None
    hub_folder: str | None = None
    split: str = "train"
    num_samples: int | None = None


def load(name: str, dataset_dir: str | Path = "data") -> Dataset:
    """Load a data set by its name in `dataset_info.json`.

    `file_name` is a file, or a folder whose files are read in the order of their names. `split` may be a slice
    ("train[:100]"). `num_samples` draws that many rows without repeats; of a smaller set all rows and then some again,
    at random. LLaMA-Factory draws anew in each run; here the seed is always 42. A set from a hub is downloaded once
    into `hub/` beside the registry; its empty fields count as absent.

    Args:
        name: a key of the registry.
        dataset_dir: the folder that holds `dataset_info.json` and the files it names.

    Returns:
        A Dataset with the columns messages, source (the name), tags (those of the row, else none), id (the row's own,
        else name:number), and the others of the row schema that a row has (see `rows.py`). Without `split` and
        `num_samples` every row of the source is there: a row that cannot be read raises.

    Raises:
        DataError: unknown name, an entry or a row that cannot be read; names file, row and field.
    """
    entry = find(name, dataset_dir)
    return to_dataset(_taken(all_usable(rows(entry)), entry))


def stream(name: str, dataset_dir: str | Path = "data") -> IterableDataset:
    """The same rows one after the other, never all in memory: JSONL, CSV and Parquet are read as they are asked for.

    Its `map`, `filter`, `shuffle` and `take` are those of `datasets`; SFTTrainer takes it, too.

    Args:
        name: as for `load`.
        dataset_dir: as for `load`.

    Raises:
        DataError: unknown name; an entry with a slice in `split`, or with `num_samples`, for which all rows must be
            counted first; and, when it is reached, a row that cannot be read.
    """
    from datasets import IterableDataset

    entry = find(name, dataset_dir)
    if entry.split != "train" or entry.num_samples is not None:
        raise DataError(
            f"{entry.folder / REGISTRY}, {name}: split {entry.split!r} and num_samples need all rows. "
            "Use data.load, or leave them out and take from the stream."
        )
    return IterableDataset.from_generator(_stream, gen_kwargs={"entry": entry})


def _stream(entry: Entry) -> Iterator[Row]:
    yield from usable(rows(entry))


def rows(entry: Entry) -> Iterator[Record | Problem]:
    """All rows of an entry one after the other; in place of a row that cannot be used comes each of its problems.

    Args:
        entry: from `find`; its `split` and `num_samples` are not looked at where the rows lie in files.
    """
    records = chain.from_iterable(map(read, entry.files)) if entry.files else _downloaded(entry)
    found: set[str] = set()
    for number, record in enumerate(records, start=1):
        if isinstance(record, Problem):
            yield record
            continue
        found |= record.value.keys()
        row, faults = formats.convert(record.value, entry.layout, entry.folder)
        if faults:
            yield from (record.problem(*fault) for fault in faults)
        else:
            yield record._replace(value={"id": f"{entry.name}:{number}", "source": entry.name} | row)
    for fault in formats.unread(found, entry.layout):
        yield Problem(", ".join(map(str, entry.files)) or entry.address, None, None, *fault)


def find(name: str, dataset_dir: str | Path = "data") -> Entry:
    """The entry of a data set, checked: its keys are known, its files lie inside `dataset_dir`.

    Raises:
        DataError: names the registry, the entry and the key.
    """
    folder = home() / dataset_dir
    known = _registry(folder / REGISTRY)
    if name not in known:
        raise DataError(f"{folder / REGISTRY} has no data set {name!r}. It has: {', '.join(sorted(known)) or 'none'}.")
    return parse(name, known[name], folder)


def names(dataset_dir: str | Path = "data") -> list[str]:
    """The data sets of a registry, in its order."""
    return list(_registry(home() / dataset_dir / REGISTRY))


def naming(file: Path) -> Entry | None:
    """The first entry that reads a file, of the registry in the file's folder or in the folder above it.

    Raises:
        DataError: such a registry is no JSON, or that entry is not right.
    """
    for folder in (file.parent, file.parent.parent):
        known = _registry(folder / REGISTRY) if (folder / REGISTRY).is_file() else {}
        for name, entry in known.items():
            if isinstance(entry, dict) and entry.get("file_name") == file.relative_to(folder).as_posix():
                return parse(name, entry, folder)
    return None


def parse(name: str, entry: Any, folder: Path) -> Entry:
    """What an entry of a registry says, checked.

    Args:
        name: of the data set.
        entry: the value that the registry has under it.
        folder: where the registry lies.

    Raises:
        DataError: names the registry, the entry and the key.
    """
    where = f"{folder / REGISTRY}, {name}"
    _check_keys(entry, ENTRY_KEYS, where)
    _check_values(entry, where)
    source, address = _hub_address(entry, where)
    return Entry(
        name=name,
        folder=folder,
        layout=_layout(entry, where),
        files=() if address else _local_files(entry, folder, where),
        hub_source=source,
        address=address,
        subset=entry.get("subset"),
        hub_folder=entry.get("folder"),
        split=entry.get("split") or "train",
        num_samples=entry.get("num_samples"),
    )


def _registry(path: Path) -> dict[str, Any]:
    """The registry file, by the names of its data sets."""
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{path} is missing: `dataset_dir` must be the folder that holds {REGISTRY}.") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: byte {error.start} is not UTF-8. Save the file as UTF-8.") from None
    except json.JSONDecodeError as error:
        raise DataError(f"{path}, line {error.lineno}: not JSON ({error.msg}).") from None
    if not isinstance(known, dict):
        raise DataError(f"{path}: expected an object of data sets, found {type(known).__name__}.")
    return known


def _check_keys(found: Any, known: tuple[str, ...], where: str) -> None:
    if not isinstance(found, dict):
        raise DataError(f"{where}: expected an object, found {type(found).__name__}.")
    unknown = sorted(set(found) - set(known))
    if unknown:
        raise DataError(f"{where}: unknown key {unknown[0]!r}. Known are: {', '.join(known)}.")


def _check_values(entry: dict[str, Any], where: str) -> None:
    """The plain values of an entry are of the right type."""
    for key in (*HUB_OPTIONS, "split"):
        if not isinstance(entry.get(key), str | None):
            raise DataError(f"{where}: {key} must be text, found {entry[key]!r}.")
    wanted = entry.get("num_samples")
    if wanted is not None and (type(wanted) is not int or wanted < 1):
        raise DataError(f"{where}: num_samples must be a whole number of at least 1, found {wanted!r}.")


# ---------------------------------------------------------------------------------------------------------- the sources
def _hub_address(entry: dict[str, Any], where: str) -> tuple[str, str]:
    """Which hub, as `hub.download_dataset` names it, and the name there, "" where the rows lie in files.

    Which of several wins is LLaMA-Factory's rule; there hf_hub_url means the hub of HF_ENDPOINT, here any that gives
    the set.
    """
    hf, ms, om = (key in entry for key in HUB_KEYS)
    if om and (_is_on("USE_OPENMIND_HUB") or not (hf or ms)):
        raise DataError(
            f"{where}: om_hub_url is not read here: it needs the openmind package, which this course does not have. "
            f"Name hf_hub_url or ms_hub_url, and leave USE_OPENMIND_HUB unset. Or: {AS_FILE}"
        )
    if not (hf or ms):
        return "auto", ""
    source, key = (
        ("modelscope", "ms_hub_url") if ms and (_is_on("USE_MODELSCOPE_HUB") or not hf) else ("auto", "hf_hub_url")
    )
    address = entry[key]
    if not isinstance(address, str) or not hub.HUB_ID.fullmatch(address):
        raise DataError(f"{where}: {key} must be owner/name, found {address!r}.")
    return source, address


def _is_on(variable: str) -> bool:
    return os.environ.get(variable, "0").lower() in ("true", "y", "1")  # LLaMA-Factory's own rule


def _downloaded(entry: Entry) -> Iterator[Record | Problem]:
    """The rows of a data set on a hub, out of the folder into which it was downloaded."""
    from datasets import load_dataset

    folder = hub.download_dataset(entry.address, source=entry.hub_source, datasets_dir=entry.folder.absolute() / "hub")
    try:
        dataset = load_dataset(str(folder), entry.subset, data_dir=entry.hub_folder, split=entry.split)
    except Exception as error:  # subset, split or file format: the library's errors have no common base
        raise DataError(
            f"{entry.folder / REGISTRY}, {entry.name}: {entry.address} (subset {entry.subset}, folder "
            f"{entry.hub_folder}, split {entry.split}) cannot be loaded from {folder}: {type(error).__name__}: "
            f"{error}. Check these names against the data set's page. Or: {AS_FILE}"
        ) from error
    for number, row in enumerate(dataset, start=1):  # not each(): mixed objects are kept as JSON, which only this reads
        yield Record(entry.address, number, None, {column: plain(value) for column, value in row.items()})


def _local_files(entry: dict[str, Any], folder: Path, where: str) -> tuple[Path, ...]:
    """The file that an entry names, or the files in the folder that it names."""
    _check_local(entry, where)
    file_name = entry.get("file_name")
    if not isinstance(file_name, str) or not file_name:
        raise DataError(f"{where}: file_name is missing. Name a file or a folder in {folder}, or hf_hub_url.")
    path = formats.path_inside(folder, file_name, f"{where}: file_name")
    if os.path.isdir(path):  # os.path: false, not an error, where the name is too long
        return _files_of(path, folder, where)
    if not os.path.isfile(path):
        raise DataError(f"{where}: there is no file {path}.")
    return (path,)


def _check_local(entry: dict[str, Any], where: str) -> None:
    """The entry asks for nothing that only a script or a hub could give."""
    if "script_url" in entry:
        raise DataError(
            f"{where}: script_url is not read: `datasets` 4 runs no scripts. Run the script once elsewhere, with "
            f"`datasets` below 4, save its rows by to_json(..., force_ascii=False) as JSONL and name that as file_name."
        )
    if "cloud_file_name" in entry:
        raise DataError(f"{where}: cloud_file_name is not read here. {AS_FILE}")
    for key in HUB_OPTIONS:
        if entry.get(key):
            raise DataError(
                f"{where}: {key} belongs to a hub; with file_name LLaMA-Factory does not read it. Remove it."
            )


def _files_of(path: Path, folder: Path, where: str) -> tuple[Path, ...]:
    """The files with rows in a folder, by name; hidden files and such as README.md and LICENSE are passed over."""
    inside = [file for file in sorted(path.iterdir()) if not file.name.startswith(".")]
    files = [file for file in inside if file.suffix in SUFFIXES and not file.is_dir()]
    unread = [file.name for file in inside if file not in files and (file.is_dir() or file.suffix not in NO_ROWS)]
    if unread:
        raise DataError(
            f"{where}: {path} holds {unread[0]}, whose rows would be missed: only {', '.join(SUFFIXES)} files right in "
            "the folder are read. Convert it or move it away."
        )
    if not files:
        raise DataError(f"{where}: the folder {path} has no {', '.join(SUFFIXES)} file.")
    return tuple(formats.path_inside(folder, str(file.relative_to(folder)), f"{where}: file_name") for file in files)


def _taken(rows: list[Row], entry: Entry) -> list[Row]:
    """The rows that `split` and `num_samples` leave; of a hub's rows the split has been taken there."""
    from datasets import ReadInstruction

    where = f"{entry.folder / REGISTRY}, {entry.name}"
    if entry.files and entry.split != "train":
        try:
            spans = ReadInstruction.from_spec(entry.split).to_absolute({"train": len(rows)})
        except (ValueError, AssertionError) as error:
            raise DataError(
                f"{where}: split {entry.split!r} of a file: {error} Expected train or a slice of it."
            ) from None
        rows = [row for span in spans for row in rows[span.from_ : span.to]]
        if not rows:
            raise DataError(f"{where}: split {entry.split!r} leaves no row. Check its bounds.")
    if entry.num_samples is None:
        return rows
    if not rows:
        raise DataError(f"{where}: num_samples asks for {entry.num_samples} rows of a set that has none.")
    draw = random.Random(SAMPLE_SEED)
    once = draw.sample(rows, min(entry.num_samples, len(rows)))
    return once + draw.choices(rows, k=entry.num_samples - len(once))


# ----------------------------------------------------------------------------------------------------------- the layout
def _layout(entry: dict[str, Any], where: str) -> formats.Layout:
    """What the entry says about its rows, with LLaMA-Factory's defaults only where `columns` or `tags` is absent."""
    formatting = entry.get("formatting", "alpaca")
    if formatting not in formats.FORMATTINGS:
        raise DataError(f"{where}: unknown formatting {formatting!r}; expected {', '.join(formats.FORMATTINGS)}.")
    columns = _named(entry, "columns", formats.DEFAULT_COLUMNS, where)
    tags = _named(entry, "tags", formats.DEFAULT_TAGS, where)
    kind = _kind(entry, formatting, columns, where)
    for key in _needed(formatting, kind):
        if columns[key] is None:
            default = formats.DEFAULT_COLUMNS[key]
            instead = f", not its default {default!r}" if default else ""
            raise DataError(
                f"{where}.columns does not name {key}, so it is None{instead} (LLaMA-Factory reads it so too). Name it."
            )
    if formatting != "alpaca":
        for key in ("role_tag", "content_tag", "user_tag", "assistant_tag"):
            if tags[key] is None:
                raise DataError(
                    f"{where}.tags does not name {key}, so it is None, not {formats.DEFAULT_TAGS[key]!r}. Name it."
                )
    return formats.Layout(formatting, columns, tags, kind, explicit=tuple(entry.get("columns") or ()))


def _named(entry: dict[str, Any], key: str, defaults: dict[str, str | None], where: str) -> dict[str, str | None]:
    """What `columns` or `tags` of an entry says, or the defaults where the entry has none."""
    named = entry.get(key)
    if named is None:
        return dict(defaults)
    _check_keys(named, tuple(defaults), f"{where}.{key}")
    for part, value in named.items():
        if not isinstance(value, str | None):
            raise DataError(f"{where}.{key}.{part}: expected a name as text, found {value!r}.")
    return {part: named.get(part) for part in defaults}


def _kind(entry: dict[str, Any], formatting: str, columns: dict[str, str | None], where: str) -> str:
    """Which kind of rows an entry has; LLaMA-Factory leaves that to the training stage."""
    ranking = entry.get("ranking", False)
    if not isinstance(ranking, bool):
        raise DataError(f"{where}: ranking must be true or false without quotes, found {ranking!r}.")
    unread = [part for part in REPLIES if columns[part] is not None and not ranking]
    if unread:
        raise DataError(f'{where}: columns.{unread[0]} is read only with "ranking": true. Add that, or remove it.')
    if ranking and columns["kto_tag"] is not None:
        raise DataError(f"{where}: ranking and columns.kto_tag are two kinds of rows. Keep the one that the rows have.")
    if ranking:
        return "preference"
    if columns["kto_tag"] is not None:
        return "kto"
    named = [part for part, column in columns.items() if column is not None]
    return "text" if formatting == "alpaca" and named == ["prompt"] else "chat"


def _needed(formatting: str, kind: str) -> tuple[str, ...]:
    """The parts that rows of a kind cannot be without."""
    replies = REPLIES if kind == "preference" else ()
    if formatting != "alpaca":
        return ("messages", *replies)
    return ("prompt", *replies) if kind in ("preference", "text") else ("prompt", "response")
