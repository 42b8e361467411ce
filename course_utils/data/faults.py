"""What is wrong with a row of the course's schema: the one place where a row is judged, whatever file it comes from.

`faults` is what `check` reports, `why_dropped` what `clean` leaves out, `validate` what no template could render.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from course_utils.core.errors import CourseError
from course_utils.data.records import Fault, Row, short
from course_utils.data.rows import MEDIA, REPLIES, is_blank, texts_of, turns_of
from course_utils.text import chat

TYPES = {"source": str, "id": str, "tools": str, "text": str, "label": bool}  # of the schema's columns
ITEMS = dict.fromkeys(("messages", *REPLIES), dict) | dict.fromkeys(("tags", *MEDIA), str)  # of those that are lists
PLACEHOLDERS = {"images": "<image>", "videos": "<video>", "audios": "<audio>"}  # LLaMA-Factory's


def faults(row: Row) -> Iterator[Fault]:
    """What keeps a plain row from being used: types, what a template would stumble over, what teaches nothing."""
    if found := list(misfits(row)):
        yield from found
        return
    if "text" in row:
        if is_blank(row["text"]):
            yield Fault("text", "is empty. Leave the row out.")
        return
    try:
        validate(row)
    except chat.MessageError as error:
        yield fault_of(error)
    else:
        for place, role in _empty_turns(row):
            taught = "teach silence" if role == "assistant" else "ask nothing"
            yield Fault(f"{place}.content", f"is empty: that would {taught}. Write it, or leave it out.")
        replies = [turn for turn in turns_of(row) if turn["role"] == "assistant"]
        if replies and all(turn.get("weight") == 0 for turn in replies):
            yield Fault("messages", "no reply of it is learned: each has weight 0. Leave the row out.")
    if row.get("chosen") and row["chosen"] == row.get("rejected"):
        yield Fault("rejected", "is equal to chosen, so there is nothing to prefer. Mend one, or leave the row out.")


def why_dropped(row: Row, max_characters: int) -> str:
    """Why a cleaned row is left out, "" where it is not."""
    length = sum(map(len, texts_of(row)))
    if length > max_characters:
        return f"{length:,} characters, more than {max_characters:,}"
    if "text" in row:
        return "the text is empty" if is_blank(row["text"]) else ""
    return next((f"an empty turn of {role}" for _, role in _empty_turns(row)), "")


def _empty_turns(row: Row) -> Iterator[tuple[str, str]]:
    """The questions that ask nothing and the replies that say nothing: their places and roles."""
    for column in ("messages", *REPLIES):
        for index, turn in enumerate(row.get(column, ())):
            learned = row.get("label", True) and turn.get("weight") != 0  # else it may well be empty
            says = turn["role"] == "user" or (turn["role"] == "assistant" and not turn.get("tool_calls") and learned)
            if says and is_blank(turn.get("content", "")):
                yield f"{column}[{index}]", turn["role"]


def validate(row: Row) -> None:
    """A `chat.MessageError` where a template would stumble over the turns of a row, with either reply, or its tools."""
    for turns in conversations(row):
        chat.validate(turns)
    chat.load_tools(row.get("tools"))


def fault_of(error: CourseError) -> Fault:
    """What `chat` or `masking` refused, as the fault of a row."""
    if not isinstance(error, chat.MessageError):
        return Fault("messages", str(error).removeprefix("row 0: "))
    place = "" if error.index is None else f"messages[{error.index}]"
    field = ".".join(part for part in (place, error.field) if part) or "messages"
    return Fault(field, f"{error.reason.removesuffix(' (row 0)')}.")


def conversations(row: Row) -> list[list[Row]]:
    """The turns of a row; of a preference twice, with either reply."""
    messages = row.get("messages", [])
    return [messages + row[reply] for reply in REPLIES if reply in row] or [messages]


def out_of_order(messages: list[Row], column: str, *, is_prompt: bool) -> Fault | None:
    """System first if at all, then user (or tool results) and assistant by turns, an assistant last (no prompt).

    LLaMA-Factory skips a row that breaks this. Unlike there, several tool results may follow one another.
    """
    before = "assistant"
    for index, message in enumerate(messages):
        role = message["role"]
        if role == "system" and index == 0:
            continue
        due = ("user", "tool") if before == "assistant" else ("assistant",)
        if role not in due and not role == before == "tool":
            wanted = "a user turn or a tool result" if before == "assistant" else "an assistant turn"
            reason = f"this turn is of {role}, but {wanted} is due there."
            if message.get("tool_calls") and index and messages[index - 1].get("tool_calls"):
                reason += " Join calls in a row in one turn, as a list: [{…}, {…}]; their results then follow it."
            return Fault(f"{column}[{index}]", reason)
        before = role
    if is_prompt and messages[-1]["role"] not in ("user", "tool"):
        return Fault(column, "must end with a user turn or a tool result, which chosen and rejected then answer.")
    if not is_prompt and messages[-1]["role"] != "assistant":
        return Fault(column, "must end with an assistant turn, or there is nothing to learn.")
    return None


def uneven_media(row: Row, files: dict[str, list[str]]) -> Iterator[tuple[str, str]]:
    """Each of images, videos and audios that has not one file for each placeholder, and what there is.

    As in LLaMA-Factory the system turn is not counted. Of a preference, the count must be right with either reply.
    """
    for media, placeholder in PLACEHOLDERS.items():
        named = len(files.get(media, []))
        for turns in conversations(row):
            count = sum(turn.get("content", "").count(placeholder) for turn in turns if turn["role"] != "system")
            if count != named:
                yield media, f"names {named}, and the turns hold {placeholder} {count} times. Each needs the other"
                break


def misfits(row: Row) -> Iterator[Fault]:
    """Each value that is of another type than the schema says (see `rows.py`)."""
    for key, kind in TYPES.items():
        if key in row and not isinstance(row[key], kind):
            yield Fault(key, f"expected {kind.__name__}, found {short(row[key])}. Convert the column.")
    for key, kind in ITEMS.items():
        items = row.get(key, [])
        if not isinstance(items, list) or not all(isinstance(item, kind) for item in items):
            yield Fault(key, f"expected a list of {kind.__name__}, found {short(items)}. Convert the column.")
        elif kind is dict and not all(isinstance(text, str) for turn in items for text in _arguments(turn)):
            reason = "expected the arguments of every call as JSON text: Arrow has given each call the keys of all."
            yield Fault(key, reason)


def _arguments(turn: Row) -> Iterator[Any]:
    """The arguments of the calls of a turn, as far as it has calls at all."""
    calls = turn.get("tool_calls")
    for call in calls if isinstance(calls, list) else ():
        function = call.get("function") if isinstance(call, dict) else None
        yield function.get("arguments", "") if isinstance(function, dict) else ""
