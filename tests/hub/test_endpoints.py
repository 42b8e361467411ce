"""Which hubs are asked, in which order and when they count as out of reach; variables that came too late."""

import json
import os
import subprocess
import sys
import time
from contextlib import ExitStack

import httpx
import pytest
from hub_server import INFO, LISTING, REPO, ROOT, Fault, HubServer, left, refusing_address, silent_address

from course_utils import hub
from course_utils.hub import DownloadError, download
from course_utils.hub.repositories import ORDER_VARIABLE

FILES = {"config.json": b"{}", "model.safetensors": bytes(100)}
NOBODY = refusing_address()


pytestmark = pytest.mark.usefixtures("sealed")


@pytest.fixture
def server():
    with HubServer(FILES) as running:
        yield running


# ---- who answers


def test_reachable_asks_all_at_once_and_names_reasons(server, endpoints):
    with silent_address() as silent:
        endpoints(silent, server.address, NOBODY)
        begun = time.monotonic()
        found = hub.reachable(seconds=0.5)
        assert time.monotonic() - begun < 3
    assert list(found) == ["huggingface", "mirror", "modelscope"], "who answers comes first"
    assert found["huggingface"] is None
    assert "ReadTimeout" in found["mirror"] or found["mirror"] == "no answer in time"
    assert found["modelscope"].startswith("ConnectError")


def test_a_hub_that_redirects_answers_wherever_it_leads(server, endpoints):
    server.faults[ROOT] = Fault(redirect=NOBODY)
    endpoints(server.address, server.address, server.address)
    assert set(hub.reachable().values()) == {None}


def test_reachable_does_not_wait_for_a_name_server(endpoints, monkeypatch):
    endpoints(NOBODY, NOBODY, NOBODY)
    # As a lookup that hangs, which no timeout ends
    monkeypatch.setattr(httpx, "head", lambda *_, **__: time.sleep(5))
    begun = time.monotonic()
    assert set(hub.reachable(seconds=0.2).values()) == {"no answer in time"}
    assert time.monotonic() - begun < 4


# ---- order, variables


def probes(*servers):
    """How often the hubs were asked the first short question."""
    return sum(request.file == ROOT for server in servers for request in server.requests)


class Slow(HubServer):
    """A hub that answers the first short question late, and has no model."""

    def __init__(self, seconds):
        super().__init__({"README.md": b""})
        self.seconds = seconds

    def _record(self, request):
        fault = super()._record(request)
        if request.file == ROOT:
            time.sleep(self.seconds)
        return fault


def asked(folder):
    """The hubs that a download asked, in order."""
    return [each["source"] for each in json.loads((folder / hub.RECORD).read_text(encoding="utf-8"))["attempts"]]


def test_hubs_are_asked_in_the_order_in_which_they_answer_and_the_question_comes_once(tmp_path, endpoints):
    with Slow(0.8) as mirror, Slow(0.4) as huggingface, Slow(0) as modelscope:
        endpoints(mirror.address, huggingface.address, modelscope.address)
        with pytest.raises(DownloadError) as caught:
            download(REPO, models_dir=tmp_path)
        tried = [line.split()[0] for line in str(caught.value).splitlines() if line.startswith("  ")]
        assert tried == ["modelscope", "huggingface", "mirror"]
        mirror.files = FILES  # the last one has it now; where it stands in the order is remembered
        assert asked(download(REPO, models_dir=tmp_path)) == tried
        assert probes(mirror, huggingface, modelscope) == 3


def test_one_that_answers_is_not_kept_waiting_for_a_slow_one(server, tmp_path, endpoints):
    with Slow(3) as mirror:
        endpoints(mirror.address, NOBODY, server.address)
        begun = time.monotonic()
        assert asked(download(REPO, models_dir=tmp_path)) == ["modelscope"]
        assert time.monotonic() - begun < 2.5


def test_a_hub_that_gave_no_answer_is_asked_all_the_same_after_the_others(server, tmp_path, endpoints, monkeypatch):
    """As behind a firewall that lets no HEAD through."""
    monkeypatch.setattr(httpx, "head", lambda address, **_: 1 / 0 if address == server.address else None)
    with Slow(0) as modelscope:
        endpoints(NOBODY, server.address, modelscope.address)
        tried = asked(download(REPO, models_dir=tmp_path))
    assert tried[-1] == "huggingface" and set(tried) == {"mirror", "modelscope", "huggingface"}


def test_no_question_where_the_source_is_named_or_the_model_is_there(server, tmp_path, endpoints):
    endpoints(server.address, server.address, server.address)
    download(REPO, source="huggingface", models_dir=tmp_path)
    download(REPO, models_dir=tmp_path)
    download(REPO, endpoint=server.address, models_dir=tmp_path / "other")
    assert probes(server) == 0


def test_on_colab_huggingface_comes_first_without_a_question(server, tmp_path, endpoints, monkeypatch):
    monkeypatch.setenv("COLAB_RELEASE_TAG", "release-colab_20260801")
    endpoints(NOBODY, server.address, NOBODY)
    assert asked(download(REPO, models_dir=tmp_path)) == ["huggingface"]
    server.faults[INFO] = Fault(status=404)
    with HubServer(FILES) as mirror:
        endpoints(mirror.address, server.address, mirror.address)
        assert asked(download(REPO, models_dir=tmp_path / "other")) == ["huggingface", "mirror"]
        assert probes(server, mirror) == 0


