"""What one reply is worth: the course's written definitions, on text alone.

A reply that does not fit a definition is a miss; none raises, whatever a model writes.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from decimal import Decimal, InvalidOperation
from typing import Any, Literal, NamedTuple

import numpy as np

from course_utils.evals.numbers import parse_number as parse_number
from course_utils.evals.numbers import same_number
from course_utils.text import thinking
from course_utils.text.script import HAN, shows

MAX_DEPTH = 100
"""JSON nested deeper than this is no answer to anything, and breaks the programs that walk through it."""

EMOJI = re.compile("[\U0001f300-\U0001faff\u2600-\u27bf\u2b50\u2b55\u231a\u231b\u23e9-\u23f3]")
LONGEST_PIECE = 1000
CLOSED_FENCE = re.compile(r"^```[^\n`]*\n(?:(?!```).*\n)+```", re.MULTILINE)
FENCE = re.compile(r"```(?:json)?\s*\n(.*?)\n?```", re.DOTALL)
# Fences, text in backticks, and runs of ASCII that are an address, a path, a LaTeX command or a dotted name.
CODE = re.compile(r"```.*?(?:```|\Z)|`[^`\n]+`|(?<![!-~])[!-~]*(?:[@/\\]|\w[._]\w|<\w+>)[!-~]*", re.DOTALL | re.ASCII)
# Qwen3.5's frame of a call: each argument between tags of its own.
FUNCTION = re.compile(r"<function=([^>\n]+)>(.*?)</function>", re.DOTALL)
PARAMETER = re.compile(r"<parameter=([^>\n]+)>\n?(.*?)\n?</parameter>", re.DOTALL)
WORD = re.compile(r"[^\W\d_]+")
BEGINS_CHINESE = re.compile(rf"\W*{HAN.pattern}.*[，。：、；]", re.DOTALL)
KANA = re.compile("[\u3041-\u3096\u30a1-\u30fa]")
LATIN = re.compile(r"[A-Za-z\u00c0-\u024f]+")


def looping(text: str) -> str | None:
    """The first piece of a text, of up to `LONGEST_PIECE` characters, that stands too often in a row, or None.

    Closed code fences are left out, and JSON is none.
    """
    text = "" if isinstance(parse_json(text), (dict, list)) else CLOSED_FENCE.sub("", text)
    signs = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    for size in range(1, min(LONGEST_PIECE, len(text) // 4) + 1):
        # A run of places that equal the one a piece further on, three pieces long, is a piece four times.
        ends = np.append(np.flatnonzero(signs[size:] != signs[:-size]), len(text) - size)
        runs = np.diff(ends, prepend=-1) - 1
        for end, run in zip(ends[runs >= 3 * size], runs[runs >= 3 * size], strict=True):
            piece = text[end - run : end - run + size]
            if run // size + 1 >= _enough(piece):
                return piece
    return None


def _enough(piece: str) -> float:
    """How often a piece may not stand in a row: lines, tables, sums and short words repeat themselves, too."""
    letters = sum(map(len, WORD.findall(piece))) + len(HAN.findall(piece))  # a Chinese character is a word
    if not piece.strip():
        return math.inf
    if not letters or len(piece) < 4 or ("|" in piece and "\n" not in piece):
        return 20 if "\n" in piece else 150
    return 4 if "|" in piece or (letters >= 6 and not re.search("[+=×÷]", piece)) else 10


def faults(
    reply: str, reference: str, *, written: str, stopped: bool, template_tokens: Collection[str]
) -> tuple[str, ...]:
    """Why a reply is not usable; one without faults is **usable**.

    empty: without its thinking nothing of it can be seen (white space, characters without width), or the thinking
        was cut off.
    does not end: the model did not write its stop token.
    loop: a piece with six letters in it (three Chinese characters) stands four times in a row, a shorter one or a
        term of a sum ten times, a line 20 times, anything 150 times (`looping`); and nothing does in the reference.
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
        "empty": not shows(reply.replace("\ufffd", "")),
        "does not end": not stopped,
        "loop": bool(looping(reply)) and not looping(reference),
        "template token": any(token in shown for token in template_tokens),
        "other language": expected is not None and language(reply) not in (expected, None),
    }
    return tuple(fault for fault, there in found.items() if there)


