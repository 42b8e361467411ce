"""Where the course's files lie: `data/`, `models/` and `runs/` share one home folder."""

import os
from pathlib import Path

VARIABLE = "COURSE_HOME"
MARK = Path("data", "dataset_info.json")
CLONE = Path(__file__).resolve().parents[2]  # where this package lies in one


def home() -> Path:
    """The folder that holds `data/`, `models/` and `runs/`, wherever a notebook or a command runs.

    Returns:
        COURSE_HOME where it is set; else the nearest folder, from the current one upwards, that holds
        `data/dataset_info.json` (a clone); else the clone that this package lies in; else the current one. An absolute
        path.
    """
    here = Path.cwd()
    asked = os.environ.get(VARIABLE)
    above = (here, *here.parents, CLONE)
    found = Path(asked) if asked else next((each for each in above if (each / MARK).is_file()), here)
    return Path(os.path.abspath(found))


def nearest(path: Path) -> Path:
    """The path itself, or the nearest folder above it that is there: the disk that it lies on or will lie on."""
    return next(each for each in (path, *path.parents) if each.exists())


def seen_from_here(path: Path) -> Path:
    """The same path from the current folder ("../runs/cpu"), so that nothing printed names a machine's folders."""
    return Path(os.path.relpath(path))
