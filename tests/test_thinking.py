"""course_utils.thinking: every state of trap 9, and the stream against the whole."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import hostile_text

from course_utils.thinking import ParsedOutput, ThinkingStream, parse_output

CASES = {
    "full": ("<think>\n20 - 7\n</think>\n\n13<|im_end|>", False, ParsedOutput("20 - 7", "13", "answered")),
    "empty thinking": ("<think>\n\n</think>\n\n13<|im_end|>", False, ParsedOutput("", "13", "answered")),
    "none": ("13<|im_end|>", False, ParsedOutput("", "13", "no_thinking")),
    "truncated": ("<think>\n20 - ", False, ParsedOutput("20 -", None, "truncated")),
    "opened in the prompt": ("20 - 7\n</think>\n\n13", True, ParsedOutput("20 - 7", "13", "answered")),
    "opened there, truncated": ("20 - ", True, ParsedOutput("20 -", None, "truncated")),
    "closer only, flag forgotten": ("20 - 7\n</think>\n\n13", False, ParsedOutput("20 - 7", "13", "answered")),
    "several closers": ("<think>a</think>b</think>c", False, ParsedOutput("a", "b</think>c", "answered")),
    "nothing": ("", False, ParsedOutput("", "", "no_thinking")),
    "nothing, opened in the prompt": ("", True, ParsedOutput("", None, "truncated")),
    "answer missing": ("<think>a</think><|im_end|>", False, ParsedOutput("a", "", "answered")),
}


@pytest.mark.parametrize("case", CASES)
def test_every_state(case, qwen3, smol_tokenizer):
    text, opened, expected = CASES[case]
    for tokenizer in (qwen3, smol_tokenizer):  # think tokens, and think tags as plain text
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert parse_output(ids, tokenizer, prompt_opens_thinking=opened) == expected


def test_the_published_snippet_returns_truncated_thinking_as_the_answer(qwen3):
    ids = qwen3("<think>\n20 - ", add_special_tokens=False)["input_ids"]
    try:  # as on Qwen's model cards
        index = len(ids) - ids[::-1].index(151668)
    except ValueError:
        index = 0
    assert "20 -" in qwen3.decode(ids[index:], skip_special_tokens=True)
    assert parse_output(ids, qwen3).answer is None


@given(text=hostile_text, opened=st.booleans(), data=st.data())
def test_the_stream_gives_what_the_whole_gives(qwen3, smol_tokenizer, text, opened, data):
    for tokenizer in (qwen3, smol_tokenizer):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        stream = ThinkingStream(tokenizer, prompt_opens_thinking=opened)
        got = {"thinking": "", "answer": ""}
        start = 0
        while start < len(ids):
            size = data.draw(st.integers(1, 4))
            for kind, piece in stream.feed(ids[start : start + size]):
                got[kind] += piece
            start += size
        for kind, piece in stream.finish():
            got[kind] += piece
        whole = parse_output(ids, tokenizer, prompt_opens_thinking=opened)
        assert got["thinking"].strip() == whole.thinking
        assert got["answer"].strip() == (whole.answer or "")


@given(ids=st.lists(st.one_of(st.integers(0, 151668), st.sampled_from([151667, 151668, 151645])), max_size=20))
def test_any_ids_keep_every_character(qwen3, ids):
    parsed = parse_output(ids, qwen3)
    text = qwen3.decode(ids, skip_special_tokens=True)
    kept = parsed.thinking + (parsed.answer or "")
    assert "".join(kept.split()).replace("<think>", "").replace("</think>", "") == "".join(text.split()).replace(
        "<think>", ""
    ).replace("</think>", "")
    if parsed.status == "truncated":
        assert parsed.answer is None


def test_thinking_streams_before_it_is_closed(qwen3):
    stream = ThinkingStream(qwen3)
    ids = qwen3("<think>\nTwenty minus seven is thirteen, surely", add_special_tokens=False)["input_ids"]
    assert "".join(piece for token in ids for kind, piece in stream.feed([token]) if kind == "thinking").startswith(
        "\nTwenty"
    )
