"""The masks of TRL and Unsloth beside ours: the same, but for what the lesson explains."""

import copy

import pytest
from conftest import shipped_template
from hypothesis import given, settings
from strategies import conversations
from trl.chat_template_utils import get_training_chat_template
from unsloth.chat_templates import train_on_responses_only

from course_utils import chat, masking
from course_utils.text.audit import learned_stretches
from course_utils.text.masking import IGNORED
from course_utils.text.turns import cleaned

TWICE = settings(max_examples=2 * settings.default.max_examples)  # 200 conversations


def prepared(messages, tokenizer):
    """The same conversation for all: neutralised, and without white space at the edges of replies.

    There the other two tokenise the prompt's last newline and the reply as one text, and the two melt (pitfall
    closer-not-learned).
    """
    clean = cleaned(messages, chat.neutraliser(tokenizer))
    for message in clean:
        if message["role"] == "assistant":
            message["content"] = message["content"].strip()
    return clean


def by_trl(messages, tokenizer):
    """What SFTTrainer's preprocessing makes with assistant_only_loss=True."""
    made = tokenizer.apply_chat_template(
        messages,
        chat_template=get_training_chat_template(tokenizer),
        return_dict=True,
        return_assistant_tokens_mask=True,
    )
    pairs = zip(made["input_ids"], made["assistant_masks"], strict=True)
    return {
        "input_ids": made["input_ids"],
        "labels": [token if learned else IGNORED for token, learned in pairs],
    }


def by_unsloth(messages, tokenizer):
    mask = train_on_responses_only(
        None, "<|im_start|>user\n", "<|im_start|>assistant\n", tokenizer=tokenizer, return_function=True
    )
    ids = tokenizer.apply_chat_template(messages)["input_ids"]
    return {"input_ids": ids, "labels": [int(label) for label in mask({"input_ids": [ids]})["labels"][0]]}


def without_last_newline(example):
    """Our labels without the newline after each closer."""
    labels = list(example["labels"])
    for _, end in learned_stretches(labels):
        labels[end - 1] = IGNORED
    return {"input_ids": example["input_ids"], "labels": labels}


@TWICE
@given(messages=conversations())
def test_trl_makes_the_same_labels_with_its_2507_template(qwen3_2507, messages):
    clean = prepared(messages, qwen3_2507)
    if any("reasoning_content" in message for message in clean):
        return
    (ours,) = masking.build_examples(clean, qwen3_2507, guard=False)
    assert by_trl(clean, qwen3_2507) == ours


@TWICE
@given(messages=conversations())
def test_trl_learns_a_newline_of_the_prompt_with_its_qwen25_template_and_else_the_same(qwen25, messages):
    """Its mark begins behind `assistant`, so the newline that the generation prompt ends with is learned, too."""
    clean = prepared(messages, qwen25)
    if any("reasoning_content" in message for message in clean):
        return
    theirs, (ours,) = by_trl(clean, qwen25), masking.build_examples(clean, qwen25, guard=False)
    assert theirs["input_ids"] == ours["input_ids"]
    newline, labels = qwen25.convert_tokens_to_ids("Ċ"), list(ours["labels"])
    for start, _ in learned_stretches(ours["labels"]):
        labels[start - 1] = newline
    assert theirs["labels"] == labels


@TWICE
@given(messages=conversations())
def test_unsloth_leaves_out_the_last_newline_and_nothing_else(qwen25, qwen3_2507, smol_tokenizer, messages):
    for tokenizer in (qwen25, qwen3_2507, smol_tokenizer):
        clean = prepared(messages, tokenizer)
        if any("reasoning_content" in message for message in clean):
            continue
        (ours,) = masking.build_examples(clean, tokenizer, guard=False)
        assert by_unsloth(clean, tokenizer) == without_last_newline(ours)


@TWICE
@given(messages=conversations(thinking=True))
def test_trl_agrees_on_the_hybrid_template_where_the_only_reply_thinks(qwen3, messages):
    """With one thinking reply TRL's rendering is the model's own; elsewhere it adds think blocks and learns them."""
    clean = prepared(messages, qwen3)
    turns = [index for index, message in enumerate(clean) if message["role"] == "assistant"]
    first = clean[: turns[0] + 1]
    theirs = by_trl(first, qwen3)
    (ours,) = masking.build_examples(first, qwen3, guard=False)
    if first[-1].get("reasoning_content", "").strip():
        assert theirs == ours
    else:
        assert theirs["input_ids"] == ours["input_ids"]
        block = qwen3("<think>\n\n</think>\n\n")["input_ids"]
        extra = [t for t, a, b in zip(ours["input_ids"], theirs["labels"], ours["labels"], strict=True) if a != b]
        assert extra == block


@pytest.fixture(scope="module", params=["qwen3_5_think", "qwen3_5_nothink", "qwen3_6"])
def newer(request, qwen3):
    """Qwen3's tokenizer with a newer template, as TRL ships it."""
    tokenizer = copy.deepcopy(qwen3)
    tokenizer.chat_template = shipped_template(request.param)
    return tokenizer


@given(messages=conversations(thinking=True))
def test_trl_also_learns_what_the_newer_templates_prompts_open(newer, messages):
    """Their prompt ends with `<think>`, or with an empty block where thinking is off; the model writes neither."""
    clean = prepared(messages, newer)
    first = clean[: next(index for index, message in enumerate(clean) if message["role"] == "assistant") + 1]
    thinks = first[-1].get("reasoning_content", "").strip()
    theirs, (ours,) = by_trl(first, newer), masking.build_examples(first, newer, guard=False)
    assert theirs["input_ids"] == ours["input_ids"]
    opened = newer("<think>\n" if thinks else "<think>\n\n</think>\n\n")["input_ids"]
    pairs = zip(ours["input_ids"], theirs["labels"], ours["labels"], strict=True)
    assert [token for token, learned, our in pairs if learned != our] == opened


def test_trl_refuses_a_template_that_it_does_not_know(qwen3, smol_tokenizer):
    with pytest.raises(ValueError, match="not training-compatible"):
        get_training_chat_template(smol_tokenizer)
    template = qwen3.chat_template
    try:
        qwen3.chat_template = template + "\n"  # pitfall no-generation-marks: one newline more
        with pytest.raises(ValueError, match="not training-compatible"):
            get_training_chat_template(qwen3)
    finally:
        qwen3.chat_template = template


def test_the_search_for_anchors_loses_a_reply_that_begins_with_a_newline(qwen3_2507):
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "\nHello!"}]
    assert set(by_unsloth(messages, qwen3_2507)["labels"]) == {IGNORED}
    (ours,) = masking.build_examples(messages, qwen3_2507)
    assert qwen3_2507.decode([label for label in ours["labels"] if label != IGNORED]) == "Hello!<|im_end|>\n"
