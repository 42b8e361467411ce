"""`load`: dataset_info.json and rows read as LLaMA-Factory reads them, with errors that say where."""

import json

import pytest

from course_utils import data

OPENAI_TAGS = {
    "role_tag": "role",
    "content_tag": "content",
    "user_tag": "user",
    "assistant_tag": "assistant",
    "observation_tag": "tool",
    "function_tag": "function_call",
    "system_tag": "system",
}


@pytest.fixture
def folder(tmp_path):
    """Write a registry of one entry, named "one", and its file."""

    def write(entry, rows, name="one.json"):
        text = rows if isinstance(rows, str) else json.dumps(rows, ensure_ascii=False)
        (tmp_path / name).write_text(text, encoding="utf-8")
        registry = {"one": {"file_name": name} | entry}
        (tmp_path / "dataset_info.json").write_text(json.dumps(registry), encoding="utf-8")
        return tmp_path

    return write


def loaded(folder):
    return [data.plain(row) for row in data.load("one", folder)]


# --------------------------------------------------------------------------------------------------------------- alpaca
def test_alpaca_with_input_history_and_system(folder):
    row = {
        "instruction": "Add.",
        "input": "2 and 3",
        "output": "5",
        "sys": "Be brief.",
        "before": [["Hi", "Hello"], ["Ready?", "Yes"]],
    }
    columns = {"prompt": "instruction", "query": "input", "response": "output", "system": "sys", "history": "before"}
    [row] = loaded(folder({"columns": columns}, [row]))
    assert [(m["role"], m["content"]) for m in row["messages"]] == [
        ("system", "Be brief."),
        ("user", "Hi"),
        ("assistant", "Hello"),
        ("user", "Ready?"),
        ("assistant", "Yes"),
        ("user", "Add.\n2 and 3"),
        ("assistant", "5"),
    ]
    assert row["source"] == "one" and row["tags"] == []


def test_alpaca_by_default_reads_neither_system_nor_history(folder):
    row = {"instruction": "Q", "input": "", "output": "A", "system": "S", "history": [["x", "y"]]}
    [row] = loaded(folder({}, [row]))
    assert [m["content"] for m in row["messages"]] == ["Q", "A"]


def test_what_columns_does_not_name_is_none_and_not_its_default(folder):
    """Pitfall registry-silence: `input` is not read here, although it is the default of `query`."""
    row = {"instruction": "Q", "input": "lost in LLaMA-Factory too", "output": "A"}
    [read] = loaded(folder({"columns": {"prompt": "instruction", "response": "output"}}, [row]))
    assert read["messages"][0]["content"] == "Q"
    with pytest.raises(data.DataError, match=r"one\.columns does not name response.*not its default 'output'"):
        data.load("one", folder({"columns": {"prompt": "instruction", "query": "input"}}, [row]))
    with pytest.raises(data.DataError, match=r"one\.json, columns: columns names prompt alone.*they have 'output'"):
        data.load("one", folder({"columns": {"prompt": "instruction"}}, [row]))


def test_csv_and_jsonl(folder):
    [row] = loaded(folder({}, 'instruction,input,output\r\n"Say ""hi"",\r\nplease",,6\r\n', "one.csv"))
    assert row["messages"][0]["content"] == 'Say "hi",\r\nplease'
    assert row["messages"][1]["content"] == "6"
    lines = '{"instruction": "a\u2028b", "output": "c"}\n\n{"instruction": "d", "output": "e"}\n'
    assert [r["messages"][0]["content"] for r in loaded(folder({}, lines, "one.jsonl"))] == ["a\u2028b", "d"]


# ------------------------------------------------------------------------------------------------------------- sharegpt
def test_sharegpt_with_calls(folder):
    turns = [
        {"from": "human", "value": "Weather?"},
        {"from": "function_call", "value": '{"name": "get_weather", "arguments": {"city": "Oslo"}}'},
        {"from": "observation", "value": '{"temp_c": 3}'},
        {"from": "gpt", "value": "3 degrees."},
    ]
    tools = [{"name": "get_weather", "description": "d", "parameters": {}}]
    entry = {"formatting": "sharegpt", "columns": {"messages": "conversations", "tools": "tools", "system": "system"}}
    [row] = loaded(folder(entry, [{"conversations": turns, "tools": json.dumps(tools), "system": "S"}]))
    assert [m["role"] for m in row["messages"]] == ["system", "user", "assistant", "tool", "assistant"]
    call = row["messages"][2]["tool_calls"][0]
    assert call == {"type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Oslo"}'}}
    assert json.loads(row["tools"]) == [{"type": "function", "function": tools[0]}]


