"""Real public rows beside the repository: all of them are read, none is lost. Skipped where they are absent."""

import json
import re
from collections import Counter
from pathlib import Path

import pytest

from course_utils import data

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
pytestmark = pytest.mark.skipif(not SHARED.is_dir(), reason="the real rows are not beside this repository")


@pytest.mark.parametrize(
    ("source", "name", "count", "unique"),
    [("cmath", "cmath.jsonl", 240, 240), ("mawps", "mawps.csv", 600, 597), ("cluener", "cluener.jsonl", 500, 500)],
)
def test_every_row_is_kept_and_duplicates_are_reported(source, name, count, unique):
    rows = data.read_raw(SHARED / name)
    dataset = data.normalise(source, rows)
    assert len(dataset) == len(rows) == count
    kept, removed = data.deduplicate(dataset)
    assert len(kept) == unique and len(kept) + len(removed) == count
    assert not any(re.search(r"N_\d", m[0]["content"]) for m in dataset["messages"])


def test_mawps_answers_follow_from_their_equations():
    rows = data.read_raw(SHARED / "mawps.csv")
    right = 0
    for row, messages in zip(rows, data.normalise("mawps", rows)["messages"], strict=True):
        numbers = row["Numbers"].split()
        value = eval(re.sub(r"N_(\d\d)", lambda m, n=numbers: n[int(m[1])], row["Equation"]))
        right += abs(value - float(messages[1]["content"])) < 0.01
    assert right / len(rows) > 0.98


def test_mawps_leaks_without_groups_and_not_with_them():
    """Trap 12: rows of one template, other numbers."""
    dataset, _ = data.deduplicate(data.normalise("mawps", data.read_raw(SHARED / "mawps.csv")))
    naive = dataset.train_test_split(test_size=100, seed=42)
    seen = {data.group_key(m) for m in naive["train"]["messages"]}
    assert any(data.group_key(m) in seen for m in naive["test"]["messages"])
    train, valid = data.split(dataset)
    assert not {data.group_key(m) for m in train["messages"]} & {data.group_key(m) for m in valid["messages"]}


def test_llamafactory_demo_files():
    folder = SHARED / "llamafactory"
    registry = json.loads((folder / "dataset_info.json").read_text(encoding="utf-8"))
    counts, refused = {}, Counter()
    for name, entry in registry.items():
        try:
            dataset = data.load(name, folder)
        except data.DataError as error:
            refused["row" if ", row " in str(error) else "kind"] += 1
            continue
        counts[name] = len(dataset)
        assert len(dataset) == len(data.read_raw(folder / entry["file_name"]))
    assert set(counts) == {
        "identity", "alpaca_en_demo", "alpaca_zh_demo", "glaive_toolcall_en_demo", "glaive_toolcall_zh_demo",
    }  # fmt: skip
    assert refused == {"kind": len(registry) - len(counts)}  # preference, images and pretraining rows come later


def test_glaive_arguments_are_as_in_the_file():
    folder = SHARED / "llamafactory"
    raw = data.read_raw(folder / "glaive_toolcall_en_demo.json")
    for before, after in zip(raw, data.load("glaive_toolcall_en_demo", folder), strict=True):
        told = [json.loads(turn["value"]) for turn in before["conversations"] if turn["from"] == "function_call"]
        calls = [call["function"] for m in data.plain(after["messages"]) for call in m.get("tool_calls", [])]
        assert [(call["name"], json.loads(call["arguments"])) for call in calls] == [
            (call["name"], call["arguments"]) for one in told for call in (one if isinstance(one, list) else [one])
        ]
