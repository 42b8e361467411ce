"""Messages to input ids and labels: only what the assistant must say is learned.

For every learned turn the ids before it are the inference prompt of that turn, and the learned ids are what the full
rendering adds for it, the closing token included (docs/pitfalls.md). Both come from the tokenizer's own template.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
import warnings
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from itertools import chain, islice, pairwise, takewhile
from typing import TYPE_CHECKING, Any, Literal

from course_utils.core.errors import CourseError
from course_utils.text import chat
from course_utils.text.chat import Message, MessageError
from course_utils.text.thinking import leading_block

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

IGNORED = -100  # the label that torch's cross entropy leaves out
ROWS_AT_ONCE = 1000  # that are tokenised in one call

Example = dict[str, list[int]]
Stretched = tuple[list[int], list[tuple[int, int]]]  # ids, and the (start, end) of every learned stretch in them


class MaskError(CourseError):
    """A conversation from which no exact mask can be made."""


@dataclass(frozen=True)
class Turn:
    """One learned assistant turn as text: what inference would show the model, and what it must then say."""

    prompt: str
    target: str


def build_examples(
    messages: Sequence[Mapping[str, Any]],
    tokenizer: PreTrainedTokenizerBase,
    *,
    tools: str | Sequence[Mapping[str, Any]] | None = None,
    train_on: Literal["all", "last"] = "all",
    enable_thinking: bool | None = None,
    train_on_tool_calls: bool = False,
    max_length: int | None = None,
    guard: bool = True,
) -> list[Example]:
    """Turn one conversation into training examples.

    Where the template keeps earlier turns as they are (2507, SmolLM2), all learned turns share one example. Where it
    rewrites them (Qwen3's hybrid template drops earlier thinking), each learned turn gets an example of its own.

    Args:
        messages: see `chat.validate`. Newlines at the edges of contents are stripped (pitfall closer-not-learned).
        tokenizer: one with a chat template.
        tools: tool schemas, as a list or as JSON text.
        train_on: learn "all" assistant turns or only the "last".
        enable_thinking: Qwen3's switch; None sets it per turn, True where the turn has `reasoning_content`. (True on a
            plain turn of the hybrid template learns its empty think block, and teaches to think nothing.)
        train_on_tool_calls: learn turns that call tools, too; by default only replies in words.
        max_length: tokens per example. Learned turns that do not fit are left out whole, so that no example ever
            ends without its closing token (pitfall stop-token-cut-off); where none fits the result is empty.
        guard: neutralise control tokens in all texts of the row: contents, thinking, calls and schemas (pitfall
        forged-control-tokens).

    Returns:
        Dicts with `input_ids` and `labels`, equally long; labels are -100 where nothing is learned.

    Raises:
        MessageError: for messages that the template would drop or garble.
        MaskError: where the template does not continue its own inference prompt.
    """
    options = _Options(tokenizer, train_on, enable_thinking, train_on_tool_calls, guard)
    turns = _learned_turns({"messages": messages, "tools": tools}, options)
    [examples] = _tokenised([turns], tokenizer)
    return _cut(examples, max_length)[0]


def build_dataset(
    rows: Iterable[Mapping[str, Any]],
    tokenizer: PreTrainedTokenizerBase,
    *,
    train_on: Literal["all", "last"] = "all",
    enable_thinking: bool | None = None,
    train_on_tool_calls: bool = False,
    max_length: int | None = None,
    guard: bool = True,
) -> Dataset:
    """`build_examples` for many rows, tokenised a thousand rows at a time.

    Args:
        rows: dicts with `messages` and, where they apply, `tools` and `source`.
        tokenizer, train_on, enable_thinking, train_on_tool_calls, max_length, guard: see `build_examples`.

    Returns:
        A dataset with `input_ids`, `labels`, `row` (the number of the row that an example comes from) and `source`.
        A warning counts the rows that gave no example, because they are longer than `max_length` or hold nothing to
        learn, and the rows whose last turns did not fit.

    Raises:
        MessageError, MaskError: as `build_examples`, with the number of the row.
    """
    from datasets import concatenate_datasets

    options = _Options(tokenizer, train_on, enable_thinking, train_on_tool_calls, guard)
    numbered = enumerate(rows)
    batches = iter(lambda: list(islice(numbered, ROWS_AT_ONCE)), [])
    made = [_masked(batch, options, max_length) for batch in batches] or [_masked([], options, max_length)]
    empty, shortened = ([number for each in made for number in each[place]] for place in (1, 2))
    too_long = "" if max_length is None else f", or longer than {max_length} tokens"
    for what, numbers in (
        (f"gave no example: nothing to learn in them{too_long}", empty),
        (f"lost learned turns that do not fit into {max_length} tokens", shortened),
    ):
        if numbers:
            shown = ", ".join(map(str, numbers[:5])) + (" …" if len(numbers) > 5 else "")
            warnings.warn(f"{len(numbers)} rows {what} (rows {shown})", stacklevel=2)
    return concatenate_datasets([part for part, _, _ in made])


def _masked(
    batch: Sequence[tuple[int, Mapping[str, Any]]], options: _Options, max_length: int | None
) -> tuple[Dataset, list[int], list[int]]:
    """One batch of `build_dataset`, the numbers of its rows without an example, and of those that lost turns."""
    from datasets import Dataset, Features, List, Value

    turns = [_learned_turns(row, options, number) for number, row in batch]
    columns: dict[str, list[Any]] = {"input_ids": [], "labels": [], "row": [], "source": []}
    empty: list[int] = []
    shortened: list[int] = []
    for (number, row), made in zip(batch, _tokenised(turns, options.tokenizer), strict=True):
        examples, left_out = _cut(made, max_length)
        for example in examples:
            columns["input_ids"].append(example["input_ids"])
            columns["labels"].append(example["labels"])
            columns["row"].append(number)
            columns["source"].append(row.get("source") or "")
        if not examples:
            empty.append(number)
        elif left_out:
            shortened.append(number)
    ids = List(Value("int64"))
    features = {"input_ids": ids, "labels": ids, "row": Value("int64"), "source": Value("string")}
    # Without rows there is nothing to read the features from; with rows, reading them is faster than to be told.
    return Dataset.from_dict(columns, None if columns["row"] else Features(features)), empty, shortened


class _Options:
    """How turns are chosen and rendered; see `build_examples`. What is the same for all rows is made once."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        train_on: str,
        enable_thinking: bool | None,
        train_on_tool_calls: bool,
        guard: bool,
    ) -> None:
        if train_on not in ("all", "last"):
            raise MaskError(f"train_on is {train_on!r}; write 'all' or 'last'")
        self.tokenizer = tokenizer
        self.last_only = train_on == "last"
        self.enable_thinking = enable_thinking
        self.train_on_tool_calls = train_on_tool_calls
        self.neutral = chat.neutraliser(tokenizer) if guard else None
        self.frames = _Frames(tokenizer, enable_thinking)


