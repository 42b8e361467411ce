"""`export_llamafactory`: files that LLaMA-Factory reads as meant, and that load back here as they were."""

import json
from itertools import groupby
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from datasets import load_dataset
from hypothesis import given, settings
from strategies import TOOLS, conversations

from course_utils import data
from notebooks import llamafactory
from notebooks.llamafactory import export_llamafactory

BUNDLED = ["json", "tools", "thinking", "worked", "plain", "general"]
JOINER = "\n</tool_response>\n<tool_response>\n"


def said(role, content, **more):
    return {"role": role, "content": content, **more}


def call(name, arguments, **more):
    return {"type": "function", "function": {"name": name, "arguments": json.dumps(arguments)}, **more}


CHAT = [said("user", "Hi"), said("assistant", "Hello")]
PROMPT = [said("system", "Be kind."), *CHAT, said("user", "Bye")]
WITH_TOOLS = [
    said("user", "Weather?"),
    said("assistant", "", tool_calls=[call("get_weather", {"city": "林 <think>"}, id="a")]),
    said("tool", '{"c": 3}', tool_call_id="a"),
    said("assistant", "", tool_calls=[call("get_weather", {"city": "x"}), call("get_weather", {"days": [1, None]})]),
    said("tool", "4"),
    said("tool", "5"),
    said("assistant", "Cold."),
]
KINDS = {
    "chat": [{"messages": CHAT, "id": "c-1", "tags": ["en"]}, {"messages": [said("system", "Be kind."), *CHAT, *CHAT]}],
    "tools": [{"messages": WITH_TOOLS, "tools": json.dumps(TOOLS)}, {"messages": CHAT}],
    "preference": [
        {"messages": PROMPT, "chosen": [said("assistant", "Bye!")], "rejected": [said("assistant", "No.")]},
        {"messages": CHAT[:1], "chosen": CHAT[1:], "rejected": [said("assistant", "你好")], "id": "p-2"},
    ],
    "kto": [{"messages": CHAT, "label": True}, {"messages": [*PROMPT, said("assistant", "No.")], "label": False}],
    "text": [{"messages": [], "text": "Once upon a time.\n", "tags": ["en"]}, {"messages": [], "text": "从前"}],
    "media": [
        {
            "messages": [said("user", "<image><image>What?<video>"), said("assistant", "A cat. <audio>")],
            "images": ["a.png", "b/c.png"],
            "videos": ["v.mp4"],
            "audios": ["s.wav"],
        },
        {"messages": CHAT},
    ],
    "preference with images": [
        {
            "messages": [said("user", "<image>What?")],
            "chosen": [said("assistant", "A cat.")],
            "rejected": [said("assistant", "A dog.")],
            "images": ["a.png"],
        }
    ],
    "preference with calls": [
        {
            "messages": WITH_TOOLS[:1],
            "chosen": [said("assistant", "", tool_calls=[call("get_weather", {"city": "x"})])],
            "rejected": [said("assistant", "No.")],
            "tools": json.dumps(TOOLS),
        }
    ],
    "kto with images": [
        {"messages": [said("user", "<image>What?"), said("assistant", "A cat.")], "images": ["a"], "label": True}
    ],
}


def rows_of(dataset):
    return [data.plain(row) for row in dataset]


def written(path):
    return json.loads(path.read_text(encoding="utf-8"))


def registry(folder):
    return written(folder / "dataset_info.json")


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# ----------------------------------------------------------- the schema, as LLaMA-Factory's data/README.md documents it
DOCUMENTED = {"file_name", "formatting", "ranking", "columns"}
DOCUMENTED_COLUMNS = {"messages", "system", "tools", "images", "videos", "audios", "chosen", "rejected", "kto_tag"}


