"""README.md and the lessons' heads show what the lessons show."""

import json

import pictures
import pytest


@pytest.mark.parametrize("lesson", pictures.PICTURES)
def test_a_picture_is_the_lessons_own(lesson):
    picture = (pictures.FOLDER / f"{lesson[:2]}.png").read_bytes()
    drawn = pictures.figure(lesson)
    assert picture == drawn if drawn else "<span" in pictures.shown(lesson)["text/html"]


@pytest.mark.parametrize("lesson", pictures.HEADS)
def test_the_picture_in_a_head_is_drawn_below(lesson):
    name, cell = pictures.HEADS[lesson]
    notebook = json.loads((pictures.ROOT / "notebooks" / f"{lesson}.ipynb").read_text(encoding="utf-8"))
    head = notebook["cells"][0]
    assert f"(attachment:{name})" in "".join(head["source"])
    assert "".join(head["attachments"][name]["image/png"]) == pictures.shown(lesson, cell)["image/png"]
