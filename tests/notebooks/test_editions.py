"""The Chinese edition: the English one's cells, code and figures, and no Markdown that is older than the English."""

import copy
import json
import re
import tomllib
from collections import Counter

import editions
import pytest
import sizes
from editions import ENGLISH, ROOT, chinese, read, source
from markdown_it import MarkdownIt

CHARACTERS = range(2500, 4501)  # Chinese ones of a lesson, with their punctuation
HAN = r"[\u4e00-\u9fff]"
LESSONS = [path for path in ENGLISH if path.parent.name == "notebooks"]
KEPT = {
    "code": r"(?s)<code[^>]*>.*?</code>",
    "decimals": r"\d+\.\d+",
    "headings": r"(?m)^#+ ",
    "rows of tables": r"(?m)^\|",
    "items": r"(?m)^\s*(?:[-*]|\d\.) ",
}
"""What is in a Chinese cell as often as in the English one; code is looked for in its HTML."""


def both(path):
    return read(path), read(chinese(path))


def markdown(notebook):
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "markdown"]


def html(cell):
    return MarkdownIt().enable("table").render(source(cell))


@pytest.mark.parametrize("path", ENGLISH, ids=lambda path: f"{path.parent.name}-{path.stem}")
class TestEdition:
    def test_cells_and_code_are_those_of_the_english_notebook(self, path):
        english, translated = both(path)
        assert translated == editions.brought_over(english, translated, chinese(path)), (
            "run tests/notebooks/editions.py"
        )
        for one, other in zip(english["cells"], translated["cells"], strict=True):
            assert one["id"] == other["id"] and one["metadata"].get("concept") == other["metadata"].get("concept")
            assert one["cell_type"] == "markdown" or source(one) == source(other) or "colab.prepare()" in source(one)

    def test_no_cell_is_older_than_its_english_text(self, path):
        assert editions.stale(*both(path)) == [], "translate them, then say so: `editions.py LESSON CELL …`"

    def test_nothing_that_is_no_language_is_lost(self, path):
        english, translated = both(path)
        for one, other in zip(markdown(english), markdown(translated), strict=True):
            for what, pattern in KEPT.items():
                texts = [html(each) if what == "code" else source(each) for each in (one, other)]
                found, theirs = (Counter(re.findall(pattern, text)) for text in texts)
                assert found == theirs, f"{one['id']}: {what}, {found - theirs}, {theirs - found}"

    def test_it_reads_as_it_was_meant(self, path):
        """Markdown does not see the end of bold text between a Chinese full stop and a Chinese character."""
        for cell in markdown(read(chinese(path))):
            assert "**" not in re.sub(r"<(code|pre)\b.*?</\1>", "", html(cell), flags=re.DOTALL), cell["id"]
            half = re.search(rf"{HAN}[,;:!?](?=[\s\u4e00-\u9fff])", re.sub(r"`[^`]*`", "", source(cell)))
            assert not half, f"{cell['id']}: half-width punctuation, {half}"

    def test_links_lead_somewhere(self, path):
        file = chinese(path)
        for cell in markdown(read(file)):
            for target in re.findall(r"\]\(([^)#]+)\)", source(cell)):
                inside = target.removeprefix("attachment:") in cell.get("attachments", ())
                assert inside or target.startswith("https://") or (file.parent / target).exists(), target


def test_no_page_is_older_than_its_english_text():
    assert editions.stale_pages() == [], "translate them, then say so: `editions.py docs/…`"


@pytest.mark.parametrize("page", editions.PAGES)
def test_headings_tables_and_commands_of_a_page_are_those_of_the_english_one(page):
    english, translated = ((ROOT / each).read_text(encoding="utf-8") for each in (page, editions.PAGES[page]))
    if page == "README.md":  # the Chinese one has a section and a table of its own
        typed = re.compile(r"^(make \w+|\.venv/bin/\S+ .*)", re.MULTILINE)
        commands, theirs = (set(typed.findall(text)) for text in (english, translated))
        assert commands and commands <= theirs
        assert set(re.findall(r"\d+\.\d+", english)) <= set(re.findall(r"\d+\.\d+", translated))
        pins = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["course"]
        assert f"torch=={pins['cpu_torch']}" in translated
        return
    for pattern in (r"(?m)^(#+)", r"(?m)^### ([a-z0-9-]+)$", r"(?m)^(\|)", r"(?ms)^```\w*\n.*?^```", r"\d+\.\d+"):
        assert Counter(re.findall(pattern, english)) == Counter(re.findall(pattern, translated)), pattern


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_a_lesson_is_as_long_as_one_reads_in_an_hour(path):
    text = " ".join(sizes.read_by_people(source(cell)) for cell in markdown(read(chinese(path))))
    count = len(re.findall(r"[\u4e00-\u9fff\u3000-\u303f\uff00-\uffef“”‘’]", text))
    assert count in CHARACTERS, count


