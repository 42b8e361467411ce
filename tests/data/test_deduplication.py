"""`deduplicate`: equal rows, exercises in other numbers, and texts that are nearly the same."""

import json
import random
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from course_utils import data
from course_utils.data.deduplication import row_hash
from course_utils.data.rows import join

ENGLISH = (
    "The old lighthouse keeper climbed the winding stairs every evening before sunset. He carried a small can of oil "
    "and a cloth that his daughter had sewn for him. From the top he could see the fishing boats come home, and he "
    "knew each of them by the colour of its sail. When a storm came up from the west, he stayed awake all night and "
    "trimmed the wick. Nobody in the village ever thanked him, and he never expected anybody to do so."
)
CHINESE = (
    "老守塔人每天傍晚日落以前都要爬上那道盘旋的楼梯，手里提着一小罐灯油和女儿缝给他的布。站在塔顶，他能望见渔船陆续归来，"
    "凭着船帆的颜色就能认出每一条船。每当风暴从西边的海面上袭来，他便整夜守在灯旁修剪灯芯，不敢合眼。村里从来没有人向他道谢，"
    "他也从来不指望谁来道谢，只盼着每一条船都能平安靠岸。"
)


def chat(question, answer="", source="a", **extra):
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {"messages": messages, "source": source, "tags": []} | extra


def turn(content):
    return [{"role": "assistant", "content": content}]


def removed_rows(rows, **options):
    return [found.row for found in data.deduplicate(data.to_dataset(rows), **options)[1]]


# ------------------------------------------------------------------------------------------------------------ hash
def test_equal_rows_across_sources_whatever_the_empty_keys():
    thinking = chat("r", "a", "z")
    thinking["messages"][1]["reasoning_content"] = "t"
    dataset = join(
        [
            data.to_dataset([chat("q", "a"), chat("q", "b"), chat("q", "a")]),
            data.to_dataset([chat("q", "a", "z"), thinking]),
        ]
    )
    unique, removed = data.deduplicate(dataset)
    assert [row["messages"][0]["content"] + row["messages"][1]["content"] for row in unique] == ["qa", "qb", "ra"]
    assert removed == [data.Removed(2, "a", 0, "a", 1.0), data.Removed(3, "z", 0, "a", 1.0)]
    assert data.deduplicate(unique)[1] == []


def test_id_source_tags_and_empty_keys_are_not_what_a_row_says():
    row = chat("q", "a")
    other = chat("q", "a", "z", id="7", tags=["en"], tools=None, label=None)
    other["messages"] = [message | {"tool_calls": None} for message in other["messages"]]
    assert row_hash(row) == row_hash(other)


@pytest.mark.parametrize(
    "field", ["tools", "chosen", "rejected", "label", "text", "images", "videos", "audios", "messages"]
)
def test_every_field_that_says_something_counts(field):
    one, other = (turn("1"), turn("2")) if field in ("messages", "chosen", "rejected") else ("1", "2")
    if field in ("images", "videos", "audios"):
        one, other = ["1"], ["2"]
    if field == "label":
        one, other = True, False
    rows = [chat("q", "a") | {field: value} for value in (one, other, one)] + [chat("q", "a")]
    assert removed_rows(rows) == [2]


def test_the_order_of_keys_does_not_count_and_the_order_of_turns_does():
    row = chat("q", "a")
    turned = row | {"messages": [dict(reversed(message.items())) for message in row["messages"]]}
    assert row_hash(row) == row_hash(turned) != row_hash(row | {"messages": row["messages"][::-1]})


def test_a_lone_surrogate_has_a_hash():
    assert row_hash(chat("\ud800")) != row_hash(chat("\ud801"))


