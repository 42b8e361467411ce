"""Where the rows of an entry come from: folders, links, slices, samples and hubs, in LLaMA-Factory's order."""

import json

import pytest
from datasets import Dataset
from hub_server import HubServer

from course_utils import data, hub
from course_utils.core.errors import CourseError

END = [{"role": "tool", "content": "1"}, {"role": "assistant", "content": "A"}]
TAGS = {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"}
TAGS |= {"observation_tag": "tool"}


def rows(*questions):
    return [{"instruction": question, "output": question.upper()} for question in questions]


@pytest.fixture
def folder(tmp_path):
    """Write a registry of one entry, named "one", and the files given."""

    def write(entry, **files):
        for name, part in files.items():
            path = tmp_path / name.replace("__", "/")
            path.parent.mkdir(exist_ok=True)
            path.with_suffix(".json").write_text(json.dumps(part), encoding="utf-8")
        (tmp_path / "dataset_info.json").write_text(json.dumps({"one": entry}), encoding="utf-8")
        return tmp_path

    return write


def asked(where):
    return [messages[0]["content"] for messages in data.load("one", where)["messages"]]


# -------------------------------------------------------------------------------------------------------------- folders
def test_a_folder_is_all_its_files_by_name(folder):
    where = folder({"file_name": "parts"}, parts__b=rows("c"), parts__a=rows("a", "b"))
    (where / "parts" / "c.csv").write_text("instruction,output\nd,D\n", encoding="utf-8")
    (where / "parts" / "d.jsonl").write_text('{"instruction": "e", "output": "E"}\n', encoding="utf-8")
    (where / "parts" / "README.md").write_text("about", encoding="utf-8")
    (where / "parts" / ".ipynb_checkpoints").mkdir()
    assert asked(where) == ["a", "b", "c", "d", "e"]


def test_a_row_in_a_folder_is_named_by_its_own_file(folder):
    where = folder({"file_name": "parts"}, parts__a=rows("a", "b"), parts__b=[*rows("c"), {"instruction": "d"}])
    with pytest.raises(data.DataError, match=r"parts.b\.json, row 2, line 1, output: the field 'output' is missing"):
        data.load("one", where)


def test_a_column_may_be_in_one_file_of_a_folder_only(folder):
    columns = {"prompt": "instruction", "response": "output", "system": "system"}
    with_system = [{"instruction": "b", "output": "B", "system": "S"}]
    where = folder({"file_name": "parts", "columns": columns}, parts__a=rows("a"), parts__b=with_system)
    assert asked(where) == ["a", "S"]


@pytest.mark.parametrize("name", ["rows.arrow", "rows.jsonl.gz"])
def test_files_whose_rows_would_be_missed_are_refused(folder, name):
    where = folder({"file_name": "parts"}, parts__a=rows("a"))
    (where / "parts" / name).write_text("", encoding="utf-8")
    with pytest.raises(data.DataError, match=rf"holds {name}, whose rows would be missed"):
        data.load("one", where)


def test_a_folder_in_the_folder_and_an_empty_folder_are_refused(folder):
    where = folder({"file_name": "parts"})
    (where / "parts").mkdir()
    with pytest.raises(data.DataError, match=r"has no \.jsonl, \.json, \.csv, \.parquet, \.txt file"):
        data.load("one", where)
    (where / "parts" / "more").mkdir()
    with pytest.raises(data.DataError, match="holds more, whose rows would be missed"):
        data.load("one", where)


def test_links_in_a_folder_must_not_lead_out(folder, tmp_path_factory):
    secret = tmp_path_factory.mktemp("outside")
    (secret / "b.json").write_text(json.dumps(rows("secret")), encoding="utf-8")
    where = folder({"file_name": "parts"}, parts__a=rows("a"))
    (where / "parts" / "b.json").symlink_to(secret / "b.json")
    with pytest.raises(data.DataError, match=r"file_name: 'parts.b\.json' leads out of"):
        data.load("one", where)
    (where / "away").symlink_to(secret)
    with pytest.raises(data.DataError, match="file_name: 'away' leads out of"):
        data.load("one", folder({"file_name": "away"}))
    (where / "parts" / "b.json").unlink()
    (where / "parts" / "b.json").symlink_to(where / "parts" / "a.json")  # a link that stays inside
    assert asked(folder({"file_name": "parts"})) == ["a", "a"]


# --------------------------------------------------------------------------------------------------- split, num_samples
def test_split_may_be_a_slice_of_a_file(folder):
    where = folder({"file_name": "one.json", "split": "train[:2]+train[75%:]"}, one=rows(*"abcdefgh"))
    assert asked(where) == ["a", "b", "g", "h"]


def test_num_samples_draws_the_same_rows_each_time_without_repeats(folder):
    where = folder({"file_name": "one.json", "num_samples": 5}, one=rows(*"abcdefgh"))
    first = asked(where)
    assert first == asked(where) and len(set(first)) == 5
    assert first != sorted(first)  # drawn, not the first five


def test_num_samples_beyond_the_set_takes_every_row_and_some_again(folder):
    drawn = asked(folder({"file_name": "one.json", "num_samples": 11}, one=rows(*"abc")))
    assert sorted(drawn[:3]) == ["a", "b", "c"]
    assert len(drawn) == 11 and set(drawn) == {"a", "b", "c"}
    with pytest.raises(data.DataError, match="num_samples asks for 11 rows of a set that has none"):
        asked(folder({"file_name": "one.json", "num_samples": 11}, one=[]))


def test_a_bad_row_is_an_error_even_where_it_is_not_taken(folder):
    where = folder({"file_name": "one.json", "split": "train[:1]"}, one=[*rows("a"), {"instruction": "b"}])
    with pytest.raises(data.DataError, match="row 2, line 1, output: the field 'output' is missing"):
        data.load("one", where)


# ----------------------------------------------------------------------------------------------------------------- hubs
def lines(*made):
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in made).encode()


