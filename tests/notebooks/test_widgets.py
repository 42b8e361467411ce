"""notebooks.widgets: the objects that a browser shows, driven as a browser drives them."""

import html
import re
import time

import pytest
from conftest import Scripted

from course_utils import chat, highlight, masking, tables
from course_utils.core.budget import CONFIGS
from course_utils.core.profiles import PROFILES, memory_budget
from course_utils.lessons.conversation import Conversation
from notebooks.extras.blind_vote import Ballot
from notebooks.extras.vote_widget import Vote
from notebooks.widgets import BudgetSlider, Chat, MaskViewer, Playground


@pytest.fixture
def shown(tuned):
    model, tokenizer = tuned
    return Chat(
        {
            "base": Conversation(model, tokenizer, base=True, max_new_tokens=10),
            "tuned": Conversation(model, tokenizer, max_new_tokens=10),
        }
    )


def text(widget, name):
    return [place.value for place in widget.columns[name].children]


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
    assert "the model reads 4096" in text(chat, "base")[-1] and not chat.send_button.disabled


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


@pytest.fixture
def talks():
    evil = "<script>alert(1)</script><img src=x onerror=alert(1)>"
    two_turns = [
        {"role": "user", "content": "2+3?"},
        {"role": "assistant", "content": "FIVE"},
        {"role": "user", "content": "Plus 4?"},
        {"role": "assistant", "content": "NINE"},
    ]
    forged = [{"role": "user", "content": evil}, {"role": "assistant", "content": evil}]
    return {"sums": two_turns, "evil": forged}


def learned(shown: str) -> list[str]:
    """The texts of a mask's underlined tokens."""
    return re.findall(r'<span style="background:[^>]*>([^<]*)</span>', shown)


def test_the_mask_follows_the_switches(talks, qwen3, qwen3_2507):
    viewer = MaskViewer(talks, {"instruct": qwen3_2507, "hybrid": qwen3})
    [example] = masking.build_examples(talks["sums"], qwen3_2507)
    assert f"<p>{highlight.mask(example, qwen3_2507).html}</p>" in viewer.shown.value
    both = "".join(learned(viewer.shown.value))
    assert "FIVE" in both and "NINE" in both and "2+3" not in both
    viewer.train_on.value = "last"
    last = "".join(learned(viewer.shown.value))
    assert "NINE" in last and "FIVE" not in last
    viewer.train_on.value, viewer.tokenizer.value = "all", qwen3
    assert viewer.shown.value.count("learned (underlined)") == 2, "the hybrid template: an example for each turn"
    assert "think" not in "".join(learned(viewer.shown.value))
    viewer.thinking.value = True
    assert "think" in "".join(learned(viewer.shown.value)), "with the switch on the empty block is learned"


def test_the_mask_is_audited(talks, qwen3_2507):
    viewer = MaskViewer(talks, {"instruct": qwen3_2507})
    report = masking.audit(masking.build_examples(talks["sums"], qwen3_2507), qwen3_2507)
    assert tables.table(report.table()).html in viewer.shown.value
    viewer.field.value = '[{"role": "user", "content": "Hi"}]'
    assert "the set is empty" in viewer.shown.value


def test_the_playground_renders(talks, qwen3):
    tool = {"type": "function", "function": {"name": "get_weather", "parameters": {}}}
    playground = Playground(talks, {"hybrid": qwen3}, tools=[tool])
    assert "get_weather" not in playground.shown.value
    playground.tools.value = True
    assert "get_weather" in playground.shown.value
    playground.field.value = '[{"role": "user", "content": "Hi"}]'
    playground.tools.value, playground.generation_prompt.value, playground.thinking.value = False, True, False
    expected = {"enable_thinking": False, "add_generation_prompt": True}
    parts = chat.parts(qwen3, [{"role": "user", "content": "Hi"}], **expected)
    assert playground.shown.value == highlight.rendered(parts, qwen3).html
    assert "&lt;think&gt;" in playground.shown.value


@pytest.mark.parametrize(
    ("typed", "line"),
    [
        ('[{"role": "user"', "messages: not JSON: Expecting"),
        ('[{"role": "User", "content": "Hi"}]', "messages[0].role: "),
        ('[{"from": "human", "value": "<b>Hi</b>"}]', "write &#x27;role&#x27;"),
        ("[" * 100_000, "recursion"),
        ('[{"role": "user", "content": "\\ud800"}, {"role": "assistant", "content": "Hi"}]', "half of a character"),
        ("[]", "at least one message"),
        ('"<script>"', "at least one message"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(typed, line, talks, qwen3):
    for widget in (Playground(talks, {"hybrid": qwen3}, tools=[]), MaskViewer(talks, {"hybrid": qwen3})):
        good = widget.shown.value
        widget.field.value = typed
        assert line in widget.shown.value and "<b>" not in widget.shown.value
        widget.conversation.value = "evil"
        widget.conversation.value = "sums"
        assert widget.shown.value == good


def test_what_was_typed_is_text(talks, qwen3):
    for widget in (Playground(talks, {"hybrid": qwen3}, tools=[]), MaskViewer(talks, {"hybrid": qwen3})):
        widget.conversation.value = "evil"
        assert "&lt;" in widget.shown.value
        widget.field.value = '[{"role": "<script>alert(1)</script>", "content": ""}]'
        assert "&lt;script&gt;" in widget.shown.value
        for tag in ("<script", "<img"):
            assert tag not in widget.shown.value


def test_the_budget_follows_the_sliders():
    slider = BudgetSlider()
    assert slider.model.value == PROFILES["16gb"].model and slider.bits.value == 4
    found = memory_budget(CONFIGS[slider.model.value], PROFILES["16gb"])
    assert f"{found.gib:.1f} GiB: fits into 15 GiB" in slider.shown.value
    for name, size, formula, _ in found.table():
        assert html.escape(name) in slider.shown.value and size in slider.shown.value and formula in slider.shown.value
    seen = {slider.shown.value}
    for control, value in (("model", "Qwen/Qwen3-14B"), ("rank", 128), ("length", 4096), ("rows", 8), ("bits", 16)):
        getattr(slider, control).value = value
        assert slider.shown.value not in seen, control
        seen.add(slider.shown.value)
    slider.checkpointing.value = False
    assert "does not fit into 15 GiB" in slider.shown.value
    slider.there.value = 80
    assert "into 80 GiB" in slider.shown.value and slider.shown.value.count("<img") == 1


@pytest.mark.parametrize("name", PROFILES)
def test_a_profile_sets_the_sliders(name):
    slider = BudgetSlider()
    slider.profile.value = "24gb" if name == "16gb" else "16gb"
    slider.rank.value, slider.rows.value, slider.checkpointing.value = 128, 32, False
    slider.profile.value = name
    found = memory_budget(CONFIGS[PROFILES[name].model], PROFILES[name])
    assert tables.table(found.table(), columns=("term", "GiB", "counted as", "source")).html in slider.shown.value