def language(text: str) -> Literal["Chinese", "Latin", "other"] | None:
    """The script that a text is written in, or None for code, JSON, numbers and signs.

    Code, addresses and paths are left out. Each Chinese character counts as a word, and so does each run of letters of
    another script; the most frequent script names the text, or Chinese where it begins so, has Chinese punctuation, and
    a fifth of the words. Kana make it Japanese. It tells Chinese from English, not English from French.
    """
    if isinstance(parse_json(text), (dict, list)):
        return None
    prose = CODE.sub(" ", text)
    chinese = len(HAN.findall(prose))
    words = WORD.findall(HAN.sub(" ", prose))
    latin = sum(bool(LATIN.fullmatch(word)) for word in words)
    counts = {"Chinese": chinese, "Latin": latin, "other": len(words) - latin}
    if len(KANA.findall(prose)) * 8 > chinese:  # a borrowed の or two is none
        counts |= {"Chinese": 0, "other": chinese + len(words) - latin}
    elif chinese >= 4 and latin <= 5 * chinese and BEGINS_CHINESE.match(prose):
        counts["Latin"] = 0
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
    return _json(text, parse_int=_whole)


def _json(text: str, **numbers: Callable[[str], Any]) -> Any:
    """The value of JSON text, or None; `numbers` are those of `json.loads` that read numbers."""
    try:
        value = json.loads(text, parse_constant=int, **numbers)  # int("NaN") is a ValueError
        return value if _depth(value) <= MAX_DEPTH else None
    # JSONDecodeError is a ValueError; a Decimal with an exponent of 20 digits is an InvalidOperation.
    except (ValueError, InvalidOperation, RecursionError):
        return None


def _depth(value: Any) -> int:
    """How deep objects and lists are nested."""
    if not isinstance(value, (dict, list)):
        return 0
    return 1 + max(map(_depth, value.values() if isinstance(value, dict) else value), default=0)


def _whole(text: str) -> int | float:
    """Exactly; a number of more digits than Python converts (4,300) as it would read it with a fraction."""
    try:
        return int(text)
    except ValueError:
        return float(text)


def _kind(value: Any) -> type:
    """The type of a JSON value: 1 and 1.0 are numbers, and true, which Python takes for 1, is none."""
    return float if type(value) is int else type(value)


def fits(value: Any, example: Any) -> bool:
    """True where a JSON value has the keys and the types of an example, at every depth.

    An object needs the same keys. Each item of a list must fit one of the example's items; an empty list of the
    example allows any. `null` in the example says nothing about the type.

    Args:
        value, example: what `parse_json` returns for the reply and for the reference.
    """
    if example is None:
        return True
    if _kind(value) is not _kind(example):
        return False
    if isinstance(example, dict):
        return value.keys() == example.keys() and all(fits(value[key], example[key]) for key in example)
    if isinstance(example, list) and example:
        return all(any(fits(item, model) for model in example) for item in value)
    return True


def same_answer(reply: str, reference: str) -> bool:
    """True where the reply is the reference: as JSON, as a number, else as text.

    Numbers are compared as numbers ("2/6" is "1/3", "8.0" is "8"); the last number in the reply counts (`numbers`).
    """
    exact = {"parse_int": Decimal, "parse_float": Decimal}
    expected = _json(reference, **exact)
    if isinstance(expected, (dict, list)):
        return _equal(_json(reply, **exact), expected)
    same = same_number(reply, reference)
    return reply.strip() == reference.strip() if same is None else same


def bare_answer(reply: str, reference: str) -> bool:
    """True where the reply is the reference's number and nothing else: the answer as the maths rows ask for it."""
    return parse_number(reply) is not None and same_answer(reply, reference)


def written_calls(calls: Sequence[Mapping[str, Any]] | None) -> str:
    """Calls as Qwen's templates write them; "" where there are none."""
    functions = [call.get("function", call) for call in calls or ()]
    return "\n".join(
        f'<tool_call>\n{{"name": "{function["name"]}", "arguments": {_arguments(function)}}}\n</tool_call>'
        for function in functions
    )


def _arguments(function: Mapping[str, Any]) -> str:
    """The arguments of a call as JSON text."""
    found = function["arguments"]
    return found if isinstance(found, str) else json.dumps(found, ensure_ascii=False)


