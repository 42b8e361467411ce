"""Rows of Alpaca, ShareGPT and OpenAI files into the course's rows (C3-C9), read as LLaMA-Factory 0.9.5 reads them.

Chats, preferences (`ranking`), KTO (`kto_tag`) and pretraining text; images, videos and audios beside any chat.
Source: `llamafactory/data/converter.py`. Where that drops a row with a warning, reads it as another kind or ends in a
bare KeyError (pitfall registry-silence), the row's fault is noted here with its field, and reading goes on to find
the others.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from course_utils.core.strict_json import STRICT
from course_utils.data import unread
from course_utils.data.faults import out_of_order, uneven_media
from course_utils.data.records import DataError, Fault, Row, RowReader, short
from course_utils.data.registry import DEFAULT_TAGS, REGISTRY, TURN_TEXTS, Layout, path_inside
from course_utils.data.rows import MEDIA, NOT_UTF8, REPLIES, half_character, weighed_turn
from course_utils.text import chat, messages, thinking
from course_utils.text.messages import LEARN_FLAGS

# What Qwen's template writes between the results of parallel calls. ShareGPT wants the roles by turns, so such a file
# holds them as one observation; LLaMA-Factory's OpenAI converter joins them so, too.
BETWEEN_RESULTS = "\n</tool_response>\n<tool_response>\n"
LOST_THINKING = {key for key, meant in messages.FIELD_HINTS.items() if meant == "reasoning_content"}


def convert(row: Row, layout: Layout, folder: Path) -> tuple[Row, list[Fault]]:
    """A row of a file as a row of the course's schema (without `source`), and its faults, with which it is of no use.

    Images, videos and audios are named relative to the data folder; they need not be there.
    """
    reader = _LayoutReader(row, layout=layout, folder=folder)
    return reader.read(), reader.faults


@dataclass(kw_only=True)
class _LayoutReader(RowReader):
    """Reads one row by a layout. After a fault a value that does no harm goes on in its place."""

    layout: Layout
    folder: Path

    def read(self) -> Row:
        """The row, whatever its kind."""
        layout = self.layout
        out: Row = {"messages": []} | self._own()
        if layout.kind == "text":
            return out | {"text": self._required("prompt")}
        out["messages"] = self._alpaca() if layout.formatting == "alpaca" else self._conversation()
        if layout.kind == "preference":
            out |= {part: [self._turn_reply(part)] for part in REPLIES}
        if layout.kind == "kto":
            column = str(layout.columns["kto_tag"])
            out["label"] = label = self.row.get(column)
            if not isinstance(label, bool):  # LLaMA-Factory drops the row
                self.fault(column, f"expected true (a good reply) or false, without quotes; found {short(label)}.")
        return out | self._tools() | self._media(out)

    # ------------------------------------------------------------------------------------------------- the formattings
    def _alpaca(self) -> list[Row]:
        """instruction, input, output, system, history; the prompt is instruction and input on lines of their own."""
        columns = self.layout.columns
        messages = self._system()
        history = self.row.get(columns["history"]) or []
        if not isinstance(history, list):
            self.fault(str(columns["history"]), f"expected a list, found {short(history)}.")
            history = []
        for index, pair in enumerate(history):
            field = f"{columns['history']}[{index}]"
            if not isinstance(pair, list) or len(pair) != 2:
                self.fault(field, f"expected a pair [prompt, reply], found {short(pair)}.")
                continue
            messages.append({"role": "user", "content": self._text(pair[0], f"{field}[0]")})
            messages.append(self._reply(self._text(pair[1], f"{field}[1]"), f"{field}[1]"))
        asked = [self._required("prompt")]
        query = columns["query"]
        if query is not None and self.row.get(query) is not None:
            asked.append(self._text(self.row[query], query))
        messages.append({"role": "user", "content": "\n".join(part for part in asked if part)})
        if self.layout.kind == "preference":
            return messages
        return [*messages, self._reply(self._required("response"), columns["response"])]

    def _conversation(self) -> list[Row]:
        """A list of turns under the tags of the entry; OpenAI's own keys (tool_calls, reasoning_content) are kept."""
        column = str(self.layout.columns["messages"])
        turns = self.row.get(column)
        if not isinstance(turns, list) or not turns:
            self.fault(column, f"expected a list of turns, found {short(turns)}.")
            return []
        before = len(self.faults)
        messages = []
        for index, turn in enumerate(turns):
            message = self._message(turn, f"{column}[{index}]")
            results = message["content"].split(BETWEEN_RESULTS) if message["role"] == "tool" else [message["content"]]
            messages += [message | {"content": result} for result in results]
        if len(self.faults) > before:
            return []  # what is due after a turn that cannot be read is not known
        if messages[0]["role"] != "system":
            messages = self._system() + messages
        if fault := out_of_order(messages, column, is_prompt=self.layout.kind == "preference"):
            self.fault(*fault)
        return messages

    def _turn_reply(self, part: str) -> Row:
        """The reply that a column holds: in Alpaca a text, else a turn of the assistant, or a call."""
        column = str(self.layout.columns[part])
        if self.layout.formatting == "alpaca":
            return self._reply(self._required(part), column)
        message = self._message(self.row.get(column), column)
        if message["role"] not in ("assistant", ""):
            self.fault(column, f"expected an assistant turn, found a turn of {message['role']}.")
        if "weight" in message:
            self.fault(column, "says that it is not to be learned, but both replies of a preference are. Mend either.")
        return message

    def _message(self, turn: Any, field: str) -> Row:
        """One turn, its role by the entry's tags, as a message; its role is "" where that is not known."""
        if not isinstance(turn, dict):
            self.fault(field, f"expected an object with a role and a content, found {short(turn)}.")
            return {"role": "", "content": ""}
        role_tag, content_tag = str(self.layout.tags["role_tag"]), str(self.layout.tags["content_tag"])
        found = turn.get(role_tag)
        role = self.layout.roles.get(found, "") if isinstance(found, str) else ""
        if not role:
            reason = f"{short(found)} is no role here; expected one of {', '.join(self.layout.roles)}."
            if self.layout.tags == DEFAULT_TAGS:
                reason += f" Or name the roles of this file in the tags of its entry in {REGISTRY} (user_tag, …)."
            self.fault(f"{field}.{role_tag}", reason)
            return {"role": "", "content": ""}
        read = self._called if role == "function" else self._turn
        message = read(turn, role, content_tag, field)
        try:
            return weighed_turn(message | {key: turn[key] for key in LEARN_FLAGS if key in turn}, field)
        except DataError as error:
            self.fault(*str(error).split(": ", 1))
        return message

    def _turn(self, turn: Row, role: str, content_tag: str, field: str) -> Row:
        """A turn whose role is known."""
        message, calls = self._texts(turn, role, content_tag, field), turn.get("tool_calls")
        if calls and (role != "assistant" or not isinstance(calls, list)):
            found = f"{short(calls)} on {role}"
            self.fault(f"{field}.tool_calls", f"expected a list on an assistant turn, found {found}.")
        elif calls:
            message["tool_calls"] = [self._call(call, f"{field}.tool_calls[{i}]") for i, call in enumerate(calls)]
        return self._with_thinking(message, f"{field}.{content_tag}") if role == "assistant" else message

    def _texts(self, turn: Row, role: str, content_tag: str, field: str) -> Row:
        """What a turn says, and all else of it that is text."""
        for key in sorted(turn.keys() & LOST_THINKING):
            self.fault(f"{field}.{key}", "this thinking would be lost; name the key reasoning_content.")
        content = turn.get(content_tag)
        if content is None and turn.get("tool_calls"):  # OpenAI writes null beside a call
            content = ""
        message = {"role": role, "content": self._text(content, f"{field}.{content_tag}")}
        named = [key for key in TURN_TEXTS if turn.get(key) is not None]
        return message | {key: self._text(turn[key], f"{field}.{key}") for key in named}

    # -------------------------------------------------------------------------------------------------- parts of a row
    def _own(self) -> Row:
        """The row's own `id`, as text, and its own `tags`; a row without has none."""
        own, tags = self.row.get("id"), self.row.get("tags")
        tags = [tags] if tags and isinstance(tags, str) else tags
        own = int(own) if isinstance(own, float) and own.is_integer() else own
        if tags and not (isinstance(tags, list) and all(isinstance(tag, str) for tag in tags)):
            self.fault("tags", f"expected a list of strings, found {short(tags)}.")
        if isinstance(own, bool) or not isinstance(own, str | int | None):
            self.fault("id", f"expected text or a whole number, found {short(own)}.")
        self.faults += unread.flags(self.row, self.layout.read_columns)
        return {"tags": tags or []} | ({} if own in (None, "") else {"id": str(own)})

    def _system(self) -> list[Row]:
        """The system turn that a column of the row holds, if any."""
        column = self.layout.columns["system"]
        text = self.row.get(column)
        return [{"role": "system", "content": self._text(text, str(column))}] if text else []

    def _media(self, out: Row) -> Row:
        """Images, videos and audios; all three are counted where the entry names one of them, as in LLaMA-Factory."""
        columns = self.layout.columns
        if not any(columns[media] for media in MEDIA):
            return {}
        found = {media: self._files(columns[media]) for media in MEDIA}
        if self.faults:
            return {}  # the turns may be missing
        for media, reason in uneven_media(out, found):
            self.fault(columns[media] or media, f"{reason}; name the column of each in `columns`.")
        return {media: files for media, files in found.items() if files}

    def _files(self, column: str | None) -> list[str]:
        """The file names that a column holds: a list, or one name. None, "" and [] are none."""
        value = self.row.get(column)
        files = value if isinstance(value, list) else [value] if value not in (None, "") else []
        for index, name in enumerate(files):
            field = f"{column}[{index}]"
            if not isinstance(name, str) or not name:
                self.fault(field, f"expected the name of a file, found {short(name)}.")
                continue
            try:
                path_inside(self.folder, name, field)
            except DataError as error:
                self.fault(field, str(error).removeprefix(f"{field}: "))
        return files

    def _tools(self) -> Row:
        """The tools of a row, if any, as one JSON string, each as {"type": "function", "function": ...}."""
        column = self.layout.columns["tools"]
        tools = self.row.get(column)
        if isinstance(tools, str) and tools:
            tools = self._parsed(tools, str(column))
        if not tools:
            return {}
        if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
            self.fault(str(column), f"expected a list of tool schemas, found {short(tools)}.")
            return {}
        wrapped = [tool if tool.get("type") == "function" else {"type": "function", "function": tool} for tool in tools]
        try:
            chat.load_tools(wrapped)
        except chat.MessageError as error:
            self.fault(str(column), f"{error.reason}.")
        return {"tools": json.dumps(wrapped, ensure_ascii=False)}

    def _called(self, turn: Row, _: str, content_tag: str, field: str) -> Row:
        """ShareGPT's function_call turn: JSON text of a call or of a list of calls; thinking may stand before it."""
        before, message = len(self.faults), self._texts(turn, "assistant", content_tag, field)
        field = f"{field}.{content_tag}"
        if not message["content"].lstrip().startswith(("{", "[")):
            message = self._with_thinking(message, field)
        found = self._parsed(message["content"], field) if len(self.faults) == before else None
        if len(self.faults) > before:
            return message
        calls = found if isinstance(found, list) and found else [found]
        return message | {"content": "", "tool_calls": [self._call({"function": call}, field) for call in calls]}

    def _call(self, call: Any, field: str) -> Row:
        """One tool call with its arguments as a JSON string (pitfall arrow-invents-arguments)."""
        function = call.get("function") if isinstance(call, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            self.fault(field, f"expected a call with a function name, found {short(call)}.")
            return {}
        keys = [key for part in (call, function) for key, value in part.items() if value is not None]
        other = [key for key in keys if key not in ("name", "description", "type", "id", "index", "function")]
        if other and "arguments" not in function:
            self.fault(f"{field}.{other[0]}", "this would be lost: write what the function gets as its arguments.")
        arguments = function.get("arguments", {})
        if not isinstance(arguments, str):
            arguments = json.dumps(arguments, ensure_ascii=False)
        arguments = arguments if arguments.strip() else "{}"
        self._parsed(arguments, f"{field}.arguments")
        done: Row = {"type": "function", "function": {"name": function["name"], "arguments": arguments}}
        return done | ({"id": self._text(call["id"], f"{field}.id")} if call.get("id") is not None else {})

    # ---------------------------------------------------------------------------------------------------------- values
    def _required(self, part: str) -> str:
        """The text of a column that every row has."""
        column = str(self.layout.columns[part])
        if column not in self.row:
            self.fault(column, f"the field {column!r} is missing. The row has: {', '.join(self.row)}.")
            return ""
        return self._text(self.row[column], column)

    def _reply(self, text: str, field: str | None) -> Row:
        return self._with_thinking({"role": "assistant", "content": text}, str(field))

    def _with_thinking(self, message: Row, field: str) -> Row:
        """A reply with its leading <think> block, as LLaMA-Factory's files write it, in the key of its own."""
        if thinking.OPENER not in message["content"] and thinking.CLOSER not in message["content"]:
            return message
        if thinking.half_open(message["content"]):
            self.fault(field, "opens <think> and never closes it: the thought was cut off. Leave the row out.")
        block = None if "reasoning_content" in message else thinking.leading_block(message["content"])
        if block is None:
            return message
        thought, answer = block
        return message | {"content": answer} | ({"reasoning_content": thought} if thought.strip() else {})

    def _text(self, value: Any, field: str) -> str:
        if not isinstance(value, str):
            mend = "Put it in quotes." if isinstance(value, int | float) else "Write it as one text."
            self.fault(field, f"expected text, found {short(value)}. {mend}")
            return ""
        return value

    def _parsed(self, value: Any, field: str) -> Any:
        """The value of JSON text; None, and a fault, where it is none."""
        before, text = len(self.faults), self._text(value, field)
        try:
            found = STRICT.decode(text) if len(self.faults) == before else None
            if "\\u" in text and half_character(found) is not None:
                self.fault(field, f"{NOT_UTF8} It stands in {short(text)}.")
            return found
        except ValueError as error:  # no JSON, NaN, a key that stands twice, too many brackets
            self.fault(field, f"expected JSON text, found {short(text)}: {error}")
        return None
