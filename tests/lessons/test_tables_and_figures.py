"""course_utils.lessons tables, highlight, figures, reports: both faces of what is shown."""

import warnings
from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace

import pytest
from conftest import compared

from course_utils import budget, chat, data, figures, highlight, masking, profiles, reports, tables
from notebooks.live import live
from notebooks.memory_figure import memory
from notebooks.token_tables import side_by_side, tokens

PAIR = [{"role": "user", "content": "你好 <b>"}, {"role": "assistant", "content": "Hi 😀"}]


def test_table_has_two_faces():
    shown = tables.table([{"a": 1.5, "b": "<x>"}, {"a": 1234.5, "b": ("p", "q")}])
    assert repr(shown).splitlines()[2].split() == ["1.500", "<x>"]
    assert "p, q" in repr(shown) and "&lt;x&gt;" in shown._repr_html_()
    assert repr(tables.table([("k", 1)], columns=("what", "value"))).startswith("what  value")


def test_chinese_columns_line_up():
    lines = repr(tables.table([{"a": "你好", "b": "x"}, {"a": "abcd", "b": "y"}])).splitlines()
    assert lines[2].index("x") + 2 == lines[3].index("y")


def test_mask_marks_what_is_learned_and_nothing_else(qwen3_2507):
    (example,) = masking.build_examples(PAIR, qwen3_2507)
    shown = highlight.mask(example, qwen3_2507)
    assert "⟦Hi 😀<|im_end|>\n⟧" in repr(shown)
    assert "&lt;" in shown.html and "<b>" not in shown.html and "�" not in shown.html


def test_tokens_show_white_space_and_special_ones(qwen3):
    text = repr(tokens(qwen3("<think>\n a")["input_ids"], qwen3))
    assert "<think>" in text and "special" in text and "\\n" in text


def test_figures_have_titles_axes_and_a_png():
    rows = [compared(name, "emoji") for name in ("a", "all")]
    drawn = [
        figures.curve([{"step": 1, "loss": 2.0}, {"step": 1, "eval_loss": 1.5}]),
        figures.lengths({"a": [1, 2, 3], "b": [4]}, limit=9),
        figures.before_after(rows),
    ]
    for figure in drawn:
        assert all(axes.get_ylabel() for axes in figure.axes)
        assert figure._repr_png_().startswith(b"\x89PNG")
    assert [label.get_text() for label in drawn[2].axes[0].get_xticklabels()] == ["a"]


def test_the_bars_of_a_budget_are_as_long_as_its_total():
    names = ["Qwen/Qwen3-0.6B", "Qwen/Qwen3-14B"]
    budgets = {name: profiles.memory_budget(budget.CONFIGS[name], profiles.PROFILES["16gb"]) for name in names}
    budgets["generating"] = profiles.memory_budget(budget.CONFIGS[names[1]], profiles.PROFILES["16gb"], generate=True)
    (axes,) = memory(budgets).axes
    widths = [sum(bar.get_width() for bar in row) for row in zip(*axes.containers, strict=True)]
    assert [round(width, 6) for width in widths] == [round(budget.gib, 6) for budget in budgets.values()]
    assert axes.get_xlabel() == "GiB" and axes.get_title()


def test_rendered_shows_each_id_once_and_with_its_part(qwen3, qwen3_2507):
    messages = [PAIR[0], {**PAIR[1], "reasoning_content": "好🦜"}]
    for tokenizer, row in ((qwen3, messages), (qwen3_2507, PAIR)):
        parts = chat.parts(tokenizer, row)
        shown = highlight.rendered(parts, tokenizer)
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
    lines = repr(side_by_side({"plain": plain, "hybrid": hybrid, "silent": silent}, qwen3)).splitlines()[2:-1]
    assert len(lines) == len(hybrid["input_ids"])
    extra = [line for line in lines if "think>" in line]
    assert all(line.split()[2:] == ["·", "≠"] for line in extra)  # only one of the three has them
    last = lines[-1].split()
    assert last == ["198", "\\n", "●", "●", "·", "≠"]


