"""Messages to input ids and labels: only what the assistant must say is learned.

For every learned turn the ids before it are the inference prompt of that turn, and the learned ids are what the full
rendering adds for it, the closing token included (traps 1 to 4). Both come from the tokenizer's own template.
"""

from __future__ import annotations

import hashlib
import json
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

from course_utils import chat
from course_utils.chat import Message, MessageError
from course_utils.errors import CourseError

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

IGNORED = -100  # the label that torch's cross entropy leaves out

Example = dict[str, list[int]]


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
        messages: see `chat.validate`. Newlines at the edges of contents are stripped (trap 2).
        tokenizer: one with a chat template.
        tools: tool schemas, as a list or as JSON text.
        train_on: learn "all" assistant turns or only the "last".
        enable_thinking: Qwen3's switch; None sets it per turn, True where the turn has `reasoning_content`.
        train_on_tool_calls: learn turns that call tools, too; by default only replies in words.
        max_length: tokens per example. Learned turns that do not fit are left out whole, so that no example ever
            ends without its closing token (trap 4); where none fits the result is empty.
        guard: neutralise control tokens inside contents (trap 6).

    Returns:
        Dicts with `input_ids` and `labels`, equally long; labels are -100 where nothing is learned.

    Raises:
        MessageError: for messages that the template would drop or garble.
        MaskError: where the template does not continue its own inference prompt.
    """
    turns = _learned_turns(
        messages,
        tokenizer,
        tools=tools,
        train_on=train_on,
        enable_thinking=enable_thinking,
        train_on_tool_calls=train_on_tool_calls,
        guard=guard,
    )
    return _assemble(turns, tokenizer, max_length)


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
    """`build_examples` for many rows.

    Args:
        rows: dicts with `messages` and, where they apply, `tools` and `source`.
        tokenizer, train_on, enable_thinking, train_on_tool_calls, max_length, guard: see `build_examples`.

    Returns:
        A dataset with `input_ids`, `labels`, `row` (the number of the row that an example comes from) and `source`.
        Rows that gave no example, because they are longer than `max_length` or hold nothing to learn, are counted in
        a warning.

    Raises:
        MessageError, MaskError: as `build_examples`, with the number of the row in front.
    """
    from datasets import Dataset

    examples: dict[str, list[Any]] = {"input_ids": [], "labels": [], "row": [], "source": []}
    left_out = []
    for number, row in enumerate(rows):
        try:
            made = build_examples(
                row["messages"],
                tokenizer,
                tools=row.get("tools"),
                train_on=train_on,
                enable_thinking=enable_thinking,
                train_on_tool_calls=train_on_tool_calls,
                max_length=max_length,
                guard=guard,
            )
        except MessageError as error:
            raise MessageError(error.index, error.field, f"{error.reason} (row {number})") from error
        except MaskError as error:
            raise MaskError(f"row {number}: {error}") from error
        for example in made:
            examples["input_ids"].append(example["input_ids"])
            examples["labels"].append(example["labels"])
            examples["row"].append(number)
            examples["source"].append(row.get("source") or "")
        if not made:
            left_out.append(number)
    if left_out:
        shown = ", ".join(map(str, left_out[:5])) + (" …" if len(left_out) > 5 else "")
        warnings.warn(
            f"{len(left_out)} rows gave no example: nothing to learn in them, or longer than {max_length} tokens "
            f"(rows {shown})",
            stacklevel=2,
        )
    return Dataset.from_dict(examples)


def _learned_turns(
    messages: Sequence[Mapping[str, Any]],
    tokenizer: PreTrainedTokenizerBase,
    *,
    tools: str | Sequence[Mapping[str, Any]] | None,
    train_on: Literal["all", "last"],
    enable_thinking: bool | None,
    train_on_tool_calls: bool,
    guard: bool,
) -> list[Turn]:
    """The prompt and the target of every assistant turn that is learned."""
    if train_on not in ("all", "last"):
        raise MaskError(f"train_on is {train_on!r}; write 'all' or 'last'")
    chat.validate(messages)
    clean = [_clean(message, tokenizer if guard else None) for message in messages]
    schemas = chat.load_tools(tools)
    if guard and schemas:
        schemas = [_map_text(schema, tokenizer) for schema in schemas]
    learned = [
        index
        for index, message in enumerate(clean)
        if message["role"] == "assistant" and (train_on_tool_calls or not message.get("tool_calls"))
    ]
    turns = []
    for index in learned if train_on == "all" else learned[-1:]:
        thinking = bool(clean[index].get("reasoning_content")) if enable_thinking is None else enable_thinking
        options = {"tools": schemas, "enable_thinking": thinking}
        prompt = chat.render(tokenizer, clean[:index], add_generation_prompt=True, **options)
        full = chat.render(tokenizer, clean[: index + 1], **options)
        if not full.startswith(prompt):
            raise MaskError(
                f"messages[{index}]: with enable_thinking={thinking} the template opens this turn in another way than "
                "it renders it, so there is no exact mask; leave enable_thinking unset, and use the inference template"
            )
        turns.append(Turn(prompt, full[len(prompt) :]))
    return turns


def _clean(message: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase | None) -> Message:
    """Drop keys that are None, move a leading think block out of the content, strip edge newlines, neutralise.

    Args:
        message: a valid message.
        tokenizer: whose control tokens are neutralised; None leaves the text as it is.
    """
    clean = {key: value for key, value in message.items() if value is not None}
    clean["content"] = clean.get("content", "").strip("\n")
    if clean["role"] == "assistant" and "reasoning_content" not in clean:
        # Many public rows keep the thinking inside the content; Qwen3's own template reads them the same way.
        block = re.match(r"\s*<think>(.*?)</think>(.*)", clean["content"], re.DOTALL)
        if block:
            clean["reasoning_content"], clean["content"] = block[1].strip("\n"), block[2].strip("\n")
            if not clean["reasoning_content"].strip():
                del clean["reasoning_content"]
    if tokenizer is not None:
        for key in ("content", "reasoning_content", "tool_calls"):
            if key in clean:
                clean[key] = _map_text(clean[key], tokenizer)
    return clean


def _map_text(value: Any, tokenizer: PreTrainedTokenizerBase) -> Any:
    """`chat.neutralise` for every text inside nested lists and dicts."""
    if isinstance(value, str):
        return chat.neutralise(value, tokenizer)
    if isinstance(value, Mapping):
        return {chat.neutralise(key, tokenizer): _map_text(item, tokenizer) for key, item in value.items()}
    if isinstance(value, Sequence):
        return [_map_text(item, tokenizer) for item in value]
    return value


def _assemble(turns: list[Turn], tokenizer: PreTrainedTokenizerBase, max_length: int | None) -> list[Example]:
    """Join turns into one example where each prompt continues the turn before it, else one example a turn."""
    if not turns:
        return []
    joined = _join(turns, tokenizer) if _continues(turns) else None
    spans = joined or [[turn_ids] for turn_ids in (_ids_of(turn.prompt, turn.target, tokenizer) for turn in turns)]
    return [example for example in (_example(pairs, max_length) for pairs in spans) if example]


def _continues(turns: list[Turn]) -> bool:
    """True where every prompt begins with the prompt and the target of the turn before it."""
    return all(later.prompt.startswith(earlier.prompt + earlier.target) for earlier, later in pairwise(turns))


def _join(turns: list[Turn], tokenizer: PreTrainedTokenizerBase) -> list[list[tuple[list[int], list[int]]]] | None:
    """The (context ids, target ids) of all turns as one sequence; None where the ids would differ from inference's.

    Context and target are tokenised apart, as inference does it. The history inside a later prompt is tokenised as
    one text there; the two agree unless a merge crosses the seam, and that is looked at, not assumed.
    """
    pairs = []
    seen = ""
    for turn in turns:
        pairs.append(_ids_of(turn.prompt[len(seen) :], turn.target, tokenizer))
        seen = turn.prompt + turn.target
    if len(turns) > 1:
        apart = [token for context, target in pairs for token in context + target]
        last_prompt = _tokenise(turns[-1].prompt, tokenizer)
        if apart[: len(last_prompt)] != last_prompt:
            return None
    return [pairs]


def _ids_of(context: str, target: str, tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[int]]:
    return _tokenise(context, tokenizer), _tokenise(target, tokenizer)


def _tokenise(text: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    # The template has written every special token already: the tokenizer must add none.
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def _example(pairs: list[tuple[list[int], list[int]]], max_length: int | None) -> Example | None:
    """One example from (context ids, target ids) pairs; it ends with the last target that fits into `max_length`."""
    input_ids: list[int] = []
    labels: list[int] = []
    for context, target in pairs:
        if max_length is not None and len(input_ids) + len(context) + len(target) > max_length:
            break
        input_ids += context + target
        labels += [IGNORED] * len(context) + target
    return {"input_ids": input_ids, "labels": labels} if input_ids else None


@dataclass(frozen=True)
class MaskAudit:
    """What a set of examples will teach.

    Attributes:
        rows: examples.
        tokens: tokens in all of them.
        learned: tokens with a label.
        longest: tokens of the longest example.
        without_labels: numbers of examples in which nothing is learned.
        without_stop: numbers of examples in which a learned turn does not end with the stop token.
        duplicates: numbers of examples whose ids stand in an earlier example already.
    """

    rows: int
    tokens: int
    learned: int
    longest: int
    without_labels: tuple[int, ...]
    without_stop: tuple[int, ...]
    duplicates: tuple[int, ...]

    @property
    def learned_share(self) -> float:
        """Learned tokens over all tokens, 0 to 1."""
        return self.learned / self.tokens if self.tokens else 0.0

    @property
    def problems(self) -> list[str]:
        """Why this set cannot teach what it should, in words; empty where it can."""
        found = []
        if not self.rows:
            found.append("the set is empty")
        if self.without_labels:
            found.append(f"nothing is learned in {len(self.without_labels)} rows (first: row {self.without_labels[0]})")
        if self.without_stop:
            found.append(
                f"{len(self.without_stop)} rows teach a turn that never stops (first: row {self.without_stop[0]})"
            )
        return found

    def table(self) -> list[dict[str, Any]]:
        """The audit as rows of a table: what, value."""
        values = {
            "rows": self.rows,
            "tokens": self.tokens,
            "learned tokens": self.learned,
            "learned share": f"{self.learned_share:.1%}",
            "longest row (tokens)": self.longest,
            "rows without labels": len(self.without_labels),
            "rows without stop token": len(self.without_stop),
            "duplicate rows": len(self.duplicates),
        }
        return [{"what": what, "value": value} for what, value in values.items()]


def audit(examples: Iterable[Mapping[str, Any]], tokenizer: PreTrainedTokenizerBase) -> MaskAudit:
    """Look at examples before they cost training time (traps 4 and 7).

    Args:
        examples: dicts with `input_ids` and `labels`.
        tokenizer: its `eos_token_id` is the stop token.

    Returns:
        Counts, and the numbers of the rows that teach nothing or never stop.
    """
    rows = tokens = learned = longest = 0
    without_labels, without_stop, duplicates = [], [], []
    seen: set[bytes] = set()
    for number, example in enumerate(examples):
        ids, labels = example["input_ids"], example["labels"]
        spans = _spans(labels)
        rows += 1
        tokens += len(ids)
        longest = max(longest, len(ids))
        learned += sum(end - start for start, end in spans)
        if not spans:
            without_labels.append(number)
        # The template's newline after the closer is learned too, so the stop token is the last id or the one before.
        if any(tokenizer.eos_token_id not in labels[max(start, end - 2) : end] for start, end in spans):
            without_stop.append(number)
        digest = hashlib.sha256(json.dumps(list(ids)).encode()).digest()
        if digest in seen:
            duplicates.append(number)
        seen.add(digest)
    return MaskAudit(rows, tokens, learned, longest, tuple(without_labels), tuple(without_stop), tuple(duplicates))


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
