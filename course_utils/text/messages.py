"""What a conversation is: which messages are right, and how every template gets them.

`validate` says what a template would drop, garble or refuse. `prepared` gives what is rendered: the arguments of calls
as objects, results in the order of their calls, no key that says how to train.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from course_utils.core.errors import CourseError, printable
from course_utils.core.strict_json import STRICT
from course_utils.text import thinking

Message = dict[str, Any]

ROLES = ("system", "user", "assistant", "tool")
LEARN_FLAGS = ("weight", "loss", "train", "mask")
FIELDS = ("role", "content", "reasoning_content", "tool_calls", "tool_call_id", "name", *LEARN_FLAGS)
ROLE_HINTS = dict.fromkeys(("gpt", "model", "function_call"), "assistant") | {"human": "user"}
ROLE_HINTS |= dict.fromkeys(("observation", "function"), "tool")
FIELD_HINTS = {"reasoning": "reasoning_content", "thinking": "reasoning_content", "value": "content", "from": "role"}

MAX_DEPTH = 100  # of arguments and schemas: what is deeper breaks the programs that walk through it
CALL_KEYS = ("name", "arguments", "id", "type", "index", "function")
CALL_FORM = 'expected {"type": "function", "function": {"name": …, "arguments": …}}'


class MessageError(CourseError):
    """A message that the template would drop, garble or refuse."""

    def __init__(self, index: int | None, field: str | None, reason: str) -> None:
        self.index = index  # which message of the list, from 0 (None: the list as a whole)
        self.field = field  # which key of that message (None: the message as a whole)
        self.reason = reason  # what is wrong and what to write instead
        where = "messages" if index is None else f"messages[{index}]"
        super().__init__(f"{where}{f'.{field}' if field else ''}: {reason}")


def validate(messages: Sequence[Mapping[str, Any]]) -> None:
    """Check everything that a chat template drops silently (pitfall template-drops-content).

    A key whose value is None counts as absent, because Arrow fills columns that way.

    Args:
        messages: dicts with `role` and `content`, and where they apply `reasoning_content`, `tool_calls`,
            `tool_call_id`, `name`, and one of `LEARN_FLAGS`: 0 or false on an assistant's turn that is not learned.

    Raises:
        MessageError: with the index, the field and what to write instead.
    """
    prepared(messages)


def prepared(messages: Sequence[Mapping[str, Any]]) -> list[Message]:
    """Valid messages (see `validate`) as every template gets them; those given are not changed.

    Returns:
        As many messages, assistants at their places: without keys that are None and without `LEARN_FLAGS`, the content
        a text, calls as `{"type": "function", "function": {"name", "arguments"}}` with the arguments as an object
        (pitfall arguments-quoted-twice), the results of one turn's calls in the order of the calls.
    """
    if not isinstance(messages, Sequence) or isinstance(messages, str) or not messages:
        raise MessageError(None, None, "expected a list with at least one message")
    done: list[Message] = []
    results: list[tuple[int, Message]] = []  # of the calls before, each with its index
    for index, raw in enumerate(messages):
        if not isinstance(raw, Mapping):
            raise MessageError(index, None, f"expected a dict with role and content, got {type(raw).__name__}")
        message = _checked(index, {key: value for key, value in raw.items() if value is not None})
        if message["role"] == "tool":
            if not _calls_before(done):
                reason = "a tool result must follow an assistant's tool_calls or another result"
                raise MessageError(index, "role", reason)
            results.append((index, message))
            continue
        if results or _calls_before(done):
            done += _in_order_of_calls(done, results)
            results = []
        done.append(message)
    return done + (_in_order_of_calls(done, results) if results else [])  # a row may end with the call


def is_learned(message: Mapping[str, Any]) -> bool:
    """False where one of `LEARN_FLAGS` takes a turn out of training.

    OpenAI's fine-tuning files write `weight: 0`; others write the same as `loss`, `train` or `mask`.

    Raises:
        ValueError: a value is not 0, 1, false or true, or two flags contradict each other.
    """
    if message.keys().isdisjoint(LEARN_FLAGS):
        return True
    found = {flag: message[flag] for flag in LEARN_FLAGS if message.get(flag) is not None}
    for flag, value in found.items():
        # `mask: true` may say that a turn is to be masked, or that it counts
        if not isinstance(value, int | float) or value not in (0, 1) or (flag == "mask" and isinstance(value, bool)):
            known = "0 (not learned) or 1" if flag == "mask" else "0 or false (not learned), 1 or true (learned)"
            raise ValueError(f"{flag}: expected {known}, got {value!r}")
    if len({bool(value) for value in found.values()}) > 1:
        raise ValueError(f"{' and '.join(found)} contradict each other; keep the one that is right")
    return all(found.values())


def load_tools(tools: str | Sequence[Mapping[str, Any]] | None) -> list[dict[str, Any]] | None:
    """Tool schemas as the template wants them: a list, or None where there are none.

    Args:
        tools: a list of schemas, the JSON text of one (as rows keep it: Arrow would add nulls, pitfall
            arrow-invents-arguments), or None.

    Raises:
        MessageError: the text is not JSON, or not a list of objects with a function's name.
    """
    if isinstance(tools, str):
        tools = _parsed(None, "tools", tools) if tools.strip() else None
    if not tools:
        return None
    if not isinstance(tools, Sequence) or not all(isinstance(tool, Mapping) for tool in tools):
        raise MessageError(None, "tools", "expected a list of schemas; put a single one between [ and ]")
    _check_json(None, "tools", tools)
    for number, tool in enumerate(tools):
        function = tool.get("function", tool)
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            raise MessageError(None, "tools", f"schema {number} has no function with a name, by which a call names it")
    return [dict(tool) for tool in tools]


def map_text(value: Any, change: Callable[[str], Any]) -> Any:
    """`change` applied to every text inside nested lists and dicts, keys included."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {change(key): map_text(item, change) for key, item in value.items()}
    if isinstance(value, Sequence):
        return [map_text(item, change) for item in value]
    return value


