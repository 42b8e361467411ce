"""Open whatever holds rows: a data set by its name in `dataset_info.json`, a file, a folder, a registry (C2).

A file is read by the `dataset_info.json` beside it where that names it, else by what its first rows look like.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING

from course_utils import hub
from course_utils.data import faults, formats, guessing, registry, sources, unread
from course_utils.data.reading import SUFFIXES, read
from course_utils.data.records import DataError, Fault, Problem, Record, Row, all_usable, judged, short
from course_utils.data.registry import AS_FILE, Entry
from course_utils.data.rows import COLUMNS, MEDIA, NOT_UTF8, half_character, plain, rows_of, to_dataset, weighed

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset

SAMPLE_SEED = 42
FIRST_ROWS = 100  # by which the format of a file is told


def load(name: str, dataset_dir: str | Path = "data") -> Dataset:
    """Load a data set by its name in `dataset_info.json`.

    `file_name` is a file, or a folder whose files are read in the order of their names. `split` may be a slice
    ("train[:100]"). `num_samples` draws that many rows without repeats, of a smaller set all and then some again; the
    seed is always 42. A set from a hub is downloaded once into `hub/` beside the registry.

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
    return to_dataset(load_rows(name, dataset_dir))


def load_rows(name: str, dataset_dir: str | Path = "data") -> list[Row]:
    """`load`, as plain dicts."""
    entry = registry.find(name, dataset_dir)
    return _taken(all_usable(entry_rows(entry)), entry)


def stream(name: str, dataset_dir: str | Path = "data") -> IterableDataset:
    """The same rows one after the other, never all in memory: JSONL, CSV and Parquet are read as they are asked for.

    Arguments are those of `load`. SFTTrainer takes it, too.

    Raises:
        DataError: unknown name; an entry with a slice in `split`, or with `num_samples`, for which all rows must be
            counted first; and, when it is reached, a row that cannot be read.
    """
    from datasets import IterableDataset

    entry = registry.find(name, dataset_dir)
    if entry.split != "train" or entry.num_samples is not None:
        mend = "Use data.load, or leave them out and take from the stream."
        raise DataError(f"{entry.where}: split {entry.split!r} and num_samples need all rows. {mend}")
    return IterableDataset.from_generator(_usable, gen_kwargs={"entry": entry})


def _usable(entry: Entry) -> Iterator[Row]:
    """The rows of an entry, up to the first problem, which raises."""
    return (row for item in entry_rows(entry) for row in all_usable([item]))


def entry_rows(
    entry: Entry, more: Callable[[Row, Row], Iterable[Fault]] = lambda _, __: ()
) -> Iterator[Record | Problem]:
    """All rows of an entry one after the other; in place of a row that cannot be used comes each of its problems.

    Its `split` and `num_samples` are not looked at where the rows lie in files. `more` is asked for the faults of a row
    that can be read, by the row as it stands in the file and as it was read.
    """
    found: set[str] = set()

    def convert(number: int, record: Record) -> tuple[Row, list[Fault]]:
        found.update(record.value)
        row, faults = formats.convert(record.value, entry.layout, entry.folder)
        faults = faults or list(more(record.value, row))
        return {"id": f"{entry.name}:{number}", "source": entry.name} | row, faults

    yield from judged(chain.from_iterable(map(read, entry.files)) if entry.files else _downloaded(entry), convert)
    for fault in entry.layout.unread(found):
        yield Problem(", ".join(map(str, entry.files)) or entry.address, None, None, *fault)


def _downloaded(entry: Entry) -> Iterator[Record | Problem]:
    """The rows of a data set on a hub, out of the folder into which it was downloaded."""
    from datasets import load_dataset

    folder = hub.download_dataset(entry.address, source=entry.hub_source, datasets_dir=entry.folder.absolute() / "hub")
    try:
        dataset = load_dataset(str(folder), entry.subset, data_dir=entry.hub_folder, split=entry.split)
    except Exception as error:  # subset, split or file format: the library's errors have no common base
        what = f"{entry.address} (subset {entry.subset}, folder {entry.hub_folder}, split {entry.split})"
        why = f"cannot be loaded from {folder}: {type(error).__name__}: {error}"
        mend = f"Check these names against the data set's page. Or: {AS_FILE}"
        raise DataError(f"{entry.where}: {what} {why}. {mend}") from error
    for number, row in enumerate(dataset, start=1):  # not rows_of: mixed objects are JSON, which only this reads
        yield Record(entry.address, number, None, {column: plain(value) for column, value in row.items()})


