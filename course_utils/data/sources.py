"""Public rows that are not yet conversations into messages: CMATH, MAWPS, DPO-zh-en-emoji, CLUENER (C27, C47).

Every row is kept, and one that cannot be read raises with its number and field: nothing is dropped in silence (pitfall
source-dialects lists how the copies of these files differ). A source of your own is one function more: see `normalise`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any

from course_utils.data import unread
from course_utils.data.cleaning import clean_text
from course_utils.data.records import DataError, Fault, Problem, Record, Row, RowReader, all_usable, judged, short
from course_utils.data.rows import to_dataset
from course_utils.text.script import HAN

if TYPE_CHECKING:
    from datasets import Dataset

COLUMNS = {"input", "question", "golden", "Question", "Numbers", "Answer", "answer_zh", "answer_en", "text"}  # are read
MAX_DIGITS = 30  # of a number; 1e999999999 would fill the memory when it is written out
MAX_ANSWER = 3000  # characters; one long answer would set the padding of its whole batch
PLACEHOLDER = re.compile(r"\b(?:N_|number)(\d+)\b")
SENTENCE_END = re.compile(r"[。！？!?…][”’」』\"')）]*|\.[\"')]*(?=\s|$)|\n")
CLUENER_LABELS = (
    "address", "book", "company", "game", "government", "movie", "name", "organization", "position", "scene",
)  # fmt: skip
CLUENER_PROMPT = (
    "从文本中找出实体，按类别归纳成一个JSON对象：键是类别，值是实体列表，没有的类别不写。"
    f"只输出JSON。类别：{'、'.join(CLUENER_LABELS)}。\n文本：{{text}}"
)


@dataclass
class SourceReader(RowReader):
    """One raw row of a source: gives its fields, and notes those that it lacks."""

    def text(self, *names: str) -> str:
        """The first of these fields that is not blank, cleaned; "" and a fault where there is none."""
        for name in names:
            value = self.row.get(name)
            if not isinstance(value, str | int | float | None) or isinstance(value, bool):
                self.fault(name, f"expected text, found {short(value)}.")
                return ""
            text = clean_text("" if value is None else str(value))
            if text:
                return text
        found = ", ".join(map(str, self.row))
        self.fault(names[0], f"needs {' or '.join(names)}, not blank. The row has: {found}.")
        return ""

    def number(self, name: str) -> str:
        """A field's number as people write it: 8.0 is "8"."""
        text = self.text(name)
        number = tidy_number(text)
        if number is None and text:
            self.fault(name, f"expected a number, found {short(text)}.")
        return number or ""


Read = Callable[[SourceReader], tuple[str, str, list[str]]]
"""From a row: what the user asks, what the assistant answers, and the tags."""


def normalise(source: str, rows: Iterable[Row], *, read: Read | None = None) -> Dataset:
    """Rows of a data set that is not yet in conversations, as rows of the course's schema.

    cmath   question (`input` or `question`) and the bare answer (`golden`; 2/6 or 12% stay as they are)
    mawps   the question with its numbers filled in (`N_00`, `N_0` or `number0`; 8.0 is written 8) and the bare answer
    emoji   the question and `answer_zh`, or `answer_en` where that is blank; cut at 3000 characters, after a sentence
    cluener the text with the set of labels, and the entities by label as JSON; spans are checked, their ends inclusive

    A source of your own is a function of one row; what it asks for and the row lacks is reported for you:

        def poem(row):
            return row.text("title"), row.text("poem", "verses"), ["chat", "zh"]

        data.normalise("poems", data.read_raw("poems.csv"), read=poem)

    Args:
        source: one of the names above, or a name of your own together with `read`.
        rows: dicts as `read_raw` gives them.
        read: how a row is read, for a source of your own.

    Returns:
        A Dataset with messages (user, assistant), source, tags (kind, language) and id (source:number), one row for
        each row given.

    Raises:
        DataError: unknown source, or a row that lacks a field; names source, row (counted from 1) and field.
    """
    return to_dataset(normalise_rows(source, rows, read))


def normalise_rows(source: str, rows: Iterable[Row], read: Read | None = None) -> list[Row]:
    """`normalise`, as plain dicts."""
    if read is None and source not in READERS:
        known = f"Known are: {', '.join(READERS)}; for one of your own give read."
        raise DataError(f"There is no source {source!r} to normalise. {known}")
    records = (Record(source, number, None, row) for number, row in enumerate(rows, start=1))
    return all_usable(normalised(source, records, read or READERS[source]))


