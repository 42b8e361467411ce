"""course_utils.deploy.client: what servers send, in all its shapes.

Kind of all of them: half a thought is not an answer, and an answer is not half a thought; what is no text is refused
with words.
"""

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from course_utils import client
from course_utils.deploy.serving import ServingError
from course_utils.text.chat import MessageError
from course_utils.text.thinking import ParsedOutput

CAPITAL = [{"role": "user", "content": "What is the capital of France?"}]
CALL = [{"id": "1", "type": "function", "function": {"name": "search", "arguments": "{}"}}]
TEMPLATES = Path(find_spec("trl").origin).with_name("chat_templates")


def truncated(thinking):
    return ParsedOutput(thinking, None, "truncated")


class TestThePromptOpenedTheThought:
    @pytest.mark.parametrize("ending", ["length", "stop", None])
    @pytest.mark.parametrize("content", ["It is", "<think>It is", [{"type": "text", "text": "It is"}]])
    def test_and_nothing_closes_it(self, content, ending):
        parsed = client.parse_message({"content": content}, ending, prompt_opens_thinking=True)
        assert parsed == truncated("It is")

    def test_and_the_reply_closes_it(self):
        message = {"content": "It is.\n</think>\n\nOslo."}
        assert client.parse_message(message, prompt_opens_thinking=True) == ParsedOutput("It is.", "Oslo.", "answered")

    @pytest.mark.parametrize("field", ["reasoning", "reasoning_content"])
    def test_and_a_parser_has_taken_out_an_empty_one(self, field):
        message = {"content": "Oslo.", field: ""}
        assert client.parse_message(message, prompt_opens_thinking=True) == ParsedOutput("", "Oslo.", "no_thinking")


class TestNothingInContent:
    @pytest.mark.parametrize("field", ["reasoning", "reasoning_content"])
    @pytest.mark.parametrize("call", [{"tool_calls": CALL}, {"function_call": CALL[0]["function"]}])
    @pytest.mark.parametrize("content", [{"content": None}, {"content": ""}, {}])
    def test_a_thought_before_a_call_is_whole(self, field, call, content):
        parsed = client.parse_message({field: "I search.", **content, **call}, "tool_calls")
        assert parsed == ParsedOutput("I search.", "", "answered")

    def test_nor_where_no_parser_took_it_out(self):
        parsed = client.parse_message({"content": "<think>I search.", "tool_calls": CALL}, "tool_calls")
        assert parsed == ParsedOutput("I search.", "", "answered")

    def test_a_call_that_was_cut_is_no_answer(self):
        assert client.parse_message({"content": None, "reasoning": "I", "tool_calls": CALL}, "length") == truncated("I")

    @pytest.mark.parametrize("content", [{"content": None}, {}])
    @pytest.mark.parametrize("field", ["reasoning", "reasoning_content"])
    def test_what_a_parser_took_for_a_thought_though_the_model_ended_is_the_answer(self, content, field):
        assert client.parse_message({field: "Oslo.\n", **content}) == ParsedOutput("", "Oslo.", "no_thinking")
        assert client.parse_message({field: "Oslo.\n", **content}, "length") == truncated("Oslo.")


class TestThoughtsApart:
    @pytest.mark.parametrize("field", client.APART)
    def test_only_white_space(self, field):
        parsed = client.parse_message({"content": "Oslo.", field: "\n\n"}, prompt_opens_thinking=True)
        assert (parsed.answer, parsed.status) == ("Oslo.", "no_thinking")

    @pytest.mark.parametrize("content", ["", "\n", None])
    @pytest.mark.parametrize("field", client.APART)
    @pytest.mark.parametrize("ending", ["length", "LENGTH", "max_tokens", "abort", "content_filter"])
    def test_nothing_in_content(self, content, field, ending):
        message = {"content": content, field: "Oslo."}
        empty = ParsedOutput("Oslo.", "", "answered")  # what the model wrote behind its thought: nothing
        assert client.parse_message(message) == (ParsedOutput("", "Oslo.", "no_thinking") if content is None else empty)
        assert client.parse_message(message, ending) == truncated("Oslo.")

    def test_the_block_stands_in_content_too(self):
        message = {"content": "<think>It is.</think>\n\nOslo.", "reasoning": "It is."}
        assert client.parse_message(message) == ParsedOutput("It is.", "Oslo.", "answered")

    def test_a_refusal_is_said(self):
        with pytest.raises(ServingError, match="refusal: I cannot"):
            client.parse_message({"content": None, "refusal": "I cannot."})


class TestParts:
    def test_text_is_read(self):
        parts = [{"type": "text", "text": "Os"}, {"type": "text", "text": "lo."}]
        assert client.parse_message({"content": parts}).answer == "Oslo."
        assert client.parse_message({"content": "Oslo.", "reasoning": parts}).thinking == "Oslo."
        assert client.parse_message({"content": []}).answer == ""

    @pytest.mark.parametrize(
        "part",
        [{"type": "image_url", "image_url": {}}, {"type": "text"}, {"type": "text", "text": 3}, "Oslo", 3, None, {}],
        ids=str,
    )
    @pytest.mark.parametrize("field", ["content", "reasoning"])
    def test_anything_else_is_refused(self, field, part):
        with pytest.raises(ServingError, match=f"in {field}, and only text"):
            client.parse_message({field: [{"type": "text", "text": "a"}, part]})

    @pytest.mark.parametrize("message", [None, "Oslo.", [], 3])
    def test_no_message(self, message):
        with pytest.raises(ServingError, match="sent no message"):
            client.parse_message(message)


