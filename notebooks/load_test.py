"""Lesson 06's load test: many requests at once, what was lost of them and why, and how long the others took."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from course_utils.deploy.client import connected, plain_errors
from course_utils.deploy.serving import ServingError

if TYPE_CHECKING:
    from openai import OpenAI


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

    with connected(url, timeout) as client:

        def one(messages: Sequence[Mapping[str, Any]]) -> tuple[float, float, int] | str:
            request = {"model": model, "messages": list(messages), "temperature": 0.0, "max_tokens": max_tokens}
            try:
                with plain_errors(url, timeout):
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
