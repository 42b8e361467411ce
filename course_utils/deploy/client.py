"""Ask a served model one thing, or many at once, with OpenAI's client, a time limit, and errors that say what to do.

Whatever speaks OpenAI's interface is asked the same way.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
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
    with _connected(url, timeout) as client, _plain_errors(url, timeout):
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


@dataclass(frozen=True)
class LoadReport:
    """What many requests at once got.

    Attributes:
        clients: how many asked at the same time.
        seconds: of the whole test.
        replies, first_tokens: seconds until the whole reply and until its first token, per finished request, ascending.
        tokens: of all finished replies together.
        lost: reason to number of requests without a whole reply.
    """

    clients: int
    seconds: float
    replies: tuple[float, ...]
    first_tokens: tuple[float, ...]
    tokens: int
    lost: Mapping[str, int]

    @property
    def requests(self) -> int:
        """All that were sent."""
        return len(self.replies) + sum(self.lost.values())

    def table(self) -> list[tuple[str, Any]]:
        """(what, value) for people; each percentile is a time that a request really took."""
        rows: list[tuple[str, Any]] = [("requests", self.requests), ("clients at a time", self.clients)]
        rows += [("lost", sum(self.lost.values())), *((f"  {count} x", reason) for reason, count in self.lost.items())]
        rows += [("tokens", self.tokens), ("tokens/s, all clients together", self.tokens / self.seconds)]
        for what, values in (("first token", self.first_tokens), ("whole reply", self.replies)):
            rows += [(f"{what} (s), p{share}", percentile(values, share)) for share in (50, 90, 99)]
        return rows


def percentile(ascending: Sequence[float], share: float) -> float:
    """The smallest value that `share` per cent of the values do not exceed (nearest rank); NaN where there is none."""
    if not ascending:
        return math.nan
    return ascending[max(math.ceil(share / 100 * len(ascending)) - 1, 0)]


def load_test(
    url: str,
    model: str,
    conversations: Sequence[Sequence[Mapping[str, Any]]],
    *,
    clients: int,
    max_tokens: int = 64,
    timeout: float = 120.0,
) -> LoadReport:
    """Ask many things, so many at a time; greedy replies, streamed so that the first token has a time of its own.

    Args:
        url, model: `Server.url` and `Server.model`.
        conversations: one request each.
        clients: how many ask at the same time.
        max_tokens: longest reply.
        timeout: seconds for one request, after which it counts as lost.

    Returns:
        The figures. A lost request is counted with its reason and does not end the test.
    """
    from tqdm.auto import tqdm

    with _connected(url, timeout) as client:

        def one(messages: Sequence[Mapping[str, Any]]) -> tuple[float, float, int] | str:
            request = {"model": model, "messages": list(messages), "temperature": 0.0, "max_tokens": max_tokens}
            try:
                with _plain_errors(url, timeout):
                    return _timed(client, request)
            except ServingError as error:
                return str(error)

        started = time.monotonic()
        with ThreadPoolExecutor(clients) as pool:
            got = list(tqdm(pool.map(one, conversations), total=len(conversations), desc="load test", unit="reply"))
        seconds = time.monotonic() - started
    lost = Counter(result for result in got if isinstance(result, str))
    whole = [result for result in got if not isinstance(result, str)]
    replies, first_tokens = (tuple(sorted(result[place] for result in whole)) for place in (0, 1))
    return LoadReport(clients, seconds, replies, first_tokens, sum(tokens for _, _, tokens in whole), lost)


def _timed(client: OpenAI, request: Mapping[str, Any]) -> tuple[float, float, int]:
    """Seconds to the whole reply, seconds to its first token, tokens."""
    started, first, tokens, finished = time.monotonic(), None, 0, False
    for chunk in client.chat.completions.create(**request, stream=True, stream_options={"include_usage": True}):
        tokens = chunk.usage.completion_tokens if chunk.usage else tokens
        for choice in chunk.choices:
            delta = choice.delta.model_dump()
            if first is None and any(delta.get(name) for name in ("content", "reasoning", "reasoning_content")):
                first = time.monotonic() - started
            finished = finished or choice.finish_reason is not None
    if not finished:
        raise ServingError(f"The server at {client.base_url} ended a reply without saying why.")
    seconds = time.monotonic() - started
    return seconds, seconds if first is None else first, tokens


def _connected(url: str, timeout: float) -> OpenAI:
    """OpenAI's client without its two silent retries and without the environment's proxy, which reaches no loopback."""
    from openai import DefaultHttpxClient, OpenAI

    direct = DefaultHttpxClient(trust_env=False)
    return OpenAI(base_url=url, api_key="none", timeout=timeout, max_retries=0, http_client=direct)


@contextmanager
def _plain_errors(url: str, timeout: float) -> Iterator[None]:
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
