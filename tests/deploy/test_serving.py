"""course_utils.deploy.serving: the command, a server's life and end, the client, the load test."""

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from conftest import ROOT, shipped_template
from hypothesis import given
from hypothesis import strategies as st

from course_utils import client, profiles, serving
from course_utils.deploy.adapters import ExportError
from course_utils.deploy.serving import ServingError
from course_utils.text.thinking import ParsedOutput
from notebooks.load_test import load_test, percentile
from notebooks.serve_flags import FLAGS, explain

STUB = Path(__file__).with_name("stub_server.py")
CAPITAL = [{"role": "user", "content": "What is the capital of France?"}]
GPU = profiles.PROFILES["16gb"]


def stub(*options, port=None):
    return [sys.executable, str(STUB), "serve", "stub", f"--port={port or serving.free_port()}", *options]


def adapter(folder, **settings):
    """The least that is an adapter's folder."""
    from safetensors.torch import save_file

    (folder / "adapter_config.json").write_text(json.dumps({"lora_alpha": 16} | settings))
    save_file({}, folder / "adapter_model.safetensors")
    return folder


def group(pid):
    """The processes of a server's session that are still there."""
    there = []
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) == pid and process.status() != psutil.STATUS_ZOMBIE:
                there.append(process)
        except (ProcessLookupError, psutil.NoSuchProcess):
            continue
    return there


def gone(pid, seconds=5.0):
    """True as soon as nothing of the session is left."""
    limit = time.monotonic() + seconds
    while group(pid) and time.monotonic() < limit:
        time.sleep(0.05)
    return not group(pid)