def _taken(rows: list[Row], entry: Entry) -> list[Row]:
    """The rows that `split` and `num_samples` leave; of a hub's rows the split has been taken there."""
    from datasets import ReadInstruction

    if entry.files and entry.split != "train":
        try:
            spans = ReadInstruction.from_spec(entry.split).to_absolute({"train": len(rows)})
        except (ValueError, AssertionError) as error:
            found = f"{entry.where}: split {entry.split!r} of a file: {error}"
            raise DataError(f"{found} Expected train or a slice of it.") from None
        rows = [row for span in spans for row in rows[span.from_ : span.to]]
        if not rows:
            raise DataError(f"{entry.where}: split {entry.split!r} leaves no row. Check its bounds.")
    if entry.num_samples is None:
        return rows
    if not rows:
        raise DataError(f"{entry.where}: num_samples asks for {entry.num_samples} rows of a set that has none.")
    draw = random.Random(SAMPLE_SEED)
    once = draw.sample(rows, min(entry.num_samples, len(rows)))
    return once + draw.choices(rows, k=entry.num_samples - len(once))


# ---------------------------------------------------------------------------------- whatever holds rows
@dataclass(frozen=True)
class Opened:
    """Rows in the course's schema, one after the other, each with its place."""

    name: str  # of the file, the folder, the registry or the data set
    read_as: str  # how the rows are written
    items: Iterator[Record | Problem]  # the rows; in place of one that cannot be read comes each of its problems
    remarks: list[str]  # what is left unread, and how a file could be loaded by name
    kinds: tuple[str, ...] = ()  # of the rows (see `Layout`), as far as they are known before the rows are read


def open_rows(target: str | Path | Dataset | list[Row]) -> Opened:
    """Open what `check` can be given; a DataError where there is nothing of the kind."""
    if not isinstance(target, str | Path):
        return _rows_of_the_schema(target, "the list" if isinstance(target, list) else "the data set")
    path = Path(target)
    if (path / "state.json").is_file():
        from datasets import load_from_disk

        return _rows_of_the_schema(load_from_disk(str(path)), str(path))
    if path.name == registry.REGISTRY or (path / registry.REGISTRY).is_file():
        return _registered(path.parent if path.name == registry.REGISTRY else path)
    if not path.is_dir():
        return _file(path)
    files = registry.files_with_rows(path)
    if not files:
        raise DataError(f"{path}: the folder holds no {', '.join(SUFFIXES)} file and no {registry.REGISTRY}.")
    return _joined(str(path), list(map(_file, files)))


def _joined(name: str, parts: list[Opened]) -> Opened:
    read_as = "; ".join(dict.fromkeys(f"{Path(part.name).name}: {part.read_as}" for part in parts))
    remarks = [remark for part in parts for remark in part.remarks]
    kinds = tuple(kind for part in parts for kind in part.kinds)
    return Opened(name, read_as, chain.from_iterable(part.items for part in parts), remarks, kinds)


# ------------------------------------------------------------------------------------------------- rows of the schema
def _rows_of_the_schema(given: Dataset | list[Row], name: str) -> Opened:
    from datasets import Dataset

    if isinstance(given, list) and all(isinstance(row, dict) for row in given):
        columns, rows = {key for row in given for key in row}, map(plain, given)
    elif isinstance(given, Dataset):
        columns, rows = set(given.column_names), rows_of(given)
    else:
        expected = "a path, a Dataset (one split of a DatasetDict) or a list of rows, each a dict"
        raise DataError(f"check: expected {expected}; found {short(given)}.")
    if columns and not columns & {"messages", "text"}:
        found = ", ".join(sorted(map(str, columns)))
        raise DataError(f"{name} has the columns {found}; rows of the course have messages or text (see data.load).")
    items = (Record(name, number, None, row) for number, row in enumerate(rows, start=1))
    media = ", ".join(part for part in MEDIA if part in columns)
    remarks = [f"{name}: whether the files of {media} are there was not looked at."] if media else []
    if left := ", ".join(sorted(map(str, columns - COLUMNS))):
        remarks.append(f"{name}: not read are the columns {left}.")
    return Opened(name, "rows of the course's schema", judged(items, _of_the_schema), remarks)


def _of_the_schema(_: int, record: Record) -> tuple[Row, list[Fault]]:
    """A row of a data set, and what would be lost of it."""
    row: Row = {"messages": [], "source": "", "tags": []} | record.value
    if (place := half_character(row)) is not None:
        return row, [Fault(place, NOT_UTF8)]
    try:
        row = weighed(row)
    except DataError as error:
        return row, [Fault(*str(error).split(": ", 1))]
    if any(faults.misfits(row)):
        return row, []  # `check` names them
    return row, [*unread.flags(row, COLUMNS), *unread.of_columns(row, row, COLUMNS, "remove the column")]


