"""README.md shows what the lessons show."""

import pictures
import pytest


@pytest.mark.parametrize("lesson", pictures.PICTURES)
def test_a_picture_is_the_lessons_own(lesson):
    picture = (pictures.FOLDER / f"{lesson[:2]}.png").read_bytes()
    drawn = pictures.figure(lesson)
    assert picture == drawn if drawn else "<span" in pictures.shown(lesson)["text/html"]
