"""docs/: what a page quotes of the package stands in the package, and its links lead somewhere."""

import ast
import re
from functools import cache

import pytest
from conftest import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SOURCES = [ROOT / "install.py", *sorted((ROOT / "course_utils").rglob("*.py"))]


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
