"""Rows that repeat others: equal ones, one exercise in other numbers, and texts that are nearly the same (C29)."""

from __future__ import annotations

import hashlib
import json
import unicodedata
import zlib
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from course_utils.data.keys import row_key
from course_utils.data.records import DataError, Row
from course_utils.data.rows import BAR_AFTER, MEDIA, REPLIES, Rows, plain, plain_rows, select

if TYPE_CHECKING:
    from datasketch import MinHash

WAYS = ("hash", "numbers", "minhash")
SAID = ("messages", "tools", *REPLIES, "label", "text", *MEDIA)  # what a row says; not its id, source and tags
SHINGLE = 5  # characters
PERMUTATIONS = 128
BATCH = 512  # shingles hashed at a time: 256 KiB for each step, which stays in the processor's cache
CONFIRMED = 10  # candidates of a row whose shingles are compared; many rows of one template would have thousands


@dataclass(frozen=True)
class Removed:
    """A row that was taken out, and the earlier row that it repeats; rows count from 0 in the data set given."""

    row: int
    source: str
    first_row: int
    first_source: str
    similarity: float = 1.0  # of Jaccard, from 0 to 1; 1.0 where their hashes or keys are equal


def deduplicate(dataset: Rows, *, by: str = "hash", threshold: float = 0.85) -> tuple[Rows, list[Removed]]:
    """Keep the first of the rows that repeat each other, within a source and across sources.

    hash: rows that say the same (`row_hash`).
    numbers: rows whose question is the same once numbers are masked (`row_key`), whatever the replies; their images,
    videos and audios must be the same.
    minhash: rows whose text is nearly that of a row kept before. The shingles of a row are all stretches of 5
    characters that each role says, in NFKC and lower case and without white space, which serves Chinese as it does
    English; two rows are as near as their Jaccard similarity, shared shingles / all shingles. MinHash and its index
    find candidates (Broder, "On the resemblance and containment of documents", 1997; Leskovec et al., "Mining of
    Massive Datasets", ch. 3): 87 % of the pairs that are as near as a threshold of 0.85, 98 % of those at 0.9. The
    likeliest are then compared exactly, so no row goes by an accident of hashing. Rows that differ in system turns,
    tools, label or media are not near. Rows that share a long instruction are: look at what was removed, and raise the
    threshold. Thousands of rows of one template take long, as each is a candidate for each: take "numbers" first.

    Do this before splitting and mixing: after a resample it would take the asked shares apart again (pitfall
    mixing-loses-weights).

    Args:
        dataset: rows of the schema in `rows.py`, as a Dataset or as a list of plain dicts; source may be missing.
        by: "hash", "numbers" or "minhash".
        threshold: for minhash, the similarity from which a row is removed; above 0, at most 1.

    Returns:
        The rows without repeats in their order, of the kind given, and what was removed.

    Raises:
        DataError: an unknown `by`, or a threshold out of range.
    """
    if by not in WAYS:
        raise DataError(f"deduplicate: unknown by={by!r}; expected one of {', '.join(WAYS)}.")
    if not 0 < threshold <= 1:
        raise DataError(f"deduplicate: threshold must be above 0 and at most 1, found {threshold}.")
    rows = plain_rows(dataset, SAID)
    if by == "hash":
        repeats = _equal(map(_digest, rows))
    elif by == "numbers":
        repeats = _equal((row_key(row), _parts(row, MEDIA)) for row in rows)
    else:
        repeats = _near(rows, len(dataset), threshold)
    named = isinstance(dataset, list) or "source" in dataset.column_names
    source = [row.get("source", "") for row in plain_rows(dataset, ("source",))] if named else [""] * len(dataset)
    removed = [Removed(row, source[row], first, source[first], near) for row, (first, near) in repeats.items()]
    return select(dataset, [row for row in range(len(dataset)) if row not in repeats]), removed


def row_hash(row: Row) -> bytes:
    """SHA-256 of what a row says: equal for equal rows, whatever their id, source, tags and keys that are None."""
    return _digest(plain(row))


def _digest(row: Row) -> bytes:
    return hashlib.sha256(_parts(row, SAID).encode("utf-8", "surrogatepass")).digest()


def _parts(row: Row, columns: Iterable[str]) -> str:
    """Canonical JSON of those columns that a plain row has."""
    return json.dumps({column: row[column] for column in columns if column in row}, ensure_ascii=False, sort_keys=True)


def _equal(keys: Iterable[Hashable]) -> dict[int, tuple[int, float]]:
    """For each row whose key has been seen: the first row of that key, and 1.0."""
    first: dict[Hashable, int] = {}
    seen = ((row, first.setdefault(key, row)) for row, key in enumerate(keys))
    return {row: (earlier, 1.0) for row, earlier in seen if earlier != row}