def test_sharegpt_system_turn_needs_its_tag(folder):
    turns = [{"from": "system", "value": "S"}, {"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}]
    rows = [{"conversations": turns}]
    [row] = loaded(folder({"formatting": "sharegpt"}, rows))
    assert row["messages"][0] == {"role": "system", "content": "S"}
    tags = {"role_tag": "from", "content_tag": "value", "user_tag": "human", "assistant_tag": "gpt"}
    with pytest.raises(data.DataError, match=r"row 1, line 1, conversations\[0\]\.from: 'system' is no role here"):
        data.load("one", folder({"formatting": "sharegpt", "tags": tags}, rows))


@pytest.mark.parametrize("formatting", ["sharegpt", "openai"])
def test_openai_tags(folder, formatting):
    call = {"type": "function", "id": "c1", "function": {"name": "f", "arguments": {"x": 1}}}
    other = {"type": "function", "id": "c2", "function": {"name": "g", "arguments": '{"y": 2}'}}
    messages = [
        {"role": "user", "content": "Q"},
        {"role": "assistant", "content": None, "tool_calls": [call, other]},
        {"role": "tool", "content": "1", "tool_call_id": "c1"},
        {"role": "tool", "content": "2", "tool_call_id": "c2"},
        {"role": "assistant", "content": "A", "reasoning_content": "thought"},
    ]
    entry = {"formatting": formatting, "columns": {"messages": "messages"}, "tags": OPENAI_TAGS}
    [row] = loaded(folder(entry, [{"messages": messages, "tags": ["en"]}]))
    assert row["tags"] == ["en"]
    assert [m.get("tool_call_id") for m in row["messages"]] == [None, None, "c1", "c2", None]
    arguments = [c["function"]["arguments"] for c in row["messages"][1]["tool_calls"]]
    assert arguments == ['{"x": 1}', '{"y": 2}']  # pitfall arrow-invents-arguments: nothing invented, nothing parsed
    assert row["messages"][4]["reasoning_content"] == "thought"
    assert "content" in row["messages"][1]


def test_plain_rows_have_only_role_and_content(folder):
    rows = data.load("one", folder({}, [{"instruction": "Q", "output": "A"}]))
    assert rows[0] == {
        "messages": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}],
        "source": "one",
        "tags": [],
        "id": "one:1",
    }


# --------------------------------------------------------------------------------------------------------------- errors
GOOD = {"instruction": "Q", "output": "A"}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([GOOD, {"instruction": "Q"}], r"one\.json, row 2, line 1, output: the field 'output' is missing"),
        ([GOOD, {"instruction": "Q", "output": 7}], r"row 2, line 1, output: expected text, found 7"),
        ([{"instruction": "Q", "output": "A", "input": ["x"]}], r"row 1, line 1, input: expected text, found \['x'\]"),
        ([{"instruction": "Q", "output": "A", "tags": "en"}], r"row 1, line 1, tags: expected a list of strings"),
        ([GOOD, "text"], r"row 2, line 1: expected an object, found str"),
        ("[{]", r"one\.json, row 1, line 1: not JSON \(.*, line 1, column 3\)"),
    ],
)
def test_alpaca_errors_name_file_row_and_field(folder, rows, message):
    with pytest.raises(data.DataError, match=message):
        data.load("one", folder({}, rows))


