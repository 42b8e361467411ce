"""What a row has beside a chat: chosen and rejected, a label, a text, images; and tool arguments on disk."""

import json

import pytest
from datasets import Value, load_from_disk

from course_utils import data
from course_utils.data.rows import join, quiet

OPENAI_TAGS = {
    "role_tag": "role",
    "content_tag": "content",
    "user_tag": "user",
    "assistant_tag": "assistant",
    "observation_tag": "tool",
    "function_tag": "function_call",
    "system_tag": "system",
}
PREFERENCE = {"messages": "conversations", "chosen": "chosen", "rejected": "rejected"}
KTO = {"messages": "conversations", "kto_tag": "label"}


@pytest.fixture
def folder(tmp_path):
    """Write a registry of one entry, named "one", and its rows."""

    def write(entry, rows):
        (tmp_path / "one.json").write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
        registry = {"one": {"file_name": "one.json"} | entry}
        (tmp_path / "dataset_info.json").write_text(json.dumps(registry), encoding="utf-8")
        return tmp_path

    return write


def loaded(folder):
    rows = [data.plain(row) for row in data.load("one", folder)]
    assert [row.pop("id") for row in rows] == [f"one:{number}" for number in range(1, len(rows) + 1)]
    return rows


def said(role, content):
    return {"role": role, "content": content}


def turn(role, value):
    return {"from": role, "value": value}


# ----------------------------------------------------------------------------------------------------------- preference
def test_alpaca_preference(folder):
    columns = {"prompt": "q", "query": "more", "chosen": "good", "rejected": "bad", "history": "before"}
    row = {"q": "Add.", "more": "2, 3", "good": "5", "bad": "6", "before": [["Hi", "Hello"]]}
    where = folder({"ranking": True, "columns": columns}, [row])
    assert data.load("one", where).column_names == ["messages", "source", "tags", "chosen", "rejected", "id"]
    assert loaded(where) == [
        {
            "messages": [said("user", "Hi"), said("assistant", "Hello"), said("user", "Add.\n2, 3")],
            "source": "one",
            "tags": [],
            "chosen": [said("assistant", "5")],
            "rejected": [said("assistant", "6")],
        }
    ]


def test_sharegpt_preference_with_a_call_after_a_result(folder):
    call = '{"name": "f", "arguments": {"x": 1}}'
    row = {
        "conversations": [turn("human", "Q"), turn("function_call", call), turn("observation", "7")],
        "chosen": turn("gpt", "Seven."),
        "rejected": turn("function_call", call),
        "system": "S",
    }
    entry = {"ranking": True, "formatting": "sharegpt", "columns": PREFERENCE | {"system": "system"}}
    [row] = loaded(folder(entry, [row]))
    assert [m["role"] for m in row["messages"]] == ["system", "user", "assistant", "tool"]
    assert row["chosen"] == [said("assistant", "Seven.")]
    calls = [{"type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}}]
    assert row["rejected"] == [said("assistant", "") | {"tool_calls": calls}]


def test_openai_preference_keeps_calls_and_thinking(folder):
    call = {"type": "function", "id": "c", "function": {"name": "f", "arguments": '{"x":  1}'}}
    row = {
        "conversations": [said("user", "Q")],
        "chosen": {"role": "assistant", "content": None, "tool_calls": [call]},
        "rejected": said("assistant", "A") | {"reasoning_content": "R"},
    }
    [row] = loaded(folder({"ranking": True, "formatting": "openai", "columns": PREFERENCE, "tags": OPENAI_TAGS}, [row]))
    assert row["chosen"][0]["tool_calls"] == [call]
    assert row["rejected"][0]["reasoning_content"] == "R"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"chosen": "text"}, r"chosen: expected an object with a role and a content, found 'text'"),
        ({"rejected": None}, r"rejected: expected an object with a role and a content, found nothing"),
        ({"rejected": turn("human", "A")}, r"rejected: expected an assistant turn, found a turn of user"),
        ({"chosen": turn("bot", "A")}, r"chosen\.from: 'bot' is no role here"),
        ({"chosen": turn("gpt", 5)}, r"chosen\.value: expected text, found 5"),
        ({"conversations": [turn("human", "Q"), turn("gpt", "A")]}, r"must end with a user turn or a tool result"),
        ({"conversations": [turn("system", "S")]}, r"must end with a user turn or a tool result"),
    ],
)
def test_preference_errors_name_row_and_field(folder, change, message):
    good = {"conversations": [turn("human", "Q")], "chosen": turn("gpt", "A"), "rejected": turn("gpt", "B")}
    entry = {"ranking": True, "formatting": "sharegpt", "columns": PREFERENCE}
    with pytest.raises(data.DataError, match=rf"one\.json, row 2, line 1, .*{message}"):
        data.load("one", folder(entry, [good, good | change]))