@pytest.mark.parametrize("by", ["hash", "numbers", "minhash"])
def test_no_rows_and_no_source(by):
    assert data.deduplicate(data.to_dataset([]), by=by)[1] == []
    dataset = data.to_dataset([chat(ENGLISH), chat(ENGLISH)]).remove_columns(["source", "tags"])
    unique, removed = data.deduplicate(dataset, by=by)
    assert removed == [data.Removed(1, "", 0, "", 1.0)]
    assert unique.to_list() == dataset.select([0]).to_list()


# --------------------------------------------------------------------------------------------------------- numbers
def test_one_exercise_in_other_numbers():
    rows = [chat("Tom has 3 pens.", "3"), chat("Tom has twelve pens.", "12", "b"), chat("Tim has 3 pens.", "3")]
    rows += [chat("她有三个苹果", "3"), chat("她有 12 个苹果", "12")]
    unique, removed = data.deduplicate(data.to_dataset(rows), by="numbers")
    assert removed == [data.Removed(1, "b", 0, "a", 1.0), data.Removed(4, "a", 3, "a", 1.0)]
    assert len(unique) == 3 and data.deduplicate(unique, by="numbers")[1] == []


def test_texts_are_compared_by_their_own_numbers_and_pictures_tell_rows_apart():
    texts = [{"messages": [], "text": text} for text in ("Page 1 of a book", "Page 2 of a book", "Page 3 of a map")]
    assert removed_rows(texts, by="numbers") == [1]
    seen = [chat("<image>What is it?", images=[name]) for name in ("1.png", "2.png", "1.png")]
    assert removed_rows(seen, by="numbers") == [2]


# --------------------------------------------------------------------------------------------------------- minhash
def shingles(row):
    """By the definition: each role's characters, NFKC, lower case, no white space, in stretches of 5."""
    said = {}
    for message in row["messages"]:
        said[message["role"]] = said.get(message["role"], "") + message["content"]
    found = set()
    for role, text in said.items():
        text = "".join(unicodedata.normalize("NFKC", text).casefold().split())
        found |= {(role, text[i : i + 5]) for i in range(max(1, len(text) - 4))}
    return found


def jaccard(one, other):
    one, other = shingles(one), shingles(other)
    return len(one & other) / len(one | other)


@pytest.mark.parametrize(
    ("text", "edits", "sentence"),
    [
        (ENGLISH, [("lighthouse keeper", "lighthouse  Keeper"), ("small", "tiny"), ("of its sail", "of her sail")], ""),
        (ENGLISH, [], " He was content."),
        (CHINESE, [("一小罐灯油", "一大罐灯油"), ("渔船陆续归来", "渔船都已归来")], ""),
        (CHINESE, [("，", ", ")], "他很知足。"),
    ],
    ids=["English edited", "English and a sentence", "Chinese edited", "Chinese and a sentence"],
)
def test_an_edited_copy_is_found_and_its_similarity_told(text, edits, sentence):
    copy = text + sentence
    for old, new in edits:
        assert old in copy
        copy = copy.replace(old, new)
    rows = [chat("Tell me a story. 讲个故事。", text[::-1]), chat("Tell me a story. 讲个故事。", text)]
    rows += [chat("Tell me a story. 讲个故事。", copy, "b")]
    unique, removed = data.deduplicate(data.to_dataset(rows), by="minhash")
    assert removed == [data.Removed(2, "b", 1, "a", jaccard(rows[1], rows[2]))]
    assert 0.85 <= removed[0].similarity < 1 and len(unique) == 2


LETTERS = "abcdefghijklmnopqrstuvwxyz"
CHARACTERS = [chr(0x4E00 + i) for i in range(2000)]


def random_text(rng, alphabet, length=200):
    return "".join(rng.choice(alphabet) for _ in range(length))


def planted(rng, texts, changed):
    """Rows of texts, then a copy of each in the same order, with so many characters in its middle changed."""
    copies = [f"{text[:100]}{random_text(rng, '0123456789', changed)}{text[100 + changed :]}" for text in texts]
    return [{"messages": [], "text": text} for text in [*texts, *copies]]


