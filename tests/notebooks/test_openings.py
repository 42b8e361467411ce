"""Every notebook begins the same way, from one address, and stays inside the clone."""

import ast
import json
from pathlib import Path, PurePosixPath

import openings
import pytest
from openings import NOTEBOOKS, ROOT

NO_WAY_OUT = {
    "/": "between the parts of a name",
    "//": "a pattern of matplotlib's",
    "..": "another one",
    "/dev/null": "holds nothing and keeps nothing",
    "../mon.png": "in a row that is shown to be refused",
}

everywhere = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.relative_to(ROOT).as_posix())


def test_all_notebooks_are_looked_at():
    folders = [path.parent.relative_to(ROOT).as_posix() for path in NOTEBOOKS]
    editions = ["notebooks", "notebooks/zh", "exercises", "exercises/zh", "exercises/solutions"]
    assert {*folders} == {*editions, "notebooks/extras"}
    assert {folders.count(folder) for folder in editions} == {11}


@everywhere
def test_address_and_colab_cell(path):
    text = path.read_text(encoding="utf-8")
    written = json.dumps(openings.opened(json.loads(text), path), indent=1, ensure_ascii=False) + "\n"
    assert text == written, "run `make address`"
    assert f"({openings.COLAB}/" in text


def test_another_address_reaches_badge_and_cell(monkeypatch):
    monkeypatch.setattr(openings, "ADDRESS", "https://github.com/me/mine")
    path = ROOT / "exercises/solutions/05_evaluation.ipynb"
    badge, _, cell, *_ = openings.opened(json.loads(path.read_text(encoding="utf-8")), path)["cells"]
    assert f"({openings.COLAB}/me/mine/blob/main/exercises/05_evaluation.ipynb)" in "".join(badge["source"])
    assert '    address = "https://github.com/me/mine"\n' in cell["source"]


def texts(code: str) -> list[str]:
    """The string constants of a cell, and the beginnings of its f-strings."""
    tree = ast.parse(code)
    later = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values[1:]}
    constants = (node for node in ast.walk(tree) if isinstance(node, ast.Constant) and id(node) not in later)
    return [node.value for node in constants if isinstance(node.value, str)]


def leaves_the_clone(text: str) -> bool:
    """True for a path that is absolute, of somebody's home, or climbs out of the clone (setup() goes to its folder)."""
    if len(text.split()) != 1 or text in NO_WAY_OUT:
        return False
    depth = 0
    for part in PurePosixPath(text).parts:
        depth += -1 if part == ".." else 1
        if depth < 0:
            return True
    return text.startswith(("/", "~")) or text[1:3] in (":\\", ":/")


@everywhere
def test_no_path_leads_out_of_the_clone(path: Path):
    cells = [cell for cell in json.loads(path.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]
    for cell in cells:
        code = "".join(cell["source"]).removeprefix(openings.CELL.format(address=openings.ADDRESS))
        assert not [text for text in texts(code) if leaves_the_clone(text)], code
        assert not any(word in code for word in ("expanduser", "Path.home", 'environ["HOME"]')), code


@pytest.mark.parametrize("text", ["/content/drive", "/tmp/x.json", "~/runs", "../x.png", "data/../../x", "C:\\runs"])
def test_a_path_that_leads_out_is_seen(text):
    assert leaves_the_clone(text)
    assert leaves_the_clone(texts(f"open({text!r})")[0])


@pytest.mark.parametrize("text", ["data/raw", "runs/../models", "a ~ b", "/", "https://x.org/a", "emoji", "..."])
def test_a_path_inside_is_let_through(text):
    assert not leaves_the_clone(text)
