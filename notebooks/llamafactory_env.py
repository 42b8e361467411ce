"""LLaMA-Factory in an environment of its own, and what is started in it: `make llamafactory` makes the environment.

It pins other versions of transformers, datasets and TRL than the course, so it cannot live beside them.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import yaml

from course_utils.core.errors import CourseError
from course_utils.core.files import write_text
from course_utils.core.paths import home
from course_utils.core.programs import TEXT
from notebooks.launching import first_error

VERSION = "0.9.5"
GRADIO = "5.50.0"  # pip may settle on an older one, which asks huggingface_hub for what it has no more
HERE = Path(__file__).parent
OFFLINE = {
    "HF_HUB_OFFLINE": "1",  # the base lies in a folder
    "DISABLE_VERSION_CHECK": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "GRADIO_SERVER_NAME": "127.0.0.1",  # its own default lets everybody in
    "GRADIO_ANALYTICS_ENABLED": "False",
}
FOREIGN = ("PYTHON", "VIRTUAL_ENV", "MPLBACKEND")  # the course's own; a notebook's MPLBACKEND is not installed there
MISSING = "LLaMA-Factory is not installed here. `make llamafactory` makes its environment (2 GB, a few minutes)."


class FactoryError(CourseError):
    """LLaMA-Factory is not there, or what it was asked for failed."""


class Run(NamedTuple):
    """What a training by LLaMA-Factory came to."""

    log: list[dict[str, float]]  # a dict per logged step: step, loss, learning rate
    seconds: float  # of the training alone, as it reports them
    gib: float  # the most memory that its processes held together
    adapter: Path


def folder() -> Path:
    """Where the environment lies."""
    return home() / ".venv-llamafactory"


def program(name: str = "python") -> Path:
    """A program of the environment.

    Raises:
        FactoryError: there is none; the message says how to get it.
    """
    path = folder() / ("Scripts" if os.name == "nt" else "bin") / name
    if not path.exists():
        raise FactoryError(MISSING)
    return path


def install() -> None:
    """Make the environment anew: LLaMA-Factory beside the torch of the course.

    On a CPU without torchvision and torchaudio, which it asks for: what the package index has of them are CUDA builds,
    and no text model needs them. An empty module takes the place of torchaudio, because it is imported all the same.
    """
    from install import TORCH_CPU_INDEX  # it lies at the top of the clone, where `make` starts this

    shutil.rmtree(folder(), ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", str(folder())], check=True)
    torch, _, build = version("torch").partition("+")
    if build != "cpu":
        _pip(f"llamafactory=={VERSION}", f"gradio=={GRADIO}")
        return
    _pip("--no-deps", "--retries", "1", "--extra-index-url", TORCH_CPU_INDEX, f"torch=={torch}")
    _pip("--no-deps", f"llamafactory=={VERSION}")
    asked = "from importlib.metadata import requires; import sysconfig\n"
    asked += "print(sysconfig.get_paths()['purelib'], *requires('llamafactory'), sep='\\n')"
    site, *needs = _run([program(), "-c", asked]).splitlines()
    needs = [need for need in needs if "extra ==" not in need and not need.startswith(("torchvision", "torchaudio"))]
    _pip(*needs, f"gradio=={GRADIO}")
    write_text(Path(site, "torchaudio", "__init__.py"), "")


def _pip(*words: str) -> None:
    command = [str(program()), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *words]
    subprocess.run(command, check=True)


def labels(recipe: Mapping[str, Any]) -> list[dict[str, list[int]]]:
    """Ids and labels of every row, as LLaMA-Factory makes them for this recipe."""
    file = Path(recipe["output_dir"], "recipe.yaml")
    # -P: else our own llamafactory.py, which lies beside that script, would be taken for the package.
    said = _run([program(), "-P", HERE / "llamafactory_labels.py", _written(recipe, file)])
    return json.loads(said.splitlines()[-1])


def train(recipe: Mapping[str, Any], *, processes: int = 1) -> Run:
    """`llamafactory-cli train` on a recipe; its whole output lands in `train.log` in the recipe's `output_dir`.

    Args:
        recipe: from `llamafactory.recipe`.
        processes: more than one: its launcher starts as many by torchrun, on the CPU.

    Raises:
        FactoryError: it ended with an error; the message holds the first error.
    """
    out = Path(recipe["output_dir"])
    file = _written(recipe, out / "recipe.yaml")
    launcher = {"FORCE_TORCHRUN": "1", "NPROC_PER_NODE": str(processes)} if processes > 1 else {}
    gib = _watched([program("llamafactory-cli"), "train", file], out / "train.log", launcher)
    lines = map(json.loads, (out / "trainer_log.jsonl").read_text(encoding="utf-8").splitlines())
    results = json.loads((out / "train_results.json").read_text(encoding="utf-8"))
    log = [{"step": line["current_steps"], "loss": line["loss"], "lr": line["lr"]} for line in lines if "loss" in line]
    return Run(log, results["train_runtime"], gib, out)


def _written(recipe: Mapping[str, Any], file: Path) -> Path:
    return write_text(file, yaml.safe_dump(dict(recipe), sort_keys=False, allow_unicode=True))


def environment(more: Mapping[str, str]) -> dict[str, str]:
    """The variables of a program in the environment: none of the course's own Python, and its own programs first."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)}
    return kept | OFFLINE | more | {"PATH": f"{program().parent}{os.pathsep}{os.environ['PATH']}"}


def _run(command: list[Any]) -> str:
    done = subprocess.run(list(map(str, command)), env=environment({}), capture_output=True, check=False, **TEXT)
    if done.returncode:
        raise FactoryError(f"LLaMA-Factory ended with {done.returncode}: {first_error(done.stderr)}")
    return done.stdout


def _watched(command: list[Any], log: Path, more: Mapping[str, str]) -> float:
    """Run a program into a log; returns the most memory that it and its children held, in GiB."""
    most = 0
    with log.open("w", encoding="utf-8") as out:
        process = psutil.Popen(list(map(str, command)), env=environment(more), stdout=out, stderr=out)
        try:
            while process.poll() is None:
                most = max(most, sum(map(_resident, [process, *process.children(recursive=True)])))
                time.sleep(0.2)
        finally:
            if process.is_running() and process.poll() is None:
                process.terminate()
    if process.returncode:
        said = log.read_text(encoding="utf-8", errors="replace")
        raise FactoryError(f"LLaMA-Factory ended with {process.returncode}; {log} holds all of it: {first_error(said)}")
    return most / 2**30


def _resident(process: psutil.Process) -> int:
    try:
        return process.memory_info().rss
    except psutil.NoSuchProcess:
        return 0


if __name__ == "__main__":
    install()
    print(f"LLaMA-Factory {VERSION} is in {folder()}.")