texts = st.none() | st.sampled_from(["", " ", "Oslo.", "<think>", "a</think>b", "<think>a</think>b"])


@given(
    st.fixed_dictionaries({}, optional=dict.fromkeys(("content", "reasoning", "reasoning_content"), texts)),
    st.booleans(),
    st.sampled_from(["stop", "length", "tool_calls", None]),
    st.booleans(),
)
def test_no_answer_is_truncated_and_truncated_is_no_answer(message, calls, ending, opened):
    """And no word of a reply is lost."""
    parsed = client.parse_message(
        message | {"tool_calls": CALL if calls else None}, ending, prompt_opens_thinking=opened
    )
    assert (parsed.answer is None) == (parsed.status == "truncated")
    assert "Oslo." not in (message.get("content") or "") or "Oslo." in f"{parsed.thinking}{parsed.answer}"


@pytest.fixture
def replies():
    """A server that gives the replies in this list, in order; it knows its `url` and what it was `asked`."""

    class Canned(BaseHTTPRequestHandler):
        def do_POST(self):
            given.asked.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            body = given.pop(0)
            body = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(200)
            self.send_header("Content-Type", given.kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    class Replies(list):
        url = ""
        kind = "application/json"

    given = Replies()
    given.asked = []
    with HTTPServer(("127.0.0.1", 0), Canned) as server:
        given.url = f"http://127.0.0.1:{server.server_port}/v1"
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield given
        server.shutdown()


def reply(ending="stop", **message):
    choice = {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": ending}
    return {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}


class TestAsked:
    @pytest.mark.parametrize(
        "sent",
        [
            reply() | {"choices": []},
            reply() | {"choices": None},
            reply() | {"choices": [{"index": 0, "message": None, "finish_reason": "stop"}]},
            {"error": {"message": "the model is loading"}},
            {},
        ],
        ids=str,
    )
    def test_no_choice_and_no_message(self, replies, sent):
        replies.append(sent)
        with pytest.raises(ServingError, match="sent no reply"):
            client.ask(replies.url, "m", CAPITAL)

    @pytest.mark.parametrize(
        "sent",
        [b"<html>login</html>", b"", b"ok", b"null", b"[]", b'"hi"', b'{"choices": {"a": 1}}', b'{"choices": ["a"]}'],
    )
    @pytest.mark.parametrize("kind", ["application/json", "text/html"])
    def test_what_is_no_chat_completion(self, replies, sent, kind):
        replies.kind = kind
        replies.append(sent)
        with pytest.raises(ServingError, match=r"sent no (reply|JSON)"):
            client.ask(replies.url, "m", CAPITAL)

    def test_the_empty_fields_of_rows_from_arrow_are_not_sent(self, replies):
        """`transformers serve` takes "tool_calls": null for calls and fails with 500."""
        replies.append(reply(content="Oslo."))
        client.ask(replies.url, "m", [CAPITAL[0] | {"tool_calls": None, "tool_call_id": None}])
        assert replies.asked[0]["messages"] == CAPITAL

    def test_half_an_emoji_is_not_sent(self):
        with pytest.raises(MessageError):
            client.ask("http://127.0.0.1:9", "m", [{"role": "user", "content": "\ud83d"}])

    @pytest.mark.parametrize("template", [b"<think>{{ raise_exception('no') }}", b"<think>{% if", b"<think>\xff"])
    def test_a_template_that_cannot_be_rendered_tells_nothing(self, replies, tmp_path, template):
        (tmp_path / "chat_template.jinja").write_bytes(template)
        replies.append(reply(content="Oslo."))
        assert client.ask(replies.url, str(tmp_path), CAPITAL).answer == "Oslo."

    def test_fields_that_openai_does_not_know_arrive(self, replies):
        replies.append(reply("tool_calls", content=None, reasoning="I search.", tool_calls=CALL))
        asked = client.ask(replies.url, "m", CAPITAL)
        assert (asked.thinking, asked.answer, asked.finish_reason, asked.tokens) == ("I search.", "", "tool_calls", 0)

    @pytest.mark.parametrize(
        ("template", "thinking", "answer"),
        [
            ("qwen3_5_think", None, None),
            ("qwen3_5_think", True, None),
            ("qwen3_5_think", False, "It is"),
            ("qwen3", None, "It is"),
        ],
    )
    def test_a_folder_here_tells_whether_its_prompt_opens_the_thought(
        self, replies, tmp_path, template, thinking, answer
    ):
        """Kind: a prompt that opened the thought and a reply cut by length have no answer."""
        (tmp_path / "chat_template.jinja").write_text((TEMPLATES / f"{template}.jinja").read_text(encoding="utf-8"))
        replies += [reply("length", content="It is")]
        asked = client.ask(replies.url, str(tmp_path), CAPITAL, thinking=thinking)
        assert asked.answer == answer and (asked.status == "truncated") == (answer is None)
