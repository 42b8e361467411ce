"""Public rows that are not yet conversations into messages: CMATH, MAWPS, DPO-zh-en-emoji, CLUENER (C27, C47).

Every row is kept, and one that cannot be read raises with its number and field: nothing is dropped in silence (trap 16
lists how the copies of these files differ).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any

from course_utils.data.rows import DataError, Row, to_dataset

if TYPE_CHECKING:
    from datasets import Dataset

MAX_ANSWER = 3000  # characters; one long answer would set the padding of its whole batch
PLACEHOLDER = re.compile(r"\b(?:N_|number)(\d+)\b")
CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
CHINESE = re.compile(r"[\u3400-\u9fff]")
SENTENCE_END = re.compile(r"[。！？!?…][”’」』\"')）]*|\.[\"')]*(?=\s|$)|\n")
CLUENER_LABELS = (
    "address", "book", "company", "game", "government", "movie", "name", "organization", "position", "scene",
)  # fmt: skip
CLUENER_PROMPT = (
    "从文本中找出实体，按类别归纳成一个JSON对象：键是类别，值是实体列表，没有的类别不写。"
    f"只输出JSON。类别：{'、'.join(CLUENER_LABELS)}。\n文本：{{text}}"
)


def normalise(source: str, rows: Iterable[Row]) -> Dataset:
    """Rows of a public data set as rows of the course's schema.

    cmath   question (`input` or `question`) and the bare answer (`golden`; 2/6 or 12% stay as they are)
    mawps   the question with its numbers filled in (`N_00`, `N_0` or `number0`; 8.0 is written 8) and the bare answer
    emoji   the question and `answer_zh`, or `answer_en` where that is blank; cut at 3000 characters, after a sentence
    cluener the text with the set of labels, and the entities by label as JSON; spans are checked, their ends inclusive

    Args:
        source: one of the names above.
        rows: dicts as `read_raw` gives them.

    Returns:
        A Dataset with messages (user, assistant), source, and tags (kind, language), one row for each row given.

    Raises:
        DataError: unknown source, or a row that lacks a field; names source, row (counted from 1) and field.
    """
    if source not in READERS:
        raise DataError(f"There is no source {source!r} to normalise. Known are: {', '.join(READERS)}.")
    done = []
    for number, row in enumerate(rows, start=1):
        question, answer, tags = READERS[source](row, f"{source}, row {number}")
        messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        done.append({"messages": messages, "source": source, "tags": tags})
    return to_dataset(done)


def _cmath(row: Row, where: str) -> tuple[str, str, list[str]]:
    question = _field(row, ("input", "question"), where)
    golden = _field(row, ("golden",), where)
    return question, tidy_number(golden) or golden, ["math", "zh"]  # some are "2/6" or "12%": kept as they are


def _mawps(row: Row, where: str) -> tuple[str, str, list[str]]:
    question = _field(row, ("Question",), where)
    numbers = [
        _number(number, f"{where}, Numbers") for number in str(row.get("Numbers") or "").replace(",", " ").split()
    ]

    def filled(match: re.Match[str]) -> str:
        index = int(match[1])
        if index >= len(numbers):
            raise DataError(f"{where}, Question: {match[0]} has no number; Numbers holds {len(numbers)}.")
        return numbers[index]

    answer = _number(_field(row, ("Answer",), where), f"{where}, Answer")
    return PLACEHOLDER.sub(filled, question), answer, ["math", "en"]


def _emoji(row: Row, where: str) -> tuple[str, str, list[str]]:
    question = _field(row, ("question",), where)
    answer = cut(_field(row, ("answer_zh", "answer_en"), where))
    return question, answer, ["chat", "zh" if CHINESE.search(question + answer) else "en"]


def _cluener(row: Row, where: str) -> tuple[str, str, list[str]]:
    text, labels = _field(row, ("text",), where), row.get("label")
    if not isinstance(labels, dict):
        raise DataError(f"{where}, label: expected an object of labels, found {type(labels).__name__}.")
    for label, entities in labels.items():
        if label not in CLUENER_LABELS:
            raise DataError(f"{where}, label: unknown label {label!r}; known are {', '.join(CLUENER_LABELS)}.")
        for entity, spans in entities.items():
            for start, end in spans:
                if row["text"][start : end + 1] != entity:
                    raise DataError(f"{where}, label.{label}: [{start}, {end}] is not {entity!r} (ends are inclusive).")
    answer = json.dumps({label: list(entities) for label, entities in labels.items()}, ensure_ascii=False)
    return CLUENER_PROMPT.format(text=text), answer, ["ner", "zh"]


READERS: dict[str, Callable[[Row, str], tuple[str, str, list[str]]]] = {
    "cmath": _cmath,
    "mawps": _mawps,
    "emoji": _emoji,
    "cluener": _cluener,
}


def cut(text: str, limit: int = MAX_ANSWER) -> str:
    """At most `limit` characters, ended after a sentence where one ends in the second half, else hard.

    Args:
        text: an answer.
        limit: characters.
    """
    if len(text) <= limit:
        return text
    ends = [match.end() for match in SENTENCE_END.finditer(text[: limit + 1]) if limit // 2 < match.end() <= limit]
    return text[: ends[-1] if ends else limit].rstrip("\u200d\ufe0f \n")  # no half of a joined emoji


def _field(row: Row, names: tuple[str, ...], where: str) -> str:
    """The first of these fields that is not blank, without control characters and outer white space."""
    for name in names:
        value: Any = row.get(name)
        text = CONTROL.sub("", "" if value is None else str(value)).strip()
        if text:
            return text
    raise DataError(f"{where}: needs {' or '.join(names)}, not blank. The row has: {', '.join(map(str, row))}.")


def _number(text: str, where: str) -> str:
    """A number as people write it, or an error."""
    number = tidy_number(text)
    if number is None:
        raise DataError(f"{where}: expected a number, found {text!r}.")
    return number


def tidy_number(text: str) -> str | None:
    """8.0 as "8", 141.50 as "141.5"; None where the text is not one plain decimal number."""
    try:
        number = Decimal(text)
    except InvalidOperation:
        return None
    if not number.is_finite():
        return None
    return f"{number.normalize():f}" if number else "0"
