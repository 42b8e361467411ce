"""From raw files to what a lesson trains on: normalise, clean, pools, deduplicate, split, mix, save (C30, C34).

data/build/pools/<source>                       Arrow, every source once, whatever the profile
data/build/<profile>/{train,valid,test,general}      Arrow: quick to load
data/build/<profile>/{train,valid,test,general}.jsonl  the same rows to read, Chinese as it is

Settings are chosen by `valid`; `test` is asked once, when they are settled; `general` is never trained on.

Between the pools and what is saved the rows are plain dicts.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from course_utils.core.files import atomic_dir, write_json
from course_utils.core.paths import home
from course_utils.core.profiles import Profile
from course_utils.data.cleaning import clean
from course_utils.data.deduplication import deduplicate
from course_utils.data.keys import row_key
from course_utils.data.loading import load_rows
from course_utils.data.mixing import draw, normalise_weights
from course_utils.data.reading import read_raw
from course_utils.data.records import DataError, Row
from course_utils.data.registry import find
from course_utils.data.rows import export_jsonl, features_of, plain_rows, quiet, to_dataset
from course_utils.data.sources import normalise_rows
from course_utils.data.splitting import split

if TYPE_CHECKING:
    from datasets import Dataset, Features

RAW_FILES = {"cmath": "cmath.jsonl", "mawps": "mawps.csv", "emoji": "emoji.jsonl"}  # in raw/, to be normalised
REGISTERED = ("json", "tools", "thinking", "worked", "plain", "general")  # in dataset_info.json
HELD_OUT = "general"  # never trained on: it shows what is forgotten
PARTS = ("train", "valid", "test", "general")
ASKED_FOR = {"negative", "thinking"}  # a row with such a tag is left out where the tag is not among the kinds
TEST_RATIO, VALID_RATIO = 0.2, 0.12  # the bundled set is small: 2 % would be a handful of rows
MIN_TEST, MIN_VALID = 100, 40
STAMP = "POOL.json"  # in the folder of a pool: what it was made of


@dataclass(frozen=True)
class Pool:
    """A source once and for all: its rows in Arrow on the disk, and how many rows were read to get them."""

    rows: Dataset
    read: int


def pool(source: str, dataset_dir: str | Path = "data") -> Pool:
    """The cleaned rows of a source without repeats, out of `build/pools`; made anew only where it has changed.

    What counts as a change is any byte of its files, of its entry in the registry, or of the code that reads them. The
    source is a key of RAW_FILES, or a name in the `dataset_info.json` of `dataset_dir`.

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
    unique, _ = deduplicate(clean(rows)[0])
    with quiet(), atomic_dir(target) as draft:
        to_dataset(unique).save_to_disk(draft)
        write_json(draft / STAMP, {"made_of": made_of, "read": len(rows), "kept": len(unique)})
    return _made(target, made_of)


def _made(target: Path, made_of: str) -> Pool | None:
    """The pool in a folder; None where there is none, where it is broken, or where it was made of something else."""
    from datasets import load_from_disk

    try:
        stamp = json.loads((target / STAMP).read_text(encoding="utf-8"))
        found = Pool(load_from_disk(str(target)), stamp["read"])
        return found if (stamp["made_of"], stamp["kept"]) == (made_of, len(found.rows)) else None
    except (OSError, ValueError, LookupError, TypeError):  # files that are missing, cut or of another version
        return None


def _fingerprint(source: str, folder: Path) -> str:
    """A hash of all that the rows of a source depend on."""
    if source in RAW_FILES:
        entry, files = source, (folder / "raw" / RAW_FILES[source],)
    else:
        found = find(source, folder)
        entry, files = repr(found), found.files
    digest = hashlib.sha256(entry.encode())
    code = (path for folder in ("data", "text") for path in sorted((Path(__file__).parents[1] / folder).glob("*.py")))
    for file in (*code, *files):
        digest.update(hashlib.sha256(file.read_bytes() if file.is_file() else b"").digest())
    return digest.hexdigest()


# -------------------------------------------------------------------------------------------- the set of a profile
@dataclass(frozen=True)
class BuildReport:
    """Rows for each step and source, and where the results lie."""

    # Of each source: raw, unique (after deduplication), kept (what the profile trains on), train, valid and test.
    counts: dict[str, dict[str, int]]
    paths: dict[str, Path]

    def table(self) -> list[dict[str, Any]]:
        """One dict a source, and their sum in the last."""
        rows = [{"source": source, **steps} for source, steps in self.counts.items()]
        total = {step: sum(steps[step] for steps in self.counts.values()) for step in next(iter(self.counts.values()))}
        return [*rows, {"source": "total", **total}]


