"""`negatives`: broken replies that are never right, in the row as a preference or as a correction."""

import json
from collections import Counter

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from course_utils import data, masking
from notebooks.negatives import COMPLAINTS, FAULTS, negatives, spoil

texts = st.text(st.characters(exclude_categories=("Cs",)), max_size=8) | st.sampled_from(["12", "-0.5", "7:05", "林"])
numbers = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
values = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
objects = st.dictionaries(texts, values, max_size=4)
styles = st.sampled_from([{}, {"separators": (",", ":")}, {"indent": 2}, {"indent": 4}, {"ensure_ascii": True}])


def written(value, **style):
    return json.dumps(value, **{"ensure_ascii": False} | style)


def rows(*answers, **more):
    def messages(answer):
        return [{"role": "user", "content": "JSON, please."}, {"role": "assistant", "content": answer}]

    return data.to_dataset(
        [{"messages": messages(answer), "source": "s", "tags": ["json", "en"]} | more for answer in answers]
    )


def plain_rows(dataset):
    return [data.plain(row) for row in dataset]


# ---------------------------------------------------------------------------------------------------------------- spoil
def same_json(left, right):
    """As JSON: true is not 1, the order of keys says nothing."""
    return json.dumps(left, sort_keys=True) == json.dumps(right, sort_keys=True)


@given(objects, styles, st.sampled_from(FAULTS))
def test_a_broken_reply_is_no_json_or_another_object(value, style, fault):
    answer = written(value, **style)
    broken = spoil(answer, fault)
    if broken is None:
        assert len(value) < 2 and fault in ("wrong_type", "missing_field")
        return
    assert broken == spoil(answer, fault)
    try:
        found = json.loads(broken)
    except ValueError:
        assert fault in ("extra_text", "fenced") and answer in broken
        return
    assert isinstance(found, dict) and not same_json(found, value)
    kept = [key for key in value if key in found and same_json(found[key], value[key])]
    assert len(kept) == len(value) - 1
    if fault == "missing_field":
        assert set(found) == set(kept)
    else:
        assert list(found) == list(value)


@given(objects, styles)
def test_one_value_gets_another_json_type(value, style):
    kinds = {
        bool: "boolean",
        int: "number",
        float: "number",
        type(None): "null",
        str: "string",
        list: "list",
        dict: "object",
    }
    broken = spoil(written(value, **style), "wrong_type")
    assume(broken is not None)
    found = json.loads(broken)
    changed = [key for key in value if not same_json(found[key], value[key])]
    assert len(changed) == 1
    assert kinds[type(found[changed[0]])] != kinds[type(value[changed[0]])]


@pytest.mark.parametrize(
    ("answer", "fault", "broken"),
    [
        ('{"name":"Lisa","cats":3}', "wrong_type", '{"name":"Lisa","cats":"3"}'),
        ('{"name": "Lisa", "open": true}', "wrong_type", '{"name": "Lisa", "open": "true"}'),
        ('{"name":"Lisa","cats":["Mo","Bo"]}', "wrong_type", '{"name":"Lisa","cats":"Mo, Bo"}'),
        ('{"message":null,"caller":"Ann"}', "wrong_type", '{"message":null,"caller":["Ann"]}'),
        ('{"message":null}', "wrong_type", '{"message":"null"}'),
        ('{"who":"Ann","at":{"x":1}}', "wrong_type", '{"who":"Ann","at":"{\\"x\\": 1}"}'),
        ('{"who":"Ann","age":"34"}', "wrong_type", '{"who":"Ann","age":34}'),
        ('{"who":"Ann"}', "wrong_type", '{"who":["Ann"]}'),
        ('{"a":1,"b":2}', "missing_field", '{"a":1}'),
        ('{\n  "a": 1,\n  "b": 2\n}', "missing_field", '{\n  "a": 1\n}'),
        ('{"a":1}', "missing_field", None),
        ('{"a":1}', "fenced", '```json\n{"a":1}\n```'),
        ('{"a":1}', "extra_text", '{"a":1}\n\nLet me know if you need anything else.'),
        ('{"a": 1}', "extra_text", 'Sure! Here is your JSON:\n{"a": 1}'),
        ('{"名":"林"}', "extra_text", '{"名":"林"}\n\n如果还需要别的，请告诉我。'),
        ("{}", "wrong_type", None),
    ],
)
def test_what_is_broken(answer, fault, broken):
    assert spoil(answer, fault) == broken


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "Hello",
        "[1, 2]",
        "7",
        '{"a": NaN}',
        '{"a": 1e999}',
        '{"a": 1, "a": 2}',
        'Sure: {"a": 1}',
        '```json\n{"a": 1}\n```',
        '{"a": "\\ud800"}',
        '{"a":' + "[" * 100_000 + "]" * 100_000 + "}",
    ],
    ids=lambda answer: answer[:20],
)
def test_what_is_no_strict_object_is_not_broken_further(answer):
    assert [spoil(answer, fault) for fault in FAULTS] == [None] * 4


def test_an_object_of_any_depth_is_broken_or_left_alone():
    for depth in (100, 300, 600, 800, 900, 950, 2000):
        answer = '{"a":' + "[" * depth + "]" * depth + ',"b":1}'
        assert {type(spoil(answer, fault)) for fault in FAULTS} in ({str}, {type(None)})


