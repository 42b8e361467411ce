"""From raw files to what a lesson trains on: normalise, clean, pools, deduplicate, split, mix, save (C30, C34).

data/build/pools/<source>                       Arrow, every source once, whatever the profile
data/build/<profile>/{train,valid,general}      Arrow: quick to load
data/build/<profile>/{train,valid,general}.jsonl  the same rows to read, Chinese as it is
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from course_utils.core.files import atomic_dir
from course_utils.core.paths import home
from course_utils.data.deduplication import deduplicate
from course_utils.data.exporting import export_jsonl
from course_utils.data.keys import row_key
from course_utils.data.mixing import mix
from course_utils.data.pools import RAW_FILES, pool
from course_utils.data.rows import DataError, Row, each, join, plain, quiet, to_dataset
from course_utils.data.splitting import split

if TYPE_CHECKING:
    from datasets import Dataset

REGISTERED = ("json", "tools", "thinking", "general")  # in dataset_info.json
HELD_OUT = "general"  # never trained on: it shows what is forgotten
PARTS = ("train", "valid", "general")
VALID_RATIO = 0.2  # the bundled set is small: 2 % would be a handful of rows
MIN_VALID = 100


class BuildProfile(Protocol):
    """What `build` needs to know of a `profiles.Profile`."""

    @property
    def name(self) -> str: ...
    @property
    def languages(self) -> tuple[str, ...]: ...
    @property
    def kinds(self) -> tuple[str, ...]: ...
    @property
    def weights(self) -> tuple[tuple[str, float], ...]: ...


@dataclass(frozen=True)
class BuildReport:
    """Rows for each step and source, and where the results lie.

    `counts[source]` has raw, unique (after deduplication), kept (what the profile trains on), train and valid.
    """

    profile: str
    counts: dict[str, dict[str, int]]
    paths: dict[str, Path]

    def table(self) -> list[dict[str, Any]]:
        """One dict a source, and their sum in the last."""
        rows = [{"source": source, **steps} for source, steps in self.counts.items()]
        total = {step: sum(steps[step] for steps in self.counts.values()) for step in next(iter(self.counts.values()))}
        return [*rows, {"source": "total", **total}]


def build(profile: BuildProfile, *, dataset_dir: str | Path = "data", seed: int = 42) -> BuildReport:
    """Build the pools and the train, validation and general sets of a profile.

    A profile trains on rows in one of its languages and of one of its kinds. Rows tagged "negative" (a broken reply,
    then the right one) are left out unless "negative" is among the kinds, and so is every question that a general row
    asks. Where the profile has weights, the mixture has exactly these shares and 0.9 of the rows (`mix`, "resample");
    else it takes every training row once, the sources interleaved by their sizes.

    Args:
        profile: a `profiles.Profile`; its name, languages, kinds and weights are read.
        dataset_dir: the folder with `dataset_info.json` and `raw/`; results go to `build/` in it.
        seed: of the split and the mixture. The same seed and rows give the same JSONL, byte for byte.

    Returns:
        Counts for each step and source, and the paths written.

    Raises:
        DataError: a raw file that cannot be read, or nothing left to train on.
    """
    folder = home() / dataset_dir
    made = {source: pool(source, folder) for source in (HELD_OUT, *RAW_FILES, *REGISTERED)}
    raw = {source: made[source].read for source in (*RAW_FILES, *REGISTERED)}
    # The held-out rows come first, so that a row that is in two sources stays with them.
    unique, _ = deduplicate(join([part.rows for part in made.values()]))
    general = _of(unique, HELD_OUT)
    kept = _kept(unique, profile, general)
    train, valid = split(kept, valid_ratio=VALID_RATIO, min_valid=MIN_VALID, seed=seed)
    pools = {source: _of(train, source) for source in dict.fromkeys(train["source"])}
    if profile.weights:
        mixture, _ = mix(pools, dict(profile.weights), strategy="resample", seed=seed)
    else:
        mixture, _ = mix(pools, {source: len(rows) for source, rows in pools.items()}, seed=seed)
    target = folder / "build" / profile.name
    with quiet(), atomic_dir(target) as draft:
        for part, dataset in zip(PARTS, (mixture, valid, general), strict=True):
            dataset.save_to_disk(draft / part)
            export_jsonl(dataset, draft / f"{part}.jsonl")
    steps = {"unique": unique, "kept": kept, "train": mixture, "valid": valid}
    tallies = {step: Counter(dataset["source"]) for step, dataset in steps.items()}
    counts = {source: {"raw": raw[source]} | {step: tally[source] for step, tally in tallies.items()} for source in raw}
    paths = {"pools": folder / "build" / "pools"} | {part: target / part for part in PARTS}
    return BuildReport(profile.name, counts, paths | {f"{part}.jsonl": target / f"{part}.jsonl" for part in PARTS})


def load_built(profile: BuildProfile, part: str, dataset_dir: str | Path = "data") -> Dataset:
    """Load what `build` wrote.

    Args:
        profile: the profile it was built for.
        part: "train", "valid" or "general".
        dataset_dir: as for `build`.

    Raises:
        DataError: an unknown part, or nothing built yet.
    """
    from datasets import load_from_disk

    if part not in PARTS:
        raise DataError(f"There is no part {part!r}; expected one of {', '.join(PARTS)}.")
    path = home() / dataset_dir / "build" / profile.name / part
    if not path.is_dir():
        raise DataError(
            f"{path} is not there: the data of profile {profile.name} has not been built. "
            "Run lesson 03, or `python -m course_utils build-data`."
        )
    return load_from_disk(str(path))


def _kept(unique: Dataset, profile: BuildProfile, held_out: Dataset) -> Dataset:
    """The rows that a profile trains on or validates with."""
    asked = set(map(row_key, each(held_out, ("messages",))))

    def keeps(row: Row) -> bool:
        tags = set(row["tags"])
        return (
            row["source"] != HELD_OUT
            and bool(tags & set(profile.languages))
            and bool(tags & set(profile.kinds))
            and ("negative" not in tags or "negative" in profile.kinds)
            and row_key(row) not in asked
        )

    kept = to_dataset([row for row in map(plain, each(unique)) if keeps(row)])
    if not len(kept):
        raise DataError(
            f"Profile {profile.name} trains on languages {', '.join(profile.languages)} and "
            f"kinds {', '.join(profile.kinds)}: no row has both. Check the tags of the rows."
        )
    return kept


def _of(dataset: Dataset, source: str) -> Dataset:
    """The rows of one source, with the keys that this source has and no others."""
    return to_dataset([plain(row) for row in each(dataset) if row["source"] == source])
