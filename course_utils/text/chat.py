"""Chat messages: render them through the tokenizer's own template, keep control tokens out of them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, Any, Literal
from weakref import WeakKeyDictionary

from course_utils.text.messages import Message, MessageError, load_tools, map_text, prepared
from course_utils.text.messages import validate as validate

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

NO_PLACE = "this tokenizer's template has no place for {}; leave such rows out, or take a model that knows them"
DROPPED = "the template dropped part of it; thinking belongs into reasoning_content; else leave such rows out"
REFUSED = "change the messages so (join turns, move a system's text into the question), or take another model"
NO_TEMPLATE = "this tokenizer has no chat template; take an instruct model's, or set tokenizer.chat_template"
ZERO_WIDTH = "\u200b"

_Due = tuple[str, str, tuple[str, ...]]

# Of each tokenizer: by template, the shapes of conversations without tags of which it keeps every part.
_keeps: WeakKeyDictionary[PreTrainedTokenizerBase, set[Any]] = WeakKeyDictionary()


def render(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Mapping[str, Any]],
    *,
    tools: str | Sequence[Mapping[str, Any]] | None = None,
    enable_thinking: bool | None = None,
    add_generation_prompt: bool = False,
) -> str:
    """The text that the model sees: messages through the tokenizer's own template, which must have lost nothing.

    Args:
        tokenizer: any tokenizer with a chat template.
        messages: see `validate`.
        tools: tool schemas, as a list or as JSON text.
        enable_thinking: Qwen3's switch; None leaves it unset.
        add_generation_prompt: end with the opening of an assistant turn, as inference does.

    Raises:
        MessageError: for invalid messages, and where the template dropped a message's content, its tool calls, the
            tools, or the thinking of a final assistant turn (pitfall template-drops-content: SmolLM2's template
            knows neither).
    """
    ready, schemas = prepared(messages), load_tools(tools)
    text = render_valid(
        tokenizer, ready, schemas, enable_thinking=enable_thinking, add_generation_prompt=add_generation_prompt
    )
    require_whole(tokenizer, text, ready, schemas, enable_thinking=enable_thinking)
    return text


def render_valid(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Message],
    schemas: list[dict[str, Any]] | None,
    *,
    enable_thinking: bool | None = None,
    add_generation_prompt: bool = False,
) -> str:
    """`render` without its checks, for callers that render parts of the same messages many times: these are from
    `messages.prepared`, the `schemas` from `load_tools`.

    Raises:
        MessageError: the template refuses the messages, in its own words (pitfall template-raises).
    """
    if not tokenizer.chat_template:
        raise MessageError(None, None, NO_TEMPLATE)
    options: dict[str, Any] = {"tools": schemas, "tokenize": False, "add_generation_prompt": add_generation_prompt}
    if enable_thinking is not None:  # a template may ask whether the switch `is defined`
        options["enable_thinking"] = enable_thinking

    def rendered(end: int, written: Callable[[Message], Message] = dict) -> str:
        return tokenizer.apply_chat_template([written(message) for message in messages[:end]], **options)

    try:
        return rendered(len(messages))
    except Exception as error:  # whatever a template does: jinja2's errors, a TypeError of what it computes
        if any(message.get("tool_calls") for message in messages):
            with suppress(Exception):
                return rendered(len(messages), _with_arguments_as_text)
        for at_fault in range(len(messages) - 1, -1, -1):  # the message behind the most that can be rendered
            with suppress(Exception):
                rendered(at_fault)
                break
        reason = f"this tokenizer's template refuses it: {str(error).rstrip('.')}; {REFUSED}"
        raise MessageError(at_fault, None, reason) from error


def _with_arguments_as_text(message: Message) -> Message:
    """DeepSeek-V3's template joins the arguments of a call to its text."""
    if "tool_calls" not in message:
        return message
    functions = [call["function"] for call in message["tool_calls"]]
    written = [each | {"arguments": json.dumps(each["arguments"], ensure_ascii=False)} for each in functions]
    return message | {"tool_calls": [{"type": "function", "function": function} for function in written]}