class TestCommand:
    def test_for_each_kind_of_machine(self, tiny):
        line = serving.command(tiny, "models/x", port=8123)
        assert "serve" in line and line[line.index("--host") + 1] == "127.0.0.1"
        assert line[line.index("--dtype") + 1] == tiny.dtype
        gpu = serving.command(GPU, "models/x")
        assert gpu[:3] == ["vllm", "serve", str(Path("models/x").absolute())]
        assert gpu[gpu.index("--host") + 1] == "127.0.0.1"

    def test_the_seeds_flags_and_the_number_format_of_the_gpu(self):
        line = " ".join(serving.command(GPU, "models/x"))
        for part in (
            "--max-model-len 16384",
            "--gpu-memory-utilization 0.82",
            "--max-num-seqs 4",
            "--max-num-batched-tokens 2048",
            "--enforce-eager",
            "--dtype bfloat16",
        ):
            assert part in line
        assert "--dtype float16" in " ".join(serving.command(profiles.PROFILES["t4"], "models/x"))
        assert "--kv-cache-dtype fp8" in " ".join(serving.command(GPU, "models/x", fp8_cache=True))

    def test_only_a_template_that_knows_thinking_gets_the_parser(self):
        folders = {name: ROOT / "models" / name for name in ("qwen3-tokenizer", "qwen3-instruct-2507-tokenizer")}
        assert "--reasoning-parser" in serving.command(GPU, folders["qwen3-tokenizer"])
        assert "--reasoning-parser" not in serving.command(GPU, folders["qwen3-instruct-2507-tokenizer"])

    def test_only_a_template_that_knows_tool_calls_gets_their_parser(self):
        """Without the two flags vLLM refuses a request that offers tools."""
        line = " ".join(serving.command(GPU, ROOT / "models" / "qwen3-instruct-2507-tokenizer"))
        assert "--enable-auto-tool-choice --tool-call-parser hermes" in line
        assert "--tool-call-parser" not in serving.command(GPU, ROOT / "models" / "smollm2-135m-instruct")

    def test_qwen3_5_writes_its_calls_between_tags(self, tmp_path):
        (tmp_path / "chat_template.jinja").write_text(shipped_template("qwen3_5_think"), encoding="utf-8")
        assert "--tool-call-parser qwen3_coder" in " ".join(serving.command(GPU, tmp_path))

    @pytest.mark.parametrize("where", ["tokenizer_config", "named", "named, with a default"])
    def test_the_template_is_found_in_the_configuration_of_the_tokenizer_too(self, tmp_path, where):
        """Kind: the reasoning parser is found wherever the template lies."""
        thinks = (ROOT / "models" / "qwen3-tokenizer" / "chat_template.jinja").read_text(encoding="utf-8")
        for template, parser in ((thinks, True), ("{{ messages }}", False)):
            held = {"tokenizer_config": template, "named": [{"name": "tools", "template": template}]}.get(where)
            held = held or [{"name": "rag", "template": thinks}, {"name": "default", "template": template}]
            (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": held}))
            assert ("--reasoning-parser" in serving.command(GPU, tmp_path)) is parser
            assert serving.template_of(tmp_path) == template

    @pytest.mark.parametrize("config", ["{", "[]", "{}", '{"chat_template": null}', '{"chat_template": [1]}'])
    def test_a_folder_without_a_template_gets_no_parser(self, tmp_path, config):
        (tmp_path / "tokenizer_config.json").write_text(config)
        assert "--reasoning-parser" not in serving.command(GPU, tmp_path)

    @pytest.mark.parametrize(
        ("settings", "words"),
        [
            ({"use_dora": True}, "DoRA"),
            ({"modules_to_save": ["norm"]}, "layers trained whole"),
            ({"rank_pattern": {"q_proj": 40}}, "rank_pattern"),
            ({"alpha_pattern": {"q_proj": 40}}, "alpha_pattern"),
            ({"bias": "all"}, "biases"),
            ({"lora_bias": True}, "biases"),
        ],
        ids=str,
    )
    def test_what_vllm_refuses_or_mounts_wrongly_is_served_merged(self, tmp_path, settings, words):
        """Kind: `serve` says "serve it merged" in place of a command that vLLM refuses. (A rank or an alpha of a
        layer's own it does not refuse: it multiplies all layers by the same alpha / rank.)"""
        from safetensors.torch import save_file
        from torch import ones

        folder = adapter(tmp_path, r=8, **settings)
        if "modules_to_save" in settings:
            save_file({"base_model.model.model.norm.weight": ones(4)}, folder / "adapter_model.safetensors")
        with pytest.raises(ServingError, match=rf"{words}.*serve it merged \(export\.merge_adapter\)"):
            serving.command(GPU, "models/x", adapter=folder)

    def test_so_is_one_with_tokens_of_its_own(self, tmp_path, qwen3):
        """Kind: a grown tokenizer is never lost in silence."""
        qwen3.save_pretrained(tmp_path / "base")
        (tmp_path / "adapter").mkdir()
        folder = adapter(tmp_path / "adapter", r=8)
        qwen3.save_pretrained(folder)
        assert "--enable-lora" in serving.command(GPU, tmp_path / "base", adapter=folder)
        grown = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
        grown["added_tokens"].append(grown["added_tokens"][-1] | {"id": len(qwen3), "content": "<mine>"})
        (folder / "tokenizer.json").write_text(json.dumps(grown), encoding="utf-8")
        with pytest.raises(ServingError, match=r"tokens of its own.*serve it merged"):
            serving.command(GPU, tmp_path / "base", adapter=folder)
        (folder / "tokenizer.json").write_text("{")
        with pytest.raises(ExportError, match=r"cannot be read: tokenizer"):
            serving.command(GPU, tmp_path / "base", adapter=folder)

    def test_the_base_must_be_the_one_that_the_adapter_names(self, tmp_path):
        """Kind: adapters from elsewhere; vLLM would mount it on any model of the same shapes."""
        folder = adapter(tmp_path, r=8, base_model_name_or_path="Qwen/Qwen3-4B")
        assert "--enable-lora" in serving.command(GPU, "models/Qwen/Qwen3-4B", adapter=folder)
        with pytest.raises(ExportError, match="was trained on Qwen/Qwen3-4B"):
            serving.command(GPU, "models/Qwen/Qwen3-4B-Instruct-2507", adapter=folder)

    @pytest.mark.parametrize(("settings", "served"), [({"r": 16}, 16), ({"r": 12}, 16), ({"r": 40}, 64)])
    def test_an_adapter_is_mounted_with_a_rank_that_vllm_takes(self, tmp_path, settings, served):
        line = serving.command(GPU, "models/x", adapter=adapter(tmp_path, **settings))
        assert "--enable-lora" in line and f"{tmp_path.name}={tmp_path}" in line
        assert line[line.index("--max-lora-rank") + 1] == str(served)

    def test_what_cannot_be_served(self, tiny, tmp_path):
        with pytest.raises(ExportError, match="holds no adapter"):
            serving.command(GPU, "models/x", adapter=tmp_path)
        with pytest.raises(ServingError, match=r"rank 1024.*512 at most"):
            serving.command(GPU, "models/x", adapter=adapter(tmp_path, r=1024))
        with pytest.raises(ServingError, match="merge the adapter"):
            serving.command(tiny, "models/x", adapter=tmp_path)
        with pytest.raises(ServingError, match="no 8-bit cache"):
            serving.command(tiny, "models/x", fp8_cache=True)

    def test_every_flag_is_explained_and_no_other(self, tiny, tmp_path):
        thinks = ROOT / "models" / "qwen3-tokenizer"
        line = serving.command(GPU, thinks, port=8123, adapter=adapter(tmp_path, r=16), fp8_cache=True)
        explained = explain(line)
        assert {flag for flag, _, _ in explained} == set(FLAGS)
        assert ("--port", "8123") in [row[:2] for row in explained]
        assert ("--enforce-eager", "") in [row[:2] for row in explained]
        assert [row[0] for row in explain(serving.command(tiny, "models/x"))] == ["--host", "--port", "--dtype"]


class TestLifeOfAServer:
    def test_it_answers_tells_its_log_and_nothing_is_left(self):
        log = []
        with serving.serve(stub("--child"), on_line=log.append) as server:
            assert len(group(server.pid)) == 2
            assert server.model == "stub" and log[-1] == "the stub listens"
            server.wait(0.1)
        assert gone(server.pid)  # killed by then; the kernel may need a moment to take them away

    def test_one_that_does_not_listen_is_made_to_end(self, monkeypatch):
        wait = subprocess.Popen.wait  # ten seconds of patience are as good as one
        monkeypatch.setattr(
            subprocess.Popen, "wait", lambda self, timeout=None: wait(self, timeout and min(timeout, 1))
        )
        with serving.serve(stub("--stubborn")) as server:
            pass
        assert gone(server.pid)  # killed by then; the kernel may need a moment to take them away

    @pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP])
    def test_nothing_is_left_where_the_caller_is_killed(self, sign):
        code = (
            "import time\nfrom course_utils import serving\n"
            f"with serving.serve({stub('--child')!r}) as server:\n    print(server.pid, flush=True)\n    time.sleep(60)"
        )
        with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=ROOT) as caller:
            pid = int(caller.stdout.readline())
            assert len(group(pid)) == 2
            caller.send_signal(sign)
        assert gone(pid)

    def test_one_that_is_killed_is_reported_when_the_block_ends(self):
        said = r"signal 9 \(SIGKILL\).*the stub listens"
        with pytest.raises(ServingError, match=said), serving.serve(stub("--child")) as server:
            os.kill(server.pid, signal.SIGKILL)
            time.sleep(0.2)
        assert gone(server.pid)

    def test_and_also_where_the_block_failed_because_of_it(self):
        with pytest.raises(ServingError, match="SIGKILL") as caught, serving.serve(stub()) as server:
            os.kill(server.pid, signal.SIGKILL)
            client.ask(server.url, server.model, CAPITAL)
        assert "No server answers" in str(caught.value.__cause__) or "broke off" in str(caught.value.__cause__)

    def test_wait_tells_it_at_once(self):
        with pytest.raises(ServingError, match="SIGTERM"), serving.serve(stub()) as server:
            os.kill(server.pid, signal.SIGTERM)
            server.wait(30)

    def test_another_error_of_the_block_is_its_own(self):
        with pytest.raises(ZeroDivisionError), serving.serve(stub()) as server:
            1 / 0  # noqa: B018
        assert gone(server.pid)

    def test_a_port_that_is_taken(self):
        with serving.serve(stub()) as server:
            port = int(re.search(r":(\d+)/", server.url)[1])
            with pytest.raises(ServingError, match="in use"), serving.serve(stub(port=port)):
                pass

    def test_one_that_is_not_installed(self):
        line = ["no-such-server", "serve", "x", f"--port={serving.free_port()}"]
        with pytest.raises(ServingError, match="not installed"), serving.serve(line):
            pass

    @pytest.mark.parametrize(
        ("code", "said"),
        [
            ("print('no such model')", r"exit code 0.*no such model"),
            ("raise SystemExit(3)", "code 3. It wrote nothing"),
        ],
    )
    def test_one_that_ends_before_it_answers_is_reported_with_its_last_words(self, code, said):
        line = [sys.executable, "-c", code, "serve", "x", f"--port={serving.free_port()}"]
        with pytest.raises(ServingError, match=said), serving.serve(line):
            pass

    def test_one_that_never_answers_is_stopped(self):
        line = [sys.executable, "-c", "import time; time.sleep(60)", "serve", "x", f"--port={serving.free_port()}"]
        with pytest.raises(ServingError, match="did not answer within 1 s"), serving.serve(line, timeout=1):
            pass


