"""Negative examples for strict JSON: the right reply and one that is broken in a way that models break it.

Two uses. As preference pairs (chosen, rejected) they are for DPO and its kin. As correction turns (broken reply,
complaint, right reply) they are for supervised tuning, and then only the last turn may be learned:
`masking.build_dataset(..., train_on="last")`, in LLaMA-Factory `mask_history: true`. By the defaults of both the broken
reply is learned, too.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from course_utils.data.reading import STRICT
from course_utils.data.records import DataError, Row
from course_utils.data.rows import REPLIES, plain_rows, to_dataset
from course_utils.text.script import HAN

if TYPE_CHECKING:
    from datasets import Dataset

FORMS = ("preference", "correction")
FAULTS = ("wrong_type", "extra_text", "missing_field", "fenced")
COMPLAINTS = {
    "en": {
        "wrong_type": "One value has the wrong type.",
        "extra_text": "I asked for the object alone.",
        "missing_field": "A field is missing.",
        "fenced": "Leave out the code fence.",
    },
    "zh": {
        "wrong_type": "有一个值的类型不对。",
        "extra_text": "我只要对象本身，不要别的文字。",
        "missing_field": "少了一个字段。",
        "fenced": "不要加代码块标记。",
    },
}
CHATTER = {  # before and after the object
    "en": (("Sure! Here is your JSON:\n", ""), ("", "\n\nLet me know if you need anything else.")),
    "zh": (("好的，这是您要的JSON：\n", ""), ("", "\n\n如果还需要别的，请告诉我。")),
}
NUMBER = re.compile(r"-?(0|[1-9][0-9]{0,14})(\.[0-9]{1,6})?")  # text that a model may well write as a number
STYLES: tuple[dict[str, Any], ...] = ({"separators": (",", ":")}, {"indent": 2}, {})


def spoil(answer: str, fault: str) -> str | None:
    """A broken version of a reply that is a JSON object and nothing else.

    wrong_type: one value in another JSON type: a number, true, false or null as its text, a list as its parts with
        commas between, an object as its text, text that reads as a number as that number, other text as a list of one.
        The first value that is neither plain text nor null is taken, else the first text, else the first null: where
        a null is due, text is often right, too.
    extra_text: a polite sentence before or after the object, in Chinese where the object holds Chinese.
    missing_field: without the last key. Of an object with one key nothing would be left, which no model says: None.
    fenced: inside a ```json fence.

    The white space of the object stays as it is written, so that the fault is the only difference.

    Args:
        answer: the right reply.
        fault: one of FAULTS.

    Returns:
        Text that is no JSON, or is an object unlike that of `answer`. None where `answer` is no strict JSON object (no
        NaN, no key twice), or has nothing that could be broken so.

    Raises:
        DataError: an unknown fault.
    """
    _check("fault", fault, FAULTS)
    try:
        value = STRICT.decode(answer)
        _text(value, indent=2).encode()  # the style that allows the least depth
    except (ValueError, RecursionError):  # no JSON, NaN, 1e999, half of a character, too deep to be written
        return None
    if not isinstance(value, dict):
        return None
    if fault == "fenced":
        return f"```json\n{answer}\n```"
    if fault == "extra_text":
        before, after = CHATTER["zh" if HAN.search(answer) else "en"][len(answer) % 2]
        return f"{before}{answer}{after}"
    if not value or (fault == "missing_field" and len(value) == 1):
        return None
    if fault == "missing_field":
        changed = dict(list(value.items())[:-1])
    else:
        key = min(value, key=lambda key: _is_text(value[key]) + 2 * (value[key] is None))
        changed = value | {key: _retyped(value[key])}
    style = next((style for style in STYLES if _text(value, **style) == answer.strip()), {})  # as `answer` is written
    return _text(changed, **style)


def negatives(dataset: Dataset, *, form: str, faults: Sequence[str] = FAULTS, seed: int = 42) -> Dataset:
    """Negative examples from the chats of a data set whose last reply is a strict JSON object.

    Each such row gives one, of the fault that has waited longest among those that the row can have. Thinking of the
    reply stays in the broken one. Other rows are left out, and so are those that already are preferences, KTO or tagged
    "negative".

    Args:
        dataset: rows of the course's schema.
        form: "preference": `messages` is the prompt, `chosen` the right reply, `rejected` the broken one; or
            "correction": `messages` is the prompt, the broken reply, a complaint, the right reply. The complaint is in
            Chinese where the row is tagged "zh". Train these with `train_on="last"`.
        faults: those to take, out of FAULTS.
        seed: of the order in which the faults take turns.

    Returns:
        A Dataset in the order of the rows; "negative" and the fault are added to the tags, and "-neg" to an id.

    Raises:
        DataError: an unknown form or fault, no fault, or no row that could be used.
    """
    _check("form", form, FORMS)
    for fault in faults:
        _check("fault", fault, FAULTS)
    waiting = random.Random(seed).sample(list(faults), len(faults))
    made = []
    for row in plain_rows(dataset):
        answer = _answer(row)
        for fault in waiting:
            text = spoil(answer, fault)
            if text is not None:
                made.append(_negative(row, text, fault, form))
                waiting.remove(fault)
                waiting.append(fault)
                break
    if not made:
        what = f"a JSON object that can be given one of the faults {', '.join(faults) or '(none named)'}"
        mend = "Take rows whose reply is JSON and nothing else."
        raise DataError(f"negatives: none of the {len(dataset)} rows ends with {what}. {mend}")
    return to_dataset(made)


def _check(what: str, found: str, known: Sequence[str]) -> None:
    if found not in known:
        raise DataError(f"negatives: unknown {what} {found!r}; expected one of {', '.join(known)}.")


def _answer(row: Row) -> str:
    """The last reply of a chat, "" where the row has none in words."""
    messages = row.get("messages") or [{}]
    is_chat = len(messages) > 1 and not {*REPLIES, "label"} & row.keys() and "negative" not in row.get("tags", [])
    in_words = messages[-1].get("role") == "assistant" and not messages[-1].get("tool_calls")
    return messages[-1].get("content", "") if is_chat and in_words else ""


def _negative(row: Row, text: str, fault: str, form: str) -> Row:
    *prompt, right = row["messages"]
    broken, tags = right | {"content": text}, row.get("tags", [])
    if form == "preference":
        turns = {"messages": prompt, "chosen": [right], "rejected": [broken]}
    else:
        complaint = {"role": "user", "content": COMPLAINTS["zh" if "zh" in tags else "en"][fault]}
        turns = {"messages": [*prompt, broken, complaint, right]}
    added = [tag for tag in ("negative", fault) if tag not in tags]
    return row | turns | {"tags": tags + added} | ({"id": f"{row['id']}-neg"} if "id" in row else {})


def _text(value: Any, **style: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, **style)


def _is_text(item: Any) -> bool:
    return isinstance(item, str) and not NUMBER.fullmatch(item)


def _retyped(item: Any) -> Any:
    if isinstance(item, str):
        return [item] if _is_text(item) else json.loads(item)
    if isinstance(item, list):
        return ", ".join(part if isinstance(part, str) else _text(part) for part in item)
    return _text(item)