def require_whole(
    tokenizer: PreTrainedTokenizerBase,
    text: str,
    messages: Sequence[Message],
    tools: list[dict[str, Any]] | None,
    *,
    enable_thinking: bool | None = None,
) -> None:
    """Raise a MessageError for the first thing of `messages` or `tools` that is not in their `text` by `render_valid`.

    A content may stand in the text by chance (pitfall substring-check), so the same messages are rendered with marks
    around theirs, which no text holds. Of messages without calls and tags once for every order of roles: there is
    nothing in them that a template could look for.
    """
    for index, message in enumerate(messages):
        if message["content"].strip() not in text:
            raise MessageError(index, "content", DROPPED)
    shape = tuple((message["role"], bool(message["content"].strip()), len(message)) for message in messages)
    plain = not tools and not any("<" in message["content"] or len(message) > 2 for message in messages)
    shapes, key = _keeps.setdefault(tokenizer, set()), (str(tokenizer.chat_template), shape, enable_thinking)
    if plain and key in shapes:
        return
    marks = (f"{chr(PRIVATE_USE[0])}{number}{chr(PRIVATE_USE[1])}" for number in count())
    due: list[tuple[MessageError, tuple[str, ...]]] = []  # what must stand in the marked text one behind the other
    marked = []
    for index, message in enumerate(messages):
        changed, parts = _marked(message, marks, is_last=index == len(messages) - 1)
        marked.append(changed)
        due += [(MessageError(index, field, reason), part) for field, reason, part in parts]
    schemas = []
    for tool in tools or ():
        function = tool.get("function", tool)
        named = function | {"name": function["name"] + (mark := next(marks))}
        schemas.append(tool | {"function": named} if "function" in tool else named)
        due.append((MessageError(None, "tools", NO_PLACE.format("tools")), (mark,)))
    try:
        found = render_valid(tokenizer, marked, schemas or None, enable_thinking=enable_thinking)
    except MessageError:  # a template that takes these messages only as they are: no more can be told
        return
    for error, pieces in due:
        place = 0
        for piece in pieces:
            place = found.find(piece, place)
            if place < 0:
                raise error
    if plain:
        shapes.add(key)


def _marked(message: Message, marks: Iterator[str], *, is_last: bool) -> tuple[Message, list[_Due]]:
    """A message with marks in its parts; and of each part that may not be lost the field, the reason, its pieces."""
    due: list[_Due] = []
    changed = dict(message)
    for field, reason in (("content", DROPPED), ("reasoning_content", NO_PLACE.format("thinking"))):
        if core := message.get(field, "").strip():
            pieces = (next(marks), core, next(marks))
            changed[field] = message[field].replace(core, "".join(pieces), 1)
            # Qwen3's template drops the thinking of earlier turns on purpose; that of the final turn must stay.
            if field == "content" or is_last:
                due.append((field, reason, pieces))
    calls = []
    for call in message.get("tool_calls") or ():
        mark, inner = next(marks), next(marks)
        arguments = {
            key: map_text(value, lambda text, mark=inner: text + mark)
            for key, value in call["function"]["arguments"].items()
        }
        calls.append(call | {"function": {"name": call["function"]["name"] + mark, "arguments": arguments}})
        due.append(("tool_calls", NO_PLACE.format("tool calls"), (mark,)))
        if inner in json.dumps(arguments, ensure_ascii=False):
            due.append(("tool_calls", NO_PLACE.format("a call's arguments"), (inner,)))
    return changed | ({"tool_calls": calls} if calls else {}), due


PartKind = Literal["template", "role", "tools", "thinking", "content"]

PRIVATE_USE = range(0xF0000, 0xFFFFD)  # characters that Unicode gives no meaning


@dataclass(frozen=True)
class Part:
    """A stretch of a rendered conversation."""

    kind: PartKind  # who wrote it; "role" is that of a turn, "tools" are schemas, calls and results
    text: str  # as it stands in the rendering


def parts(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Mapping[str, Any]],
    *,
    tools: str | Sequence[Mapping[str, Any]] | None = None,
    enable_thinking: bool | None = None,
    add_generation_prompt: bool = False,
) -> list[Part]:
    """`render`, taken apart into parts that joined are its text, each with where it comes from. For ChatML templates.

    Raises:
        MessageError: as `render`, and where the template looks into a content and decides by it.
    """
    options = {"enable_thinking": enable_thinking, "add_generation_prompt": add_generation_prompt}
    ready = prepared(messages)
    plain = render(tokenizer, messages, tools=tools, **options)
    begin = {kind: chr(code) for kind, code in zip(("tools", "thinking", "content"), PRIVATE_USE, strict=False)}
    end = chr(PRIVATE_USE[-1])
    # The template is given the same messages with their texts between marks, which then stand in the rendering.
    marked = []
    for message in ready:
        changed = dict(message)
        kinds = {"content": "tools" if message["role"] == "tool" else "content", "reasoning_content": "thinking"}
        for key, who in kinds.items():
            if core := message.get(key, "").strip():  # a template may strip white space at the edges
                changed[key] = message[key].replace(core, f"{begin[who]}{core}{end}", 1)
        marked.append(changed)
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
        reason = "its parts cannot be told apart: the template decides by a content, or one holds U+F0000 to U+FFFFC"
        raise MessageError(None, None, reason)
    return found


@dataclass(frozen=True)
class SpecialToken:
    """One token that the tokenizer matches before any byte-pair merge."""

    text: str  # how it is written
    id: int
    special: bool  # whether `skip_special_tokens=True` removes it from decoded text
    role: str  # what it is for


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
        tokenizer: none of its added tokens (`get_added_vocab()`) is in what is returned.
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
