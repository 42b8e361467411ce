"""course_utils.text.messages: what a row says about itself, calls and results, thoughts, templates that refuse.

Each class holds one kind of fault that passed in silence, or came back as another library's error.
"""

import copy
import json
import random
from pathlib import Path

import pytest
import trl
from hypothesis import given
from hypothesis import strategies as st

from course_utils import chat, masking
from course_utils.text import messages
from course_utils.text.audit import learned_stretches
from course_utils.text.messages import MessageError, prepared, validate

ASK = {"role": "user", "content": "What is 2 + 2?"}
REPLY = {"role": "assistant", "content": "It is 4."}
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "add",
            "description": "Adds two numbers.",
            "parameters": {"type": "object", "properties": {"a": {"type": "number"}, "b": {"type": "number"}}},
        },
    }
]
TEMPLATES = Path(trl.__file__).with_name("chat_templates")
QWENS = ["qwen2_5", "qwen3", "qwen3_instruct_2507", "qwen3_5_think", "qwen3_5_nothink", "qwen3_6", "qwen3_8"]


@pytest.fixture(scope="module")
def copied(qwen3):
    """A tokenizer of one's own; a copy takes a second."""
    return copy.deepcopy(qwen3)


@pytest.fixture
def templated(copied):
    """A tokenizer with another model's template."""

    def make(template):
        tokenizer = copied
        file = TEMPLATES / f"{template}.jinja"
        tokenizer.chat_template = file.read_text(encoding="utf-8") if file.is_file() else template
        return tokenizer

    return make


def called(*calls, **message):
    """An assistant's turn with calls, each (id, name, arguments)."""
    made = [
        {"type": "function", "function": {"name": name, "arguments": arguments}} | ({"id": id_} if id_ else {})
        for id_, name, arguments in calls
    ]
    return {"role": "assistant", "content": "", "tool_calls": made} | message


def result(content, **keys):
    return {"role": "tool", "content": content, **keys}


def refused(said, tools=None):
    """Where and why a conversation is refused."""
    with pytest.raises(MessageError) as caught:
        validate(said)
    return caught.value.index, caught.value.field, caught.value.reason


def learned_text(said, tokenizer, **options):
    """What masks learn of a conversation, a text for each stretch."""
    return [
        tokenizer.decode(example["input_ids"][start:end])
        for example in masking.build_examples(said, tokenizer, **options)
        for start, end in learned_stretches(example["labels"])
    ]


class TestWhatATurnSaysAboutItself:
    """Kind (pitfall flags-unheard): a turn that says it is not to be learned was learned."""

    @pytest.mark.parametrize(
        ("flag", "no"), [("weight", 0), ("weight", 0.0), ("loss", False), ("loss", 0), ("train", False), ("mask", 0)]
    )
    def test_a_turn_that_says_no_is_not_learned_and_stays_in_the_prompt(self, flag, no, qwen3_2507):
        bad = {"role": "assistant", "content": "It is 5.", flag: no}
        said = [ASK, bad, {"role": "user", "content": "Sure?"}, REPLY]
        assert learned_text(said, qwen3_2507) == ["It is 4.<|im_end|>\n"]
        (example,) = masking.build_examples(said, qwen3_2507)
        assert "It is 5." in qwen3_2507.decode(example["input_ids"])
        assert masking.build_examples(said[:2], qwen3_2507) == []

    @pytest.mark.parametrize("flag", messages.LEARN_FLAGS)
    def test_yes_and_nothing_are_learned(self, flag, qwen3_2507):
        for yes in (1, 1.0, None, *([True] if flag != "mask" else [])):
            assert learned_text([ASK, {**REPLY, flag: yes}], qwen3_2507) == ["It is 4.<|im_end|>\n"]
            assert flag not in chat.render(qwen3_2507, [ASK, {**REPLY, flag: yes}])

    @pytest.mark.parametrize("value", [0.5, 2, -1, "0", "false", "", [], {}, float("nan")])
    def test_any_other_value_is_an_error(self, value):
        for flag in messages.LEARN_FLAGS:
            index, field, reason = refused([ASK, {**REPLY, flag: value}])
            assert (index, field) == (1, flag) and "expected 0" in reason

    def test_a_mask_that_is_true_or_false_may_mean_either(self):
        for value in (True, False):
            assert "expected 0 (not learned) or 1" in refused([ASK, {**REPLY, "mask": value}])[2]

    def test_flags_that_contradict_each_other_and_flags_of_others(self):
        assert "contradict" in refused([ASK, {**REPLY, "weight": 0, "train": True}])[2]
        index, field, reason = refused([{**ASK, "train": True}, REPLY])
        assert (index, field) == (0, "train") and "only an assistant" in reason
        validate([{**ASK, "weight": 0}, {**REPLY, "weight": 0, "loss": False}])

    def test_the_last_turn_is_the_last_also_where_it_is_not_learned(self, qwen3_2507):
        said = [ASK, REPLY, ASK, {**REPLY, "weight": 0}]
        assert learned_text(said, qwen3_2507, train_on="last") == []

    def test_the_fast_way_hears_it_too(self, qwen3_2507):
        rows = [{"messages": [ASK, {**REPLY, "weight": 0}, ASK, REPLY]}]
        made = masking.build_dataset(rows, qwen3_2507)
        plain = masking.build_examples(rows[0]["messages"], qwen3_2507)
        assert [made[0][key] for key in ("input_ids", "labels")] == [plain[0][key] for key in ("input_ids", "labels")]


