"""What masks are made of: one assistant turn as text, messages as they are rendered, and the ids of a text."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from course_utils.core.errors import CourseError
from course_utils.text.messages import Message, map_text, prepared
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


def cleaned(messages: Sequence[Mapping[str, Any]], neutral: Callable[[str], str] | None) -> list[Message]:
    """`messages.prepared`, each with its leading think block moved out of the content, without edge newlines, neutral.

    `neutral` is from `chat.neutraliser`; None leaves the text as it is.
    """
    done = []
    for message in prepared(messages):
        clean = dict(message)
        if not clean.get("reasoning_content", "").strip():
            # Blank thinking is none: learned, it would teach to think nothing (pitfall template-rewrites-history).
            clean.pop("reasoning_content", None)
        if clean["role"] == "assistant" and (block := leading_block(clean["content"])):
            thought, clean["content"] = block
            clean |= {"reasoning_content": thought} if thought.strip() else {}
        clean["content"] = clean["content"].strip("\n")
        for key in ("content", "reasoning_content", "tool_calls") if neutral else ():
            if key in clean:
                clean[key] = map_text(clean[key], neutral)
        done.append(clean)
    return done


def ids_of(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> dict[str, list[int]]:
    """The ids of each text, all tokenised in one call."""
    tokenizer("")  # takes back the truncation and padding of earlier calls, which the backend would keep
    # The template has written every special token already: the tokenizer must add none. "Fast" is the same without
    # the place of every token in the text, which costs a third of the time.
    made = tokenizer.backend_tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
    return {text: encoding.ids for text, encoding in zip(texts, made, strict=True)}
