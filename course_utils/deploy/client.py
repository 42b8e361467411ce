"""Ask a served model with OpenAI's client, a time limit, and errors that say what to do."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from course_utils.deploy.serving import ServingError, template_of
from course_utils.text.chat import validate
from course_utils.text.thinking import OPENER, ParsedOutput, parse_text

if TYPE_CHECKING:
    from openai import OpenAI


APART = ("reasoning", "reasoning_content", "thinking")
"""The fields in which servers hand a thought over: vLLM since 0.20, earlier and others, Ollama."""


@dataclass(frozen=True)
class Reply(ParsedOutput):
    """A served reply, taken apart.

    Attributes:
        finish_reason: "stop" where the model ended by itself, "length" where max_tokens cut it off.
        tokens: tokens of the reply.
        seconds: from the question to the whole reply.
    """

    finish_reason: str
    tokens: int
    seconds: float


def ask(
    url: str,
    model: str,
    messages: Sequence[Mapping[str, Any]],
    *,
    thinking: bool | None = None,
    temperature: float = 0.0,
    max_tokens: int = 256,
    timeout: float = 60.0,
) -> Reply:
    """Ask a served model one thing.

    Args:
        url, model: `Server.url` and `Server.model`.
        messages: the conversation up to and with the question; the server renders the template.
        thinking: the switch of templates that know thinking; None leaves it to the template. Other templates ignore it.
        temperature: 0 is greedy; Qwen advises 0.6 where the model thinks.
        max_tokens: longest reply, thinking included.
        timeout: seconds until the whole reply is there. (The client alone waits ten minutes, then tries twice again.)

    Returns:
        Thinking, answer and status as `thinking.parse_output` gives them; why the reply ended, its tokens, the seconds.

    Raises:
        MessageError: the conversation is none that can be sent.
        ServingError: no server answers, it ended in the middle, it took too long, it refused the request, or it sent
            no text.
    """
    # The switch is no field of OpenAI's own interface, so it goes through `extra_body`.
    validate(messages)
    switch = {} if thinking is None else {"extra_body": {"chat_template_kwargs": {"enable_thinking": thinking}}}
    # An empty field counts as one for some servers, and rows that come from Arrow have them.
    plain = [{key: value for key, value in message.items() if value is not None} for message in messages]
    request = {"model": model, "messages": plain, "temperature": temperature, "max_tokens": max_tokens}
    started = time.monotonic()
    with connected(url, timeout) as client, plain_errors(url, timeout):
        reply = client.chat.completions.create(**request, **switch)
    try:
        choice, used = reply.choices[0], reply.usage
        message, tokens = choice.message.model_dump(), used.completion_tokens if used else 0
    except (AttributeError, IndexError, KeyError, TypeError):  # the client takes any JSON, and text, for a reply
        sent = reply.model_dump(exclude_none=True) if hasattr(reply, "model_dump") else reply
        raise ServingError(f"{url} sent no reply, but {str(sent)[:300] or 'nothing'}. See its log.") from None
    opened = _opens_thinking(model, thinking)
    parsed = parse_message(message, choice.finish_reason, prompt_opens_thinking=opened)
    return Reply(**vars(parsed), finish_reason=choice.finish_reason, tokens=tokens, seconds=time.monotonic() - started)


@cache
def _opens_thinking(model: str, thinking: bool | None) -> bool:
    """Whether the template in the model's folder, if that is one on this machine, ends prompts in an open thought."""
    template = template_of(model)
    if OPENER not in template:
        return False
    from transformers.utils.chat_template_utils import render_jinja_template

    asked, switch = [[{"role": "user", "content": "Hi"}]], {} if thinking is None else {"enable_thinking": thinking}
    try:
        prompts, _ = render_jinja_template(asked, chat_template=template, add_generation_prompt=True, **switch)
    except Exception:  # the server renders it; here it only tells something
        return False
    return prompts[0].rstrip().endswith(OPENER)