class TestHalfOpenThoughts:
    """Kind: a thought without its beginning or its end was learned as an answer."""

    @pytest.mark.parametrize(
        "content",
        [
            "reason\n</think>\n\nanswer",
            "reason</think>answer",
            "reason.\n</think>\nanswer",
            "理由。</think>\n\nanswer",
            "<think>\nreason\n</think>\n\nanswer",
            "reason</think> answer",
            "reason. </think> answer",
            "2 + 2 = 4. </think>\n\nanswer",
            "我想一下。</think>answer",
            "reason\n</think> answer",
        ],
    )
    def test_a_thought_that_is_closed_is_one_whoever_opened_it(self, content, qwen3):
        (learned,) = learned_text([ASK, {"role": "assistant", "content": content}], qwen3)
        thought, _, answer = learned.partition("</think>")
        assert thought.count("<think>") == 1 and answer.replace(" ", "") == "\n\nanswer<|im_end|>\n"

    @pytest.mark.parametrize(
        "content",
        ["<think>\nreason", "<think>reason", " \n<think>", "Sure.\n<think>\nreason", "<think>\na\n<think>\nb"],
    )
    def test_a_thought_that_was_cut_off_is_refused(self, content):
        index, field, reason = refused([ASK, {"role": "assistant", "content": content}])
        assert (index, field) == (1, "content") and "never closed" in reason

    @pytest.mark.parametrize(
        "reply",
        [
            {"content": "<think>\na\n</think>\n\nb", "reasoning_content": "c"},
            {"content": "Sure.\n<think>\na\n</think>\n\nb"},
            {"content": "<think>\na\n</think>\n\n<think>\nb\n</think>\n\nc"},
            {"content": "<think>a</think>b</think>c"},
            {"content": "<think>a</think>4</think>"},
        ],
    )
    def test_two_thoughts_and_one_behind_the_beginning_are_refused(self, reply):
        index, field, reason = refused([ASK, {"role": "assistant", **reply}])
        assert (index, field) == (1, "content") and "thought" in reason

    @pytest.mark.parametrize(
        "content",
        [
            "Write the <think> tag first, then close it with </think> and answer.",
            "先写<think>标签，再写</think>标签。",
            "End it with `</think>`.\n\nThen answer.",
            "Like this:\n```\n<think>\nreason\n</think>\n```",
            "Like this:\n~~~\n<think>\nreason\n</think>\n~~~",
            "Close it with the </think> tag.",
            '{"open": "<think>", "close": "</think>"}',
        ],
    )
    def test_a_reply_that_names_the_tags_is_an_answer(self, content, qwen3_2507):
        (learned,) = learned_text([ASK, {"role": "assistant", "content": content}], qwen3_2507)
        assert chat.restore(learned) == f"{content}<|im_end|>\n"

    @pytest.mark.parametrize("thought", ["<think>\na\n</think>", "<think>\na", "a\n</think>\n"])
    def test_tags_inside_of_the_thinking_are_refused(self, thought):
        assert refused([ASK, {**REPLY, "reasoning_content": thought}])[:2] == (1, "reasoning_content")

    def test_an_empty_thought_beside_the_thinking_is_left_out(self, qwen3):
        reply = {"content": "<think>\n\n</think>\n\n4", "reasoning_content": "2 + 2"}
        (learned,) = learned_text([ASK, {"role": "assistant", **reply}], qwen3)
        assert learned == "<think>\n2 + 2\n</think>\n\n4<|im_end|>\n"

    def test_a_turn_that_is_not_learned_may_be_cut_off(self, qwen3_2507):
        said = [ASK, {"role": "assistant", "content": "<think>\ncut", "weight": 0}, ASK, REPLY]
        assert learned_text(said, qwen3_2507) == ["It is 4.<|im_end|>\n"]

    def test_the_audit_sees_halves_whoever_made_the_examples(self, qwen3, qwen3_2507, smol_tokenizer):
        for tokenizer in (qwen3, qwen3_2507, smol_tokenizer):
            prompt = "<|im_start|>user\n?<|im_end|>\n<|im_start|>assistant\n"
            replies = ["<think>\nreason", "reason\n</think>\n\nanswer", "<\u200bthink>\nreason", "an answer"]
            replies.append("<think>\nreason\n</think>\n\nanswer")
            examples = []
            for reply in replies:
                head, tail = (tokenizer(text)["input_ids"] for text in (prompt, f"{reply}<|im_end|>\n"))
                examples.append({"input_ids": head + tail, "labels": [-100] * len(head) + tail})
            found = masking.audit(examples, tokenizer)
            assert found.half_thoughts == (0, 1, 2)
            assert any("half a thought" in problem for problem in found.problems)

    def test_the_audit_knows_a_thought_that_the_prompt_opened(self, templated):
        tokenizer = templated("qwen3_5_think")
        prompt = chat.render(tokenizer, [ASK], add_generation_prompt=True)
        assert prompt.endswith("<think>\n")
        examples = []
        for reply in ("reason\n</think>\n\nanswer<|im_end|>\n", "reason<|im_end|>\n"):
            head, tail = (tokenizer(text)["input_ids"] for text in (prompt, reply))
            examples.append({"input_ids": head + tail, "labels": [-100] * len(head) + tail})
        assert masking.audit(examples, tokenizer).half_thoughts == (1,)


