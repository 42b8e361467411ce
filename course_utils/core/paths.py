"""Where the course's files lie: `data/`, `models/` and `runs/` share one home folder."""

import os
from pathlib import Path

VARIABLE = "COURSE_HOME"
MARK = Path("data", "dataset_info.json")
LOCAL_RUNS = "runs.local"  # beside runs/, where that is a link to another disk (colab.use_drive)
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


def large_dir(run: Path) -> Path:
    """Where a run's merged model and GGUF file go, which are large and can be made again from its adapter.

    Returns:
        The run's own folder; where `runs.local/` lies beside `runs/`, the same path in there.
    """
    runs, whole = home() / "runs", Path(os.path.abspath(run))  # not resolved: runs/ may be a link
    if not (home() / LOCAL_RUNS).is_dir() or not whole.is_relative_to(runs):
        return Path(run)
    return seen_from_here(home() / LOCAL_RUNS / whole.relative_to(runs))
