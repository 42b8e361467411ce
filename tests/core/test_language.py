"""course_utils.core.language: what the course says in Chinese, and that nothing in the table is out of date."""

import ast
import json
import re
from collections import Counter
from pathlib import Path

import pytest
from conftest import ROOT

from course_utils import tables
from course_utils.core import language
from course_utils.core.errors import CourseError
from course_utils.core.language import said

SENTENCES: dict[str, str] = json.loads(language.TABLE.read_text(encoding="utf-8"))
PATTERNS = ("course_utils/**/*.py", "exercises/checks/*.py", "lab/*.py", "notebooks/**/*.py")
SOURCES = [path for pattern in PATTERNS for path in ROOT.glob(pattern)]
SOURCES += [*ROOT.glob("notebooks/*.ipynb"), *ROOT.glob("exercises/solutions/*.ipynb")]  # their tables' heads
SAID_BY = {"expect": 1, "Fault": 1, "said": 0}  # functions whose argument of that place is shown to people
HOLE = re.compile(r"\{\d+\}")


def code_of(path: Path) -> str:
    """The Python of a file: of a notebook that of its code cells."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        return text
    return "\n".join("".join(cell["source"]) for cell in json.loads(text)["cells"] if cell["cell_type"] == "code")


def template(node: ast.AST) -> str | None:
    """A string of the source as the table has it: what is filled in is {0}, {1}, …; None where it is no string."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else None
    if not isinstance(node, ast.JoinedStr):
        return None
    parts, holes = [], 0
    for value in node.values:
        parts.append(value.value if isinstance(value, ast.Constant) else f"{{{holes}}}")
        holes += not isinstance(value, ast.Constant)
    return "".join(parts)


def called(node: ast.AST) -> str:
    return getattr(node.func, "id", getattr(node.func, "attr", "")) if isinstance(node, ast.Call) else ""


def in_source() -> tuple[set[str], dict[str, Path]]:
    """Every string of the sources, and those that are surely shown: of errors, and of the functions in `SAID_BY`."""
    every, shown = set(), {}
    for path in SOURCES:
        tree = ast.parse(code_of(path))
        every |= {text for node in ast.walk(tree) if (text := template(node)) is not None}
        for node in ast.walk(tree):
            place = (
                0
                if isinstance(node, ast.Call) and called(node).endswith(("Error", "CheckFailed"))
                else SAID_BY.get(called(node))
            )
            if place is not None and len(node.args) > place and (text := template(node.args[place])):
                shown[text] = path.relative_to(ROOT)
    return every, shown


EVERY, SHOWN = in_source()


def test_every_sentence_of_the_table_is_in_the_source():
    assert [english for english in SENTENCES if english not in EVERY] == []


def test_what_is_surely_shown_is_in_the_table():
    """Not what the modules of single lessons say: these are in English still."""
    missing = {
        text: path.as_posix()
        for text, path in SHOWN.items()
        if path.parts[0] != "notebooks"
        and path.suffix == ".py"
        and len(re.findall(r"[A-Za-z]{2,}", HOLE.sub("", text))) > 1
        and text not in SENTENCES
    }
    assert not missing, json.dumps(missing, indent=1)


@pytest.mark.parametrize("english", SENTENCES, ids=range(len(SENTENCES)))
def test_a_sentence_fills_in_the_same_and_is_found_as_itself(english, monkeypatch):
    monkeypatch.setenv(language.VARIABLE, language.CHINESE)
    chinese = SENTENCES[english]
    assert Counter(HOLE.findall(english)) == Counter(HOLE.findall(chinese))
    assert "{" not in HOLE.sub("", chinese) and "}" not in HOLE.sub("", chinese)
    filled = [f"<{number}>" for number in range(len(HOLE.findall(english)))]
    assert said(HOLE.sub("{}", english).format(*filled)) == chinese.format(*filled)


def test_an_error_stays_english_and_says_it_in_chinese_below(monkeypatch):
    english = "There is no setting 'lr'. The settings are epochs, seed."
    assert not hasattr(CourseError(english), "__notes__")
    monkeypatch.setenv(language.VARIABLE, language.CHINESE)
    error = CourseError(english)
    [chinese] = error.__notes__
    assert str(error) == english, "which code may compare, and docs/troubleshooting.md lists"
    assert "'lr'" in chinese and "epochs, seed" in chinese and re.search(r"[\u4e00-\u9fff]", chinese)
    assert not hasattr(CourseError("What nobody has translated"), "__notes__")


def test_what_another_program_printed_and_a_folder_that_is_gone_do_no_harm(tmp_path, monkeypatch):
    monkeypatch.setenv(language.VARIABLE, language.CHINESE)
    printed = "for a with b it returned c; expected d, " * 100
    assert said(printed) == printed
    monkeypatch.delenv(language.VARIABLE)
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert str(CourseError("There is no setting")) == "There is no setting"


def test_the_folder_of_the_chinese_notebooks_speaks_chinese_unless_the_reader_wants_otherwise(tmp_path, monkeypatch):
    (tmp_path / "zh").mkdir()
    monkeypatch.chdir(tmp_path / "zh")
    monkeypatch.delenv(language.VARIABLE, raising=False)
    assert (
        said("value") == SENTENCES["value"] and SENTENCES["value"] in tables.table([("a", 1)], ("setup", "value")).text
    )
    monkeypatch.setenv(language.VARIABLE, "en")
    assert said("value") == "value"
