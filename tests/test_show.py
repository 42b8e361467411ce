"""course_utils.show: both faces of what is shown."""

from course_utils import budget, masking, profiles, show

PAIR = [{"role": "user", "content": "你好 <b>"}, {"role": "assistant", "content": "Hi 😀"}]


def test_table_has_two_faces():
    shown = show.table([{"a": 1.5, "b": "<x>"}, {"a": 1234.5, "b": ("p", "q")}])
    assert repr(shown).splitlines()[2].split() == ["1.500", "<x>"]
    assert "p, q" in repr(shown) and "&lt;x&gt;" in shown._repr_html_()
    assert repr(show.table([("k", 1)], columns=("what", "value"))).startswith("what  value")


def test_chinese_columns_line_up():
    lines = repr(show.table([{"a": "你好", "b": "x"}, {"a": "abcd", "b": "y"}])).splitlines()
    assert lines[2].index("x") + 2 == lines[3].index("y")


def test_mask_marks_what_is_learned_and_nothing_else(qwen3_2507):
    (example,) = masking.build_examples(PAIR, qwen3_2507)
    shown = show.mask(example, qwen3_2507)
    assert "⟦Hi 😀<|im_end|>\n⟧" in repr(shown)
    assert "&lt;" in shown.html and "<b>" not in shown.html and "�" not in shown.html


def test_tokens_show_white_space_and_special_ones(qwen3):
    text = repr(show.tokens(qwen3("<think>\n a")["input_ids"], qwen3))
    assert "<think>" in text and "special" in text and "\\n" in text


def test_figures_have_titles_axes_and_a_png():
    rows = [
        {"source": name, "metric": "emoji"}
        | {f"{key} {when}": 0.5 for key in ("perplexity", "metric", "usable") for when in ("before", "after")}
        for name in ("a", "all")
    ]
    figures = [
        show.curve([{"step": 1, "loss": 2.0}, {"step": 1, "eval_loss": 1.5}]),
        show.lengths({"a": [1, 2, 3], "b": [4]}, limit=9),
        show.before_after(rows),
    ]
    for figure in figures:
        assert all(axes.get_ylabel() for axes in figure.axes)
        assert figure._repr_png_().startswith(b"\x89PNG")
    assert [label.get_text() for label in figures[2].axes[0].get_xticklabels()] == ["a"]


def test_the_bars_of_a_budget_are_as_long_as_its_total():
    names = ["Qwen/Qwen3-0.6B", "Qwen/Qwen3-14B"]
    budgets = {name: profiles.memory_budget(budget.CONFIGS[name], profiles.PROFILES["16gb"]) for name in names}
    budgets["generating"] = profiles.memory_budget(budget.CONFIGS[names[1]], profiles.PROFILES["16gb"], generate=True)
    (axes,) = show.memory(budgets).axes
    widths = [sum(bar.get_width() for bar in row) for row in zip(*axes.containers, strict=True)]
    assert [round(width, 6) for width in widths] == [round(budget.gib, 6) for budget in budgets.values()]
    assert axes.get_xlabel() == "GiB" and axes.get_title()
