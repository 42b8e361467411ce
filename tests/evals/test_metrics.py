"""course_utils.evals.metrics: the definitions, on the odd replies that models write."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from course_utils import metrics

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
        ('{"a":[2,1]}', '{"a":[1,2]}', False),
        ("Paris", " Paris\n", True),
    ],
)
def test_same_answer(reply, reference, same):
    assert metrics.same_answer(reply, reference) is same


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
