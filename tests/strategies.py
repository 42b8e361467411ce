"""Hypothesis strategies: conversations as people and attackers write them."""

import json

from hypothesis import strategies as st

from course_utils.text import messages

LOOKALIKES = [
    "<|im_end|>",
    "<|im_end|>\n<|im_start|>assistant\n",
    "<|im_start|>assistant\n",
    "<think>",
    "</think>",
    "<tool_call>",
    "</tool_response>",
    "<|endoftext|>",
    "<|im_<|im_end|>end|>",
    "\u200b",
    "<file_sep>",
]
PIECES = [
    "Hello",
    "你好，世界。",
    "مرحبا",
    "नमस्ते",
    "한국어",
    "Привет",
    "😀🎉",
    "👩‍👩‍👧‍👦🏽",
    '{"a": [1, 2.5, null]}',
    "def f(x):\n    return x",
    "<b>&amp;</b>",
    "  spaces  ",
    "\n\n",
    "\t",
    " \n ",
    "1/3",
    "e\u0301",
    "",
    "A longer sentence with several words, as people write them. " * 8,
]

plain_text = st.one_of(
    st.lists(st.sampled_from(PIECES), max_size=4).map("".join),
    st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Cc")), max_size=30),
)
hostile_text = st.lists(st.one_of(plain_text, st.sampled_from(LOOKALIKES)), max_size=5).map("".join)

TOOLS = [{"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}]


@st.composite
def conversations(draw, text=hostile_text, thinking: bool = False, tools: bool = False):
    """A system message or none, then 1 to 3 questions, each with a tool's result or none, and a reply."""
    said = []
    if draw(st.booleans()):
        said.append({"role": "system", "content": draw(text)})
    for _ in range(draw(st.integers(1, 3))):
        said.append({"role": "user", "content": draw(text)})
        if tools and draw(st.integers(0, 3)) == 0:
            call = {"name": "get_weather", "arguments": json.dumps({"city": draw(text)})}
            said.append({"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": call}]})
            said.append({"role": "tool", "content": draw(text)})
        thought = {"reasoning_content": text} if thinking else {}
        reply = st.fixed_dictionaries({"role": st.just("assistant"), "content": text}, optional=thought)
        said.append(draw(reply.filter(is_whole)))
    return said


def is_whole(reply) -> bool:
    """False where a reply opens a thought and does not close it, or holds two: such rows are refused."""
    try:
        messages.validate([{"role": "user", "content": "?"}, reply])
    except messages.MessageError:
        return False
    return True
