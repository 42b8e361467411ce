"""`clean_text`, `clean` and `clean_row`: shapes change, meanings do not, and what is left out is reported."""

import json
import sys
import unicodedata

import pytest
from datasets import IterableDataset
from hypothesis import given
from hypothesis import strategies as st

from course_utils import data
from course_utils.data.cleaning import MAX_CHARACTERS, clean_text
from course_utils.data.faults import faults
from course_utils.data.rows import is_blank

FAMILY = "\U0001f469\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466"  # four emoji joined into one
ENGLAND = "\U0001f3f4\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f"  # a flag, spelled in tag characters


def chat(*texts, **extra):
    """A row whose turns say these texts, the user first."""
    roles = ("user", "assistant") * len(texts)
    turns = [{"role": role, "content": text} for role, text in zip(roles, texts, strict=False)]
    return {"messages": turns, "source": "s", "tags": ["en"]} | extra


def rows_of(dataset):
    return [data.plain(row) for row in dataset]


# ----------------------------------------------------------------------------------------------------------- clean_text
@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("a\x00b\x1bc\x7fd\x9fe", "abcde"),
        ("\ufeffa\u202eb\u2066c\u2069", "abc"),  # a byte order mark, marks that turn the direction
        ("a\tb", "a\tb"),
        ("a\r\nb\rc\nd", "a\nb\nc\nd"),
        ("page one\x0cpage two\x0bthe same", "page one\npage two\nthe same"),
        ("  a\n ", "a"),
        ("", ""),
        ("e\u0301", "\u00e9"),  # NFC
        ("\u212b", "\u00c5"),
    ],
)
def test_control_characters_go_and_line_breaks_and_accents_have_one_form(text, clean):
    assert clean_text(text) == clean


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("ＡＢＣａｂｃ０１９", "ABCabc019"),
        ("o\ufb03ce, \ufb01ve", "office, five"),
        ("a\u3000b\u00a0c\u2009d\u202fe", "a b c d e"),
        ("Ａ\u0301", "\u00c1"),  # what NFKC made takes part in NFC
    ],
)
def test_letters_digits_ligatures_and_spaces_of_another_shape_become_plain(text, clean):
    assert clean_text(text) == clean


@pytest.mark.parametrize(
    "text",
    [
        "x²",
        "H₂O",
        "½",
        "①",
        "™",
        "…",
        "，。！？：；（）《》「」～",
        "〇",
        "ｶﾅ",
        "㎏",
        "ℹ️",
        "✔️",
        "👍🏽",
        FAMILY,
        ENGLAND,
        "🇨🇳",
        "مي\u200cخواهم",
    ],
)
def test_signs_whose_meaning_nfkc_would_change_stay(text):
    assert clean_text(f"a{text}b") == f"a{text}b"


def test_some_of_them_would_be_lost_to_nfkc():
    """Why NFKC is not taken as a whole."""
    for text in ("x²", "½", "，", "ℹ️"):
        assert unicodedata.normalize("NFKC", text) != text == clean_text(text)


hostile = st.text(
    st.one_of(
        st.characters(codec="utf-8"),
        st.sampled_from("\r\n\x00\x85\u2028\ufeff\u200d\ufe0f\u0301\u212b\uff21\ufb05\u3000\u2000\u1e9b\u0323\uf900"),
    ),
    max_size=40,
)


@given(hostile)
def test_cleaning_again_changes_nothing(text):
    clean = clean_text(text)
    assert clean_text(clean) == clean == clean.strip() == unicodedata.normalize("NFC", clean)
    assert "\r" not in clean and not {c for c in clean if unicodedata.category(c) == "Cc"} - {"\n", "\t"}


def test_no_character_of_unicode_is_lost_unless_it_is_a_control_or_a_space():
    """Every character between two letters: gone only if it is a control, a mark of direction, a space or a line end."""
    gone = {
        c for c in map(chr, range(sys.maxunicode + 1)) if not 0xD800 <= ord(c) < 0xE000 and clean_text(f"a{c}b") == "ab"
    }
    marks = {"\ufeff", *map(chr, [*range(0x202A, 0x202F), *range(0x2066, 0x206A)])}
    assert gone - marks == {c for c in map(chr, range(256)) if unicodedata.category(c) == "Cc"} - set("\t\n\r\x0b\x0c")


