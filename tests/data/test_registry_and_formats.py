"""`load`: dataset_info.json and rows read as LLaMA-Factory reads them, with errors that say where."""

import json

import pytest

from course_utils import data
from course_utils.text.messages import prepared

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
        ([{"instruction": "Q", "output": "A", "tags": 5}], r"row 1, line 1, tags: expected a list of strings"),
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
        (
            {"script_url": "make.py"},
            r"script_url is not read: `datasets` 4 runs no scripts.*save its rows .* as JSONL",
        ),
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
    with pytest.raises(data.DataError, match=r"dataset_info\.json cannot be read: the key 'one' stands twice"):
        data.load("one", where)


# ----------------------------------------------------------------------------------------- what a row says about itself
def said(*turns):
    return {"conversations": [{"from": role, "value": value} | more for role, value, more in turns]}


CALL = '{"name": "f", "arguments": {"x": 1}}'
ASKED = ("human", "Q", {})


class TestTurnsThatAreNotToBeLearned:
    """Flags on a turn are heard in every layout, and kept as `weight: 0`."""

    @pytest.mark.parametrize(
        ("names", "value"),
        [
            *(
                (names, value)
                for names in (("weight",), ("loss",), ("train",), ("weight", "loss"))
                for value in (0, False)
            ),
            (("mask",), 0),
            (("mask",), 0.0),
        ],
    )
    def test_they_are_kept_by_one_name_in_sharegpt_and_openai(self, folder, names, value):
        flag = dict.fromkeys(names, value)
        row = said(ASKED, ("gpt", "bad", flag), ASKED, ("gpt", "A", {next(iter(flag)): 1}))
        [one] = loaded(folder({"formatting": "sharegpt"}, [row]))
        turns = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "bad"} | flag, *one["messages"][2:]]
        entry = {"formatting": "openai", "columns": {"messages": "messages"}, "tags": OPENAI_TAGS}
        [two] = loaded(folder(entry, [{"messages": turns}]))
        assert one["messages"] == two["messages"]
        assert [turn.get("weight") for turn in one["messages"]] == [None, 0, None, None]
        assert all(turn.keys() <= {"role", "content", "weight"} for turn in one["messages"])

    def test_a_call_and_a_thought_have_them_too(self, folder):
        turns = [ASKED, ("function_call", CALL, {"loss": False}), ("observation", "1", {"loss": 0})]
        [row] = loaded(
            folder({"formatting": "sharegpt"}, [said(*turns, ("gpt", "<think>\nw\n</think>\n\nA", {"mask": 0}))])
        )
        assert [turn.get("weight") for turn in row["messages"]] == [None, 0, None, 0]
        assert row["messages"][1]["tool_calls"] and row["messages"][3]["reasoning_content"] == "w"

    @pytest.mark.parametrize("flag", [{"weight": None}, {"weight": 1}, {"train": True}, {"mask": 1.0}])
    def test_a_turn_that_is_learned_has_none(self, folder, flag):
        [row] = loaded(folder({"formatting": "sharegpt"}, [said(ASKED, ("gpt", "A", flag))]))
        assert row["messages"][1] == {"role": "assistant", "content": "A"}

    @pytest.mark.parametrize(
        ("flag", "field", "words"),
        [
            ({"weight": 0.5}, "weight", "expected 0 or false"),
            ({"loss": "false"}, "loss", "expected 0 or false"),
            ({"train": []}, "train", "expected 0 or false"),
            ({"mask": 2}, "mask", "expected 0 "),
            ({"weight": 0, "train": True}, "weight", "contradict each other"),
        ],
    )
    def test_other_values_are_errors_with_their_field(self, folder, flag, field, words):
        with pytest.raises(data.DataError, match=rf"row 1, line 1, conversations\[1\]\.{field}: .*{words}"):
            data.load("one", folder({"formatting": "sharegpt"}, [said(ASKED, ("gpt", "A", flag))]))

    def test_a_question_is_never_learned(self, folder):
        with pytest.raises(data.DataError, match=r"conversations\[0\]\.weight: only replies are learned"):
            data.load(
                "one", folder({"formatting": "sharegpt"}, [said(("human", "Q", {"weight": 1}), ("gpt", "A", {}))])
            )

    def test_both_replies_of_a_preference_are_learned(self, folder):
        columns = {"messages": "conversations", "chosen": "chosen", "rejected": "rejected"}
        entry = {"formatting": "sharegpt", "ranking": True, "columns": columns}
        reply = {"from": "gpt", "value": "A"}
        row = said(ASKED) | {"chosen": reply, "rejected": {"from": "gpt", "value": "B", "weight": 0}}
        with pytest.raises(data.DataError, match=r"line 1, rejected: says that it is not to be learned"):
            data.load("one", folder(entry, [row]))

    @pytest.mark.parametrize("flag", [{"weight": 0}, {"train": False}, {"loss": "no"}])
    def test_a_row_that_is_not_to_be_learned_is_a_problem(self, folder, flag):
        for entry, row in (({}, GOOD), ({"formatting": "sharegpt"}, said(ASKED, ("gpt", "A", {})))):
            with pytest.raises(data.DataError, match=rf"row 2, line 1, {next(iter(flag))}: "):
                data.load("one", folder(entry, [row, row | flag]))

    def test_a_figure_of_the_row_is_no_flag(self, folder):
        assert len(loaded(folder({}, [GOOD | {"loss": 1.37, "weight": 1, "train": True}]))) == 1

    def test_they_come_back_from_arrow_and_from_jsonl(self, folder, tmp_path):
        good = (ASKED, ("gpt", "B", {}))
        rows = [said(ASKED, ("gpt", "A", {"loss": 0}), *good), said(*good)]
        dataset = data.load("one", folder({"formatting": "sharegpt"}, rows))
        assert [row["messages"][1]["weight"] for row in dataset] == [0, None]
        data.export_jsonl(dataset, tmp_path / "out.jsonl")
        again = data.check(tmp_path / "out.jsonl")
        assert again.problems == [] and again.rows["messages"][:] == dataset["messages"][:]


