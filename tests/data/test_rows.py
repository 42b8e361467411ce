"""The row schema on disk, and joining."""

import json
import pickle
import subprocess
import sys

import pytest
from datasets import Dataset, are_progress_bars_disabled, load_from_disk

from course_utils import data
from course_utils.data import rows
from course_utils.data.rows import join, quiet


def chat(question, answer, source="a", **extra):
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer, **extra}]
    return {"messages": messages, "source": source, "tags": ["en"]}


def test_import_of_the_package_loads_neither_torch_nor_datasets():
    code = "import sys, course_utils.data; sys.exit(any(m in sys.modules for m in ('torch', 'datasets', 'pandas')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_tool_calls_come_back_from_disk_as_they_went(tmp_path):
    """Pitfall arrow-invents-arguments: two calls with different arguments, neither gets the other's."""
    rows = []
    for name, arguments in (("f", {"a": 1}), ("g", {"b": {"c": None}})):
        call = {"type": "function", "id": name, "function": {"name": name, "arguments": json.dumps(arguments)}}
        rows.append(chat("q", "", tool_calls=[call]) | {"tools": '[{"x": null}]'})
    rows.append(chat("q", "a"))
    with quiet():
        data.to_dataset(rows).save_to_disk(tmp_path / "rows")
    assert [data.plain(row) for row in load_from_disk(str(tmp_path / "rows"))] == rows


def test_join_widens_to_all_keys():
    think = data.to_dataset([chat("q", "a", reasoning_content="r")])
    tools = data.to_dataset([chat("q", "a") | {"tools": "[]"}])
    empty = data.to_dataset([])
    joined = join([data.to_dataset([chat("p", "b")]), think, empty, tools])
    assert [data.plain(row) for row in joined] == [
        chat("p", "b"),
        chat("q", "a", reasoning_content="r"),
        chat("q", "a") | {"tools": "[]"},
    ]
    with pytest.raises(data.DataError, match=r"cannot be joined: row\.source is"):
        join([think, Dataset.from_dict({"source": [1]})])


def test_joining_parts_of_a_large_set_takes_their_own_size_and_not_that_of_the_set_for_each_row():
    whole = data.to_dataset([chat(f"{'word ' * 20}{n}", "a") for n in range(500)])
    other = data.to_dataset([chat("q", "a", reasoning_content="r")])
    joined = join([whole.select(range(0, 500, 2)), whole.select(range(1, 500, 2)), other])
    asked = sorted(messages[0]["content"] for part in (whole, other) for messages in part["messages"])
    assert sorted(row["messages"][0]["content"] for row in joined) == asked
    assert len(pickle.dumps(joined.data.table)) < 2 * whole.data.nbytes


def test_quiet_puts_the_setting_back():
    before = are_progress_bars_disabled()
    with quiet():
        assert are_progress_bars_disabled()
    assert are_progress_bars_disabled() == before


@pytest.mark.parametrize(
    "row", [chat("Q\ud83d", "A"), chat("Q", "A", reasoning_content="\ude00"), chat("Q", "A") | {"tools": "\ud83d"}]
)
def test_half_a_character_is_an_error_with_row_and_field_and_writes_nothing(tmp_path, row):
    """Kind of fault: nothing raw from the API."""
    place = "tools" if "tools" in row else r"messages\[[01]\]\.(content|reasoning_content)"
    for write in (data.to_dataset, lambda rows: data.export_jsonl(rows, tmp_path / "a.jsonl")):
        with pytest.raises(data.DataError, match=rf"^rows\[1\], {place}: holds .* half of a character"):
            write([chat("Q", "A"), row])
    assert list(tmp_path.iterdir()) == []


class TestFlagsOfTurns:
    """Kind of fault: training hears what a row says about itself, also where rows come as a list or a data set."""

    @staticmethod
    def row(**flag):
        turns = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "bad"} | flag]
        return {"messages": [*turns, {"role": "user", "content": "Again"}, {"role": "assistant", "content": "good"}]}

    @pytest.mark.parametrize("flag", [{"loss": False}, {"train": 0}, {"mask": 0.0}, {"weight": 0}, {"weight": 0.0}])
    def test_each_becomes_weight_0(self, flag, tmp_path):
        raw = Dataset.from_list([self.row(**flag)])
        raw.save_to_disk(tmp_path / "rows")
        made = [rows.to_dataset([self.row(**flag)]), data.clean(raw)[0], data.check(raw).rows]
        for found in [*made, data.check(tmp_path / "rows").rows]:
            [row] = map(rows.plain, found)
            assert [turn.get("weight") for turn in row["messages"]] == [None, 0, None, None]
            assert set(row["messages"][1]) == {"role", "content", "weight"}
        assert data.clean([self.row(**flag)])[0][0]["messages"][1]["weight"] == 0

    def test_another_value_is_an_error_with_its_place(self):
        wrong = self.row(loss=2)
        for use in (rows.to_dataset, data.clean, lambda each: data.clean(Dataset.from_list(each))):
            with pytest.raises(rows.DataError, match=r"\[0\], messages\[1\]\.loss: .*got 2"):
                use([wrong])
        [problem] = data.check(Dataset.from_list([wrong])).problems
        assert (problem.row, problem.field) == (1, "messages[1].loss")
        asked = self.row()
        asked["messages"][0]["train"] = True
        with pytest.raises(rows.DataError, match="only replies are learned"):
            rows.to_dataset([asked])