# ---------------------------------------------------------------------------------------------------------------- clean
def test_rows_that_say_nothing_or_too_much_are_left_out_with_their_number_and_reason():
    rows = [
        chat("q", "a"),
        chat(" \u200b\n", "a"),
        chat("\x00\ufeff", "a"),
        chat("q", "x" * 30),
        chat("q", "\r\n"),
        chat("r", "b"),
    ]
    rows[4]["source"] = "other"
    kept, dropped = data.clean(data.to_dataset(rows), max_characters=30)
    assert rows_of(kept) == [rows[0], rows[5]]
    assert dropped == [
        data.Dropped(1, "s", "an empty turn of user"),
        data.Dropped(2, "s", "an empty turn of user"),
        data.Dropped(3, "s", "31 characters, more than 30"),
        data.Dropped(4, "other", "an empty turn of assistant"),
    ]


def test_the_limit_counts_all_texts_of_a_row_after_cleaning():
    row = chat("123", "45\x00\x00\x00")
    row["messages"][1]["reasoning_content"] = "678 "
    assert data.clean(data.to_dataset([row]), max_characters=8)[1] == []
    [dropped] = data.clean(data.to_dataset([row]), max_characters=7)[1]
    assert dropped.reason == "8 characters, more than 7"
    [dropped] = data.clean(data.to_dataset([chat("q", "x" * MAX_CHARACTERS)]))[1]
    assert dropped.reason == "20,001 characters, more than 20,000"
    with pytest.raises(data.DataError, match="max_characters must be at least 1, found 0"):
        data.clean(data.to_dataset([row]), max_characters=0)


