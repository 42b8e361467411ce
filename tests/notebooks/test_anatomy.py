"""What every lesson has, and what none may have. That they run is nbval's part (`make test`)."""

import ast
import json
import re
from importlib import import_module
from itertools import pairwise
from pathlib import Path

import concepts
import pytest
import sizes
from concepts import EXTRAS, LESSONS, ROOT
from openings import ADDRESS, CELL, FOLDED, MAP, NOTEBOOKS

NAMES = [
    "00_ten_minutes",
    "01_download",
    "02_templates_and_special_tokens",
    "03_data_building",
    "04_qlora_sft",
    "05_evaluation",
    "06_merge_and_serve",
    "07_named_entities",
    "08_forgetting",
    "09_preferences",
    "10_many_gpus",
]


def cells(path: Path) -> list[dict]:
    found = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [cell | {"source": "".join(cell["source"])} for cell in found]


def test_the_lessons_are_there():
    assert [path.stem for path in LESSONS] == NAMES == [*MAP]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_what_a_cell_imports_from_the_course_is_there(path):
    """In seconds, for all notebooks: nbval would find it an hour later, and in those only that `make test` runs."""
    for cell in cells(path):
        if cell["cell_type"] != "code":
            continue
        for node in ast.walk(ast.parse(cell["source"])):
            if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] in ("course_utils", "notebooks"):
                found = import_module(node.module)
                for name in node.names:
                    if not hasattr(found, name.name):
                        import_module(f"{node.module}.{name.name}")


@pytest.mark.parametrize("path", LESSONS + EXTRAS, ids=lambda path: path.stem)
class TestNotebook:
    def test_opening(self, path):
        first = cells(path)[0]["source"]
        assert first.startswith(f"# {path.stem[:2]} {'· ' if path in LESSONS else 'extra · '}")
        assert path.relative_to(ROOT).as_posix() in first, "the badge opens this notebook"
        for part in ("colab-badge.svg", "**You will**", "**Before this**", "`cpu`", "`t4`", "`16gb`", "minutes"):
            assert part in first, part
        opening = next(cell for cell in cells(path) if cell["cell_type"] == "code")
        assert opening["source"].startswith(CELL.format(address=ADDRESS)) and "setup(" in opening["source"]
        assert opening["metadata"]["jupyter"] == FOLDED

    def test_closing(self, path):
        text = "\n".join(cell["source"] for cell in cells(path) if cell["cell_type"] == "markdown")
        assert "## Summary" in text and "## Questions" in text
        questions = text.split("## Questions")[1]
        assert len(re.findall(r"^\d\. ", questions, re.MULTILINE)) == 5
        if path in LESSONS:
            answers = re.search(r"<details><summary>Answers</summary>\n\n(.+?)\n\n</details>", questions, re.DOTALL)
            assert len(re.findall("^- ", answers[1], re.MULTILINE)) == 5

    def test_cells_are_few_and_short_and_introduced(self, path):
        found = cells(path)
        code = [cell for cell in found if cell["cell_type"] == "code"]
        assert len(code) <= 40
        for before, cell in pairwise(found):
            if cell["cell_type"] == "code":
                assert before["cell_type"] == "markdown", cell["source"][:60]
                assert len(cell["source"].splitlines()) <= 26, cell["source"][:60]
                assert "if False" not in cell["source"]

    def test_outputs_are_committed_and_clean(self, path):
        for cell in cells(path):
            if cell["cell_type"] != "code":
                continue
            assert cell["execution_count"], f"never run: {cell['source'][:60]}"
            text = json.dumps(cell["outputs"], ensure_ascii=False)
            assert "widget-view" not in text and '"output_type": "error"' not in text
            assert not re.search(r"/(home|root|Users|tmp|work)/", re.sub(r'"image/png": "[^"]*"', "", text))

    def test_links_between_lessons_lead_somewhere(self, path):
        for cell in cells(path):
            if cell["cell_type"] == "markdown":
                for target in re.findall(r"\]\(([^)#]+)\)", cell["source"]):
                    inside = target.removeprefix("attachment:") in cell.get("attachments", ())
                    assert inside or target.startswith("https://") or (path.parent / target).exists(), target


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_a_lesson_is_short_and_has_pictures(path):
    code_cells, words, pictures = sizes.size(path)
    fits = code_cells in sizes.CODE_CELLS and words in sizes.WORDS and pictures >= sizes.PICTURES
    assert fits, f"{code_cells} code cells, {words} words, {pictures} pictures"


def test_concepts():
    assert {concept for concept, *_ in concepts.taught()} == set(concepts.CONCEPTS)


def test_the_page_of_concepts_is_as_the_cells_say():
    assert concepts.PAGE.read_text(encoding="utf-8") == concepts.page(), "`make concepts` writes it anew"
