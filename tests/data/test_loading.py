"""Whatever holds rows is opened: a file of any format, a folder, a registry, a data set; and how it is read is told."""

import json

import malformed
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset

from course_utils import data, hub
from course_utils.data.rows import quiet

READ_AS = {
    "alpaca": "alpaca, chat",
    "sharegpt": "sharegpt, chat",
    "openai": "openai, chat",
    "tools": "openai, chat",
    "preference": "sharegpt, preference",
    "pairs": "alpaca, preference",
    "kto": "openai, kto",
    "text": "alpaca, text",
    "media": "sharegpt, chat",
}
COLUMNS = {"tools": {"tools"}, "preference": {"chosen", "rejected"}, "pairs": {"chosen", "rejected"}, "kto": {"label"}}
COLUMNS |= {"text": {"text"}, "media": {"images"}}


def write(path, rows):
    """Rows into a file, in the way that its name ends in."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    else:
        path.write_text(json.dumps(rows, ensure_ascii=False, indent=1), encoding="utf-8")
    return path


def register(folder, **entries):
    (folder / "dataset_info.json").write_text(json.dumps(entries), encoding="utf-8")


def rows_of(dataset):
    return [data.plain(row) for row in dataset]


def good_rows(name):
    return [malformed.FORMATS[name](n) for n in range(4)]


def whole(report):
    """The report of a set without a problem."""
    assert report.problems == [] and report.kept == report.read and report.reported == 0
    return report


# --------------------------------------------------------------------------------------------- a file by its first rows
@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".parquet"])
@pytest.mark.parametrize("name", malformed.FORMATS)
def test_every_format_is_told_by_its_rows_and_the_entry_that_is_offered_loads_the_same(tmp_path, name, suffix):
    (tmp_path / "cat.png").write_bytes(b"")
    path = write(tmp_path / f"mine{suffix}", good_rows(name))
    report = whole(data.check(path))
    assert (report.name, report.read_as, report.read) == (str(path), READ_AS[name], 4)
    assert set(report.rows.column_names) == {"id", "messages", "source", "tags"} | COLUMNS.get(name, set())
    assert set(report.rows["source"]) == {"mine"}
    [remark] = report.remarks
    register(tmp_path, **json.loads(remark.partition("dataset_info.json: ")[2]))
    assert rows_of(data.load("mine", tmp_path)) == rows_of(report.rows)
    named = whole(data.check(path))
    assert (named.name, named.read_as, named.remarks) == ("mine", READ_AS[name], [])
    assert rows_of(named.rows) == rows_of(report.rows)


@pytest.mark.parametrize("prompt", ["instruction", "prompt", "question"])
@pytest.mark.parametrize("reply", ["output", "response", "completion", "answer"])
def test_a_prompt_and_a_reply_are_found_under_the_names_in_use(tmp_path, prompt, reply):
    path = write(tmp_path / "a.jsonl", [{prompt: "Q", reply: "A"}] * 2)
    [row, _] = rows_of(whole(data.check(path)).rows)
    assert [turn["content"] for turn in row["messages"]] == ["Q", "A"]


def test_history_system_and_input_of_an_alpaca_file_are_read(tmp_path):
    row = {"instruction": "Add.", "input": "1 and 2", "output": "3", "system": "S", "history": [["Hi", "Hello"]]}
    [row] = rows_of(whole(data.check(write(tmp_path / "a.json", [row]))).rows)
    assert [turn["content"] for turn in row["messages"]] == ["S", "Hi", "Hello", "Add.\n1 and 2", "3"]


def test_turns_are_told_by_their_keys_and_not_by_the_name_of_their_column(tmp_path):
    sharegpt, openai = malformed.sharegpt(1)["conversations"], malformed.openai(1)["messages"]
    for rows, read_as in (({"messages": sharegpt}, "sharegpt, chat"), ({"conversations": openai}, "openai, chat")):
        assert whole(data.check(write(tmp_path / "a.jsonl", [rows]))).read_as == read_as


def test_a_label_may_be_named_kto_tag_and_a_score_beside_it_is_not_taken_for_one(tmp_path):
    rows = [malformed.sharegpt(n) | {"kto_tag": n > 1, "label": n} for n in range(3)]
    report = whole(data.check(write(tmp_path / "a.jsonl", rows)))
    assert report.read_as == "sharegpt, kto" and report.rows["label"][:] == [False, False, True]
    assert report.remarks[0].endswith("a.jsonl: not read are the columns label.")


def test_a_preference_with_turns_has_its_pictures_checked(tmp_path):
    row = malformed.preference(1) | {"images": ["cat.png"]}
    row["conversations"][0]["value"] = "<image>?"
    [problem] = data.check(write(tmp_path / "a.jsonl", [row])).problems
    assert problem.field == "images[0]" and f"no file 'cat.png' in {tmp_path}" in problem.reason
    (tmp_path / "cat.png").write_bytes(b"")
    whole(data.check(tmp_path / "a.jsonl"))


SOURCES = {
    "cmath": {"input": "1+1等于几？", "golden": "2"},
    "mawps": {"Question": "N_00 cats and N_01 dogs?", "Numbers": "1.0 2.0", "Equation": "N_00 + N_01", "Answer": "3.0"},
    "emoji": {"question": "Hi?", "answer_zh": "你好👋", "answer_en": "Hi"},
    "cluener": {"text": "在北京", "label": {"address": {"北京": [[1, 2]]}}},
}


@pytest.mark.parametrize("source", SOURCES)
def test_the_sources_are_told_by_their_rows_and_read_as_normalise_does(tmp_path, source):
    path = write(tmp_path / "a.jsonl", [SOURCES[source]] * 2)
    report = whole(data.check(path))
    assert report.read_as == f"{source} (data.normalise)" and set(report.rows["source"]) == {source}
    assert rows_of(report.rows) == rows_of(data.normalise(source, data.read_raw(path)))


def test_the_names_of_a_cluener_row_are_cleaned_as_its_text_is(tmp_path):
    row = {"text": "ＡＢ在北京", "label": {"company": {"ＡＢ": [[0, 1]]}}}
    [row] = rows_of(whole(data.check(write(tmp_path / "a.jsonl", [row]))).rows)
    assert "AB在北京" in row["messages"][0]["content"] and '"AB"' in row["messages"][1]["content"]


@pytest.mark.parametrize("value", [{"a": 1}, [1], True])
def test_a_source_takes_no_object_for_a_text(tmp_path, value):
    [problem] = data.check(write(tmp_path / "a.jsonl", [SOURCES["cmath"] | {"golden": value}])).problems
    assert problem.field == "golden" and "expected text, found" in problem.reason


def test_csv_and_text_files_are_told_too(tmp_path):
    (tmp_path / "a.csv").write_text('prompt,response,note\n"Q, ""1""",A,x\n', encoding="utf-8")
    (tmp_path / "b.txt").write_text("one\n\ntwo\n", encoding="utf-8")
    (tmp_path / "c.csv").write_text("Question,Equation,Answer,Numbers\nN_00?,N_00,1.0,1.0\n", encoding="utf-8")
    table, text, mawps = (whole(data.check(tmp_path / name)) for name in ("a.csv", "b.txt", "c.csv"))
    assert table.rows[0]["messages"][0]["content"] == 'Q, "1"'
    assert table.remarks[0].endswith("a.csv: not read are the columns note.")
    assert text.read_as == "alpaca, text" and text.rows["text"][:] == ["one", "two"]
    assert mawps.read_as == "mawps (data.normalise)"


