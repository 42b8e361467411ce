"""exercises/ as an nbgrader course, for real: a release, two learners, their points. Part of `make test-long`."""

import csv
import os
import shutil
import subprocess
import sys
from pathlib import Path

from answers import EXERCISES, NAMES, cells, mark


def nbgrader(folder, *arguments):
    # nbgrader calls `alembic` by its name
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        [sys.executable, "-m", "nbgrader", *arguments],
        cwd=folder,
        env=os.environ | {"PATH": path},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stderr


def test_an_instructor_takes_the_folder_as_it_is(tmp_path):
    course = tmp_path / "exercises"
    shutil.copytree(EXERCISES, course)
    nbgrader(course, "generate_assignment", "solutions")
    for name in NAMES:
        released = (course / "release" / "solutions" / f"{name}.ipynb").read_bytes()
        assert released == (EXERCISES / f"{name}.ipynb").read_bytes(), "`make exercises` gives the same"
    for learner, source in (("right", "solutions"), ("blank", "release/solutions")):
        shutil.copytree(course / source, course / "submitted" / learner / "solutions")
    log = nbgrader(course, "autograde", "solutions")
    assert "partial" not in log
    nbgrader(course, "export")
    with (course / "grades.csv").open(encoding="utf-8") as file:
        scores = {row["student_id"]: (float(row["score"]), float(row["max_score"])) for row in csv.DictReader(file)}
    most = sum(mark(cell, "points") or 0 for name in NAMES for cell in cells(EXERCISES / "solutions" / f"{name}.ipynb"))
    assert scores == {"right": (most, most), "blank": (0, most)}