def read_strictly(entry, rows):
    """Hold rows against the README, by nothing but the columns that the entry names.

    Args:
        entry: of dataset_info.json.
        rows: of the file.

    Returns:
        For each row its system text, its turns as (tag, value), and the other parts it has.
    """
    columns = entry["columns"]
    assert entry.keys() <= DOCUMENTED and rows
    assert columns.keys() <= DOCUMENTED_COLUMNS or columns == {"prompt": "text"}
    for column in columns.values():
        assert any(row.get(column) is not None for row in rows), column
    read = []
    for row in rows:
        parts = {part: row.get(column) for part, column in columns.items() if row.get(column) is not None}
        if list(columns) == ["prompt"]:
            assert entry["formatting"] == "alpaca" and isinstance(parts["prompt"], str)
            read.append(parts)
            continue
        assert entry["formatting"] == "sharegpt"
        turns = sharegpt_turns(parts)
        replies = [check_reply(parts[reply]) for reply in ("chosen", "rejected") if reply in columns]
        assert len(replies) == (2 if entry.get("ranking") else 0)
        assert len(turns) % 2 == (1 if replies else 0) and turns
        for place, (tag, value) in enumerate(turns):
            assert tag in (("human", "observation") if place % 2 == 0 else ("gpt", "function_call"))
            check_value(tag, value)
        if "kto_tag" in columns:
            assert isinstance(parts["kto_tag"], bool)
        if "tools" in parts:
            assert all(isinstance(tool, dict) for tool in json.loads(parts["tools"]))
        assert isinstance(parts.get("system", ""), str) and parts.get("system") != ""
        for media in {"images", "videos", "audios"} & columns.keys():
            mark = f"<{media[:-1]}>"
            for reply in replies or [("gpt", "")]:
                assert sum(value.count(mark) for _, value in [*turns, reply]) == len(parts.get(media, []))
        read.append(parts | {"turns": turns, "replies": replies})
    return read


def sharegpt_turns(parts):
    assert all(turn.keys() == {"from", "value"} for turn in parts["messages"])
    return [(turn["from"], turn["value"]) for turn in parts["messages"]]


def check_reply(reply):
    assert reply.keys() == {"from", "value"} and reply["from"] in ("gpt", "function_call")
    check_value(reply["from"], reply["value"])
    return reply["from"], reply["value"]


def check_value(tag, value):
    assert isinstance(value, str)
    if tag == "function_call":
        assert "<" not in value  # LLaMA-Factory looks for <think> and <tool_call> in it
        calls = json.loads(value)
        for one in calls if isinstance(calls, list) else [calls]:
            assert one.keys() == {"name", "arguments"} and isinstance(one["arguments"], dict)


def check_export(path, folder):
    """Both what is written and what `datasets` makes of it (LLaMA-Factory reads through it) hold to the schema."""
    entry, rows = registry(folder)[path.stem], written(path)
    table = load_dataset("json", data_files=str(path), split="train", cache_dir=str(folder / "cache"))
    assert rows_of(table) == rows
    return read_strictly(entry, rows)


# ------------------------------------------------------------------------------------------------------- there and back
def comparable(row):
    """A row without what ShareGPT cannot hold: ids of calls, edges of thinking."""
    row = {key: value for key, value in row.items() if key not in ("source", "id")}
    for key in ("messages", "chosen", "rejected"):
        if key in row:
            row[key] = [comparable_turn(message) for message in row[key]]
    if "tools" in row:
        row["tools"] = json.loads(row["tools"])
    return row


def comparable_turn(message):
    message = {key: value for key, value in message.items() if key != "tool_call_id"}
    if "reasoning_content" in message:
        message = {key: value.strip("\n") for key, value in message.items()}
        if not message["reasoning_content"].strip():
            del message["reasoning_content"]
    if "tool_calls" in message:
        functions = [one["function"] for one in message["tool_calls"]]
        message["tool_calls"] = [(one["name"], json.loads(one["arguments"])) for one in functions]
    return message


def joined(messages):
    """Results of parallel calls as the one observation that the file holds."""
    turns = []
    for role, group in groupby(messages, key=lambda message: message["role"]):
        group = list(group)
        turns += [said("tool", JOINER.join(one["content"] for one in group))] if role == "tool" else group
    return turns


def check_round_trip(dataset, folder, name):
    before, after = rows_of(dataset), rows_of(data.load(name, folder))
    assert {row["source"] for row in after} == {name}
    assert [comparable(row) for row in after] == [comparable(row) for row in before]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_row_holds_to_the_schema_and_loads_back(kind, tmp_path):
    dataset = data.to_dataset(KINDS[kind])
    path = export_llamafactory(dataset, tmp_path, "mine")
    assert path == tmp_path / "mine.json" and len(check_export(path, tmp_path)) == len(dataset)
    check_round_trip(dataset, tmp_path, "mine")