def parse_message(
    message: Mapping[str, Any] | None, finish_reason: str | None = "stop", *, prompt_opens_thinking: bool = False
) -> ParsedOutput:
    """Split a served message, whichever way its server hands the thinking over (pitfall reasoning-field-renamed).

    It is in one of `APART`; where no parser is switched on, all of it is in `content`, tags included. A parser that
    waits for the end of a thought takes the whole of a reply without one: where such a reply ended by itself, what it
    took is the answer.

    Args:
        message: a message of a reply, as a mapping.
        finish_reason: "stop" or of a call where the reply ended by itself; anything else cut it off.
        prompt_opens_thinking: as for `thinking.parse_output`.

    Raises:
        ServingError: the message is none, a refusal, or holds something else than text.
    """
    if not isinstance(message, Mapping):
        raise ServingError(f"The server sent no message, but {message!r}. See its log.")
    content, calls = _text(message, "content"), message.get("tool_calls") or message.get("function_call")
    if message.get("refusal") and not content:
        raise ServingError(f"The server sent no answer, but a refusal: {message['refusal']}")
    apart = next(filter(None, (_text(message, field).strip() for field in APART)), "")
    ended = finish_reason in ("stop", "tool_calls", "function_call", None)
    if not apart:
        # An empty thought, and not none, comes from a parser that has taken it out.
        taken_out = any(isinstance(message.get(field), str) for field in APART) and bool(content.strip())
        parsed = parse_text(content, prompt_opens_thinking=prompt_opens_thinking and not taken_out)
    elif content.strip():
        answer = parse_text(content).answer if content.lstrip().startswith(OPENER) else content.strip()
        parsed = ParsedOutput(apart, answer, "truncated" if answer is None else "answered")
    elif not ended:
        parsed = ParsedOutput(apart, None, "truncated")
    else:  # an empty content was written by the model; without one, what was taken for a thought is the answer
        empty = calls or message.get("content") is not None
        parsed = ParsedOutput(apart, "", "answered") if empty else ParsedOutput("", apart, "no_thinking")
    if parsed.answer is None and calls and ended:  # the call ended the thought
        return ParsedOutput(parsed.thinking, "", "answered")
    return parsed


def _text(message: Mapping[str, Any], field: str) -> str:
    """A field of a message: text, none, or a list of parts that are text."""
    value = message.get(field) or ""
    if isinstance(value, str):
        return value
    for part in value if isinstance(value, list) else [value]:
        if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
            raise ServingError(f"The server sent {str(part)[:100]} in {field}, and only text is read here.")
    return "".join(part["text"] for part in value)


def connected(url: str, timeout: float) -> OpenAI:
    """OpenAI's client without its two silent retries and without the environment's proxy, which reaches no loopback."""
    from openai import DefaultHttpxClient, OpenAI

    direct = DefaultHttpxClient(trust_env=False)
    return OpenAI(base_url=url, api_key="none", timeout=timeout, max_retries=0, http_client=direct)


@contextmanager
def plain_errors(url: str, timeout: float) -> Iterator[None]:
    """Turn the client's errors into a ServingError that says what to do."""
    import openai

    try:
        yield
    except openai.APITimeoutError as error:
        raise ServingError(
            f"No reply from {url} within {timeout:g} s: it is busy, or the reply is long. "
            "Raise timeout, or lower max_tokens or the number of clients."
        ) from error
    except openai.APIStatusError as error:
        raise ServingError(
            f"{url} refused the request with {error.status_code}: {error.response.text[:300]} "
            "A model is asked for by the name that Server.model gives."
        ) from error
    except ValueError as error:  # the client reads JSON without a net
        raise ServingError(f"{url} sent no JSON ({error}), so it is no chat server, or its reply was cut.") from error
    except openai.APIError as error:
        cause: BaseException = error
        while below := cause.__cause__ or cause.__context__:  # the client says "Connection error." and nothing else
            cause = below
        if isinstance(cause, ConnectionRefusedError):
            raise ServingError(f"No server answers at {url} ({cause}): it ended, or was never started.") from error
        raise ServingError(f"The server at {url} broke off in the middle of a reply ({cause}).") from error
