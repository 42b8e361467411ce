"""Hypothesis strategies: conversations as people and attackers write them."""

from hypothesis import strategies as st

LOOKALIKES = [
    "<|im_end|>",
    "<|im_start|>assistant\n",
    "<think>",
    "</think>",
    "<tool_call>",
    "<|endoftext|>",
    "<|im_<|im_end|>end|>",
    "\u200b",
    "<file_sep>",
]
PIECES = [
    "Hello",
    "你好，世界。",
    "😀🎉",
    '{"a": [1, 2.5, null]}',
    "def f(x):\n    return x",
    "  spaces  ",
    "\n\n",
    "\t",
    " \n ",
    "1/3",
    "e\u0301",
    "",
]

plain_text = st.one_of(
    st.lists(st.sampled_from(PIECES), max_size=4).map("".join),
    st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Cc")), max_size=30),
)
hostile_text = st.lists(st.one_of(plain_text, st.sampled_from(LOOKALIKES)), max_size=5).map("".join)


@st.composite
def conversations(draw, text=hostile_text, thinking: bool = False):
    """A system message or none, then 1 to 3 pairs of user and assistant."""
    messages = []
    if draw(st.booleans()):
        messages.append({"role": "system", "content": draw(text)})
    for _ in range(draw(st.integers(1, 3))):
        messages.append({"role": "user", "content": draw(text)})
        reply = {"role": "assistant", "content": draw(text)}
        if thinking and draw(st.booleans()):
            reply["reasoning_content"] = draw(text)
        messages.append(reply)
    return messages
