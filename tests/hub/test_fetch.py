"""The fetcher behind `hub.download`: cuts, faults, redirects and secrets, against a hub on loopback."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from functools import partial
from pathlib import Path

import httpx
import pytest
from hub_server import INFO, LISTING, REPO, REVISION, Fault, HubServer, git_sha1, move, seal, sha256
from hypothesis import given, settings
from hypothesis import strategies as st

from course_utils import hub
from course_utils.hub import DownloadError, download, fetch, repositories
from course_utils.hub.fetch import HubFile, SourceError

WEIGHTS = "model.safetensors"
FILES = {
    "config.json": b'{"model_type": "qwen3"}',
    "tokenizer.json": b"0123456789" * 60,
    WEIGHTS: hashlib.sha256(b"weights").digest() * 100,
}
SIZE = sum(map(len, FILES.values()))
SECRET = "hf_aSecretThatNobodyMaySee"


@pytest.fixture(autouse=True, scope="module")
def quick():
    """Waits that tests can afford."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fetch, "BACKOFF_SECONDS", 0.0)
        patch.setattr(fetch, "STALL_SECONDS", 0.3)
        seal(patch, Path(tempfile.mkdtemp()))
        patch.setenv("HF_TOKEN", SECRET)
        patch.setenv("MODELSCOPE_API_TOKEN", SECRET)
        yield


@pytest.fixture(scope="module")
def running():
    with HubServer(FILES) as server:
        yield server


@pytest.fixture
def server(running):
    """The module's server as new."""
    running.forget()
    running.files, running.stated = dict(FILES), {}
    return running


def get(server, folder, **options):
    return download(REPO, **({"endpoint": server.address, "models_dir": folder} | options))


def whole(folder: Path) -> bool:
    """Whether the folder is the model, all of it, and nothing but its lock lies beside it."""
    assert {path.name for path in folder.parent.iterdir()} == {folder.name, f".{folder.name}.lock"}
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != hub.RECORD} == FILES


def finished(folder: Path) -> set[str]:
    """The files that have their final names in a draft."""
    return {path.name for path in folder.rglob(".Qwen3-Tiny.*.part/*") if not path.name.endswith(fetch.PART)}


# ---- cuts


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(sorted(FILES)), st.just(0) | st.integers(0, 3300)), max_size=14))
def test_a_line_that_is_cut_anywhere_any_number_of_times_costs_no_byte_twice(running, cuts):
    running.forget()
    running.files = dict(FILES)
    running.faults = {file: [Fault(cut=at) for name, at in cuts if name == file] for file in FILES}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(len(cuts) + 1):
            there, seen = finished(Path(folder)), len(running.requests)
            try:
                result = get(running, folder)
            except DownloadError as error:
                assert "the connection" in str(error) and not (Path(folder) / REPO).exists()
            else:
                break
            finally:
                assert not there & {request.file for request in running.requests[seen:]}, "a whole file was asked for"
        assert whole(result)
        assert running.sent() == SIZE


def test_three_tries_without_a_byte_end_it_and_tries_with_bytes_do_not_count(server, tmp_path):
    server.faults[WEIGHTS] = [Fault(cut=1)] * 9 + [Fault(cut=0)] * 2 + [Fault(cut=1)] + [Fault(cut=0)] * 2
    assert whole(get(server, tmp_path))
    assert len(server.gets(WEIGHTS)) == 15 and server.sent() == SIZE
    assert [request.range for request in server.gets(WEIGHTS)][8:11] == ["bytes=8-", "bytes=9-", "bytes=9-"]


def test_a_server_without_ranges_that_always_cuts_is_given_up(server, tmp_path):
    server.faults[WEIGHTS] = Fault(cut=1000, ignore_range=True)
    with pytest.raises(DownloadError, match=rf"{WEIGHTS}: the connection broke"):
        get(server, tmp_path)
    assert len(server.gets(WEIGHTS)) == 1 + fetch.TRIES


