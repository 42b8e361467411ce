"""Split what a model wrote into thinking and answer, at once or while it streams (pitfall cut-thought-as-answer)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

OPENER, CLOSER = "<think>", "</think>"
# What stands for the two tokens inside decoded text: no text can hold a lone surrogate.
OPENER_TOKEN, CLOSER_TOKEN = "\ud800", "\ud801"

# Where tags are letters like any other, an answer may name one ("close it with </think>"). A closing tag that no
# opening tag stands before ends a thought which the prompt opened only where it begins a line, is joined to a word or a
# sentence ("reason</think> answer"), stands behind the end of a sentence, or is joined to anything and ends a line.
QUOTES = "`'\"”’」》"
LONE = "|".join([
    r"(?<=\n)[ \t]*</think>|\A[ \t]*</think>(?=[ \t]*(?:\n|{end})|\S)",
    r"(?<=[A-Za-z0-9.!?,:;)\]}}。！？；…])</think>{no_quote}|(?<=[.!?。！？…] )</think>",
    r"(?<![\s`'\"(\[{{“‘（「《])</think>(?=[ \t]*\n\s*\S)",
])  # fmt: skip
LONE_CLOSER = re.compile(LONE.format(end=r"\Z", no_quote=f"(?![{QUOTES}])"))
LONE_CLOSER_SO_FAR = re.compile(LONE.format(end="(?!)", no_quote=f"(?=[^{QUOTES}])"))
# A tag that begins a thought inside of a reply begins a line; inside of code it is shown, not meant.
INNER_OPENER = re.compile(r"^[ \t]*<think>([ \t]*$)?", re.MULTILINE)
CODE = re.compile(r"(```|~~~).*?(?:\1|\Z)|`[^`\n]*`", re.DOTALL)

Status = Literal["answered", "no_thinking", "truncated"]
Kind = Literal["thinking", "answer"]
Piece = tuple[Kind, str]


@dataclass(frozen=True)
class ParsedOutput:
    """A model's output, taken apart."""

    thinking: str  # before the closing tag, edge white space removed; "" where there was none
    answer: str | None  # after it; None where the thinking was cut off, because then there is no answer yet
    status: Status  # "answered" (thinking, then an answer), "no_thinking" (an answer only), "truncated"


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
    split = _parsed(_cut(tags.decode(output_ids), tags, prompt_opens_thinking))
    answer = None if split.answer is None else tags.plain(split.answer)
    return ParsedOutput(tags.plain(split.thinking), answer, split.status)


def parse_text(text: str, *, prompt_opens_thinking: bool = False) -> ParsedOutput:
    """The same split where only the text is at hand, as a server sends it: no control tokens, the tags as written.

    Where the ids are at hand use `parse_output`: it can tell the tokens from the same letters spelled out.
    """
    return _parsed(_cut(text, _Tags(), prompt_opens_thinking))


class _Pieces(NamedTuple):
    """Output at its border: what stands before and after it, and whether it is there; `thinks`: a thought began."""

    head: str
    closed: bool
    tail: str
    thinks: bool


def _cut(text: str, tags: _Tags, opened: bool, *, final: bool = True) -> _Pieces:
    """Find the tag that closes the thinking. `final`: no text comes after this one."""
    as_letters = tags.opener == OPENER
    begins = text.lstrip().startswith(OPENER) if as_letters else tags.opener in text
    if as_letters and not (begins or opened):
        lone = (LONE_CLOSER if final else LONE_CLOSER_SO_FAR).search(text)
        if lone is None or OPENER in text[: lone.start()]:
            return _Pieces(text, False, "", False)
        return _Pieces(text[: lone.start()], True, text[lone.end() :], True)
    head, closer, tail = text.partition(tags.closer)
    thinks = bool(closer) or begins or opened
    return _Pieces(head.replace(tags.opener, "", 1) if thinks else head, bool(closer), tail, thinks)


def _parsed(pieces: _Pieces) -> ParsedOutput:
    if pieces.closed:
        return ParsedOutput(pieces.head.strip(), pieces.tail.strip(), "answered")
    if pieces.thinks:
        return ParsedOutput(pieces.head.strip(), None, "truncated")
    return ParsedOutput("", pieces.head.strip(), "no_thinking")


def leading_block(text: str) -> tuple[str, str] | None:
    """Thinking that many public files keep inside the reply; Qwen3's own template reads them the same way.

    Returns:
        (thinking, answer) where the reply, as it stands in data, opens with a whole `<think>` block, or with a thought
        that the prompt opened and the reply closes, with line breaks at their edges removed; else None (pitfall
        half-open-thought).
    """
    if CLOSER not in text:
        return None
    pieces = _cut(text, _Tags(), False)
    return (pieces.head.strip("\n"), pieces.tail.strip("\n")) if pieces.closed else None


def half_open(text: str) -> bool:
    """True where a reply, as it stands in data, opens a thought and never closes it (pitfall half-open-thought)."""
    pieces = _cut(text, _Tags(), False)
    if pieces.closed:
        return half_open(pieces.tail)
    return pieces.thinks or (CLOSER not in text and INNER_OPENER.search(CODE.sub("", text)) is not None)


def holds_thought(text: str) -> bool:
    """True where an answer without its leading block holds a thought: tags on lines of their own, or at its beginning.
    Code is left out."""
    shown = CODE.sub("", text)
    alone = any(found[1] is not None for found in INNER_OPENER.finditer(shown))
    return alone or _cut(shown, _Tags(), False).thinks


class _Tags:
    """How a tokenizer's think tags show in decoded text.

    Where they are tokens, only the tokens count: `</think>` spelled out in several pieces is text like any other.
    Without a tokenizer they are letters, as where it has no such tokens.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase | None = None) -> None:
        self._tokenizer = tokenizer
        self._size = 0 if tokenizer is None else len(tokenizer)
        added = {} if tokenizer is None else tokenizer.get_added_vocab()
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
        self, tokenizer: PreTrainedTokenizerBase, *, prompt_opens_thinking: bool = False, prompt_known: bool = False
    ) -> None:
        self._tags = _Tags(tokenizer)
        self._opened = prompt_opens_thinking
        self._known = prompt_known
        self._pending: list[int] = []  # ids whose text may still change: a character can span several
        self._text = ""
        self._sent = {"thinking": 0, "answer": 0}  # characters passed on

    def feed(self, ids: Sequence[int]) -> Iterator[Piece]:
        """Take any number of new ids and yield ("thinking" | "answer", text) for what is decided."""
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
        pieces = _cut(self._text, self._tags, self._opened, final=final)
        if pieces.thinks:
            thinking = self._tags.plain(pieces.head)
            if not pieces.closed and not final:  # a tag that is text may be cut by the end of the text so far
                thinking = thinking[: max(len(thinking) - len(self._tags.closer) + 1, 0)]
            yield from self._new("thinking", thinking)
            yield from self._new("answer", self._tags.plain(pieces.tail))
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
