"""Each source once in Arrow on the disk, to be mixed as often as you like without being read again (C30)."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from course_utils.core.files import atomic_dir, write_json
from course_utils.core.paths import home
from course_utils.data.cleaning import clean_rows
from course_utils.data.deduplication import unique_rows
from course_utils.data.loading import load_rows
from course_utils.data.reading import read_raw
from course_utils.data.registry import find
from course_utils.data.rows import DataError, quiet, to_dataset
from course_utils.data.sources import normalise_rows

if TYPE_CHECKING:
    from datasets import Dataset

RAW_FILES = {"cmath": "cmath.jsonl", "mawps": "mawps.csv", "emoji": "emoji.jsonl"}  # in raw/, to be normalised
STAMP = "POOL.json"  # in the folder of a pool: what it was made of


@dataclass(frozen=True)
class Pool:
    """A source once and for all: its rows in Arrow on the disk, and how many rows it took to get them.

    `read` rows were in its files; `dropped` of them were empty or too long, `repeats` said what an earlier one says.
    """

    rows: Dataset
    read: int
    dropped: int
    repeats: int


def pool(source: str, dataset_dir: str | Path = "data") -> Pool:
    """The cleaned rows of a source without repeats, out of `build/pools`; made anew only where it has changed.

    What counts as a change is any byte of its files, of its entry in the registry, or of the code that reads them.

    Args:
        source: a key of RAW_FILES, or a name in `dataset_info.json`.
        dataset_dir: as for `build`.

    Raises:
        DataError: the source is unknown, its name leads out of the folder of the pools, or a row of it cannot be read.
    """
    folder = home() / dataset_dir
    pools = folder / "build" / "pools"
    target = pools / source
    if target.resolve().parent != pools.resolve():
        raise DataError(f"pool: {source!r} cannot be the name of a folder in {pools}. Rename it in the registry.")
    made_of = _fingerprint(source, folder)
    made = _made(target, made_of)
    if made is not None:
        return made
    if source in RAW_FILES:
        rows = normalise_rows(source, read_raw(folder / "raw" / RAW_FILES[source]))
    else:
        rows = load_rows(source, folder)
    kept, dropped = clean_rows(rows)
    unique = unique_rows(kept)
    counts = {"read": len(rows), "dropped": len(dropped), "repeats": len(kept) - len(unique)}
    with quiet(), atomic_dir(target) as draft:
        to_dataset(unique).save_to_disk(draft)
        write_json(draft / STAMP, {"made_of": made_of, "counts": counts})
    return Pool(_loaded(target), **counts)


def _made(target: Path, made_of: str) -> Pool | None:
    """The pool in a folder; None where there is none, where it is broken, or where it was made of something else."""
    try:
        stamp = json.loads((target / STAMP).read_text(encoding="utf-8"))
        if stamp["made_of"] != made_of:
            return None
        found = Pool(_loaded(target), **stamp["counts"])
    except (OSError, ValueError, LookupError, TypeError):  # files that are missing, cut or of another version
        return None
    return found if len(found.rows) == found.read - found.dropped - found.repeats else None


def _loaded(target: Path) -> Dataset:
    from datasets import load_from_disk

    return load_from_disk(str(target))


def _fingerprint(source: str, folder: Path) -> str:
    """A hash of all that the rows of a source depend on."""
    if source in RAW_FILES:
        entry, files = source, (folder / "raw" / RAW_FILES[source],)
    else:
        found = find(source, folder)
        entry, files = repr(found), found.files
    digest = hashlib.sha256(entry.encode())
    for file in (*sorted(Path(__file__).parent.glob("*.py")), *files):
        digest.update(hashlib.sha256(file.read_bytes() if file.is_file() else b"").digest())
    return digest.hexdigest()