def test_the_picture_of_an_audit_counts_every_fault(qwen3_2507):
    (good,) = masking.build_examples(PAIR, qwen3_2507)
    report = masking.audit([good, good, {**good, "labels": good["input_ids"]}], qwen3_2507)
    figure = figures.audit(report)
    counts = [bar.get_width() for bar in figure.axes[1].patches]
    names = [label.get_text() for label in figure.axes[1].get_yticklabels()]
    assert dict(zip(names, counts, strict=True)) == {
        what: len(rows) for what, rows in (report.faults | report.remarks).items()
    }
    assert sum(bar.get_height() for bar in figure.axes[0].patches) == report.rows
    assert figure._repr_png_().startswith(b"\x89PNG")


# ------------------------------------------------------------------------------------------------- lengths of many rows
def drawn(figure):
    """Of a histogram in layers: the rows of each layer, and what the legend says."""
    axes = figure.axes[0]
    rows = [round(sum(bar.get_height() for bar in layer)) for layer in axes.containers]
    return rows, [text.get_text() for text in axes.get_legend().get_texts()]


def test_lengths_of_many_sources_puts_the_smallest_together_and_loses_no_row():
    counts = {f"s{number}": [number + 1] * (number + 1) for number in range(10)} | {"others": [1] * 50}
    rows, legend = drawn(figures.lengths(counts))
    assert rows == [6, 7, 8, 9, 10, 50, 15]
    assert legend == ["s5", "s6", "s7", "s8", "s9", "others", "5 others"]
    rows, legend = drawn(figures.lengths(dict(list(counts.items())[:7])))
    assert rows == [1, 2, 3, 4, 5, 6, 7] and legend == [f"s{number}" for number in range(7)]


def test_layers_of_lengths_differ_in_shade_or_hatch():
    axes = figures.lengths({f"s{number}": [number] for number in range(7)}).axes[0]
    marks = {(bars[0].get_facecolor(), bars[0].get_hatch()) for bars in axes.containers}
    assert len(marks) == 7


@pytest.mark.parametrize(("limit", "far"), [(20, False), (21, True), (10**9, True)])
def test_a_limit_far_beyond_the_longest_row_does_not_squeeze_the_rows(limit, far):
    figure = figures.lengths({"a": [1, 10]}, limit=limit, unit="characters")
    axes = figure.axes[0]
    assert drawn(figure)[1][-1] == f"limit: {limit}" + (", far to the right" if far else "")
    assert (axes.get_xlim()[1] < 12) == far and axes.get_xlabel() == "characters"
    assert figure._repr_png_().startswith(b"\x89PNG")


def test_the_name_of_a_source_is_no_formula_and_is_never_left_out():
    counts = {"a $x_$ b": [1], "_hidden": [1], "$": [2], "": [2]}
    figure = figures.lengths(counts)
    assert figure._repr_png_().startswith(b"\x89PNG")
    names = [text.get_text().replace("\\$", "$").strip("\u200b") for text in figure.axes[0].get_legend().get_texts()]
    assert names == ["a $x_$ b", "_hidden", "$", "no name"]


# --------------------------------------------------------------------------------------------------- the check of a set
def turns(*said):
    roles = ("user", "assistant") * len(said)
    return [{"role": role, "content": text} for role, text in zip(roles, said, strict=False)]


def row(*said, **extra):
    return {"messages": turns(*said), "source": "mine", "tags": ["en"]} | extra


def shown_of(rows, *arguments):
    report = data.check(data.to_dataset(rows), *arguments)
    return report, reports.check(report)


