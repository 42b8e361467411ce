"""Look at masked examples before they cost training time: what is learned, and which pitfalls they hold."""

from __future__ import annotations

import hashlib
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from itertools import pairwise, takewhile
from typing import TYPE_CHECKING, Any

from course_utils.text import chat, thinking
from course_utils.text.messages import map_text
from course_utils.text.turns import IGNORED, MaskError, cleaned, ids_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class MaskAudit:
    """What a set of examples will teach. Rows are named by their number in the set, from 0."""

    lengths: tuple[int, ...]  # tokens of each row
    learned_lengths: tuple[int, ...]  # of which this many have a label
    without_labels: tuple[int, ...]  # rows in which nothing is learned
    without_stop: tuple[int, ...]  # rows in which a learned stretch does not end with its first stop token
    misplaced: tuple[int, ...]  # rows in which a learned stretch does not begin where the model begins to write
    shifted: tuple[int, ...]  # rows with a label that is not the id at its place: the model shifts by one itself
    # Rows in which a learned stretch opens a thought and does not close it, or closes one that neither it nor the
    # prompt opened (pitfall half-open-thought).
    half_thoughts: tuple[int, ...]
    forged: tuple[int, ...]  # rows with control tokens out of their text; only found where the audit has the texts
    cut: tuple[int, ...]  # rows whose end is not the end of a turn
    duplicates: tuple[int, ...]  # rows whose ids stand in an earlier row already
    duplicate_prompts: tuple[int, ...]  # rows whose ids before the first label do

    @property
    def rows(self) -> int:
        """Examples."""
        return len(self.lengths)

    @property
    def tokens(self) -> int:
        """Tokens in all rows."""
        return sum(self.lengths)

    @property
    def longest(self) -> int:
        """Tokens of the longest row."""
        return max(self.lengths, default=0)

    @property
    def learned_share(self) -> float:
        """Learned tokens over all tokens, 0 to 1."""
        return sum(self.learned_lengths) / self.tokens if self.tokens else 0.0

    @property
    def faults(self) -> dict[str, tuple[int, ...]]:
        """What spoils a training run, in words, and the rows that do it."""
        return {
            "nothing is learned": self.without_labels,
            "a learned turn never stops": self.without_stop,
            "learning begins at the wrong place": self.misplaced,
            "labels are shifted": self.shifted,
            "half a thought is learned": self.half_thoughts,
            "text forges control tokens": self.forged,
        }

    @property
    def remarks(self) -> dict[str, tuple[int, ...]]:
        """What is worth knowing and spoils nothing by itself."""
        return {
            "ends inside a turn": self.cut,
            "same ids as an earlier row": self.duplicates,
            "same prompt as an earlier row": self.duplicate_prompts,
        }

    @property
    def problems(self) -> list[str]:
        """Why this set cannot teach what it should, in words; empty where it can."""
        faults = {what: rows for what, rows in self.faults.items() if rows}
        found = [f"{what}: {len(rows)} of {self.rows} rows (first: row {rows[0]})" for what, rows in faults.items()]
        return found if self.rows else ["the set is empty"]

    def table(self) -> list[dict[str, Any]]:
        """The audit as rows of a table: what, value."""
        values = {
            "rows": self.rows,
            "tokens": self.tokens,
            "learned tokens": sum(self.learned_lengths),
            "learned share": f"{self.learned_share:.1%}",
            "longest row (tokens)": self.longest,
        }
        values |= {f"rows: {what}": len(rows) for what, rows in (self.faults | self.remarks).items()}
        return [{"what": what, "value": value} for what, value in values.items()]


def audit(
    examples: Iterable[Mapping[str, Any]],
    tokenizer: PreTrainedTokenizerBase,
    *,
    rows: Sequence[Mapping[str, Any]] | None = None,
) -> MaskAudit:
    """Look at examples before they cost training time (docs/pitfalls.md). They are only read, whoever made them.

    Args:
        examples: dicts with `input_ids` and `labels`, and `row` where several can come from one row of `rows`.
        tokenizer: its `eos_token_id` is the stop token, and its template says where a reply begins.
        rows: what the examples were made of, dicts with `messages` (and `tools`). A forged turn looks like any other
            in the ids; only beside the text can it be told.
    """
    openings = _openings(tokenizer)
    stop = tokenizer.eos_token_id
    padding = tokenizer.pad_token_id
    is_forged = None if rows is None else _forgery(tokenizer)
    found: dict[str, list[int]] = {field.name: [] for field in fields(MaskAudit)}
    seen_rows: set[bytes] = set()
    seen_prompts: set[bytes] = set()
    for number, example in enumerate(examples):
        ids, labels = list(example["input_ids"]), list(example["labels"])
        if len(ids) != len(labels):
            raise MaskError(f"row {number}: {len(ids)} input_ids but {len(labels)} labels; make them equally long")
        if is_forged and example.get("row", number) >= len(rows):
            raise MaskError(f"row {number} of the examples has no counterpart: rows holds {len(rows)}")
        stretches = learned_stretches(labels)
        filled = len(ids) - sum(1 for _ in takewhile(lambda token: token == padding != stop, reversed(ids)))
        found["lengths"].append(len(ids))
        found["learned_lengths"].append(sum(end - start for start, end in stretches))
        faults = {
            "without_labels": not stretches,
            # The last id or the one before: the template's newline after the closer is learned, too.
            "without_stop": any(
                stop not in labels[start:end] or labels.index(stop, start) < end - 2 for start, end in stretches
            ),
            "misplaced": any(not _begins_reply(ids, start, openings) for start, _ in stretches),
            "shifted": any(label not in (IGNORED, token) for token, label in zip(ids, labels, strict=True)),
            "half_thoughts": any(_is_half_thought(ids, start, end, tokenizer) for start, end in stretches),
            "forged": is_forged is not None and is_forged(ids, rows[example.get("row", number)]),
            "cut": stop not in ids[max(filled - 2, 0) : filled],
            "duplicates": _seen_before(ids, seen_rows),
            "duplicate_prompts": bool(stretches) and _seen_before(ids[: stretches[0][0]], seen_prompts),
        }
        for name, is_so in faults.items():
            if is_so:
                found[name].append(number)
    return MaskAudit(**{name: tuple(numbers) for name, numbers in found.items()})


