"""Data sets from the hubs: the real clients and the real `datasets`, against a server on loopback."""

import io
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hub_server import INFO, LISTING, REVISION, TREE, Fault, HubServer, refusing_address, sha256

from course_utils import hub
from course_utils.hub import DownloadError, download_dataset, fetch, repositories

REPO = "owner/chats"
RECORD = ".SOURCE.json"
NOBODY = refusing_address()


def jsonl(*rows: dict) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def parquet(*rows: dict) -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(list(rows)), out)
    return out.getvalue()


HEADER = """---
license:
- cc-by-4.0
configs:
- config_name: chat
  default: true
  data_files:
  - {split: train, path: chat/train/*.jsonl}
  - {split: test, path: chat/test/*.jsonl}
- config_name: table
  data_dir: table
---
# Chats
"""
FILES = {
    "README.md": HEADER.encode(),
    "LICENSE": b"cc-by-4.0",
    "chat/train/a.jsonl": jsonl({"text": "你好"}, {"text": "two"}),
    "chat/train/b c.jsonl": jsonl({"text": "three"}),
    "chat/test/a.jsonl": jsonl({"text": "four"}),
    "table/train-00000-of-00001.parquet": parquet(*({"number": n} for n in range(500))),
    "table/validation-00000-of-00001.parquet": parquet({"number": -1}),
    "notes.txt": b"n",
    "extra/rows.csv": b"a\n1\n",
    "extra/rows.json": b"[]",
}
UNNEEDED = {
    "chats.py": b"raise SystemExit",
    "extra/rows.pkl": b"pickle",
    "extra/rows.jsonl.gz": b"1",
    "chat.zip": b"2",
    "table/rows.arrow": b"3",
    ".gitattributes": b"4",
    RECORD: b"{}",
}
TABLE = "table/train-00000-of-00001.parquet"


@pytest.fixture(autouse=True)
def logged_in(sealed, monkeypatch):
    """ModelScope's token, beside HuggingFace's."""
    monkeypatch.setenv("MODELSCOPE_API_TOKEN", "ms_a_secret")


@pytest.fixture
def server():
    with HubServer(FILES | UNNEEDED, REPO, "dataset") as running:
        yield running


def get(server, folder, **options):
    return download_dataset(REPO, **({"endpoint": server.address, "datasets_dir": folder} | options))


def contents(folder):
    """Every file of a folder but the record."""
    files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return {path: body for path, body in files.items() if path != RECORD}


def record(folder):
    return json.loads((folder / RECORD).read_text(encoding="utf-8"))


# ---- what comes


@pytest.mark.parametrize("source", ["auto", "mirror", "huggingface", "modelscope"])
def test_a_data_set_arrives_whole_and_only_what_is_needed(source, server, tmp_path):
    folder = get(server, tmp_path, source=source)
    assert folder == tmp_path / REPO and contents(folder) == FILES
    assert sorted(request.file for request in server.gets()) == sorted(FILES)
    assert not any(request.authorization for request in server.requests), "a token went to a strange host"
    assert {path.name for path in folder.parent.iterdir()} == {"chats", ".chats.lock"}
    said = record(folder)
    assert said["name"] == REPO and said["sha256"][TABLE] == sha256(FILES[TABLE])
    assert (said["source"]["revision"], said["licence"]) == (
        ("master", None) if source == "modelscope" else (REVISION, "mit")
    )


def test_a_second_call_asks_nothing(server, tmp_path):
    folder = get(server, tmp_path)
    server.forget()
    assert get(server, tmp_path) == folder and not server.requests


def test_the_addresses_are_those_of_data_sets(server, tmp_path):
    get(server, tmp_path / "a", source="huggingface")
    get(server, tmp_path / "b", source="modelscope")
    asked = [request.path for request in server.requests if request.path != "/"]
    assert f"/api/datasets/{REPO}/revision/main?blobs=true" in asked
    assert f"/datasets/{REPO}/resolve/{REVISION}/chat/train/b%20c.jsonl" in asked
    assert f"/api/v1/datasets/{REPO}/repo?Revision=master&FilePath=chat%2Ftrain%2Fb+c.jsonl" in asked
    tree = f"/api/v1/datasets/{REPO}/repo/tree?Revision=master&Recursive=True&PageNumber=1&PageSize=200"
    assert tree in asked and len(asked) == 2 * (len(FILES) + 1)


def test_a_model_of_the_same_name_is_another_repository(server, tmp_path):
    with pytest.raises(DownloadError, match="HTTP 404: not there"):
        hub.download(REPO, endpoint=server.address, models_dir=tmp_path)


def test_the_token_goes_to_huggingface_only(server, tmp_path, endpoints, monkeypatch):
    monkeypatch.setenv("COURSE_SOURCES", "mirror,huggingface")
    with HubServer(FILES, REPO, "dataset") as mirror:
        mirror.faults[TABLE] = Fault(status=404)
        endpoints(mirror.address, server.address, NOBODY)
        download_dataset(REPO, datasets_dir=tmp_path)
        assert {request.authorization for request in mirror.requests} == {None}
    assert {request.authorization for request in server.requests if request.file != "/"} == {"Bearer hf_a_secret"}


