"""Install the course into the Python that runs this file: `make` calls it, and so does the notebooks' Colab cell.

Standard library only. Versions come from pyproject.toml; whether CUDA packages are wanted, and for which CUDA, is seen
from `nvidia-smi`.
"""

import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parent
TORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"
TORCH_OLD_GPU_INDEX = "https://download.pytorch.org/whl/cu126"
PYTHONS = (3, 11), (3, 13)  # the oldest and the newest
EXTRAS = "trackers,lab,serve,test"
# No `lab`: Colab's page talks to the old Jupyter that Colab brings, and newer packages break it. No `test`, no
# `trackers`: no notebook needs them.
COLAB_EXTRAS = "serve"
VARIABLE = "COURSE_CUDA"  # says what the driver will serve where an image is built on another machine (Dockerfile)
OLDEST_CUDA = 12.0  # that a driver must serve: no torch of the course's range is built for an older one


def ask_driver(*question: str) -> str:
    """What `nvidia-smi` answers; nothing where it is not installed or fails."""
    if shutil.which("nvidia-smi") is None:
        return ""
    answer = subprocess.run(["nvidia-smi", *question], capture_output=True, text=True, check=False)
    return "" if answer.returncode else answer.stdout


def driver_cuda() -> float | None:
    """The newest CUDA that NVIDIA's driver serves; None where it lists no GPU."""
    if stated := os.environ.get(VARIABLE):
        if not re.fullmatch(r"\d+\.\d+", stated):
            sys.exit(
                f'{VARIABLE} is "{stated}"; it takes what nvidia-smi says on the machine with the GPU, such as 12.8.'
            )
        return float(stated)
    if "GPU" not in ask_driver("-L"):
        return None
    said = re.search(r"CUDA Version:\s*(\d+\.\d+)", ask_driver())
    return float(said[1]) if said else OLDEST_CUDA  # a torch for CUDA 12 runs on newer drivers, too


def torch_for(cuda: float, cuda12_torch: str) -> list[str]:
    """pip's words for a torch that this driver and these GPUs can use.

    Args:
        cuda: the newest CUDA that the driver serves.
        cuda12_torch: the version whose build on the package index is one for CUDA 12.

    Returns:
        Nothing where the newest torch of the course's range will do, which is built for CUDA 13. It needs a driver that
        serves CUDA 13 (580 or newer) and a GPU of compute capability 7.5 (Turing) or more.
    """
    capabilities = re.findall(r"\d+\.\d+", ask_driver("--query-gpu=compute_cap", "--format=csv,noheader"))
    oldest = min(map(float, capabilities), default=7.5)
    if cuda >= 13 and oldest >= 7.5:
        return []
    if oldest >= 7.0:  # the build for CUDA 12.8 still has Volta's kernels, and none for older GPUs
        return [f"torch=={cuda12_torch}"]
    return ["--extra-index-url", TORCH_OLD_GPU_INDEX, f"torch=={cuda12_torch}+cu126"]


def on_colab() -> bool:
    """True on a machine of Google Colab, which has Google's own package."""
    return find_spec("google") is not None and find_spec("google.colab") is not None


def pip(command: str, *arguments: str) -> None:
    """Run pip quietly in this Python; a failure ends the installation with pip's own words."""
    line = [sys.executable, "-m", "pip", command, "--quiet", "--disable-pip-version-check", *arguments]
    # Kept back: on Colab pip complains at length about packages that the course does not use.
    run = subprocess.run(line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if run.returncode:
        sys.exit(f"{run.stdout}\nThe installation failed; what pip says above is why. Mend it and try again.")


def pip_install(*arguments: str) -> None:
    """Run `pip install`."""
    # --no-compile: Python compiles a module when it is first imported, and most of these never are.
    pip("install", "--no-compile", *arguments)


def installed(*names: str) -> dict[str, str]:
    """The versions of those packages that are installed."""
    found = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def keep_colabs_torch(wanted: str) -> list[str]:
    """Pins that keep Colab's own torch, and what was built for it, as they are; what would break beside it is removed.

    Args:
        wanted: the course's range, "torch>=2.9,<2.15".

    Returns:
        Pins for pip's line; none where Colab's torch is outside of the range and gets replaced.
    """
    found = installed("torch", "torchvision", "torchaudio")
    lowest, above = (tuple(map(int, bound)) for bound in re.findall(r"(\d+)\.(\d+)", wanted))
    torch = found.get("torch", "0.0")
    fits = lowest <= tuple(map(int, torch.split(".")[:2])) < above
    print(f"Colab's torch {torch} {'stays' if fits else f'is replaced: the course needs {wanted}'}.", flush=True)
    # torchvision built for another torch breaks `import transformers`. PEFT refuses the old torchao that Colab brings;
    # the course does without, and with a GPU Unsloth's metadata bring a new one.
    misfits = installed("torchao", *(() if fits else ("torchvision", "torchaudio")))
    if misfits:
        pip("uninstall", "--yes", *misfits)
    return [f"{name}=={number}" for name, number in found.items()] if fits else []


def main() -> None:
    """Install torch, the course with its extras, and Unsloth, in the order that works on this machine."""
    colab = on_colab()
    oldest, newest = PYTHONS
    if not oldest <= sys.version_info[:2] <= newest:
        remedy = " Choose Runtime > Change runtime type > Runtime version, one with such a Python." if colab else ""
        sys.exit(
            f"The course needs Python {'.'.join(map(str, oldest))} to {'.'.join(map(str, newest))}; "
            f"this is {sys.version.split()[0]} at {sys.executable}.{remedy}"
        )
    import tomllib  # not at the top: a Python that is too old has none

    pins = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    (torch_range,) = (line for line in pins["project"]["dependencies"] if re.match(r"torch\W", line))
    kept = keep_colabs_torch(torch_range) if colab else []
    extras = COLAB_EXTRAS if colab else EXTRAS
    pip_install("--upgrade", "pip")
    cuda = driver_cuda()
    if cuda and cuda >= OLDEST_CUDA:
        torch = kept or torch_for(cuda, pins["tool"]["course"]["cuda12_torch"])
        print(f"For a driver that serves CUDA {cuda}: installing the CUDA packages (several GB).", flush=True)
        pip_install("--editable", f"{ROOT}[gpu,{extras}]", *torch)
        return
    too_old = f"NVIDIA's driver serves CUDA {cuda}, and torch needs {OLDEST_CUDA} (update the driver to use the GPU)"
    print(
        f"{too_old if cuda else 'No NVIDIA GPU'}: installing the CPU packages (about 2 GB on disk, 1 to 3 minutes).",
        flush=True,
    )
    if not kept:
        torch = f"torch=={pins['tool']['course']['cpu_torch']}"
        # --no-deps: a CUDA build that some index offers for the same version would bring gigabytes with it.
        pip_install("--no-deps", "--retries", "1", "--extra-index-url", TORCH_CPU_INDEX, torch)
    pip_install("--editable", f"{ROOT}[{extras}]", *kept)
    # Unsloth's metadata ask for torchvision and xformers, which break `import transformers` beside a CPU torch.
    pip_install("--no-deps", *pins["project"]["optional-dependencies"]["gpu"])


if __name__ == "__main__":
    main()