def build(profile: Profile, *, dataset_dir: str | Path = "data", seed: int = 42) -> BuildReport:
    """Build the pools and the train, validation, test and general sets of a profile.

    A profile trains on rows in one of its languages and of one of its kinds. Rows tagged "negative" (a broken reply,
    then the right one) or "thinking" are left out unless that is among the kinds, and so is every question that a
    general row asks. Where the profile has weights, the mixture has exactly these shares and 0.9 of the rows (`mix`,
    "resample"); else it takes every training row once, the sources interleaved by their sizes.

    Args:
        profile: its name, languages, kinds and weights are read.
        dataset_dir: the folder with `dataset_info.json` and `raw/`; results go to `build/` in it.
        seed: of the split and the mixture. The same seed and rows give the same JSONL, byte for byte.

    Raises:
        DataError: a raw file that cannot be read, or nothing left to train on.
    """
    folder = home() / dataset_dir
    made = {source: pool(source, folder) for source in (HELD_OUT, *RAW_FILES, *REGISTERED)}
    # The held-out rows come first, so that a row that is in two sources stays with them.
    unique, _ = deduplicate(list(chain.from_iterable(plain_rows(part.rows) for part in made.values())))
    general = [row for row in unique if row["source"] == HELD_OUT]
    kept = _kept(unique, profile)
    rest, test = split(kept, valid_ratio=TEST_RATIO, min_valid=MIN_TEST, seed=seed)
    train, valid = split(rest, valid_ratio=VALID_RATIO, min_valid=MIN_VALID, seed=seed)
    test = list(map(_up_to_the_call, test))
    train, train_features = _mixture(train, profile, seed)
    features = features_of(kept)
    parts = {"train": (train, train_features), "valid": (valid, features)}
    parts |= {"test": (test, features), "general": (general, None)}
    target = folder / "build" / profile.name
    paths = {"pools": folder / "build" / "pools"}
    with quiet(), atomic_dir(target) as draft:
        for part, (rows, features) in parts.items():
            to_dataset(rows, features).save_to_disk(draft / part)
            export_jsonl(rows, draft / f"{part}.jsonl")
            paths |= {name: target / name for name in (part, f"{part}.jsonl")}
    steps = {"unique": unique, "kept": kept, "train": train, "valid": valid, "test": test}
    tallies = {step: Counter(row["source"] for row in rows) for step, rows in steps.items()}
    counts = {
        source: {"raw": made[source].read} | {step: tally[source] for step, tally in tallies.items()}
        for source in (*RAW_FILES, *REGISTERED)
    }
    return BuildReport(counts, paths)


def load_built(profile: Profile, part: str, dataset_dir: str | Path = "data") -> Dataset:
    """Load a part of what `build` wrote for a profile: "train", "valid", "test" or "general".

    Raises:
        DataError: an unknown part, or nothing built yet.
    """
    from datasets import load_from_disk

    if part not in PARTS:
        raise DataError(f"There is no part {part!r}; expected one of {', '.join(PARTS)}.")
    path = home() / dataset_dir / "build" / profile.name / part
    if not path.is_dir():
        found = f"{path} is not there: the data of profile {profile.name} has not been built"
        raise DataError(f"{found}. Run lesson 03, or `python -m course_utils build-data`.")
    return load_from_disk(str(path))


def _kept(unique: list[Row], profile: Profile) -> list[Row]:
    """The rows that a profile trains on or validates with."""
    asked = {row_key(row) for row in unique if row["source"] == HELD_OUT}

    def keeps(row: Row) -> bool:
        tags = set(row["tags"])
        wanted = tags & set(profile.languages) and tags & set(profile.kinds)
        return bool(wanted) and all(tag in profile.kinds for tag in tags & ASKED_FOR)

    kept = [row for row in unique if keeps(row) and row_key(row) not in asked]
    if not kept:
        wanted = f"languages {', '.join(profile.languages)} and kinds {', '.join(profile.kinds)}"
        raise DataError(f"Profile {profile.name} trains on {wanted}: no row has both. Check the tags of the rows.")
    return kept


def _up_to_the_call(row: Row) -> Row:
    """A row that is asked for its first tool call, where it has one: the result and the answer come after it."""
    calls = [place for place, message in enumerate(row["messages"]) if message.get("tool_calls")]
    return {**row, "messages": row["messages"][: calls[0] + 1]} if calls else row


def _mixture(rows: list[Row], profile: Profile, seed: int) -> tuple[list[Row], Features]:
    """The rows to train on in their order, each as often as the weights want, and features of all of them."""
    sizes = Counter(row["source"] for row in rows)
    shares = normalise_weights(sizes, dict(profile.weights) or sizes)
    order, _ = draw(sizes, shares, strategy="resample" if profile.weights else "interleave", seed=seed)
    together = [row for source in sizes if shares[source] for row in rows if row["source"] == source]
    return [together[number] for number in order], features_of(together)
