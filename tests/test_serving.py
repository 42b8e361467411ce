"""course_utils.serving: the server answers on loopback, and is gone afterwards."""

import socket
import sys

import pytest

from course_utils import profiles, serving


def test_the_command_for_each_kind_of_machine(cpu):
    line = serving.command(cpu, "models/x", port=8123)
    assert "serve" in line and line[line.index("--host") + 1] == "127.0.0.1"
    card = serving.command(profiles.PROFILES["16gb"], "models/x")
    assert card[:2] == ["vllm", "serve"] and card[card.index("--host") + 1] == "127.0.0.1"


def test_it_serves_and_stops(cpu, smol):
    from openai import OpenAI

    port = serving.free_port()
    with serving.serve(serving.command(cpu, smol, port=port)) as url:
        reply = OpenAI(base_url=url, api_key="none").chat.completions.create(
            model=str(smol),
            messages=[{"role": "user", "content": "What is the capital of France?"}],
            temperature=0,
            max_tokens=16,
        )
        assert "Paris" in reply.choices[0].message.content
        with pytest.raises(serving.ServingError, match="in use"), serving.serve(["true", f"--port={port}"]):
            pass
    with socket.socket() as probe:
        assert probe.connect_ex((serving.HOST, port)) != 0


def test_a_server_that_is_not_installed():
    line = ["no-such-server", f"--port={serving.free_port()}"]
    with pytest.raises(serving.ServingError, match="not installed"), serving.serve(line):
        pass


def test_a_server_that_ends_is_reported_with_its_last_words():
    line = [sys.executable, "-c", "print('no such model')", f"--port={serving.free_port()}"]
    with pytest.raises(serving.ServingError, match=r"ended.*no such model"), serving.serve(line):
        pass


def test_a_server_that_never_answers_is_stopped():
    line = [sys.executable, "-c", "import time; time.sleep(60)", f"--port={serving.free_port()}"]
    with pytest.raises(serving.ServingError, match="did not answer"), serving.serve(line, timeout=1):
        pass
