"""The boxes of lesson 02: as wide as they say, and told apart without colour."""

from matplotlib.colors import to_rgb
from matplotlib.patches import FancyBboxPatch

from notebooks.boxes import STYLES, Box, lanes


def test_boxes_stand_side_by_side_and_lanes_one_under_the_other():
    figure = lanes("two", {"above": [Box("a", 3), Box("b", 2, "learned")], "below": [Box("c", 7, "asked")]})
    [axes] = figure.axes
    boxes = [patch for patch in axes.patches if isinstance(patch, FancyBboxPatch)]
    assert [round(box.get_x() + box.get_width() / 2, 6) for box in boxes] == [1.5, 4, 3.5]
    assert boxes[0].get_y() == boxes[1].get_y() < boxes[2].get_y()
    assert axes.get_xlim()[1] > 7
    assert [text.get_text() for text in axes.texts] == ["above", "a", "b", "below", "c"]
    assert figure._repr_png_().startswith(b"\x89PNG")


def test_the_legend_names_the_kinds_that_occur():
    figure = lanes("one", {"lane": [Box("a", 1, "learned"), Box("b", 1, "new")]})
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["learned", "never seen in training"]
    assert not lanes("none", {"lane": [Box("a", 1)]}, legend=False).legends


def test_kinds_differ_in_grey():
    looks = {
        (round(sum(to_rgb(face["facecolor"])) / 3, 1), face.get("hatch"), face.get("linestyle"))
        for _, face, _ in STYLES.values()
    }
    assert len(looks) == len(STYLES)
