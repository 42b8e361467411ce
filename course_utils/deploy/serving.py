"""Serve a model on this machine, loopback only: `transformers serve` without a GPU, vLLM with one.

vLLM's wheels are made for CUDA, so its command has not been run here: the flags are from its documentation and source
(versions 0.20 to 0.32).
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from subprocess import DEVNULL, PIPE, STDOUT

import httpx

from course_utils.core.errors import CourseError
from course_utils.core.profiles import Profile
from course_utils.core.programs import TEXT
from course_utils.deploy.adapters import check_base, new_tokens, read_adapter
from course_utils.text.thinking import OPENER

HOST = "127.0.0.1"
LORA_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""What `--max-lora-rank` takes besides 1 (vllm/config/lora.py); another number is refused."""
# Reads until the writing end is closed, which the kernel does however the writer ends; then ends the server's group.
_GUARD = "import os, signal, sys; sys.stdin.read(); os.killpg(int(sys.argv[1]), signal.SIGKILL)"


class ServingError(CourseError):
    """A server that did not start, or ended, or gave no reply."""


def command(
    profile: Profile, model: str | Path, *, port: int = 8000, adapter: str | Path | None = None, fp8_cache: bool = False
) -> list[str]:
    """The command line that serves a model folder with an OpenAI interface on this machine.

    Args:
        profile: cpu gives `transformers serve`; a GPU gives vLLM with flags that suit 16 GB.
        model: a complete model folder: the merged one, or the base for an adapter. If its template knows thinking,
            or tool calls, vLLM gets the parser for them.
        port: on loopback.
        adapter: a LoRA folder to mount on the base; clients ask for it by the folder's name. Only with vLLM.
        fp8_cache: hold keys and values in 8 bits; for GPUs of compute capability 8.9 or more (on older ones vLLM ends
            with "type fp8e4nv not supported", vllm-project/vllm#26431). Only with vLLM.

    Returns:
        The command as a list, for `serve`, `subprocess` or `shlex.join`. Lesson 06 says what each flag is for.

    Raises:
        ServingError: vLLM does not mount the adapter, or `transformers serve` lacks the option.
        ExportError: the adapter's folder is not one, or it names another base.
    """
    folder = Path(model).absolute()
    where = (str(folder), "--host", HOST, f"--port={port}")  # both servers use the folder as the model's name, too
    if profile.device == "cpu":
        if adapter is not None or fp8_cache:
            raise ServingError(
                "`transformers serve` has no adapters and no 8-bit cache: merge the adapter first "
                "(python -m course_utils merge) and serve the merged folder."
            )
        # The module, not the script: it works whether or not the environment is activated.
        return [sys.executable, "-m", "transformers.cli.transformers", "serve", *where, "--dtype", profile.dtype]
    line = [
        *("vllm", "serve", *where),
        *("--max-model-len", "16384", "--gpu-memory-utilization", "0.82"),
        *("--max-num-seqs", "4", "--max-num-batched-tokens", "2048", "--enforce-eager", "--dtype", profile.dtype),
    ]
    template = template_of(folder)
    # Where the template knows no thinking, the parser would hold back the answer.
    if OPENER in template:
        line += ["--reasoning-parser", "qwen3"]
    if "<tool_call>" in template:
        line += ["--enable-auto-tool-choice", "--tool-call-parser"]
        line += ["qwen3_coder" if "<function=" in template else "hermes"]  # Qwen3.5 writes no JSON
    if fp8_cache:
        line += ["--kv-cache-dtype", "fp8"]
    if adapter is not None:
        mounted = read_adapter(Path(adapter).absolute())
        check_base(mounted, folder)
        if re.search("[=,]", mounted.folder.name) or mounted.folder.name == folder.name:
            raise ServingError(f"vLLM cannot tell the adapter {mounted.folder} by this name from others: rename it.")
        ranks = [rank for rank in LORA_RANKS if rank >= mounted.rank]
        special = [*mounted.merge_only, *["tokens of its own"] * bool(new_tokens(folder, mounted.folder))]
        if special or not ranks:
            what = f"{' and '.join(special)}, which vLLM does not mount" if special else f"rank {mounted.rank}"
            limit = "" if special else f", and vLLM serves {LORA_RANKS[-1]} at most"
            raise ServingError(f"{mounted.folder} has {what}{limit}; serve it merged (export.merge_adapter).")
        line += ["--enable-lora", "--lora-modules", f"{mounted.folder.name}={mounted.folder}"]
        line += ["--max-lora-rank", str(ranks[0])]
    return line


