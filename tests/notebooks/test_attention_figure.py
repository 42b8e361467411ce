"""notebooks/extras/attention_figure.py: the squares are the masks, the right way up."""

import numpy as np

from notebooks.extras.attention_figure import attention


def test_attention_is_drawn_with_the_first_token_on_top():
    seen = np.tri(3, dtype=bool)
    figure = attention({"causal": seen, "all": np.ones((3, 3), dtype=bool)}, ["a", "b", "c"])
    mesh = figure.axes[0].collections[0].get_array().reshape(3, 3)
    assert mesh[-1].tolist() == [1, 0, 0] and mesh[0].tolist() == [1, 1, 1]  # the last line is drawn at the top
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["c", "b", "a"]
    assert [axes.get_title() for axes in figure.axes] == ["causal", "all"]
