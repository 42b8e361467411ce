"""`row_key`, and that `group_key` gives what its plain definition gives (what it masks is in test_splitting.py)."""

import re
import unicodedata

from hypothesis import example, given, settings
from hypothesis import strategies as st

from course_utils import data
from course_utils.data.keys import row_key

WORDS = re.findall(
    "[a-z]+",
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety hundred thousand million billion dozen",
)
WORD = rf"\b(?:{'|'.join(WORDS)})\b"
NUMBER = re.compile(
    rf"\d+(?:[.,:/\u2044]\d+)*|{WORD}(?:[\s-]+(?:and\s+)?{WORD})*|[零〇一二两三四五六七八九十百千万亿]+"
)


def plainly(text):
    text = NUMBER.sub("0", unicodedata.normalize("NFKC", text).casefold())
    return re.sub("0+", "0", re.sub(r"\s+", "", text))


def key(text):
    return data.group_key([{"role": "user", "content": text}])


around = [
    "and",
    " ",
    "  ",
    "-",
    " - ",
    "\n",
    "0",
    "12",
    ".",
    ",",
    ":",
    "½",
    "三",
    "十",
    "〇",
    "７",
    "x",
    "_",
    "teen",
    "é",
]
pieces = st.one_of(st.sampled_from(WORDS), st.sampled_from(WORDS).map(str.title), st.sampled_from(around))


@example("1.三")  # the digits first: 0.0, not 0
@example("1.one")
@settings(max_examples=500, deadline=None)
@given(st.one_of(st.lists(pieces, max_size=10).map("".join), st.text()))
def test_the_fast_pattern_masks_what_the_plain_one_masks(text):
    assert key(text) == plainly(text)


def test_every_number_word_is_masked_alone_and_not_as_a_part():
    assert {key(word) for word in WORDS} == {"0"}
    assert all(key(f"{word}x") == f"{word}x" and key(f"x{word}") == f"x{word}" for word in WORDS)


def test_a_row_without_messages_is_known_by_its_text():
    asked = {"messages": [{"role": "user", "content": "3 pens"}], "text": None}
    assert row_key(asked) == data.group_key(asked["messages"]) == "0pens"
    assert row_key({"messages": [], "text": "Three Pens"}) == "0pens"
    assert row_key({"messages": [], "text": None}) == ""