# ---- long lists


def test_modelscope_lists_a_data_set_page_by_page_and_silently(server, tmp_path, caplog, capfd):
    server.files |= {f"rows/{number}.txt": b"" for number in range(400)}
    folder = get(server, tmp_path, source="modelscope")
    assert len(contents(folder)) == len(FILES) + 400 and len(server.gets(LISTING)) == 3
    assert "Listing" not in caplog.text + capfd.readouterr().err


def test_a_long_list_of_huggingface_is_asked_for_anew_as_a_tree(server, tmp_path, monkeypatch):
    monkeypatch.setattr(repositories, "MANY_FILES", len(FILES))
    assert contents(get(server, tmp_path)) == FILES
    assert len(server.gets(INFO)) == len(server.gets(TREE)) == 1
    assert f"/tree/{REVISION}" in server.gets(TREE)[0].path


# ---- cuts, and the next hub


@pytest.mark.parametrize("source", ["huggingface", "modelscope"])
def test_a_cut_line_costs_no_byte_twice(source, server, tmp_path):
    server.faults[TABLE] = [Fault(cut=700), Fault(cut=300), *[Fault(cut=0)] * fetch.TRIES]
    with pytest.raises(DownloadError, match=f"{TABLE}: the connection broke"):
        get(server, tmp_path, source=source)
    assert not (tmp_path / REPO).exists()
    assert contents(get(server, tmp_path, source=source)) == FILES
    assert [request.range for request in server.gets(TABLE)][-1] == "bytes=1000-"
    assert server.sent() == sum(map(len, FILES.values()))


@pytest.mark.parametrize("fault", [{}, {INFO: Fault(status=401)}, {TABLE: Fault(status=404)}], ids=str)
def test_where_the_mirror_fails_the_next_hub_gives_it(fault, server, tmp_path, endpoints, monkeypatch):
    monkeypatch.setenv("COURSE_SOURCES", "mirror,huggingface,modelscope")
    with HubServer(FILES, REPO, "dataset") as mirror:
        mirror.faults |= fault
        first = mirror.address if fault else NOBODY
        endpoints(first, NOBODY, server.address)
        folder = download_dataset(REPO, datasets_dir=tmp_path)
    assert contents(folder) == FILES
    assert [attempt["source"] for attempt in record(folder)["attempts"]] == ["mirror", "huggingface", "modelscope"]
    assert record(folder)["source"]["kind"] == "modelscope" and record(folder)["attempts"][2]["outcome"] == "whole"


def test_a_wrong_hash_is_refused(server, tmp_path):
    server.faults["chat/test/a.jsonl"] = Fault(body=bytes(len(FILES["chat/test/a.jsonl"])))
    with pytest.raises(DownloadError, match=r"chat/test/a\.jsonl: twice its hash was not the one"):
        get(server, tmp_path)


def test_two_at_once_give_one_whole_folder(server, tmp_path):
    server.faults[TABLE] = Fault(pace=6000)  # long enough for the other to come
    with ThreadPoolExecutor() as pool:
        assert len(set(pool.map(lambda _: get(server, tmp_path), range(2)))) == 1
    assert contents(tmp_path / REPO) == FILES and server.sent() == sum(map(len, FILES.values()))


# ---- what is refused


@pytest.mark.parametrize("source", ["huggingface", "modelscope"])
def test_a_repository_with_only_a_script_is_refused(source, server, tmp_path):
    server.files = {name: b"{}" for name in ("chats.py", "dataset_infos.json", "README.md", "LICENSE.txt", "chat.zip")}
    with pytest.raises(DownloadError, match=r"a script \(chats\.py\), and `datasets` 4 runs no scripts"):
        get(server, tmp_path, source=source)
    assert not server.gets() and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("files", [[], ["README.md"], ["chat.zip", "rows.jsonl.gz", "LICENSE"], ["a.arrow"]], ids=str)
def test_a_repository_without_rows_is_refused(files, server, tmp_path):
    server.files = dict.fromkeys(files, b"1")
    with pytest.raises(
        DownloadError, match=r"holds no data file \(\*\.jsonl.*archives are not fetched\); look for"
    ) as caught:
        get(server, tmp_path)
    assert "script" not in str(caught.value)


@pytest.mark.parametrize("source", ["huggingface", "modelscope"])
@pytest.mark.parametrize("file", ["../up.jsonl", "data/../../up.jsonl", "/etc/up.csv", "data\\up.json", "c:up.txt"])
def test_a_listing_that_leads_out_of_the_folder_is_refused(file, source, server, tmp_path):
    server.files[file] = b"evil"
    with pytest.raises(DownloadError, match="which could lead out of the folder"):
        get(server, tmp_path, source=source)
    assert not server.gets() and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("source", "listing"), [("huggingface", INFO), ("modelscope", LISTING)])
