"""course_utils.evals.metrics: the definitions, on the odd replies that models write."""

import copy
import json
from time import perf_counter
from typing import ClassVar

import pytest
from conftest import shipped_template
from hypothesis import given
from hypothesis import strategies as st

from course_utils import chat, metrics

TOKENS = {"<|im_start|>", "<|im_end|>", "<think>", "</think>", "<tool_call>"}


@pytest.mark.parametrize(
    ("reply", "strict", "lenient"),
    [
        ('{"a": 1}', True, True),
        (' {"a": 1}\n', True, True),
        ('```json\n{"a": 1}\n```', False, True),
        ('```\n{"a": 1}\n```', False, True),
        ('```json\n```json\n{"a": 1}\n```\n```', False, False),
        ('Here it is: {"a": 1}', False, False),
        ('{"a": 1} Done.', False, False),
        ('{"a": NaN}', False, False),
        ('{"a": -Infinity}', False, False),
        ('{"a": 1', False, False),
        ("{'a': 1}", False, False),
        ("", False, False),
        ("[" * 100_000, False, False),
        ('{"a":' * 100_000 + "1" + "}" * 100_000, False, False),
        ('{"a":' * 101 + "1" + "}" * 101, False, False),
        ('{"a":' * 100 + "1" + "}" * 100, True, True),
        ('{"a": ' + "1" * 5000 + "}", True, True),
    ],
)
def test_json_strict_and_lenient(reply, strict, lenient):
    assert isinstance(metrics.parse_json(reply), dict) is strict
    assert isinstance(metrics.parse_json(reply, lenient=True), dict) is lenient


