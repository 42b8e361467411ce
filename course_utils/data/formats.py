"""Rows of Alpaca, ShareGPT and OpenAI files into messages (C3, C8, C9), read as LLaMA-Factory 0.9.5 reads them.

Source: `llamafactory/data/converter.py`. Where that drops a row with a warning or ends in a bare KeyError (trap 15),
this raises a `DataError` that names file, row and field.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from course_utils.data.rows import DataError, Row

FORMATTINGS = ("alpaca", "sharegpt", "openai")
DEFAULT_COLUMNS: dict[str, str | None] = {
    "prompt": "instruction",
    "query": "input",
    "response": "output",
    "history": None,
    "messages": "conversations",
    "system": None,
    "tools": None,
}
LATER_COLUMNS = ("images", "videos", "audios", "chosen", "rejected", "kto_tag")
DEFAULT_TAGS: dict[str, str | None] = {
    "role_tag": "from",
    "content_tag": "value",
    "user_tag": "human",
    "assistant_tag": "gpt",
    "observation_tag": "observation",
    "function_tag": "function_call",
    "system_tag": "system",
}


@dataclass(frozen=True)
class Layout:
    """How a file is written: the formatting, the column of each part, the tag of each role.

    `explicit` lists the parts that the entry's `columns` names itself: a file without such a column is an error there.
    """

    formatting: str
    columns: dict[str, str | None]
    tags: dict[str, str | None]
    explicit: tuple[str, ...] = ()


def convert(rows: list[Row], layout: Layout, file: str) -> list[Row]:
    """Rows of a file as rows of the course's schema (without `source`).

    Args:
        rows: what `read_raw` gave.
        layout: how they are written.
        file: its name, for messages.

    Returns:
        One dict for each row: messages, tags, and tools where it has some.

    Raises:
        DataError: names file, row (counted from 1) and field.
    """
    for part in layout.explicit:
        column = layout.columns[part]
        if rows and column is not None and not any(column in row for row in rows):
            raise DataError(
                f"{file}: columns.{part} names {column!r}, which no row has. Rows have: {', '.join(rows[0])}."
            )
    read = _alpaca if layout.formatting == "alpaca" else _conversation
    done = []
    for number, row in enumerate(rows, start=1):
        where = f"{file}, row {number}"
        out: Row = {"messages": read(row, layout, where), "tags": _tags(row, where)}
        tools = _tools(row, layout.columns["tools"], where)
        done.append(out | ({"tools": tools} if tools else {}))
    return done


# ---------------------------------------------------------------------------------------------------------- the formats
def _alpaca(row: Row, layout: Layout, where: str) -> list[Row]:
    """instruction, input, output, system, history: the prompt is instruction and input with a line break between."""
    columns = layout.columns
    messages = _system(row, columns["system"], where)
    for index, pair in enumerate(_list(row, columns["history"], where)):
        field = f"{where}, {columns['history']}[{index}]"
        if not isinstance(pair, list) or len(pair) != 2:
            raise DataError(f"{field}: expected a pair [prompt, reply], found {_short(pair)}.")
        messages.append({"role": "user", "content": _text(pair[0], f"{field}[0]")})
        messages.append({"role": "assistant", "content": _text(pair[1], f"{field}[1]")})
    asked = [_required(row, columns["prompt"], where)]
    if columns["query"] is not None and row.get(columns["query"]) is not None:
        asked.append(_text(row[columns["query"]], f"{where}, {columns['query']}"))
    messages.append({"role": "user", "content": "\n".join(part for part in asked if part)})
    messages.append({"role": "assistant", "content": _required(row, columns["response"], where)})
    return messages


def _conversation(row: Row, layout: Layout, where: str) -> list[Row]:
    """A list of turns under the tags of the entry; OpenAI's own keys (tool_calls, reasoning_content) are kept."""
    column, tags = layout.columns["messages"], layout.tags
    turns = _list(row, column, where, required=True)
    roles = {
        tags["user_tag"]: "user",
        tags["assistant_tag"]: "assistant",
        tags["observation_tag"]: "tool",
        tags["function_tag"]: "function",
        tags["system_tag"]: "system",
    }
    roles.pop(None, None)
    messages: list[Row] = []
    for index, turn in enumerate(turns):
        field = f"{where}, {column}[{index}]"
        if not isinstance(turn, dict):
            raise DataError(f"{field}: expected an object, found {_short(turn)}.")
        role = roles.get(turn.get(tags["role_tag"]))
        if role is None:
            found = _short(turn.get(tags["role_tag"]))
            raise DataError(
                f"{field}.{tags['role_tag']}: {found} is no role here; expected one of {', '.join(map(str, roles))}."
            )
        messages.append(_turn(turn, role, tags["content_tag"] or "", field))
    if not messages or messages[0]["role"] != "system":
        messages = _system(row, layout.columns["system"], where) + messages
    _check_order(messages, f"{where}, {column}")
    return messages