def test_the_clients_start_a_broken_file_anew_and_we_do_not(server, tmp_path, monkeypatch):
    from huggingface_hub import snapshot_download

    def by_the_client():
        return snapshot_download(REPO, endpoint=server.address, local_dir=tmp_path / "client", token=False)

    def by_us():
        return get(server, tmp_path)

    again = {}
    for way in (by_the_client, by_us):
        server.forget()
        server.faults[WEIGHTS] = [Fault(cut=2000), Fault(status=404), Fault(status=404)]
        with pytest.raises(Exception):  # noqa: B017 (each has its own)
            way()
        server.forget()
        way()
        again[way] = [(request.range, request.sent) for request in server.gets(WEIGHTS)]
    assert again == {by_the_client: [(None, 3200)], by_us: [("bytes=2000-", 1200)]}


def test_what_one_hub_began_another_ends_and_the_record_says_so(server, tmp_path, monkeypatch):
    with HubServer(FILES) as mirror:
        mirror.faults[WEIGHTS] = [Fault(cut=1000), Fault(status=404)]
        monkeypatch.setenv("COURSE_SOURCES", "mirror,huggingface")
        move(monkeypatch, hub.ENDPOINTS, mirror.address, server.address, server.address)
        folder = download(REPO, models_dir=tmp_path)
    assert whole(folder)
    assert [(request.range, request.sent) for request in server.gets()] == [("bytes=1000-", 2200)]
    record = json.loads((folder / hub.RECORD).read_text(encoding="utf-8"))
    assert record["attempts"] == [
        {"source": "mirror", "endpoint": mirror.address, "outcome": f"{WEIGHTS}: HTTP 404: not there"},
        {"source": "huggingface", "endpoint": server.address, "outcome": "whole"},
    ]
    assert record["source"]["kind"] == "huggingface"


def test_after_ctrl_c_the_next_call_goes_on(server, tmp_path, monkeypatch):
    took = HubFile.matches

    def interrupted(file, path):
        if file.path == WEIGHTS:
            raise KeyboardInterrupt
        return took(file, path)

    monkeypatch.setattr(HubFile, "matches", interrupted)
    with pytest.raises(KeyboardInterrupt):
        get(server, tmp_path)
    monkeypatch.setattr(HubFile, "matches", took)
    assert finished(tmp_path) == {"config.json", "tokenizer.json"} and not (tmp_path / REPO).exists()
    assert whole(get(server, tmp_path))
    assert server.sent() == SIZE


def test_a_draft_of_other_files_is_not_used_and_goes_in_the_end(server, tmp_path):
    server.faults[WEIGHTS] = [Fault(cut=1000), Fault(status=404)]
    with pytest.raises(DownloadError):
        get(server, tmp_path)
    other = tmp_path / "Qwen" / ".Qwen3-Tiny.other.0123abcd.part"  # of a model whose name begins like this one's
    other.mkdir()
    changed = {file: FILES[file][::-1] for file in ("tokenizer.json", WEIGHTS)}  # other bytes of the same length
    server.files |= changed
    folder = get(server, tmp_path)
    assert all((folder / file).read_bytes() == body for file, body in changed.items())
    assert server.gets(WEIGHTS)[-1].range is None
    other.rmdir()
    assert sorted(path.name for path in folder.parent.iterdir()) == [".Qwen3-Tiny.lock", "Qwen3-Tiny"]


# ---- faults