@pytest.mark.parametrize("alphabet", [LETTERS, CHARACTERS], ids=["English", "Chinese"])
def test_nearly_all_planted_copies_are_found_and_distinct_rows_stay(alphabet):
    """At a similarity of 0.91 the index finds 99 in 100; by the library's own weights it would be 86."""
    rng = random.Random(5)
    rows = planted(rng, [random_text(rng, alphabet) for _ in range(200)], 5)
    removed = data.deduplicate(data.to_dataset(rows), by="minhash")[1]
    assert len(removed) >= 195
    assert all(found.row == found.first_row + 200 for found in removed)
    assert {round(found.similarity, 2) for found in removed} == {0.91}


def test_what_chance_misses_is_the_same_everywhere():
    """Near the threshold a few copies stay; which ones depends on the rows alone."""
    rng = random.Random(1)
    rows = planted(rng, [random_text(rng, LETTERS) for _ in range(100)], 8)
    assert set(range(100, 200)) - set(removed_rows(rows, by="minhash")) == {150, 183, 188}


def test_the_likeliest_of_many_candidates_is_found():
    """Thirty rows of one template, 0.84 near each other, are candidates of a copy of one of them."""
    rng = random.Random(2)
    base = random_text(rng, LETTERS)
    texts = [f"{base[:100]}{random_text(rng, 'abcdefghijklm', 14)}{base[114:]}" for _ in range(30)]
    rows = [{"messages": [], "text": text} for text in [*texts, texts[20][:-1]]]
    removed = data.deduplicate(data.to_dataset(rows), by="minhash")[1]
    assert [(found.row, found.first_row) for found in removed] == [(30, 20)]


@pytest.mark.parametrize(
    "extra",
    [
        {"tools": ("[]", "[1]")},
        {"label": (True, False)},
        {"images": (["1"], ["2"])},
        {"system": ("Be kind.", "Rhyme.")},
    ],
    ids=lambda extra: next(iter(extra)),
)
def test_rows_of_other_tools_label_media_or_system_turn_are_not_near(extra):
    ((name, values),) = extra.items()
    rows = [chat("q", ENGLISH) for _ in range(3)]
    for row, value in zip(rows, (*values, values[0]), strict=True):
        if name == "system":
            row["messages"].insert(0, {"role": "system", "content": value})
        else:
            row[name] = value
    assert removed_rows(rows, by="minhash") == [2]


def test_a_collision_of_checksums_does_not_make_rows_near(monkeypatch):
    monkeypatch.setattr("zlib.crc32", lambda text: 0)
    assert removed_rows([chat("q", ENGLISH, label=label) for label in (True, False, True)], by="minhash") == [2]


def test_one_text_under_many_pictures_is_found_with_its_own():
    rows = [chat("<image>What is it?", ENGLISH, images=[f"{i % 15}.png"]) for i in range(30)]
    removed = data.deduplicate(data.to_dataset(rows), by="minhash")[1]
    assert [(found.row, found.first_row) for found in removed] == [(i + 15, i) for i in range(15)]


def test_who_says_it_counts():
    """A translation and its way back, and a preference turned round, are no repeats."""
    assert removed_rows([chat(ENGLISH, CHINESE), chat(CHINESE, ENGLISH)], by="minhash") == []
    pairs = [chat("q") | {"chosen": turn(a), "rejected": turn(b)} for a, b in ((ENGLISH, CHINESE), (CHINESE, ENGLISH))]
    assert removed_rows([*pairs, pairs[1]], by="minhash") == [2]


def test_calls_of_tools_and_thinking_are_said():
    def calling(**arguments):
        call = {"type": "function", "function": {"name": "f", "arguments": json.dumps(arguments)}}
        row = chat("Do it.")
        row["messages"][1]["tool_calls"] = [call]
        return row

    def thinking(thought):
        row = chat("Do it.")
        row["messages"][1]["reasoning_content"] = thought
        return row

    rows = [calling(x=ENGLISH), calling(x=CHINESE), thinking(ENGLISH[::-1]), thinking(CHINESE[::-1])]
    assert removed_rows([*rows, calling(y=ENGLISH), thinking(CHINESE[::-1])], by="minhash") == [4, 5]