# ------------------------------------------------------------------------------------------------ entries of a registry
def _registered(folder: Path) -> Opened:
    """All data sets of a registry; those on a hub are not fetched."""
    path = folder / registry.REGISTRY
    parts: list[Opened] = []
    named: set[Path] = set()
    for name, said in registry.read_registry(folder).items():
        try:
            entry = registry.parse(name, said, folder)
            opened = _entry(entry)
            if not named.isdisjoint(entry.files):  # a file that is read in two ways: its rows are told apart
                opened = replace(opened, items=_of_entry(opened.items, name))
            named |= set(entry.files)
            parts.append(opened)
        except DataError as error:
            reason = str(error).removeprefix(f"{path}, {name}: ")
            parts.append(Opened(name, "not read", iter([Problem(str(path), None, None, name, reason)]), []))
    known = {file.resolve() for file in (*named, path)}
    beside = [file.name for file in registry.files_with_rows(folder) if file.resolve() not in known]
    opened = _joined(str(path), parts)
    left = [f"{path} names no data set in {', '.join(beside)}, so that was not read."] if beside else []
    return replace(opened, remarks=[*opened.remarks, *left])


def _of_entry(items: Iterable[Record | Problem], name: str) -> Iterator[Record | Problem]:
    """The same rows and problems, with the entry's name beside the file's."""
    return (item._replace(file=f"{item.file} ({name})") for item in items)


def _entry(entry: registry.Entry, *, is_guess: bool = False) -> Opened:
    """The rows of an entry of a registry, or of one that was guessed."""
    if not entry.files:
        return Opened(entry.name, "not read", iter(()), [f"{entry.name} is on a hub, and was not fetched."])
    layout = entry.layout
    first = _first(entry.files[0])
    turns = [turn for row in first for _, turn in guessing.turns_in(row, str(layout.columns["messages"]))]
    keys_of = guessing.keys_of
    left = {"columns": keys_of(first) - layout.read_columns, "keys of turns": keys_of(turns) - layout.read_keys}
    found = {what: ", ".join(sorted(keys)) for what, keys in left.items() if keys}
    remarks = [f"{entry.files[0]}: not read are the {what} {keys}." for what, keys in found.items()]
    lost = partial(unread.lost, layout=layout, columns=is_guess or not layout.explicit)
    rows = judged(entry_rows(entry, lost), lambda _, record: (record.value, _lacking(record.value, entry.folder)))
    return Opened(entry.name, f"{layout.formatting}, {layout.kind}", rows, remarks, (layout.kind,))


def _lacking(row: Row, folder: Path) -> Iterator[Fault]:
    """Each of the images, videos and audios of a row that is not there."""
    for media in MEDIA:
        for index, name in enumerate(row.get(media, [])):
            if not (folder / name).is_file():
                reason = f"there is no file {name!r} in {folder}. Put it there, or mend the name."
                yield Fault(f"{media}[{index}]", reason)


# --------------------------------------------------------------------------------------------------------------- a file
def _file(path: Path) -> Opened:
    """The rows of a file by its entry in the registry beside it, or by what its first rows look like."""
    known = registry.naming(path)
    if known is not None:
        if known.split != "train":
            mend = "is for data.load. Save these rows as a file of their own."
            raise DataError(f"{known.where}: split {known.split!r} {mend}")
        opened, wanted = _entry(known), known.num_samples
        said = f"{path}: num_samples {wanted} was not read: that is for data.load; these are all rows."
        return replace(opened, remarks=[*opened.remarks, *([said] if wanted else [])])
    first = _first(path)
    guess = guessing.entry(first)
    source = guessing.source(first) if guess is None or guess["columns"] == {"prompt": "text"} else None
    if source is None and guess is not None:
        entry = {"file_name": path.name} | guess
        opened = _entry(registry.parse(path.stem, entry, path.parent), is_guess=True)
        remark = f"to load {path.name} by name, put this into {registry.REGISTRY}: {json.dumps({path.stem: entry})}"
        return replace(opened, name=str(path), remarks=[*opened.remarks, remark])
    if source is None:
        read_as, items = "no known format", judged(read(path), _unknown)
    else:
        read_as = f"{source} (data.normalise)"
        items = sources.normalised(source, read(path), sources.READERS[source])
    return Opened(str(path), read_as, items, [])


def _unknown(_: int, record: Record) -> tuple[Row, list[Fault]]:
    found = ", ".join(map(str, record.value)) or "no fields"
    reason = f"expected instruction, conversations, messages or text, found {found}. Name the columns in "
    mend = f"{registry.REGISTRY}, or read the file with data.normalise(…, read=…)."
    if record.value.keys() & guessing.SPEAKER_KEYS:
        mend += ' If each row is one turn, put the turns of a conversation into one row: {"messages": [turn, turn]}.'
    return record.value, [Fault("", f"{reason}{mend}")]


def _first(path: Path) -> list[Row]:
    """The first rows of a file that can be read."""
    return [item.value for item in islice(read(path), FIRST_ROWS) if isinstance(item, Record)]