def tool_calls(reply: str) -> list[dict[str, Any]]:
    """What a reply calls: each JSON object with a `name` and `arguments`, in whatever frame, or what Qwen3.5 writes.

    Qwen's frame is `<tool_call>`. A model that never learned it as a token writes the same object between others, or
    bare (pitfall token-never-trained); a server finds no call in that.
    """
    if marked := FUNCTION.findall(reply):
        parameters = [(name, PARAMETER.findall(inner)) for name, inner in marked]
        return [{"name": name, "arguments": {key: _value(text) for key, text in given}} for name, given in parameters]
    found, place, decoder = [], 0, json.JSONDecoder(parse_int=Decimal, parse_float=Decimal)
    while (place := reply.find("{", place)) >= 0:
        try:
            value, end = decoder.raw_decode(reply, place)
        except (ValueError, RecursionError):
            place += 1
            continue
        if value.keys() >= {"name", "arguments"}:
            found.append(value)
        place = end
    return found


def _value(text: str) -> Any:
    """What a text between tags says: JSON where it is some, else itself; Qwen3.5's template writes Python's words."""
    text = {"True": "true", "False": "false", "None": "null"}.get(text, text)
    try:
        return json.loads(text, parse_int=Decimal, parse_float=Decimal)
    except (ValueError, RecursionError):
        return text


def same_calls(reply: str, due: Sequence[Mapping[str, Any]]) -> bool:
    """True where a reply calls the tools that are due with equal arguments, in whatever order, and no other.

    Args:
        reply: an answer without its thinking.
        due: the `tool_calls` of the reference message; `arguments` is an object or its JSON text.
    """
    wanted = tool_calls(written_calls(due))
    if FUNCTION.search(reply):  # between tags, the text "3" and the number 3 look alike
        for call in wanted:
            values = call["arguments"].items()
            call["arguments"] = {key: _value(each) if isinstance(each, str) else each for key, each in values}
    for call in (found := tool_calls(reply)):
        match = next((place for place, each in enumerate(wanted) if _equal(call, each)), None)
        if match is None:
            return False
        wanted.pop(match)
    return bool(found) and not wanted


def _equal(one: Any, other: Any) -> bool:
    """Whether two JSON values, their numbers read as Decimals, are the same."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_equal(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(_equal, one, other))
    return bool(one == other)


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
    found, due = entities(reply), entities(reference)
    return EntityCounts(len(found & due), len(found), len(due))


def entities(answer: str) -> set[tuple[str, str]]:
    """The (label, entity) pairs of an answer in the form of the course's NER rows; anything else holds none.

    A name that stands twice in a text is one pair: the answer says what is there, not where (C47).
    """
    value = parse_json(answer)
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
        `stopped`, `faults`, `usable`, `same` (the reference itself), `json_strict`, `json_lenient`, `json_schema`,
        `exact` (the answer is reached, by whatever way), `bare` (and nothing else stands there), `emoji`, `emoji_fits`
        (an emoji only where the reference has one), and `calls` (the right ones) and `entities` (counts), None where
        the row asks for none.
    """
    reference, due = row["messages"][-1]["content"] or "", row["messages"][-1].get("tool_calls")
    calls = {token for token in template_tokens if row.get("tools") and "tool_call" in token}
    found = faults(reply, reference, written=written, stopped=stopped, template_tokens={*template_tokens} - calls)
    strict, wanted = parse_json(reply), parse_json(reference)
    emoji, emoji_wanted = (bool(EMOJI.search(text)) for text in (reply, reference))
    return {
        "stopped": stopped,
        "faults": list(found),
        "usable": not found,
        "same": reply.strip() == reference.strip(),
        "json_strict": isinstance(strict, dict),
        "json_lenient": isinstance(parse_json(reply, lenient=True), dict),
        "json_schema": isinstance(wanted, dict) and fits(strict, wanted),
        "exact": same_answer(reply, reference),
        "bare": bare_answer(reply, reference),
        "emoji": emoji,
        "emoji_fits": emoji == emoji_wanted,
        "calls": same_calls(reply, due) if due else None,
        "entities": entity_counts(reply, reference)._asdict() if "ner" in (row.get("tags") or ()) else None,
    }