def test_alpaca_preference_errors_name_row_and_field(folder):
    entry = {"ranking": True, "columns": {"prompt": "q", "chosen": "good", "rejected": "bad"}}
    with pytest.raises(data.DataError, match=r"one\.json, row 1, line 1, bad: expected text, found \['b'\]"):
        data.load("one", folder(entry, [{"q": "Q", "good": "a", "bad": ["b"]}]))
    with pytest.raises(data.DataError, match=r"one\.json, row 2, line 1, good: the field 'good' is missing"):
        data.load("one", folder(entry, [{"q": "Q", "good": "a", "bad": "b"}, {"q": "Q", "bad": "b"}]))


# ------------------------------------------------------------------------------------------------------------------ kto
@pytest.mark.parametrize("label", [True, False])
def test_kto_keeps_the_whole_conversation_and_its_label(folder, label):
    row = {"conversations": [turn("human", "Q"), turn("gpt", "A")], "label": label}
    where = folder({"formatting": "sharegpt", "columns": KTO}, [row])
    [row] = loaded(where)
    assert row["messages"] == [said("user", "Q"), said("assistant", "A")] and row["label"] is label
    assert data.load("one", where).features["label"] == Value("bool")
    alpaca = {"columns": {"prompt": "q", "response": "a", "kto_tag": "ok"}}
    [row] = loaded(folder(alpaca, [{"q": "Q", "a": "A", "ok": label}]))
    assert row["messages"] == [said("user", "Q"), said("assistant", "A")] and row["label"] is label


@pytest.mark.parametrize(("label", "found"), [("true", "'true'"), (1, "1"), (None, "nothing")])
def test_a_label_that_is_no_bool_is_refused(folder, label, found):
    row = {"conversations": [turn("human", "Q"), turn("gpt", "A")], "label": label}
    with pytest.raises(
        data.DataError,
        match=rf"one\.json, row 1, line 1, label: expected true .* or false, without quotes; found {found}",
    ):
        data.load("one", folder({"formatting": "sharegpt", "columns": KTO}, [row]))


# ---------------------------------------------------------------------------------------------------------- pretraining
def test_pretraining_text(folder):
    where = folder({"columns": {"prompt": "text"}}, [{"text": "Once.\n", "url": "u"}, {"text": "", "tags": ["en"]}])
    assert data.load("one", where).column_names == ["messages", "source", "tags", "id", "text"]
    assert loaded(where) == [
        {"messages": [], "source": "one", "tags": [], "text": "Once.\n"},
        {"messages": [], "source": "one", "tags": ["en"], "text": ""},
    ]
    with pytest.raises(data.DataError, match=r"one\.json, row 2, line 1, text: expected text, found 5"):
        data.load("one", folder({"columns": {"prompt": "text"}}, [{"text": "a"}, {"text": 5}]))


# ---------------------------------------------------------------------------------------------------------------- media
MEDIA = {"messages": "conversations", "images": "images", "videos": "videos", "audios": "audios"}


def seen(question, answer="A", **files):
    empty = {"images": None, "videos": [], "audios": ""}
    return {"conversations": [turn("human", question), turn("gpt", answer)]} | empty | files


def test_files_are_lists_and_stand_only_where_a_row_has_them(folder):
    rows = [
        seen("<image> and <image>?", images=["a.jpg", "b/c.jpg"]),
        seen("<audio>?", "<video>", videos=["v.mp4"], audios="s.wav"),  # one name; a placeholder in the reply
        seen("nothing"),
    ]
    columns = MEDIA
    dataset = data.load("one", folder({"formatting": "sharegpt", "columns": columns}, rows))
    found = [
        {key: row[key] for key in ("images", "videos", "audios") if key in row} for row in map(data.plain, dataset)
    ]
    assert found == [{"images": ["a.jpg", "b/c.jpg"]}, {"videos": ["v.mp4"], "audios": ["s.wav"]}, {}]
    only = data.load("one", folder({"formatting": "sharegpt", "columns": columns}, rows[:1] + rows[2:]))
    assert only.column_names == ["messages", "source", "tags", "id", "images"]


def test_placeholders_are_plain_text_where_the_entry_names_no_media(folder):
    """<video> and <audio> are HTML too."""
    [row] = loaded(folder({"formatting": "sharegpt"}, [seen("Explain <video>.")]))
    assert row["messages"][0]["content"] == "Explain <video>."


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (seen("<image>?"), r"images: names 0, and the turns hold <image> 1 times"),
        (seen("?", images=["a.jpg"]), r"images: names 1, and the turns hold <image> 0 times"),
        (seen("<image>", "<image>", images="a.jpg"), r"images: names 1, and the turns hold <image> 2 times"),
        (seen("<image>", videos=["a.mp4"], images=["a.jpg"]), r"videos: names 1, and the turns hold <video> 0 times"),
        (seen("<audio>"), r"audios: names 0, and the turns hold <audio> 1 times"),
        (seen("<image>", images=[["a.jpg"]]), r"images\[0\]: expected the name of a file, found \['a\.jpg'\]"),
        (seen("<image>", images={"bytes": "x"}), r"images\[0\]: expected the name of a file, found \{'bytes'"),
        (seen("<image><image>", images=["a.jpg", ""]), r"images\[1\]: expected the name of a file, found ''"),
        (seen("<image>", images=["../a.jpg"]), r"images\[0\]: '\.\./a\.jpg' leads out of"),
        (seen("<image>", images=["/etc/hostname"]), r"images\[0\]: '/etc/hostname' leads out of"),
        (seen("<image>", images=["a\0.jpg"]), r"images\[0\]: .* is no path that can be read"),
    ],
)
def test_media_errors_name_row_and_field(folder, row, message):
    with pytest.raises(data.DataError, match=rf"one\.json, row 2, line 1, {message}"):
        data.load("one", folder({"formatting": "sharegpt", "columns": MEDIA}, [seen("fine"), row]))


