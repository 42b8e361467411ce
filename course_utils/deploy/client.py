"""Ask a served model with OpenAI's client, a time limit, and errors that say what to do."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from course_utils.deploy.serving import ServingError
from course_utils.text.thinking import ParsedOutput, parse_text

if TYPE_CHECKING:
    from openai import OpenAI


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
        ServingError: no server answers, it ended in the middle, it took too long, or it refused the request.
    """
    # The switch is no field of OpenAI's own interface, so it goes through `extra_body`.
    switch = {} if thinking is None else {"extra_body": {"chat_template_kwargs": {"enable_thinking": thinking}}}
    request = {"model": model, "messages": list(messages), "temperature": temperature, "max_tokens": max_tokens}
    started = time.monotonic()
    with connected(url, timeout) as client, plain_errors(url, timeout):
        reply = client.chat.completions.create(**request, **switch)
    choice = reply.choices[0]
    parsed = parse_message(choice.message.model_dump(), choice.finish_reason)
    tokens = reply.usage.completion_tokens if reply.usage else 0
    return Reply(**vars(parsed), finish_reason=choice.finish_reason, tokens=tokens, seconds=time.monotonic() - started)


def parse_message(message: Mapping[str, Any], finish_reason: str = "stop") -> ParsedOutput:
    """Split a served message, whichever way its server hands the thinking over (pitfall reasoning-field-renamed).

    vLLM puts it into `reasoning` since 0.20, earlier versions and other servers into `reasoning_content`; where no
    parser is switched on, all of it is in `content`, tags included.

    Args:
        message: a message of a reply, as a mapping.
        finish_reason: "length" where the reply was cut off.
    """
    content = message.get("content") or ""
    apart = message.get("reasoning") or message.get("reasoning_content")
    if not apart:
        return parse_text(content)
    if not content and (message.get("content") is None or finish_reason == "length"):
        return ParsedOutput(apart.strip(), None, "truncated")
    return ParsedOutput(apart.strip(), content.strip(), "answered")


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
    except openai.APIError as error:
        cause: BaseException = error
        while below := cause.__cause__ or cause.__context__:  # the client says "Connection error." and nothing else
            cause = below
        if isinstance(cause, ConnectionRefusedError):
            raise ServingError(f"No server answers at {url} ({cause}): it ended, or was never started.") from error
        raise ServingError(f"The server at {url} broke off in the middle of a reply ({cause}).") from error
