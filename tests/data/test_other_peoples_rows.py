"""Kinds of fault: what a row says is lost in silence, a false alarm, a remedy that does not help."""

import json

import pytest

from course_utils import data

ASKED, SAID = {"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}
ROW = {"messages": [ASKED, SAID]}


@pytest.fixture
def check(tmp_path):
    """Check a file of this name that holds a text, or rows as JSONL."""

    def checked(found, name="a.jsonl"):
        text = found if isinstance(found, str) else "".join(json.dumps(row) + "\n" for row in found)
        (tmp_path / name).write_text(text, encoding="utf-8")
        return data.check(tmp_path / name)

    return checked


@pytest.mark.parametrize("name", ["parameters", "args", "input", "kwargs"])
def test_arguments_under_another_name_are_a_problem(check, name):
    call = {"name": "f", name: {"a": 1}}
    openai = {"messages": [ASKED, {"role": "assistant", "content": "", "tool_calls": [{"function": call}]}]}
    turns = [{"from": "human", "value": "Q"}, {"from": "function_call", "value": json.dumps(call)}]
    beside = {"function": {"name": "f"}, name: {"a": 1}}
    for row in (
        openai,
        {"conversations": turns},
        {"messages": [ASKED, {"role": "assistant", "content": "", "tool_calls": [beside]}]},
    ):
        [problem] = check([row]).problems
        assert problem.field.endswith(f".{name}") and "as its arguments" in problem.reason


def test_a_call_without_arguments_is_none(check):
    call = {"id": "1", "type": "function", "function": {"name": "f"}}
    assert check([{"messages": [ASKED, {"role": "assistant", "content": "", "tool_calls": [call]}]}]).problems == []


@pytest.mark.parametrize("text", ['[[{"a": "b"}]]', '{"a": 1}', '\n{"a": 1, "a": 2}\nx', '[\n {"a": 1},'])
def test_json_in_a_text_file_is_told_by_its_first_key(check, text):
    [problem] = check(text, "a.txt").problems  # and no second one, that the file has no rows
    assert "holds JSON" in problem.reason


@pytest.mark.parametrize("text", ['["Hello", she said]', "[1] Smith 2020", "[2020]\nA year.", "{curly} words"])
def test_brackets_in_a_text_are_none(check, text):
    assert check(text, "a.txt").problems == []


def test_a_row_of_which_nothing_is_learned_is_a_problem(check):
    [problem] = check([ROW, {"messages": [ASKED, SAID | {"weight": 0}]}]).problems
    assert problem.row == 2 and "no reply of it is learned" in problem.reason


def test_one_tag_and_a_whole_number_from_a_table_are_read(check):
    report = check([ROW | {"tags": "math", "id": 1.0}])
    assert report.problems == [] and (report.rows[0]["tags"], report.rows[0]["id"]) == (["math"], "1")
    assert [problem.field for problem in check([ROW | {"id": 1.5}]).problems] == ["id"]


def test_a_list_of_rows_is_checked_and_all_else_refused():
    half = {"messages": [ASKED, SAID | {"content": "\ud83d"}]}
    report = data.check([ROW, half, ROW | {"context": "It was a long day."}])
    assert [(p.row, p.field) for p in report.problems] == [(2, "messages[1].content"), (3, "context")]
    for wrong in ([[ASKED, SAID]], 3, {"train": [ROW]}, [{"instruction": "Q"}]):
        with pytest.raises(data.DataError, match=r"expected a path|rows of the course"):
            data.check(wrong)


def test_half_a_character_in_a_name_can_be_printed():
    with pytest.raises(data.DataError) as refused:
        data.check("no\udcff.jsonl")
    assert str(refused.value).encode() and r"no\udcff.jsonl" in str(refused.value)
    report = data.check([ROW | {"\ud83d": 1}])
    assert all(str(problem).encode() for problem in report.problems) and report.problems


def test_what_an_entry_takes_of_a_file_is_not_passed_over(check, tmp_path):
    for more in ({"num_samples": 1}, {"split": "train[:1]"}):
        columns = {"columns": {"messages": "messages"}}
        tags = {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"}
        entry = {"file_name": "a.jsonl", "formatting": "openai", "tags": tags} | columns | more
        (tmp_path / "dataset_info.json").write_text(json.dumps({"a": entry}), encoding="utf-8")
        if "split" in more:
            with pytest.raises(data.DataError, match=r"split 'train\[:1\]' is for data.load"):
                check([ROW, ROW])
        else:
            assert any("num_samples 1 was not read" in remark for remark in check([ROW, ROW]).remarks)