@pytest.fixture
def server(monkeypatch):
    """The hubs of the course, all of them one server on loopback."""
    for variable in ("USE_MODELSCOPE_HUB", "HF_ENDPOINT", "COURSE_SOURCES"):
        monkeypatch.delenv(variable, raising=False)
    with HubServer({"train.jsonl": lines(*rows("从 the hub"))}, repo="someone/rows", repo_type="dataset") as server:
        for kind in hub.ENDPOINTS:
            monkeypatch.setitem(hub.ENDPOINTS, kind, server.address)
        yield server


def test_the_hub_wins_over_a_script_and_a_file(folder, server):
    entry = {"hf_hub_url": "someone/rows", "file_name": "one.json", "script_url": "one.py"}
    where = folder(entry, one=rows("a"))
    assert asked(where) == ["从 the hub"]
    assert (where / "hub" / "someone" / "rows" / "train.jsonl").is_file()
    before = len(server.requests)
    assert asked(where) == ["从 the hub"] and len(server.requests) == before  # downloaded once


def test_modelscope_is_a_hub_like_the_other(folder, server):
    assert asked(folder({"ms_hub_url": "someone/rows"})) == ["从 the hub"]
    assert all("/api/v1/datasets/" in request.path for request in server.requests if "/api/" in request.path)


@pytest.mark.parametrize("value", ["1", "true", "Y"])
def test_another_hub_wins_where_its_variable_is_set(folder, server, monkeypatch, value):
    both = {"hf_hub_url": "someone/rows", "ms_hub_url": "someone/rows"}
    monkeypatch.setenv("USE_MODELSCOPE_HUB", value)
    assert asked(folder(both)) == ["从 the hub"]
    assert any("/api/v1/datasets/" in request.path for request in server.requests)


