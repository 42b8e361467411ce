"""Text that nobody reads is a problem and no remark, for `check` and so for training.

Kind of fault: training hears what a row says about itself.
"""

import json

import pytest

from course_utils import data

ROW = {"instruction": "Who won?", "output": "The Lakers."}
CHAT = {"messages": [{"role": "user", "content": "Who won?"}, {"role": "assistant", "content": "The Lakers."}]}
PROSE = "They won it in 2020."


@pytest.fixture
def check(tmp_path):
    """Check rows written as JSONL, by an entry where there is one."""

    def checked(rows, entry=None):
        (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        if entry is not None:
            known = {"a": {"file_name": "a.jsonl"} | entry}
            (tmp_path / "dataset_info.json").write_text(json.dumps(known), encoding="utf-8")
        return data.check(tmp_path / "a.jsonl")

    return checked


@pytest.mark.parametrize("row", [ROW, CHAT], ids=["alpaca", "chat"])
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("knowledge", PROSE),
        ("explanation", "湖人队在二零二零年赢得总冠军。"),
        ("documents", [PROSE]),
        ("meta", {"lang": "en", "why": [{"text": PROSE}]}),
        ("answer", "Boston"),  # a part of a row goes by this name
    ],
)
def test_a_text_in_a_column_is_a_problem_of_its_row(check, row, name, value):
    report = check([row, row | {name: value}, row])
    assert (report.kept, [(p.row, p.field) for p in report.problems]) == (2, [(2, name)])
    assert "would be lost" in report.problems[0].reason and "dataset_info.json" in report.problems[0].reason


def test_the_history_beside_a_chat_is_a_problem_and_that_of_an_alpaca_row_is_read(check):
    before = {"history": [["Hi", "Hey"]]}
    assert [problem.field for problem in check([CHAT | before]).problems] == ["history"]
    assert len(check([ROW | before]).rows[0]["messages"]) == 4


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("score", 4.5),
        ("uuid", "9b2d8f0e-1c1f-4c0e"),
        ("lang", "en"),
        ("category", "open question answering"),
        ("url", "https://example.org/a/long/path?of=words"),
        ("date", "2024-01-02 12:00:00 +0000 1 2"),
        ("类别", "自然语言处理"),
        ("verified", True),
        ("empty", "   "),
        ("prompt", "Who won?"),  # the row holds it anyway
        ("text", "### Question: Who won?\n### Answer: The Lakers."),  # and this holds the row
    ],
)
@pytest.mark.parametrize("row", [ROW, CHAT], ids=["alpaca", "chat"])
def test_numbers_ids_labels_addresses_and_what_is_held_anyway_are_remarks(check, row, name, value):
    report = check([row | {name: value}] * 2)
    assert report.problems == [] and any("not read" in remark and name in remark for remark in report.remarks)


def test_a_column_that_begins_after_the_first_hundred_rows_is_seen(check):
    report = check([ROW] * 150 + [ROW | {"context": "short"}])
    assert (report.kept, report.problems[0].row, report.problems[0].field) == (150, 151, "context")


def test_the_columns_of_an_entry_are_a_choice_and_its_defaults_are_none(check):
    row = ROW | {"context": PROSE}
    assert [problem.field for problem in check([row], {}).problems] == ["context"]
    named = {"columns": {"prompt": "instruction", "response": "output"}}
    report = check([row], named)
    assert report.problems == [] and "columns context" in report.remarks[0]
    assert check([row], {"columns": {**named["columns"], "query": "context"}}).problems == []


def test_beside_a_text_its_title_is_a_remark_and_a_reply_a_problem(check):
    assert check([{"text": "It sank.", "title": "The last night of the ship", "url": "x"}]).problems == []
    assert [problem.field for problem in check([{"text": "It sank.", "answer": "No."}]).problems] == ["answer"]


def turn(**more):
    return {"messages": [CHAT["messages"][0], CHAT["messages"][1] | more]}


def test_a_system_prompt_in_a_column_is_not_lost_beside_a_system_turn(check):
    turns = [{"role": "system", "content": "Be kind."}, *CHAT["messages"]]
    [problem] = check([{"messages": turns, "system": "Be brief."}]).problems
    assert problem.field == "system" and "would be lost" in problem.reason
    assert check([{"messages": turns, "system": "Be kind."}, CHAT | {"system": "Be brief."}]).problems == []


class TestKeysOfTurns:
    """A key of a turn that holds text is a problem, also by an entry, which cannot name it."""

    @pytest.mark.parametrize(
        "more",
        [
            {"thought": "Because."},
            {"analysis": "因为"},
            {"function_call": {"name": "f", "arguments": "{}"}},
            {"notes": ["see above"]},
        ],
    )
    def test_text_is_a_problem(self, check, more):
        tags = {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"}
        entry = {"formatting": "openai", "columns": {"messages": "messages"}, "tags": tags}
        for how in (None, entry):
            report = check([turn(), turn(**more)], how)
            assert [(p.row, p.field) for p in report.problems] == [(2, f"messages[1].{next(iter(more))}")]

    def test_replies_of_a_preference_are_turns(self, check):
        reply = {"from": "gpt", "value": "A"}
        row = {"conversations": [{"from": "human", "value": "Q"}], "chosen": reply, "rejected": reply | {"value": "B"}}
        report = check([row | {"rejected": {"from": "gpt", "value": "B", "critique": "It is wrong."}}])
        assert [problem.field for problem in report.problems] == ["rejected.critique"]

    @pytest.mark.parametrize("more", [{"id": "a b"}, {"model": "gpt 4"}, {"score": 5}, {"text": None}, {"liked": True}])
    def test_labels_and_numbers_are_remarks(self, check, more):
        assert check([turn(**more)]).problems == []

    @pytest.mark.parametrize("name", ["training", "skip", "loss_mask"])
    def test_a_flag_of_another_name_is_a_problem_that_says_which_to_write(self, check, name):
        [problem] = check([turn(**{name: False})]).problems
        assert problem.field == f"messages[1].{name}" and "write weight: 0" in problem.reason