def test_a_check_has_two_faces_and_both_hold_summary_problems_and_remarks():
    rows = [row("Q <b>", "A & B"), row("Q"), row("你好", "您好", images=["cat.png"])]
    rows[1]["messages"][0]["role"] = "<i>"
    report, shown = shown_of(rows)
    lines = repr(shown).splitlines()
    assert str(report.problems[0]) in lines and report.remarks[0] in lines
    assert not any(line == after == "" for line, after in pairwise(lines))
    assert ["rows", "that", "can", "be", "used", "2"] in [line.split() for line in lines]
    assert shown.html.count("data:image/png;base64,") == 1
    for text in (
        "Problems: 1. Rows that cannot be used: 1.",
        "role &#x27;&lt;i&gt;&#x27;",
        "Q &lt;b&gt;",
        "A &amp; B",
        "你好",
    ):
        assert text in shown.html
    assert report.remarks[0] in shown.html and "<b>" not in shown.html and "<i>" not in shown.html


def test_nothing_that_a_file_holds_or_is_called_becomes_html(tmp_path):
    path = tmp_path / "<img src=x>.jsonl"
    path.write_text('{"<u>": 1, "<u>": 2}\n{"<s>": 1}\n{"text": "<i>"}\n', encoding="utf-8")
    report = data.check(path)
    html = reports.check(report).html
    assert {problem.row for problem in report.problems} == {1, 2} and report.kept == 1
    assert not any(tag in html for tag in ("<u>", "<s>", "<i>", "<img src=x>")) and "&lt;img src=x&gt;" in html
    assert "<title>&lt;b&gt;" in reports.page("<b>", "") and "color-scheme: light dark" in reports.page("", "")


def test_a_set_without_problems_says_so():
    _, shown = shown_of([row("Q", "A")])
    assert "Nothing is wrong." in shown.html and "<h3>Problems" not in shown.html


def test_more_than_a_hundred_problems_are_cut_with_a_count():
    for bad, more in ((100, ""), (101, "… and 1 more."), (250, "… and 150 more.")):
        report, shown = shown_of([row("Q", "A")] + [row()] * bad)
        assert len(report.problems) == bad
        for face in (repr(shown), shown.html):
            assert face.count("expected a list with at least one message") == min(bad, 100)
            assert (more in face) if more else ("more." not in face)