ARGUMENTS = st.dictionaries(
    st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), max_size=5),
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text('a"\\é乐\n<>', max_size=5),
        lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text("ab", max_size=2), inner, max_size=2),
        max_leaves=4,
    ),
    max_size=3,
)


class TestArgumentsAreObjects:
    """Kind: arguments as JSON text were learned in quotes, or ended in a TypeError of the template."""

    @pytest.mark.parametrize("template", QWENS)
    def test_text_is_rendered_as_the_object_that_it_means(self, template, templated):
        tokenizer = templated(template)

        def said(arguments):
            return [ASK, called((None, "add", arguments)), result("4"), REPLY]

        for value in ({"a": 2, "b": [1, {"c": '乐 "x"'}]}, {}):
            texts = [json.dumps(value), json.dumps(value, ensure_ascii=False), f" {json.dumps(value, indent=2)}\n"]
            wanted = chat.render(tokenizer, said(value), tools=TOOLS)
            assert tokenizer.apply_chat_template(said(value), tools=TOOLS, tokenize=False) == wanted
            for text in (*texts, *([] if value else [""])):
                assert chat.render(tokenizer, said(text), tools=TOOLS) == wanted
                options = {"tools": TOOLS, "train_on_tool_calls": True}
                assert masking.build_examples(said(text), tokenizer, **options) == masking.build_examples(
                    said(value), tokenizer, **options
                )

    def test_a_template_that_joins_them_to_its_text_gets_text(self, templated):
        tokenizer = templated("deepseekv3")
        tokenizer.bos_token = "<|endoftext|>"
        said = [ASK, called((None, "add", '{"a": "乐"}')), result("4"), REPLY]
        assert '{"a": "乐"}' in chat.render(tokenizer, said)
        tokenizer.bos_token = None

    @given(arguments=ARGUMENTS)
    def test_any_object_comes_back_from_its_text(self, arguments):
        (_, turn, _) = prepared([ASK, called((None, "f", json.dumps(arguments))), result("1")])
        assert turn["tool_calls"][0]["function"]["arguments"] == arguments

    def test_nothing_is_no_arguments(self):
        for nothing in ("", " ", "{}", None, {}):
            (_, turn) = prepared([ASK, called((None, "now", nothing))])
            assert turn["tool_calls"] == [{"type": "function", "function": {"name": "now", "arguments": {}}}]

    def test_what_is_nested_thousands_deep_is_an_error_and_no_recursion(self):
        inner: object = 1
        for _ in range(5000):
            inner = {"a": inner}
        text = '{"a": ' + "[" * 5000 + "]" * 5000 + "}"
        for arguments in (inner, text, '{"a": ' * 5000 + "1" + "}" * 5000):
            index, field, reason = refused([ASK, called((None, "f", arguments))])
            assert (index, field) == (1, "tool_calls[0].arguments") and "deep" in reason
        with pytest.raises(MessageError, match="deeper than 100"):
            chat.load_tools([{"name": "f", "parameters": inner}])

    @pytest.mark.parametrize(
        "arguments", ['{"a": NaN}', '{"a": 1, "a": 2}', "[1]", "5", "{", '"x"', [1], {"a": float("inf")}, {"a": {1, 2}}]
    )
    def test_what_is_no_object_of_json_is_refused(self, arguments):
        index, field, _ = refused([ASK, called((None, "f", arguments))])
        assert (index, field) == (1, "tool_calls[0].arguments")

    @pytest.mark.parametrize("other", ["args", "parameters", "input", "kwargs"])
    def test_arguments_under_another_name_are_not_lost(self, other):
        flat = {"name": "f", other: {"a": 1}}
        for call in (flat, {"type": "function", "function": flat}):
            index, field, reason = refused([ASK, {"role": "assistant", "content": "", "tool_calls": [call]}])
            assert (index, field) == (1, f"tool_calls[0].{other}") and "'arguments'" in reason

    def test_keys_that_json_does_not_have(self):
        assert refused([ASK, called((None, "f", {1: 2}))])[:2] == (1, "tool_calls[0].arguments")
        with pytest.raises(MessageError, match="every key"):
            chat.load_tools([{"name": "f", "parameters": {"properties": {1: 2}}}])

    def test_a_control_token_written_with_an_escape_is_broken_like_any_other(self, qwen3_2507):
        said = [ASK, called((None, "add", '{"a": "<|im_\\u0065nd|>"}')), result("4"), REPLY]
        (example,) = masking.build_examples(said, qwen3_2507, tools=TOOLS)
        assert example["input_ids"].count(qwen3_2507.eos_token_id) == 5  # system, user, call, result, reply


