"""The decks that `make slides` writes: short talks, made of the lessons' own cells."""

import json
import re
from collections.abc import Iterator

import nbformat
import pytest
from refresh import clean
from slides import HIDE_CODE, REVEAL, exporter, write
from test_anatomy import LESSONS, NAMES, cells

SLIDES = range(8, 21)
CODE_LINES = 17  # more do not fit beside their output

each_lesson = pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)


def kind(cell: dict) -> str:
    return cell["metadata"].get("slideshow", {}).get("slide_type", "-")  # as nbconvert takes it


def slides(path) -> Iterator[list[dict]]:
    """The cells of each slide."""
    slide: list[dict] = []
    for cell in cells(path):
        if kind(cell) in ("slide", "subslide") and slide:
            yield slide
            slide = []
        if kind(cell) != "skip":
            slide.append(cell)
    yield slide


def shown(cell: dict) -> str:
    """The HTML and the pictures that a cell's output brings to its slide."""
    return "".join(
        "".join(value)
        for output in cell.get("outputs", ())
        for mime, value in output.get("data", {}).items()
        if mime in ("text/html", "image/png")
    )


@each_lesson
class TestDeck:
    def test_every_cell_says_whether_it_is_shown(self, path):
        """A cell that does not say so would hang on the slide before it."""
        for cell in cells(path):
            assert "slideshow" in cell["metadata"], f'{cell["id"]}: mark it "skip", or put it on a slide'
            assert kind(cell) in ("slide", "subslide", "-", "skip"), cell["id"]

    def test_it_is_short_and_begins_with_the_title(self, path):
        deck = list(slides(path))
        assert len(deck) in SLIDES
        assert deck[0][0] == cells(path)[0] and len(deck[0]) == 1

    def test_it_ends_with_summary_and_questions(self, path):
        *_, summary, questions = slides(path)
        assert summary[0]["source"].startswith("## Summary")
        assert questions[0]["source"].startswith("## Questions")

    def test_something_is_to_be_seen(self, path):
        outputs = [shown(cell) for slide in slides(path) for cell in slide]
        assert any("<table" in text or "<span" in text for text in outputs)

    def test_no_slide_holds_more_than_fits(self, path):
        for slide in slides(path):
            code = [cell for cell in slide if cell["cell_type"] == "code"]
            assert len(code) <= 1 and len(slide) <= 3, slide[0]["id"]
            for cell in code:
                lines = len(cell["source"].splitlines())
                assert HIDE_CODE in cell["metadata"].get("tags", ()) or lines <= CODE_LINES, cell["id"]


@pytest.fixture(scope="module")
def decks(tmp_path_factory):
    return write(tmp_path_factory.mktemp("slides"))


def test_decks_with_their_pictures_and_without_hidden_code(decks):
    assert [deck.name for deck in decks] == [f"{name}.slides.html" for name in NAMES]
    pictures = 0
    for path, deck in zip(LESSONS, decks, strict=True):
        html = deck.read_text(encoding="utf-8")
        assert html.count("<section") == 2 * len(list(slides(path)))
        for cell in cells(path):
            images = re.findall(r'"image/png": "([^"]+)"', json.dumps(cell.get("outputs", ())))
            for image in images:
                there = image.replace("\\n", "") in html.replace("\n", "")
                assert there == (kind(cell) != "skip"), cell["id"]
                pictures += there
        code = [cell for slide in slides(path) for cell in slide if cell["cell_type"] == "code"]
        to_read = [cell for cell in code if HIDE_CODE not in cell["metadata"].get("tags", ())]
        assert html.count('"jp-CodeMirrorEditor ') == len(to_read) < len(code)
    assert pictures


def test_a_deck_needs_nothing_but_reveal(decks):
    for deck in decks:
        html = deck.read_text(encoding="utf-8")
        addresses = re.findall(r'<(?:script|link)[^>]+(?:src|href)="([^"]+)"', html)
        assert addresses and all("/dist/" in address or "/plugin/" in address for address in addresses), addresses


def test_a_reveal_beside_the_decks_is_used(tmp_path):
    assert exporter(tmp_path).reveal_url_prefix.startswith("https://")
    (tmp_path / REVEAL).mkdir(parents=True)
    assert exporter(tmp_path).reveal_url_prefix == REVEAL


def test_new_outputs_keep_the_slides():
    notebook = nbformat.read(LESSONS[0], as_version=4)
    before = [cell.metadata.get("slideshow") for cell in notebook.cells]
    clean(notebook)
    assert [cell.metadata.get("slideshow") for cell in notebook.cells] == before