def _openings(tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    """The ids with which an inference prompt can end, for each position of the thinking switch; the longest first."""
    ask = [{"role": "user", "content": "?"}]
    texts = []
    for switch in (None, True, False):
        render = partial(chat.render_valid, tokenizer, ask, None, enable_thinking=switch)
        texts.append(render(add_generation_prompt=True).removeprefix(render()))
    return sorted(ids_of(texts, tokenizer).values(), key=len, reverse=True)


def _begins_reply(ids: Sequence[int], start: int, openings: Sequence[list[int]]) -> bool:
    """True where a prompt ends at `start`, and the ids after it do not make it a longer prompt."""
    # So a stretch that begins with the empty think block is at fault (pitfall template-rewrites-history).
    for opening in openings:
        for begin in range(max(start - len(opening), 0), start):
            if ids[begin : begin + len(opening)] == opening:
                return begin + len(opening) == start
    return False


def _is_half_thought(ids: Sequence[int], start: int, end: int, tokenizer: PreTrainedTokenizerBase) -> bool:
    """True where the ids learned from `start` to `end` hold one end of a thought, as a token or spelled out."""
    before = tokenizer.decode(ids[max(start - 8, 0) : start])  # a prompt may end in <think>, or in an empty thought
    reply = chat.restore(tokenizer.decode(ids[start:end], skip_special_tokens=True))
    if before.rfind(thinking.OPENER) > before.rfind(thinking.CLOSER):
        return thinking.CLOSER not in reply
    opens = reply.lstrip().startswith(thinking.OPENER)
    return thinking.half_open(reply) or (not opens and thinking.leading_block(reply) is not None)


def _forgery(tokenizer: PreTrainedTokenizerBase) -> Callable[[Sequence[int], Mapping[str, Any]], bool]:
    """Whether ids hold more of some control token than the template writes for what they show of a row."""
    neutral = chat.neutraliser(tokenizer)
    added = tokenizer.get_added_vocab()
    control = set(added.values())

    def counted(ids: Sequence[int]) -> Counter[int]:
        return Counter(token for token in ids if token in control)

    def is_forged(ids: Sequence[int], row: Mapping[str, Any]) -> bool:
        raw = cleaned(row["messages"], None)
        schemas = chat.load_tools(row.get("tools"))
        texts: list[str] = []
        map_text([raw, schemas], texts.append)
        if not any(token in text for text in texts for token in added):
            return False  # nearly every row
        safe = cleaned(row["messages"], neutral)
        safe_schemas = map_text(schemas, neutral)
        shown, place = unicodedata.normalize("NFC", tokenizer.decode(list(ids))), 0
        most: Counter[int] = Counter()
        for end in range(1, len(safe) + 1):
            contents = [unicodedata.normalize("NFC", each[end - 1]["content"].strip()) for each in (raw, safe)]
            found = [shown.find(content, place) for content in contents]
            if max(found) < 0:
                break  # the example was cut before this message
            place = max(found)
            text = chat.render_valid(tokenizer, safe[:end], safe_schemas)
            most |= counted(ids_of([text], tokenizer)[text])
        return bool(counted(ids) - most)

    return is_forged


def _seen_before(ids: Sequence[int], seen: set[bytes]) -> bool:
    """True where these ids came before; they are remembered by their hash."""
    digest = hashlib.sha256(repr(ids).encode()).digest()
    before = digest in seen
    seen.add(digest)
    return before


def learned_stretches(labels: Sequence[int]) -> list[tuple[int, int]]:
    """Start and end (exclusive) of every stretch of labels that are not ignored."""
    padded = [IGNORED, *labels, IGNORED]
    edges = [place for place, (a, b) in enumerate(pairwise(padded)) if (a == IGNORED) != (b == IGNORED)]
    return list(zip(edges[::2], edges[1::2], strict=True))
