"""Serve a model on this machine, loopback only, and ask it: `transformers serve` without a GPU, vLLM with one.

vLLM's wheels are made for CUDA, so its line has not been run here: its flags were read in its documentation and its
source (versions 0.20 to 0.32). Whatever else speaks OpenAI's interface is asked the same way.
"""

from __future__ import annotations

import json
import math
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from course_utils.core.errors import CourseError
from course_utils.core.profiles import Profile
from course_utils.text.thinking import OPENER, ParsedOutput, parse_text

if TYPE_CHECKING:
    from openai import OpenAI

HOST = "127.0.0.1"
LORA_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""What `--max-lora-rank` takes besides 1 (vllm/config/lora.py); another number is refused."""

FLAGS: Mapping[str, str] = {
    "--host": "who can reach it: this machine only; open it to a network only behind something that checks who asks",
    "--port": "where it listens: any free one",
    "--max-model-len": "longest conversation in tokens, prompt and reply together; each needs room in the KV cache",
    "--gpu-memory-utilization": "share of the GPU that vLLM takes at the start: weights, then KV cache with the rest; "
    "what is left is for the screen and CUDA itself",
    "--max-num-seqs": "replies generated at the same time; further requests wait",
    "--max-num-batched-tokens": "tokens computed in one step: bounds the memory that long prompts take",
    "--enforce-eager": "no CUDA graphs: 1 to 2 GB less, somewhat slower",
    "--dtype": "number format of the arithmetic; a T4 has no bfloat16",
    "--reasoning-parser": "puts thinking into a field of its own, `reasoning`; only where the template knows thinking",
    "--kv-cache-dtype": "KV cache in 8 bits: twice the tokens in the same memory, a little quality; needs compute "
    "capability 8.9 (RTX 40, L4) or more",
    "--enable-lora": "adapters mounted on one base; a request names the one it wants as its model",
    "--lora-modules": "name and folder of each adapter",
    "--max-lora-rank": "highest rank accepted, 16 unless it is said; a larger adapter is refused",
}
"""What each flag of `command` is for, and what it does on a 16 GB GPU."""

# Reads until the writing end is closed, which the kernel does however the writer ends; then ends the server's group.
_GUARD = "import os, signal, sys; sys.stdin.read(); os.killpg(int(sys.argv[1]), signal.SIGKILL)"


class ServingError(CourseError):
    """A server that did not start, or ended, or gave no reply."""


def command(
    profile: Profile,
    model: str | Path,
    *,
    port: int = 8000,
    adapter: str | Path | None = None,
    fp8_cache: bool = False,
) -> list[str]:
    """The command line that serves a model folder with an OpenAI interface on this machine.

    Args:
        profile: cpu gives `transformers serve`; a GPU gives vLLM with flags that leave room on 16 GB.
        model: a complete model folder: the merged one, or the base where an adapter is mounted. With a template that
            knows thinking vLLM gets the parser for it.
        port: on loopback.
        adapter: a LoRA folder to mount on the base; clients ask for it by the folder's name. Only with vLLM.
        fp8_cache: hold keys and values in 8 bits; for GPUs of compute capability 8.9 or more (on older ones vLLM ends
            with "type fp8e4nv not supported", vllm-project/vllm#26431). Only with vLLM.

    Returns:
        The command as a list, for `serve`, `subprocess` or `shlex.join`; `explain` says what each flag is for.

    Raises:
        ServingError: the adapter's folder is not one, its rank is too high, or `transformers serve` lacks the option.
    """
    folder = str(Path(model).absolute())  # both servers use it as the model's name, too
    where = ("--host", HOST, f"--port={port}")
    if profile.device == "cpu":
        if adapter is not None or fp8_cache:
            raise ServingError(
                "`transformers serve` has no adapters and no 8-bit cache: merge the adapter first "
                "(python -m course_utils merge) and serve the merged folder."
            )
        # The module, not the script: it works whether or not the environment is activated.
        return [sys.executable, "-m", "transformers.cli.transformers", "serve", folder, *where]
    line = [
        *("vllm", "serve", folder, *where),
        *("--max-model-len", "16384", "--gpu-memory-utilization", "0.82"),
        *("--max-num-seqs", "4", "--max-num-batched-tokens", "2048", "--enforce-eager", "--dtype", profile.dtype),
    ]
    if _thinks(Path(folder)):
        line += ["--reasoning-parser", "qwen3"]
    if fp8_cache:
        line += ["--kv-cache-dtype", "fp8"]
    if adapter is not None:
        mounted = Path(adapter).absolute()
        line += ["--enable-lora", "--lora-modules", f"{mounted.name}={mounted}"]
        line += ["--max-lora-rank", str(_lora_rank(mounted))]
    return line


def explain(line: Sequence[str]) -> list[tuple[str, str, str]]:
    """The flags of a command for people.

    Args:
        line: what `command` returned.

    Returns:
        (flag, value, why) in the order of the line; the value is "" where the flag has none.
    """
    rows = []
    for part, following in pairwise([*line, "--"]):
        if part.startswith("--"):
            flag, _, value = part.partition("=")
            rows.append((flag, value or ("" if following.startswith("--") else following), FLAGS[flag]))
    return rows


def _thinks(folder: Path) -> bool:
    """True where the folder's chat template knows thinking: on other models the parser would hold back the answer."""
    template = folder / "chat_template.jinja"
    return template.is_file() and OPENER in template.read_text(encoding="utf-8")


def _lora_rank(adapter: Path) -> int:
    """The smallest `--max-lora-rank` that takes this adapter."""
    file = adapter / "adapter_config.json"
    if not file.is_file():
        raise ServingError(f"{adapter} holds no adapter; lesson 04 or `python -m course_utils train` makes one.")
    settings = json.loads(file.read_text(encoding="utf-8"))
    rank = max([settings["r"], *(settings.get("rank_pattern") or {}).values()])
    if rank > LORA_RANKS[-1]:
        raise ServingError(f"{adapter} has rank {rank}, and vLLM serves {LORA_RANKS[-1]} at most; serve it merged.")
    return next(size for size in LORA_RANKS if size >= rank)


# ---- a server's life


@dataclass(frozen=True)
class Server:
    """A server that answers.

    Attributes:
        url: the base URL for OpenAI's client.
        model: the name that a request must give: the folder served, or the adapter's name.
        pid: the server's process; its own children are in its process group.
    """

    url: str
    model: str
    pid: int
    _process: subprocess.Popen[str] = field(repr=False)
    _lines: deque[str] = field(repr=False)
    _reader: threading.Thread = field(repr=False)

    def wait(self, seconds: float | None = None) -> None:
        """Wait so long, or for ever.

        Raises:
            ServingError: the server ended meanwhile; with its exit code or signal and its last lines.
        """
        try:
            code = self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return
        how = f"ended by itself with exit code {code}"
        if code < 0:
            how = f"was ended by signal {-code} ({signal.Signals(-code).name})"
            if -code == signal.SIGKILL:
                how += "; where nobody sent it, the machine ran out of memory"
        raise ServingError(f"The server {how}. {self._last_words()} Start it again with serving.serve.")

    def _last_words(self) -> str:
        if self._process.poll() is not None:
            self._reader.join(timeout=0.5)  # what it wrote at the end may still be in the pipe
        return f"Its last lines: {' | '.join(list(self._lines)[-3:])}" if self._lines else "It wrote nothing."


@contextmanager
def serve(
    line: Sequence[str], *, timeout: float = 120.0, on_line: Callable[[str], object] | None = None
) -> Iterator[Server]:
    """Run a server while the block lasts; no process of it is left when the block ends, however it ends.

    Also where this process is ended by kill -9: a small second process then sees its pipe closed and ends the server
    and the server's children. (Linux could tie the server to this process by itself, with PR_SET_PDEATHSIG, but to
    one thread of it, without the children, and nothing else can.)

    Args:
        line: what `command` returned, with a free port.
        timeout: seconds to wait for the first answer.
        on_line: is called with every line of the server's log as it comes, from a thread of its own.

    Yields:
        The server: its URL, the model's name, its process.

    Raises:
        ServingError: the port is taken, the server did not answer in time, or it ended before the block did, whatever
            the block raised because of that; with its exit code or signal and its last lines.
    """
    port = next(int(part.removeprefix("--port=")) for part in line if part.startswith("--port="))
    with socket.socket() as probe:
        if probe.connect_ex((HOST, port)) == 0:
            raise ServingError(f"Port {port} is in use; choose another: serving.command(…, port=…).")
    server = _start(line, port, on_line)
    guard = [sys.executable, "-I", "-S", "-c", _GUARD, str(server.pid)]
    quiet = {"stdin": subprocess.PIPE, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(guard, start_new_session=True, **quiet) as watching:
        try:
            _wait_for_answer(server, f"http://{HOST}:{port}/health", timeout)
            try:
                yield server
            except Exception as error:
                try:
                    server.wait(0.5)  # a client may hear of the end before the kernel tells the parent
                except ServingError as ended:
                    raise ended from error
                raise
            server.wait(0)
        finally:
            _stop(server)
            watching.kill()


def _start(line: Sequence[str], port: int, on_line: Callable[[str], object] | None) -> Server:
    """Start the process and the thread that reads what it writes."""
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    try:  # a session of its own, so that the server's own children are stopped with it, and Ctrl-C is ours alone
        process = subprocess.Popen(line, **pipes, text=True, encoding="utf-8", errors="replace", start_new_session=True)
    except FileNotFoundError:
        raise ServingError(
            f"{line[0]} is not installed here. vLLM wants an environment of its own: pip install vllm; without it, "
            'serving.command(profiles.choose("cpu"), model) serves with transformers.'
        ) from None
    lines: deque[str] = deque(maxlen=20)

    def read() -> None:
        with process.stdout as log:
            for text in log:
                lines.append(text.rstrip("\n"))
                if on_line is not None:
                    on_line(lines[-1])

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    adapters = [following for part, following in pairwise(line) if part == "--lora-modules"]
    model = adapters[0].partition("=")[0] if adapters else line[line.index("serve") + 1]
    return Server(f"http://{HOST}:{port}/v1", model, process.pid, process, lines, reader)


def _wait_for_answer(server: Server, url: str, timeout: float) -> None:
    """Return when `url` answers; raise a ServingError when the server ends or the time is up."""
    limit = time.monotonic() + timeout
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # no proxy of the environment reaches us
    while time.monotonic() < limit:
        with suppress(OSError), direct.open(url, timeout=2):
            return
        server.wait(0.3)
    raise ServingError(f"The server did not answer within {timeout:.0f} s. {server._last_words()}")


def _stop(server: Server) -> None:
    """Ask the server's process group to end; after ten seconds make it, and whatever of its children is left."""
    with suppress(ProcessLookupError, PermissionError):  # macOS: a group of ended processes only
        os.killpg(server.pid, signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        server._process.wait(timeout=10)
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(server.pid, signal.SIGKILL)
    server._process.wait()
    server._reader.join(timeout=5)


def free_port() -> int:
    """A port on loopback that is free at this moment."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


# ---- a client


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
    """Ask a served model one thing, with OpenAI's client.

    Args:
        url: `Server.url`.
        model: `Server.model`.
        messages: the conversation up to and with the question; the server renders the template.
        thinking: switch of templates that know thinking; None leaves it to the template. Other templates ignore it.
        temperature: 0 is greedy; Qwen advises 0.6 where the model thinks.
        max_tokens: longest reply, thinking among it.
        timeout: seconds until the whole reply is there. (The client alone would wait ten minutes and then try twice
            again.)

    Returns:
        Thinking, answer and status as `thinking.parse_output` gives them; why the reply ended, its tokens, the seconds.

    Raises:
        ServingError: no server answers, it ended in the middle, it took too long, or it refused the request.
    """
    request = _request(model, messages, thinking, temperature, max_tokens)
    started = time.monotonic()
    with _client(url, timeout) as client, _told(url, timeout):
        reply = client.chat.completions.create(**request)
    choice = reply.choices[0]
    parsed = parse_message(choice.message.model_dump(), choice.finish_reason)
    tokens = reply.usage.completion_tokens if reply.usage else 0
    return Reply(**vars(parsed), finish_reason=choice.finish_reason, tokens=tokens, seconds=time.monotonic() - started)


def parse_message(message: Mapping[str, Any], finish_reason: str = "stop") -> ParsedOutput:
    """Split a served message, whichever way its server hands the thinking over (pitfall reasoning-field-renamed).

    vLLM puts it into `reasoning` since 0.20, earlier and other servers into `reasoning_content`; where no parser is
    switched on all of it is in `content`, tags and all.

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


def _request(
    model: str, messages: Sequence[Mapping[str, Any]], thinking: bool | None, temperature: float, max_tokens: int
) -> dict[str, Any]:
    """What the client sends; the switch is no field of OpenAI's own interface, so it goes through `extra_body`."""
    request = {"model": model, "messages": list(messages), "temperature": temperature, "max_tokens": max_tokens}
    if thinking is not None:
        request["extra_body"] = {"chat_template_kwargs": {"enable_thinking": thinking}}
    return request


def _client(url: str, timeout: float) -> OpenAI:
    """OpenAI's client without its two silent tries, and without the environment's proxy, which reaches no loopback."""
    from openai import DefaultHttpxClient, OpenAI

    return OpenAI(
        base_url=url,
        api_key="none",
        timeout=timeout,
        max_retries=0,
        http_client=DefaultHttpxClient(trust_env=False),
    )


@contextmanager
def _told(url: str, timeout: float) -> Iterator[None]:
    """Turn the client's errors into one that says what to do."""
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


# ---- a load test


@dataclass(frozen=True)
class LoadReport:
    """What many requests at once got.

    Attributes:
        clients: how many asked at the same time.
        seconds: of the whole test.
        replies: seconds until the whole reply, per finished request, ascending.
        first_tokens: seconds until its first token, likewise.
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
        url: `Server.url`.
        model: `Server.model`.
        conversations: one request each.
        clients: how many ask at the same time.
        max_tokens: longest reply.
        timeout: seconds for one request, after which it counts as lost.

    Returns:
        The figures. A lost request is counted with its reason and does not end the test.
    """
    from tqdm.auto import tqdm

    with _client(url, timeout) as client:

        def one(messages: Sequence[Mapping[str, Any]]) -> tuple[float, float, int] | str:
            try:
                with _told(url, timeout):
                    return _timed(client, _request(model, messages, None, 0.0, max_tokens))
            except ServingError as error:
                return str(error)

        started = time.monotonic()
        with ThreadPoolExecutor(clients) as pool:
            got = list(tqdm(pool.map(one, conversations), total=len(conversations), desc="load test", unit="reply"))
        seconds = time.monotonic() - started
    whole = [result for result in got if not isinstance(result, str)]
    return LoadReport(
        clients=clients,
        seconds=seconds,
        replies=tuple(sorted(result[0] for result in whole)),
        first_tokens=tuple(sorted(result[1] for result in whole)),
        tokens=sum(result[2] for result in whole),
        lost=Counter(result for result in got if isinstance(result, str)),
    )


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
