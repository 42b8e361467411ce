"""The shape of the package: rooms import only rooms below them, and naming the package costs nothing."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

PACKAGE = ROOT / "course_utils"
ROOMS = [  # bottom to top
    "errors",
    "files",
    "budget",
    "settings",
    "profiles",
    "colab",
    "_convert",
    "_fetch",
    "_wheels",
    "_repositories",
    "hub",
    "chat",
    "thinking",
    "judging",
    "chance",
    "masking",
    "packing",
    "data",
    "modeling",
    "watching",
    "tracking",
    "training",
    "generation",
    "evaluation",
    "export",
    "publishing",
    "serving",
    "talking",
    "voting",
    "public_tasks",
    "checks",
    "show",
    "widgets",
    "machine",
    "doctor",
    "lessons",
    "exercises",
    "start",
    "cli",
    "__main__",
]


def imported_rooms(path: Path) -> set[str]:
    """Every room that a file imports, at its top or inside a function."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module == "course_utils":
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("course_utils."):
            found.add(node.module.split(".")[1])
        elif isinstance(node, ast.Import):
            found |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("course_utils.")}
    return found


def test_every_room_is_known():
    there = {path.stem for path in PACKAGE.glob("*.py")} | {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert there - {"__init__"} == set(ROOMS)


@pytest.mark.parametrize("room", ROOMS)
def test_imports_point_downwards(room):
    below = set(ROOMS[: ROOMS.index(room)])
    inside = list((PACKAGE / room).glob("*.py"))  # of a room that is a folder
    for path in inside or [PACKAGE / f"{room}.py"]:
        assert imported_rooms(path) - ({room} if inside else set()) <= below, path.name


def test_importing_the_package_is_light():
    code = (
        "import sys, time; start = time.perf_counter(); import course_utils; took = time.perf_counter() - start; "
        "from course_utils import hub, profiles, chat, thinking, masking, data; "
        "heavy = {'torch', 'transformers', 'datasets', 'unsloth', 'trl', 'peft'} & set(sys.modules); "
        "print(took < 0.5, sorted(heavy))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "True []"


def test_a_room_that_does_not_exist_is_an_attribute_error():
    import course_utils

    with pytest.raises(AttributeError, match="no room named 'kitchen'"):
        course_utils.kitchen  # noqa: B018