class TestCallsAndResults:
    """Kind: results of parallel calls were taken for each other's; templates write no ids."""

    CALLS = (("x", "add", {"a": 1}), ("y", "add", {"a": 2}), ("z", "now", {}))

    @given(order=st.permutations(range(3)), by=st.sampled_from(["tool_call_id", "name"]))
    def test_any_order_of_the_results_gives_the_same_ids(self, qwen3_2507, order, by):
        calls = self.CALLS if by == "tool_call_id" else [("", f"f{number}", {}) for number in range(3)]
        keys = [id_ if by == "tool_call_id" else name for id_, name, _ in calls]
        results = [result(f"r{number}", **{by: key}) for number, key in enumerate(keys)]
        said = [ASK, called(*calls), *(results[number] for number in order), REPLY]
        straight = [ASK, called(*calls), *results, REPLY]
        one, other = (masking.build_examples(each, qwen3_2507) for each in (said, straight))
        assert one == other
        text = chat.render(qwen3_2507, said)
        assert text.index("r0") < text.index("r1") < text.index("r2")

    def test_results_without_ids_stay_as_they_are(self):
        said = [ASK, called(*self.CALLS), result("1"), result("2"), result("3"), REPLY]
        assert [turn["content"] for turn in prepared(said)[2:5]] == ["1", "2", "3"]

    @pytest.mark.parametrize(
        ("results", "index", "field", "word"),
        [
            (
                [result("1", tool_call_id="x"), result("2", tool_call_id="q"), result("3", tool_call_id="z")],
                3,
                "tool_call_id",
                "none of",
            ),
            (
                [result("1", tool_call_id="x"), result("2", tool_call_id="x"), result("3", tool_call_id="z")],
                3,
                "tool_call_id",
                "already",
            ),
            ([result("1", tool_call_id="x"), result("2", tool_call_id="y")], 3, "role", "no result"),
            ([result("1"), result("2")], 3, "role", "no result"),
            ([result("1"), result("2"), result("3"), result("4")], 5, "role", "already"),
            ([result("1", name="sub")], 2, "name", "none of"),
            ([result("1", tool_call_id=7)], 2, "tool_call_id", "expected text"),
            ([], 2, "role", "no result"),
        ],
    )
    def test_what_does_not_belong_together_is_refused(self, results, index, field, word):
        found = refused([ASK, called(*self.CALLS), *results, REPLY])
        assert found[:2] == (index, field) and word in found[2]

    def test_the_surest_is_matched_first(self):
        results = [result("r2"), result("r1", tool_call_id="x"), result("r3", tool_call_id="z")]
        assert [turn["content"] for turn in prepared([ASK, called(*self.CALLS), *results])[2:]] == ["r1", "r2", "r3"]
        one = [ASK, called((None, "f", {})), result("1", tool_call_id="call_1"), REPLY]  # the call has lost its id
        assert prepared(one)[2]["content"] == "1"
        empty = [ASK, called(("", "f", {}), ("", "g", {})), result("1"), result("2")]
        assert len(prepared(empty)) == 4

    def test_an_id_and_a_name_that_contradict_each_other(self):
        calls = called(("x", "f", {}), ("y", "g", {}))
        results = [result("1", tool_call_id="x", name="g"), result("2", tool_call_id="y", name="f")]
        assert refused([ASK, calls, *results])[:2] == (2, "name")

    def test_more_that_does_not_belong_together(self):
        twice = called(("x", "add", {}), ("x", "now", {}))
        assert refused([ASK, twice, result("1"), result("2")])[:2] == (1, "tool_calls[1].id")
        late = [ASK, called(("x", "add", {})), result("1", tool_call_id="x"), REPLY, result("1", tool_call_id="x")]
        assert refused(late)[:2] == (4, "role")
        next_turn = [ASK, called(("x", "add", {})), called(("y", "add", {})), result("1", tool_call_id="x")]
        assert refused(next_turn)[:2] == (2, "role")
        partly = [ASK, called(*self.CALLS), result("1", tool_call_id="x")]  # at the end of a row
        assert "no result" in refused(partly)[2]