values = st.recursive(
    st.none() | st.booleans() | st.integers(-99, 99) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(values)
def test_any_json_object_is_valid_equal_to_itself_and_fits_itself(value):
    text = json.dumps({"k": value}, ensure_ascii=False)
    parsed = metrics.parse_json(text)
    assert parsed is not None and metrics.fits(parsed, parsed)
    assert metrics.same_answer(text, json.dumps({"k": value}, indent=1))


@given(st.text())
def test_no_reply_raises(reply):
    for reference in ("8", '{"a": [1]}', "Fine.", ""):
        row = {"messages": [{"role": "assistant", "content": reference}], "tags": ["ner"]}
        verdicts = metrics.measure(reply, row, written=reply, stopped=True, template_tokens=TOKENS)
        assert verdicts["usable"] == (verdicts["faults"] == [])


@pytest.mark.parametrize(
    ("reply", "fits"),
    [
        ('{"name": "Bo", "ages": [1], "pet": null}', True),
        ('{"pet": "cat", "name": "", "ages": []}', True),
        ('{"name": "Bo", "ages": [1]}', False),  # a key is missing
        ('{"name": "Bo", "ages": [1], "pet": 0, "x": 0}', False),  # one too many
        ('{"name": 5, "ages": [1], "pet": 0}', False),
        ('{"name": "Bo", "ages": 1, "pet": 0}', False),
        ('{"name": "Bo", "ages": [true], "pet": 0}', False),
        ('{"name": "Bo", "ages": [1.5, "2"], "pet": 0}', False),
        ("[]", False),
    ],
)
def test_the_schema_is_that_of_the_reference(reply, fits):
    example = metrics.parse_json('{"name": "Al", "ages": [3, 4], "pet": null}')
    assert metrics.fits(metrics.parse_json(reply), example) is fits


@pytest.mark.parametrize(
    ("reply", "reference", "same"),
    [
        ("9", "9", True),
        ("The answer is 9.", "9", True),
        ("9 - 2 = 7", "9", False),
        ("9-2", "-2", False),
        ("It is −2.", "-2", True),
        ("1/3", "2/6", True),
        (r"So it is \frac{1}{3}.", "2/6", True),
        ("0.5", "1/2", True),
        ("8.0", "8", True),
        ("1,200", "1200", True),
        ("1/0", "1", False),
        ("9" * 5000, "9", False),
        ("nine", "9", False),
        ("", "9", False),
        ('{"a":1,"b":true}', '{"b": true, "a": 1.0}', True),
        ('{"a":true}', '{"a": 1}', False),
        ('{"a":false}', '{"a": 0}', False),
        ('{"a":"1"}', '{"a": 1}', False),
        ('{"a":123456789012345678}', '{"a":123456789012345679}', False),
        ('{"a":[123456789012345678]}', '{"a":[123456789012345678.0]}', True),
        ('{"a":0.1}', '{"a":0.10000000000000001}', False),
        ('{"a":1e2}', '{"a":100}', True),
        ('{"a":1e400}', '{"a":1e401}', False),
        ('{"a":1e400}', '{"a":10e399}', True),
        ('{"a":1e999999999}', '{"a":1}', False),
        ('{"a":1e99999999999999999999}', '{"a":1}', False),
        ("[1]", "[1,1]", False),
        ('{"a":1}', '{"a":1,"b":2}', False),
        ('{"a":1,"b":2}', '{"a":1}', False),
        ("[1]", '{"a":1}', False),
        ('{"a":[2,1]}', '{"a":[1,2]}', False),
        ("Paris", " Paris\n", True),
    ],
)
def test_same_answer(reply, reference, same):
    """Numbers as people write them; as JSON exactly, and never as a truth value."""
    assert metrics.same_answer(reply, reference) is same


@given(st.integers(), st.integers(1, 9))
def test_numbers_in_json_are_exact(number, more):
    """Numbers as people write them: two long integers that differ are two, however they are written."""
    written = f'{{"n":[{number}]}}'
    for same in (f'{{"n": [{number}.0]}}', f'{{"n":[{number}e0]}}', f'{{"n":[{number * 10}e-1]}}'):
        assert metrics.same_answer(written, same) and metrics.same_answer(same, written)
        assert metrics.fits(metrics.parse_json(written), metrics.parse_json(same))
    for other in (f"{number + more}", f"{number}.000000000000000000001", "true", "false", f'"{number}"', "null"):
        assert not metrics.same_answer(written, f'{{"n":[{other}]}}')


@given(st.integers(-999, 999), st.integers(1, 99), st.integers(1, 9))
def test_a_fraction_is_the_same_however_far_it_is_reduced(top, bottom, factor):
    assert metrics.same_answer(f"It is {top}/{bottom}.", f"{top * factor}/{bottom * factor}")


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("The word 你好 means hello.", "Latin"),
        ("我喜欢用Python写程序。", "Chinese"),
        ("Доброе утро", "other"),
        ("42 🎉", None),
        ('{"城市": "杭州"}', None),
        ("```python\nprint('hello')\n```", None),
        ("看代码：\n```python\nprint('hello world of words')\n```", "Chinese"),
        ("", None),
    ],
)
def test_language_by_script(text, language):
    assert metrics.language(text) == language