def normalised(source: str, records: Iterable[Record | Problem], read: Read) -> Iterator[Record | Problem]:
    """The rows of a source one after the other; in place of a row that cannot be read comes each of its problems."""

    def convert(_: int, record: Record) -> tuple[Row, list[Fault]]:
        row = SourceReader(record.value)
        question, answer, tags = read(row)
        messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        made = {"id": f"{source}:{record.row}", "messages": messages, "source": source, "tags": tags}
        if read is READERS.get(source) and not row.faults:  # of a source of your own, you have chosen what is read
            row.faults += unread.flags(record.value, COLUMNS)
            row.faults += unread.of_columns(record.value, made, COLUMNS, "remove the column")
        return made, row.faults

    return judged(records, convert)


def _cmath(row: SourceReader) -> tuple[str, str, list[str]]:
    golden = row.text("golden")
    return row.text("input", "question"), tidy_number(golden) or golden, ["math", "zh"]  # "2/6" and "12%" stay


def _mawps(row: SourceReader) -> tuple[str, str, list[str]]:
    question, answer = row.text("Question"), row.number("Answer")
    numbers = []
    for text in str(row.row.get("Numbers") or "").replace(",", " ").split():
        numbers.append(tidy_number(text) or "")
        if not numbers[-1]:
            row.fault("Numbers", f"expected a number, found {short(text)}.")

    def filled(match: re.Match[str]) -> str:
        index = int(match[1])
        if index < len(numbers):
            return numbers[index]
        row.fault("Question", f"{match[0]} has no number; Numbers holds {len(numbers)}.")
        return match[0]

    return PLACEHOLDER.sub(filled, question), answer, ["math", "en"]


def _emoji(row: SourceReader) -> tuple[str, str, list[str]]:
    question, answer = row.text("question"), cut(row.text("answer_zh", "answer_en"))
    return question, answer, ["chat", "zh" if HAN.search(question + answer) else "en"]


def _cluener(row: SourceReader) -> tuple[str, str, list[str]]:
    text, labels = row.text("text"), row.row.get("label")
    if not isinstance(labels, dict):
        row.fault("label", f"expected an object of labels, found {short(labels)}.")
        labels = {}
    answer = {}
    for label, entities in labels.items() if text else ():
        if label not in CLUENER_LABELS:
            row.fault(f"label.{label}", f"unknown label; known are {', '.join(CLUENER_LABELS)}.")
        elif not isinstance(entities, dict):
            row.fault(f"label.{label}", f"expected an object of entities, found {short(entities)}.")
        else:
            answer[label] = list(map(clean_text, entities))
            for entity, spans in entities.items():
                _check_spans(row, f"label.{label}.{entity}", entity, spans)
    return CLUENER_PROMPT.format(text=text), json.dumps(answer, ensure_ascii=False), ["ner", "zh"]


def _check_spans(row: SourceReader, field: str, entity: str, spans: Any) -> None:
    """Each span of an entity must lie on its letters in the text."""
    text = str(row.row["text"])
    for span in spans if isinstance(spans, list) and spans else [spans]:
        if not (isinstance(span, list) and len(span) == 2 and all(type(place) is int for place in span)):
            row.fault(field, f"expected a list of [start, end], found {short(span)}.")
        elif not 0 <= span[0] <= span[1] < len(text):
            row.fault(field, f"{span} leads out of the text of {len(text)} characters (from 0, ends are inclusive).")
        elif text[span[0] : span[1] + 1] != entity:
            found = short(text[span[0] : span[1] + 1])
            row.fault(field, f"{span} is {found} in the text, not {entity!r} (from 0, ends are inclusive).")


READERS: dict[str, Read] = {"cmath": _cmath, "mawps": _mawps, "emoji": _emoji, "cluener": _cluener}


def cut(text: str, limit: int = MAX_ANSWER) -> str:
    """At most `limit` characters, ended after a sentence where one ends in the second half, else hard."""
    if len(text) <= limit:
        return text
    ends = [match.end() for match in SENTENCE_END.finditer(text[: limit + 1]) if limit // 2 < match.end() <= limit]
    return text[: ends[-1] if ends else limit].rstrip("\u200d\ufe0f \n")  # no half of a joined emoji


def tidy_number(text: str) -> str | None:
    """8.0 as "8", 141.50 as "141.5"; None where the text is not one plain decimal number."""
    try:
        number = Decimal(text)
    except InvalidOperation:
        return None
    if not number.is_finite() or abs(number.adjusted()) > MAX_DIGITS:
        return None
    return f"{number.normalize():f}" if number else "0"
