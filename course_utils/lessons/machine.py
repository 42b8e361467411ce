"""What can be seen of a machine and of this process, without judging any of it; `doctor` does that.

Nothing is imported that a fault could hide in: companions of torch are tried in a process of their own.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, metadata, requires, version
from pathlib import Path
from typing import Any, Literal

from packaging.requirements import Requirement

from course_utils import hub
from course_utils.core.hardware import Hardware, cpu_bf16, detect_hardware, hardware_without_torch
from course_utils.core.paths import home

STACK = ("torch", "transformers", "trl", "peft", "datasets", "bitsandbytes", "unsloth")  # what a lesson computes with
COMPANIONS = ("torchvision", "torchaudio", "xformers")  # built for one torch each; the course needs none of them
EXTRAS = ({"extra": "gpu"}, {"extra": "serve"})  # of pyproject.toml: what lessons need beside its dependencies
UNSLOTH_FIRST = ("unsloth", "transformers", "trl", "peft")

# What Linux shows as files.
DRIVER_GPUS = Path("/proc/driver/nvidia/gpus")
BUS = Path("/sys/bus/pci/devices")


@dataclass(frozen=True)
class Gpu:
    """An NVIDIA GPU as the driver lists it, whether torch sees it or not. Sizes in GiB; None where not stated."""

    name: str
    total_gib: float | None = None
    free_gib: float | None = None


@dataclass(frozen=True)
class Findings:
    """What was seen on a machine; nothing in it is judged."""

    hardware: Hardware  # what torch can use
    system: Literal["Linux", "macOS", "Windows", "WSL1", "WSL2"]
    release: str  # the system's version and the processor's kind
    python: str
    requires_python: str  # of pyproject.toml
    requirements: tuple[str, ...]  # of pyproject.toml: the course, and what a lesson needs
    installed: Mapping[str, str]  # versions of those
    torch: str | None = None  # its own version string, with the build; None: it cannot be imported
    torch_cuda: str | None = None  # the CUDA it was built for
    torch_error: str = ""  # why it cannot be imported, or why it sees no GPU although there is one
    gpus: tuple[Gpu, ...] = ()
    gpu_on_bus: bool = False  # Linux's PCI bus holds an NVIDIA GPU, driver or not
    driver: str | None = None
    driver_cuda: str | None = None  # the newest CUDA that the driver serves
    smi_error: str | None = None  # nvidia-smi is installed and fails: its words
    visible: str | None = None  # CUDA_VISIBLE_DEVICES
    cpu_bf16: tuple[str, ...] = ()  # the CPU's bfloat16 instructions
    companions: Mapping[str, tuple[str, str]] | None = None  # installed ones: (version, why it cannot be imported)
    imported: tuple[str, ...] = ()  # those of UNSLOTH_FIRST in this process, in the order they came
    late: tuple[hub.LateVariable, ...] = ()  # variables set after the library that reads them was imported
    unwritable: str = ""  # why nothing can be written to models/
    on_disk: bool = False  # the profile's model lies in models/
    hubs: Mapping[str, str | None] | None = None  # hub: why it is out of reach, None: reachable; None: not asked


def look() -> Findings:
    """Gather what can be seen of this machine and of this process, except what depends on profile and network."""
    asked = [Requirement(line) for line in requires("course-utils") or ()]
    needed = [each for each in asked if each.marker is None or any(map(each.marker.evaluate, EXTRAS))]
    system, release = _system()
    gpus, driver, driver_cuda, smi_error = _ask_driver()
    return Findings(
        system=system,
        release=release,
        python=platform.python_version(),
        requires_python=metadata("course-utils")["Requires-Python"],
        requirements=tuple(f"{each.name}{each.specifier}" for each in needed),
        installed=versions(each.name for each in needed),
        gpus=gpus,
        gpu_on_bus=_gpu_on_bus(),
        driver=driver,
        driver_cuda=driver_cuda,
        smi_error=smi_error,
        visible=os.environ.get("CUDA_VISIBLE_DEVICES"),
        companions={name: (number, _try_import(name)) for name, number in versions(COMPANIONS).items()},
        imported=_order_of_arrival(),
        late=tuple(hub.late_variables()),
        unwritable=_unwritable(home() / "models"),
        **_ask_torch(bool(gpus)),
    )


def versions(names: Iterable[str]) -> dict[str, str]:
    """The versions of those packages that are installed."""
    found = {}
    for name in names:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def _system() -> tuple[Any, str]:
    """The system's name, and its version with the processor's kind; WSL is told by its kernel's name."""
    name, release = platform.system(), platform.release()
    if name == "Linux" and "microsoft" in release.lower():
        name = "WSL2" if "wsl2" in release.lower() or "microsoft-standard" in release else "WSL1"
    if name == "Darwin":
        name, release = "macOS", platform.mac_ver()[0]
    return name, f"{'.'.join(release.split('.')[:2])}, {platform.machine()}"