# --------------------------------------------------------------------------------------------------------- MinHash
class Conversation(NamedTuple):
    """A row as it is compared: what each role says, and as JSON the rest, which must be equal."""

    rest: str
    said: dict[str, str]


def _near(rows: Iterable[Row], total: int, threshold: float) -> dict[int, tuple[int, float]]:
    """For each row near a row kept before it: that row, and how similar the two are."""
    import numpy as np
    from datasketch import MinHashLSH
    from tqdm.auto import tqdm

    index = MinHashLSH(
        min(threshold, 0.99),  # above it the library finds no two bands; the exact comparison has the last word
        PERMUTATIONS,
        weights=(0.1, 0.9),  # a false candidate costs time, a missed one stays in the data
    )
    sketch_of = _sketcher()
    signatures = np.empty((total, PERMUTATIONS), np.uint32)
    kept: dict[int, Conversation] = {}
    repeats: dict[int, tuple[int, float]] = {}
    for number, row in enumerate(tqdm(rows, total=total, unit="row", leave=False, delay=BAR_AFTER)):
        conversation = _conversation(row)
        sketch = sketch_of(conversation)
        candidates = np.sort(np.array(index.query(sketch), np.int64))
        agreement = (signatures[candidates] == sketch.hashvalues).sum(axis=1)  # grows with the similarity
        likely = candidates[np.argsort(-agreement, kind="stable")[:CONFIRMED]].tolist()
        same_rest = [other for other in likely if kept[other].rest == conversation.rest]
        shingles = _shingles(conversation) if same_rest else set()
        for other in same_rest:
            others = _shingles(kept[other])
            together = len(shingles | others)
            similarity = len(shingles & others) / together if together else 1.0  # two rows that say nothing are equal
            if similarity >= threshold:
                repeats[number] = (other, similarity)
                break
        else:
            index.insert(number, sketch)
            signatures[number] = sketch.hashvalues
            kept[number] = conversation
    return repeats


def _conversation(row: Row) -> Conversation:
    """A row as it is compared; calls of tools and thinking are said too. NFKC, lower case, no white space."""
    texts = defaultdict(list)
    for column in ("messages", *REPLIES):
        for turn in row.get(column, ()):
            calls = [call["function"] for call in turn.get("tool_calls", ())]
            said = [turn.get("reasoning_content"), turn.get("content")]
            said += [call[key] for call in calls for key in ("name", "arguments")]
            texts[turn["role"] if column == "messages" else column] += filter(None, said)
    if row.get("text"):
        texts["text"] = [row["text"]]
    rest = json.dumps(texts.pop("system", []), ensure_ascii=False) + _parts(row, ("tools", "label", *MEDIA))
    together = {role: unicodedata.normalize("NFKC", "\n".join(said)) for role, said in texts.items()}
    return Conversation(rest, {role: "".join(text.casefold().split()) for role, text in together.items()})


def _shingles(conversation: Conversation) -> set[tuple[str, str]]:
    """All stretches of 5 characters, each with the role that says it; a shorter text is one."""
    said = ((role, text, max(1, len(text) - SHINGLE + 1)) for role, text in conversation.said.items())
    return {(role, text[start : start + SHINGLE]) for role, text, count in said for start in range(count)}


def _sketcher() -> Callable[[Conversation], MinHash]:
    """A function that gives the MinHash of a conversation's shingles.

    A shingle is hashed by multiply-shift over its characters (Thorup, "High speed hashing for integers and strings",
    2015), for all shingles of a text in one convolution; the library's SHA-1 of each would more than double the time.
    """
    import numpy as np
    from datasketch import MinHash

    empty = MinHash(PERMUTATIONS, hashfunc=int)  # its seed is fixed, and what it is given are hashes already
    factors = np.random.RandomState(1).randint(0, 2**64, SHINGLE, np.uint64)

    def hashes_of(text: str, who: str) -> np.ndarray:
        codes = np.frombuffer(text.ljust(SHINGLE, "\0").encode("utf-32-le", "surrogatepass"), "<u4").astype(np.uint64)
        codes += zlib.crc32(who.encode("utf-8", "surrogatepass")) << 21  # above the bits of a character
        return np.convolve(codes, factors, "valid") >> 32

    def sketch_of(conversation: Conversation) -> MinHash:
        sketch = empty.copy()
        # the rest is hashed with the role: rows that differ there share nothing, and are no candidates
        parts = [hashes_of(text, f"{role}:{conversation.rest}") for role, text in conversation.said.items()]
        hashes = np.concatenate([*parts, np.empty(0, np.uint64)])  # a row may say nothing
        for start in range(0, len(hashes), BATCH):
            sketch.update_batch(hashes[start : start + BATCH].tolist())
        return sketch

    return sketch_of
