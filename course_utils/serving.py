"""Serve a model on this machine, loopback only: `transformers serve` without a card, vLLM with one."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from course_utils.errors import CourseError
from course_utils.profiles import Profile

HOST = "127.0.0.1"


class ServingError(CourseError):
    """A server that did not start, or ended."""


def command(profile: Profile, model: str | Path, *, port: int = 8000) -> list[str]:
    """The command line that serves a model folder with an OpenAI interface on this machine.

    Args:
        profile: cpu gives `transformers serve`; a card gives vLLM with flags that leave room on 16 GB.
        model: a complete model folder.
        port: on loopback.

    Returns:
        The command as a list, for `subprocess` or `shlex.join`.
    """
    folder = str(Path(model).resolve())  # both servers use it as the model's name, too
    if profile.name == "cpu":
        # The module, not the script: it works whether or not the environment is activated.
        return [
            sys.executable,
            "-m",
            "transformers.cli.transformers",
            "serve",
            folder,
            "--host",
            HOST,
            f"--port={port}",
        ]
    return [
        *("vllm", "serve", folder, "--host", HOST, f"--port={port}"),
        *("--max-model-len", "16384"),  # the longest conversation; the KV cache grows with it
        *("--gpu-memory-utilization", "0.82"),  # the rest is for the desktop and CUDA itself
        *("--max-num-seqs", "4", "--max-num-batched-tokens", "2048"),  # how many answers at once
        "--enforce-eager",  # no CUDA graphs: 1 to 2 GB less, somewhat slower
        *("--dtype", profile.dtype),
    ]


@contextmanager
def serve(line: Sequence[str], *, timeout: float = 120.0) -> Iterator[str]:
    """Run a server while the block lasts; it is stopped for certain when the block ends, however it ends.

    Args:
        line: what `command` returned, with a free port.
        timeout: seconds to wait for the first answer.

    Yields:
        The base URL for OpenAI's client.

    Raises:
        ServingError: the port is taken, or the server ended or did not answer in time; with its last lines.
    """
    port = next(int(part.split("=")[1]) for part in line if part.startswith("--port="))
    with socket.socket() as probe:
        if probe.connect_ex((HOST, port)) == 0:
            raise ServingError(f"Port {port} is in use; choose another: serving.command(…, port=…).")
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as log:
        # A session of its own, so that the server's own children are stopped with it.
        try:
            server = subprocess.Popen(line, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
        except FileNotFoundError:
            raise ServingError(
                f"{line[0]} is not installed here. vLLM wants an environment of its own: pip install vllm; without it, "
                'serving.command(profiles.choose("cpu"), model) serves with transformers.'
            ) from None
        try:
            _wait(server, f"http://{HOST}:{port}/health", timeout, log)
            yield f"http://{HOST}:{port}/v1"
        finally:
            _stop(server)


def _wait(server: subprocess.Popen[bytes], url: str, timeout: float, log: TextIO) -> None:
    """Return when `url` answers; raise a ServingError when the server ends or the time is up."""
    limit = time.monotonic() + timeout
    while time.monotonic() < limit and server.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=2):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.3)
    log.seek(0)
    last = " | ".join(log.read().strip().splitlines()[-3:])
    what = "ended" if server.poll() is not None else f"did not answer within {timeout:.0f} s"
    raise ServingError(f"The server {what}. Its last lines: {last}")


def _stop(server: subprocess.Popen[bytes]) -> None:
    """Ask the server's whole process group to end; after ten seconds, make it."""
    for sign, patience in ((signal.SIGTERM, 10), (signal.SIGKILL, 10)):
        try:
            os.killpg(server.pid, sign)
            server.wait(timeout=patience)
        except (ProcessLookupError, subprocess.TimeoutExpired):
            continue
        return


def free_port() -> int:
    """A port on loopback that is free at this moment."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])