def _ask_torch(gpu_there: bool) -> dict[str, Any]:
    """What torch says of itself and of the hardware; a torch that cannot be imported is a finding, not a failure."""
    try:
        import torch
    except Exception as error:  # not installed, or a library of it is missing
        return {"hardware": hardware_without_torch(), "torch_error": f"{type(error).__name__}: {error}"}
    hardware, torch_error = detect_hardware(), ""
    if gpu_there and hardware.device == "cpu":
        try:
            torch.cuda.current_device()  # is_available() swallows the reason; this raises it
        except Exception as error:
            torch_error = str(error).strip().split("\n")[0]
    return {
        "hardware": hardware,
        "torch": torch.__version__,
        "torch_cuda": torch.version.cuda,
        "torch_error": torch_error,
        "cpu_bf16": cpu_bf16(),
    }


def _ask_driver() -> tuple[tuple[Gpu, ...], str | None, str | None, str | None]:
    """(GPUs, driver version, newest CUDA it serves, nvidia-smi's complaint), from nvidia-smi or Linux's /proc."""
    smi = shutil.which("nvidia-smi") or shutil.which("nvidia-smi", path="/usr/lib/wsl/lib")
    if smi is None:
        texts = (file.read_text(errors="replace") for file in DRIVER_GPUS.glob("*/information"))
        models = tuple(Gpu(name) for text in texts for name in re.findall(r"Model:\s*(.+?)\s*$", text, re.MULTILINE))
        return models, None, None, None
    asked = "--query-gpu=name,driver_version,memory.total,memory.free"
    code, listing = _run([smi, asked, "--format=csv,noheader,nounits"])
    if code:
        return (), None, None, listing.strip().split("\n")[0]
    lines = [[cell.strip() for cell in line.split(",")] for line in listing.strip().splitlines()]
    sizes = ([int(mib) / 1024 if mib.isdigit() else None for mib in line[2:]] for line in lines)  # or "[N/A]": a slice
    gpus = tuple(Gpu(line[0], *size) for line, size in zip(lines, sizes, strict=True))
    header = re.search(r"CUDA Version:\s*([\d.]+)", _run([smi])[1])
    return gpus, lines[0][1] if lines else None, header[1] if header else None, None


def _gpu_on_bus() -> bool:
    """True where Linux's PCI bus holds a display controller (class 03) of NVIDIA (vendor 10de)."""
    try:
        return any(
            (device / "vendor").read_text().strip() == "0x10de" and (device / "class").read_text().startswith("0x03")
            for device in BUS.glob("*")
        )
    except OSError:
        return False


def _try_import(name: str) -> str:
    """Import a package beside torch in a process of its own; the last line of the error, "" where it works."""
    code, said = _run([sys.executable, "-c", f"import torch, {name}"])
    return said.strip().split("\n")[-1] if code else ""


def _run(command: Sequence[str]) -> tuple[int, str]:
    """Exit code and words of a command that must not hang."""
    both = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    try:
        done = subprocess.run(command, **both, text=True, errors="replace", timeout=60)
    except (OSError, subprocess.TimeoutExpired) as error:
        return 1, str(error)
    return done.returncode, done.stdout


def _order_of_arrival() -> tuple[str, ...]:
    """The packages of UNSLOTH_FIRST in this process, in the order in which their imports began."""
    # A package moves to the end of sys.modules when its import is done, and Unsloth's import ends after those of all
    # that it imports itself. The first of its inner modules keeps its place.
    tops = dict.fromkeys(name.split(".")[0] for name in sys.modules)
    return tuple(name for name in tops if name in UNSLOTH_FIRST)


def _unwritable(folder: Path) -> str:
    """Why no file can be made in a folder; "" where one can."""
    while not folder.exists():
        folder = folder.parent
    try:
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        return error.strerror or str(error)
    return ""