# ---------------------------------------------------------------------------------------------------------- one message
def _checked(index: int, message: Message) -> Message:
    """One message by itself, prepared; `message` is a copy, without keys that are None."""
    for key, value in message.items():
        if key not in FIELDS:
            hint = f"; write {FIELD_HINTS[key]!r}" if key in FIELD_HINTS else f"; known keys: {', '.join(FIELDS)}"
            raise MessageError(index, printable(str(key)), f"the template would drop this key{hint}")
        if isinstance(value, str) and not value.isascii():
            check_whole(index, key, value)
    role = message.get("role")
    if role not in ROLES:
        known = ROLE_HINTS.get(str(role).lower(), str(role).lower())
        hint = f"; write {known!r}" if known in ROLES else f"; roles are {', '.join(ROLES)}"
        raise MessageError(index, "role", f"the template would drop a message with role {role!r}{hint}")
    if index == 0 and role == "assistant":
        raise MessageError(index, "role", "a conversation opens with a system or a user message: there is no prompt")
    calls = message.get("tool_calls")
    if not isinstance(message.get("content"), str) and not (role == "assistant" and calls and "content" not in message):
        found = type(message["content"]).__name__ if "content" in message else "nothing"
        raise MessageError(index, "content", f"expected text, got {found}; the template would render it as empty")
    thought = message.get("reasoning_content")
    if thought is not None and not (role == "assistant" and isinstance(thought, str)):
        raise MessageError(index, "reasoning_content", "only an assistant has it, as text")
    if calls is not None and role != "assistant":
        raise MessageError(index, "tool_calls", "only an assistant calls tools")
    for key in ("tool_call_id", "name"):
        if not isinstance(message.get(key, ""), str):
            raise MessageError(index, key, f"expected text, got {type(message[key]).__name__}")
    flag = next((flag for flag in LEARN_FLAGS if flag in message), None)
    try:
        learned = is_learned(message)
    except ValueError as error:
        raise MessageError(index, flag, str(error)) from None
    if flag and learned and role != "assistant":
        reason = "only an assistant's turns are learned; leave the key out, or train on the text (lesson 08)"
        raise MessageError(index, flag, reason)
    message = {key: value for key, value in message.items() if key not in LEARN_FLAGS}
    message.setdefault("content", "")
    if role == "assistant" and learned:
        _check_thoughts(index, message)
    if calls is not None:
        message["tool_calls"] = _calls(index, calls)
    return message


def _check_thoughts(index: int, message: Message) -> None:
    """At most one thought, whole, before the answer (pitfall half-open-thought)."""
    content, thought = message["content"], message.get("reasoning_content", "").strip()
    if thought.startswith(thinking.OPENER) or thought.endswith(thinking.CLOSER):
        raise MessageError(index, "reasoning_content", "leave the tags out: the template writes them")
    if "think>" not in content:
        return
    block = thinking.leading_block(content)
    if block and thought and block[0].strip():
        reason = "it holds a thought beside the one in reasoning_content; keep one of the two"
    elif thinking.half_open(content):
        reason = "<think> is never closed: the thought was cut off and there is no answer; leave the row out"
    elif thinking.holds_thought(block[1] if block else content):
        reason = "a thought stands behind the beginning of the reply; keep one, before all else, in reasoning_content"
    else:
        return
    raise MessageError(index, "content", reason)