@pytest.mark.parametrize("name", BUNDLED)
def test_the_bundled_rows_hold_to_the_schema(name, tmp_path):
    dataset = data.load(name)
    assert len(check_export(export_llamafactory(dataset, tmp_path, name), tmp_path)) == len(dataset)


@pytest.mark.parametrize("name", BUNDLED)
def test_the_bundled_rows_load_back(name, tmp_path):
    dataset = data.load(name)
    export_llamafactory(dataset, tmp_path, name)
    check_round_trip(dataset, tmp_path, name)


def test_the_id_of_a_row_loads_back(tmp_path):
    export_llamafactory(data.to_dataset(KINDS["chat"]), tmp_path, "mine")
    assert data.load("mine", tmp_path)["id"][:] == ["c-1", "mine:2"]


@settings(max_examples=100)
@given(conversations(thinking=True, tools=True))
def test_any_chat_is_refused_with_its_row_or_read_as_meant(messages):
    dataset = data.to_dataset([{"messages": CHAT}, {"messages": messages, "tools": json.dumps(TOOLS)}])
    with TemporaryDirectory() as folder:
        if not can_be_written(messages):
            with pytest.raises(data.DataError, match=r"dataset\[1\]"):
                export_llamafactory(dataset, folder, "mine")
            return
        path = export_llamafactory(dataset, folder, "mine")
        row = read_strictly(registry(Path(folder))["mine"], written(path))[1]
        expected = [as_turn(message) for message in joined(messages) if message["role"] != "system"]
        assert [
            (tag, json.loads(value) if tag == "function_call" else value) for tag, value in row["turns"]
        ] == expected
        assert row.get("system") == (messages[0]["content"] if messages[0]["role"] == "system" else None)
        check_round_trip(dataset, folder, "mine")


def can_be_written(messages):
    replies = [message for message in messages if message["role"] == "assistant"]
    marks = any(
        mark in m["content"] + m.get("reasoning_content", "") for m in replies for mark in ("<think>", "</think>")
    )
    return messages[0] != said("system", "") and not marks


def as_turn(message):
    if "tool_calls" in message:
        function = message["tool_calls"][0]["function"]
        return "function_call", {"name": function["name"], "arguments": json.loads(function["arguments"])}
    value = message["content"]
    if "reasoning_content" in message:
        value = f"<think>\n{message['reasoning_content']}\n</think>\n\n{value}"
    return {"user": "human", "assistant": "gpt", "tool": "observation"}[message["role"]], value


# ---------------------------------------------------------------------------------------------------- how it is written
def test_what_stands_in_the_file_and_in_the_registry(tmp_path):
    export_llamafactory(data.to_dataset(KINDS["tools"]), tmp_path, "mine")
    calls, *_ = written(tmp_path / "mine.json")
    assert calls["conversations"][1]["value"] == (
        r'{"name": "get_weather", "arguments": {"city": "林 \u003cthink>"}}'  # no mark for LLaMA-Factory
    )
    assert calls["conversations"][4] == {"from": "observation", "value": f"4{JOINER}5"}
    assert registry(tmp_path) == {
        "mine": {
            "file_name": "mine.json",
            "formatting": "sharegpt",
            "columns": {"messages": "conversations", "tools": "tools"},
        }
    }
    text = (tmp_path / "mine.json").read_text(encoding="utf-8")
    assert "林" in text and text.startswith('[\n  {\n    "conversations"')


def test_thinking_stands_in_the_reply_as_llamafactory_writes_it(tmp_path):
    messages = [CHAT[0], said("assistant", "4", reasoning_content="2 + 2")]
    path = export_llamafactory(data.to_dataset([{"messages": messages}]), tmp_path, "mine")
    assert written(path)[0]["conversations"][1]["value"] == "<think>\n2 + 2\n</think>\n\n4"


def test_text_is_alpaca_with_a_prompt_alone(tmp_path):
    export_llamafactory(data.to_dataset(KINDS["text"]), tmp_path, "mine")
    entry = {"file_name": "mine.json", "formatting": "alpaca", "columns": {"prompt": "text"}}
    assert registry(tmp_path) == {"mine": entry}


def test_the_same_data_set_gives_the_same_bytes_also_a_second_time(tmp_path):
    dataset = data.load("tools")
    for folder in ("one", "two", "two"):
        export_llamafactory(dataset, tmp_path / folder, "tools")
    one, two = (list(contents(tmp_path / folder).values()) for folder in ("one", "two"))
    assert sorted(one) == sorted(two) and len(one) == 2