class TestTemplatesThatRefuse:
    """Kind: a template's own refusal came out of jinja2, without the message that it means."""

    ALTERNATE = (
        "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
        "{{ raise_exception('roles must alternate') }}{% endif %}[{{ m.role }}]{{ m.content }}\n{% endfor %}"
        "{% if add_generation_prompt %}[assistant]{% endif %}"
    )

    @pytest.mark.parametrize(
        ("template", "said", "index", "word"),
        [
            (ALTERNATE, [ASK, ASK, REPLY], 1, "alternate"),
            (ALTERNATE, [{"role": "system", "content": "s"}, ASK, REPLY], 0, "alternate"),
            ("gemma", [{"role": "system", "content": "s"}, ASK, REPLY], 0, "refuses"),
            ("qwen3_5_think", [ASK, REPLY, {"role": "system", "content": "s"}, ASK, REPLY], 2, "beginning"),
            ("qwen3_5_think", [{"role": "system", "content": "s"}, REPLY, ASK, REPLY], 1, "no question before it"),
            ("qwen3", [{"role": "system", "content": "s"}, REPLY, ASK, REPLY], 1, "no question before it"),
            ("{{ messages[0].nothing.there }}", [ASK, REPLY], 0, "refuses"),
            ("{{ 1 + messages }}", [ASK, REPLY], 0, "refuses"),
            ("{% for m in messages %}", [ASK, REPLY], 0, "refuses"),
        ],
    )
    def test_it_is_a_message_error_with_the_index(self, template, said, index, word, templated):
        tokenizer = templated(template)
        for use in (
            masking.build_examples,
            lambda said, tokenizer: masking.build_dataset([{"messages": said}], tokenizer),
        ):
            with pytest.raises(MessageError, match=word) as caught:
                use(said, tokenizer)
            assert caught.value.index == index

    def test_render_says_so_too(self, templated):
        with pytest.raises(MessageError, match="alternate") as caught:
            chat.render(templated(self.ALTERNATE), [ASK, ASK])
        assert caught.value.index == 1

    def test_a_tokenizer_without_a_template(self, templated):
        for use in (chat.render, lambda tokenizer, said: masking.build_examples(said, tokenizer)):
            with pytest.raises(MessageError, match="no chat template"):
                use(templated(""), [ASK, REPLY])

    @given(
        seed=st.integers(0, 10**6),
        said=st.lists(st.sampled_from(["system", "user", "assistant"]), min_size=1, max_size=6),
    )
    def test_a_template_that_raises_at_random_is_never_anothers_error(self, copied, seed, said):
        tokenizer = copied
        at = random.Random(seed).sample(range(8), 2)
        tokenizer.chat_template = (
            f"{{% for m in messages %}}{{% if loop.index0 in {at} %}}{{{{ raise_exception('no') }}}}{{% endif %}}"
            "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
            "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
        )
        turns = [{"role": role, "content": "x"} for role in said]
        try:
            masking.build_examples(turns, tokenizer)
        except MessageError as error:
            assert error.index is not None and 0 <= error.index < len(turns)
            if "refuses" in error.reason:
                assert error.index == min(at)