def test_the_command_shows_line_log_and_how_to_ask_and_reports_the_end(tiny, monkeypatch):
    from typer.testing import CliRunner

    from course_utils import cli

    line = stub("--dies")
    ready = SimpleNamespace(profile=tiny, merged_dir=Path("runs/tiny/merged"))
    monkeypatch.setattr("course_utils.lessons.setup.setup", lambda needs, profile, model: ready)
    monkeypatch.setattr(serving, "command", lambda *args, **kwargs: line)
    ended = CliRunner().invoke(cli.app, ["serve"])
    shown = ended.stdout
    assert shlex.join(line) in shown and "| the stub listens" in shown
    curl = next(text for text in shown.splitlines() if text.startswith("curl "))
    assert json.loads(shlex.split(curl)[-1])["model"] == "stub"
    compile(shown[shown.index("from openai") :], "snippet", "exec")
    assert isinstance(ended.exception, ServingError) and "exit code 7" in str(ended.exception)


class TestErrorsOfTheClient:
    def test_nobody_there(self):
        with pytest.raises(ServingError, match=r"No server answers at http://127.0.0.1:\d+/v1"):
            client.ask(f"http://127.0.0.1:{serving.free_port()}/v1", "x", CAPITAL)

    def test_too_slow(self):
        with (
            serving.serve(stub("--slow")) as server,
            pytest.raises(ServingError, match=r"No reply from .* within 0.5 s"),
        ):
            client.ask(server.url, server.model, CAPITAL, timeout=0.5)

    def test_refused(self):
        with (
            serving.serve(stub()) as server,
            pytest.raises(ServingError, match=r"404.*nobody is at home.*Server\.model"),
        ):
            client.ask(server.url, "another", CAPITAL)

    def test_a_proxy_of_the_environment_is_not_asked(self, monkeypatch):
        monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
        with serving.serve(stub()) as server, pytest.raises(ServingError, match="404"):
            client.ask(server.url, "another", CAPITAL)

    def test_a_load_test_counts_what_is_lost_and_why(self):
        with serving.serve(stub()) as server:
            report = load_test(server.url, "another", [CAPITAL] * 5, clients=2)
        assert (report.requests, report.replies, report.tokens) == (5, (), 0)
        assert list(report.lost.values()) == [5] and "404" in next(iter(report.lost))
        assert ("lost", 5) in report.table()