def _learned_turns(row: Mapping[str, Any], options: _Options, number: int | None = None) -> list[Turn]:
    """The prompt and the target of every assistant turn that is learned; `number` is the row's, for errors."""
    try:
        return _turns(row, options)
    except MessageError as error:
        if number is None:
            raise
        raise MessageError(error.index, error.field, f"{error.reason} (row {number})") from error
    except MaskError as error:
        if number is None:
            raise
        raise MaskError(f"row {number}: {error}") from error


def _turns(row: Mapping[str, Any], options: _Options) -> list[Turn]:
    chat.validate(row.get("messages"))
    clean = [_clean(message, options.neutral) for message in row["messages"]]
    schemas = chat.load_tools(row.get("tools"))
    if options.neutral and schemas:
        schemas = _map_text(schemas, options.neutral)
    learned = [
        index
        for index, message in enumerate(clean)
        if message["role"] == "assistant" and (options.train_on_tool_calls or not message.get("tool_calls"))
    ]
    learned = learned[-1:] if options.last_only else learned
    if options.neutral and not schemas and (turns := options.frames.turns(clean, learned)):
        return turns
    turns = []
    # A template may drop the thinking of earlier turns on purpose; it must have a place for it at all.
    for index in _thinking_history(clean, learned):
        own = chat.render_valid(options.tokenizer, clean[: index + 1], schemas)
        chat.require_whole(own, clean[: index + 1], schemas)
    for index in learned:
        thinking = options.enable_thinking
        if thinking is None:
            thinking = bool(clean[index].get("reasoning_content"))
        render = partial(chat.render_valid, options.tokenizer, schemas=schemas, enable_thinking=thinking)
        prompt = render(clean[:index], add_generation_prompt=True)
        full = render(clean[: index + 1])
        chat.require_whole(full, clean[: index + 1], schemas)
        if not full.startswith(prompt):
            raise MaskError(
                f"messages[{index}]: with enable_thinking={thinking} the template opens this turn in another way than "
                "it renders it, so there is no exact mask. Join assistant turns that follow one another, leave "
                "enable_thinking unset, and use the inference template"
            )
        turns.append(Turn(prompt, full[len(prompt) :]))
    return turns


