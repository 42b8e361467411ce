"""course_utils.core.files: a file or a folder is whole or absent, whatever happens while it is written."""

import errno
import json
import os
import re
import signal
import stat
import subprocess
import sys
from contextlib import contextmanager

import pytest
from conftest import ROOT

from course_utils import files
from course_utils.core.files import FolderInUse, atomic_dir, atomic_file, run_lock, write_json, write_text


def names(folder):
    return sorted(path.name for path in folder.rglob("*"))


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


# ---------------------------------------------------------------------------------------------------------------- files
def test_a_file_appears_when_it_is_whole_and_not_before(tmp_path):
    path = tmp_path / "deep" / "down" / "a.txt"
    with atomic_file(path) as file:
        file.write("half")
        file.flush()
        assert not path.exists()
    assert path.read_text() == "half" and mode(path) == 0o644 and names(tmp_path) == ["a.txt", "deep", "down"]


def test_the_old_file_is_there_until_the_new_one_is_whole(tmp_path):
    path = write_text(tmp_path / "a.txt", "old")
    with atomic_file(path) as file:
        file.write("new")
        file.flush()
        assert path.read_text() == "old"
    assert path.read_text() == "new" and names(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("old", ["old", None])
def test_an_error_inside_leaves_the_old_file_and_nothing_else(tmp_path, error, old):
    path = tmp_path / "a.txt"
    if old is not None:
        write_text(path, old)
    with pytest.raises(error), atomic_file(path) as file:
        file.write("new")
        raise error
    assert names(tmp_path) == ([] if old is None else ["a.txt"])
    assert old is None or path.read_text() == old


def test_text_is_utf8_and_its_line_breaks_stay(tmp_path):
    path = write_text(str(tmp_path / "a.txt"), "你好 😀\r\nb\n\u2028")
    assert path == tmp_path / "a.txt" and path.read_bytes() == "你好 😀\r\nb\n\u2028".encode()


def test_text_that_cannot_be_encoded_leaves_the_old_file(tmp_path):
    path = write_text(tmp_path / "a.txt", "old")
    with pytest.raises(UnicodeEncodeError):
        write_text(path, "x" * 10**6 + "\ud83d")
    assert path.read_text() == "old" and names(tmp_path) == ["a.txt"]


def test_a_file_takes_no_folders_place(tmp_path):
    (tmp_path / "a").mkdir()
    with pytest.raises(OSError):
        write_text(tmp_path / "a", "x")
    assert names(tmp_path) == ["a"]


def test_json_is_readable_and_what_is_no_json_leaves_the_old_file(tmp_path):
    path = write_json(tmp_path / "a.json", {"键": [1.5, None]})
    assert path.read_text(encoding="utf-8") == '{\n  "键": [\n    1.5,\n    null\n  ]\n}\n'
    for value in (float("nan"), {1, 2}):
        with pytest.raises((ValueError, TypeError)):
            write_json(path, [value])
    assert json.loads(path.read_text(encoding="utf-8")) == {"键": [1.5, None]} and names(tmp_path) == ["a.json"]


# -------------------------------------------------------------------------------------------------------------- folders
def test_a_folder_appears_when_it_is_whole_and_can_be_read_by_others(tmp_path):
    target = tmp_path / "deep" / "a"
    with atomic_dir(target) as draft:
        (draft / "one").write_text("1")
        assert not target.exists() and draft.parent == target.parent
    assert names(tmp_path) == ["a", "deep", "one"] and mode(target) == 0o755


def test_an_old_folder_is_replaced_whole(tmp_path):
    for name in ("one", "two"):
        with atomic_dir(tmp_path / "a") as draft:
            (draft / name).mkdir()
            (draft / name / "x").write_text(name)
    assert names(tmp_path) == ["a", "two", "x"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("old", [True, False])
def test_an_error_inside_leaves_the_old_folder_and_nothing_else(tmp_path, error, old):
    target = tmp_path / "a"
    if old:
        target.mkdir()
        (target / "one").write_text("1")
    with pytest.raises(error), atomic_dir(target) as draft:
        (draft / "two").write_text("2")
        raise error
    assert names(tmp_path) == (["a", "one"] if old else [])


def test_two_writers_of_one_folder_do_not_mix(tmp_path):
    with atomic_dir(tmp_path / "a") as first:
        with atomic_dir(tmp_path / "a") as second:
            (second / "two").write_text("2")
        (first / "one").write_text("1")
    assert names(tmp_path) == ["a", "one"]


def test_a_folder_whose_last_step_fails_leaves_the_old_one_in_its_place(tmp_path, monkeypatch):
    target = tmp_path / "a"
    target.mkdir()
    (target / "one").write_text("1")
    replace = files.os.replace

    def fails_for_the_draft(source, destination):
        if str(source).endswith(".part"):
            raise OSError("the disk went away")
        replace(source, destination)

    monkeypatch.setattr(files.os, "replace", fails_for_the_draft)
    with pytest.raises(OSError, match="went away"), atomic_dir(target) as draft:
        (draft / "two").write_text("2")
    assert names(tmp_path) == ["a", "one"]


# ---------------------------------------------------------------------------------------------------------------- locks
@contextmanager
def another_process(code, *arguments):
    """A Python process that runs `code` and then waits until it is killed."""
    wait = "\nprint('ready', flush=True)\nimport time; time.sleep(60)"
    process = subprocess.Popen(
        [sys.executable, "-c", code + wait, *map(str, arguments)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout.readline() == "ready\n"
        yield process
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()


HOLD = "import sys; from course_utils.core.files import run_lock; held = run_lock(sys.argv[1]); held.__enter__()"


def test_a_second_run_in_a_folder_is_refused_at_once_until_the_first_is_gone(tmp_path):
    folder = tmp_path / "deep" / "run"
    with another_process(HOLD, folder) as other:
        message = rf"{re.escape(str(folder))} \(process {other.pid}, since \d{{4}}-.*output_dir"
        with pytest.raises(FolderInUse, match=message), run_lock(folder):
            pass
        with run_lock(tmp_path / "deep" / "other"):
            pass
    with run_lock(folder):  # killed, it could not clean up
        pass
    assert list(folder.iterdir()) == []


def test_the_same_process_is_refused_as_well_and_an_error_frees_the_folder(tmp_path):
    with pytest.raises(KeyError), run_lock(tmp_path):
        with pytest.raises(FolderInUse, match=f"process {os.getpid()}"), run_lock(tmp_path):
            pass
        raise KeyError
    with run_lock(tmp_path):
        pass


def test_the_other_processes_of_a_launch_share_the_run(tmp_path, monkeypatch):
    with run_lock(tmp_path):
        monkeypatch.setenv("RANK", "1")
        with run_lock(tmp_path):
            pass
        assert names(tmp_path) == [".lock"]
        monkeypatch.setenv("RANK", "0")
        with pytest.raises(FolderInUse), run_lock(tmp_path):
            pass


def test_where_no_lock_can_be_had_the_run_says_itself_what_is_wrong(tmp_path):
    write_text(tmp_path / "file", "not a folder")
    with run_lock(tmp_path / "file" / "run"):
        pass
    with pytest.raises(ZeroDivisionError), run_lock(tmp_path / "file" / "run"):
        raise ZeroDivisionError


# ----------------------------------------------------------------------------------------------- after a killed process
BEGIN = """
import os, sys
from course_utils.core import files
block = files.atomic_dir(sys.argv[1])
(block.__enter__() / "half").write_text("x")
"""
KILLED_BETWEEN_THE_RENAMES = """
import os, sys, time
from course_utils.core import files
replace = os.replace
def slow(source, target):
    if str(source).endswith(".part"):
        print("ready", flush=True)
        time.sleep(60)
    replace(source, target)
files.os.replace = slow
with files.atomic_dir(sys.argv[1]) as draft:
    (draft / "new").write_text("x")
"""


@pytest.fixture
def a(tmp_path):
    """An older folder, beside files of others whose names look like drafts of it."""
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "old").write_text("1")
    (tmp_path / ".a.0123abcd.part").mkdir()  # a download that can go on
    (tmp_path / ".a.b.draft-0123abcd.part").mkdir()
    return tmp_path / "a"


OTHERS = [".a.0123abcd.part", ".a.b.draft-0123abcd.part"]


@pytest.mark.parametrize("write", [write_text, write_json])
def test_the_next_write_removes_what_a_killed_one_left(tmp_path, a, write):
    with another_process(BEGIN, a):
        write(tmp_path / "b", "x")
        assert len(list(tmp_path.glob(".a.draft-*"))) == 1
    assert len(list(tmp_path.glob(".a.draft-*"))) == 1
    with pytest.raises(KeyError), atomic_dir(a):
        raise KeyError
    assert names(tmp_path) == [*OTHERS, "a", "b", "old"]


def test_the_draft_of_a_living_process_stays(tmp_path, a):
    with another_process(BEGIN, a):
        with atomic_dir(a) as draft:
            (draft / "mine").write_text("x")
        assert len([name for name in names(tmp_path) if name == "half"]) == 1
    with atomic_dir(a):
        pass
    assert names(tmp_path) == [*OTHERS, "a"]


@pytest.mark.parametrize("made_anew", [False, True])
def test_a_folder_that_a_killed_process_had_moved_away_is_put_back(tmp_path, a, made_anew):
    with another_process(KILLED_BETWEEN_THE_RENAMES, a):
        assert not a.exists()
        with pytest.raises(KeyError), atomic_dir(a):  # while that process lives, its folders are its own
            raise KeyError
        assert not a.exists()
    if made_anew:
        a.mkdir()
        (a / "new").write_text("2")
    with pytest.raises(KeyError), atomic_dir(a):
        raise KeyError
    assert names(tmp_path) == [*OTHERS, "a", "new" if made_anew else "old"]


def test_an_older_folder_whose_successor_is_in_place_is_removed(tmp_path, a):
    (tmp_path / ".a.draft-x.old").mkdir()
    write_text(tmp_path / "b", "x")
    assert ".a.draft-x.old" in names(tmp_path)
    with atomic_dir(a):
        pass
    assert names(tmp_path) == [*OTHERS, "a", "b"]


def test_without_locks_nothing_of_others_is_touched(tmp_path, a, monkeypatch):
    def no_locks(handle, *, blocking):
        raise OSError(errno.ENOLCK, "no locks")

    with another_process(BEGIN, a):
        pass
    monkeypatch.setattr("filelock.lock_descriptor", no_locks)
    with atomic_dir(a) as draft:
        (draft / "mine").write_text("x")
    assert {"half", "mine"} <= set(names(tmp_path))


# --------------------------------------------------------------------------------------------------------- full disks
@pytest.mark.parametrize(
    "error",
    [
        *(OSError(number, "") for number in (errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EFBIG, errno.ENOTDIR)),
        RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 64 vs 0"),
        RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed"),
        Exception("Error while serializing: I/O error: No space left on device (os error 28)"),
    ],
)
def test_a_file_that_could_not_be_written(error):
    assert files.is_write_failure(error)


@pytest.mark.parametrize(
    "error",
    [
        BrokenPipeError(errno.EPIPE, "Broken pipe"),
        ConnectionResetError(errno.ECONNRESET, "reset"),
        FileNotFoundError(errno.ENOENT, "no such file"),
        TimeoutError("timed out"),
        OSError("no model of that name"),
        RuntimeError("shape mismatch"),
    ],
)
def test_another_error_is_no_full_disk(error):
    assert not files.is_write_failure(error)
