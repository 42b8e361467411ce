"""`normalise`: every copy of a public source into the same messages."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from course_utils import data
from course_utils.data.sources import cut, tidy_number


def said(source, row):
    [row] = data.normalise(source, [row])
    return *(message["content"] for message in row["messages"]), row["tags"]


@pytest.mark.parametrize("field", ["input", "question"])
@pytest.mark.parametrize(("golden", "answer"), [("9", "9"), ("2/6", "2/6"), ("12%", "12%"), ("8.0", "8"), (9, "9")])
def test_cmath(field, golden, answer):
    assert said("cmath", {field: " 还剩多少页？", "golden": golden}) == ("还剩多少页？", answer, ["math", "zh"])


@pytest.mark.parametrize("names", [("N_00", "N_01"), ("N_0", "N_1"), ("number0", "number1")])
def test_mawps_numbers_are_filled_in(names):
    question = f"Ann has {names[1]} pens and {names[0]} caps, {names[1]} pens are red."
    row = {"Question": question, "Numbers": "8.0 2.5", "Answer": "141.50"}
    assert said("mawps", row) == ("Ann has 2.5 pens and 8 caps, 2.5 pens are red.", "141.5", ["math", "en"])


def test_mawps_ten_placeholders_do_not_shadow_each_other():
    question = " ".join(f"N_{i:02}" for i in range(12)) + " | " + " ".join(f"N_{i}" for i in range(12))
    numbers = [str(float(i + 50)) for i in range(12)]
    filled, _, _ = said("mawps", {"Question": question, "Numbers": " ".join(numbers), "Answer": "1.0"})
    expected = " ".join(str(i + 50) for i in range(12))
    assert filled == f"{expected} | {expected}"


def test_emoji_prefers_chinese():
    both = {"question": "你好吗？", "answer_zh": "很好 😀", "answer_en": "Fine 😀"}
    assert said("emoji", both) == ("你好吗？", "很好 😀", ["chat", "zh"])
    assert said("emoji", both | {"question": "Hi?", "answer_zh": " "}) == ("Hi?", "Fine 😀", ["chat", "en"])
    assert said("emoji", {"question": "Hi?", "answer_zh": None, "answer_en": "Fine\x00 😀"})[1] == "Fine 😀"


def test_long_answers_end_with_a_sentence():
    answer = said("emoji", {"question": "Q", "answer_zh": "今天很好。" * 700, "answer_en": ""})[1]
    assert len(answer) == 3000 and answer.endswith("。")
    answer = said("emoji", {"question": "Q", "answer_zh": "", "answer_en": "It was 3.5 km long. " * 200})[1]
    assert 2900 < len(answer) <= 3000 and answer.endswith("long.")
    assert cut("x" * 4000) == "x" * 3000


@given(st.text(alphabet="ab。!. \n😀\u200d\ufe0f", max_size=80), st.integers(1, 40))
def test_cut_is_a_short_start(text, limit):
    short = cut(text, limit)
    assert len(short) <= max(limit, 0) and text.startswith(short)
    if len(text) <= limit:
        assert short == text


@given(st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**9), max_value=10**9, places=4))
def test_tidy_number_keeps_the_value(number):
    text = tidy_number(str(number))
    assert float(text) == float(number)
    assert "E" not in text and not (("." in text) and text.endswith(("0", ".")))


def test_cluener_spans_are_inclusive():
    row = {"text": "叶老桂在浙商银行", "label": {"name": {"叶老桂": [[0, 2]]}, "company": {"浙商银行": [[4, 7]]}}}
    question, answer, tags = said("cluener", row)
    assert "company" in question and question.endswith("叶老桂在浙商银行")
    assert answer == '{"name": ["叶老桂"], "company": ["浙商银行"]}' and tags == ["ner", "zh"]
    row["label"]["name"]["叶老桂"] = [[0, 3]]
    with pytest.raises(
        data.DataError, match=r"cluener, row 1, label\.name\.叶老桂: \[0, 3\] is '叶老桂在' in the text"
    ):
        data.normalise("cluener", [row])


@pytest.mark.parametrize(
    ("source", "row", "message"),
    [
        ("cmath", {"Question": "?", "golden": "1"}, r"cmath, row 2, input: needs input or question"),
        ("cmath", {"input": "?", "golden": " "}, r"cmath, row 2, golden: needs golden"),
        ("mawps", {"Question": "N_02", "Numbers": "1.0", "Answer": "1"}, r"row 2, Question: N_02 has no number"),
        (
            "mawps",
            {"Question": "q", "Numbers": "one", "Answer": "1"},
            r"row 2, Numbers: expected a number, found 'one'",
        ),
        ("mawps", {"Question": "q", "Numbers": "", "Answer": "NaN"}, r"row 2, Answer: expected a number, found 'NaN'"),
        (
            "emoji",
            {"question": "q", "answer_zh": "", "answer_en": None},
            r"row 2, answer_zh: needs answer_zh or answer_en",
        ),
    ],
)
def test_errors_name_row_and_field(source, row, message):
    good = {
        "input": "q",
        "golden": "1",
        "Question": "q",
        "Numbers": "",
        "Answer": "1",
        "question": "q",
        "answer_en": "a",
    }
    with pytest.raises(data.DataError, match=message):
        data.normalise(source, [good, row])


def test_unknown_source_says_what_exists():
    with pytest.raises(data.DataError, match=r"no source 'gsm8k'.*cmath, mawps, emoji, cluener"):
        data.normalise("gsm8k", [])


def test_no_rows_are_a_data_set_of_no_rows():
    assert data.normalise("cmath", []).column_names == ["messages", "source", "tags"]