# ------------------------------------------------------------------------------------------------------------ negatives
def test_a_preference_keeps_the_prompt_and_the_right_reply():
    dataset = rows('{"a":1,"b":2}', id="x-1", tools="[]")
    (row,) = plain_rows(negatives(dataset, form="preference", faults=["missing_field"]))
    prompt, right = dataset[0]["messages"]
    assert row == {
        "messages": [prompt],
        "chosen": [right],
        "rejected": [{"role": "assistant", "content": '{"a":1}'}],
        "source": "s",
        "tags": ["json", "en", "negative", "missing_field"],
        "id": "x-1-neg",
        "tools": "[]",
    }


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_correction_names_the_fault_in_the_language_of_the_row(language, fault):
    dataset = rows('{"a":1,"b":2}', tags=["json", language])
    (row,) = plain_rows(negatives(dataset, form="correction", faults=[fault]))
    prompt, right = dataset[0]["messages"]
    broken = {"role": "assistant", "content": spoil('{"a":1,"b":2}', fault)}
    assert row["messages"] == [prompt, broken, {"role": "user", "content": COMPLAINTS[language][fault]}, right]
    assert row["tags"] == ["json", language, "negative", fault] and "id" not in row


def test_every_complaint_differs():
    assert all(set(said) == set(FAULTS) == set(COMPLAINTS["en"]) for said in COMPLAINTS.values())
    assert len({complaint for said in COMPLAINTS.values() for complaint in said.values()}) == 2 * len(FAULTS)


def test_a_tool_result_stays_in_the_prompt_and_thinking_in_both_replies():
    call = {"type": "function", "function": {"name": "f", "arguments": "{}"}}
    messages = [
        {"role": "user", "content": "JSON, please."},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "3"},
        {"role": "assistant", "content": '{"n":3}', "reasoning_content": "It says 3."},
    ]
    dataset = data.to_dataset([{"messages": messages}])
    (row,) = plain_rows(negatives(dataset, form="preference", faults=["wrong_type"]))
    assert row["messages"] == messages[:3] and row["chosen"] == messages[3:]
    assert row["rejected"] == [messages[3] | {"content": '{"n":"3"}'}]


def test_faults_take_turns_and_a_row_that_cannot_have_one_gets_the_next():
    taken = negatives(rows(*['{"a":1,"b":2}', '{"a":1}'] * 20), form="preference")
    used = Counter((i % 2, row["tags"][-1]) for i, row in enumerate(taken))
    assert used[1, "missing_field"] == 0
    totals = Counter(row["tags"][-1] for row in taken)
    assert set(totals) == set(FAULTS) and max(totals.values()) - min(totals.values()) <= 2


def test_the_seed_sets_the_order_and_nothing_else_does():
    dataset = rows(*['{"a":1,"b":2}'] * 8)
    orders = [[row["tags"][-1] for row in negatives(dataset, form="preference", seed=seed)] for seed in (1, 1, 2, 3)]
    assert orders[0] == orders[1] and orders[0][:4] == orders[0][4:]
    assert len({tuple(order) for order in orders}) > 1


def test_other_rows_are_left_out():
    chat = [{"role": "user", "content": "?"}, {"role": "assistant", "content": '{"a":1}'}]
    dataset = data.to_dataset(
        [
            {"messages": chat, "source": "chat"},
            {"messages": [*chat, {"role": "user", "content": "And now?"}], "source": "ends with a question"},
            {"messages": chat, "label": False, "source": "kto"},
            {"messages": chat[:1], "chosen": chat[1:], "rejected": chat[1:], "source": "preference"},
            {"messages": [], "text": '{"a":1}', "source": "text"},
            {"messages": [chat[0], {"role": "assistant", "content": "Sure."}], "source": "words"},
        ]
    )
    assert negatives(dataset, form="correction")["source"][:] == ["chat"]


@pytest.mark.parametrize("form", ["preference", "correction"])
def test_the_bundled_rows_each_give_one_and_no_broken_reply_is_right(form):
    bundled = data.load("json")
    made = plain_rows(negatives(bundled, form=form))
    originals = [row for row in plain_rows(bundled) if "negative" not in row["tags"]]
    assert len(made) == len(originals) == 210
    for before, row in zip(originals, made, strict=True):
        *prompt, right = before["messages"]
        if form == "preference":
            assert (row["messages"], row["chosen"]) == (prompt, [right])
            broken = row["rejected"][0]
        else:
            assert row["messages"][: len(prompt)] == prompt and row["messages"][-1] == right
            broken = row["messages"][len(prompt)]
        assert broken["content"] != right["content"] and broken["role"] == "assistant"


def test_no_token_of_the_broken_reply_is_learned(qwen3_2507):
    made = negatives(data.load("json"), form="correction")
    examples = masking.build_dataset(made, qwen3_2507, train_on="last")
    assert len(examples) == len(made)
    for row, example in zip(made, examples, strict=True):
        learned = [label for label in example["labels"] if label != masking.IGNORED]
        assert qwen3_2507.decode(learned) == row["messages"][-1]["content"] + "<|im_end|>\n"
        unlearned = example["input_ids"][: len(example["input_ids"]) - len(learned)]
        assert row["messages"][-3]["content"] in qwen3_2507.decode(unlearned)
        assert set(example["labels"][: len(unlearned)]) == {masking.IGNORED}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: spoil("{}", "typo"), "unknown fault 'typo'; expected one of wrong_type, extra_text"),
        (lambda: negatives(rows("{}"), form="pairs"), "unknown form 'pairs'; expected one of preference, correction"),
        (lambda: negatives(rows("{}"), form="preference", faults=["typo"]), "unknown fault 'typo'"),
        (lambda: negatives(rows("Hello", "[1]"), form="preference"), "none of the 2 rows ends with a JSON object"),
        (lambda: negatives(rows('{"a":1}'), form="preference", faults=["missing_field"]), "faults missing_field"),
        (lambda: negatives(rows('{"a":1}'), form="preference", faults=[]), "none named"),
        (lambda: negatives(rows(), form="preference"), "none of the 0 rows"),
    ],
)
def test_errors(call, message):
    with pytest.raises(data.DataError, match=message):
        call()