def template_of(folder: str | Path) -> str:
    """The chat template of a model's folder as text, in whichever of its files it lies; "" where there is none."""
    with suppress(OSError, ValueError):
        return (Path(folder) / "chat_template.jinja").read_text(encoding="utf-8")
    with suppress(OSError, ValueError, KeyError, TypeError):
        found = json.loads((Path(folder) / "tokenizer_config.json").read_text(encoding="utf-8"))["chat_template"]
        named = {each["name"]: each["template"] for each in found} if isinstance(found, list) else {"default": found}
        return named.get("default") or "\n".join(named.values())
    return ""


class Server:
    """A server that answers.

    Attributes:
        url: the base URL for OpenAI's client.
        model: the name that a request must give: the folder served, or the adapter's name.
        pid: the server's process; its own children are in its process group.
    """

    def __init__(self, line: Sequence[str], port: int, on_line: Callable[[str], object] | None) -> None:
        adapter = line[line.index("--lora-modules") + 1].partition("=")[0] if "--lora-modules" in line else None
        self.url = f"http://{HOST}:{port}/v1"
        self.model = adapter or line[line.index("serve") + 1]
        try:  # a session of its own, so that the server's own children are stopped with it, and Ctrl-C is ours alone
            self._process = subprocess.Popen(line, stdout=PIPE, stderr=STDOUT, start_new_session=True, **TEXT)
        except FileNotFoundError:
            raise ServingError(
                f"{line[0]} is not installed here. vLLM wants an environment of its own: pip install vllm; without it, "
                'serving.command(profiles.choose("cpu"), model) serves with transformers.'
            ) from None
        self.pid = self._process.pid
        self._lines: deque[str] = deque(maxlen=20)
        self._reader = threading.Thread(target=self._read, args=(on_line,), daemon=True)
        self._reader.start()

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

    def _read(self, on_line: Callable[[str], object] | None) -> None:
        with self._process.stdout as log:
            for text in log:
                self._lines.append(text.rstrip("\n"))
                if on_line is not None:
                    on_line(self._lines[-1])

    def _last_words(self) -> str:
        if self._process.poll() is not None:
            self._reader.join(timeout=0.5)  # what it wrote at the end may still be in the pipe
        return f"Its last lines: {' | '.join(list(self._lines)[-3:])}" if self._lines else "It wrote nothing."

    def _wait_for_answer(self, timeout: float) -> None:
        limit = time.monotonic() + timeout
        while time.monotonic() < limit:
            with suppress(httpx.HTTPError):  # no proxy of the environment reaches this machine
                httpx.get(self.url.replace("/v1", "/health"), timeout=2, trust_env=False).raise_for_status()
                return
            self.wait(0.3)
        raise ServingError(f"The server did not answer within {timeout:.0f} s. {self._last_words()}")

    def _stop(self) -> None:
        """Ask the process group to end; after ten seconds make it, and whatever of its children is left."""
        for sign in (signal.SIGTERM, signal.SIGKILL):
            with suppress(ProcessLookupError, PermissionError):  # macOS: a group of ended processes only
                os.killpg(self.pid, sign)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=10)
        self._reader.join(timeout=5)


@contextmanager
def serve(
    line: Sequence[str], *, timeout: float = 120.0, on_line: Callable[[str], object] | None = None
) -> Iterator[Server]:
    """Run a server while the block lasts; no process of it is left when the block ends, however it ends.

    That holds also if this process is ended by kill -9: a small second process then sees its pipe closed and ends the
    server and its children. (Linux's PR_SET_PDEATHSIG ties the server to one thread, and leaves its children alone.)

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
    server = Server(line, port, on_line)
    guard = [sys.executable, "-I", "-S", "-c", _GUARD, str(server.pid)]
    quiet = {"stdin": PIPE, "stdout": DEVNULL, "stderr": DEVNULL}
    with subprocess.Popen(guard, start_new_session=True, **quiet) as watching:
        try:
            server._wait_for_answer(timeout)
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
            server._stop()
            watching.kill()


def free_port() -> int:
    """A port on loopback that is free at this moment."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])
