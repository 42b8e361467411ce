"""Split what a model wrote into thinking and answer, at once or while it streams (pitfall cut-thought-as-answer)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

OPENER, CLOSER = "<think>", "</think>"
# What stands for the two tokens inside decoded text: no text can hold a lone surrogate.
OPENER_TOKEN, CLOSER_TOKEN = "\ud800", "\ud801"

Status = Literal["answered", "no_thinking", "truncated"]
Kind = Literal["thinking", "answer"]
Piece = tuple[Kind, str]


@dataclass(frozen=True)
class ParsedOutput:
    """A model's output, taken apart.

    Attributes:
        thinking: the text before the closing tag, edge white space removed; "" where there was none.
        answer: the text after it; None where the thinking was cut off, because then there is no answer yet.
        status: "answered" (thinking, then an answer), "no_thinking" (an answer only), "truncated".
    """

    thinking: str
    answer: str | None
    status: Status


def parse_output(
    output_ids: Sequence[int], tokenizer: PreTrainedTokenizerBase, *, prompt_opens_thinking: bool = False
) -> ParsedOutput:
    """Split generated ids into thinking and answer.

    The first `</think>` closes the thinking; later ones belong to the answer. A closer without an opener closes the
    thinking that the prompt opened. An open thought without a closer is truncated and has no answer: the snippet on
    Qwen's model cards returns it as the answer.

    Args:
        output_ids: the new ids only, without the prompt, as numbers or as a row of a tensor.
        tokenizer: one with think tokens (Qwen3), or without (then the tags are looked for in the text).
        prompt_opens_thinking: True where the prompt itself ended in `<think>` (Qwen3-…-Thinking-2507).

    Returns:
        Thinking, answer and status; control tokens are removed from both texts.
    """
    tags = _Tags(tokenizer)
    split = _split(tags.decode(output_ids), tags.opener, tags.closer, prompt_opens_thinking)
    answer = None if split.answer is None else tags.plain(split.answer)
    return ParsedOutput(tags.plain(split.thinking), answer, split.status)


def parse_text(text: str, *, prompt_opens_thinking: bool = False) -> ParsedOutput:
    """The same split where only the text is at hand, as a server sends it.

    Args:
        text: decoded output without control tokens, the think tags as they are written. (Where the ids are at hand
            use `parse_output`: it can tell the tokens from the same letters spelled out.)
        prompt_opens_thinking: as for `parse_output`.
    """
    return _split(text, OPENER, CLOSER, prompt_opens_thinking)


def _split(text: str, opener: str, closer: str, opened: bool) -> ParsedOutput:
    head, found, tail = text.partition(closer)
    if found:
        return ParsedOutput(head.replace(opener, "", 1).strip(), tail.strip(), "answered")
    if opened or opener in text:
        return ParsedOutput(text.replace(opener, "", 1).strip(), None, "truncated")
    return ParsedOutput("", text.strip(), "no_thinking")


def leading_block(text: str) -> tuple[str, str] | None:
    """Thinking that many public files keep inside the reply; Qwen3's own template reads them the same way.

    Args:
        text: a reply as it stands in data.

    Returns:
        (thinking, answer) where the reply opens with a whole `<think>` block, with line breaks at their edges removed;
        else None.
    """
    head, closer, answer = text.partition(CLOSER)
    if not closer or not head.lstrip().startswith(OPENER):
        return None
    return head.lstrip().removeprefix(OPENER).strip("\n"), answer.strip("\n")


class _Tags:
    """How a tokenizer's think tags show in decoded text.

    Where they are tokens, only the tokens count: `</think>` spelled out in several pieces is text like any other.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._size = len(tokenizer)
        added = tokenizer.get_added_vocab()
        self._marks: dict[int, str] = {}
        self.opener, self.closer = OPENER, CLOSER
        if CLOSER in added:
            self.opener, self.closer = OPENER_TOKEN, CLOSER_TOKEN
            self._marks = {added[CLOSER]: CLOSER_TOKEN} | ({added[OPENER]: OPENER_TOKEN} if OPENER in added else {})

    def decode(self, ids: Sequence[int]) -> str:
        """Text of the ids without control tokens, the think tags as `opener` and `closer`.

        Ids that are no token are left out: a batch may be padded with -1, and a model's last layer may have more rows
        than its tokenizer has tokens.
        """
        text, pending = "", []
        for token in map(int, ids):
            if token in self._marks:
                text += self._text(pending) + self._marks[token]
                pending = []
            elif 0 <= token < self._size:
                pending.append(token)
        return text + self._text(pending)

    def _text(self, ids: list[int]) -> str:
        # Without the clean-up, which joins " ," to ",", pieces decode to what the whole decodes to.
        return str(self._tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def plain(self, text: str) -> str:
        """Decoded text for people: further tags as they are written."""
        return text.replace(OPENER_TOKEN, OPENER).replace(CLOSER_TOKEN, CLOSER)


class ThinkingStream:
    """The same split while the ids arrive.

    Thinking is passed on as soon as it is known to be thinking (an opening tag came first, or the prompt opened it).
    Other text is held until a closing tag or `finish()` decides what it was, so that the parts joined are always what
    `parse_output` gives for the whole, edge white space aside.

    Args:
        tokenizer, prompt_opens_thinking: see `parse_output`.
        prompt_known: True where `prompt_opens_thinking` was read off the prompt and is not just the default. Then only
            an opening tag can begin the thinking: a reply that begins with anything else is an answer and is passed on
            at once, further tags in it as they are written.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        *,
        prompt_opens_thinking: bool = False,
        prompt_known: bool = False,
    ) -> None:
        self._tags = _Tags(tokenizer)
        self._opened = prompt_opens_thinking
        self._known = prompt_known
        self._pending: list[int] = []  # ids whose text may still change: a character can span several
        self._text = ""
        self._sent = {"thinking": 0, "answer": 0}  # characters passed on

    def feed(self, ids: Sequence[int]) -> Iterator[Piece]:
        """Take new ids and yield ("thinking" | "answer", text) for what they decide.

        Args:
            ids: the ids since the last call, any number of them.
        """
        self._pending.extend(ids)
        text = self._tags.decode(self._pending)
        if not text.endswith("\ufffd"):  # what an unfinished character decodes to
            self._text += text
            self._pending.clear()
        yield from self._advance(final=False)

    def finish(self) -> Iterator[Piece]:
        """Yield what was held back; call it once, when generation has ended."""
        self._text += self._tags.decode(self._pending)
        self._pending.clear()
        yield from self._advance(final=True)

    def _advance(self, *, final: bool) -> Iterator[Piece]:
        if self._known and not self._opened and not self._may_think():
            yield from self._new("answer", self._tags.plain(self._text))
            return
        head, closer, tail = self._text.partition(self._tags.closer)
        if closer or self._opened or self._tags.opener in self._text:
            thinking = self._tags.plain(head.replace(self._tags.opener, "", 1))
            if not closer and not final:  # a tag that is text may be cut by the end of the text so far
                thinking = thinking[: max(len(thinking) - len(self._tags.closer) + 1, 0)]
            yield from self._new("thinking", thinking)
            yield from self._new("answer", self._tags.plain(tail))
        elif final:
            yield from self._new("answer", self._text)

    def _may_think(self) -> bool:
        """True while the text so far begins with an opening tag, or with what can still become one."""
        begin = self._text.lstrip()
        return begin.startswith(self._tags.opener) or self._tags.opener.startswith(begin)

    def _new(self, kind: Kind, text: str) -> Iterator[Piece]:
        """The characters of `text` that were not passed on yet, if any."""
        if len(text) > self._sent[kind]:
            yield kind, text[self._sent[kind] :]
            self._sent[kind] = len(text)
