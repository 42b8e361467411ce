"""`split` and `group_key`: no exercise on both sides, whatever its numbers."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from course_utils import data


def row(question, source="a"):
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": "x"}]
    return {"messages": messages, "source": source, "tags": []}


def key(text):
    return data.group_key([{"role": "user", "content": text}])


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Tom has 3 pens .", "Tom has 12.5 pens."),
        ("Tom has three pens.", "Tom has 4 pens."),
        ("Tom has twenty-five pens.", "Tom has one hundred and two pens."),
        ("Tom has 1,000 pens.", "tom has ７ pens."),
        ("她有3个苹果", "她有 二十五 个苹果"),
        ("她有两个苹果", "她有１２个苹果"),
        ("吃了1/2", "吃了½"),
    ],
)
def test_numbers_and_white_space_do_not_count(one, other):
    assert key(one) == key(other)


@pytest.mark.parametrize(
    ("one", "other"), [("Tom has 3 pens.", "Tim has 3 pens."), ("3 + 4", "3 - 4"), ("often", "oftwo"), ("苹果", "梨")]
)
def test_words_do_count(one, other):
    assert key(one) != key(other)


def test_the_key_is_what_the_user_asks():
    asked = [{"role": "user", "content": "Q 1"}]
    system = [{"role": "system", "content": "S"}]
    reply = [{"role": "assistant", "content": "A"}]
    assert data.group_key(asked) == data.group_key(system + asked + reply)
    assert data.group_key(reply) == "a"


@st.composite
def datasets(draw):
    """Sources of groups of several rows each; a group may be in two sources."""
    rows = []
    for source in "abc"[: draw(st.integers(1, 3))]:
        for group in range(draw(st.integers(2, 12))):
            size = draw(st.integers(1, 4))
            rows += [
                row(f"{source if group else 'shared'} story {'x' * group} {i} {source}", source) for i in range(size)
            ]
    return data.to_dataset(draw(st.permutations(rows)))


@settings(max_examples=60, deadline=None)
@given(datasets(), st.floats(0, 0.4), st.integers(0, 4), st.integers(0, 3))
def test_groups_are_disjoint_nothing_is_lost_and_the_floor_holds(dataset, ratio, floor, seed):
    wanted = max(floor, round(ratio * len(dataset)))
    try:
        train, valid = data.split(dataset, valid_ratio=ratio, min_valid=floor, seed=seed)
    except data.DataError:
        groups = Counter(key(r["messages"][0]["content"]) for r in dataset)
        biggest = sum(size for _, size in groups.most_common(len(set(dataset["source"]))))
        assert wanted > len(dataset) - biggest  # only where whole groups must stay behind
        return
    assert not {data.group_key(m) for m in train["messages"]} & {data.group_key(m) for m in valid["messages"]}
    together = [r["messages"][0]["content"] for part in (train, valid) for r in part]
    assert Counter(together) == Counter(r["messages"][0]["content"] for r in dataset)
    assert len(valid) >= wanted and len(train) > 0
    again = data.split(dataset, valid_ratio=ratio, min_valid=floor, seed=seed)
    assert (again[0].to_list(), again[1].to_list()) == (train.to_list(), valid.to_list())


def test_every_source_is_held_back_in_proportion():
    rows = [row(f"{source} {'y' * i}", source) for source, n in (("a", 300), ("b", 100), ("c", 20)) for i in range(n)]
    train, valid = data.split(data.to_dataset(rows), min_valid=42)
    assert Counter(valid["source"]) == {"a": 30, "b": 10, "c": 2}
    assert len(train) + len(valid) == 420


def test_rows_of_text_are_split_by_their_text():
    rows = [{"messages": [], "text": f"{'z' * (i // 2)} {i}"} for i in range(40)]
    train, valid = data.split(data.to_dataset(rows), min_valid=10)
    stories = [{len(text.split()[0]) for text in part["text"] if " " in text.strip()} for part in (train, valid)]
    assert len(valid) == 10 and not stories[0] & stories[1]


def test_leaks_names_the_rows_on_both_sides():
    train = data.to_dataset([row("Ann has 3 pears."), row("Bob has 2 dogs."), row("Ann has 5 pears.")])
    held = data.to_dataset(
        [row("Eve sings."), row("Bob has 7 dogs."), row("Ann has two pears."), row("Ann has 9 pears.")]
    )
    found = data.leaks(train, held)
    assert [(leak.row, leak.first_row) for leak in found] == [(0, 2), (1, 1), (2, 2)]
    assert data.leaks(held.select([0]), train) == []


def test_a_floor_of_100_and_another_seed():
    dataset = data.to_dataset([row("q" * (i + 1)) for i in range(200)])
    one, other = data.split(dataset)[1], data.split(dataset, seed=1)[1]
    assert len(one) == len(other) == 100
    assert one.to_list() != other.to_list()


def test_too_small_says_so():
    dataset = data.to_dataset([row("q" * (i + 1)) for i in range(100)])
    with pytest.raises(data.DataError, match="100 rows cannot give 100 validation rows"):
        data.split(dataset)
    same = data.to_dataset([row(f"q {i}") for i in range(300)])
    with pytest.raises(data.DataError, match="only 0 of 100 validation rows can be held back"):
        data.split(same)
    with pytest.raises(data.DataError, match="valid_ratio must be in"):
        data.split(same, valid_ratio=1.5)


def test_a_list_is_split_as_the_data_set_of_its_rows_is():
    rows = [row(f"story {'x' * (number % 40)} {number}", "ab"[number % 2]) for number in range(90)]
    of_list = data.split(rows, valid_ratio=0.2, min_valid=10)
    assert of_list == tuple(list(part) for part in data.split(data.to_dataset(rows), valid_ratio=0.2, min_valid=10))
    assert of_list[1] and all(any(found is one for one in rows) for found in of_list[1])
