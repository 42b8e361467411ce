"""docs/ and README.md: links, paths, functions, cells and tests that a page names are there."""

import ast
import json
import re
from functools import cache
from pathlib import Path

import pytest
from conftest import ROOT

import course_utils
from course_utils import data, hub
from notebooks.extras import blind_vote, public_tasks

PAGES = [path for pattern in ("README*.md", "docs/*.md", "docs/zh/*.md") for path in sorted(ROOT.glob(pattern))]
SOURCES = [ROOT / "install.py", *sorted((ROOT / "course_utils").rglob("*.py")), *(ROOT / "notebooks").glob("*.py")]


@cache
def messages() -> list[str]:
    """Every text in the package's code, what is filled in as `…`."""
    found = []
    for node in (node for path in SOURCES for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))):
        if isinstance(node, ast.JoinedStr):
            found.append("".join(part.value if isinstance(part, ast.Constant) else "…" for part in node.values))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.append(node.value)
    return found


def quoted() -> list[str]:
    """The messages of the package that the page on errors explains."""
    page = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    tables = re.findall(r"^\| the course says \|.*\n\|[-|]+\|\n((?:\|.*\n?)+)", page, re.MULTILINE)
    return [re.match(r"\| `([^`]+)`", row)[1] for table in tables for row in table.splitlines()]


@pytest.mark.parametrize("message", quoted())
def test_the_errors_explained_are_the_packages_own(message):
    parts = [part for part in re.split("… ?| ?…", message) if part.strip()]
    pattern = re.compile(".*".join(map(re.escape, parts)), re.DOTALL)
    assert any(pattern.search(text) for text in messages())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8")):
        assert target.startswith("https://") or (page.parent / target).exists(), target


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").split()) <= 900


# The folders that pages speak of, and what stands for another word in a path: NN for a number, … for the rest.
PATH = re.compile(r"(?<![\w/.-])(?:\.\./)*((?:course_utils|tests|notebooks|exercises)/[\w./…-]*[\w/…])")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_paths_are_there(page):
    for found in set(PATH.findall(page.read_text(encoding="utf-8"))):
        pattern = found.replace("NN_name", "*").replace("NN", "[0-9][0-9]").replace("…", "*")
        assert list(ROOT.glob(pattern.rstrip("/"))), found


MODULES = {"blind_vote": blind_vote, "data": data, "hub": hub, "public_tasks": public_tasks}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_functions_are_there(page):
    """`masking.audit(…)`: every name in backticks that begins with a module's short name."""
    for module, name in re.findall(r"(?<=`)(\w+)\.([A-Za-z_]\w*)", page.read_text(encoding="utf-8")):
        if module in (*dir(course_utils), *MODULES) and name not in ("py", "ipynb", "md"):
            assert hasattr(MODULES.get(module) or getattr(course_utils, module), name), f"{module}.{name}"


# ---- pitfalls

PITFALLS = (ROOT / "docs" / "pitfalls.md").read_text(encoding="utf-8")
ENTRIES = dict(re.findall(r"^### (\S+)\n((?:(?!^#).*\n?)*)", PITFALLS, re.MULTILINE))
# Across a line break, and the sign of a comment that the next line begins with.
NAMED = re.compile(r"\bpitfall[\s#]+([a-z0-9]+(?:-[a-z0-9]+)+)", re.IGNORECASE)


def texts() -> list[tuple[Path, str]]:
    """What people read and write: code, tests, notebooks (their cells alone), pages."""
    found = []
    for folder in ("course_utils", "tests", "notebooks", "exercises", "docs", "lab"):
        for path in (path for path in (ROOT / folder).rglob("*") if path.suffix in (".py", ".ipynb", ".md")):
            text = path.read_text(encoding="utf-8")
            if path.suffix == ".ipynb":
                text = "\n".join("".join(cell["source"]) for cell in json.loads(text)["cells"])
            found.append((path, text))
    return [*found, (ROOT / "README.md", (ROOT / "README.md").read_text(encoding="utf-8"))]


def test_every_pitfall_that_is_named_is_explained():
    named = {(path.name, name) for path, text in texts() for name in NAMED.findall(text)}
    assert any(name == "seed-too-late" and path != "pitfalls.md" for path, name in named), "a name after a line break"
    assert not {(path, name) for path, name in named if name not in ENTRIES}


def test_pitfalls_have_names_and_no_numbers():
    numbered = [path.name for path, text in texts() if re.search(r"\btrap [0-9]", text, re.IGNORECASE)]
    assert numbered == []


def test_the_index_of_pitfalls_is_that_of_the_entries():
    index = re.findall(r"^\| \[(\S+)\]\(#\1\) \| (.+) \|$", PITFALLS, re.MULTILINE)
    assert sorted(name for name, _ in index) == sorted(ENTRIES) and len(index) == len(set(index))
    for name, seen in index:
        assert ENTRIES[name].startswith(f"- **You see**: {seen}.\n"), name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_to_pitfalls_lead_to_an_entry(page):
    text = page.read_text(encoding="utf-8")
    names = re.findall(r"pitfalls\.md#([\w-]+)", text) + (
        re.findall(r"\]\(#([\w-]+)", text) if text == PITFALLS else []
    )
    assert set(names) <= set(ENTRIES)


@cache
def defined_in(path: str) -> set[str]:
    """The tests in a file, those of classes as `Class::test`, and the classes that hold one kind of fault."""
    body = ast.parse((ROOT / path).read_text(encoding="utf-8")).body
    classes = {node.name: node.body for node in body if isinstance(node, ast.ClassDef)}
    inside = {f"{name}::{node.name}" for name, nodes in classes.items() for node in nodes if hasattr(node, "name")}
    return inside | set(classes) | {node.name for node in body if isinstance(node, ast.FunctionDef)}


@cache
def cells_of(notebook: Path) -> set[str]:
    return {cell["id"] for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]}


@pytest.mark.parametrize("name", ENTRIES)
def test_a_pitfall_names_a_lesson_and_a_test_or_says_that_there_is_none(name):
    parts = dict(re.findall(r"^- \*\*([^*]+)\*\*: ((?:(?!^- ).*\n?)*)", ENTRIES[name], re.MULTILINE))
    assert list(parts) == ["You see", "Why", "Do", "Lesson", "Test"]
    cells = re.findall(r"\[((?:extra )?\d\d) ([\w, ]+)\]\((\S+\.ipynb)\)", parts["Lesson"])
    assert cells or parts["Lesson"].startswith("not shown yet")
    for lesson, ids, target in cells:
        notebook = (ROOT / "docs" / target).resolve()
        assert notebook.name.startswith(lesson[-2:]) and ("extras/" in target) == lesson.startswith("extra ")
        assert set(ids.split(", ")) <= cells_of(notebook)
    tests = re.findall(r"`(tests/[\w/]+\.py)::([\w:]+)`", parts["Test"])
    assert tests or "no test yet" in parts["Test"]
    assert parts["Test"].count(".py::") == len(tests)
    for path, test in tests:
        assert test in defined_in(path), test