def test_another_export_keeps_the_entries_that_are_there(tmp_path):
    other = {"hf_hub_url": "a/b", "columns": {"prompt": "问"}, "unknown": [1.5, None]}
    (tmp_path / "dataset_info.json").write_text(json.dumps({"other": other}), encoding="utf-8")
    export_llamafactory(data.to_dataset(KINDS["chat"]), tmp_path, "first")
    first = registry(tmp_path)["first"]
    export_llamafactory(data.to_dataset(KINDS["kto"]), tmp_path, "second")
    assert list(registry(tmp_path)) == ["other", "first", "second"]
    assert registry(tmp_path)["other"] == other and registry(tmp_path)["first"] == first
    export_llamafactory(data.to_dataset(KINDS["text"]), tmp_path, "first")
    assert registry(tmp_path)["first"]["columns"] == {"prompt": "text"} and len(written(tmp_path / "first.json")) == 2


def test_the_rows_are_there_before_the_registry_names_them(tmp_path, monkeypatch):
    order = []
    monkeypatch.setattr(llamafactory, "write_json", lambda path, value: order.append(path.name) or path)
    export_llamafactory(data.to_dataset(KINDS["chat"]), tmp_path, "mine")
    assert order == ["mine.json", "dataset_info.json"]


# ------------------------------------------------------------------------------------------------------ what is refused
THINKING_CALL = said("assistant", "", tool_calls=[call("f", {})], reasoning_content="Hm.")
BAD_ROWS = {
    r"dataset\[1\], messages\[1\]: has a call beside text": [
        CHAT[0],
        said("assistant", "I look.", tool_calls=[call("f", {})]),
    ],
    r"dataset\[1\], messages\[1\]: has a call beside text or thinking": [CHAT[0], THINKING_CALL],
    r"dataset\[1\], messages\[1\]: this turn is of user, but an assistant turn is due": [CHAT[0], *CHAT],
    r"dataset\[1\], messages\[2\]: this turn is of system": [*CHAT, said("system", "x"), *CHAT],
    r"dataset\[1\], messages: must end with an assistant turn": PROMPT,
    r"dataset\[1\], messages: must end with an assistant": [said("system", "x")],
    r"dataset\[1\], messages\[0\]: an empty system turn": [said("system", ""), *CHAT],
    r"dataset\[1\], messages\[1\]: holds <think>": [CHAT[0], said("assistant", "Say <think>")],
    r"dataset\[1\], messages\[1\]: holds </think>": [CHAT[0], said("assistant", "x", reasoning_content="a </think> b")],
    r"dataset\[1\], messages\[2\]: holds what stands between": [
        *WITH_TOOLS[:2],
        said("tool", f"a{JOINER}b"),
        said("assistant", "x"),
    ],
    r"dataset\[1\], messages\[0\].role": [said("User", "Hi"), CHAT[1]],
    r"dataset\[1\], messages\[3\]: is not to be learned \(weight 0\)": [
        *CHAT,
        *CHAT[:1],
        said("assistant", "x", weight=0),
    ],
    r"dataset\[1\], messages: expected a list with at least one message": [],
    r"dataset\[1\], messages\[1\].tool_calls\[0\].arguments": [
        CHAT[0],
        said("assistant", "", tool_calls=[call("f", [])]),
    ],
    r"dataset\[1\], messages\[1\].tool_calls\[0\].arguments: .*NaN": [
        CHAT[0],
        said("assistant", "", tool_calls=[call("f", {"a": float("nan")})]),
    ],
    r"dataset\[1\], messages\[1\].tool_calls\[0\].arguments: .* not JSON compliant": [
        CHAT[0],
        said(
            "assistant", "", tool_calls=[{"type": "function", "function": {"name": "f", "arguments": '{"a": 1e999}'}}]
        ),
    ],
    r"dataset\[1\], messages\[1\].tool_calls\[0\].arguments: half of a character": [
        CHAT[0],
        said("assistant", "", tool_calls=[call("f", {"a": "\ud800"})]),
    ],
}


