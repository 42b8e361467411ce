"""course_utils.show: both faces of what is shown."""

import numpy as np

from course_utils import budget, chat, masking, profiles, show

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


def test_rendered_shows_each_id_once_and_with_its_part(qwen3, qwen3_2507):
    messages = [PAIR[0], {**PAIR[1], "reasoning_content": "好🦜"}]
    for tokenizer, row in ((qwen3, messages), (qwen3_2507, PAIR)):
        parts = chat.parts(tokenizer, row)
        shown = show.rendered(parts, tokenizer)
        lines = repr(shown).splitlines()[2:-1]
        ids = [[int(word) for word in line.split("  ")[-1].split()] for line in lines]
        assert [token for each in ids for token in each] == tokenizer(
            chat.render(tokenizer, row), add_special_tokens=False
        )["input_ids"]
        assert [tokenizer.decode(each) for each in ids] == [part.text for part in parts]
        assert "&lt;b&gt;" in shown.html and "<b>" not in shown.html
        kinds = {line.split()[0] for line in lines}
        assert kinds == {"template", "role", "content"} | ({"thinking"} if row is messages else set())


def test_masks_line_up_ways_that_have_other_tokens(qwen3, qwen3_2507):
    (plain,) = masking.build_examples(PAIR, qwen3_2507)
    (hybrid,) = masking.build_examples(PAIR, qwen3)
    silent = {**plain, "labels": [masking.IGNORED] * len(plain["labels"])}
    lines = repr(show.masks({"plain": plain, "hybrid": hybrid, "silent": silent}, qwen3)).splitlines()[2:-1]
    assert len(lines) == len(hybrid["input_ids"])
    extra = [line for line in lines if "think>" in line]
    assert all(line.split()[2:] == ["·", "≠"] for line in extra)  # only one of the three has them
    last = lines[-1].split()
    assert last == ["198", "\\n", "●", "●", "·", "≠"]


def test_the_picture_of_an_audit_counts_every_fault(qwen3_2507):
    (good,) = masking.build_examples(PAIR, qwen3_2507)
    report = masking.audit([good, good, {**good, "labels": good["input_ids"]}], qwen3_2507)
    figure = show.audit(report)
    counts = [bar.get_width() for bar in figure.axes[1].patches]
    names = [label.get_text() for label in figure.axes[1].get_yticklabels()]
    assert dict(zip(names, counts, strict=True)) == {
        what: len(rows) for what, rows in (report.faults | report.remarks).items()
    }
    assert sum(bar.get_height() for bar in figure.axes[0].patches) == report.rows
    assert figure._repr_png_().startswith(b"\x89PNG")


def test_attention_is_drawn_with_the_first_token_on_top():
    seen = np.tri(3, dtype=bool)
    figure = show.attention({"causal": seen, "all": np.ones((3, 3), dtype=bool)}, ["a", "b", "c"])
    mesh = figure.axes[0].collections[0].get_array().reshape(3, 3)
    assert mesh[-1].tolist() == [1, 0, 0] and mesh[0].tolist() == [1, 1, 1]  # the last line is drawn at the top
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["c", "b", "a"]
    assert [axes.get_title() for axes in figure.axes] == ["causal", "all"]