def test_short_and_empty_rows_are_near_only_when_equal():
    texts = ["", "a", "b", "abcd", "abce", "abcde", "", "A", "a b c d"]
    assert removed_rows([{"messages": [], "text": text} for text in texts], by="minhash") == [6, 7, 8]


def test_a_long_row_goes_through_in_pieces():
    rng = random.Random(1)
    text = random_text(rng, LETTERS, 20_000)
    rows = [{"messages": [], "text": t} for t in (text, text[10_000:] + text[:10_000], text[:10_000])]
    assert removed_rows(rows, by="minhash") == [1]


def test_at_a_threshold_of_1_only_equal_sets_of_shingles_go():
    rows = [chat("q", ENGLISH), chat("q", f"{ENGLISH}!"), chat("Q", ENGLISH)]
    assert removed_rows(rows, by="minhash", threshold=1) == [2]


@st.composite
def nearly_equal(draw):
    """A few texts, and copies of them with up to three stretches changed."""
    alphabet = st.sampled_from("abcdeＡ 她有三个苹果梨树")
    bases = draw(st.lists(st.text(alphabet, min_size=20, max_size=60), min_size=1, max_size=3))
    rows = []
    for _ in range(draw(st.integers(1, 12))):
        text = draw(st.sampled_from(bases))
        for place in draw(st.lists(st.integers(0, len(text)), max_size=3)):
            text = text[:place] + draw(st.text(alphabet, max_size=3)) + text[place + draw(st.integers(0, 2)) :]
        rows.append(chat(text, draw(st.sampled_from(["", "是", "yes it is"])), draw(st.sampled_from("ab"))))
    return rows


@settings(max_examples=60, deadline=None)
@given(nearly_equal(), st.sampled_from([0.2, 0.5, 0.85, 0.97, 1.0]))
def test_every_removed_row_is_as_near_as_it_says_to_a_row_that_is_kept(rows, threshold):
    dataset = data.to_dataset(rows)
    unique, removed = data.deduplicate(dataset, by="minhash", threshold=threshold)
    gone = {found.row for found in removed}
    assert unique.to_list() == [row for i, row in enumerate(dataset.to_list()) if i not in gone]
    assert len(unique) + len(removed) == len(rows) and len(gone) == len(removed)
    for found in removed:
        assert found.first_row < found.row and found.first_row not in gone
        assert threshold <= found.similarity == jaccard(rows[found.row], rows[found.first_row])
        assert (found.source, found.first_source) == (rows[found.row]["source"], rows[found.first_row]["source"])
    said = [shingles(row) for row in rows]
    assert gone >= {i for i in range(len(rows)) if said[i] in said[:i]}  # where nothing is left to chance
    again = data.deduplicate(dataset, by="minhash", threshold=threshold)
    assert (again[0].to_list(), again[1]) == (unique.to_list(), removed)


@settings(max_examples=30, deadline=None)
@given(nearly_equal(), st.sampled_from(["hash", "numbers", "minhash"]))
def test_a_second_time_removes_nothing(rows, by):
    unique, _ = data.deduplicate(data.to_dataset(rows), by=by)
    again, removed = data.deduplicate(unique, by=by)
    assert removed == [] and again.to_list() == unique.to_list()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"by": "sha"}, "unknown by='sha'; expected one of hash, numbers, minhash"),
        ({"by": "minhash", "threshold": 0}, "above 0 and at most 1, found 0"),
        ({"by": "minhash", "threshold": 1.1}, "found 1.1"),
        ({"threshold": float("nan")}, "found nan"),
    ],
)
def test_errors(options, message):
    with pytest.raises(data.DataError, match=message):
        data.deduplicate(data.to_dataset([chat("q")]), **options)
