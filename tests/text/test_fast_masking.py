"""course_utils.text.fast_masking: the short cuts of build_dataset give what the plain way of build_examples gives."""

import warnings

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import TOOLS, conversations, plain_text

from course_utils import chat, masking
from course_utils.text import fast_masking
from course_utils.text.turns import Turn

TOKENIZERS = ("qwen3", "qwen3_2507", "smol_tokenizer")


def plainly(row, tokenizer, **options):
    """The examples of a row by `build_examples`, or None where it refuses it."""
    try:
        return masking.build_examples(row["messages"], tokenizer, tools=row["tools"], **options)
    except (chat.MessageError, masking.MaskError):
        return None


@pytest.mark.parametrize("name", TOKENIZERS)
@settings(max_examples=3 * settings.default.max_examples)
@given(
    conversations=st.lists(st.one_of(conversations(plain_text), conversations(thinking=True, tools=True)), max_size=4),
    train_on=st.sampled_from(["all", "last"]),
    enable_thinking=st.sampled_from([None, False, True]),
    train_on_tool_calls=st.booleans(),
    max_length=st.sampled_from([None, 60]),
    guard=st.booleans(),
)
def test_both_ways_give_the_same_ids_and_labels(name, request, conversations, **options):
    tokenizer = request.getfixturevalue(name)
    rows, expected = [], []
    for messages in conversations:
        row = {"messages": messages, "tools": TOOLS if any("tool_calls" in message for message in messages) else None}
        examples = plainly(row, tokenizer, **options)
        if examples is not None:
            expected += [example | {"row": len(rows), "source": ""} for example in examples]
            rows.append(row)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of rows that do not fit
        assert list(masking.build_dataset(rows, tokenizer, **options)) == expected


@pytest.mark.parametrize("name", TOKENIZERS)
def test_the_short_cuts_are_taken(name, request, monkeypatch):
    """Else the test above would compare the plain way with itself."""
    tokenizer = request.getfixturevalue(name)
    monkeypatch.setattr(masking, "_render", None)
    monkeypatch.setattr(masking, "_tokenise", None)
    reply = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}]
    assert len(masking.build_dataset([{"messages": reply}, {"messages": reply * 2}], tokenizer)) >= 2


def test_a_merge_across_a_border_is_left_to_the_plain_way(qwen3_2507):
    turns = [Turn("<|im_start|>user\n", "a\n"), Turn("<|im_start|>user\na\n\n", "b")]  # two newlines are one token
    assert fast_masking.tokenise([turns, turns[:1]], qwen3_2507)[0] is None