def test_arguments_and_schemas_of_tools_are_not_touched():
    arguments = json.dumps({"text": "Ａ\u3000½ ", "raw": "\r\n\x00"}, ensure_ascii=False)
    tools = json.dumps([{"name": "f", "description": " Ａ\r\n"}], ensure_ascii=False)
    call = {"type": "function", "function": {"name": "f", "arguments": arguments}}
    turns = [
        {"role": "user", "content": "Ｑ"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": " \r\n"},
        {"role": "assistant", "content": "Ａ"},
    ]
    kept, dropped = data.clean(data.to_dataset([chat() | {"messages": turns, "tools": tools}]))
    assert dropped == []  # neither a call without words nor an empty result is an empty turn
    [row] = rows_of(kept)
    assert row["tools"] == tools and row["messages"][1]["tool_calls"] == [call]
    assert [turn["content"] for turn in row["messages"]] == ["Q", "", "", "A"]


def test_preference_label_and_text_rows_are_cleaned_and_keep_their_columns():
    reply = {"role": "assistant", "content": "Ａ ", "reasoning_content": "ｗhy"}
    clean_reply = {"role": "assistant", "content": "A", "reasoning_content": "why"}
    preference = chat("Ｑ") | {"chosen": [reply], "rejected": [{"role": "assistant", "content": "\ufb00"}]}
    kept, _ = data.clean(data.to_dataset([preference]))
    assert rows_of(kept) == [
        chat("Q") | {"chosen": [clean_reply], "rejected": [{"role": "assistant", "content": "ff"}]}
    ]
    kept, _ = data.clean(data.to_dataset([chat("Ｑ", "a", label=False, id="7", images=["Ａ.png"])]))
    assert rows_of(kept) == [chat("Q", "a", label=False, id="7", images=["Ａ.png"])]
    kept, dropped = data.clean(
        data.to_dataset([chat(text="Ｏnce\r\n"), chat(text=" \n"), chat(text="x" * 40)]), max_characters=30
    )
    assert rows_of(kept) == [chat(text="Once")]
    assert [(row.row, row.reason) for row in dropped] == [(1, "the text is empty"), (2, "40 characters, more than 30")]
    _, [empty] = data.clean(data.to_dataset([preference | {"rejected": [{"role": "assistant", "content": " "}]}]))
    assert empty.reason == "an empty turn of assistant"


def test_where_every_row_is_left_out_an_empty_set_comes_back():
    kept, dropped = data.clean(data.to_dataset([chat("", "a")]))
    assert len(kept) == 0 and {"messages", "source", "tags"} <= set(kept.column_names) and len(dropped) == 1


def test_a_cleaned_set_is_clean_and_the_given_one_as_before():
    dataset = data.to_dataset([chat("Ｑ\r\n", "Ａ"), chat("q", "a", text="t")])
    before = rows_of(dataset)
    once, _ = data.clean(dataset)
    assert rows_of(data.clean(once)[0]) == rows_of(once) and rows_of(dataset) == before


def test_clean_row_on_a_stream_gives_what_clean_gives():
    call = {"type": "function", "function": {"name": "f", "arguments": "{}"}}
    tools = [{"role": "assistant", "content": "", "tool_calls": [call]}, {"role": "tool", "content": "1\r\n"}]
    rows = [chat("Ｑ\r\n", "\ufb01"), chat("Ｑ") | {"messages": [*chat("Ｑ")["messages"], *tools]}]
    rows += [chat("q", "a", label=True), chat(text="Ｔ")]
    dataset = data.to_dataset(rows)
    stream = IterableDataset.from_generator(lambda: iter(rows)).map(data.clean_row)
    kept, dropped = data.clean(dataset)
    assert [data.plain(row) for row in stream] == rows_of(kept) == [data.clean_row(row) for row in dataset]
    assert dropped == []
    assert rows_of(dataset.map(data.clean_row)) == rows_of(kept)


# ----------------------------------------------------------------------------------------------- one rule for emptiness
blank = st.sampled_from(["", " ", "\n\t", "\x00", "\ufeff", "\u3000\xa0", "\x85\x1c"])
said = st.sampled_from(["Q", "\u200b", "\U0001f600"]) | blank


@given(hostile)
def test_a_text_is_blank_where_cleaning_leaves_nothing(text):
    assert is_blank(text) or clean_text(text)


@pytest.mark.parametrize("text", ["\u200b", "\u3164", "\u2800", "\ufe0f", "\u200d \u2060"])
def test_what_nobody_can_see_is_empty(text):
    """Kind of fault: usable as people see it."""
    assert is_blank(text) and not is_blank(f"{text}\U0001f600")
    assert [fault.field for fault in faults(chat("q", text))] == ["messages[1].content"]


@given(said, said, said, st.sampled_from(["chat", "unlearned", "good", "bad", "preference", "text"]))
def test_check_and_clean_call_the_same_rows_empty(question, reply, other, kind):
    """Kind of fault: an empty question is one for both."""
    row = chat(question, reply)
    if kind == "unlearned":
        row["messages"][1]["weight"] = 0
    elif kind in ("good", "bad"):
        row["label"] = kind == "good"
    elif kind == "text":
        row |= {"messages": [], "text": question}
    elif kind == "preference":
        replies = [[{"role": "assistant", "content": text}] for text in (reply, f"{other} ")]
        row |= {"messages": row["messages"][:1], "chosen": replies[0], "rejected": replies[1]}
    found = [fault.field for fault in faults(row) if "is empty" in fault.reason]
    _, dropped = data.clean([row])
    assert bool(found) == bool(dropped)
    if dropped and kind != "text":
        assert dropped[0].reason.startswith("an empty turn of ")
    judged_blank = {"text": [question], "preference": [question, reply, other]}.get(kind, [question, reply])
    excused = kind in ("unlearned", "bad")
    assert bool(found) == any(map(is_blank, judged_blank[:1] if excused else judged_blank))


def test_an_empty_system_turn_or_result_is_neither_a_fault_nor_dropped():
    row = chat("Q", "A")
    row["messages"].insert(0, {"role": "system", "content": ""})
    assert list(faults(row)) == [] and data.clean([row]) == ([row], [])