@pytest.mark.parametrize("message", BAD_ROWS)
def test_a_chat_that_cannot_be_written_leaves_the_folder_as_it_was(message, tmp_path):
    export_llamafactory(data.to_dataset(KINDS["chat"]), tmp_path, "mine")
    before = contents(tmp_path)
    dataset = data.to_dataset([{"messages": CHAT}, {"messages": BAD_ROWS[message]}])
    with pytest.raises(data.DataError, match=message):
        export_llamafactory(dataset, tmp_path, "mine")
    with pytest.raises(data.DataError, match=message):
        export_llamafactory(dataset, tmp_path / "new", "mine")
    assert contents(tmp_path) == before and not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ([{"messages": CHAT}, {"messages": CHAT, "label": True}], r"dataset\[1\]: a row of kto among rows of chat"),
        ([{"messages": CHAT}, {"messages": [], "text": "x"}], r"dataset\[1\]: a row of text among rows of chat"),
        (
            [{"messages": CHAT[:1], "chosen": CHAT[1:]}],
            r"dataset\[0\], rejected: expected a list of one assistant turn",
        ),
        ([{"messages": CHAT, "chosen": CHAT[1:], "rejected": CHAT[1:]}], r"must end with a user turn or a tool result"),
        ([{"messages": [CHAT[0], said("assistant", "")], "label": True}], "an empty reply"),
        ([{"messages": CHAT, "tools": '{"a": 1}'}], r"dataset\[0\], messages.tools: expected a list of schemas"),
        ([{"messages": CHAT, "tools": "[NaN]"}], r"dataset\[0\], messages.tools: not JSON: NaN"),
        (
            [{"messages": CHAT, "images": ["a.png"]}],
            r"dataset\[0\], images: names 1, and the turns hold <image> 0 times",
        ),
        (
            [KINDS["media"][0], {"messages": [said("user", "<video>"), CHAT[1]]}],
            r"dataset\[1\], videos: names 0, and the turns hold <video> 1 times",
        ),
        (
            [{"messages": [said("user", "<image>"), CHAT[1]], "images": ["../x.png"]}],
            r"dataset\[0\], images\[0\]: '../x.png' leads out of",
        ),
        ([], "the data set has no rows"),
    ],
)
def test_other_rows_that_cannot_be_written(bad, message, tmp_path):
    with pytest.raises(data.DataError, match=message):
        export_llamafactory(data.to_dataset(bad), tmp_path, "mine")
    assert not contents(tmp_path)


@pytest.mark.parametrize(
    ("name", "before", "message"),
    [
        ("mine", {"dataset_info.json": '{"mine": {"file_name": "raw/mine.jsonl"}}'}, "not from an export of this name"),
        ("mine", {"dataset_info.json": '{"mine": {"hf_hub_url": "a/b"}}'}, "not from an export of this name"),
        ("mine", {"dataset_info.json": '{"mine": 3}'}, "not from an export of this name"),
        ("mine", {"mine.json": "[1]"}, "mine.json is there already"),
        ("mine", {"dataset_info.json": "{"}, "cannot be read: Expecting"),
        ("mine", {"dataset_info.json": "[]"}, "expected an object of data sets, found list"),
        ("mine", {"dataset_info.json": '{"a": 1, "a": 2}'}, "'a' stands twice"),
        ("dataset_info", {}, "cannot name a data set"),
        ("Dataset_Info", {}, "cannot name a data set"),
        ("../mine", {}, "cannot name a data set"),
        ("a,b", {}, "cannot name a data set"),
        ("", {}, "cannot name a data set"),
    ],
)
def test_what_is_there_is_not_overwritten(name, before, message, tmp_path):
    for file, text in before.items():
        (tmp_path / file).write_text(text, encoding="utf-8")
    there = contents(tmp_path)
    with pytest.raises(data.DataError, match=message):
        export_llamafactory(data.to_dataset(KINDS["chat"]), tmp_path, name)
    assert contents(tmp_path) == there


def test_results_are_written_in_the_order_of_their_calls(tmp_path):
    """ShareGPT has no ids: written as they come, they would be taken for each other's."""
    calls = [call("f", {"n": n}, id=f"c{n}") for n in range(3)]
    results = [said("tool", f"result {n}", tool_call_id=f"c{n}") for n in (2, 0, 1)]
    turns = [said("user", "Q"), said("assistant", "", tool_calls=calls), *results, said("assistant", "A")]
    export_llamafactory(data.to_dataset([{"messages": turns}]), tmp_path, "mine")
    [row] = data.load("mine", tmp_path)
    assert [turn["content"] for turn in row["messages"][2:5]] == ["result 0", "result 1", "result 2"]