def test_all_three_kinds_of_media_are_counted_where_one_is_named(folder):
    columns = {"messages": "conversations", "images": "images"}
    with pytest.raises(data.DataError, match=r"row 1, line 1, videos: names 0, and the turns hold <video> 1 times"):
        data.load("one", folder({"formatting": "sharegpt", "columns": columns}, [seen("<video>")]))


def test_a_link_to_an_image_outside_is_refused(folder, tmp_path_factory):
    where = folder({"formatting": "sharegpt", "columns": MEDIA}, [seen("<image>", images=["link/a.jpg"])])
    (where / "link").symlink_to(tmp_path_factory.mktemp("outside"))
    with pytest.raises(data.DataError, match=r"images\[0\]: 'link/a\.jpg' leads out of"):
        data.load("one", where)


def test_either_reply_of_a_preference_must_fit_its_files(folder):
    row = {"conversations": [turn("human", "<image>")], "chosen": turn("gpt", "A"), "images": ["a.jpg"]}
    entry = {"ranking": True, "formatting": "sharegpt", "columns": PREFERENCE | {"images": "images"}}
    [good] = loaded(folder(entry, [row | {"rejected": turn("gpt", "B")}]))
    assert good["images"] == ["a.jpg"]
    with pytest.raises(data.DataError, match="names 1, and the turns hold <image> 2 times"):
        data.load("one", folder(entry, [row | {"rejected": turn("gpt", "<image>")}]))


# -------------------------------------------------------------------------------------------------------------- on disk
ARGUMENTS = [{"a": 1}, {"b": {"c": None, "d": [1, "x", {}]}}, {}, {"城市": "奥斯陆", "n": 1.50}, [1, None], None]


@pytest.mark.parametrize("kind", ["sharegpt", "openai object", "openai text"])
def test_tool_arguments_come_back_from_disk_unchanged(folder, tmp_path, kind):
    """Pitfall arrow-invents-arguments: calls with different arguments in one column, in prompt and replies."""
    rows = []
    for arguments in ARGUMENTS:
        if kind == "sharegpt":
            call = turn("function_call", json.dumps({"name": "f", "arguments": arguments}))
            rows.append({"conversations": [turn("human", "Q")], "chosen": call, "rejected": turn("gpt", "B")})
        else:
            told = json.dumps(arguments, indent=1) if kind == "openai text" else arguments
            call = said("assistant", "") | {"tool_calls": [{"id": "c", "function": {"name": "f", "arguments": told}}]}
            rows.append({"conversations": [said("user", "Q")], "chosen": call, "rejected": said("assistant", "B")})
    entry = {"ranking": True, "formatting": "sharegpt", "columns": PREFERENCE}
    entry |= {} if kind == "sharegpt" else {"formatting": "openai", "tags": OPENAI_TAGS}
    before = data.load("one", folder(entry, rows))
    with quiet():
        before.save_to_disk(tmp_path / "arrow")
    after = load_from_disk(str(tmp_path / "arrow"))
    assert after.features == before.features and after[:] == before[:]
    told = [row["chosen"][0]["tool_calls"][0]["function"]["arguments"] for row in after]
    assert told == [
        json.dumps(a, indent=1) if kind == "openai text" else json.dumps(a, ensure_ascii=False) for a in ARGUMENTS
    ]


def test_rows_of_all_kinds_join(folder):
    chat = data.load("one", folder({}, [{"instruction": "Q", "output": "A"}]))
    kto = data.load(
        "one", folder({"columns": {"prompt": "q", "response": "a", "kto_tag": "k"}}, [dict(q="Q", a="A", k=False)])
    )
    text = data.load("one", folder({"columns": {"prompt": "text"}}, [{"text": "T"}]))
    image = data.load(
        "one",
        folder(
            {"formatting": "sharegpt", "columns": MEDIA | {"videos": None, "audios": None}},
            [seen("<image>", images="a")],
        ),
    )
    parts = [chat, kto, text, image]
    assert [data.plain(row) for row in join(parts)] == [data.plain(row) for part in parts for row in part]
    assert join(parts)["label"][:] == [None, False, None, None]