class TestUsableAsPeopleSeeIt:
    """Usable as people see it: what looks like a fault to a pattern only is none, and what people see is found."""

    @pytest.mark.parametrize(
        "text",
        [
            "| a | b | c | d | e |\n|---|---|---|---|---|\n| 1 | 2 | 3 | 4 | 5 |",
            "| :---: | :---: | :---: | :---: | :---: |",
            "| yes | yes | yes | yes | yes |",
            "| 0 | 0 | 0 | 0 | 0 |\n" * 5,
            "| | | | | | | |",
            "┌────┬────────────────────┐",
            "0.3333333333333333",
            "0.142857142857142857142857142857",
            "1" + "0" * 100,
            *(sign * 80 for sign in "=-._*#~"),
            "See chapter 3 " + "." * 60 + " 17",
            "* * * * * * * * *",
            "def f():\n    if a:\n        if b:\n            if c:\n                return 1\n",
            "        }\n        }\n        }\n        }\n        }\n",
            "- a\n- b\n- c\n- d\n- e",
            "1. \n2. \n3. \n4. \n",
            "[0, 0, 0, 0, 0, 0, 0, 0, 0, 0]",
            "8, 8, 8, 8, 8, 8, 8, 8",
            "ha ha ha",
            "😀" * 20,
            "```html\n" + "<li>Item</li>\n" * 6 + "```",
            "[false, false, false, false, false, false, false, false, false, false]",
            "So: [null, null, null, null, null]",
            "5 apples + 5 apples + 5 apples + 5 apples + 5 apples = 25 apples",
            "+".join([r"\frac{1}{2}"] * 5),
            "- [ ] Task\n" * 4,
            "No! No! No! No! No!",
            "very very very very very good",
            "a\n" + "." * 80 + " 17",
        ],
    )
    def test_no_loop(self, text):
        assert metrics.faults(text, "8", written=text, stopped=True, template_tokens=TOKENS) == ()

    @pytest.mark.parametrize(
        "text",
        [
            "It is late. " * 4,
            "So: " + "I see. " * 10,
            "好的，没问题。" * 4,
            "- yes\n" * 10,
            "**Step**: go on\n" * 4,
            "| a | b |\n" * 5,
            "| a | b |\n| c | d |\n" * 5,
            "| yes " * 200,
            '{"n":' * 20,
            "ha" * 100,
            "哈" * 100,
            "0" * 200,
            "!" * 200,
            "😀" * 200,
            "1, " * 200,
            "```\n" * 25,
            "---\n" * 25,
            "It is a long sentence that goes on and on until there are more than eighty characters in it. " * 4,
            ("The first sentence of a paragraph. " + "Another one, " * 3 + "which says more.\n\n") * 6,
            "这个句子很长，说了又说，一直说下去，" * 9,
            "```python\n" + "print('again and again')\n" * 6,
            "No! " * 20,
        ],
    )
    def test_a_loop(self, text):
        assert "loop" in metrics.faults(text, "Fine.", written=text, stopped=True, template_tokens=TOKENS)
        assert "loop" not in metrics.faults(text, text, written=text, stopped=True, template_tokens=TOKENS)

    @given(st.text("ab |-\n", min_size=1, max_size=12), st.integers(4, 30))
    def test_a_piece_with_letters_four_times_is_a_loop_anywhere_in_prose(self, piece, times):
        sentence = f"So {piece.replace('|', '')} it is. "
        assert metrics.looping("Well. " + sentence * times + "The end")

    @pytest.mark.parametrize(
        "text",
        [
            "详见 https://docs.python.org/3/library/json.html#module-json 第二节",
            "请访问https://docs.python.org/3/library/json.html查看",
            "见 www.example.com/some/long/path",
            "请发邮件到 first.last@example-company.co.uk",
            "文件在 /usr/local/share/data/train/file.txt 里",
            "打开 C:\\Users\\name\\Documents\\file.txt",
            "运行 `python -m course_utils evaluate --profile tiny` 即可",
            "先看 course_utils.evals.metrics 和 read_the_long_file 两处",
            r"结果是 $\frac{a}{b} \times \text{cm}$。",
            "用<strong>加粗</strong>",
            "代码：\n```python\nprint('hello world of words')\n```",
            "推荐三部电影：The Shawshank Redemption、The Godfather、Pulp Fiction",
            "安装命令：\n\npip install torch torchvision torchaudio transformers datasets",
        ],
    )
    def test_a_chinese_sentence_is_chinese(self, text):
        assert metrics.language(text) == "Chinese"
        assert metrics.faults(text, "好。", written=text, stopped=True, template_tokens=TOKENS) == ()

    @pytest.mark.parametrize("text", ["今日は天気がいいです。", "東京都の天気予報", "カタカナと漢字"])
    def test_kana_make_a_text_japanese(self, text):
        assert metrics.language(text) == "other"
        assert metrics.language("这家の店不错，大家都喜欢。") == "Chinese"

    @pytest.mark.parametrize(
        "text", ["He/she may go and/or stay.", "See https://a.b/c for more.", "Run `f(x)` now.", "It is late.So go on."]
    )
    def test_an_english_sentence_stays_english(self, text):
        assert metrics.language(text) == "Latin"

    @pytest.mark.parametrize(
        "text",
        [
            *("\u200b", "\ufeff", "\u2060\u200d", "\ufe0f", "\U000e0101", "\x00\x07", "\u00ad", "\u3164", "\u2800"),
            *(" \n\t\u00a0\u3000", "\u200b \u200b\n", "\u0301", "\ue000", "\u200e\u202e", "\ufffd", "\ufffd\ufffd\n"),
        ],
    )
    def test_what_nobody_sees_is_empty(self, text):
        assert metrics.faults(text, "8", written=text, stopped=True, template_tokens=TOKENS) == ("empty",)
        seen = metrics.faults(f"{text}8{text}", "8", written=text, stopped=True, template_tokens=TOKENS)
        assert seen == ()

    @pytest.mark.parametrize("text", ["8", "好", "!", "😀", "…", "①", "٣", "é"])
    def test_one_sign_is_an_answer(self, text):
        assert metrics.faults(text, "8", written=text, stopped=True, template_tokens=TOKENS) == ()

    @pytest.mark.parametrize(
        "text",
        [
            "a" * 20_000,
            "ab " * 7000,
            "a\n" * 10_000,
            "`" * 20_000,
            "@" * 20_000,
            "x_" * 9999,
            " ".join(map(str, range(5000))),
        ],
    )
    def test_a_long_reply_takes_no_long_time(self, text):
        start = perf_counter()
        metrics.faults(text, "8", written=text, stopped=True, template_tokens=TOKENS)
        assert perf_counter() - start < 5