@pytest.mark.parametrize(
    ("turns", "message"),
    [
        ([("human", "Q")], r"must end with an assistant turn"),
        ([("gpt", "A")], r"conversations\[0\]: this turn is of assistant, but a user turn or a tool result is due"),
        (
            [("human", "Q"), ("human", "Q2"), ("gpt", "A")],
            r"conversations\[1\]: this turn is of user, but an assistant turn is due",
        ),
        ([("human", "Q"), ("gpt", "A"), ("system", "S"), ("gpt", "A")], r"conversations\[2\]: this turn is of system"),
        ([("human", "Q"), ("Assistant", "A")], r"conversations\[1\]\.from: 'Assistant' is no role here; expected"),
        ([("human", "Q"), (["gpt"], "A")], r"conversations\[1\]\.from: \['gpt'\] is no role here"),
        ([("human", "Q"), ("gpt", 5)], r"conversations\[1\]\.value: expected text, found 5"),
        ([("human", "Q"), ("gpt", None)], r"conversations\[1\]\.value: expected text, found nothing"),
        (
            [("human", "Q"), ("function_call", "f(x)"), ("observation", ""), ("gpt", "A")],
            r"\[1\]\.value: expected JSON",
        ),
        ([], r"conversations: expected a list of turns"),
    ],
)
def test_conversation_errors_name_the_turn(folder, turns, message):
    good = [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}]
    bad = [{"from": role, "value": value} for role, value in turns]
    with pytest.raises(data.DataError, match=rf"one\.json, row 2.*{message}"):
        data.load("one", folder({"formatting": "sharegpt"}, [{"conversations": good}, {"conversations": bad}]))


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"formatting": "chatml"}, r"unknown formatting 'chatml'; expected alpaca, sharegpt, openai"),
        ({"colums": {}}, r"unknown key 'colums'"),
        ({"columns": {"prompt": "instruction", "reply": "output"}}, r"columns: unknown key 'reply'"),
        (
            {"columns": {"prompt": "question", "response": "output"}},
            r"columns\.prompt: names 'question', which no row has",
        ),
        (
            {"columns": {"prompt": ["instruction"]}},
            r"columns\.prompt: expected a name as text, found \['instruction'\]",
        ),
        ({"ranking": True}, r"columns does not name chosen"),
        ({"ranking": "true"}, r"ranking must be true or false without quotes, found 'true'"),
        (
            {"columns": {"prompt": "instruction", "response": "output", "chosen": "c"}},
            r"columns\.chosen is read only with",
        ),
        (
            {"ranking": True, "columns": {"prompt": "p", "chosen": "c", "rejected": "r", "kto_tag": "k"}},
            r"ranking and columns\.kto_tag are two kinds of rows",
        ),
        ({"script_url": "make.py"}, r"script_url is not read: `datasets` 4 runs no scripts.*save its rows .* as JSONL"),
        ({"cloud_file_name": "s3://rows.json"}, r"cloud_file_name is not read here\. Save its rows once as JSONL"),
        ({"om_hub_url": "someone/rows"}, r"om_hub_url is not read here.*Save its rows once as JSONL"),
        ({"hf_hub_url": "json", "folder": "/etc"}, r"hf_hub_url must be owner/name, found 'json'"),
        ({"hf_hub_url": "../rows"}, r"hf_hub_url must be owner/name"),
        ({"subset": "main"}, r"subset belongs to a hub; with file_name LLaMA-Factory does not read it"),
        ({"folder": 1}, r"folder must be text, found 1"),
        ({"num_samples": "9"}, r"num_samples must be a whole number of at least 1, found '9'"),
        ({"num_samples": 0}, r"num_samples must be a whole number of at least 1, found 0"),
        ({"num_samples": True}, r"num_samples must be a whole number"),
        ({"split": "test"}, r"split 'test' of a file: .*Expected train or a slice of it"),
        ({"split": "train[5:]"}, r"split 'train\[5:\]' leaves no row"),
        ({"file_name": "a" * 300}, r"there is no file"),
        ({"file_name": "a\0.json"}, r"is no path that can be read"),
        ({"file_name": "two.json"}, r"there is no file .*two\.json"),
        ({"file_name": "../one.json"}, r"leads out of"),
        ({"file_name": "/etc/hostname"}, r"leads out of"),
        ({"file_name": ""}, r"file_name is missing"),
        ({"formatting": "sharegpt", "tags": {"role_tag": "role"}}, r"tags does not name content_tag"),
    ],
)
def test_entry_errors(folder, entry, message):
    with pytest.raises(data.DataError, match=message):
        data.load("one", folder(entry, [GOOD]))


def test_a_link_out_of_the_folder_is_refused(folder, tmp_path_factory):
    secret = tmp_path_factory.mktemp("outside") / "rows.json"
    secret.write_text("[]", encoding="utf-8")
    where = folder({"file_name": "link.json"}, [GOOD])
    (where / "link.json").symlink_to(secret)
    with pytest.raises(data.DataError, match="leads out of"):
        data.load("one", where)


def test_unknown_name_and_missing_registry(folder, tmp_path):
    with pytest.raises(data.DataError, match=r"has no data set 'two'\. It has: one"):
        data.load("two", folder({}, [GOOD]))
    with pytest.raises(data.DataError, match=r"dataset_info\.json is missing"):
        data.load("one", tmp_path / "nowhere")


def test_read_raw_errors(tmp_path):
    (tmp_path / "a.csv").write_text("q,a\n1,2\n1,2,3\n", encoding="utf-8")
    with pytest.raises(data.DataError, match=r"a\.csv, row 2, line 3: has 3 cells, the header has 2"):
        data.read_raw(tmp_path / "a.csv")
    (tmp_path / "a.jsonl").write_text('{"a": 1}\n{"a": \n', encoding="utf-8")
    with pytest.raises(data.DataError, match=r"a\.jsonl, row 2, line 2: not JSON"):
        data.read_raw(tmp_path / "a.jsonl")
    (tmp_path / "b.jsonl").write_bytes('{"a": "é"}'.encode("latin-1"))
    with pytest.raises(data.DataError, match="not UTF-8"):
        data.read_raw(tmp_path / "b.jsonl")
    with pytest.raises(data.DataError, match=r"cannot read \.xlsx"):
        data.read_raw(tmp_path / "a.xlsx")
    with pytest.raises(data.DataError, match="no such file"):
        data.read_raw(tmp_path / "none.csv")


def test_a_name_that_stands_twice_in_the_registry_is_refused(folder):
    where = folder({}, [GOOD])
    (where / "dataset_info.json").write_text('{"one": {"file_name": "one.json"}, "one": {}}', encoding="utf-8")
    with pytest.raises(data.DataError, match=r"dataset_info\.json: the key 'one' stands twice"):
        data.load("one", where)
