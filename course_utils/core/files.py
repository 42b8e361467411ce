"""Write files and folders so that they are either whole or absent, and by one process at a time."""

import errno
import glob
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
    """Give a temporary folder that becomes `target` when the block ends without an error; its parents are made.

    The temporary folder lies beside `target`, so that the last step is a rename on one file system. If the block
    raises, it is removed and `target` stays as it was. An older `target` is replaced whole. What a killed process
    left beside `target` is removed at the next write to it.
    """
    target = Path(target)
    with _draft(target) as draft:
        yield draft
        draft.chmod(0o755)  # mkdtemp gives 0700
        if target.exists():
            os.replace(target, draft.with_suffix(".old"))
        os.replace(draft, target)


@contextmanager
def atomic_file(path: str | Path) -> Iterator[TextIO]:
    """Give a UTF-8 text file that becomes `path` as `atomic_dir`'s folder does; line breaks are written as they are."""
    path = Path(path)
    with _draft(path) as draft:
        part = draft / path.name
        with part.open("w", encoding="utf-8", newline="\n") as file:
            yield file
        part.chmod(0o644)  # whatever the umask
        os.replace(part, path)


@contextmanager
def _draft(target: Path) -> Iterator[Path]:
    """A new folder beside `target`, removed at the end. Its lock tells it from one that a killed process left."""
    target.parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(target)
    new = Path(tempfile.mkdtemp(prefix=f".{target.name}.draft-", suffix=".new", dir=target.parent))
    draft = new.with_suffix(".part")
    with _locked(new):
        try:
            os.rename(new, draft)  # only now, so that nobody finds it unlocked
            yield draft
        finally:
            _settle(draft, target)


def _settle(draft: Path, target: Path) -> None:
    """Remove a draft; the older `target` that was moved away for it goes, too, or back where its place is empty."""
    old = draft.with_suffix(".old")
    if old.exists() and not target.exists():
        os.replace(old, target)
    for folder in (draft, old):
        shutil.rmtree(folder, ignore_errors=True)


def _remove_leftovers(target: Path) -> None:
    """Remove what killed processes left beside `target`, and put back a `target` that one of them had moved away."""
    beside = f".{glob.escape(target.name)}.draft-*"
    for draft in sorted(target.parent.glob(f"{beside}.part")):
        with suppress(FileNotFoundError), _locked(draft) as abandoned:  # not found: its process has just ended
            if abandoned:
                _settle(draft, target)
    for old in sorted(target.parent.glob(f"{beside}.old")):
        if not old.with_suffix(".part").exists():  # the new folder is in its place
            shutil.rmtree(old, ignore_errors=True)


@contextmanager
def _locked(folder: Path) -> Iterator[bool]:
    """Whether the folder's lock was free; it is then held for the block. False where the file system has no locks."""
    from filelock import lock_descriptor

    handle, free = os.open(folder, os.O_RDONLY), False
    try:
        with suppress(OSError):
            free = lock_descriptor(handle, blocking=False)
        yield free
    finally:
        os.close(handle)


def write_text(path: str | Path, text: str) -> Path:
    """Write `text` as UTF-8 to `path` through a temporary name and a rename; returns the path."""
    with atomic_file(path) as file:
        file.write(text)
    return Path(path)


def write_json(path: str | Path, value: Any) -> Path:
    """Write `value` as indented JSON with Chinese readable; NaN is refused. Returns the path."""
    return write_text(path, json.dumps(value, ensure_ascii=False, indent=2, allow_nan=False) + "\n")


_CANNOT_WRITE = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO),  # the disk
    *(errno.EACCES, errno.EPERM, errno.EROFS),  # not allowed
    *(errno.EEXIST, errno.ENOTDIR),  # a file where the folder should be
}


def is_write_failure(error: BaseException) -> bool:
    """True where a file could not be written; torch 2.13 and safetensors have no class of error for a full disk."""
    if isinstance(error, OSError):
        return error.errno in _CANNOT_WRITE
    return any(words in str(error) for words in ("file write failed", "Error while serializing", "unexpected pos"))


def is_first_process() -> bool:
    """True in a run of one process, and in the first of several (`accelerate launch`), which writes for all."""
    return int(os.environ.get("RANK", "0")) == 0


@contextmanager
def run_lock(folder: str | Path) -> Iterator[None]:
    """Hold a run's folder, so that no second run writes into it; made where it is missing. When the process dies, the
    system frees it.

    The processes of one `accelerate launch` share a run, so only the first takes the lock. Where there can be none (the
    folder cannot be written to, or its file system has no locks) the run goes on without.

    Raises:
        FolderInUse: at once, where another run holds the folder; with its process and when it began.
    """
    from filelock import FileLock, Timeout

    if not is_first_process():
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
