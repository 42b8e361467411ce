"""Chat messages: validate them, render them through the tokenizer's own template, keep control tokens out of them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from course_utils.core.errors import CourseError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Message = dict[str, Any]

ROLES = ("system", "user", "assistant", "tool")
FIELDS = ("role", "content", "reasoning_content", "tool_calls", "tool_call_id", "name")
ROLE_HINTS = dict.fromkeys(("gpt", "model", "function_call"), "assistant") | {"human": "user"}
ROLE_HINTS |= dict.fromkeys(("observation", "function"), "tool")
FIELD_HINTS = {"reasoning": "reasoning_content", "thinking": "reasoning_content", "value": "content", "from": "role"}

NO_PLACE = "this tokenizer's template has no place for {}; leave such rows out, or take a model that knows them"
ZERO_WIDTH = "\u200b"


class MessageError(CourseError):
    """A message that the template would drop, garble or refuse.

    Attributes:
        index: which message of the list, from 0 (None: the list as a whole).
        field: which key of that message (None: the message as a whole).
        reason: what is wrong and what to write instead.
    """

    def __init__(self, index: int | None, field: str | None, reason: str) -> None:
        self.index, self.field, self.reason = index, field, reason
        where = "messages" if index is None else f"messages[{index}]"
        super().__init__(f"{where}{f'.{field}' if field else ''}: {reason}")


def validate(messages: Sequence[Mapping[str, Any]]) -> None:
    """Check everything that a chat template drops silently (pitfall template-drops-content).

    A key whose value is None counts as absent, because Arrow fills columns that way.

    Args:
        messages: dicts with `role` and `content`, and where they apply `reasoning_content`, `tool_calls`,
            `tool_call_id`, `name`.

    Raises:
        MessageError: with the index, the field and what to write instead.
    """
    if not isinstance(messages, Sequence) or isinstance(messages, str) or not messages:
        raise MessageError(None, None, "expected a list with at least one message")
    open_calls = False
    for index, raw in enumerate(messages):
        if not isinstance(raw, Mapping):
            raise MessageError(index, None, f"expected a dict with role and content, got {type(raw).__name__}")
        message = {key: value for key, value in raw.items() if value is not None}
        for key in message:
            if key not in FIELDS:
                hint = f"; write {FIELD_HINTS[key]!r}" if key in FIELD_HINTS else f"; known keys: {', '.join(FIELDS)}"
                raise MessageError(index, str(key), f"the template would drop this key{hint}")
        role = message.get("role")
        if role not in ROLES:
            known = ROLE_HINTS.get(str(role).lower(), str(role).lower())
            hint = f"; write {known!r}" if known in ROLES else f"; roles are {', '.join(ROLES)}"
            raise MessageError(index, "role", f"the template would drop a message with role {role!r}{hint}")
        if index == 0 and role == "assistant":
            raise MessageError(
                index, "role", "a conversation opens with a system or a user message: there is no prompt"
            )
        calls = message.get("tool_calls")
        if not isinstance(message.get("content"), str) and not (
            role == "assistant" and calls and "content" not in message
        ):
            found = type(message["content"]).__name__ if "content" in message else "nothing"
            raise MessageError(index, "content", f"expected text, got {found}; the template would render it as empty")
        if "reasoning_content" in message and not (
            role == "assistant" and isinstance(message["reasoning_content"], str)
        ):
            raise MessageError(index, "reasoning_content", "only an assistant has it, as text")
        if calls is not None:
            if role != "assistant":
                raise MessageError(index, "tool_calls", "only an assistant calls tools")
            _validate_calls(index, calls)
        if role == "tool" and not open_calls:
            raise MessageError(index, "role", "a tool result must follow an assistant's tool_calls or another result")
        if role != "tool" and open_calls and messages[index - 1]["role"] == "assistant":
            raise MessageError(
                index, "role", "the tool call before it has no result; put a 'tool' message between them"
            )
        open_calls = bool(calls) if role == "assistant" else role == "tool" and open_calls


def _validate_calls(index: int, calls: Any) -> None:
    """Each call needs a name and arguments that are JSON; else a MessageError for message `index`."""
    if not isinstance(calls, Sequence) or isinstance(calls, str):
        raise MessageError(index, "tool_calls", f"expected a list of calls, got {type(calls).__name__}")
    for number, call in enumerate(calls):
        function = call.get("function", call) if isinstance(call, Mapping) else None
        where = f"tool_calls[{number}]"
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            raise MessageError(index, where, 'expected {"type": "function", "function": {"name": …, "arguments": …}}')
        arguments = function.get("arguments")
        if isinstance(arguments, str):
            try:
                arguments = json.loads(arguments)
            except json.JSONDecodeError as error:
                raise MessageError(index, f"{where}.arguments", f"not JSON: {error}") from None
        if not isinstance(arguments, Mapping):
            raise MessageError(index, f"{where}.arguments", "expected a JSON object, as a dict or as its text")


def load_tools(tools: str | Sequence[Mapping[str, Any]] | None) -> list[dict[str, Any]] | None:
    """Tool schemas as the template wants them: a list, or None where there are none.

    Args:
        tools: a list of schemas, the JSON text of one (as rows keep it: Arrow would add nulls, pitfall
            arrow-invents-arguments), or None.

    Raises:
        MessageError: the text is not JSON, or not a list of objects with a function's name.
    """
    if isinstance(tools, str):
        try:
            tools = json.loads(tools) if tools.strip() else None
        except json.JSONDecodeError as error:
            raise MessageError(None, "tools", f"not JSON: {error}") from None
    if not tools:
        return None
    if not isinstance(tools, Sequence) or not all(isinstance(tool, Mapping) for tool in tools):
        raise MessageError(None, "tools", "expected a list of schemas; put a single one between [ and ]")
    for number, tool in enumerate(tools):
        function = tool.get("function", tool)
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            raise MessageError(None, "tools", f"schema {number} has no function with a name, by which a call names it")
    return [dict(tool) for tool in tools]


def render(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Mapping[str, Any]],
    *,
    tools: str | Sequence[Mapping[str, Any]] | None = None,
    enable_thinking: bool | None = None,
    add_generation_prompt: bool = False,
) -> str:
    """Render messages through the tokenizer's own template, and make sure that nothing was lost on the way.

    Args:
        tokenizer: any tokenizer with a chat template.
        messages: see `validate`.
        tools: tool schemas, as a list or as JSON text.
        enable_thinking: Qwen3's switch; None leaves it unset.
        add_generation_prompt: end with the opening of an assistant turn, as inference does.

    Returns:
        The text that the model sees.

    Raises:
        MessageError: for invalid messages, and where the template dropped a message's content, its tool calls, the
            tools, or the thinking of a final assistant turn (pitfall template-drops-content: SmolLM2's template
            knows neither).
    """
    validate(messages)
    clean = [{key: value for key, value in message.items() if value is not None} for message in messages]
    schemas = load_tools(tools)
    text = render_valid(
        tokenizer, clean, schemas, enable_thinking=enable_thinking, add_generation_prompt=add_generation_prompt
    )
    require_whole(text, clean, schemas)
    return text


def render_valid(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Message],
    schemas: list[dict[str, Any]] | None,
    *,
    enable_thinking: bool | None = None,
    add_generation_prompt: bool = False,
) -> str:
    """`render` without its checks, for callers that have validated the messages and render parts of them many times.

    Args:
        tokenizer, enable_thinking, add_generation_prompt: see `render`.
        messages: valid ones, without keys that are None.
        schemas: from `load_tools`.
    """
    # Passed only when set: a template may ask whether the switch `is defined`.
    switch = {} if enable_thinking is None else {"enable_thinking": enable_thinking}
    text: str = tokenizer.apply_chat_template(
        list(messages), tools=schemas, tokenize=False, add_generation_prompt=add_generation_prompt, **switch
    )
    return text


def require_whole(text: str, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] | None) -> None:
    """Raise a MessageError for the first thing of `messages` or `tools` that is not in the rendered `text`.

    See pitfall template-drops-content.
    """
    for index, message in enumerate(messages):
        if (message.get("content") or "").strip() not in text:
            raise MessageError(
                index, "content", "the template dropped part of it; thinking belongs into reasoning_content"
            )
        for call in message.get("tool_calls") or ():
            if call.get("function", call)["name"] not in text:
                raise MessageError(index, "tool_calls", NO_PLACE.format("tool calls"))
        thinking = (message.get("reasoning_content") or "").strip()
        # Qwen3's template drops the thinking of earlier turns on purpose; that of the final turn must stay.
        if index == len(messages) - 1 and thinking not in text:
            raise MessageError(index, "reasoning_content", NO_PLACE.format("thinking"))
    for tool in tools or ():
        if tool.get("function", tool).get("name", "") not in text:
            raise MessageError(None, "tools", NO_PLACE.format("tools"))


PartKind = Literal["template", "role", "tools", "thinking", "content"]

PRIVATE_USE = range(0xF0000, 0xFFFFD)  # characters that Unicode gives no meaning


@dataclass(frozen=True)
class Part:
    """A stretch of a rendered conversation.

    Attributes:
        kind: who wrote it: the "template"; the "role" of a turn; "tools" (schemas, calls and results); "thinking";
            "content".
        text: the stretch as it stands in the rendering.
    """

    kind: PartKind
    text: str


def parts(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Mapping[str, Any]],
    *,
    tools: str | Sequence[Mapping[str, Any]] | None = None,
    enable_thinking: bool | None = None,
    add_generation_prompt: bool = False,
) -> list[Part]:
    """`render`, taken apart: which stretch of the text comes from where. For templates in the ChatML format.

    Args:
        tokenizer, messages, tools, enable_thinking, add_generation_prompt: see `render`.

    Returns:
        Parts that joined are what `render` returns.

    Raises:
        MessageError: as `render`, and where the template looks into a content and decides by it.
    """
    options = {"enable_thinking": enable_thinking, "add_generation_prompt": add_generation_prompt}
    plain = render(tokenizer, messages, tools=tools, **options)
    begin = {kind: chr(code) for kind, code in zip(("tools", "thinking", "content"), PRIVATE_USE, strict=False)}
    end = chr(PRIVATE_USE[-1])
    # The template is given the same messages with their texts between marks, which then stand in the rendering.
    marked = []
    for message in messages:
        kinds = {"content": "tools" if message["role"] == "tool" else "content", "reasoning_content": "thinking"}
        texts = {key: _between(message[key], begin[kind], end) for key, kind in kinds.items() if message.get(key)}
        marked.append({key: value for key, value in message.items() if value is not None} | texts)
    text = render_valid(tokenizer, marked, load_tools(tools), **options)
    found: list[Part] = []
    role = ""
    pattern = re.compile(
        rf"(?P<mark>[{''.join(begin.values())}])(?P<text>.*?){end}"
        r"|(?<=<\|im_start\|>)(?P<role>\w+)|(?<=<tools>\n)(?P<schemas>.*?)(?=\n</tools>)"
        r"|(?<=<tool_call>\n)(?P<call>.*?)(?=\n</tool_call>)",
        re.DOTALL,
    )
    done = 0
    for match in pattern.finditer(text):
        if match["call"] and role != "assistant":
            continue  # the template's own words on how to call
        kind: PartKind = next((kind for kind, mark in begin.items() if mark == match["mark"]), "tools")
        if match["role"]:
            kind, role = "role", match["role"]
        found += [Part("template", text[done : match.start()]), Part(kind, match["text"] or match.group())]
        done = match.end()
    found = [part for part in (*found, Part("template", text[done:])) if part.text]
    if "".join(part.text for part in found) != plain:
        raise MessageError(
            None,
            None,
            "its parts cannot be told apart: the template decides by a content, or one holds U+F0000 to U+FFFFC",
        )
    return found


def _between(text: str, begin: str, end: str) -> str:
    """`text` with marks around it, inside of its edge white space (a template may strip that)."""
    core = text.strip()
    return text.replace(core, begin + core + end, 1) if core else text


@dataclass(frozen=True)
class SpecialToken:
    """One token that the tokenizer matches before any byte-pair merge.

    Attributes:
        text: how it is written.
        id: its id.
        special: True where `skip_special_tokens=True` removes it from decoded text.
        role: what it is for.
    """

    text: str
    id: int
    special: bool
    role: str


TOKEN_ROLES = {
    "<|endoftext|>": "end of a document; padding",
    "<|im_start|>": "opens a turn",
    "<|im_end|>": "closes a turn; generation stops here",
    "<think>": "opens the thinking",
    "</think>": "closes the thinking",
    "<tool_call>": "opens a tool call",
    "</tool_call>": "closes a tool call",
    "<tool_response>": "opens a tool's result",
    "</tool_response>": "closes a tool's result",
}
TOKEN_FAMILIES = {
    "code: fill in the middle": ("fim",),
    "images": ("vision", "image"),
    "videos": ("video",),
    "places in an image": ("box", "quad", "object"),
    "code: files of a repository": ("repo", "file"),
    "code: pre-training metadata": ("gh_", "issue", "jupyter", "empty_output"),
}


def special_tokens(tokenizer: PreTrainedTokenizerBase) -> list[SpecialToken]:
    """Every added token of the tokenizer, in the order of the ids, with what it is for."""
    marked = set(tokenizer.all_special_tokens)
    added = tokenizer.added_tokens_decoder
    tokens = []
    for text, token_id in sorted(tokenizer.get_added_vocab().items(), key=lambda item: item[1]):
        family = (use for use, parts in TOKEN_FAMILIES.items() if any(part in text for part in parts))
        role = TOKEN_ROLES.get(text) or next(family, "other")
        special = text in marked or (token_id in added and added[token_id].special)
        tokens.append(SpecialToken(text, token_id, special, role))
    return tokens


def neutralise(text: str, tokenizer: PreTrainedTokenizerBase) -> str:
    """Break every control token in `text` with U+200B after its first character (pitfall forged-control-tokens).

    The text looks the same to a reader and never becomes a control token. A U+200B that was there before is doubled,
    so that `restore` can tell the two apart. `split_special_tokens=True` would not do: it leaves `<think>` whole.

    Args:
        text: text from outside: a user's turn, a tool's result, a document.
        tokenizer: whose added tokens (`get_added_vocab()`) are broken.

    Returns:
        The text without any of the tokenizer's added tokens.
    """
    return neutraliser(tokenizer)(text)


def neutraliser(tokenizer: PreTrainedTokenizerBase) -> Callable[[str], str]:
    """`neutralise` for many texts: a function of the text, made from the tokenizer's added tokens once."""
    rest_after: dict[str, list[str]] = {}  # of every token, by its first character
    for token in tokenizer.get_added_vocab():
        if len(token) > 1:
            rest_after.setdefault(token[0], []).append(re.escape(token[1:]))
    # Only the first character is matched, so tokens that overlap are found, too; and a pattern that begins with a
    # character is searched for quickly.
    openings = [f"{re.escape(first)}(?={'|'.join(rests)})" for first, rests in rest_after.items()]
    pattern = re.compile("|".join([*openings, ZERO_WIDTH]))
    return lambda text: pattern.sub(lambda match: match.group() + ZERO_WIDTH, text)


def restore(text: str) -> str:
    """Undo `neutralise`: a single U+200B goes, a doubled one becomes one again."""
    return re.sub(f"{ZERO_WIDTH}({ZERO_WIDTH}?)", r"\1", text)
