"""course_utils.widgets: the objects that a browser shows, driven as a browser drives them."""

import time

import pytest
from test_talking import Scripted

from course_utils.talking import Conversation
from course_utils.voting import Ballot
from course_utils.widgets import Chat, Vote


@pytest.fixture
def shown(tuned):
    model, tokenizer = tuned
    return Chat(
        {
            "base": Conversation(model, tokenizer, base=True, max_new_tokens=10),
            "tuned": Conversation(model, tokenizer, max_new_tokens=10),
        }
    )


def text(chat, name):
    return [place.value for place in chat.columns[name].children]


def test_a_click_asks_both(shown):
    shown.field.value = "What is the capital of France?"
    shown.send_button.click()
    assert shown.send_button.disabled and not shown.stop_button.disabled and shown.field.value == ""
    shown.wait()
    assert not shown.send_button.disabled and shown.stop_button.disabled
    assert "The capital of France is Paris." in text(shown, "base")[-1]
    assert "capital of France?" in text(shown, "tuned")[0] and text(shown, "tuned")[-1] != text(shown, "base")[-1]
    shown.new_button.click()
    assert text(shown, "base") == text(shown, "tuned") == []


def test_enter_sends_and_white_space_does_not(shown):
    for typed, places in (("  ", 0), ("Hi", 3)):
        shown.field.value = typed
        shown.field._handle_string_msg(shown.field, {"event": "submit"}, [])  # what the browser sends
        shown.wait()
        assert len(text(shown, "tuned")) == places


def test_stop_ends_the_reply_that_is_being_written(tuned):
    chat = Chat({"base": Conversation(*tuned, base=True, max_new_tokens=400)})
    chat.field.value = "Write a long story about the sea."
    chat.send_button.click()
    deadline = time.monotonic() + 20
    while not (text(chat, "base") and text(chat, "base")[-1]) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert "(stopped)" not in text(chat, "base")[-1], "shown while it is written"
    chat.stop_button.click()
    chat.wait()
    assert "… (stopped)" in text(chat, "base")[-1] and not chat.send_button.disabled


def test_what_was_written_is_text(qwen3):
    evil = "<script>alert(1)</script><img src=x onerror=alert(1)>"
    chat = Chat({evil: Conversation(Scripted(qwen3, f"<think>\n{evil}\n</think>\n\n{evil}<|im_end|>"), qwen3)})
    chat.field.value = evil
    chat.send_button.click()
    chat.wait()
    asked, thinking, answer = text(chat, evil)
    for place in (asked, thinking, answer, chat.children[0].children[0].children[0].value):
        assert "&lt;script&gt;alert(1)" in place and "<script" not in place and "<img" not in place
    assert thinking.startswith("<details><summary>thinking</summary>")


def test_an_error_stands_in_the_column(tuned):
    chat = Chat({"base": Conversation(*tuned, max_new_tokens=100_000)})
    chat.field.value = "Hi"
    chat.send_button.click()
    chat.wait()
    assert "the model reads 8192" in text(chat, "base")[-1] and not chat.send_button.disabled


def test_votes_by_buttons(tmp_path):
    pairs = [({"prompt": f"p{k}", "reply": "<i>old"}, {"prompt": f"p{k}", "reply": "new"}) for k in range(3)]
    ballot = Ballot(pairs, tmp_path / "votes.jsonl")
    vote = Vote(ballot)
    for number, choice in enumerate(("Left", "Both bad"), 1):
        assert vote.place.value == f"Question {number} of 3"
        button = next(button for button in vote.buttons.values() if button.description == choice)
        button.click()
    assert "&lt;i&gt;old" in vote._left.value + vote._right.value
    again = Vote(Ballot(pairs, tmp_path / "votes.jsonl"))
    assert again.place.value == "Question 3 of 3"
    again.buttons["same"].click()
    assert "All 3 voted on" in again.place.value and "both bad 1" in again.place.value
    assert again.children == (again.place,)