class TestWholeMeansWhole:
    """Kind: a part that the template dropped was found elsewhere in the text, by chance."""

    def test_a_tool_whose_name_the_user_says(self, smol_tokenizer):
        tools = [{"type": "function", "function": {"name": "search", "parameters": {}}}]
        ask = {"role": "user", "content": "Please search for parrots."}
        said = [
            ask,
            called((None, "search", {"q": "parrots"})),
            result("Parrots."),
            {"role": "assistant", "content": "Parrots."},
        ]
        for use in (chat.render, lambda tokenizer, said, tools: masking.build_examples(said, tokenizer, tools=tools)):
            with pytest.raises(MessageError, match="no place"):
                use(smol_tokenizer, said, tools=tools)
            with pytest.raises(MessageError, match="no place for tools"):
                use(smol_tokenizer, [ask, REPLY], tools=tools)

    @pytest.mark.parametrize("thought", ["user", "It is 4.", "4", "What is 2 + 2?", "assistant"])
    def test_thinking_that_repeats_what_stands_there_anyway(self, thought, qwen3_2507, smol_tokenizer):
        for tokenizer in (qwen3_2507, smol_tokenizer):
            for use in (chat.render, lambda tokenizer, said: masking.build_examples(said, tokenizer)):
                with pytest.raises(MessageError, match="no place for thinking"):
                    use(tokenizer, [ASK, {**REPLY, "reasoning_content": thought}])

    @pytest.mark.parametrize("content", ["user", "s", "4", "What is 2 + 2?"])
    def test_a_turn_that_the_template_passes_over(self, content, templated):
        tokenizer = templated(
            "{% for m in messages if m.role != 'system' %}"
            "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
            "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
        )
        said = [{"role": "system", "content": content}, ASK, REPLY]
        for use in (chat.render, lambda tokenizer, said: masking.build_examples(said, tokenizer)):
            for _ in range(2):  # what was found once is remembered
                with pytest.raises(MessageError, match="dropped part") as caught:
                    use(tokenizer, said)
                assert caught.value.index == 0
        chat.render(tokenizer, said[1:])

    def test_arguments_that_the_template_leaves_out(self, templated):
        tokenizer = templated(
            "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}"
            "{% for call in m.tool_calls or [] %}{{ call.function.name }}{% endfor %}<|im_end|>\n{% endfor %}"
        )
        with pytest.raises(MessageError, match="arguments"):
            chat.render(tokenizer, [ASK, called((None, "add", {"q": "add"}))])

    @pytest.mark.parametrize("template", [*QWENS, "llama3_1", "glm4moe", "deepseekv3", "phi3", "cohere", "gptoss"])
    def test_no_false_alarm_on_what_real_templates_write(self, template, templated):
        tokenizer = templated(template)
        for content in ("Hi", " Hi \n", "1 < 2", "<b>bold</b>", "{}", "[1]", "你好"):
            said = [ASK | {"content": content}, REPLY | {"content": content}, ASK, REPLY]
            assert chat.render(tokenizer, said).count(content.strip()) >= 2

    def test_another_template_on_the_same_tokenizer_is_looked_at_anew(self, templated):
        tokenizer = templated("qwen3_instruct_2507")
        said = [{"role": "system", "content": "user"}, ASK]
        chat.render(tokenizer, said)
        tokenizer.chat_template = (
            "{% for m in messages if m.role != 'system' %}{{ m.role }}: {{ m.content }}{% endfor %}"
        )
        with pytest.raises(MessageError, match="dropped part"):
            chat.render(tokenizer, said)


