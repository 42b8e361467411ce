"""Messages to input ids and labels: only what the assistant must say is learned.

For every learned turn the ids before it are the inference prompt of that turn, and the learned ids are what the full
rendering adds for it, the closing token included (docs/pitfalls.md). Both come from the tokenizer's own template.

Read `build_examples` first: it is the plain way, step by step. `build_dataset` does the same for many rows and takes
the short cuts of `fast_masking` where they apply.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal

from course_utils.text import chat, fast_masking
from course_utils.text.audit import MaskAudit as MaskAudit
from course_utils.text.audit import audit as audit
from course_utils.text.messages import Message, MessageError, check_whole, is_learned, map_text
from course_utils.text.turns import IGNORED, MaskError, Stretched, Turn, cleaned, ids_of

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

NO_QUESTION = "this reply has no question before it: put a user's turn there, or take this turn out"
NOT_CHATS = ("text", "chosen", "rejected", "label")
ROWS_AT_ONCE = 1000  # that are tokenised in one call

Example = dict[str, list[int]]


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
        train_on: learn "all" assistant turns or only the "last"; one with `weight: 0` is never learned (`messages`).
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
        MessageError: for messages that the template would drop, garble or refuse.
        MaskError: where the template does not continue its own inference prompt.
    """
    neutral = chat.neutraliser(tokenizer) if guard else None
    options = _Options(tokenizer, train_on, enable_thinking, train_on_tool_calls, neutral)
    clean, learned, schemas = _read({"messages": messages, "tools": tools}, options)
    turns = _render(clean, learned, schemas, options)
    return _cut(_tokenise(turns, tokenizer), max_length)[0]


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
    from datasets import Dataset, Features, List, Value, concatenate_datasets

    neutral = chat.neutraliser(tokenizer) if guard else None
    options = _Options(tokenizer, train_on, enable_thinking, train_on_tool_calls, neutral)
    frames = fast_masking.Frames(tokenizer, enable_thinking)
    numbered = enumerate(rows)
    parts: list[Dataset] = []
    empty: list[int] = []
    shortened: list[int] = []
    while batch := list(islice(numbered, ROWS_AT_ONCE)):
        made = []
        for (number, row), tokenised in zip(batch, _tokenise_rows(batch, frames, options), strict=True):
            examples, left_out = _cut(tokenised, max_length)
            made += [example | {"row": number, "source": row.get("source") or ""} for example in examples]
            if left_out or not examples:
                (shortened if examples else empty).append(number)
        if made:
            parts.append(Dataset.from_list(made))
    too_long = "" if max_length is None else f", or longer than {max_length} tokens"
    for what, numbers in (
        (f"gave no example: nothing to learn in them{too_long}", empty),
        (f"lost learned turns that do not fit into {max_length} tokens", shortened),
    ):
        if numbers:
            shown = ", ".join(map(str, numbers[:5])) + (" …" if len(numbers) > 5 else "")
            warnings.warn(f"{len(numbers)} rows {what} (rows {shown})", stacklevel=2)
    if parts:
        return concatenate_datasets(parts)
    ids = List(Value("int64"))
    features = {"input_ids": ids, "labels": ids, "row": Value("int64"), "source": Value("string")}
    return Dataset.from_dict({name: [] for name in features}, Features(features))


@dataclass(frozen=True)
class _Options:
    """How turns are chosen and rendered; see `build_examples`."""

    tokenizer: PreTrainedTokenizerBase
    train_on: str
    enable_thinking: bool | None
    train_on_tool_calls: bool
    neutral: Callable[[str], str] | None

    def __post_init__(self) -> None:
        if self.train_on not in ("all", "last"):
            raise MaskError(f"train_on is {self.train_on!r}; write 'all' or 'last'")


def _read(row: Mapping[str, Any], options: _Options) -> tuple[list[Message], list[int], list[dict[str, Any]] | None]:
    """A row's clean messages, the places of those that are learned, and its tool schemas."""
    if not isinstance(row, Mapping):
        raise MaskError(f"expected a dict with messages, got {type(row).__name__}")
    for key in NOT_CHATS:
        if row.get(key) is not None:
            raise MaskError(f"{key}: rows of this kind are learned in another way (lessons 08 and 09), not by masks")
    source = row.get("source") or ""
    if not isinstance(source, str):
        raise MaskError(f"source: expected text, got {type(source).__name__}")
    check_whole(None, "source", source)
    clean = cleaned(row.get("messages"), options.neutral)
    schemas = chat.load_tools(row.get("tools"))
    if options.neutral and schemas:
        schemas = map_text(schemas, options.neutral)
    replies = [index for index, message in enumerate(clean) if message["role"] == "assistant"]
    if not options.train_on_tool_calls:
        replies = [index for index in replies if not clean[index].get("tool_calls")]
    chosen = replies[-1:] if options.train_on == "last" else replies
    return clean, [index for index in chosen if is_learned(row["messages"][index])], schemas