def _thinking_history(messages: Sequence[Message], learned: Sequence[int]) -> list[int]:
    """The turns with thinking that are not learned themselves, but stand before one that is."""
    return [
        index
        for index, message in enumerate(messages[: learned[-1]] if learned else ())
        if message.get("reasoning_content") and index not in learned
    ]


class _Frames:
    """What the template writes around the contents of plain turns, learned once for every order of roles.

    Two renderings a turn are most of the work. A plain conversation has nothing but contents, and these hold no
    control token and no outer line break, so a template only puts them into place. That is tried for every row: its
    whole text is rendered as ever, and must be what the frame gives. What is assumed is that the opening of a turn does
    not depend on what was said before; no template of this course reads a content there.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, enable_thinking: bool | None) -> None:
        self._render = partial(chat.render_valid, tokenizer, schemas=None, enable_thinking=bool(enable_thinking))
        self._known: dict[tuple[Any, ...], list[tuple[list[str], str]] | None] = {}

    def turns(self, messages: list[Message], learned: list[int]) -> list[Turn] | None:
        """The learned turns; None where messages are not plain, or the template does more than put them into place."""
        if not learned or any(len(message) > 2 or not message["content"] for message in messages):
            return None
        key = (*(message["role"] for message in messages), *learned)
        if key not in self._known:
            self._known[key] = self._learn(messages, learned)
        frames = self._known[key]
        if frames is None:
            return None
        contents = [message["content"] for message in messages]
        turns = []
        for (before, closer), index in zip(frames, learned, strict=True):
            prompt = "".join(chain.from_iterable(zip(before, contents[:index], strict=False))) + before[-1]
            turns.append(Turn(prompt, contents[index] + closer))
        whole = self._render(messages[: learned[-1] + 1])
        return turns if turns[-1].prompt + turns[-1].target == whole else None

    def _learn(self, messages: list[Message], learned: list[int]) -> list[tuple[list[str], str]] | None:
        """For each learned turn the texts before, between and after the contents of its prompt, and its closer."""
        marks = [chr(code) for code in chat.PRIVATE_USE[: len(messages)]]
        bare = [message | {"content": mark} for message, mark in zip(messages, marks, strict=True)]
        cut = re.compile(f"([{''.join(marks)}])")
        frames = []
        for index in learned:
            prompt = cut.split(self._render(bare[:index], add_generation_prompt=True))
            full = cut.split(self._render(bare[: index + 1]))
            # The same texts and contents in the same order, then the reply, then what closes it.
            if prompt[1::2] != marks[:index] or full[:-2] != prompt or full[-2] != marks[index]:
                return None
            frames.append((prompt[::2], full[-1]))
        return frames


def _clean(message: Mapping[str, Any], neutral: Callable[[str], str] | None) -> Message:
    """Drop keys that are None, move a leading think block out of the content, strip edge newlines, neutralise.

    Args:
        message: a valid message.
        neutral: from `chat.neutraliser`; None leaves the text as it is.
    """
    clean = {key: value for key, value in message.items() if value is not None}
    clean["content"] = clean.get("content", "").strip("\n")
    if clean["role"] == "assistant" and "reasoning_content" not in clean:
        block = leading_block(clean["content"])
        if block:
            clean["reasoning_content"], clean["content"] = block
    if not clean.get("reasoning_content", "x").strip():
        # Blank thinking is none: learned, it would teach to think nothing (pitfall template-rewrites-history).
        del clean["reasoning_content"]
    if neutral is not None:
        for key in ("content", "reasoning_content", "tool_calls"):
            if key in clean:
                clean[key] = _map_text(clean[key], neutral)
    return clean


def _map_text(value: Any, change: Callable[[str], str]) -> Any:
    """`change` applied to every text inside nested lists and dicts."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {change(key): _map_text(item, change) for key, item in value.items()}
    if isinstance(value, Sequence):
        return [_map_text(item, change) for item in value]
    return value


