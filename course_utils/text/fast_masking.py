"""The short cuts that make `masking.build_dataset` fast. They change no result: row for row it is that of the plain way
in `masking`, and where a short cut cannot be sure of that it returns None (tests/text/test_fast_masking.py).
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Sequence
from contextlib import suppress
from functools import cache, partial
from itertools import chain, pairwise
from typing import TYPE_CHECKING, Any

from course_utils.text import chat
from course_utils.text.messages import Message, MessageError
from course_utils.text.turns import Stretched, Turn, ids_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Frames:
    """What the template writes around the contents of plain turns, learned once for every order of roles.

    The plain way renders twice a turn, which is most of its work. A plain conversation has nothing but contents, and
    these hold no control token and no outer line break, so a template only puts them into place. That is checked for
    every row: its whole text is rendered once and must be what the frame gives. One thing is assumed: the opening of a
    turn does not depend on what was said before. No template of this course reads a content there.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, enable_thinking: bool | None) -> None:
        self._render = partial(chat.render_valid, tokenizer, schemas=None, enable_thinking=bool(enable_thinking))
        self._known: dict[tuple[Any, ...], list[tuple[list[str], str]] | None] = {}

    def turns(self, messages: list[Message], learned: list[int]) -> list[Turn] | None:
        """The turns at the places `learned`; None where messages are not plain, or the template changes contents.

        The messages are clean and neutralised, of a row without tools.
        """
        if not learned or any(len(message) > 2 or not message["content"] for message in messages):
            return None
        key = (*(message["role"] for message in messages), *learned)
        with suppress(MessageError):  # the template refuses such an order: the plain way says so, and why
            if key not in self._known:
                self._known[key] = self._learn(messages, learned)
        if (frames := self._known.get(key)) is None:
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


def tokenise(rows: Sequence[list[Turn]], tokenizer: PreTrainedTokenizerBase) -> list[list[Stretched] | None]:
    """The examples of each row, equal to those of the plain way; the texts of all rows are tokenised in one call.

    Where the text of every prompt continues the turn before it, only the last prompt and target are tokenised, and the
    earlier turns are found in their ids; None where one has no border of its own there.
    """
    borders = _Borders(tokenizer)
    joined = [
        all(later.prompt.startswith(turn.prompt + turn.target) for turn, later in pairwise(turns)) for turns in rows
    ]
    apart = [turns[-1:] if together else turns for turns, together in zip(rows, joined, strict=True)]
    ids = ids_of([text for turns in apart for turn in turns for text in (turn.prompt, turn.target)], tokenizer)
    made: list[list[Stretched] | None] = []
    for turns, alone in zip(rows, apart, strict=True):
        history: list[tuple[int, int]] | None = []
        if len(alone) < len(turns):
            history = borders.stretches(turns[:-1], turns[-1].prompt, ids[turns[-1].prompt])
        if history is None:
            made.append(None)
            continue
        pairs = [(ids[turn.prompt], ids[turn.target]) for turn in alone]
        made.append([(prompt + target, [*history, (len(prompt), len(prompt + target))]) for prompt, target in pairs])
    return made


class _Borders:
    """Where a turn begins and ends in the ids of a text that goes on after it."""

    # A tokenizer cuts a text at every added token before anything else. So up to its last added token the ids of a
    # beginning are those of the whole, and only the few characters after that have to be compared.
    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        added = tokenizer.get_added_vocab()
        self._control = set(added.values())
        self._pattern = re.compile("|".join(map(re.escape, sorted(added, key=len, reverse=True))) or "(?!)")
        self._tail = cache(lambda text: ids_of([text], tokenizer)[text])

    def stretches(self, turns: Sequence[Turn], text: str, ids: list[int]) -> list[tuple[int, int]] | None:
        """The first place of each turn's target in the ids of `text`, and the one after its last.

        None where a turn has no border of its own, because a merge reaches across it.
        """
        places = [place for place, token in enumerate(ids) if token in self._control]
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
        tail = self._tail(text[last:cut])
        return first + len(tail) if ids[first : first + len(tail)] == tail else None
