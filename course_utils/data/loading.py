"""The rows of a data set by its name in `dataset_info.json`: as a Dataset, or one by one as a stream (C2)."""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from course_utils import hub
from course_utils.data import formats
from course_utils.data.reading import read
from course_utils.data.registry import AS_FILE, Entry, find
from course_utils.data.rows import DataError, Problem, Record, Row, all_usable, plain, to_dataset

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset

SAMPLE_SEED = 42


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
    return to_dataset(load_rows(name, dataset_dir))


def load_rows(name: str, dataset_dir: str | Path = "data") -> list[Row]:
    """`load`, as plain dicts."""
    entry = find(name, dataset_dir)
    return _taken(all_usable(entry_rows(entry)), entry)


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
        mend = "Use data.load, or leave them out and take from the stream."
        raise DataError(f"{entry.where}: split {entry.split!r} and num_samples need all rows. {mend}")
    return IterableDataset.from_generator(_usable, gen_kwargs={"entry": entry})


def _usable(entry: Entry) -> Iterator[Row]:
    """The rows of an entry, up to the first problem, which raises."""
    for item in entry_rows(entry):
        if isinstance(item, Problem):
            raise DataError(str(item))
        yield item.value


def entry_rows(entry: Entry) -> Iterator[Record | Problem]:
    """All rows of an entry one after the other; in place of a row that cannot be used comes each of its problems.

    Its `split` and `num_samples` are not looked at where the rows lie in files.
    """
    records = chain.from_iterable(map(read, entry.files)) if entry.files else _downloaded(entry)
    found: set[str] = set()
    for number, record in enumerate(records, start=1):
        if isinstance(record, Problem):
            yield record
            continue
        found |= record.value.keys()
        row, faults = formats.convert(record.value, entry.layout, entry.folder)
        yield from (record.problem(*fault) for fault in faults)
        if not faults:
            yield record._replace(value={"id": f"{entry.name}:{number}", "source": entry.name} | row)
    for fault in entry.layout.unread(found):
        yield Problem(", ".join(map(str, entry.files)) or entry.address, None, None, *fault)


def _downloaded(entry: Entry) -> Iterator[Record | Problem]:
    """The rows of a data set on a hub, out of the folder into which it was downloaded."""
    from datasets import load_dataset

    folder = hub.download_dataset(entry.address, source=entry.hub_source, datasets_dir=entry.folder.absolute() / "hub")
    try:
        dataset = load_dataset(str(folder), entry.subset, data_dir=entry.hub_folder, split=entry.split)
    except Exception as error:  # subset, split or file format: the library's errors have no common base
        raise DataError(
            f"{entry.where}: {entry.address} (subset {entry.subset}, folder {entry.hub_folder}, split {entry.split}) "
            f"cannot be loaded from {folder}: {type(error).__name__}: {error}. Check these names against the data "
            f"set's page. Or: {AS_FILE}"
        ) from error
    for number, row in enumerate(dataset, start=1):  # not each(): mixed objects are kept as JSON, which only this reads
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