def test_a_set_without_rows_has_no_figure(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text("", encoding="utf-8")
    shown = reports.check(data.check(path))
    assert "data:image" not in shown.html and "has no rows" in repr(shown) and "has no rows" in shown.html
    path.write_text("{broken\n", encoding="utf-8")
    assert "data:image" not in reports.check(data.check(path)).html


def test_texts_are_shown_and_measured(qwen3_2507):
    texts = [{"messages": [], "text": f"Once {number}. " + "x" * 600} for number in range(3)]
    for arguments, unit in (((), "characters of a row"), ((qwen3_2507,), "tokens of a row")):
        report, shown = shown_of(texts, *arguments)
        assert report.kept == 3 and unit in repr(shown)
        assert "Once 0. x" in shown.html and "x" * 400 not in shown.html and "x …" in shown.html
        assert shown.html.count("data:image/png") == 1  # lengths; nothing is masked in a text


def test_calls_thinking_and_empty_turns_are_shown():
    call = {"type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Oslo"}'}}
    called = [*turns("Q"), {"role": "assistant", "content": "", "tool_calls": [call]}, {"role": "tool", "content": ""}]
    thought = {"role": "assistant", "content": "A", "reasoning_content": "because"}
    rows = [row() | {"messages": [*called, thought]}, row("", "B"), row("Q", "")]
    report, shown = shown_of(rows)
    assert report.kept == 1 and "would teach silence" in shown.html and "would ask nothing" in shown.html
    assert "get_weather" in shown.html and "Oslo" in shown.html and "[because] A" in shown.html
    assert "None" not in shown.html.partition("Rows as they were read")[2]
    nothing = [
        {"role": role, "content": text, "tool_calls": calls}
        for role, text, calls in (("user", "Q", None), ("assistant", None, [call]), ("tool", "1", None))
    ]
    _, shown = shown_of([row() | {"messages": nothing}])
    assert "get_weather" in shown.html and "None" not in shown.html.partition("Rows as they were read")[2]


def test_preferences_are_shown_with_both_replies_and_repeats_by_their_ids():
    pair = row("Q") | {"chosen": [turns("", "yes")[1]], "rejected": [turns("", "no")[1]]}
    report, shown = shown_of(
        [
            pair | {"id": "first"},
            pair | {"id": "second"},
            row("R") | {"chosen": pair["rejected"], "rejected": pair["chosen"]},
        ]
    )
    assert "chosen assistant: yes" in shown.html and "rejected assistant: no" in shown.html
    assert len(report.repeats) == 1 and "Repeats of an earlier row: 1" in shown.html
    assert "first" in shown.html.partition("Repeats of an earlier row")[2]


def test_with_a_tokenizer_the_page_shows_what_is_learned(qwen3_2507):
    report, shown = shown_of([row(f"Q {number}", "A" * number) for number in range(1, 9)], qwen3_2507, 64)
    assert report.kept == 8 and shown.html.count("data:image/png") == 2
    assert 'alt="Length of the usable rows"' in shown.html and 'alt="What this set would teach' in shown.html


def test_a_figure_speaks_chinese_where_a_font_has_the_signs(monkeypatch):
    from matplotlib.font_manager import fontManager

    monkeypatch.setenv("COURSE_LANG", "zh")
    figure = figures.curve([{"step": 1, "loss": 2.0}], "Loss during training")
    fonts = list(fontManager.ttflist)
    monkeypatch.setattr(fontManager, "ttflist", [font for font in fonts if not figures.HAN_FONT.search(font.name)])
    with pytest.warns(UserWarning, match="figures stay English. On Debian or Ubuntu: `apt-get install fonts-noto-cjk`"):
        figure._repr_png_()
    assert figure.axes[0].get_xlabel() == "step"
    found = [replace(font, name="Noto Sans CJK SC") for font in fonts[:1]]
    monkeypatch.setattr(fontManager, "ttflist", [*fonts, *found])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a machine that does not have that font
        figure._repr_png_()
    assert figure.axes[0].get_xlabel() == "步"
    assert figure.axes[0].title.get_family() == ["DejaVu Sans", "Noto Sans CJK SC"]


class TestLive:
    LOGS = (
        {"eval_loss": 3.0, "seconds": 1.0},
        {"loss": 2.0, "learning_rate": 1e-3, "tokens_per_second": 410.4, "memory_gib": 2.04, "seconds_left": 61.0},
        {"eval_loss": 1.0, "seconds": 3.0},
        {"train_loss": 1.5, "train_runtime": 9.0, "memory_gib": 99.0},  # the Trainer's summary is no step
    )

    def follow(self, callback, state):
        callback.on_train_begin(None, state, None)
        for step, logs in enumerate(self.LOGS):
            state.global_step = step
            callback.on_log(None, state, None, logs=dict(logs))
        callback.on_train_end(None, state, None)

    def test_one_picture_is_kept_up_to_date(self, monkeypatch):
        shown = []
        handle = SimpleNamespace(update=shown.append)
        monkeypatch.setattr("IPython.get_ipython", lambda: SimpleNamespace(kernel=True))
        monkeypatch.setattr("IPython.display.display", lambda figure, display_id: shown.append(figure) or handle)
        self.follow(live(4.1), SimpleNamespace(global_step=0, max_steps=3))
        assert len(shown) == 3, "at both looks at the validation rows and at the end; the step between came too soon"
        assert shown[-1].get_supxlabel() == (
            "learning rate 0.001   ·   410 tokens/s   ·   2.0 GiB of 4.1 predicted   ·   61 s left"
        )

    def test_outside_of_a_notebook_nothing_is_shown(self, capsys):
        self.follow(live(), SimpleNamespace(global_step=0, max_steps=3))
        assert capsys.readouterr().out == ""
