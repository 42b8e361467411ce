"""How a file is told by its rows: names of roles and columns, and kinds of rows.

Kinds of fault: a remedy that helps, and training hears what a row says about itself.
"""

import json

import pytest

from course_utils import data
from course_utils.data import guessing


def turns(*said, role="from", content="value"):
    return [{role: who, content: what} for who, what in said]


@pytest.fixture
def check(tmp_path):
    """Check rows written as JSONL, in a folder of their own."""

    def checked(rows):
        path = tmp_path / "mine.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return data.check(path)

    return checked


def contents(report):
    return [[(turn["role"], turn["content"]) for turn in row["messages"]] for row in report.rows]


def offered(report):
    """The entry that a report offers."""
    [remark] = [each for each in report.remarks if each.startswith("to load")]
    return json.loads(remark.partition("dataset_info.json: ")[2])


class TestRoles:
    """Roles of other names are read where they cannot be mistaken; else the message names the entry that reads them."""

    @pytest.mark.parametrize("keys", [("from", "value"), ("role", "content"), ("role", "value"), ("from", "text")])
    @pytest.mark.parametrize(
        ("user", "assistant"),
        [
            ("user", "assistant"),
            ("Human", "GPT"),
            ("human", "gpt"),
            ("human", "bot"),
            ("human", "chatgpt"),
            ("USER", "ASSISTANT"),
            ("prompter", "assistant"),
            ("user", "model"),
            ("human", "AI"),
        ],
    )
    def test_names_in_use_are_read_and_the_entry_that_is_offered_reads_them_too(
        self, check, tmp_path, keys, user, assistant
    ):
        rows = [{"conversations": turns((user, "Q"), (assistant, "A"), role=keys[0], content=keys[1])}] * 3
        report = check(rows)
        assert report.problems == [] and contents(report)[0] == [("user", "Q"), ("assistant", "A")]
        (tmp_path / "dataset_info.json").write_text(json.dumps(offered(report)), encoding="utf-8")
        assert list(data.load("mine", tmp_path)) == list(report.rows)

    def test_system_and_tools_have_other_names_too(self, check):
        call = json.dumps({"name": "f", "arguments": {}})
        said = turns(("SYSTEM", "S"), ("User", "Q"), ("tool_call", call), ("tool_response", "1"), ("Assistant", "A"))
        report = check([{"conversations": said}])
        assert report.problems == []
        assert [turn["role"] for turn in report.rows[0]["messages"]] == [
            "system",
            "user",
            "assistant",
            "tool",
            "assistant",
        ]

    def test_the_rarer_of_two_names_of_one_role_is_a_problem_that_says_what_to_write(self, check):
        rows = [{"conversations": turns(("human", "Q"), (name, "A"))} for name in ("gpt", "chatgpt", "gpt")]
        report = check(rows)
        assert report.kept == 2
        [problem] = report.problems
        assert (problem.row, problem.field) == (
            2,
            "conversations[1].from",
        ) and "expected one of human, gpt" in problem.reason

    def test_names_that_nobody_knows_are_not_guessed_and_the_message_says_where_to_name_them(self, check):
        report = check([{"conversations": turns(("Alice", "Q"), ("Bob", "A"))}] * 2)
        assert report.kept == 0 and "tags" not in offered(report)["mine"]
        assert (
            "Or name the roles of this file in the tags of its entry in dataset_info.json" in report.problems[0].reason
        )

    def test_every_name_stands_for_one_role(self):
        assert len(guessing.PART_OF) == sum(map(len, guessing.NAMES.values()))
        assert all(name == name.casefold() for name in guessing.PART_OF)