# ---------------------------------------------------------------------------------------------------- calls and results
def _calls(index: int, calls: Any) -> list[dict[str, Any]]:
    """The calls of message `index`, each with its name and its arguments as an object."""
    if not isinstance(calls, Sequence) or isinstance(calls, str):
        raise MessageError(index, "tool_calls", f"expected a list of calls, got {type(calls).__name__}")
    made: list[dict[str, Any]] = []
    for number, call in enumerate(calls):
        function = call.get("function", call) if isinstance(call, Mapping) else None
        where = f"tool_calls[{number}]"
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            raise MessageError(index, where, CALL_FORM)
        arguments = function.get("arguments")
        others = [key for key in function if key not in CALL_KEYS and function[key] is not None]
        if arguments is None and others:
            raise MessageError(index, f"{where}.{others[0]}", "unknown key of a call; name its arguments 'arguments'")
        if isinstance(arguments, str):  # as OpenAI and the course's rows write it
            arguments = _parsed(index, f"{where}.arguments", arguments) if arguments.strip() else {}
        arguments = {} if arguments is None else arguments
        if not isinstance(arguments, Mapping):
            raise MessageError(index, f"{where}.arguments", "expected a JSON object, as a dict or as its text")
        _check_json(index, f"{where}.arguments", arguments)
        check_whole(index, f"{where}.name", function["name"])
        made.append({"type": "function", "function": {"name": function["name"], "arguments": arguments}})
        if call.get("id") not in (None, ""):
            if any(other.get("id") == call["id"] for other in made):
                raise MessageError(index, f"{where}.id", f"two calls of one turn have the id {call['id']!r}")
            made[-1]["id"] = call["id"]
    return made


def _calls_before(done: Sequence[Message]) -> list[dict[str, Any]]:
    """The calls of the last message, if it has any."""
    return (done[-1].get("tool_calls") or []) if done else []


def _in_order_of_calls(done: Sequence[Message], results: Sequence[tuple[int, Message]]) -> list[Message]:
    """The results that answer the calls of the last of `done`, in the order of the calls: templates write no ids."""
    # Matched by id, without one by the tool's name, without either by place (pitfall tool-results-out-of-order).
    calls = _calls_before(done)
    answered: dict[int, Message] = {}  # by the number of the call
    keys = ("tool_call_id", "name")
    if not any("id" in call for call in calls) and len(calls) == 1:
        keys = ("name",)  # which call is meant is clear
    for index, result in sorted(results, key=lambda pair: [key not in pair[1] for key in keys]):  # the surest first
        fitting = list(range(len(calls)))
        for key in keys:
            found = [call.get("id") if key == "tool_call_id" else call["function"]["name"] for call in calls]
            if key in result:
                fitting = [number for number in fitting if found[number] == result[key]]
                if not fitting:
                    known = ", ".join("no id" if name is None else repr(name) for name in found)
                    reason = f"{result[key]!r} is none of the calls that it may answer: {known}"
                    raise MessageError(index, key, reason)
        number = next((number for number in fitting if number not in answered), None)
        if number is None:
            field = next((key for key in keys if key in result), "role")
            raise MessageError(index, field, "its call has a result already; keep one result for each call")
        answered[number] = result
    for number, call in enumerate(calls):
        if number not in answered:
            reason = f"the call of {call['function']['name']} has no result; put a 'tool' message behind the call"
            raise MessageError(results[-1][0] if results else len(done), "role", reason)
    return [answered[number] for number in range(len(calls))]


# --------------------------------------------------------------------------------------------------------------- values
def _parsed(index: int | None, field: str, text: str) -> Any:
    """The value of JSON text."""
    try:
        return STRICT.decode(text)
    except ValueError as error:
        raise MessageError(index, field, f"not JSON: {error}") from None


def _check_json(index: int | None, field: str, value: Any) -> None:
    """A MessageError where a value cannot be written as JSON, or not as UTF-8."""
    level: list[Any] = [value]
    for _ in range(MAX_DEPTH):
        for outer in level:
            if isinstance(outer, Mapping) and not all(isinstance(key, str) for key in outer):
                raise MessageError(index, field, "expected text as every key, as in JSON")
        inside = (outer.values() if isinstance(outer, Mapping) else outer for outer in level)
        level = [item for items in inside for item in items if isinstance(item, Mapping | list | tuple)]
    if level:
        raise MessageError(index, field, f"nested deeper than {MAX_DEPTH}; keep such a value as text")
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise MessageError(index, field, f"not JSON: {error}") from None
    check_whole(index, field, text)


def check_whole(index: int | None, field: str, text: str) -> None:
    """A MessageError where a text holds half of a character, as a cut emoji leaves it."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        half = f"half of a character stands at place {error.start} (\\u{ord(text[error.start]):04x})"
        raise MessageError(index, field, f"{half}, as a cut emoji leaves it; remove it") from None
