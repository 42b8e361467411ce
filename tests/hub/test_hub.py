"""Models from the hubs: the real clients, against a server on loopback."""

import json
import shutil
import subprocess
import sys
import time
from collections import namedtuple

import httpx
import pytest
from hub_server import (
    INFO,
    LISTING,
    REPO,
    REVISION,
    Fault,
    HubServer,
    left,
    refusing_address,
    sha256,
    silent_address,
)

from course_utils import hub
from course_utils.hub import DownloadError, download, fetch, repositories, snapshots

NOBODY = refusing_address()
FILES = {
    "config.json": b'{"model_type": "qwen3"}',
    "tokenizer_config.json": b"{}",
    "chat_template.jinja": b"{{ messages }}",
    "additional_chat_templates/tools.jinja": b"{{ tools }}",
    "merges.txt": b"a b",
    "LICENSE": b"mit",
    "model.safetensors": bytes(range(256)) * 40,
}
UNNEEDED = {
    "README.md": b"# hello",
    "pytorch_model.bin": b"pickle",
    "onnx/model.safetensors": b"1",
    "original/params.json": b"{}",
    "model.gguf": b"2",
    "LICENSE.incomplete": b"3",
    hub.RECORD: b"{}",
}


pytestmark = pytest.mark.usefixtures("sealed")


@pytest.fixture
def server():
    with HubServer(FILES | UNNEEDED) as running:
        yield running


# ---- what is asked, and who sees the token


@pytest.mark.parametrize("source", ["auto", "mirror", "huggingface", "modelscope"])
def test_a_hub_id_arrives_whole_and_only_what_is_needed(source, server, tmp_path):
    folder = download(REPO, source=source, endpoint=server.address, models_dir=tmp_path)
    assert folder == tmp_path / "Qwen" / "Qwen3-Tiny"
    there = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert there == {*FILES, hub.RECORD}
    assert all((folder / file).read_bytes() == body for file, body in FILES.items())
    assert {request.file for request in server.gets()} == set(FILES)
    record = json.loads((folder / hub.RECORD).read_text(encoding="utf-8"))
    assert record["source"]["endpoint"] == server.address
    assert record["sha256"]["model.safetensors"] == sha256(FILES["model.safetensors"])
    assert left(tmp_path / "Qwen") == ["Qwen3-Tiny"]
    assert not any(request.authorization for request in server.requests), "a token went to a strange host"
    before = len(server.requests)
    assert download(REPO, models_dir=tmp_path) == folder
    assert len(server.requests) == before


def test_auto_takes_the_hub_that_answers(server, tmp_path, endpoints):
    endpoints(NOBODY, server.address, NOBODY)
    folder = download(REPO, models_dir=tmp_path)
    record = json.loads((folder / hub.RECORD).read_text(encoding="utf-8"))
    assert record["source"] == {"kind": "huggingface", "endpoint": server.address, "revision": REVISION}
    assert record["licence"] == "mit"
    assert [attempt["source"] for attempt in record["attempts"]] == ["huggingface"]


def test_a_hub_that_answers_is_used_before_a_silent_one_is_given_up(server, tmp_path, endpoints):
    with silent_address() as silent:
        endpoints(server.address, silent, silent)
        begun = time.monotonic()
        download(REPO, models_dir=tmp_path)
        assert time.monotonic() - begun < 3.5


def test_the_token_goes_to_huggingface_only(server, tmp_path, endpoints, monkeypatch):
    monkeypatch.setenv("COURSE_SOURCES", "mirror,huggingface")
    with HubServer(FILES) as mirror:
        mirror.faults["model.safetensors"] = Fault(status=404)
        endpoints(mirror.address, server.address, NOBODY)
        download(REPO, models_dir=tmp_path)
        assert {request.authorization for request in mirror.requests} == {None}
    told = {request.authorization for request in server.requests if request.file != "/"}
    assert told == {"Bearer hf_a_secret"}


@pytest.mark.parametrize("source", ["mirror", "huggingface", "modelscope"])
def test_a_token_goes_to_another_address_only_when_asked(source, server, tmp_path, monkeypatch):
    monkeypatch.setenv("MODELSCOPE_API_TOKEN", "ms_a_secret")
    download(REPO, source=source, endpoint=server.address, models_dir=tmp_path / "a")
    assert {(request.authorization, request.cookie) for request in server.requests} == {(None, None)}
    server.forget()
    download(REPO, source=source, endpoint=server.address, models_dir=tmp_path / "b", send_token=True)
    secret = "ms_a_secret" if source == "modelscope" else "hf_a_secret"
    assert {request.authorization for request in server.requests if request.file != "/"} == {f"Bearer {secret}"}