class TestColumns:
    """A column that belongs to the question is part of it; empty columns say nothing."""

    @pytest.mark.parametrize("name", ["input", "context", "passage", "document", "background", "article", "question"])
    def test_a_context_beside_the_question_is_part_of_it(self, check, name):
        report = check([{"instruction": "Who won?", name: "In 2020 the Lakers won.", "response": "The Lakers."}])
        assert report.problems == []
        assert contents(report)[0][0] == ("user", "Who won?\nIn 2020 the Lakers won.")

    def test_of_two_the_one_that_says_something_is_read(self, check):
        report = check([{"instruction": "Who?", "input": "", "context": "Ann came.", "output": "Ann."}])
        assert report.problems == [] and contents(report)[0][0] == ("user", "Who?\nAnn came.")

    @pytest.mark.parametrize("name", ["system", "system_prompt", "system_message"])
    def test_a_system_prompt_is_the_system_turn(self, check, name):
        report = check([{name: "Be brief.", "question": "Q", "answer": "A"}])
        assert report.problems == [] and contents(report)[0][0] == ("system", "Be brief.")

    @pytest.mark.parametrize("empty", [None, "", []])
    def test_chats_with_empty_columns_of_other_kinds_are_chats(self, check, empty):
        chat = {"messages": turns(("user", "Q"), ("assistant", "A"), role="role", content="content")}
        unsaid = dict.fromkeys(
            ("chosen", "rejected", "label", "kto_tag", "text", "instruction", "conversations"), empty
        )
        report = check([unsaid | chat] * 2)
        assert report.problems == [] and (report.kind, report.kept) == ("chat", 2)
        assert not any("not read" in remark for remark in report.remarks)

    def test_a_chat_with_a_column_of_a_source_is_a_chat(self, check):
        chat = {"messages": turns(("user", "Q"), ("assistant", "A"), role="role", content="content")}
        for row in (chat | {"golden": "7"}, {"instruction": "Q", "output": "A", "golden": "7"}):
            report = check([row])
            assert report.read_as.endswith(", chat") and contents(report)[0] == [("user", "Q"), ("assistant", "A")]


class TestKinds:
    """`check` says which kind a file is of, and never takes a verdict for a chat's remark."""

    @pytest.mark.parametrize("name", ["kto_tag", "label", "thumbs_up", "desirable", "is_good"])
    def test_a_verdict_makes_a_row_one_for_kto(self, check, name):
        report = check([{"instruction": "Q", "output": "A", name: value} for value in (True, False)])
        assert (report.kind, report.kept) == ("kto", 2) and report.rows["label"][:] == [True, False]

    @pytest.mark.parametrize("values", [(0, 1), ("true", "false"), ("False", "True"), ("0", "1")])
    @pytest.mark.parametrize("name", ["kto_tag", "label"])
    def test_a_verdict_that_is_spelt_otherwise_is_a_problem_and_no_remark(self, check, name, values):
        report = check([{"instruction": "Q", "output": "A", name: value} for value in values])
        assert (report.kind, report.kept) == ("kto", 0)
        assert all(problem.field == name and "expected true" in problem.reason for problem in report.problems)

    @pytest.mark.parametrize("value", [3, "en", "positive"])
    def test_another_label_stays_a_remark(self, check, value):
        report = check([{"instruction": "Q", "output": "A", "label": value}])
        assert report.problems == [] and report.kind == "chat" and "columns label" in report.remarks[0]

    def test_the_kind_of_a_file_is_known_also_where_no_row_can_be_used(self, check):
        report = check([{"conversations": turns(("human", "Q")), "chosen": 1, "rejected": 2}])
        assert (report.kind, report.kept) == ("preference", 0)

    def test_kinds_of_several_files_are_all_named_and_rows_of_a_data_set_have_theirs(self, check, tmp_path):
        check([{"instruction": "Q", "output": "A", "label": True}])
        (tmp_path / "a.txt").write_text("Once.\n", encoding="utf-8")
        report = data.check(tmp_path)
        assert report.kind == "kto and text" and "each is trained in another way" in report.not_chats
        assert data.check(report.rows).kind == "kto and text"
        chat = {"messages": turns(("user", "Q"), ("assistant", "A"), role="role", content="content")}
        assert data.check(data.to_dataset([chat])).not_chats == ""