def test_the_order_comes_from_the_variable(server, tmp_path, endpoints, monkeypatch):
    monkeypatch.setenv(ORDER_VARIABLE, " modelscope, mirror ")
    with ExitStack() as stack:
        mirror, huggingface = (stack.enter_context(HubServer(FILES)) for _ in range(2))
        server.faults[LISTING] = Fault(status=404)
        endpoints(mirror.address, huggingface.address, server.address)
        assert asked(download(REPO, models_dir=tmp_path)) == ["modelscope", "mirror"]
        assert not huggingface.requests
        assert not probes(server, mirror), "an order that is given needs no question"


@pytest.mark.parametrize("value", ["mirror,github", "wheel", "auto"])
def test_an_unknown_name_in_the_order_is_refused(value, tmp_path, monkeypatch):
    monkeypatch.setenv(ORDER_VARIABLE, value)
    with pytest.raises(DownloadError, match=rf"COURSE_SOURCES names {value.split(',')[-1]}\. It is a list of mirror"):
        download(REPO, models_dir=tmp_path)


@pytest.mark.parametrize(
    "address",
    [
        "hf-mirror.com",
        "ftp://a.example",
        "https://me:pass@a.example",
        "https://me:a/pass@b.example",
        "https://a.example/?key=pass@",
        "https://",
        "https://[",
        "https://a.example:port",
    ],
)
def test_an_endpoint_that_is_none_is_refused_unseen(address, tmp_path, monkeypatch):
    with pytest.raises(DownloadError, match="is an http or https address") as caught:
        download(REPO, endpoint=address, models_dir=tmp_path)
    assert "pass@" not in str(caught.value)
    monkeypatch.setenv("HF_ENDPOINT", address)
    with pytest.raises(DownloadError, match="is an http or https address"):
        download(REPO, models_dir=tmp_path)
    assert not any("pass@" in str(variable) for variable in hub.late_variables())


def in_a_new_process(code: str, *arguments: str, **variables: str) -> str:
    """What a script prints in a process of its own, with these variables set from the start."""
    gone = {"HF_ENDPOINT", "HF_HOME", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", ORDER_VARIABLE}
    kept = {key: value for key, value in os.environ.items() if key not in gone}
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, env=kept | variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


FETCH = "\nfrom course_utils import hub\ntry: print(hub.download(sys.argv[1], models_dir=sys.argv[2]))"
FETCH += "\nexcept hub.DownloadError as error: print(error)"
SET = "import os, sys\nos.environ['HF_ENDPOINT'] = sys.argv[3]\n"
IMPORT = "import sys, huggingface_hub.constants\n"


@pytest.mark.parametrize("code", [SET, SET + IMPORT], ids=["before our import", "before the library's import"])
def test_hf_endpoint_set_in_time_is_the_mirror(code, server, tmp_path):
    said = in_a_new_process(code + FETCH, REPO, str(tmp_path), server.address)
    assert said == str(tmp_path / REPO)
    record = json.loads((tmp_path / REPO / hub.RECORD).read_text(encoding="utf-8"))
    assert (record["source"]["kind"], record["source"]["endpoint"]) == ("mirror", server.address)


def test_hf_endpoint_set_too_late_is_an_error_that_names_the_way_out(server, tmp_path):
    said = in_a_new_process(IMPORT + SET + FETCH, REPO, str(tmp_path), server.address)
    assert f"HF_ENDPOINT was set to {server.address} after huggingface_hub was imported" in said
    assert "goes on with https://huggingface.co" in said and "endpoint=" in said
    assert not server.requests and left(tmp_path) == []
    with_endpoint = FETCH.replace("sys.argv[2])", "sys.argv[2], endpoint=sys.argv[3])")
    assert in_a_new_process(IMPORT + SET + with_endpoint, REPO, str(tmp_path), server.address) == str(tmp_path / REPO)


def test_late_variables_are_found(tmp_path):
    code = """
import os, sys
from course_utils import hub
os.environ["HF_HOME"] = "/early"
print(hub.late_variables())
import huggingface_hub.constants
print(hub.late_variables())
os.environ |= {"HF_ENDPOINT": "https://me:word@a.example/", "HF_HOME": "/late", "HF_HUB_OFFLINE": "1"}
print([(late.name, late.environment, late.held) for late in hub.late_variables()])
"""
    first, second, third = in_a_new_process(code).splitlines()
    assert first == second == "[]"
    assert third == str(
        [
            ("HF_ENDPOINT", "https://***@a.example/", "https://huggingface.co"),
            ("HF_HOME", "/late", "/early"),
            ("HF_HUB_OFFLINE", "1", "False"),
        ]
    )


@pytest.mark.parametrize("source", ["auto", "modelscope"])
def test_offline_means_that_nobody_is_asked(source, server, tmp_path, monkeypatch):
    import huggingface_hub.constants

    def refused():
        with pytest.raises(DownloadError, match="HF_HUB_OFFLINE is in force"):
            download(REPO, source=source, endpoint=server.address, models_dir=tmp_path)

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    refused()
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    refused()
    assert not server.requests and left(tmp_path) == []