WRONG = bytes(len(FILES[WEIGHTS]))
BRIEF = {  # one request meets it
    "cut": Fault(cut=100),
    "stall": Fault(stall=100),
    "slow": Fault(pace=20_000),
    "500": Fault(status=500),
    "503 with Retry-After": Fault(status=503, headers={"Retry-After": "0"}),
    "429": Fault(status=429, headers={"Retry-After": "0"}),
    "429 until a date": Fault(status=429, headers={"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}),
    "wrong hash": Fault(body=WRONG),
}


@pytest.mark.parametrize("source", ["huggingface", "modelscope"])
@pytest.mark.parametrize("fault", BRIEF)
def test_a_brief_fault_is_overcome(fault, source, server, tmp_path):
    server.faults[WEIGHTS] = [BRIEF[fault]]
    assert whole(get(server, tmp_path, source=source))


@pytest.mark.parametrize("fault", [Fault(cut=5), Fault(status=500), Fault(status=429, headers={"Retry-After": "0"})])
def test_a_brief_fault_of_the_listing_is_overcome(fault, server, tmp_path):
    server.faults[INFO] = [fault]
    assert whole(get(server, tmp_path))


LASTING = {
    "404": (Fault(status=404), "HTTP 404: not there", 1),
    "401": (Fault(status=401), "HTTP 401: gated, private, or not there. Accept the licence", 1),
    "403": (Fault(status=403), "or set HF_TOKEN", 1),
    "418": (Fault(status=418), "HTTP 418", 1),
    "500": (Fault(status=500), "HTTP 500: a fault of the hub", 3),
    "429": (Fault(status=429, headers={"Retry-After": "0"}), "HTTP 429: too many requests", 3),
    "429 for an hour": (Fault(status=429, headers={"Retry-After": "3600"}), "HTTP 429: the hub asks to wait 3600 s", 1),
    "stall": (Fault(stall=0), "no byte for 0 s", 3),
    "cut": (Fault(cut=0), "the connection broke (RemoteProtocolError)", 3),
    "wrong hash": (Fault(body=WRONG), "twice its hash was not the one that the hub states", 2),
    "too short": (Fault(body=b"short"), "HTTP 200 with '5', expected '3200'", 1),
    "too long": (Fault(body=bytes(4000)), "HTTP 200 with '4000', expected '3200'", 1),
    "too long, unsaid": (
        Fault(body=bytes(4000), headers={"Content-Length": "4000", "Content-Encoding": "identity"}),
        "more than the 3,200 bytes that the hub states came",
        1,
    ),
    "an unasked part": (Fault(status=206, headers={"Content-Range": "bytes 5-6/7"}), "expected 'bytes 0-3199/3200'", 1),
    "redirects in a circle": (Fault(redirect=f"/{REPO}/resolve/main/{WEIGHTS}"), "redirected more than 5 times", 6),
    "redirect to a file": (Fault(redirect="file:///etc/passwd"), "redirected from http to file", 1),
    "redirect to nowhere": (Fault(redirect="http://a:x/"), "the connection broke", 3),
}


@pytest.mark.parametrize("source", ["huggingface", "modelscope"])
@pytest.mark.parametrize("fault", LASTING)
def test_a_lasting_fault_ends_in_one_error_that_holds_no_secret(
    fault, source, server, tmp_path, monkeypatch, capfd, caplog
):
    monkeypatch.setitem(hub.ENDPOINTS, source, server.address)  # so that the token is sent
    server.faults[WEIGHTS], reason, requests = LASTING[fault]
    with pytest.raises(DownloadError) as caught:
        download(REPO, source=source, models_dir=tmp_path)
    message = str(caught.value)
    assert f"{source} ({server.address}): {WEIGHTS}: " in message and reason in message and "run this again" in message
    assert len(server.gets(WEIGHTS)) == requests
    assert {request.authorization for request in server.gets()} == {f"Bearer {SECRET}"}
    assert not (tmp_path / REPO).exists() and finished(tmp_path) == {"config.json", "tokenizer.json"}
    shown = "".join(traceback.format_exception(caught.value)) + repr(caught.value) + "".join(capfd.readouterr())
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert SECRET not in shown + caplog.text and SECRET.encode() not in written
    sent = server.sent()
    server.forget()
    folder = download(REPO, source=source, models_dir=tmp_path)
    assert whole(folder) and not {"config.json", "tokenizer.json"} & {request.file for request in server.gets()}
    assert SECRET not in (folder / hub.RECORD).read_text(encoding="utf-8") and sent < 20_000


@pytest.mark.parametrize(
    ("source", "listing"), [("huggingface", INFO), ("modelscope", LISTING)], ids=["huggingface", "modelscope"]
)
@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (Fault(status=404), "HTTP 404"),
        (Fault(status=401), "HTTP 401"),
        (Fault(status=403), "hf auth login"),
        (Fault(status=429, headers={"Retry-After": "3600"}), ""),
        (Fault(headers={"Content-Length": "3"}), ""),  # half a JSON text
    ],
)
def test_a_lasting_fault_of_the_listing_leaves_nothing(
    source, listing, fault, reason, server, tmp_path, monkeypatch, caplog
):
    monkeypatch.setitem(hub.ENDPOINTS, source, server.address)
    monkeypatch.setattr(repositories, "LISTING_SECONDS", 0.5)
    server.faults[listing] = fault
    with pytest.raises(DownloadError) as caught:
        download(REPO, source=source, models_dir=tmp_path)
    assert f"{source} ({server.address}): " in str(caught.value) and reason in str(caught.value)
    assert SECRET not in "".join(traceback.format_exception(caught.value)) + caplog.text
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("token", [f"{SECRET}é", f"{SECRET} x", f"{SECRET}\x01x"])
@pytest.mark.parametrize("source", ["huggingface", "modelscope"])
def test_a_token_that_is_none_is_refused_unseen(source, token, server, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", token)
    monkeypatch.setenv("MODELSCOPE_API_TOKEN", token)
    with pytest.raises(DownloadError, match="the token holds characters") as caught:
        get(server, tmp_path, source=source, send_token=True)
    assert SECRET not in "".join(traceback.format_exception(caught.value))
    assert not server.gets(INFO) + server.gets(LISTING)


def test_what_an_error_echoes_is_shown_without_the_token():
    echo = ValueError(f"bad token {SECRET}\nsecond line")
    assert fetch.words(echo, SECRET) == "ValueError: bad token ***" and fetch.words(KeyError()) == "KeyError"


def test_an_answer_that_starts_elsewhere_is_refused(server, tmp_path):
    elsewhere = Fault(headers={"Content-Range": "bytes 0-2199/3200"})
    server.faults[WEIGHTS] = [Fault(cut=1000), elsewhere]
    with pytest.raises(DownloadError, match="expected 'bytes 1000-3199/3200'"):
        get(server, tmp_path)
    assert whole(get(server, tmp_path)) and server.gets(WEIGHTS)[-1].range == "bytes=1000-"


def test_a_range_that_is_refused_is_asked_for_from_zero(server, tmp_path):
    server.faults[WEIGHTS] = [Fault(cut=1000), Fault(status=416)]
    assert whole(get(server, tmp_path))
    assert [request.range for request in server.gets(WEIGHTS)] == [None, "bytes=1000-", None]


def test_a_server_that_ignores_ranges_gives_the_file_once(server, tmp_path):
    server.faults[WEIGHTS] = [Fault(cut=1000), Fault(ignore_range=True)]
    assert whole(get(server, tmp_path))
    assert server.sent(WEIGHTS) == 1000 + len(FILES[WEIGHTS])


@pytest.mark.parametrize("size", [10, 3200, 5000])
def test_a_spoiled_part_file_is_thrown_away(size, server, tmp_path):
    server.faults[WEIGHTS] = [Fault(cut=1000), Fault(status=404)]
    with pytest.raises(DownloadError):
        get(server, tmp_path)
    [part] = tmp_path.rglob(f"*{fetch.PART}")
    part.write_bytes(bytes(size))
    assert whole(get(server, tmp_path))


def test_small_files_are_checked_by_gits_hash(server, tmp_path):
    server.faults["tokenizer.json"] = Fault(body=bytes(600))
    with pytest.raises(DownloadError, match=r"tokenizer\.json: twice its hash"):
        get(server, tmp_path)


def test_hashes_and_empty_files(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    (tmp_path / "b").write_bytes(b"")
    assert HubFile("a", 3, sha256=sha256(b"abc")).matches(tmp_path / "a")
    # What `git hash-object` says
    assert HubFile("a", 3, git_sha1="f2ba8f84ab5c1bce84a7b441cb1959cfc7093b7f").matches(tmp_path / "a")
    assert HubFile("b", 0, git_sha1="e69de29bb2d1d6434b8b29ae775ad8c2e48c5391").matches(tmp_path / "b")
    assert not HubFile("a", 3, sha256=sha256(b"abd")).matches(tmp_path / "a")
    assert not HubFile("a", 3, git_sha1=git_sha1(b"abd")).matches(tmp_path / "a")
    assert not HubFile("a", 4).matches(tmp_path / "a")


# ---- redirects


@pytest.mark.parametrize("source", ["huggingface", "modelscope"])
def test_another_host_gives_the_file_but_never_sees_the_token(source, server, tmp_path):
    with HubServer(FILES) as storage:
        server.faults[WEIGHTS] = Fault(redirect=storage.url(WEIGHTS) + "?signature=x")
        storage.faults[WEIGHTS] = [Fault(cut=1000)]
        assert whole(get(server, tmp_path, source=source, send_token=True))
        assert [request.range for request in server.gets(WEIGHTS)] == [None, "bytes=1000-"]
        assert storage.sent() == len(FILES[WEIGHTS])
        assert {request.authorization for request in server.gets()} == {f"Bearer {SECRET}"}
        assert {(request.authorization, request.cookie) for request in storage.requests} == {(None, None)}


@pytest.mark.parametrize(("source", "listing"), [("huggingface", INFO), ("modelscope", LISTING)])
def test_the_clients_do_not_carry_the_token_to_another_host(source, listing, server, tmp_path):
    with HubServer(FILES) as other:
        there = f"/api/models/{REPO}" if source == "huggingface" else f"/api/v1/models/{REPO}/repo/files"
        server.faults[listing] = Fault(redirect=other.address + there)
        assert whole(get(server, tmp_path, source=source, send_token=True))
        assert other.requests and not any(request.authorization for request in other.requests)


def test_a_redirect_from_https_to_http_is_refused(monkeypatch):
    def answer(request):
        if request.url.scheme == "https":
            return httpx.Response(302, headers={"Location": "http://a.example/file?key=secret"})
        return httpx.Response(200, content=b"abc")

    monkeypatch.setattr(httpx, "Client", partial(httpx.Client, transport=httpx.MockTransport(answer)))
    with fetch.client() as http, tempfile.TemporaryDirectory() as folder:
        with pytest.raises(SourceError, match=r"redirected from https to http \(a\.example\)") as caught:
            fetch.Transfer(http, "https://a.example/file", HubFile("file", 3), Path(folder), {}, lambda _: None).run()
        assert "secret" not in str(caught.value) and list(Path(folder).iterdir()) == []


# ---- several processes

SCRIPT = """
import sys
from course_utils import hub
print(hub.download(sys.argv[1], endpoint=sys.argv[2], models_dir=sys.argv[3]))
"""


def start(server, folder):
    command = [sys.executable, "-c", SCRIPT, REPO, server.address, str(folder)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_two_processes_at_once_give_one_whole_folder(server, tmp_path):
    server.faults[WEIGHTS] = Fault(pace=1500)  # long enough for the other to come
    processes = [start(server, tmp_path) for _ in range(2)]
    said = [process.communicate(timeout=60) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    assert {out.strip() for out, _ in said} == {str(tmp_path / REPO)}
    assert whole(tmp_path / REPO)
    assert len(server.gets(INFO)) == 2 and server.sent() == SIZE, "the payload was sent more than once"


@pytest.mark.skipif(os.name == "nt", reason="signals are those of Unix")
def test_a_killed_process_leaves_no_lock_and_its_bytes(server, tmp_path):
    server.faults[WEIGHTS] = [Fault(pace=1000)]
    process = start(server, tmp_path)
    deadline = time.monotonic() + 30
    while server.sent(WEIGHTS) < 500 and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert whole(get(server, tmp_path))
    assert int(server.gets(WEIGHTS)[1].range.removeprefix("bytes=").removesuffix("-")) >= 400
    process.communicate()


# ---- the server itself, with the real clients


def test_the_real_clients_talk_to_the_server(server, tmp_path):
    from huggingface_hub import HfApi, hf_hub_download, snapshot_download
    from modelscope_hub import HubApi

    info = HfApi(endpoint=server.address, token=False).model_info(REPO, files_metadata=True)
    assert info.sha == REVISION and {item.rfilename: item.size for item in info.siblings} == {
        file: len(body) for file, body in FILES.items()
    }
    folder = tmp_path / "snapshot"
    snapshot_download(REPO, endpoint=server.address, local_dir=folder, token=False)
    one = hf_hub_download(REPO, WEIGHTS, endpoint=server.address, cache_dir=tmp_path / "cache", token=False)
    assert Path(one).read_bytes() == FILES[WEIGHTS]
    other = HubApi(endpoint=server.address, token="").download_repo(REPO, "model", local_dir=tmp_path / "modelscope")
    for place in (folder, Path(other)):
        assert all((place / file).read_bytes() == body for file, body in FILES.items())