def test_columns_that_are_not_known_are_a_problem_of_each_row(tmp_path):
    path = write(tmp_path / "a.jsonl", [{"title": "Q", "body": "A"}] * 2 + [{}])
    report = data.check(path)
    assert report.read_as == "no known format" and (report.read, report.kept, report.reported) == (3, 0, 3)
    assert [(p.row, p.line) for p in report.problems] == [(1, 1), (2, 2), (3, 3)]
    assert "found title, body. Name the columns in dataset_info.json" in report.problems[0].reason
    assert "found no fields" in report.problems[2].reason


def test_a_format_is_told_although_the_first_rows_are_broken(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{broken\n[]\n{"messages": 5}\n' + json.dumps(malformed.openai(1)) + "\n", encoding="utf-8")
    report = data.check(path)
    assert report.read_as == "openai, chat" and (report.read, report.kept, report.reported) == (4, 1, 3)


def test_columns_and_keys_of_turns_that_are_not_read_are_a_remark(tmp_path):
    turns = [{"role": "user", "content": "Q", "score": 1, "lang": "en"}, {"role": "assistant", "content": "A"}]
    report = whole(data.check(write(tmp_path / "a.jsonl", [{"messages": turns, "score": 1, "lang": "en"}])))
    assert [remark.partition(": ")[2] for remark in report.remarks[:2]] == [
        "not read are the columns lang, score.",
        "not read are the keys of turns lang, score.",
    ]


# ----------------------------------------------------------------------------------------------- a file by its registry
RENAMED = {"columns": {"prompt": "ask", "response": "say"}}


@pytest.mark.parametrize("name", ["a.json", "raw/a.json"])
def test_a_file_is_read_as_the_registry_beside_or_above_it_says(tmp_path, name):
    path = write(tmp_path / name, [{"ask": "Q", "say": "A", "id": "mine"}])
    assert data.check(path).read_as == "no known format"
    register(tmp_path, other={"file_name": "b.json"}, one=RENAMED | {"file_name": name})
    report = whole(data.check(path))
    assert (report.name, report.read_as) == ("one", "alpaca, chat")
    assert rows_of(report.rows) == rows_of(data.load("one", tmp_path))


def test_pictures_lie_in_the_folder_of_the_registry_as_for_load(tmp_path):
    path = write(tmp_path / "raw" / "a.json", [malformed.media(1)])
    columns = {"messages": "conversations", "images": "images"}
    register(tmp_path, one={"file_name": "raw/a.json", "formatting": "sharegpt", "columns": columns})
    (tmp_path / "raw" / "cat.png").write_bytes(b"")  # not there
    [problem] = data.check(path).problems
    assert f"no file 'cat.png' in {tmp_path}." in problem.reason
    (tmp_path / "cat.png").write_bytes(b"")
    whole(data.check(path))
    whole(data.check(tmp_path))


def test_a_registry_beside_a_file_that_is_broken_is_named(tmp_path):
    path = write(tmp_path / "a.json", good_rows("alpaca"))
    register(tmp_path, one={"file_name": "a.json", "color": "red"})
    with pytest.raises(data.DataError, match=r"dataset_info\.json, one: unknown key 'color'"):
        data.check(path)
    (tmp_path / "dataset_info.json").write_text("{", encoding="utf-8")
    with pytest.raises(data.DataError, match=r"dataset_info\.json cannot be read: .*line 1"):
        data.check(path)


# ----------------------------------------------------------------------------------------------------------- a registry
def test_all_data_sets_of_a_registry_are_read_and_one_on_a_hub_is_not_fetched(tmp_path, monkeypatch):
    monkeypatch.setattr(hub, "download_dataset", lambda *_, **__: pytest.fail("fetched"))
    write(tmp_path / "a.json", good_rows("alpaca"))
    write(tmp_path / "raw" / "b.jsonl", [*good_rows("sharegpt"), {"conversations": 5}])
    register(
        tmp_path,
        a={"file_name": "a.json"},
        gone={"file_name": "gone.json"},
        b={"file_name": "raw/b.jsonl", "formatting": "sharegpt"},
        far={"hf_hub_url": "someone/somewhere"},
        script={"script_url": "x.py"},
    )
    for target in (tmp_path, tmp_path / "dataset_info.json", str(tmp_path)):
        report = data.check(target)
        assert report.name == str(tmp_path / "dataset_info.json")
        assert (report.read, report.kept, report.reported) == (9, 8, 1)
        assert "a: alpaca, chat" in report.read_as and "far: not read" in report.read_as
        assert report.remarks == ["far is on a hub, and was not fetched."]
        registry = report.name
        assert [(p.file, p.row, p.field) for p in report.problems] == [
            (registry, None, "gone"),
            (registry, None, "script"),
            (str(tmp_path / "raw" / "b.jsonl"), 5, "conversations"),
        ]
        assert "there is no file" in report.problems[0].reason and registry not in report.problems[0].reason


def test_rows_of_one_file_that_two_entries_read_are_counted_apart(tmp_path):
    rows = [{"instruction": "Q", "output": "A"}, {"instruction": "Q", "say": "B"}, {"instruction": "Q"}]
    path = write(tmp_path / "a.json", rows)
    second = {"columns": {"prompt": "instruction", "response": "say"}}
    register(tmp_path, one={"file_name": "a.json"}, two={"file_name": "a.json"} | second)
    report = data.check(tmp_path)
    assert (report.read, report.kept, report.reported) == (6, 2, 4)
    assert [row["messages"][1]["content"] for row in report.rows] == ["A", "B"]
    assert [(p.file, p.row) for p in report.problems] == [
        (str(path), 2),
        (str(path), 3),
        (f"{path} (two)", 1),
        (f"{path} (two)", 3),
    ]


def test_a_registry_that_is_missing_is_named_once(tmp_path):
    with pytest.raises(data.DataError, match=rf"^{tmp_path}/dataset_info\.json is missing"):
        data.check(tmp_path / "dataset_info.json")


# ------------------------------------------------------------------------------------------------------------- a folder
def test_a_folder_is_all_its_files_each_in_its_own_format(tmp_path):
    write(tmp_path / "a.json", good_rows("alpaca"))
    write(tmp_path / "b.jsonl", good_rows("kto"))
    (tmp_path / "c.txt").write_text("one\n", encoding="utf-8")
    for name in (".hidden.json", "README.md", "LICENSE"):
        (tmp_path / name).write_text("not rows", encoding="utf-8")
    report = whole(data.check(tmp_path))
    assert report.name == str(tmp_path) and report.read == 9
    assert report.read_as == "a.json: alpaca, chat; b.jsonl: openai, kto; c.txt: alpaca, text"
    assert report.tallies["source"] == {"a": 4, "b": 4, "c": 1} and len(report.remarks) == 3
    write(tmp_path / "d.json", [{"x": 1}])
    [problem] = data.check(tmp_path).problems
    assert (problem.file, problem.row) == (str(tmp_path / "d.json"), 1)


def test_a_folder_without_rows_and_a_file_that_is_not_there_are_errors(tmp_path):
    (tmp_path / "README.md").write_text("x", encoding="utf-8")
    with pytest.raises(data.DataError, match=r"holds no \.jsonl, .* file and no dataset_info\.json"):
        data.check(tmp_path)
    with pytest.raises(data.DataError, match="there is no such file"):
        data.check(tmp_path / "a.json")
    with pytest.raises(data.DataError, match=r"cannot read \.md"):
        data.check(tmp_path / "README.md")


# ----------------------------------------------------------------------------------------------------------- a data set
MESSAGES = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]


def test_a_data_set_and_the_folder_it_was_saved_to_are_read_as_they_are(tmp_path):
    call = {"type": "function", "function": {"name": "f", "arguments": '{"x": null}'}}
    turns = [MESSAGES[0], {"role": "assistant", "content": "", "tool_calls": [call]}, {"role": "tool", "content": "1"}]
    tools = {"messages": [*turns, MESSAGES[1]], "tools": '[{"name": "f"}]', "source": "t", "tags": []}
    reply = [{"role": "assistant", "content": "yes"}]
    other = [{"role": "assistant", "content": "no"}]
    pair = {"messages": MESSAGES[:1], "chosen": reply, "rejected": other, "source": "p", "tags": ["en"]}
    text = {"messages": [], "text": "Once.", "source": "", "tags": []}
    dataset = data.to_dataset([tools, pair, text])
    with quiet():
        dataset.save_to_disk(tmp_path / "saved")
    for target, name in ((dataset, "the data set"), (tmp_path / "saved", str(tmp_path / "saved"))):
        report = whole(data.check(target))
        assert (report.name, report.read_as) == (name, "rows of the course's schema")
        assert rows_of(report.rows) == [tools, pair, text]


def test_a_pair_of_equal_replies_and_a_file_that_no_entry_names_are_told(tmp_path):
    pair = {"instruction": "Q?", "chosen": "yes", "rejected": "yes"}
    entry = {"file_name": "pairs.json", "ranking": True}
    entry["columns"] = {"prompt": "instruction", "chosen": "chosen", "rejected": "rejected"}
    (tmp_path / "dataset_info.json").write_text(json.dumps({"pairs": entry}), encoding="utf-8")
    (tmp_path / "pairs.json").write_text(json.dumps([pair]), encoding="utf-8")
    (tmp_path / "stray.jsonl").write_text("{", encoding="utf-8")
    report = data.check(tmp_path)
    assert [(problem.row, problem.field) for problem in report.problems] == [(1, "rejected")]
    assert any("stray.jsonl" in remark for remark in report.remarks)


def test_columns_that_a_data_set_lacks_are_empty_and_broken_rows_are_problems():
    report = whole(data.check(Dataset.from_dict({"text": ["Once.", "Twice."], "score": [1, 2]})))
    assert rows_of(report.rows)[0] == {"messages": [], "text": "Once.", "source": "", "tags": []}
    report = data.check(Dataset.from_dict({"messages": [MESSAGES, None, MESSAGES[1:], []]}))
    assert (report.read, report.kept) == (4, 1)
    assert [(p.file, p.row, p.line, p.field) for p in report.problems] == [
        ("the data set", 2, None, "messages"),
        ("the data set", 3, None, "messages[0].role"),
        ("the data set", 4, None, "messages"),
    ]
    with pytest.raises(data.DataError, match=r"has the columns a, b; rows of the course have messages or text"):
        data.check(Dataset.from_dict({"a": [1], "b": [2]}))


def test_a_text_of_a_data_set_that_is_not_utf8_is_an_error_and_writes_nothing(tmp_path):
    """Kind of fault: nothing raw from the API."""
    offsets, texts = pa.py_buffer(b"\0\0\0\0\3\0\0\0\4\0\0\0"), pa.py_buffer(b"\xed\xa0\xbdA")  # half of an emoji
    table = pa.table({"text": ["One.", "Two."], "tags": [["a"], ["b"]]})
    dataset = Dataset(table.set_column(0, "text", pa.StringArray.from_buffers(2, offsets, texts)))
    for use in (data.check, lambda rows: data.export_jsonl(rows, tmp_path / "out.jsonl")):
        with pytest.raises(data.DataError, match="A text of the data set holds bytes that are not UTF-8"):
            use(dataset)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("messages", "Q"),
        ("messages", ["Q"]),
        ("source", 5),
        ("id", 7),
        ("label", 1),
        ("tools", [{"name": "f"}]),
        ("text", ["Once."]),
        ("tags", "en"),
        ("tags", [1]),
        ("chosen", "yes"),
        ("images", [b"PNG"]),
        ("images", [{"bytes": b"PNG", "path": None}]),
    ],
)
def test_a_column_of_another_type_is_a_problem_of_each_row(field, value):
    row = {"messages": MESSAGES, "source": "s", "tags": ["en"]} | {field: value}
    report = data.check(Dataset.from_dict({name: [item] * 2 for name, item in row.items()}))
    assert (report.read, report.kept, report.reported) == (2, 0, 2)
    assert {problem.field for problem in report.problems} == {field}
    assert "Convert the column" in report.problems[0].reason


def test_arguments_that_arrow_holds_as_an_object_are_a_problem():
    """Pitfall arrow-invents-arguments: each call has been given the keys of all calls."""
    calls = [[{"function": {"name": name, "arguments": {name: 1}}}] for name in "fg"]
    turns = [[MESSAGES[0], {"role": "assistant", "content": None, "tool_calls": call}] for call in calls]
    report = data.check(Dataset.from_list([{"messages": turn} for turn in turns]))
    assert [(p.row, p.field) for p in report.problems] == [(1, "messages"), (2, "messages")]
    assert "arguments of every call as JSON text" in report.problems[0].reason


def test_the_pictures_of_a_data_set_are_not_looked_for_and_that_is_said():
    report = whole(data.check(data.to_dataset([{"messages": MESSAGES, "images": ["cat.png"]}])))
    assert report.remarks == ["the data set: whether the files of images are there was not looked at."]
