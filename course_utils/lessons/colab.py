"""Google Colab: what the first cell of every notebook calls there, and Google Drive for those who ask for it.

Standard library only, with what it imports: it runs before anything is installed.
"""

import hashlib
import shutil
import subprocess
import sys
from functools import cache
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from pathlib import Path

from course_utils.core.errors import CourseError
from course_utils.core.files import write_text
from course_utils.core.paths import CLONE, LOCAL_RUNS

DRIVE = Path("/content/drive")  # where Colab shows a mounted Google Drive
KEPT = ("models", "runs")  # of the clone: downloads, and what training and evaluation wrote


class ColabError(CourseError):
    """Something that went wrong on a Colab machine; a notebook shows the line and no traceback."""

    def _render_traceback_(self) -> list[str]:  # IPython asks for it
        return [str(self)]


def prepare() -> None:
    """Install the course on this machine, the first time; then say how to keep models and runs.

    The kernel restarts where it had loaded packages that were replaced (Colab's own kernel loads psutil, for one).

    Raises:
        ColabError: the installation failed, or the kernel restarts; an error also stops the cells that wait behind.
    """
    done = CLONE / ".installed"
    # These two decide what is installed, here as in the Makefile.
    sources = ("pyproject.toml", "install.py")
    stamp = hashlib.sha256(b"".join((CLONE / name).read_bytes() for name in sources)).hexdigest()
    if not done.is_file() or done.read_text(encoding="utf-8") != stamp:
        before = _loaded()
        if subprocess.run([sys.executable, str(CLONE / "install.py")], check=False).returncode:
            raise ColabError("The course is not installed: what went wrong stands above. Then run this cell again.")
        write_text(done, stamp)
        if replaced := [name for name, number in before.items() if _version(name) != number]:
            from IPython import get_ipython

            get_ipython().kernel.do_shutdown(True)  # Colab starts it again, as condacolab has it do
            raise ColabError(
                f"The kernel restarts, because it had loaded older versions of {', '.join(replaced)}. "
                "Run this cell again, or choose Runtime > Run all: nothing is installed twice."
            )
    print(
        "The course is ready. This machine and its files are lost when you leave it for long; "
        "colab.use_drive() in a cell of its own keeps models/ and runs/ in your Google Drive."
    )


@cache  # what was loaded first stays loaded, also where an installation failed half-way and is tried again
def _loaded() -> dict[str, str | None]:
    """The versions of the packages that this process has loaded modules of."""
    owners = packages_distributions()
    names = {name for module in list(sys.modules) for name in owners.get(module, ())}
    return {name: _version(name) for name in sorted(names)}


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def use_drive(folder: str = "course") -> Path:
    """Mount the reader's Google Drive, after Colab has asked for leave, and keep `models/` and `runs/` there.

    What lies in them moves to Drive, and links take their place; but a merged model and a GGUF file stay on this
    machine, in `runs.local/`: they fill Drive's 15 GB, and an adapter gives them again. On the next machine call it
    before `setup()`.

    Args:
        folder: a folder of "My Drive".

    Returns:
        That folder's path.

    Raises:
        ColabError: this is no Colab machine; Drive was not mounted or is full; or the same model or run is both here
            and in Drive.
    """
    try:
        from google.colab import drive
    except ImportError:
        raise ColabError("use_drive() is for Google Colab; here models/ and runs/ are on your own disk.") from None
    try:
        drive.mount(str(DRIVE))
    except Exception as error:  # a refusal and a timeout come as errors of several kinds
        raise ColabError(
            f"Google Drive was not mounted ({error}). Call use_drive() again and allow the access that Colab asks for, "
            "or go on without: models/ and runs/ then stay on this machine."
        ) from error
    home = DRIVE / "MyDrive" / folder
    links = [(CLONE / name, home / name) for name in KEPT if not (CLONE / name).is_symlink()]
    for here, there in links:
        here.mkdir(exist_ok=True)
        there.mkdir(parents=True, exist_ok=True)
        if twice := [path.name for path in sorted(here.iterdir()) if path.is_dir() and (there / path.name).exists()]:
            raise ColabError(
                f"{here.name}/ holds {', '.join(twice)}, and so does {there}. Rename or delete one of the two, then "
                "call use_drive() again; nothing was moved."
            )
    (CLONE / LOCAL_RUNS).mkdir(exist_ok=True)
    runs = CLONE / "runs"
    if not runs.is_symlink():
        for large in [*runs.rglob("gguf"), *(config.parent for config in runs.rglob("merged/config.json"))]:
            kept = CLONE / LOCAL_RUNS / large.relative_to(runs)
            kept.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(large, kept)
    for here, there in links:
        try:
            shutil.copytree(here, there, dirs_exist_ok=True)
        except OSError as error:
            raise ColabError(
                f"{here.name}/ could not be copied to {there} ({error}). Make room in Google Drive, delete what was "
                "copied there, and call use_drive() again; all of it is still here."
            ) from error
        shutil.rmtree(here)
        here.symlink_to(there)
    return home