def test_a_listing_shows_no_token(server):
    listing = repositories.list_files(repositories.MODEL, REPO, "huggingface", server.address, send_token=True)
    assert "hf_a_secret" in str(listing.secret) and "hf_a_secret" not in repr(listing)


def test_when_all_hubs_fail_each_reason_is_given_quickly(server, tmp_path, endpoints):
    with silent_address() as silent:
        endpoints(NOBODY, server.address, silent)
        begun = time.monotonic()
        with pytest.raises(DownloadError) as caught:
            download("Qwen/Nowhere", models_dir=tmp_path)
        took = time.monotonic() - begun
    message = str(caught.value)
    assert f"mirror ({NOBODY}): ConnectError" in message
    assert f"huggingface ({server.address}): HTTP 404: not there" in message
    assert f"modelscope ({silent}): " in message and ("ReadTimeout" in message or "no list of files in time" in message)
    assert "by hand" in message and took < 15
    assert left(tmp_path) == []


def test_with_every_hub_out_of_reach_a_model_on_disk_loads_and_another_fails_soon(tmp_path, endpoints):
    with silent_address() as silent:
        endpoints(silent, NOBODY, silent)
        begun = time.monotonic()
        with pytest.raises(DownloadError, match=r"(?s)mirror .*huggingface .*modelscope "):
            download(REPO, models_dir=tmp_path)
        assert time.monotonic() - begun < 15
        (tmp_path / REPO).mkdir(parents=True)
        (tmp_path / REPO / "config.json").write_text("{}", encoding="utf-8")
        begun = time.monotonic()
        assert download(REPO, models_dir=tmp_path) == tmp_path / REPO
        assert time.monotonic() - begun < 1


@pytest.mark.parametrize(("source", "listing"), [("mirror", INFO), ("modelscope", LISTING)])
def test_a_listing_that_never_comes_is_given_up(source, listing, server, tmp_path, monkeypatch):
    monkeypatch.setattr(repositories, "LISTING_SECONDS", 0.5)
    server.faults[listing] = Fault(stall=0)
    with pytest.raises(DownloadError, match="no list of files in time"):
        download(REPO, source=source, endpoint=server.address, models_dir=tmp_path)


# ---- what is taken


def test_a_config_comes_without_the_weights_and_leaves_nothing(server, tmp_path, endpoints, monkeypatch):
    monkeypatch.setenv("COURSE_HOME", str(tmp_path))
    endpoints(server.address, server.address, server.address)
    assert hub.model_config(REPO) == {"model_type": "qwen3"}
    assert [request.file for request in server.gets()] == ["config.json"] and left(tmp_path) == []
    download(REPO)
    server.forget()
    assert hub.model_config(REPO) == {"model_type": "qwen3"} and not server.requests
    with pytest.raises(DownloadError, match=f"into {tmp_path}/models/Qwen/Nowhere by hand"):
        hub.model_config("Qwen/Nowhere")


def test_of_the_weights_those_are_taken_that_the_index_names(server, tmp_path):
    shards = {f"model-0000{number}-of-00002.safetensors": bytes([number]) * 5000 for number in (1, 2)}
    index = json.dumps({"weight_map": dict(zip("abc", [*shards, *shards], strict=False))}).encode()
    server.files |= {**shards, snapshots.WEIGHTS_INDEX: index, "consolidated.safetensors": bytes(9000)}
    folder = download(REPO, endpoint=server.address, models_dir=tmp_path)
    assert {path.name for path in folder.glob("*.safetensors")} == set(shards)
    assert set(json.loads((folder / hub.RECORD).read_text(encoding="utf-8"))["sha256"]) == set(shards)
    assert len(server.gets(snapshots.WEIGHTS_INDEX)) == 1


@pytest.mark.parametrize(
    "index",
    [
        b"[]",
        b"{",
        b'{"weight_map": {"a": "../up.safetensors"}}',
        b'{"weight_map": {"a": "config.json"}}',
        b'{"weight_map": {"a": ["x"]}}',
    ],
)
def test_an_index_that_names_no_weights_is_refused(index, server, tmp_path):
    server.files[snapshots.WEIGHTS_INDEX] = index
    with pytest.raises(DownloadError, match=r"model\.safetensors\.index\.json"):
        download(REPO, endpoint=server.address, models_dir=tmp_path)
    assert not (tmp_path / REPO).exists()