def _render(
    messages: Sequence[Message], learned: Sequence[int], schemas: list[dict[str, Any]] | None, options: _Options
) -> list[Turn]:
    """The prompt and the target of every learned turn, as the template writes them."""
    # A template may drop the thinking of earlier turns on purpose; it must have a place for it at all.
    for index, message in enumerate(messages[: learned[-1]] if learned else ()):
        if message.get("reasoning_content") and index not in learned:
            own = chat.render_valid(options.tokenizer, messages[: index + 1], schemas)
            chat.require_whole(options.tokenizer, own, messages[: index + 1], schemas)
    turns = []
    for index in learned:
        thinking = options.enable_thinking
        if thinking is None:
            thinking = bool(messages[index].get("reasoning_content"))
        render = partial(chat.render_valid, options.tokenizer, schemas=schemas, enable_thinking=thinking)
        try:
            prompt = render(messages[:index], add_generation_prompt=True)
            full = render(messages[: index + 1])
        except MessageError as error:
            asked = any(message["role"] == "user" for message in messages[:index])
            if asked or _refuses(partial(render, [*messages[:index], {"role": "user", "content": "?"}])):
                raise
            raise MessageError(index, "role", f"{error.reason}; {NO_QUESTION}") from error
        chat.require_whole(options.tokenizer, full, messages[: index + 1], schemas, enable_thinking=thinking)
        if not full.startswith(prompt):
            if not any(message["role"] == "user" for message in messages[:index]):
                raise MessageError(index, "role", NO_QUESTION)
            raise MaskError(
                f"messages[{index}]: with enable_thinking={thinking} the template opens this turn in another way than "
                "it renders it, so there is no exact mask. Join assistant turns that follow one another, leave "
                "enable_thinking unset, and use the inference template"
            )
        turns.append(Turn(prompt, full[len(prompt) :]))
    return turns


def _refuses(render: Callable[[], str]) -> bool:
    try:
        render()
    except MessageError:
        return True
    return False


def _tokenise(turns: Sequence[Turn], tokenizer: PreTrainedTokenizerBase) -> list[Stretched]:
    """The examples of a row as ids with their learned stretches. Prompt and target apart, as inference does it."""
    ids = ids_of([text for turn in turns for text in (turn.prompt, turn.target)], tokenizer)
    prompts = [ids[turn.prompt] for turn in turns]
    wholes = [ids[turn.prompt] + ids[turn.target] for turn in turns]
    stretches = [(len(prompt), len(whole)) for prompt, whole in zip(prompts, wholes, strict=True)]
    # A merge that reaches from one turn into the next is enough: as one sequence the ids would not be inference's.
    if all(later[: len(whole)] == whole for whole, later in zip(wholes, prompts[1:], strict=False)):
        return [(whole, stretches) for whole in wholes[-1:]]  # the last one holds all turns
    return [(whole, [stretch]) for whole, stretch in zip(wholes, stretches, strict=True)]


def _cut(examples: Sequence[Stretched], max_length: int | None) -> tuple[list[Example], int]:
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


def _tokenise_rows(
    batch: Sequence[tuple[int, Mapping[str, Any]]], frames: fast_masking.Frames, options: _Options
) -> Iterator[list[Stretched]]:
    """The examples of each row of a batch: by the short cuts, or the plain way where these return None."""
    rows = []
    for number, row in batch:
        try:
            clean, learned, schemas = _read(row, options)
            turns = frames.turns(clean, learned) if options.neutral and not schemas else None
            rows.append(turns or _render(clean, learned, schemas, options))
        except MessageError as error:
            raise MessageError(error.index, error.field, f"{error.reason} (row {number})") from error
        except MaskError as error:
            raise MaskError(f"row {number}: {error}") from error
    for turns, made in zip(rows, fast_masking.tokenise(rows, options.tokenizer), strict=True):
        yield _tokenise(turns, options.tokenizer) if made is None else made
