"""course_utils.text.chat: strict messages, whole renderings, neutral control tokens."""

import pytest
from hypothesis import given
from strategies import TOOLS as SCHEMAS
from strategies import conversations, hostile_text

from course_utils import chat

ASK = {"role": "user", "content": "Weather in Oslo?"}
CALL = {
    "role": "assistant",
    "content": "",
    "tool_calls": [{"type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Oslo"}'}}],
}
RESULT = {"role": "tool", "content": '{"temp_c": 3}'}
ANSWER = {"role": "assistant", "content": "3 °C."}
TOOLS = [{"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}]


@pytest.mark.parametrize(
    ("messages", "index", "field", "word"),
    [
        ([], None, None, "at least one"),
        ("hi", None, None, "list"),
        (["hi"], 0, None, "dict"),
        ([{"role": "Assistant", "content": "x"}], 0, "role", "'assistant'"),
        ([{"role": "human", "content": "x"}], 0, "role", "'user'"),
        ([{"role": "user", "content": [{"type": "text"}]}], 0, "content", "list"),
        ([{"role": "user", "content": None}], 0, "content", "nothing"),
        ([{"role": "user"}], 0, "content", "nothing"),
        ([ASK, {**ANSWER, "reasoning": "x"}], 1, "reasoning", "reasoning_content"),
        ([ASK, {**ANSWER, "mood": 1}], 1, "mood", "known keys"),
        ([{**ASK, "reasoning_content": "x"}], 0, "reasoning_content", "assistant"),
        ([{**ASK, "tool_calls": CALL["tool_calls"]}], 0, "tool_calls", "assistant"),
        ([ASK, {**CALL, "tool_calls": "get_weather()"}], 1, "tool_calls", "list"),
        ([ASK, {**CALL, "tool_calls": [{"function": {"arguments": "{}"}}]}], 1, "tool_calls[0]", "name"),
        ([ASK, {**CALL, "tool_calls": [{"name": "f", "arguments": "{"}]}], 1, "tool_calls[0].arguments", "JSON"),
        ([ASK, {**CALL, "tool_calls": [{"name": "f", "arguments": "[1]"}]}], 1, "tool_calls[0].arguments", "object"),
        ([ASK, RESULT], 1, "role", "follow"),
        ([ASK, CALL, ANSWER], 2, "role", "no result"),
        ([ANSWER], 0, "role", "opens with"),
    ],
)
def test_validate_says_where_and_what(messages, index, field, word):
    with pytest.raises(chat.MessageError) as caught:
        chat.validate(messages)
    assert (caught.value.index, caught.value.field) == (index, field)
    assert word in str(caught.value)


def test_validate_accepts_what_templates_render():
    chat.validate([{"role": "system", "content": ""}, ASK, CALL, RESULT, ANSWER, ASK])
    chat.validate([ASK, CALL])  # a row may end with the call
    chat.validate([{**ASK, "tool_calls": None, "reasoning_content": None}, {**CALL, "content": None}, RESULT])


def test_render_is_the_templates_own_text(qwen3_2507):
    messages = [{"role": "system", "content": "Be brief."}, ASK, ANSWER]
    assert chat.render(qwen3_2507, messages) == qwen3_2507.apply_chat_template(messages, tokenize=False)
    prompt = chat.render(qwen3_2507, messages[:2], add_generation_prompt=True)
    assert prompt.endswith("<|im_end|>\n<|im_start|>assistant\n")


def test_render_passes_the_thinking_switch_only_when_set(qwen3):
    how = {"add_generation_prompt": True}
    assert chat.render(qwen3, [ASK], **how).endswith("assistant\n")
    assert chat.render(qwen3, [ASK], enable_thinking=True, **how).endswith("assistant\n")
    assert chat.render(qwen3, [ASK], enable_thinking=False, **how).endswith("<think>\n\n</think>\n\n")


def test_tools_are_rendered_from_a_list_or_its_json(qwen3_2507):
    messages = [ASK, CALL, RESULT, ANSWER]
    text = chat.render(qwen3_2507, messages, tools=TOOLS)
    assert "get_weather" in text and '{"name": "get_weather", "arguments": {"city": "Oslo"}}' in text
    assert chat.render(qwen3_2507, messages, tools=__import__("json").dumps(TOOLS)) == text


@pytest.mark.parametrize(
    ("messages", "tools", "field"),
    [
        ([ASK, CALL], None, "tool_calls"),
        ([ASK], TOOLS, "tools"),
        ([ASK, {**ANSWER, "reasoning_content": "It is cold there."}], None, "reasoning_content"),
    ],
)
def test_smollm2_drops_tools_and_thinking_and_render_says_so(smol_tokenizer, messages, tools, field):
    smol_tokenizer.apply_chat_template(messages, tools=tools, tokenize=False)  # not a word of complaint
    with pytest.raises(chat.MessageError, match="no place") as caught:
        chat.render(smol_tokenizer, messages, tools=tools)
    assert caught.value.field == field


def test_render_refuses_an_answer_that_the_hybrid_template_would_cut(qwen3):
    messages = [ASK, {"role": "assistant", "content": "The tag </think> closes it."}]
    assert "The tag" not in qwen3.apply_chat_template(messages, tokenize=False).split("</think>")[-1]
    with pytest.raises(chat.MessageError, match="dropped part"):
        chat.render(qwen3, messages)


def test_special_tokens(qwen3, smol_tokenizer):
    tokens = {token.text: token for token in chat.special_tokens(qwen3)}
    assert len(tokens) == 26
    assert tokens["<|im_end|>"].id == 151645 and tokens["<|im_end|>"].special
    assert tokens["</think>"].id == 151668 and not tokens["</think>"].special  # survives skip_special_tokens
    assert tokens["</think>"].role == "closes the thinking"
    assert not [token for token in tokens.values() if token.role == "other"]
    assert not [token for token in chat.special_tokens(smol_tokenizer) if token.role == "other"]


@given(text=hostile_text)
def test_neutralise_leaves_no_control_token_and_restore_brings_all_back(qwen3, smol_tokenizer, text):
    for tokenizer in (qwen3, smol_tokenizer):
        neutral = chat.neutralise(text, tokenizer)
        assert not any(token in neutral for token in tokenizer.get_added_vocab())
        assert chat.restore(neutral) == text
    # SmolLM2 is left out here: bytes that its vocabulary lacks become its unknown token, which is <|endoftext|>.
    ids = qwen3(chat.neutralise(text, qwen3), add_special_tokens=False)["input_ids"]
    assert not set(ids) & set(qwen3.get_added_vocab().values())


def test_neutralise_leaves_ordinary_text_alone(qwen3):
    assert chat.neutralise("1 < 2 and a|b, 你好 <b>bold</b>", qwen3) == "1 < 2 and a|b, 你好 <b>bold</b>"


def test_parts_say_where_each_stretch_comes_from(qwen3):
    messages = [{"role": "system", "content": " Be brief.\n"}, ASK, CALL, RESULT]
    messages.append({**ANSWER, "reasoning_content": "Three degrees.\n"})
    made = chat.parts(qwen3, messages, tools=TOOLS)
    told = [(part.kind, part.text) for part in made if part.kind != "template"]
    assert [kind for kind, _ in told] == [
        *("role", "content", "tools"),
        *("role", "content"),
        *("role", "tools"),
        *("role", "tools"),
        *("role", "thinking", "content"),
    ]
    assert [text for kind, text in told if kind == "role"] == ["system", "user", "assistant", "user", "assistant"]
    assert [text for kind, text in told if kind == "content"] == ["Be brief.", ASK["content"], "3 °C."]
    assert [text for kind, text in told if kind == "thinking"] == ["Three degrees."]
    assert [text for kind, text in told if kind == "tools"][1:] == [
        '{"name": "get_weather", "arguments": {"city": "Oslo"}}',
        '{"temp_c": 3}',
    ]


def test_the_default_system_turn_of_smollm2_is_the_templates(smol_tokenizer):
    made = chat.parts(smol_tokenizer, [ASK], add_generation_prompt=True)
    assert [part.text for part in made if part.kind == "content"] == [ASK["content"]]
    assert any("SmolLM" in part.text for part in made if part.kind == "template")


@given(messages=conversations(thinking=True, tools=True))
def test_parts_joined_are_the_rendering(qwen3, messages):
    tools = SCHEMAS if any(message["role"] == "tool" for message in messages) else None
    try:
        whole = chat.render(qwen3, messages, tools=tools)
    except chat.MessageError:
        return
    try:
        made = chat.parts(qwen3, messages, tools=tools)
    except chat.MessageError as error:
        # Qwen's template reads think and tool tags inside of contents.
        assert "cannot be told apart" in str(error)
        assert any(tag in message["content"] for message in messages for tag in ("</think>", "<tool_response>"))
        return
    assert "".join(part.text for part in made) == whole
    assert all(part.text for part in made)
