"""What every download shares: checks of size, hash and disk space, the lock, and a fetcher that resumes.

The hubs' own clients start a broken file anew in each call (pitfall client-restarts-files), so on a slow line a
shard of 4 GB never arrives. Files are therefore fetched here: with HTTP `Range` requests into a part file that stays,
checked against the hub's size and hash before it gets its name.

`http_get` of huggingface_hub 1.33 loses up to 10 MB at a cut, and gives up at the first HTTP 500.
"""

import hashlib
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from tqdm.auto import tqdm

from course_utils.core.errors import CourseError
from course_utils.core.paths import nearest
from course_utils.hub import network

if TYPE_CHECKING:
    import httpx

CONNECT_SECONDS = 5.0
STALL_SECONDS = 10.0  # a connection that brings no byte for so long is given up and made anew
TRIES = 3  # in a row without progress
BACKOFF_SECONDS = 1.0  # before the second try; doubled before each further one
RETRY_AFTER_SECONDS = 30.0  # a hub that asks for a longer wait is left for the next one
REDIRECTS = 5
ROOM_MARGIN = 1.1
RECORD = "SOURCE.json"  # in every folder: where it came from
MODEL_MARKS = ("config.json", "tokenizer_config.json")  # a folder with one of them is a model's or a tokenizer's
PART = ".incomplete"  # what a file that is not whole yet adds to its name
MIB = 2**20


class DownloadError(CourseError):
    """A model, a tokenizer or a data set could not be brought into its folder."""


class SourceError(DownloadError):
    """One source did not give what was asked; the next one may."""


class TransientError(Exception):
    """A fault that the next try may not meet; `wait` is what the hub asks for before it, in seconds."""

    def __init__(self, reason: str, wait: float | None = None):
        super().__init__(reason)
        self.wait = wait


@dataclass(frozen=True)
class HubFile:
    """A file as a hub states it. Where the hub gives no hash, only the size is checked."""

    path: str
    size: int  # bytes
    sha256: str | None = None
    git_sha1: str | None = None  # git's id of the content, for small files outside LFS

    def matches(self, file: Path) -> bool:
        """Whether the file on disk has this size and this hash."""
        git = hashlib.sha1(b"blob %d\0" % self.size, usedforsecurity=False)
        kind, stated = ("sha256", self.sha256) if self.sha256 else (lambda: git, self.git_sha1)
        return file.stat().st_size == self.size and (not stated or digest(file, kind) == stated)


def digest(path: Path, kind: "str | Callable[[], hashlib._Hash]" = "sha256") -> str:
    """The hash of a file in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, kind).hexdigest()


def holds(folder: Path, marks: Iterable[str]) -> bool:
    """Whether one of the named files is in the folder."""
    return any((folder / mark).is_file() for mark in marks)


def check_room(folder: Path, needed: int, what: str) -> None:
    """Refuse to start where the disk of `folder` (made or not) has less than `needed` bytes and a margin."""
    folder = nearest(folder)
    needed, free = int(needed * ROOM_MARGIN), shutil.disk_usage(folder).free
    if free < needed:
        raise DownloadError(
            f"The disk at {folder} has no room for {what}: {needed / MIB:,.0f} MiB are needed and {free / MIB:,.0f} "
            f"MiB are free. Free some space, or name a models_dir (datasets_dir) on another disk."
        )


def locked(target: Path) -> AbstractContextManager[Any]:
    """Let one process at a time work on `target`; the system takes the lock from a process that dies.

    The lock file stays: were it removed, those who wait and those who come later would hold two different locks.
    """
    from filelock import FileLock, Timeout

    target.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(target.parent / f".{target.name}.lock")
    try:
        return lock.acquire(timeout=0)
    except Timeout:
        with tqdm(desc=f"Waiting for another download of {target.name}", bar_format="{desc}", leave=False):
            return lock.acquire()


def start(call: Callable[..., Any], *arguments: Any) -> "Future[Any]":
    """Run `call` in a daemon thread. An executor's thread would hold up the end of the process while a lookup hangs."""
    future: Future[Any] = Future()

    def run() -> None:
        try:
            future.set_result(call(*arguments))
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future