@pytest.mark.parametrize(
    ("reply", "reference", "written", "stopped", "faults"),
    [
        ("Fine.", "Good.", "Fine.", True, ()),
        ("Fine.", "Good.", "<think>Hm.</think>Fine.", True, ()),
        ("", "Good.", "", True, ("empty",)),
        (" \n", "Good.", " \n", True, ("empty",)),
        ("", "Good.", "<think>Well, the", False, ("empty", "does not end")),  # thinking cut off
        ("and then " * 5, "Good.", "and then " * 5, False, ("does not end", "loop")),
        ("|---|---|---|---|", "|---|---|---|---|", "|---|---|---|---|", True, ()),
        ("Hi", "Good.", "Hi<|im_start|>", True, ("template token",)),
        ("Hi</think>", "Good.", "<think></think>Hi</think>", True, ("template token",)),
        ("好的。", "Good.", "好的。", True, ("other language",)),
        ("Fine.", "好。", "Fine.", True, ("other language",)),
        ("8", "好。", "8", True, ()),
        ("八", "8", "八", True, ()),
        ("no no, yes yes", "Good.", "no no, yes yes", True, ()),
    ],
)
def test_faults(reply, reference, written, stopped, faults):
    found = metrics.faults(reply, reference, written=written, stopped=stopped, template_tokens=TOKENS)
    assert found == faults


def test_a_row_with_tools_may_hold_a_call():
    call = '<tool_call>\n{"name": "f"}\n</tool_call>'
    row = {"messages": [{"role": "assistant", "content": None}]}
    how = {"written": call, "stopped": True, "template_tokens": {"<tool_call>", "</tool_call>"}}
    assert metrics.measure(call, row, **how)["faults"] == ["template token"]
    assert metrics.measure(call, row | {"tools": [{}]}, **how)["usable"]


@pytest.mark.parametrize(
    ("reply", "counts"),
    [
        ('{"name": ["林晓"], "address": ["杭州"]}', (2, 2, 3)),
        ('{"name": ["林晓", "林晓"], "address": ["杭"]}', (1, 2, 3)),
        ('{"address": ["林晓"]}', (0, 1, 3)),
        ('{"name": "林晓"}', (0, 0, 3)),
        ('{"name": [["林晓"], 3]}', (0, 0, 3)),
        ('好的：{"name": ["林晓"]}', (0, 0, 3)),
    ],
)
def test_entities_are_pairs_of_label_and_surface(reply, counts):
    reference = '{"name": ["林晓"], "address": ["杭州", "青岛"]}'
    assert metrics.entity_counts(reply, reference) == counts