@pytest.mark.parametrize(
    ("message", "finish_reason", "expected"),
    [
        ({"content": "Oslo.", "reasoning": "Norway."}, "stop", ParsedOutput("Norway.", "Oslo.", "answered")),
        ({"content": "Oslo.", "reasoning_content": "Norway."}, "stop", ParsedOutput("Norway.", "Oslo.", "answered")),
        ({"content": "<think>Norway.</think>Oslo."}, "stop", ParsedOutput("Norway.", "Oslo.", "answered")),
        ({"content": "<think>Norw"}, "length", ParsedOutput("Norw", None, "truncated")),
        ({"content": None, "reasoning": "Norw"}, "length", ParsedOutput("Norw", None, "truncated")),
        ({"content": "", "reasoning_content": "Norw"}, "length", ParsedOutput("Norw", None, "truncated")),
        ({"content": "", "reasoning": "Norway."}, "stop", ParsedOutput("Norway.", "", "answered")),
        ({"content": "Oslo.", "reasoning": None}, "stop", ParsedOutput("", "Oslo.", "no_thinking")),
        ({"content": None}, "stop", ParsedOutput("", "", "no_thinking")),
        ({"content": None, "reasoning": "Oslo."}, "stop", ParsedOutput("", "Oslo.", "no_thinking")),
    ],
)
def test_each_way_in_which_servers_hand_thinking_over(message, finish_reason, expected):
    assert client.parse_message(message, finish_reason) == expected


