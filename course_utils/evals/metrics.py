"""What one reply is worth: the course's written definitions, on text alone.

A reply that does not fit a definition is a miss; none raises, whatever a model writes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from fractions import Fraction
from typing import Any, Literal, NamedTuple

from course_utils.text import thinking
from course_utils.text.script import HAN

MAX_DEPTH = 100
"""JSON nested deeper than this is no answer to anything, and breaks the programs that walk through it."""

EMOJI = re.compile("[\U0001f300-\U0001faff\u2600-\u27bf\u2b50\u2b55\u231a\u231b\u23e9-\u23f3]")
LOOP = re.compile(r"(?=\S)(.{4,80}?)\1{3,}", re.DOTALL)
# A minus after a digit, a letter or a bracket takes away; elsewhere it is a sign.
NUMBER = re.compile(r"(?:(?<![\w)])-)?\d[\d,]*(?:\.\d+)?(?:\s*/\s*\d+)?")
LATEX_FRACTION = re.compile(r"\\[dt]?frac\{(-?\d+)\}\{(\d+)\}")
FENCE = re.compile(r"```(?:json)?\s*\n(.*?)\n?```", re.DOTALL)
CODE = re.compile(r"```.*?(?:```|\Z)", re.DOTALL)
WORD = re.compile(r"[^\W\d_]+")
LATIN = re.compile(r"[A-Za-z\u00c0-\u024f]+")


def faults(
    reply: str, reference: str, *, written: str, stopped: bool, template_tokens: Collection[str]
) -> tuple[str, ...]:
    """Why a reply is not usable; one without faults is **usable**.

    empty: without its thinking it is only white space, or the thinking was cut off.
    does not end: the model did not write its stop token.
    loop: a piece of 4 to 80 characters stands four times in a row, and the reference has no such place.
    template token: the model wrote a token of the template, other than one pair of thinking tags.
    other language: `language` gives another answer than for the reference.

    Args:
        reply: the answer without its thinking.
        reference: the answer that stands in the data.
        written: all that the model wrote before its stop token, control tokens included.
        stopped: whether it ended by itself.
        template_tokens: the tokens that only a template may write.
    """
    shown = written.replace(thinking.OPENER, "", 1).replace(thinking.CLOSER, "", 1)
    expected = language(reference)
    found = {
        "empty": not reply.strip(),
        "does not end": not stopped,
        "loop": bool(LOOP.search(reply)) and not LOOP.search(reference),
        "template token": any(token in shown for token in template_tokens),
        "other language": expected is not None and language(reply) not in (expected, None),
    }
    return tuple(fault for fault, there in found.items() if there)


def language(text: str) -> Literal["Chinese", "Latin", "other"] | None:
    """The script that a text is written in, or None for code, JSON, numbers and signs.

    Code fences are left out. Each Chinese character counts as a word, and so does each run of letters of another
    script; the most frequent script names the text. It tells Chinese from English, and not English from French.
    """
    if isinstance(parse_json(text), (dict, list)):
        return None
    prose = CODE.sub(" ", text)
    chinese = len(HAN.findall(prose))
    words = WORD.findall(HAN.sub(" ", prose))
    latin = sum(bool(LATIN.fullmatch(word)) for word in words)
    counts = {"Chinese": chinese, "Latin": latin, "other": len(words) - latin}
    most = max(counts, key=counts.__getitem__)
    return most if counts[most] else None


def parse_json(reply: str, *, lenient: bool = False) -> Any:
    """The value of a reply that is JSON and nothing else, or None (pitfall loose-json-rate).

    NaN and Infinity are Python's, not JSON's, and nesting deeper than `MAX_DEPTH` is refused.

    Args:
        reply: an answer without its thinking.
        lenient: accept one code fence around the whole of it.
    """
    text = reply.strip()
    if lenient and (fence := FENCE.fullmatch(text)):
        text = fence[1]
    try:
        # 1 and 1.0 are one number in JSON, and neither is true: as floats they compare so. int("NaN") is a ValueError.
        value = json.loads(text, parse_int=float, parse_constant=int)
        return value if _depth(value) <= MAX_DEPTH else None
    except (ValueError, RecursionError):  # JSONDecodeError is a ValueError
        return None


def _depth(value: Any) -> int:
    """How deep objects and lists are nested."""
    if not isinstance(value, (dict, list)):
        return 0
    return 1 + max(map(_depth, value.values() if isinstance(value, dict) else value), default=0)


def fits(value: Any, example: Any) -> bool:
    """True where a JSON value has the keys and the types of an example, at every depth.

    An object needs the same keys. Each item of a list must fit one of the example's items; an empty list of the
    example allows any. `null` in the example says nothing about the type.

    Args:
        value, example: what `parse_json` returns for the reply and for the reference.
    """
    if example is None:
        return True
    if type(value) is not type(example):  # `true` is no number, and all numbers are floats here
        return False
    if isinstance(example, dict):
        return value.keys() == example.keys() and all(fits(value[key], example[key]) for key in example)
    if isinstance(example, list) and example:
        return all(any(fits(item, model) for model in example) for item in value)
    return True


def same_answer(reply: str, reference: str) -> bool:
    """True where the reply is the reference: as JSON, as a number, else as text.

    Numbers are compared as numbers ("2/6" is "1/3", "8.0" is "8"); the last number in the reply counts.
    """
    expected = parse_json(reference)
    if isinstance(expected, (dict, list)):
        return json.dumps(parse_json(reply), sort_keys=True) == json.dumps(expected, sort_keys=True)
    if (number := parse_number(reference)) is not None:
        found = NUMBER.findall(_plain_numbers(reply))
        return bool(found) and parse_number(found[-1]) == number
    return reply.strip() == reference.strip()


def parse_number(text: str) -> Fraction | None:
    """The number that a text is, exactly, or None where it holds anything else."""
    plain = _plain_numbers(text).strip()
    if not NUMBER.fullmatch(plain):
        return None
    try:
        return Fraction(re.sub(r"[,\s]", "", plain))
    except (ValueError, ZeroDivisionError):  # more digits than Python converts; n/0
        return None


def _plain_numbers(text: str) -> str:
    return LATEX_FRACTION.sub(r"\1/\2", text.replace("\u2212", "-"))


class EntityCounts(NamedTuple):
    """Pairs of label and entity of one reply: right ones, those in the reply, those in the reference."""

    right: int
    found: int
    due: int


def entity_counts(reply: str, reference: str) -> EntityCounts:
    """Count the (label, entity) pairs that reply and reference share, both exact (C47).

    Micro F1 is 2 * right / (found + due) over the sums of all rows.

    Args:
        reply: an answer like those in the course's NER rows, `{"label": ["entity", …]}`; anything else finds nothing.
        reference: the answer that stands in the data.
    """
    found, due = _entities(reply), _entities(reference)
    return EntityCounts(len(found & due), len(found), len(due))


def _entities(text: str) -> set[tuple[str, str]]:
    value = parse_json(text)
    lists = value.items() if isinstance(value, dict) else ()
    pairs = ((label, name) for label, names in lists if isinstance(names, list) for name in names)
    return {pair for pair in pairs if isinstance(pair[1], str)}


def measure(
    reply: str, row: Mapping[str, Any], *, written: str, stopped: bool, template_tokens: Collection[str]
) -> dict[str, Any]:
    """Every metric of one reply, by name.

    Args:
        reply: the answer without its thinking; "" where the thinking was cut off.
        row: its last message is the reference; the tag "ner" asks for entities, `tools` allows the tags of a tool call.
        written, stopped, template_tokens: see `faults`.

    Returns:
        `stopped`, `faults`, `usable`, `json_strict`, `json_lenient`, `json_schema`, `exact`, `emoji`, `emoji_fits` (an
        emoji only where the reference has one) and `entities` (counts, or None where the row asks for none).
    """
    reference = row["messages"][-1]["content"] or ""
    calls = {token for token in template_tokens if row.get("tools") and "tool_call" in token}
    found = faults(reply, reference, written=written, stopped=stopped, template_tokens={*template_tokens} - calls)
    strict, wanted = parse_json(reply), parse_json(reference)
    emoji, emoji_wanted = (bool(EMOJI.search(text)) for text in (reply, reference))
    return {
        "stopped": stopped,
        "faults": list(found),
        "usable": not found,
        "json_strict": isinstance(strict, dict),
        "json_lenient": isinstance(parse_json(reply, lenient=True), dict),
        "json_schema": isinstance(wanted, dict) and fits(strict, wanted),
        "exact": same_answer(reply, reference),
        "emoji": emoji,
        "emoji_fits": emoji == emoji_wanted,
        "entities": entity_counts(reply, reference)._asdict() if "ner" in (row.get("tags") or ()) else None,
    }
