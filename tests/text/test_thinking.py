"""course_utils.text.thinking: every state of pitfall cut-thought-as-answer, and the stream against the whole."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import hostile_text

from course_utils.text.thinking import ParsedOutput, ThinkingStream, parse_output, parse_text

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
    assert parse_text(text.removesuffix("<|im_end|>"), prompt_opens_thinking=opened) == expected


def test_the_published_snippet_returns_truncated_thinking_as_the_answer(qwen3):
    ids = qwen3("<think>\n20 - ", add_special_tokens=False)["input_ids"]
    try:  # as on Qwen's model cards
        index = len(ids) - ids[::-1].index(151668)
    except ValueError:
        index = 0
    assert "20 -" in qwen3.decode(ids[index:], skip_special_tokens=True)
    assert parse_output(ids, qwen3).answer is None


def streamed(ids, tokenizer, opened, sizes, known=False):
    """What a stream passes on, cut into chunks of the given sizes."""
    stream = ThinkingStream(tokenizer, prompt_opens_thinking=opened, prompt_known=known)
    got = {"thinking": "", "answer": ""}
    start = 0
    for size in sizes:
        for kind, piece in stream.feed(ids[start : start + size]):
            got[kind] += piece
        start += size
    for kind, piece in (*stream.feed(ids[start:]), *stream.finish()):
        got[kind] += piece
    return got


chunks = st.lists(st.integers(0, 4), max_size=30)


@given(text=hostile_text, opened=st.booleans(), sizes=chunks)
def test_the_stream_gives_what_the_whole_gives(qwen3, smol_tokenizer, text, opened, sizes):
    for tokenizer in (qwen3, smol_tokenizer):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        got = streamed(ids, tokenizer, opened, sizes)
        whole = parse_output(ids, tokenizer, prompt_opens_thinking=opened)
        assert got["thinking"].strip() == whole.thinking
        assert got["answer"].strip() == (whole.answer or "")


@pytest.mark.parametrize("name", ["full", "truncated", "several closers", "none", "closer only, flag forgotten"])
@pytest.mark.parametrize("opened", [False, True])
def test_every_cut_of_a_short_output(name, opened, qwen3, smol_tokenizer):
    for tokenizer in (qwen3, smol_tokenizer):
        ids = tokenizer(CASES[name][0] + "好🦜", add_special_tokens=False)["input_ids"]
        whole = parse_output(ids, tokenizer, prompt_opens_thinking=opened)
        for first in range(len(ids) + 1):
            for second in range(len(ids) - first + 1):
                got = streamed(ids, tokenizer, opened, [first, second])
                assert (got["thinking"].strip(), got["answer"].strip()) == (whole.thinking, whole.answer or "")


any_ids = st.lists(
    st.one_of(
        st.integers(0, 151668),
        st.sampled_from([151667, 151668, 151645, 151643]),
        st.integers(200, 400),  # single bytes and other halves of characters
        st.sampled_from([-1, -100, 151669, 151935, 2**40]),  # no tokens at all
    ),
    max_size=20,
)


@given(ids=any_ids, opened=st.booleans(), sizes=chunks)
def test_any_ids_never_raise_and_keep_every_character(qwen3, ids, opened, sizes):
    parsed = parse_output(ids, qwen3, prompt_opens_thinking=opened)
    ids = [token for token in ids if 0 <= token < len(qwen3)]

    def bare(ids):
        return bare_text(qwen3.decode(ids, skip_special_tokens=True))

    def bare_text(text):
        return "".join(text.replace("<think>", "").replace("</think>", "").replace("\ufffd", "").split())

    # Halves of characters on both sides of a tag are no character: they do not count.
    assert bare_text(parsed.thinking + (parsed.answer or "")) == bare(ids)
    if 151668 in ids:  # never thinking as an answer
        cut = ids.index(151668)
        assert (bare_text(parsed.thinking), bare_text(parsed.answer)) == (bare(ids[:cut]), bare(ids[cut + 1 :]))
    elif opened or 151667 in ids:
        assert (parsed.status, parsed.answer) == ("truncated", None)
    else:
        assert (parsed.status, parsed.thinking) == ("no_thinking", "")
    got = streamed(ids, qwen3, opened, sizes)
    assert (got["thinking"].strip(), got["answer"].strip()) == (parsed.thinking, parsed.answer or "")


def test_a_closer_spelled_in_pieces_closes_nothing_where_it_is_a_token(qwen3):
    pieces = qwen3.convert_tokens_to_ids(["</", "think", ">"])
    secret = [*qwen3("<think>\nThe tag ")["input_ids"], *pieces, *qwen3(" ends it. Secret.\n")["input_ids"]]
    assert parse_output(secret, qwen3) == ParsedOutput("The tag </think> ends it. Secret.", None, "truncated")
    closed = [*secret, *qwen3("</think>\n\n13")["input_ids"]]
    assert parse_output(closed, qwen3).answer == "13"
    assembled = [*qwen3("<think>\nplan </th")["input_ids"], qwen3.eos_token_id, *qwen3("ink> more")["input_ids"]]
    assert parse_output(assembled, qwen3).answer is None
    for ids in (secret, closed, assembled):
        whole = parse_output(ids, qwen3)
        got = streamed(ids, qwen3, False, [1] * len(ids))
        assert (got["thinking"].strip(), got["answer"].strip()) == (whole.thinking, whole.answer or "")


def test_a_row_of_a_tensor_will_do(qwen3):

    ids = qwen3("<think>\na\n</think>\n\nb<|im_end|>", return_tensors="pt")["input_ids"][0]
    assert parse_output(ids, qwen3) == ParsedOutput("a", "b", "answered")
    assert streamed(ids, qwen3, False, [3]) == {"thinking": "\na\n", "answer": "\n\nb"}


def test_thinking_streams_before_it_is_closed(qwen3):
    stream = ThinkingStream(qwen3)
    ids = qwen3("<think>\nTwenty minus seven is thirteen, surely", add_special_tokens=False)["input_ids"]
    assert "".join(piece for token in ids for kind, piece in stream.feed([token]) if kind == "thinking").startswith(
        "\nTwenty"
    )


@given(text=hostile_text, sizes=chunks)
def test_where_the_prompt_is_known_only_an_opener_begins_thinking(qwen3, smol_tokenizer, text, sizes):
    for tokenizer in (qwen3, smol_tokenizer):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        plain = tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False).strip()
        got = streamed(ids, tokenizer, False, sizes, known=True)
        if not plain.startswith("<think>"):
            assert (got["thinking"], got["answer"].strip()) == ("", plain)


def test_an_answer_streams_at_once_where_the_prompt_is_known(qwen3, smol_tokenizer):
    for tokenizer in (qwen3, smol_tokenizer):
        ids = tokenizer("<b>Paris</b> is the capital. <think> is a tag, </think> too.")["input_ids"]
        stream = ThinkingStream(tokenizer, prompt_known=True)
        pieces = [list(stream.feed([token])) for token in ids]
        assert all(len(piece) == 1 for piece in pieces[3:]), "nothing is held"
        assert not list(stream.finish())
        said = "".join(text for ((kind, text),) in filter(None, pieces) if kind == "answer")
        assert said == "<b>Paris</b> is the capital. <think> is a tag, </think> too."


@pytest.mark.parametrize("name", CASES)
def test_every_cut_where_the_prompt_is_known(name, qwen3, smol_tokenizer):
    text, opened, _ = CASES[name]
    if name == "closer only, flag forgotten":
        return  # who knows the prompt has not forgotten the flag
    for tokenizer in (qwen3, smol_tokenizer):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        whole = parse_output(ids, tokenizer, prompt_opens_thinking=opened)
        for first in range(len(ids) + 1):
            got = streamed(ids, tokenizer, opened, [first, 1], known=True)
            assert (got["thinking"].strip(), got["answer"].strip()) == (whole.thinking, whole.answer or "")