def words(error: BaseException, token: str = "", address: str = "") -> str:
    """An error as one line without the token; of a connection to `address`, with the variable that may be why."""
    text = str(error).strip().splitlines()
    line = ": ".join(text[:1] if isinstance(error, SourceError) else [type(error).__name__, *text[:1]])
    line += network.culprit(address, error) if address else ""
    return line.replace(token, "***") if token else line


def retrying(call: Callable[[], Any], reached: Callable[[], int] = lambda: 0, tries: int = TRIES) -> Any:
    """Call again after a TransientError; SourceError with its reason after `tries` in a row without progress.

    A try made progress if `reached` is then higher than ever before.
    """
    failures, highest = 0, reached()
    while True:
        try:
            return call()
        except TransientError as fault:
            failures = 0 if reached() > highest else failures + 1
            if failures >= tries:
                raise SourceError(str(fault)) from None
            highest = max(highest, reached())
            time.sleep(BACKOFF_SECONDS * 2 ** max(0, failures - 1) if fault.wait is None else fault.wait)


def check_status(status: int, headers: Mapping[str, str]) -> None:
    """Raise TransientError for 408, 429 and 5xx, SourceError for any other HTTP status from 400 on or a long wait."""
    if status < 400:
        return
    if status in {401, 403}:
        raise SourceError(
            f"HTTP {status}: gated, private, or not there. Accept the licence on its page at the hub, then run "
            f"`hf auth login` or set HF_TOKEN (ModelScope: MODELSCOPE_API_TOKEN). A token goes to another address than "
            f"the hub's own only with send_token=True"
        )
    if status == 404:
        raise SourceError("HTTP 404: not there")
    if status not in {408, 429} and status < 500:
        raise SourceError(f"HTTP {status}")
    asked = headers.get("Retry-After", "")  # seconds; the other form, a date, is not looked at
    wait = float(asked) if asked.isdecimal() else None
    if wait is not None and wait > RETRY_AFTER_SECONDS:
        raise SourceError(f"HTTP {status}: the hub asks to wait {wait:.0f} s")
    raise TransientError(f"HTTP {status}: {'too many requests' if status == 429 else 'a fault of the hub'}", wait)


@cache
def certificates() -> Any:
    """What servers are checked against; reading it takes longer than a small file's download."""
    import httpx

    return httpx.create_ssl_context()


def client() -> "httpx.Client":
    """An HTTP client with the time-outs of this module, which follows few redirects, and none from https to http."""
    import httpx

    return httpx.Client(
        timeout=httpx.Timeout(STALL_SECONDS, connect=CONNECT_SECONDS),
        verify=certificates(),
        headers={"User-Agent": "course-utils"},
        follow_redirects=True,  # httpx sends a token on to no other host, and a cookie on to none at all
        max_redirects=REDIRECTS,
        event_hooks={"response": [_check_redirect]},
    )


def _check_redirect(answer: "httpx.Response") -> None:
    """Refuse a redirect from https to http, or to what is no server."""
    if answer.has_redirect_location:
        at, to = answer.url.scheme, urlsplit(answer.headers["Location"])
        if to.scheme not in {"", "http", "https"} or (at, to.scheme) == ("https", "http"):
            # Only the host is named: the rest of such an address is often a key to the file.
            raise SourceError(f"redirected from {at} to {to.scheme} ({to.hostname}), which is refused")


