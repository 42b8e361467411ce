"""What a row says that nobody reads: a text, a flag or an opinion would be lost, a problem; all else is a remark.

A text has four words or more (eight characters of Chinese), or stands under a name that content goes by, such as
`answer` or `choices`. Numbers, ids, short labels and addresses of the web are none. Nor is a text that the row holds
anyway, or one that holds all of the row, as a prompt that was written out once more does.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from typing import Any

from course_utils.data import guessing
from course_utils.data.records import Fault, Row, short
from course_utils.data.registry import Layout
from course_utils.data.rows import MEDIA, REPLIES, kind_of, texts_of
from course_utils.text.messages import LEARN_FLAGS, is_learned

LABELS = {"id", "model", "lang", "language", "timestamp", "date", "time", "type", "source", "url"}  # of a turn
# Without LEARN_FLAGS as they are meant to be written. All names here are compared as `_bare` gives them.
FLAGS = {"training", "trainable", "learn", "masked", "ignore", "skip", "lossmask", "lossweight", "lossscale", "exclude"}
FLAGS |= {"trainonturn", "dotrain", "istrained", "computeloss", "noloss", "donottrain", "traindetail", *LEARN_FLAGS}
OPINIONS = {"ktotag", "label", "thumbsup", "desirable", "isdesirable", "isgood", "correct", "iscorrect"}
OF_ROWS = {*guessing.TEXTS_OF_ROWS, "choices", "options"}  # of these one word is a text
MENDS = dict.fromkeys(
    ("image", "images", "imageurl", "video", "videos", "audio", "audios"),
    "Write <image>, <video> or <audio> into the content, and the file into a column of the row.",
) | {"functioncall": "Write it as tool_calls, a list."}
CONTENT = {"thought", "thoughts", "analysis", "refusal", "rationale", "explanation", "critique", "notes", "value"}
CONTENT |= {"content", "reasoning", "thinking", *MENDS, *OF_ROWS}  # of a turn: any text is one
WORDS = 4  # of a text under another name
WORD = re.compile(r"[^\W\d_]{2}")  # the N_02 of an equation is none
UNSPACED = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]")  # of Chinese and Japanese: two count as a word
ADDRESS = re.compile(r"\w+://\S+")
IN_REGISTRY = "name in dataset_info.json all columns that you want; the others are left out"


def lost(raw: Row, row: Row, layout: Layout, *, columns: bool) -> Iterator[Fault]:
    """Each part of a raw row that is not in the `row` that the layout made of it, and should be.

    `columns` is False where somebody has named the columns that are wanted; then texts in others are not looked at.
    """
    system = layout.columns["system"]  # which a system turn of the row wins over
    wanted = raw if columns else {key: raw[key] for key in raw if key == system or _is_opinion(key, raw[key])}
    yield from of_columns(wanted, row, layout.read_columns - {system})
    named = [str(layout.columns[part]) for part in ("messages", *REPLIES) if layout.formatting != "alpaca"]
    for place, turn in guessing.turns_in(raw, *named):
        for key in sorted(turn.keys() - layout.read_keys - LABELS):
            name, value = _bare(key), turn[key]
            if name in FLAGS and value is not None:
                reason = "is not read. If the turn is not to be learned, write weight: 0; else leave the key out."
                yield Fault(f"{place}.{key}", reason)
            elif text := _text(value, 0 if name in CONTENT else WORDS, row):
                mend = MENDS.get(name, "Put it into the content or into reasoning_content.")
                yield Fault(f"{place}.{key}", f"would be lost: nobody reads {short(text)}. {mend}")


def of_columns(raw: Row, row: Row, read: Collection[str], mend: str = IN_REGISTRY) -> Iterator[Fault]:
    """The same for the columns that are not among those `read`; `mend` is what helps but joining a text to others."""
    is_chat, picks = kind_of(row) == "chat", any(_bare(name).startswith("chosen") for name in raw.keys() & read)
    for column in sorted(raw.keys() - read):
        value = raw[column]
        if value in (None, "", "[]", [], {}) or (kind_of(row) == "text" and column not in OF_ROWS):
            continue  # beside a text stand its title, its author and the like
        if is_chat and not picks and _is_opinion(column, value):
            reason = "says which replies are good: this is a preference or KTO file, and lesson 09 trains on it"
            yield Fault(column, f"{reason}. Name it in dataset_info.json (ranking, chosen and rejected; kto_tag).")
        elif column in ("tools", *MEDIA):
            yield Fault(column, f"would be lost, as no earlier row has it. Name it as columns.{column}.")
        elif text := _text(value, 1 if column in OF_ROWS else WORDS, row):
            reason = f"would be lost: nobody reads {short(text)}. Join it to the question or to the reply, or"
            yield Fault(column, f"{reason} {mend}.")


def flags(row: Row, read: Collection[str]) -> Iterator[Fault]:
    """What the columns that are not `read` say of whether a row is to be learned."""
    said = {key: value for key, value in row.items() if _bare(key) in FLAGS and key not in read and value is not None}
    for key, value in said.items():
        if _bare(key) == "loss" and isinstance(value, float) and value not in (0, 1):
            continue  # a loss that was measured
        value = guessing.YES_OR_NO.get(value.lower(), value) if isinstance(value, str) else value
        if key in LEARN_FLAGS:
            try:
                if not is_learned({key: value}):
                    yield Fault(key, "the row is not to be learned. Leave it out.")
            except ValueError as error:
                yield Fault(key, f"{error}.")
        elif isinstance(value, int | float):
            yield Fault(key, "is not read. If the row is not to be learned, leave it out; else leave the column out.")


def _bare(name: str) -> str:
    """A name however it is written: thumbsUp, thumbs_up."""
    return re.sub(r"[\W_]", "", str(name)).casefold()


def _is_opinion(column: str, value: Any) -> bool:
    """Whether a column holds one of two replies, or says that a reply is a good one or not."""
    name, is_yes_or_no = _bare(column), isinstance(value, bool) or str(value).lower() in ("true", "false")
    if name.startswith(REPLIES):
        return isinstance(value, str | list | dict) or is_yes_or_no
    return name in OPINIONS and value is not None and (is_yes_or_no or name == "ktotag")


def _text(value: Any, least: int, row: Row) -> str:
    """The first text in a value, at any depth, that has so many words and that the row does not hold; "" for none."""
    texts = [text for text in _strings(value) if text.strip() and _words(text) >= least]
    if not texts:
        return ""
    held = [text.strip() for text in texts_of(row)]
    new = (text for text in texts if not any(text.strip() in other for other in held))
    return next((text for text in new if not all(other in text for other in held)), "")


def _strings(value: Any) -> Iterator[str]:
    """The texts in a value, at any depth; that a turn is of the user is none."""
    if isinstance(value, str):
        yield value
    if isinstance(value, dict):
        value = [part for key, part in value.items() if key not in guessing.SPEAKER_KEYS]
    if isinstance(value, list):
        for part in value:
            yield from _strings(part)


def _words(text: str) -> int:
    words = [word for word in text.split() if WORD.search(word) and not ADDRESS.fullmatch(word)]
    return sum(max(1, len(UNSPACED.findall(word)) // 2) for word in words)