@pytest.mark.parametrize("status", [401, 403])
def test_a_gated_data_set_says_what_to_do(status, source, listing, server, tmp_path):
    server.faults[listing] = Fault(status=status)
    with pytest.raises(DownloadError, match=f"HTTP {status}: gated, private, or not there") as caught:
        get(server, tmp_path, source=source)
    message = str(caught.value)
    assert "hf auth login" in message and "MODELSCOPE_API_TOKEN" in message and "model's" not in message
    assert f"put the files of the data set into {tmp_path / REPO}" in message and "with .SOURCE.json in it" in message
    assert "Without a hub" not in message


@pytest.mark.parametrize("name", ["squad", "../up", "a/../b", "smollm2-135m-instruct", ""])
def test_a_name_that_is_no_hub_id_is_refused(name, tmp_path):
    with pytest.raises(DownloadError, match="There is no data set named") as caught:
        download_dataset(name, datasets_dir=tmp_path)
    assert "an owner and a name" in str(caught.value) and "smollm2-135m-instruct, " not in str(caught.value)


def test_a_data_set_comes_out_of_no_wheel(tmp_path):
    with pytest.raises(
        DownloadError, match=r"There is no source 'wheel'\. The sources are auto, mirror, .*modelscope\.$"
    ):
        download_dataset(REPO, source="wheel", datasets_dir=tmp_path)


def test_a_folder_of_the_learners_own_is_left_alone(server, tmp_path):
    own = tmp_path / REPO
    own.mkdir(parents=True)
    (own / "rows.jsonl").write_text("mine", encoding="utf-8")
    with pytest.raises(DownloadError, match=r"holds no \.SOURCE\.json, .*data set\. Move it away"):
        get(server, tmp_path)
    assert (own / "rows.jsonl").read_text(encoding="utf-8") == "mine" and not server.requests


def test_a_relative_folder_is_seen_from_the_clone(server, tmp_path, monkeypatch):
    monkeypatch.setenv("COURSE_HOME", str(tmp_path))
    assert download_dataset(REPO, endpoint=server.address) == tmp_path / "data" / "hub" / REPO


# ---- `datasets` reads it, offline

READ = """
import json, sys
from datasets import get_dataset_config_names, load_dataset
folder = sys.argv[1]
print(get_dataset_config_names(folder))
for name, split in [(None, "train"), ("chat", "test"), ("table", "train"), ("table", "validation")]:
    rows = load_dataset(folder, name, split=split)
    print(json.dumps([rows.num_rows, rows[-1]], ensure_ascii=False))
"""


def read(code, folder, home):
    """What a script prints that loads the folder, in a process that never saw a network."""
    command = [sys.executable, "-c", code, str(folder)]
    offline = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(home), "PATH": "", "PYTHONUTF8": "1"}
    done = subprocess.run(command, env=offline, capture_output=True, text=True, check=False, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.parametrize("source", ["huggingface", "modelscope"])
@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_datasets_reads_configurations_and_splits_from_the_folder(kind, source, server, tmp_path):
    write = {"jsonl": jsonl, "parquet": parquet}[kind]  # one of them: `datasets` has one reader for a whole folder
    server.files = {
        "README.md": HEADER.replace("*.jsonl", f"*.{kind}").encode(),
        f"chat/train/a.{kind}": write({"text": "你好"}, {"text": "two"}),
        f"chat/train/b.{kind}": write({"text": "three"}),
        f"chat/test/a.{kind}": write({"text": "four"}),
        f"table/train-00000-of-00001.{kind}": write(*({"number": n} for n in range(500))),
        f"table/validation-00000-of-00001.{kind}": write({"number": -1}),
    }
    assert read(READ, get(server, tmp_path, source=source), tmp_path / "home") == [
        "['chat', 'table']",
        '[3, {"text": "three"}]',
        '[1, {"text": "four"}]',
        '[500, {"number": 499}]',
        '[1, {"number": -1}]',
    ]


@pytest.mark.parametrize(
    ("file", "body"), [("rows.json", b'[{"a": 1}]'), ("x/rows.jsonl", b'{"a": 1}'), ("rows.csv", b"a\n1\n")], ids=str
)
def test_without_a_header_the_record_is_not_taken_for_rows(file, body, server, tmp_path):
    server.files = {file: body, "README.md": b"# Chats"}
    code = "import sys; from datasets import load_dataset; print(load_dataset(sys.argv[1], split='train')[:])"
    assert read(code, get(server, tmp_path), tmp_path / "home") == ["{'a': [1]}"]


# ---- the server itself, with the real clients


def test_the_real_clients_talk_to_the_server(server, tmp_path):
    from huggingface_hub import HfApi, snapshot_download
    from modelscope_hub import HubApi

    info = HfApi(endpoint=server.address, token=False).dataset_info(REPO, files_metadata=True)
    assert {item.rfilename for item in info.siblings} == set(server.files)
    folder = tmp_path / "snapshot"
    snapshot_download(REPO, repo_type="dataset", endpoint=server.address, local_dir=folder, token=False)
    other = HubApi(endpoint=server.address, token="").download_repo(REPO, "dataset", local_dir=tmp_path / "modelscope")
    for place in (folder, Path(other)):
        assert all((place / file).read_bytes() == body for file, body in server.files.items())