@dataclass(frozen=True)
class Transfer:
    """One file on its way into a folder, from where its part file ends."""

    http: "httpx.Client"  # what `client` gives
    url: str
    file: HubFile
    folder: Path  # gets the file at `file.path`, and until then its part file
    secret: Mapping[str, str]  # headers with a token; only the host of `url` gets to see them
    progress: Callable[[int], object]  # told the number of bytes that came (below zero: that were thrown away)

    def run(self) -> None:
        """Bring the file, unless it is there; it gets its name when size and hash are right.

        Raises:
            SourceError: the source does not give this file; what came of it stays, unless its hash is wrong.
            OSError: the file could not be written.
        """
        whole = self.folder / self.file.path  # the name that it gets when it is checked
        if whole.is_file() and whole.stat().st_size == self.file.size:
            return
        self.part.parent.mkdir(parents=True, exist_ok=True)
        self.part.touch()
        try:
            for _ in range(2):  # a wrong hash may come from an old part file, so it is fetched once more from zero
                if self._have() != self.file.size:
                    retrying(self._resume, self._have)
                if self.file.matches(self.part):
                    os.replace(self.part, whole)
                    return
                self._restart()
            raise SourceError("twice its hash was not the one that the hub states; it was removed")
        except SourceError as error:
            if not self._have():
                self.part.unlink()
            raise SourceError(f"{self.file.path}: {error}") from None

    @property
    def part(self) -> Path:
        return self.folder / (self.file.path + PART)

    def _have(self) -> int:
        """The bytes in the part file."""
        return self.part.stat().st_size

    def _restart(self) -> int:
        """Throw away what the part file holds; returns what it then holds, 0."""
        self.progress(-self._have())
        self.part.write_bytes(b"")
        return 0

    def _resume(self) -> None:
        """One request: append what comes to the part file. Raises TransientError when the answer ends too early."""
        import httpx

        size = self.file.size
        have = self._have() if self._have() <= size else self._restart()
        # The ranges of a compressed answer would be those of another file.
        headers = {"Accept-Encoding": "identity", **self.secret} | ({"Range": f"bytes={have}-"} if have else {})
        try:
            with self.http.stream("GET", self.url, headers=headers) as answer:
                if answer.status_code == 416 and have:
                    self._restart()
                    raise TransientError("HTTP 416: the hub refuses to go on from there", wait=0)
                check_status(answer.status_code, answer.headers)
                if answer.status_code == 200 and have:  # this server knows no Range
                    have = self._restart()
                _check_extent(answer, have, size)
                with self.part.open("ab") as out:
                    for chunk in answer.iter_bytes():
                        have += len(chunk)
                        if have > size:
                            raise SourceError(f"more than the {size:,} bytes that the hub states came")
                        out.write(chunk)
                        out.flush()  # a killed process leaves all that came
                        self.progress(len(chunk))
        except httpx.TooManyRedirects:
            raise SourceError(f"redirected more than {REDIRECTS} times") from None
        except httpx.TimeoutException:
            raise TransientError(f"no byte for {STALL_SECONDS:.0f} s{network.culprit(self.url)}") from None
        except httpx.RequestError as error:  # not its words: they may hold a header
            why = network.culprit(self.url, error)
            raise TransientError(f"the connection broke ({type(error).__name__}){why}") from None
        if have < size:
            raise TransientError("the connection ended too early")


def _check_extent(answer: "httpx.Response", start: int, size: int) -> None:
    """Refuse an answer that is not the rest of a file of `size` bytes from `start` on."""
    if answer.headers.get("Content-Type", "").startswith("text/html"):
        raise SourceError(network.NO_HUB)
    if answer.status_code == 206:
        stated, expected = answer.headers.get("Content-Range", ""), f"bytes {start}-{size - 1}/{size}"
    else:
        compressed = "Content-Encoding" in answer.headers  # some servers do it unasked; then the length is another
        expected = str(size)
        stated = expected if compressed else answer.headers.get("Content-Length", expected)
    if answer.status_code not in {200, 206} or stated != expected:
        raise SourceError(f"HTTP {answer.status_code} with {stated!r}, expected {expected!r}: not the file it states")