@pytest.mark.parametrize(
    ("reply", "bare", "reached"),
    [
        ("8", True, True),
        (" 8.0\n", True, True),
        ("8 apples", False, True),
        ("3 + 5 = 8", False, True),
        ("9", False, False),
    ],
)
def test_an_answer_is_bare_or_only_reached(reply, bare, reached):
    assert (metrics.bare_answer(reply, "8"), metrics.same_answer(reply, "8")) == (bare, reached)


class TestCalls:
    """A call is right with the right tool and equal arguments; a figure that only looks right is the worst fault."""

    WEATHER: ClassVar = {"function": {"name": "get_weather", "arguments": '{"city": "成都", "day": "today"}'}}
    MONEY: ClassVar = {"function": {"name": "convert", "arguments": {"amount": 10, "to": "EUR"}}}

    def test_calls_as_they_are_written_are_the_same(self):
        both = [self.WEATHER, self.MONEY]
        written = metrics.written_calls(both)
        assert "成都" in written and metrics.same_calls(f"Let me look.\n{written}", both)
        assert metrics.same_calls(metrics.written_calls(both[::-1]), both), "the order says nothing"
        assert metrics.same_calls(written.replace("10", "10.0"), both)
        assert metrics.written_calls(None) == ""

    @pytest.mark.parametrize(("before", "after"), [("", ""), ("```json\n", "\n```"), ("{Look: ", "\n<tool_call>")])
    def test_the_frame_of_a_call_may_be_another(self, before, after):
        call = metrics.written_calls([self.WEATHER]).split("\n")[1]
        assert metrics.same_calls(f"{before}{call}{after}", [self.WEATHER])
        assert not metrics.same_calls(f'{before}{{"call": {call}}}{after}', [self.WEATHER])

    @pytest.mark.parametrize(
        "change",
        [
            ("today", "tomorrow"),
            ("get_weather", "weather"),
            ("10", "100"),
            ("10", '"10"'),
            ('"EUR"', '"EUR", "from": "USD"'),
            ("}}", "}"),
        ],
    )
    def test_a_call_that_is_nearly_right_is_wrong(self, change):
        both = [self.WEATHER, self.MONEY]
        assert not metrics.same_calls(metrics.written_calls(both).replace(*change), both)

    def test_qwen3_5_writes_calls_between_tags(self, qwen3):
        tokenizer = copy.deepcopy(qwen3)
        tokenizer.chat_template = shipped_template("qwen3_5_think")
        room = {"function": {"name": "book", "arguments": {"room": "12", "guests": 2, "with": ["desk"], "pets": False}}}
        both = [self.WEATHER, room]
        turns = [{"role": "user", "content": "Please."}, {"role": "assistant", "content": "", "tool_calls": both}]
        written = chat.render(tokenizer, turns, tools=[]).split("assistant")[1]
        assert "<function=book>" in written and metrics.same_calls(written, both)
        assert metrics.same_calls(written.replace("False", "false"), both)
        for change in ("today tomorrow", "book cook", "\n2\n \n3\n", "False True", "pets dogs"):
            assert not metrics.same_calls(written.replace(*change.split(" ")), both)
        assert not metrics.same_calls(written, [room]) and not metrics.same_calls(written, [*both, room])

    def test_a_call_too_many_or_too_few_is_wrong(self):
        one, two = metrics.written_calls([self.WEATHER]), metrics.written_calls([self.WEATHER, self.WEATHER])
        assert not metrics.same_calls(two, [self.WEATHER]) and not metrics.same_calls(one, [self.WEATHER] * 2)
        assert not metrics.same_calls("It is sunny.", [self.WEATHER])
