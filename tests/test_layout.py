"""The shape of the package: each folder imports only those above it in the list, and naming the package costs
nothing."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

import course_utils

PACKAGE = ROOT / "course_utils"
FOLDERS = ["core", "hub", "text", "data", "evals", "train", "deploy", "lessons", "cli", "__main__"]


def imported_folders(path: Path) -> set[str]:
    """Every folder of the package that a file imports from, at its top or inside a function."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module == "course_utils":
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("course_utils."):
            found.add(node.module.split(".")[1])
        elif isinstance(node, ast.Import):
            found |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("course_utils.")}
    return found


def imported_modules(path: Path) -> set[Path]:
    """Every file of its own folder that a file imports where it is loaded, not inside a function."""
    here = f"course_utils.{path.parent.name}"
    found = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom) and node.module == here:
            found |= {path.parent / f"{alias.name}.py" for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith(f"{here}."):
            found.add(path.parent / f"{node.module.split('.')[2]}.py")
    return {each for each in found if each.is_file()}


def test_every_folder_is_known():
    there = {path.stem for path in PACKAGE.glob("*.py")} | {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert there - {"__init__"} == set(FOLDERS)


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_folder_imports_only_those_above_it(folder):
    above = {*FOLDERS[: FOLDERS.index(folder)], folder}
    for path in list((PACKAGE / folder).rglob("*.py")) or [PACKAGE / f"{folder}.py"]:
        assert imported_folders(path) <= above, path


def test_no_two_modules_of_a_folder_import_each_other():
    for folder in FOLDERS:
        left = {path: imported_modules(path) for path in (PACKAGE / folder).glob("*.py")}
        while ready := [path for path, needs in left.items() if not needs & left.keys()]:
            for path in ready:
                del left[path]
        assert not left, f"a circle among {sorted(path.name for path in left)}"


def test_importing_the_package_is_light():
    code = (
        "import sys, time; start = time.perf_counter(); import course_utils; took = time.perf_counter() - start; "
        "from course_utils import hub, profiles, chat, thinking, masking, data; "
        "heavy = {'torch', 'transformers', 'datasets', 'unsloth', 'trl', 'peft'} & set(sys.modules); "
        "print(took < 0.5, sorted(heavy))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "True []"


def test_the_short_names_are_those_that_editors_are_told():
    listed = next(
        node
        for node in ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8")).body
        if isinstance(node, ast.If)
    )
    told = {alias.asname: f"{node.module}.{alias.name}" for node in listed.body for alias in node.names}
    assert told.pop("setup") == "course_utils.lessons.setup.setup"
    assert {told.pop(name) for name in ("data", "hub")} == {"course_utils.data", "course_utils.hub"}
    assert told == course_utils._MODULES
    for module in told.values():
        assert (PACKAGE.parent / f"{module.replace('.', '/')}.py").is_file()


def test_a_name_that_does_not_exist_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no module 'kitchen'; it has adapters, budget, chat"):
        course_utils.kitchen  # noqa: B018


def names_in(module: str) -> set[str]:
    """What can be imported from a module or a folder of the package, by its text."""
    path = ROOT.joinpath(*module.split("."))
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    found = {child.stem for child in path.glob("*")} if path.is_dir() else set()
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            found |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        else:
            found |= {each.id for each in ast.walk(node) if isinstance(each, ast.Name)}
    return found | (set(dir(course_utils)) if module == "course_utils" else set())


@pytest.mark.parametrize("folder", ["tests/benchmarks", "tests/notebooks", "notebooks", "lab", "exercises"])
def test_scripts_import_what_is_there(folder):
    """Kind of fault: a module of the package moves away, and a script that no test runs fails an hour into its work."""
    for path in (ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "course_utils":
                missing = {alias.name for alias in node.names} - names_in(node.module)
                assert not missing, (path, node.module, missing)