class TestThoughtsInFiles:
    """A half-open thought is not an answer; thinking before a call's JSON is thinking."""

    @pytest.mark.parametrize("cut", ["<think>\nreason", "<think>", "  <think>reason\n\nA"])
    def test_a_thought_that_was_cut_is_a_problem_of_its_field(self, folder, cut):
        for entry, row, field in (
            ({}, GOOD | {"output": cut}, "output"),
            (
                {"columns": {"prompt": "instruction", "response": "output", "history": "h"}},
                GOOD | {"h": [["a", cut]]},
                r"h\[0\]\[1\]",
            ),
            ({"formatting": "sharegpt"}, said(ASKED, ("gpt", cut, {})), r"conversations\[1\]\.value"),
            ({"formatting": "sharegpt"}, said(ASKED, ("function_call", cut, {})), r"conversations\[1\]\.value"),
        ):
            with pytest.raises(data.DataError, match=rf"row 1, line 1, {field}: opens <think> and never closes it"):
                data.load("one", folder(entry, [row]))

    def test_a_thought_that_the_prompt_opened_is_thinking(self, folder):
        [row] = loaded(folder({}, [GOOD | {"output": "reason\n</think>\n\nanswer"}]))
        assert row["messages"][1] == {"role": "assistant", "content": "answer", "reasoning_content": "reason"}

    @pytest.mark.parametrize("before", ["<think>\nwhy\n</think>\n\n", "<think>why</think>", "why\n</think>\n"])
    @pytest.mark.parametrize("calls", [CALL, f"[{CALL}, {CALL}]"])
    def test_thinking_before_a_call_is_thinking(self, folder, before, calls):
        turns = [ASKED, ("function_call", before + calls, {}), ("observation", "1", {}), ("observation", "2", {})]
        number = calls.count("name")
        [row] = loaded(folder({"formatting": "sharegpt"}, [said(*turns[: 2 + number], ("gpt", "A", {}))]))
        call = row["messages"][1]
        assert (call["content"], call["reasoning_content"], len(call["tool_calls"])) == ("", "why", number)

    @pytest.mark.parametrize("argument", ["<think>a</think>\n</think>\n\nb", "x</think>y", "<think>\nopen"])
    def test_a_tag_inside_of_an_argument_is_an_argument(self, folder, argument):
        text = json.dumps({"name": "f", "arguments": {"html": argument}})
        [row] = loaded(folder({"formatting": "sharegpt"}, [said(ASKED, ("function_call", text, {}))]))
        call = row["messages"][1]
        assert "reasoning_content" not in call
        assert json.loads(call["tool_calls"][0]["function"]["arguments"]) == {"html": argument}

    def test_thinking_in_a_key_of_the_call_is_kept(self, folder):
        [row] = loaded(
            folder({"formatting": "sharegpt"}, [said(ASKED, ("function_call", CALL, {"reasoning_content": "w"}))])
        )
        assert row["messages"][1]["reasoning_content"] == "w"
        with pytest.raises(data.DataError, match=r"conversations\[1\]\.thinking: this thinking would be lost"):
            data.load(
                "one", folder({"formatting": "sharegpt"}, [said(ASKED, ("function_call", CALL, {"thinking": "w"}))])
            )