def _tokenised(rows: Sequence[list[Turn]], tokenizer: PreTrainedTokenizerBase) -> list[list[Stretched]]:
    """The examples of each row as ids with their learned stretches; the texts of all rows are tokenised in one call.

    Prompt and target are tokenised apart, as inference does it. Where every prompt continues the turn before it, a row
    is one example: the last prompt, in which the earlier turns stand, and the last target. Else each turn is one.
    """
    borders = _Borders(tokenizer)
    joined = [
        all(later.prompt.startswith(turn.prompt + turn.target) for turn, later in pairwise(turns)) for turns in rows
    ]
    apart = [turns[-1:] if together else turns for turns, together in zip(rows, joined, strict=True)]
    ids = _ids_of([text for turns in apart for turn in turns for text in (turn.prompt, turn.target)], tokenizer)
    made = []
    for turns, alone in zip(rows, apart, strict=True):
        history: list[tuple[int, int]] | None = []
        if len(alone) < len(turns):
            history = borders.stretches(turns[:-1], turns[-1].prompt, ids[turns[-1].prompt])
        if history is None:  # a merge crosses a border: as one sequence the ids would differ from inference's
            history, alone = [], turns
            ids |= _ids_of([text for turn in turns for text in (turn.prompt, turn.target)], tokenizer)
        examples = []
        for turn in alone:
            prompt, target = ids[turn.prompt], ids[turn.target]
            examples.append((prompt + target, [*history, (len(prompt), len(prompt) + len(target))]))
        made.append(examples)
    return made