def test_a_changed_english_cell_is_stale_until_somebody_says_that_it_is_translated(tmp_path, monkeypatch):
    path = ROOT / "notebooks/05_evaluation.ipynb"
    english, translated = both(path)
    changed = copy.deepcopy(english)
    cell = markdown(changed)[3]
    cell["source"] = [*cell["source"], " And more."]
    assert editions.stale(changed, translated) == [cell["id"]]
    [_, code, *_] = (each for each in changed["cells"] if each["cell_type"] == "code")
    code["source"] = [*code["source"], "\n# more"]
    after = editions.brought_over(changed, translated, chinese(path))
    assert after != translated and editions.stale(changed, after) == [cell["id"]], "code comes over, text does not"
    home = tmp_path / "notebooks"
    (home / "zh").mkdir(parents=True)
    (home / path.name).write_text(json.dumps(changed), encoding="utf-8")
    (home / "zh" / path.name).write_text(json.dumps(translated), encoding="utf-8")
    monkeypatch.setattr(editions, "ENGLISH", [home / path.name])
    monkeypatch.setattr(editions, "PAGES", {})
    for module in (editions, editions.openings):
        monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.setattr("sys.argv", ["editions.py", "05_evaluation", cell["id"]])
    editions.main()
    assert editions.stale(changed, read(home / "zh" / path.name)) == []


def test_answers_in_a_chinese_exercise_are_not_overwritten(tmp_path, monkeypatch):
    path = ROOT / "exercises/05_evaluation.ipynb"
    english, translated = both(path)
    [answer, *_] = (cell for cell in translated["cells"] if cell["metadata"].get("nbgrader", {}).get("solution"))
    answer["source"] = ["def mine(): return 1"]
    (tmp_path / "exercises/zh").mkdir(parents=True)
    (tmp_path / "exercises" / path.name).write_text(json.dumps(english), encoding="utf-8")
    worked_in = tmp_path / "exercises/zh" / path.name
    worked_in.write_text(json.dumps(translated), encoding="utf-8")
    monkeypatch.setattr(editions, "ENGLISH", [tmp_path / "exercises" / path.name])
    monkeypatch.setattr(editions, "ROOT", tmp_path)
    monkeypatch.setattr("sys.argv", ["editions.py"])
    with pytest.raises(SystemExit, match=r"exercises/zh/05_evaluation.ipynb holds answers, which would be lost"):
        editions.main()
    assert read(worked_in) == translated


def test_a_lesson_that_was_run_keeps_its_outputs_until_the_code_changes():
    path = ROOT / "notebooks/05_evaluation.ipynb"
    english, translated = both(path)
    translated["metadata"][editions.RAN] = True
    [_, code, other, *_] = (cell for cell in translated["cells"] if cell["cell_type"] == "code")
    code["outputs"], other["outputs"] = (
        [{"output_type": "stream", "name": "stdout", "text": "中文"}] for _ in range(2)
    )
    [changed] = (cell for cell in english["cells"] if cell["id"] == other["id"])
    changed["source"] = [*changed["source"], "\n# more"]
    after = {cell["id"]: cell for cell in editions.brought_over(english, translated, chinese(path))["cells"]}
    assert after[code["id"]]["outputs"] == code["outputs"] and after[other["id"]]["outputs"] == changed["outputs"]


def test_a_new_english_cell_comes_over_as_it_is_and_is_stale():
    path = ROOT / "notebooks/05_evaluation.ipynb"
    english, translated = both(path)
    text = ["[A page](../docs/data.md), ", "[an extra](extras/x.ipynb)"]
    english["cells"].append({"cell_type": "markdown", "id": "new", "metadata": {}, "source": text})
    after = editions.brought_over(english, translated, chinese(path))
    assert source(after["cells"][-1]) == "[A page](../../docs/data.md), [an extra](../extras/x.ipynb)"
    assert editions.stale(english, after) == ["new"]


@pytest.mark.parametrize(
    ("folder", "link", "there"),
    [
        ("notebooks", "../exercises/05_evaluation.ipynb", "../../exercises/zh/05_evaluation.ipynb"),
        ("notebooks", "06_merge_and_serve.ipynb#x", "06_merge_and_serve.ipynb#x"),
        ("notebooks", "extras/00_demo.ipynb", "../extras/00_demo.ipynb"),
        ("notebooks", "attachment:a.png", "attachment:a.png"),
        ("exercises", "../notebooks/05_evaluation.ipynb", "../../notebooks/zh/05_evaluation.ipynb"),
        ("exercises", "../notebooks/extras/00_demo.ipynb", "../../notebooks/extras/00_demo.ipynb"),
        ("exercises", "solutions/05_evaluation.ipynb", "../solutions/05_evaluation.ipynb"),
    ],
)
def test_links_go_where_they_went(folder, link, there):
    assert editions.moved(f"[x]({link})", folder) == f"[x]({there})"