class TestCallsInARow:
    """Two function_call turns in a row: the message says how to join them."""

    def test_the_message_says_join(self, folder):
        turns = [ASKED, ("function_call", CALL, {}), ("function_call", CALL, {}), ("observation", "1", {})]
        with pytest.raises(data.DataError, match=r"conversations\[2\]: .* Join calls in a row in one turn, as a list"):
            data.load("one", folder({"formatting": "sharegpt"}, [said(*turns, ("gpt", "A", {}))]))
        joined = [ASKED, ("function_call", f"[{CALL}, {CALL}]", {}), ("observation", "1", {}), ("observation", "2", {})]
        [row] = loaded(folder({"formatting": "sharegpt"}, [said(*joined, ("gpt", "A", {}))]))
        assert len(row["messages"][1]["tool_calls"]) == 2

    def test_two_replies_in_a_row_are_not_told_to_be_joined_as_calls(self, folder):
        with pytest.raises(data.DataError) as refused:
            data.load("one", folder({"formatting": "sharegpt"}, [said(ASKED, ("gpt", "A", {}), ("gpt", "B", {}))]))
        assert "Join" not in str(refused.value)


@pytest.mark.parametrize(
    "text", ['{"name": "f", "arguments": {"a": "\\ud83d"}}', '{"name": "f", "arguments": {"\\ude00": 1}}']
)
def test_half_a_character_inside_of_json_text_is_a_problem_with_its_field(folder, text):
    """Kind of fault: half an emoji in any text is an error with row and field."""
    for row, field in (
        (said(ASKED, ("function_call", text, {})), r"conversations\[1\]\.value"),
        (said(ASKED, ("gpt", "A", {})) | {"tools": f"[{text}]"}, "tools"),
    ):
        entry = {"formatting": "sharegpt", "columns": {"messages": "conversations", "tools": "tools"}}
        with pytest.raises(data.DataError, match=rf"row 2, line 1, {field}: holds .* half of a character"):
            data.load("one", folder(entry, [said(ASKED, ("gpt", "A", {})) | {"tools": "[]"}, row]))


def test_the_name_of_a_tool_stays_with_its_result(folder):
    """Results without ids are told apart by it."""
    calls = [{"function": {"name": name, "arguments": {}}} for name in "fg"]
    turns = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": None, "tool_calls": calls}]
    turns += [{"role": "tool", "name": name, "content": name} for name in "gf"]
    entry = {"formatting": "openai", "columns": {"messages": "messages"}, "tags": OPENAI_TAGS}
    [row] = loaded(folder(entry, [{"messages": [*turns, {"role": "assistant", "content": "A"}]}]))
    assert [turn["name"] for turn in row["messages"][2:4]] == ["g", "f"]
    assert [turn["content"] for turn in prepared(row["messages"])[2:4]] == ["f", "g"]
