"""docs/instructor.md: what it points to is there, and its plans add up."""

import json
import re

import pytest
from conftest import ROOT

TEXT = (ROOT / "docs" / "instructor.md").read_text(encoding="utf-8")
POINTERS = sorted(set(re.findall(r"((?:extra )?\d\d\w*) `(\w+)`, \*([^*]+)\*", " ".join(TEXT.split()))))


def sections(lesson: str) -> dict[str, set[str]]:
    """By a cell's id, the headings that it stands under: two where it ends a section and begins another."""
    folder = ROOT / "notebooks" / ("extras" if lesson.startswith("extra ") else "")
    [path] = folder.glob(f"{lesson.removeprefix('extra ')}*.ipynb")
    found, heading = {}, ""
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        heads = []
        if cell["cell_type"] == "markdown":
            heads = re.findall(r"^#+ (?:\d\d · )?(.+)$", "".join(cell["source"]), re.MULTILINE)
        found[cell["id"]] = {heading, *heads}
        heading = (heads or [heading])[-1]
    return found


@pytest.mark.parametrize(("lesson", "cell", "section"), POINTERS, ids=lambda part: part)
def test_a_pointer_names_the_cell_and_its_section(lesson, cell, section):
    assert section in sections(lesson)[cell]


def test_there_are_enough_questions_with_a_place_to_look():
    questions = TEXT.partition("## Questions that come up")[2].partition("\n## ")[0]
    assert len(re.findall(r"^\*\*.+\?\*\*|^\*\*.+\.\*\*", questions, re.MULTILINE)) >= 15
    assert len(POINTERS) >= 40


def test_the_plans_add_up():
    plans = re.findall(r"^\| [^|]+ \| talk \| live \| exercise \| break \|.+?(?=\n\n)", TEXT, re.MULTILINE | re.DOTALL)
    assert len(plans) == 3
    for plan in plans:
        *rows, total = [[cell.strip() for cell in line.strip("|").split("|")] for line in plan.splitlines()[2:]]
        sums = [sum(int(row[column]) for row in rows) for column in range(1, 5)]
        assert sums == [int(cell) for cell in total[1:5]]
        assert total[5] == f"{sum(sums)} minutes"
