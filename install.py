"""Install the course into the Python that runs this file: `make` calls it, and so does the notebooks' Colab cell.

Standard library only. Versions come from pyproject.toml; whether CUDA packages are wanted is seen from `nvidia-smi`.
"""

import re
import shutil
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parent
TORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"
PYTHONS = (3, 11), (3, 13)  # the oldest and the newest
EXTRAS = "trackers,lab,serve,test"
# No `lab`: Colab's page talks to the old Jupyter that Colab brings, and newer packages break it. No `test`, no
# `trackers`: no notebook needs them.
COLAB_EXTRAS = "serve"


def has_gpu() -> bool:
    """True where NVIDIA's driver lists at least one GPU."""
    if shutil.which("nvidia-smi") is None:
        return False
    listing = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False)
    return listing.returncode == 0 and "GPU" in listing.stdout


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
    if has_gpu():
        print("Found an NVIDIA GPU: installing the CUDA packages (several GB).", flush=True)
        pip_install("--editable", f"{ROOT}[gpu,{extras}]", *kept)
        return
    print("No NVIDIA GPU: installing the CPU packages (about 2 GB on disk, 1 to 3 minutes).", flush=True)
    if not kept:
        torch = f"torch=={pins['tool']['course']['cpu_torch']}"
        # --no-deps: a CUDA build that some index offers for the same version would bring gigabytes with it.
        pip_install("--no-deps", "--retries", "1", "--extra-index-url", TORCH_CPU_INDEX, torch)
    pip_install("--editable", f"{ROOT}[{extras}]", *kept)
    # Unsloth's metadata ask for torchvision and xformers, which break `import transformers` beside a CPU torch.
    pip_install("--no-deps", *pins["project"]["optional-dependencies"]["gpu"])


if __name__ == "__main__":
    main()