def _turn(turn: Row, role: str, content_tag: str, field: str) -> Row:
    """One turn as a message."""
    content = turn.get(content_tag)
    if role == "function":
        return {"role": "assistant", "content": "", "tool_calls": _calls_of_text(content, f"{field}.{content_tag}")}
    calls = turn.get("tool_calls")
    if content is None and calls:  # OpenAI writes null beside a call
        content = ""
    message = {"role": role, "content": _text(content, f"{field}.{content_tag}")}
    for key in ("reasoning_content", "tool_call_id"):
        if turn.get(key) is not None:
            message[key] = _text(turn[key], f"{field}.{key}")
    if calls:
        if role != "assistant" or not isinstance(calls, list):
            raise DataError(
                f"{field}.tool_calls: expected a list on an assistant turn, found {_short(calls)} on {role}."
            )
        message["tool_calls"] = [_call(call, f"{field}.tool_calls[{i}]") for i, call in enumerate(calls)]
    return message


def _check_order(messages: list[Row], where: str) -> None:
    """System first if at all, then user (or tool results) and assistant by turns, an assistant last."""
    expected = "user"
    for index, message in enumerate(messages):
        role = message["role"]
        if role == "system" and index == 0:
            continue
        after_result = index > 0 and messages[index - 1]["role"] == "tool" and role == "tool"
        asks = role in ("user", "tool")
        if not after_result and (asks != (expected == "user") or role == "system"):
            wanted = "a user turn or a tool result" if expected == "user" else "an assistant turn"
            raise DataError(f"{where}: turn {index} is {role}, but {wanted} is due there.")
        expected = "assistant" if asks else "user"
    if not messages or messages[-1]["role"] != "assistant":
        raise DataError(f"{where}: must end with an assistant turn, or there is nothing to learn.")


# ------------------------------------------------------------------------------------------------------ parts of a row
def _system(row: Row, column: str | None, where: str) -> list[Row]:
    """The system turn that a column of the row holds, if any."""
    if column is None or not row.get(column):
        return []
    return [{"role": "system", "content": _text(row[column], f"{where}, {column}")}]


def _tags(row: Row, where: str) -> list[str]:
    """The row's own `tags` column; a row without one has none."""
    tags = row.get("tags")
    if tags is None:
        return []
    if not isinstance(tags, list) or not all(isinstance(tag, str) for tag in tags):
        raise DataError(f"{where}, tags: expected a list of strings, found {_short(tags)}.")
    return tags


def _tools(row: Row, column: str | None, where: str) -> str | None:
    """The tools of a row as one JSON string, each as {"type": "function", "function": ...}."""
    tools = row.get(column) if column is not None else None
    if not tools:
        return None
    field = f"{where}, {column}"
    if isinstance(tools, str):
        tools = _parsed(tools, field)
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise DataError(f"{field}: expected a list of tool schemas, found {_short(tools)}.")
    wrapped = [tool if tool.get("type") == "function" else {"type": "function", "function": tool} for tool in tools]
    return json.dumps(wrapped, ensure_ascii=False) if wrapped else None


def _calls_of_text(content: Any, field: str) -> list[Row]:
    """ShareGPT's function_call turn: JSON text of one {"name", "arguments"} or of a list of them."""
    found = _parsed(_text(content, field), field)
    return [_call({"function": call}, field) for call in (found if isinstance(found, list) else [found])]


def _call(call: Any, field: str) -> Row:
    """One tool call with its arguments as a JSON string (trap 10)."""
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise DataError(f"{field}: expected a call with a function name, found {_short(call)}.")
    arguments = function.get("arguments", {})
    if isinstance(arguments, str):
        _parsed(arguments, f"{field}.arguments")
    else:
        arguments = json.dumps(arguments, ensure_ascii=False)
    done: Row = {"type": "function", "function": {"name": function["name"], "arguments": arguments}}
    return done | ({"id": call["id"]} if call.get("id") is not None else {})


def _required(row: Row, column: str | None, where: str) -> str:
    if column not in row:
        raise DataError(f"{where}: the field {column!r} is missing. The row has: {', '.join(row)}.")
    return _text(row[column], f"{where}, {column}")


def _list(row: Row, column: str | None, where: str, *, required: bool = False) -> list[Any]:
    value = row.get(column) if column is not None else None
    if value is None and not required:
        return []
    if not isinstance(value, list) or (required and not value):
        raise DataError(f"{where}, {column}: expected a list{' of turns' if required else ''}, found {_short(value)}.")
    return value


def _text(value: Any, field: str) -> str:
    if not isinstance(value, str):
        raise DataError(f"{field}: expected text, found {_short(value)}. Put it in quotes.")
    return value


def _parsed(text: str, field: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(
            f"{field}: expected JSON text, {error.msg} at character {error.pos} of {_short(text)}."
        ) from None


def _short(value: Any) -> str:
    """A value for a message, at most 60 characters."""
    text = "nothing" if value is None else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
