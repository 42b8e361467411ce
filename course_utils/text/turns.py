"""What masks are made of: one assistant turn as text, a message as it is rendered, and the ids of a text."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from course_utils.core.errors import CourseError
from course_utils.text.chat import Message
from course_utils.text.thinking import leading_block

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

IGNORED = -100  # the label that torch's cross entropy leaves out

Stretched = tuple[list[int], list[tuple[int, int]]]  # ids, and the (start, end) of every learned stretch in them


class MaskError(CourseError):
    """A conversation from which no exact mask can be made."""


@dataclass(frozen=True)
class Turn:
    """One learned assistant turn as text: what inference would show the model, and what it must then say."""

    prompt: str
    target: str


def clean_message(message: Mapping[str, Any], neutral: Callable[[str], str] | None) -> Message:
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
                clean[key] = map_text(clean[key], neutral)
    return clean


def map_text(value: Any, change: Callable[[str], Any]) -> Any:
    """`change` applied to every text inside nested lists and dicts, keys included."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {change(key): map_text(item, change) for key, item in value.items()}
    if isinstance(value, Sequence):
        return [map_text(item, change) for item in value]
    return value


def ids_of(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> dict[str, list[int]]:
    """The ids of each text, all tokenised in one call."""
    tokenizer("")  # takes back the truncation and padding of earlier calls, which the backend would keep
    # The template has written every special token already: the tokenizer must add none. "Fast" is the same without
    # the place of every token in the text, which costs a third of the time.
    made = tokenizer.backend_tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
    return {text: encoding.ids for text, encoding in zip(texts, made, strict=True)}
