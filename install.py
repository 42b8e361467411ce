"""Install the course into the Python that runs this file: `make` calls it, and so does the Colab cell.

Standard library only. Versions come from pyproject.toml; whether CUDA packages are wanted is seen from `nvidia-smi`.
"""

import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent
TORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"


def has_card() -> bool:
    """True where NVIDIA's driver lists at least one card."""
    if shutil.which("nvidia-smi") is None:
        return False
    listing = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False)
    return listing.returncode == 0 and "GPU" in listing.stdout


def pip_install(*arguments: str) -> None:
    """Run `pip install` quietly in this Python; a failure ends the installation with pip's own words."""
    # --no-compile: Python compiles a module when it is first imported, and most of these never are.
    quick = ["--quiet", "--disable-pip-version-check", "--no-compile"]
    if subprocess.run([sys.executable, "-m", "pip", "install", *quick, *arguments], check=False).returncode:
        sys.exit("The installation failed; what pip says above is why. Mend it and run the same command again.")


def main() -> None:
    """Install torch, the course with its extras, and Unsloth, in the order that works on this machine."""
    if not (3, 11) <= sys.version_info[:2] <= (3, 12):
        sys.exit(f"The course needs Python 3.11 or 3.12; this is {sys.version.split()[0]} at {sys.executable}.")
    pins = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    course = f"{ROOT}[trackers,lab,serve,test]"
    pip_install("--upgrade", "pip")
    if has_card():
        print("Found an NVIDIA card: installing the CUDA packages (several GB).", flush=True)
        pip_install("--editable", f"{ROOT}[gpu,trackers,lab,serve,test]")
        return
    print("No NVIDIA card: installing the CPU packages (about 2 GB on disk, 1 to 3 minutes).", flush=True)
    torch = f"torch=={pins['tool']['course']['cpu_torch']}"
    # --no-deps: a CUDA build that some index offers for the same version would bring gigabytes with it.
    pip_install("--no-deps", "--retries", "1", "--extra-index-url", TORCH_CPU_INDEX, torch)
    pip_install("--editable", course)
    # Unsloth's metadata ask for torchvision and xformers, which break `import transformers` beside a CPU torch.
    pip_install("--no-deps", *pins["project"]["optional-dependencies"]["gpu"])


if __name__ == "__main__":
    main()