def _ids_of(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> dict[str, list[int]]:
    """The ids of each text, all tokenised in one call."""
    tokenizer("")  # takes back the truncation and padding of earlier calls, which the backend would keep
    # The template has written every special token already: the tokenizer must add none. "Fast" is the same without
    # the place of every token in the text, which costs a third of the time.
    made = tokenizer.backend_tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
    return {text: encoding.ids for text, encoding in zip(texts, made, strict=True)}


class _Borders:
    """Where a turn begins and ends in the ids of a text that goes on after it.

    A tokenizer cuts a text at every added token before anything else. So up to its last added token the ids of a
    beginning are those of the whole, and only the few characters after that have to be compared.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        added = tokenizer.get_added_vocab()
        self._control = set(added.values())
        self._pattern = re.compile("|".join(map(re.escape, sorted(added, key=len, reverse=True))) or "(?!)")
        self._tails: dict[str, list[int]] = {}

    def stretches(self, turns: Sequence[Turn], text: str, ids: list[int]) -> list[tuple[int, int]] | None:
        """Where the targets of `turns` stand in the ids of `text`, of which they are a part.

        Returns:
            The first place of each and the one after its last; None where a turn has no border of its own, because a
            merge reaches across it.
        """
        control = self._control
        places = [place for place, token in enumerate(ids) if token in control]
        ends = [match.end() for match in self._pattern.finditer(text)]
        if len(ends) != len(places):
            return None
        found = []
        for turn in turns:
            start = len(turn.prompt)
            span = [self._border(text, cut, ends, ids, places) for cut in (start, start + len(turn.target))]
            if None in span:
                return None
            found.append(tuple(span))
        return found

    def _border(self, text: str, cut: int, ends: list[int], ids: list[int], places: list[int]) -> int | None:
        """The number of ids that make up the first `cut` characters of `text`."""
        count = bisect_right(ends, cut)
        last, first = (ends[count - 1], places[count - 1] + 1) if count else (0, 0)
        tail = text[last:cut]
        if tail not in self._tails:
            self._tails |= _ids_of([tail], self._tokenizer)
        after = first + len(self._tails[tail])
        return after if ids[first:after] == self._tails[tail] else None


def _cut(examples: list[Stretched], max_length: int | None) -> tuple[list[Example], int]:
    """The examples as ids and labels, each ending with its last turn that fits, and the number of turns left out."""
    made = []
    left_out = 0
    for ids, stretches in examples:
        fitting = [(start, end) for start, end in stretches if max_length is None or end <= max_length]
        left_out += len(stretches) - len(fitting)
        if fitting:
            input_ids = ids[: fitting[-1][1]]
            labels = [IGNORED] * len(input_ids)
            for start, end in fitting:
                labels[start:end] = input_ids[start:end]
            made.append({"input_ids": input_ids, "labels": labels})
    return made, left_out


@dataclass(frozen=True)
class MaskAudit:
    """What a set of examples will teach. Rows are named by their number in the set, from 0.

    Attributes:
        lengths: tokens of each row.
        learned_lengths: of which this many have a label.
        without_labels: rows in which nothing is learned.
        without_stop: rows in which a learned stretch does not end with its first stop token.
        misplaced: rows in which a learned stretch does not begin where the model begins to write.
        shifted: rows with a label that is not the id at its place. (The model shifts labels by one itself.)
        forged: rows with control tokens that came out of their text; only found where the audit was given the texts.
        cut: rows whose end is not the end of a turn.
        duplicates: rows whose ids stand in an earlier row already.
        duplicate_prompts: rows whose ids before the first label do.
    """

    lengths: tuple[int, ...]
    learned_lengths: tuple[int, ...]
    without_labels: tuple[int, ...]
    without_stop: tuple[int, ...]
    misplaced: tuple[int, ...]
    shifted: tuple[int, ...]
    forged: tuple[int, ...]
    cut: tuple[int, ...]
    duplicates: tuple[int, ...]
    duplicate_prompts: tuple[int, ...]

    @property
    def rows(self) -> int:
        """Examples."""
        return len(self.lengths)

    @property
    def tokens(self) -> int:
        """Tokens in all rows."""
        return sum(self.lengths)

    @property
    def learned(self) -> int:
        """Tokens with a label, in all rows."""
        return sum(self.learned_lengths)

    @property
    def longest(self) -> int:
        """Tokens of the longest row."""
        return max(self.lengths, default=0)

    @property
    def learned_share(self) -> float:
        """Learned tokens over all tokens, 0 to 1."""
        return self.learned / self.tokens if self.tokens else 0.0

    @property
    def faults(self) -> dict[str, tuple[int, ...]]:
        """What spoils a training run, in words, and the rows that do it."""
        return {
            "nothing is learned": self.without_labels,
            "a learned turn never stops": self.without_stop,
            "learning begins at the wrong place": self.misplaced,
            "labels are shifted": self.shifted,
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
        found = [] if self.rows else ["the set is empty"]
        return found + [
            f"{what}: {len(rows)} of {self.rows} rows (first: row {rows[0]})"
            for what, rows in self.faults.items()
            if rows
        ]

    def table(self) -> list[dict[str, Any]]:
        """The audit as rows of a table: what, value."""
        values = {
            "rows": self.rows,
            "tokens": self.tokens,
            "learned tokens": self.learned,
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
    """Look at examples before they cost training time (docs/pitfalls.md). Whoever made them, they are only read.

    Args:
        examples: dicts with `input_ids` and `labels`, and `row` where several can come from one row of `rows`.
        tokenizer: its `eos_token_id` is the stop token, and its template says where a reply begins.
        rows: what the examples were made of, dicts with `messages` (and `tools`). A forged turn looks like any other
            in the ids; only beside the text can it be told.

    Returns:
        The lengths, and the numbers of the rows that are at fault.
    """
    openings = _openings(tokenizer)
    stop = tokenizer.eos_token_id
    padding = tokenizer.pad_token_id
    allowed = None if rows is None else _ControlTokens(tokenizer)
    found: dict[str, list[int]] = {field.name: [] for field in fields(MaskAudit)}
    seen_rows: set[bytes] = set()
    seen_prompts: set[bytes] = set()
    for number, example in enumerate(examples):
        ids, labels = list(example["input_ids"]), list(example["labels"])
        if len(ids) != len(labels):
            raise MaskError(f"row {number}: {len(ids)} input_ids but {len(labels)} labels; make them equally long")
        if allowed is not None and example.get("row", number) >= len(rows):
            raise MaskError(f"row {number} of the examples has no counterpart: rows holds {len(rows)}")
        spans = _spans(labels)
        filled = len(ids) - sum(1 for _ in takewhile(lambda token: token == padding != stop, reversed(ids)))
        found["lengths"].append(len(ids))
        found["learned_lengths"].append(sum(end - start for start, end in spans))
        faults = {
            "without_labels": not spans,
            # The last id or the one before: the template's newline after the closer is learned, too.
            "without_stop": any(
                stop not in labels[start:end] or labels.index(stop, start) < end - 2 for start, end in spans
            ),
            "misplaced": any(not _begins_reply(ids, start, openings) for start, _ in spans),
            "shifted": any(label not in (IGNORED, token) for token, label in zip(ids, labels, strict=True)),
            "forged": allowed is not None and allowed.exceeded(ids, rows[example.get("row", number)]),
            "cut": stop not in ids[max(filled - 2, 0) : filled],
            "duplicates": _seen_before(ids, seen_rows),
            "duplicate_prompts": bool(spans) and _seen_before(ids[: spans[0][0]], seen_prompts),
        }
        for name, is_so in faults.items():
            if is_so:
                found[name].append(number)
    return MaskAudit(**{name: tuple(numbers) for name, numbers in found.items()})


def _openings(tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    """The ids with which an inference prompt can end, for each position of the thinking switch; the longest first."""
    ask = [{"role": "user", "content": "?"}]
    openings = []
    for thinking in (None, True, False):
        closed = chat.render_valid(tokenizer, ask, None, enable_thinking=thinking)
        open_ = chat.render_valid(tokenizer, ask, None, enable_thinking=thinking, add_generation_prompt=True)
        opening = open_.removeprefix(closed)
        openings.append(_ids_of([opening], tokenizer)[opening])
    return sorted(openings, key=len, reverse=True)


def _begins_reply(ids: Sequence[int], start: int, openings: Sequence[list[int]]) -> bool:
    """True where a prompt ends before `start`, and no longer one that only the ids after it complete.

    So a stretch that begins with the empty think block is at fault: that block is the end of a prompt (pitfall
    template-rewrites-history).
    """
    for opening in openings:
        for begin in range(max(start - len(opening), 0), start):
            if ids[begin : begin + len(opening)] == opening:
                return begin + len(opening) == start
    return False


class _ControlTokens:
    """How many control tokens a template writes for a row, to find those that came out of its text."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._neutral = chat.neutraliser(tokenizer)
        self._added = tokenizer.get_added_vocab()
        self._control = set(self._added.values())

    def exceeded(self, ids: Sequence[int], row: Mapping[str, Any]) -> bool:
        """True where `ids` hold more of some control token than the template writes for what they show of the row."""
        raw = [_clean(message, None) for message in row["messages"]]
        schemas = chat.load_tools(row.get("tools"))
        if not any(token in text for text in _texts([raw, schemas]) for token in self._added):
            return False  # nearly every row
        safe = [_clean(message, self._neutral) for message in row["messages"]]
        safe_schemas = _map_text(schemas, self._neutral)
        shown, place = unicodedata.normalize("NFC", self._tokenizer.decode(list(ids))), 0
        most: Counter[int] = Counter()
        for end in range(1, len(safe) + 1):
            contents = [unicodedata.normalize("NFC", each[end - 1]["content"].strip()) for each in (raw, safe)]
            found = [shown.find(content, place) for content in contents]
            if max(found) < 0:
                break  # the example was cut before this message
            place = max(found)
            text = chat.render_valid(self._tokenizer, safe[:end], safe_schemas)
            most |= self._count(_ids_of([text], self._tokenizer)[text])
        return bool(self._count(ids) - most)

    def _count(self, ids: Sequence[int]) -> Counter[int]:
        return Counter(token for token in ids if token in self._control)


def _texts(value: Any) -> Iterator[str]:
    """Every text inside nested lists and dicts."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        yield from _texts(list(value.values()))
    elif isinstance(value, Sequence):
        for item in value:
            yield from _texts(item)


def _seen_before(ids: Sequence[int], seen: set[bytes]) -> bool:
    """True where these ids came before; they are remembered by their hash."""
    digest = hashlib.sha256(repr(ids).encode()).digest()
    before = digest in seen
    seen.add(digest)
    return before


def _spans(labels: Sequence[int]) -> list[tuple[int, int]]:
    """Start and end (exclusive) of every learned stretch."""
    spans = []
    start = None
    for position, label in enumerate([*labels, IGNORED]):
        if label != IGNORED and start is None:
            start = position
        elif label == IGNORED and start is not None:
            spans.append((start, position))
            start = None
    return spans