@pytest.mark.parametrize("source", ["mirror", "modelscope"])
@pytest.mark.parametrize(
    "file",
    [
        "../evil.json",
        "/etc/evil.json",
        "a/../../evil.json",
        "a//evil.json",
        "..\\evil.json",
        "c:evil.json",
        "./evil.json",
        "evil.json/",
        "..",
        "additional_chat_templates/../../evil.jinja",
        "evil\n.json",
        "evil\x00.json",
    ],
)
def test_a_listing_that_leads_out_of_the_folder_is_refused(file, source, server, tmp_path):
    server.files[file] = b"evil"
    with pytest.raises(DownloadError, match="which could lead out of the folder"):
        download(REPO, source=source, endpoint=server.address, models_dir=tmp_path)
    assert not server.gets() and left(tmp_path) == []


def test_a_file_without_a_size_is_refused(server, tmp_path):
    server.stated["merges.txt"] = {"size": None}
    with pytest.raises(DownloadError, match=r"the hub states no size of merges\.txt"):
        download(REPO, endpoint=server.address, models_dir=tmp_path)


@pytest.mark.parametrize("missing", [0, 2**20])
def test_a_hub_model_without_room_is_reported_before_the_download(missing, server, tmp_path, monkeypatch):
    server.files["model.safetensors"] = bytes(3 * 2**20)
    usage = namedtuple("usage", "total used free")
    enough = int(1.2 * 3 * 2**20)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**12, 10**12, missing or enough))
    if not missing:
        assert download(REPO, endpoint=server.address, models_dir=tmp_path).is_dir()
        return
    with pytest.raises(DownloadError, match=r"no room for Qwen/Qwen3-Tiny: 3 MiB are needed and 1 MiB are free"):
        download(REPO, endpoint=server.address, models_dir=tmp_path)
    assert not server.gets() and left(tmp_path / "Qwen") == []


def test_room_is_counted_for_what_is_missing_and_for_the_named_weights(server, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(fetch, "check_room", lambda folder, needed, what: asked.append(needed))
    server.files["consolidated.safetensors"] = bytes(9000)
    server.files[snapshots.WEIGHTS_INDEX] = b'{"weight_map": {"a": "model.safetensors"}}'
    server.faults["model.safetensors"] = [Fault(cut=240), Fault(status=404)]
    with pytest.raises(DownloadError):
        download(REPO, endpoint=server.address, models_dir=tmp_path)
    assert asked == [sum(map(len, FILES.values()))]
    download(REPO, endpoint=server.address, models_dir=tmp_path)
    assert asked[1:] == [10000]


def test_a_folder_that_cannot_be_written_is_the_disks_fault_not_the_hubs(server, tmp_path):
    (tmp_path / "Qwen").write_text("a file in the way", encoding="utf-8")
    with pytest.raises(DownloadError, match=r"Could not write Qwen/Qwen3-Tiny below"):
        download(REPO, endpoint=server.address, models_dir=tmp_path)


def test_weights_that_are_pickles_are_refused(server, tmp_path):
    del server.files["model.safetensors"], server.files["onnx/model.safetensors"]
    with pytest.raises(DownloadError, match="pickles only"):
        download(REPO, endpoint=server.address, models_dir=tmp_path)


def test_the_bar_counts_bytes_from_what_is_there(server, tmp_path, monkeypatch):
    server.faults["model.safetensors"] = [Fault(cut=240), Fault(status=404)]
    with pytest.raises(DownloadError):
        download(REPO, endpoint=server.address, models_dir=tmp_path)
    bars = []

    class Bar(snapshots.tqdm):
        def close(self):
            if not bars:
                bars.append((self.desc, self.initial, self.n, self.total))
            super().close()

    monkeypatch.setattr(snapshots, "tqdm", Bar)
    download(REPO, source="huggingface", endpoint=server.address, models_dir=tmp_path)
    size = sum(map(len, FILES.values()))
    assert bars == [(f"{REPO} from huggingface", size - 10000, size, size)]


# ---- the server itself


def test_the_server_serves_a_folder(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    (tmp_path / "sub" / "x.json").write_text("[]", encoding="utf-8")
    with HubServer(tmp_path, repo="a/b") as server:
        answer = httpx.get(f"{server.address}/a/b/resolve/main/sub/x.json", headers={"Range": "bytes=1-"})
        assert (answer.status_code, answer.content, answer.headers["Content-Range"]) == (206, b"]", "bytes 1-1/2")
        assert httpx.get(f"{server.address}/a/b/resolve/main/none").status_code == 404
    assert server.requests[0].sent == 1


# ---- imports


def test_importing_the_hub_is_light():
    heavy = "{'torch', 'transformers', 'huggingface_hub', 'modelscope_hub', 'trl', 'httpx', 'requests'}"
    code = f"import sys, course_utils.hub; sys.exit(repr({heavy} & set(sys.modules) or ''))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.strip() in {"", "''"}, done.stderr