class TestHalfCharacters:
    """Kind: half an emoji in any text ended in another library's error, far from its row."""

    HALF = "Hi \ud83d"

    @pytest.mark.parametrize(
        ("said", "index", "field"),
        [
            ([{"role": "user", "content": HALF}], 0, "content"),
            ([ASK, {**REPLY, "reasoning_content": HALF}], 1, "reasoning_content"),
            ([ASK, called((None, HALF, {}))], 1, "tool_calls[0].name"),
            ([ASK, called((None, "f", {"a": [HALF]}))], 1, "tool_calls[0].arguments"),
            ([ASK, called((None, "f", {HALF: 1}))], 1, "tool_calls[0].arguments"),
            ([ASK, called((None, "f", '{"a": "\\ud83d"}'))], 1, "tool_calls[0].arguments"),
        ],
    )
    def test_it_is_named_by_message_and_field(self, said, index, field):
        found = refused(said)
        assert found[:2] == (index, field) and "half of a character" in found[2] and "\\ud83d" in found[2]

    def test_in_tools(self):
        for tools in ([{"name": "f", "description": self.HALF}], '[{"name": "f", "description": "\\ud83d"}]'):
            with pytest.raises(MessageError, match="half of a character"):
                chat.load_tools(tools)

    def test_in_what_stands_beside_the_messages(self, qwen3_2507):
        with pytest.raises(MessageError, match=r"source: half of a character.*row 0"):
            masking.build_dataset([{"messages": [ASK, REPLY], "source": self.HALF}], qwen3_2507)
        with pytest.raises(MessageError) as caught:
            validate([{**ASK, self.HALF: 1}])
        str(caught.value).encode()

    def test_a_whole_one_is_nothing_of_the_kind(self):
        validate([{"role": "user", "content": "Hi 🦜"}, REPLY])


class TestRowsThatAreNoChats:
    """Kind: rows of another kind were learned as chats, the bad replies of KTO files too."""

    @pytest.mark.parametrize("more", [{"label": False}, {"label": True}, {"chosen": [REPLY]}, {"text": "x"}])
    def test_they_are_refused_with_the_row(self, more, qwen3_2507):
        rows = [{"messages": [ASK, REPLY]}, {"messages": [ASK, REPLY], **more}]
        with pytest.raises(masking.MaskError, match=r"row 1.*lessons 08 and 09"):
            masking.build_dataset(rows, qwen3_2507)

    @pytest.mark.parametrize("row", ["hello", None, [ASK, REPLY]])
    def test_what_is_no_row(self, row, qwen3_2507):
        with pytest.raises(masking.MaskError, match="row 0: expected a dict"):
            masking.build_dataset([row], qwen3_2507)
