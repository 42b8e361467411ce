"""Write files and folders so that they are either whole or absent, and by one process at a time."""

import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

from course_utils.core.errors import CourseError


class FolderInUse(CourseError):
    """Another process is writing a run into this folder."""


@contextmanager
def atomic_dir(target: str | Path) -> Iterator[Path]:
    """Give a temporary folder that becomes `target` when the block ends without an error.

    The temporary folder lies beside `target`, so that the last step is a rename on one file system. If the block
    raises, the temporary folder is removed and `target` stays as it was. An older `target` is replaced whole.

    Args:
        target: the folder to write; its parents are made.

    Yields:
        The temporary folder to write into.
    """
    target = Path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".part", dir=target.parent))
    try:
        yield draft
        draft.chmod(0o755)  # mkdtemp gives 0700
        if target.exists():
            old = draft.with_suffix(".old")
            os.replace(target, old)
            try:
                os.replace(draft, target)
            except BaseException:
                os.replace(old, target)
                raise
            shutil.rmtree(old)
        else:
            os.replace(draft, target)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


@contextmanager
def atomic_file(path: str | Path) -> Iterator[TextIO]:
    """Give a UTF-8 text file under a temporary name that becomes `path` when the block ends without an error.

    If the block raises, the temporary file is removed and `path` stays as it was.

    Args:
        path: the file to write; its parents are made.

    Yields:
        The temporary file to write into; line breaks are written as they are.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, draft = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
            yield file
        os.chmod(draft, 0o644)  # mkstemp gives 0600
        os.replace(draft, path)
    except BaseException:
        os.unlink(draft)
        raise


def write_text(path: str | Path, text: str) -> Path:
    """Write `text` as UTF-8 to `path` through a temporary name and a rename; returns the path."""
    with atomic_file(path) as file:
        file.write(text)
    return Path(path)


def write_json(path: str | Path, value: Any) -> Path:
    """Write `value` as indented JSON with Chinese readable; NaN is refused. Returns the path."""
    return write_text(path, json.dumps(value, ensure_ascii=False, indent=2, allow_nan=False) + "\n")


def is_write_failure(error: BaseException) -> bool:
    """True where a file could not be written, for Python's own error and for those of torch and safetensors.

    These have no common class; their words are those of torch 2.13 and safetensors on a full disk.
    """
    return isinstance(error, OSError) or any(
        words in str(error) for words in ("file write failed", "Error while serializing", "unexpected pos")
    )


@contextmanager
def run_lock(folder: str | Path) -> Iterator[None]:
    """Hold a run's folder, so that no second run writes into it. The system frees it when the process dies.

    The processes of one `accelerate launch` share a run, so only the first of them takes the lock. Where no lock can
    be had (the folder cannot be written to, or its file system has no locks) the run goes on without.

    Args:
        folder: the run's folder; made where it is missing.

    Raises:
        FolderInUse: another run holds the folder; raised at once, with its process and when it began.
    """
    from filelock import FileLock, Timeout

    if int(os.environ.get("RANK", "0")) > 0:
        yield
        return
    path = Path(folder) / ".lock"
    lock = FileLock(path, timeout=0, fallback_to_soft=False)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
        path.write_text(f"process {os.getpid()}, since {time.strftime('%Y-%m-%d %H:%M')}", encoding="utf-8")
    except Timeout:
        holder = "another process"
        with suppress(OSError):  # it may end, or has only just begun
            holder = path.read_text(encoding="utf-8") or holder
        raise FolderInUse(
            f"A run goes on in {folder} ({holder}). Wait until it ends or stop that process, or set output_dir to "
            "another folder."
        ) from None
    except OSError:
        pass
    try:
        yield
    finally:
        if lock.is_locked:
            with suppress(OSError):
                path.unlink()  # while it is held: filelock sees that a file it has just locked is gone, and tries anew
        lock.release()