def test_subset_folder_and_split_are_those_of_the_hub(folder, server):
    files = "[{split: train, path: en.jsonl}, {split: test, path: t.jsonl}]"
    head = f"configs:\n- {{config_name: en, data_files: {files}}}\n- {{config_name: zh, data_files: zh.jsonl}}\n"
    server.files = {
        "README.md": f"---\n{head}---\n".encode(),
        "en.jsonl": lines(*rows("train")),
        "t.jsonl": lines(*rows("a", "b")),
        "zh.jsonl": lines(*rows("中")),
    }
    assert asked(folder({"hf_hub_url": "someone/rows", "subset": "en", "split": "test[:1]"})) == ["a"]
    assert asked(folder({"hf_hub_url": "someone/rows", "subset": "zh"})) == ["中"]
    message = r"one: someone/rows \(subset fr, folder None, split train\) cannot be loaded from .*Save its rows once"
    with pytest.raises(data.DataError, match=message):
        data.load("one", folder({"hf_hub_url": "someone/rows", "subset": "fr"}))


def test_a_folder_of_the_hub(folder, server):
    server.files = {"en/train.jsonl": lines(*rows("a")), "zh/train.jsonl": lines(*rows("中"))}
    assert asked(folder({"hf_hub_url": "someone/rows", "folder": "zh"})) == ["中"]


def test_a_hub_that_does_not_have_it_is_named(folder, server):
    with pytest.raises(CourseError, match=r"No source gave else/rows(.|\n)*HTTP 404"):
        data.load("one", folder({"hf_hub_url": "else/rows"}))


def test_empty_fields_of_a_hub_count_as_absent(folder, server):
    """Arrow gives every call the arguments of all others (pitfall arrow-invents-arguments), as nulls."""
    turns = [
        [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "", "tool_calls": [call]}, *END]
        for call in (
            {"function": {"name": "f", "arguments": {"a": 1}}},
            {"function": {"name": "g", "arguments": {"b": 2}}},
        )
    ]
    server.files = {"train.jsonl": lines(*({"messages": each, "system": None} for each in turns))}
    columns = {"messages": "messages", "system": "system"}
    where = folder({"hf_hub_url": "someone/rows", "formatting": "openai", "columns": columns, "tags": TAGS})
    calls = [row["messages"][1]["tool_calls"][0]["function"] for row in data.load("one", where)]
    assert [call["arguments"] for call in calls] == ['{"a": 1}', '{"b": 2}']


# --------------------------------------------------------------------------------------------------------------- stream
def test_a_stream_gives_the_rows_of_load(folder):
    where = folder({"file_name": "parts"}, parts__a=rows("a", "b"), parts__b=rows("c"))
    assert list(data.stream("one", where)) == [data.plain(row) for row in data.load("one", where)]
    upper = data.stream("one", where).map(lambda row: {"id": row["id"].upper()})
    assert [row["id"] for row in upper.take(2)] == ["ONE:1", "ONE:2"]


def test_a_stream_stops_at_a_row_that_cannot_be_read(folder):
    where = folder({"file_name": "one.json"}, one=[*rows("a"), {"instruction": "b"}])
    reading = iter(data.stream("one", where))
    assert next(reading)["messages"][0]["content"] == "a"
    with pytest.raises(data.DataError, match="row 2, line 1, output: the field 'output' is missing"):
        next(reading)
    with pytest.raises(data.DataError, match="need all rows"):
        data.stream("one", folder({"file_name": "one.json", "num_samples": 1}))


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".txt"])
def test_parquet_csv_and_text_files_are_rows_too(folder, suffix):
    made = Dataset.from_list(rows("a", "b"))
    entry = {"file_name": f"one{suffix}"}
    where = folder(entry | ({"columns": {"prompt": "text"}} if suffix == ".txt" else {}))
    path = where / f"one{suffix}"
    if suffix == ".txt":
        path.write_text("Once.\n\n从前。\n", encoding="utf-8")
        assert data.load("one", where)["text"][:] == ["Once.", "从前。"]
    else:
        getattr(made, f"to{suffix.replace('.', '_')}")(str(path))
        assert asked(where) == ["a", "b"]