@given(st.lists(st.floats(0, 1e6), min_size=1), st.sampled_from([1, 50, 90, 99, 100]))
def test_a_percentile_is_a_value_that_occurred_and_covers_its_share(values, share):
    found = percentile(sorted(values), share)
    assert found in values
    assert sum(value <= found for value in values) >= share / 100 * len(values)
    assert sum(value < found for value in values) < share / 100 * len(values)


@pytest.fixture(scope="session")
def conversations(request) -> list:
    """What the load test asks: 16 requests, and 100 in `make test-long`."""
    count = 100 if request.config.getoption("--hypothesis-profile") == "long" else 16
    return [[{"role": "user", "content": f"Say a word that begins with {chr(97 + n % 26)}."}] for n in range(count)]


class TestTheRealModel:
    @pytest.fixture(scope="class")
    def line(self, tiny, smol):
        return serving.command(tiny, smol, port=serving.free_port())

    @pytest.fixture(scope="class")
    def killed(self, line, conversations):
        """A server that gets kill -9 when three quarters of the requests of 8 clients have come in."""
        asked = []

        def kill_in_the_middle(text):
            asked.append("POST /v1/chat" in text)
            if sum(asked) == len(conversations) * 3 // 4:  # eight wait for their replies, the others have theirs
                os.kill(server.pid, signal.SIGKILL)

        running = serving.serve(line, timeout=300, on_line=kill_in_the_middle)
        with pytest.raises(ServingError) as ended, running as server:
            report = load_test(server.url, server.model, conversations, clients=8, max_tokens=8)
            with pytest.raises(ServingError, match="No server answers"):
                client.ask(server.url, server.model, CAPITAL)
        return server.pid, report, str(ended.value)

    @pytest.fixture(scope="class")
    def server(self, line, killed):
        """The next one, with the same line, so on the same port."""
        with serving.serve(line, timeout=300) as running:
            yield running
        assert gone(running.pid)
        with socket.socket() as probe:
            assert probe.connect_ex((serving.HOST, int(running.url.split(":")[2].split("/")[0]))) != 0

    def test_kill_9_in_the_middle_of_many_requests(self, killed, conversations):
        pid, report, said = killed
        assert gone(pid)
        assert re.search(r"signal 9 \(SIGKILL\).*Its last lines: .*POST", said)
        assert report.requests == len(conversations) and 0 < len(report.replies) < len(conversations)
        assert all(reason.startswith(("No server answers at", "The server at")) for reason in report.lost)
        assert any("broke off in the middle of a reply" in reason for reason in report.lost)

    def test_the_next_one_loses_none(self, server, conversations):
        report = load_test(server.url, server.model, conversations, clients=8, max_tokens=8)
        assert (len(report.replies), report.lost) == (len(conversations), {})
        assert len(report.replies) < report.tokens <= 8 * len(conversations)
        assert all(0 < first <= whole for first, whole in zip(report.first_tokens, report.replies, strict=True))

    def test_openais_client_and_ours_get_the_same(self, server):
        from openai import OpenAI

        reply = OpenAI(base_url=server.url, api_key="none").chat.completions.create(
            model=server.model, messages=CAPITAL, temperature=0, max_tokens=16
        )
        ours = client.ask(server.url, server.model, CAPITAL, max_tokens=16)
        assert "Paris" in ours.answer and ours.answer == reply.choices[0].message.content.strip()
        assert (ours.status, ours.finish_reason, ours.tokens) == ("no_thinking", "stop", reply.usage.completion_tokens)

    def test_the_switch_of_thinking_reaches_the_template_and_this_one_ignores_it(self, server):
        answers = {client.ask(server.url, server.model, CAPITAL, thinking=on).answer for on in (None, True, False)}
        assert len(answers) == 1

    def test_a_reply_that_is_cut_off_says_so(self, server):
        reply = client.ask(server.url, server.model, CAPITAL, max_tokens=2)
        assert (reply.finish_reason, reply.tokens) == ("length", 2)

    def test_a_wrong_name(self, server):
        with pytest.raises(ServingError, match=r"400.*pinned to.*Server\.model"):
            client.ask(server.url, "gpt-4o", CAPITAL)
