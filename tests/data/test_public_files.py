"""Real public rows beside the repository: all of them are read, none is lost. Skipped where they are absent."""

import json
import re
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
    """Pitfall split-leaks-templates: rows of one template, other numbers."""
    dataset, _ = data.deduplicate(data.normalise("mawps", data.read_raw(SHARED / "mawps.csv")))
    naive = dataset.train_test_split(test_size=100, seed=42)
    seen = {data.group_key(m) for m in naive["train"]["messages"]}
    assert any(data.group_key(m) in seen for m in naive["test"]["messages"])
    train, valid = data.split(dataset)
    assert not {data.group_key(m) for m in train["messages"]} & {data.group_key(m) for m in valid["messages"]}


LLAMAFACTORY_ROWS = {  # rows of each file, and the columns beside messages, source and tags
    "identity": (91, []),
    "alpaca_en_demo": (60, []),
    "alpaca_zh_demo": (60, []),
    "glaive_toolcall_en_demo": (60, ["tools"]),
    "glaive_toolcall_zh_demo": (60, ["tools"]),
    "mllm_demo": (6, ["images"]),
    "dpo_en_demo": (60, ["chosen", "rejected"]),
    "dpo_zh_demo": (60, ["chosen", "rejected"]),
    "kto_en_demo": (60, ["label"]),
    "c4_demo": (60, ["text"]),
}


def test_every_llamafactory_demo_file_is_named_here():
    registry = json.loads((SHARED / "llamafactory" / "dataset_info.json").read_text(encoding="utf-8"))
    assert set(registry) == set(LLAMAFACTORY_ROWS)


@pytest.mark.parametrize("name", LLAMAFACTORY_ROWS)
def test_every_row_of_the_llamafactory_demo_files_is_kept(name):
    folder = SHARED / "llamafactory"
    entry = json.loads((folder / "dataset_info.json").read_text(encoding="utf-8"))[name]
    count, columns = LLAMAFACTORY_ROWS[name]
    dataset = data.load(name, folder)
    assert len(dataset) == len(data.read_raw(folder / entry["file_name"])) == count
    assert set(dataset.column_names) == {"id", "messages", "source", "tags", *columns}
    if "tools" not in columns:  # some rows there have none
        assert all(value is not None for column in columns for value in dataset[column])


def test_replies_labels_texts_and_images_are_as_in_the_files():
    folder = SHARED / "llamafactory"
    raw = {name: data.read_raw(next(folder.glob(f"{name}.json*"))) for name in LLAMAFACTORY_ROWS}
    for name in ("dpo_en_demo", "dpo_zh_demo"):
        for before, after in zip(raw[name], data.load(name, folder), strict=True):
            assert after["messages"][-1]["role"] == "user"
            for reply in ("chosen", "rejected"):
                assert after[reply] == [{"role": "assistant", "content": before[reply]["value"]}]
    kto = data.load("kto_en_demo", folder)
    assert kto["label"][:] == [row["label"] for row in raw["kto_en_demo"]]
    assert kto["messages"][:] == [row["messages"] for row in raw["kto_en_demo"]]
    assert data.load("c4_demo", folder)["text"][:] == [row["text"] for row in raw["c4_demo"]]
    assert data.load("mllm_demo", folder)["images"][:] == [row["images"] for row in raw["mllm_demo"]]


def test_glaive_arguments_are_as_in_the_file():
    folder = SHARED / "llamafactory"
    raw = data.read_raw(folder / "glaive_toolcall_en_demo.json")
    for before, after in zip(raw, data.load("glaive_toolcall_en_demo", folder), strict=True):
        told = [json.loads(turn["value"]) for turn in before["conversations"] if turn["from"] == "function_call"]
        calls = [call["function"] for m in data.plain(after["messages"]) for call in m.get("tool_calls", [])]
        assert [(call["name"], json.loads(call["arguments"])) for call in calls] == [
            (call["name"], call["arguments"]) for one in told for call in (one if isinstance(one, list) else [one])
        ]
