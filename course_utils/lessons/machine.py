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
import sysconfig
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

from course_utils import hub
from course_utils.core.hardware import Hardware, detect_hardware, hardware_without_torch
from course_utils.core.paths import home, nearest

STACK = ("torch", "transformers", "trl", "peft", "datasets", "bitsandbytes", "unsloth")  # what a lesson computes with
COMPANIONS = ("torchvision", "torchaudio", "xformers")  # built for one torch each; the course needs none of them
EXTRAS = ({"extra": "gpu"}, {"extra": "serve"})  # of pyproject.toml: what lessons need beside its dependencies
UNSLOTH_FIRST = ("unsloth", "transformers", "trl", "peft")
BUS = Path("/sys/bus/pci/devices")  # Linux
NVIDIA_GPU = "pci:v000010DE.*bc03"  # a display controller (class 03) of NVIDIA (vendor 10DE)


@dataclass(frozen=True)
class Gpu:
    """An NVIDIA GPU as the driver lists it, whether torch sees it or not."""

    name: str
    free_gib: float | None = None  # None where the driver does not say


@dataclass(frozen=True)
class Findings:
    """What was seen on a machine; nothing in it is judged."""

    hardware: Hardware  # what torch can use
    system: str  # Linux, macOS, Windows, WSL1 or WSL2
    release: str  # the system's version and the processor's kind
    python: str
    requirements: tuple[str, ...]  # of pyproject.toml: the course, and what a lesson needs
    installed: Mapping[str, str]  # versions of those
    torch: str | None = None  # its own version string, with the build; None: it cannot be imported
    torch_cuda: str | None = None  # the CUDA it was built for
    torch_error: str = ""  # why it cannot be imported, or why it sees no GPU
    gpus: tuple[Gpu, ...] = ()
    gpu_on_bus: bool = False  # Linux's PCI bus holds an NVIDIA GPU, driver or not
    driver: str | None = None
    driver_cuda: str | None = None  # the newest CUDA that the driver serves
    smi_error: str = ""  # nvidia-smi is installed and fails: its words
    visible: str | None = None  # CUDA_VISIBLE_DEVICES
    compiler: str | None = None  # the C compiler that Triton would call (triton/runtime/build.py)
    python_h: bool = False  # the headers of this Python are there
    packager: str | None = None  # what installs both: conda or apt-get
    companions: Mapping[str, tuple[str, str]] = field(default_factory=dict)  # whose import fails: (version, why)
    imported: tuple[str, ...] = ()  # those of UNSLOTH_FIRST in this process, in the order they came
    late: tuple[hub.LateVariable, ...] = ()  # variables set after the library that reads them was imported
    writable: bool = True  # models/ is
    on_disk: bool = False  # the profile's model lies in models/
    hubs: Mapping[str, str | None] | None = None  # hub: why it is out of reach, None: reachable; None: not asked


def look() -> Findings:
    """Gather what can be seen of this machine and of this process, except what depends on profile and network."""
    asked = [Requirement(line) for line in requires("course-utils")]
    needed = [each for each in asked if each.marker is None or any(map(each.marker.evaluate, EXTRAS))]
    return Findings(
        python=platform.python_version(),
        requirements=tuple(f"{each.name}{each.specifier}" for each in needed),
        installed=versions(each.name for each in needed),
        gpu_on_bus=any(re.match(NVIDIA_GPU, file.read_text()) for file in BUS.glob("*/modalias")),
        visible=os.environ.get("CUDA_VISIBLE_DEVICES"),
        companions={name: (number, why) for name, number in versions(COMPANIONS).items() if (why := _fails(name))},
        imported=_order_of_arrival(),
        late=tuple(hub.late_variables()),
        compiler=next(filter(shutil.which, [os.environ["CC"]] if "CC" in os.environ else ["gcc", "clang"]), None),
        python_h=Path(sysconfig.get_path("include", "posix_prefix"), "Python.h").is_file(),
        packager="conda" if Path(sys.base_prefix, "conda-meta").is_dir() else shutil.which("apt-get") and "apt-get",
        writable=os.access(nearest(home() / "models"), os.W_OK),
        **_system(),
        **_ask_driver(),
        **_ask_torch(),
    )


def versions(names: Iterable[str]) -> dict[str, str]:
    """The versions of those packages that are installed."""
    found = {}
    for name in names:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def _system() -> dict[str, str]:
    """The system's name, and its version with the processor's kind; WSL is told by its kernel's name."""
    name, release = platform.system(), platform.release()
    if name == "Linux" and "microsoft" in release.lower():
        name = "WSL2" if "wsl2" in release.lower() or "microsoft-standard" in release else "WSL1"
    if name == "Darwin":
        name, release = "macOS", platform.mac_ver()[0]
    return {"system": name, "release": f"{'.'.join(release.split('.')[:2])}, {platform.machine()}"}


def _ask_torch() -> dict[str, Any]:
    """What torch says of itself and of the hardware; a torch that cannot be imported is a finding, not a failure."""
    try:
        import torch
    except Exception as error:  # not installed, or a library of it is missing
        return {"hardware": hardware_without_torch(), "torch_error": f"{type(error).__name__}: {error}"}
    found = {"hardware": detect_hardware(), "torch": torch.__version__, "torch_cuda": torch.version.cuda}
    if found["hardware"].device == "cpu":
        try:
            torch.cuda.current_device()  # is_available() swallows the reason; this raises it
        except Exception as error:
            found["torch_error"] = str(error).strip().split("\n")[0]
    return found


def _ask_driver() -> dict[str, Any]:
    """What nvidia-smi says of the GPUs and of the driver, or its complaint; nothing where it is not installed."""
    smi = shutil.which("nvidia-smi") or shutil.which("nvidia-smi", path="/usr/lib/wsl/lib")
    if smi is None:
        return {}
    code, listing = _run([smi, "--query-gpu=name,memory.free,driver_version", "--format=csv,noheader,nounits"])
    if code:
        return {"smi_error": listing.strip().split("\n")[0]}
    lines = re.findall(r"^(.+), (.+), ([\d.]+)$", listing, re.MULTILINE)
    gpus = tuple(Gpu(name, int(mib) / 1024 if mib.isdigit() else None) for name, mib, _ in lines)  # a slice: "[N/A]"
    header = re.search(r"CUDA Version:\s*([\d.]+)", _run([smi])[1])
    return {"gpus": gpus, "driver": lines[0][2] if lines else None, "driver_cuda": header[1] if header else None}


def _fails(name: str) -> str:
    """Why a package cannot be imported beside torch, tried in a process of its own; "" where it can."""
    code, said = _run([sys.executable, "-c", f"import torch, {name}"])
    return said.strip().split("\n")[-1] if code else ""


def _run(command: Sequence[str]) -> tuple[int, str]:
    """Exit code and words of a command that must not hang."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=60)
    except (OSError, subprocess.TimeoutExpired) as error:
        return 1, str(error)
    return done.returncode, done.stdout + done.stderr


def _order_of_arrival() -> tuple[str, ...]:
    """The packages of UNSLOTH_FIRST in this process, in the order in which their imports began."""
    # A package moves to the end of sys.modules when its import is done, and Unsloth's import ends after those of all
    # that it imports itself. The first of its inner modules keeps its place.
    tops = dict.fromkeys(name.split(".")[0] for name in sys.modules)
    return tuple(name for name in tops if name in UNSLOTH_FIRST)
