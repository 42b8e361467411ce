"""Text that nobody reads is a problem and no remark, for `check` and so for training.

Kind of fault: training hears what a row says about itself.
"""

import json

import pytest
from datasets import Dataset

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


SAID = {"messages": [{"role": "user", "content": "Who won?"}, {"role": "assistant", "content": "The Lakers."}]}


class TestWhatIsSaidOfARow:
    """Kind of fault: training hears what a row says about itself, wherever the row stands and however it is spelt."""

    OPINIONS = ({"kto_tag": False}, {"label": False}, {"thumbsUp": False}, {"KTO_tag": "true"}, {"is_correct": True})
    OPINIONS += ({"rejected": "The Bulls."}, {"rejected_response": "No."}, {"chosen_messages": [{"role": "assistant"}]})

    @pytest.mark.parametrize("more", OPINIONS)
    def test_an_opinion_of_a_reply_is_a_preference_or_kto_file(self, check, more):
        entry = {"columns": {"prompt": "instruction", "response": "output"}}
        reports = [check([ROW] * 150 + [ROW | more]), check([ROW, ROW | more], entry)]
        if "rejected" not in more:  # a column of the schema
            reports.append(data.check(Dataset.from_list([SAID | more])))
        for report in reports:
            reasons = [problem.reason for problem in report.problems if problem.field == next(iter(more))]
            assert reasons or report.kind == "kto", report.read_as
            assert all("preference or KTO file, and lesson 09" in reason for reason in reasons)

    def test_the_chosen_reply_may_be_read_as_the_response(self, check):
        row = {"instruction": "Q", "chosen": "A", "rejected": "B"}
        assert check([row], {"columns": {"prompt": "instruction", "response": "chosen"}}).problems == []

    @pytest.mark.parametrize("more", [{"tools": [{"name": "f"}]}, {"images": ["a.png"]}])
    def test_tools_and_pictures_that_begin_late(self, check, more):
        [problem] = check([SAID] * 120 + [SAID | more]).problems
        assert (problem.row, problem.field) == (121, next(iter(more))) and "Name it as columns." in problem.reason

    FLAGS = ({"weight": 0}, {"weight": 0.0}, {"Weight": 0}, {"masked": True}, {"skip": "true"}, {"loss_scale": 0.0})

    @pytest.mark.parametrize("more", [*FLAGS, {"weight": 0.5}, {"train_on_turn": False}, {"no_loss": 1}])
    def test_flags_of_a_row(self, check, more, tmp_path):
        Dataset.from_list([SAID | more]).save_to_disk(tmp_path / "rows")
        cmath = {"question": "1+1", "golden": "2"} | more
        for report in [check([ROW | more]), data.check(tmp_path / "rows"), check([cmath])]:
            assert [problem.field for problem in report.problems] == [next(iter(more))]

    @pytest.mark.parametrize("more", [{"weight": 1}, {"weight": 1.0}, {"weight": "1"}, {"loss": 2.31}, {"skip": None}])
    def test_no_flag(self, check, more):
        assert check([ROW | more]).problems == []

    @pytest.mark.parametrize("more", [{"context": PROSE}, {"kto_tag": False}, {"rejected": "Three."}])
    def test_rows_of_a_source_and_of_a_data_set(self, check, more):
        assert [problem.field for problem in check([{"question": "1+1", "golden": "2"} | more]).problems] == [*more]
        if "rejected" not in more:  # a column of the schema
            assert [problem.field for problem in data.check(Dataset.from_list([SAID | more])).problems] == [*more]

    @pytest.mark.parametrize("more", [{"Weight": 0}, {"loss_scale": 0.0}, {"exclude": True}, {"isTrained": False}])
    def test_flags_of_a_turn(self, check, more):
        [problem] = check([turn(**more)]).problems
        assert "write weight: 0" in problem.reason


class TestShortTexts:
    """Kind of fault: a false alarm at a label, silence at a list of short texts."""

    LABELS = ({"finish_reason": "stop"}, {"country": "United States"}, {"emotion": "very happy"}, {"message_id": "a1"})

    @pytest.mark.parametrize("more", LABELS)
    def test_labels_of_a_turn(self, check, more):
        assert check([turn(**more)]).problems == []

    @pytest.mark.parametrize(
        ("more", "mend"),
        [
            ({"function_call": {"name": "f", "arguments": "{}"}}, "tool_calls"),
            ({"image": "a.png"}, "<image>"),
            ({"image": "http://localhost/1"}, "<image>"),
            ({"refusal": "No."}, "into the content"),
            ({"value": "42"}, "into the content"),
        ],
    )
    def test_content_of_a_turn_has_its_remedy(self, check, more, mend):
        [problem] = check([turn(**more)]).problems
        assert problem.field == f"messages[1].{next(iter(more))}" and mend in problem.reason

    @pytest.mark.parametrize("value", [["cat", "a stone"], {"A": "cat", "B": "stone"}, {"text": ["cat", "dog"]}])
    def test_choices_are_text(self, check, value):
        assert [problem.field for problem in check([ROW | {"choices": value}]).problems] == ["choices"]

    MORE = ({"tags_of_it": ["math", "easy"]}, {"keywords": ["ball", "team"]}, {"scores": [1, 2]}, {"of": ["Boston"]})
    MORE += ({"meta": {"lang": "en", "kind": "web", "labels": ["a", "b"]}}, {"choices": ["4", "5"]})

    @pytest.mark.parametrize("more", [*MORE, {"conversation": SAID["messages"]}])
    def test_labels_are_none(self, check, more):
        assert check([SAID | more]).problems == []
