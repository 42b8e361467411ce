"""`build` on the bundled rows: counts, languages, no leak, same bytes again; `load_built`."""

import difflib
import json
import shutil
from collections import Counter
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import pytest
from datasets import load_from_disk

from course_utils import data

BUNDLED = Path(__file__).resolve().parents[2] / "data"


@dataclass(frozen=True)
class Stand:
    """What `build` reads of a profile."""

    name: str = "tiny"
    languages: tuple[str, ...] = ("en",)
    kinds: tuple[str, ...] = ("math", "chat", "json")
    weights: tuple[tuple[str, float], ...] = ()


GPU = Stand("16gb", ("en", "zh"), ("math", "chat", "json", "tools", "thinking", "plain"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    target = tmp_path_factory.mktemp("data")
    shutil.copy(BUNDLED / "dataset_info.json", target)
    shutil.copytree(BUNDLED / "raw", target / "raw", ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    return target


@pytest.fixture(scope="module")
def tiny(folder):
    return data.build(Stand(), dataset_dir=folder)


def test_counts_of_the_tiny_profile(tiny, folder):
    train, valid, test = (data.load_built(Stand(), part, folder) for part in ("train", "valid", "test"))
    assert 350 <= len(train) <= 380 and 45 <= len(valid) <= 55 and 100 <= len(test) <= 110
    held = Counter(test["source"])
    assert 36 <= held["json"] <= 40 and 26 <= held["emoji"] <= 31 and 34 <= held["mawps"] <= 38
    assert set(train["source"]) == {"json", "emoji", "mawps"}
    assert all("en" in tags and "negative" not in tags for part in (train, valid, test) for tags in part["tags"])
    total = tiny.table()[-1]
    assert (total["train"], total["valid"], total["test"]) == (len(train), len(valid), len(test))
    assert tiny.counts["general"]["train"] == tiny.counts["general"]["kept"] == 0


def test_weights_set_the_shares_exactly(folder, tiny):
    weighted = Stand("weighted", weights=(("emoji", 5.0), ("json", 4.0), ("mawps", 1.0)))
    report = data.build(weighted, dataset_dir=folder)
    train = Counter(data.load_built(weighted, "train", folder)["source"])
    rows = sum(train.values())
    assert rows == round(0.9 * tiny.table()[-1]["train"])
    assert all(abs(train[source] - rows * weight / 10) <= 1 for source, weight in weighted.weights)
    assert report.table()[-1]["valid"] == tiny.table()[-1]["valid"]


def test_plain_rows_stay_plain(tiny, folder):
    row = data.load_built(Stand(), "train", folder)[0]
    assert set(row) == {"id", "messages", "source", "tags"} and set(row["messages"][0]) == {"role", "content"}


def test_no_group_and_no_near_duplicate_is_on_both_sides(tiny, folder):
    parts = {part: data.load_built(Stand(), part, folder) for part in data.building.PARTS}
    keys = {part: {data.group_key(m) for m in rows["messages"]} for part, rows in parts.items()}
    assert not any(keys[one] & keys[other] for one, other in combinations(keys, 2))
    asked = {part: [m[0]["content"] for m in rows["messages"]] for part, rows in parts.items()}
    for question in asked["valid"] + asked["test"]:
        matcher = difflib.SequenceMatcher(b=question, autojunk=False)
        for other in asked["train"]:
            matcher.set_seq1(other)
            if matcher.real_quick_ratio() > 0.9 and matcher.quick_ratio() > 0.9:
                assert matcher.ratio() < 0.9, (question, other)


def test_the_same_seed_gives_the_same_bytes_and_another_does_not(tiny, folder):
    names = [f"{part}.jsonl" for part in data.building.PARTS]
    before = {name: tiny.paths[name].read_bytes() for name in names}
    again = data.build(Stand(), dataset_dir=folder)
    assert {name: again.paths[name].read_bytes() for name in names} == before
    assert again.counts == tiny.counts
    other = data.build(Stand("other"), dataset_dir=folder, seed=1)
    assert other.paths["valid.jsonl"].read_bytes() != before["valid.jsonl"]
    assert other.paths["general.jsonl"].read_bytes() == before["general.jsonl"]


def test_arrow_and_jsonl_hold_the_same_rows(folder):
    report = data.build(GPU, dataset_dir=folder)
    for part in data.building.PARTS:
        text = report.paths[f"{part}.jsonl"].read_text(encoding="utf-8")
        rows = [json.loads(line) for line in text.splitlines()]
        assert rows == [data.plain(row) for row in data.load_built(GPU, part, folder)]
    text = report.paths["train.jsonl"].read_text(encoding="utf-8")
    assert "多少" in text and "\\u" not in text


def test_a_gpu_trains_on_chinese_and_tools(folder):
    data.build(GPU, dataset_dir=folder)
    train = data.load_built(GPU, "train", folder)
    assert set(train["source"]) == {"json", "emoji", "mawps", "cmath", "tools", "thinking", "worked", "plain"}
    assert not any("negative" in tags for tags in train["tags"])
    everything = Stand("all", GPU.languages, (*GPU.kinds, "negative"))
    kept = data.build(everything, dataset_dir=folder).counts["json"]["kept"]
    assert kept == 234


def test_a_thinking_row_is_trained_on_only_where_thinking_is_asked_for(folder):
    sums = Stand("sums", GPU.languages, ("math",))
    data.build(sums, dataset_dir=folder)
    assert set(data.load_built(sums, "train", folder)["source"]) == {"cmath", "mawps"}, "and no worked sum"
    thinks = Stand("thinks", GPU.languages, ("math", "thinking"))
    data.build(thinks, dataset_dir=folder)
    train, test = (data.load_built(thinks, part, folder) for part in ("train", "test"))
    assert "worked" in train["source"] and not data.leaks(train, test), "a sum of the test is worked out in no row"


def test_a_tool_row_of_the_test_part_ends_with_the_call_that_is_due(folder):
    data.build(GPU, dataset_dir=folder)
    rows = [row for row in data.load_built(GPU, "test", folder) if row["source"] == "tools"]
    assert rows and all(row["messages"][-1]["tool_calls"] and len(row["messages"]) == 2 for row in rows)
    trained = [row for row in data.load_built(GPU, "train", folder) if row["source"] == "tools"]
    assert all(row["messages"][-1]["content"] for row in trained)


def test_pools_hold_every_source_whole(tiny, folder):
    pools = {path.name: load_from_disk(str(path)) for path in tiny.paths["pools"].iterdir()}
    assert {name: len(pool) for name, pool in pools.items()} == {n: c["unique"] for n, c in tiny.counts.items()}
    assert "tools" in pools["tools"].column_names and "tools" not in pools["cmath"].column_names


def test_a_question_of_general_is_never_trained_on(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "data", ignore=shutil.ignore_patterns("build"))
    emoji = tmp_path / "data" / "raw" / "emoji.jsonl"
    leak = {"question": "What is the capital of  France?", "answer_zh": "", "answer_en": "Paris 🗼"}
    emoji.write_text(emoji.read_text(encoding="utf-8") + json.dumps(leak) + "\n", encoding="utf-8")
    report = data.build(Stand(), dataset_dir=tmp_path / "data")
    assert report.counts["emoji"]["unique"] == report.counts["emoji"]["raw"] == 271
    assert report.counts["emoji"]["kept"] == 150


def test_a_broken_row_leaves_what_was_built(tiny, folder):
    raw = folder / "raw" / "mawps.csv"
    text, before = raw.read_text(encoding="utf-8"), tiny.paths["train.jsonl"].read_bytes()
    try:
        raw.write_text(text + "How many?,N_00,six,6.0\n", encoding="utf-8")
        with pytest.raises(data.DataError, match=r"mawps, row 181, Answer: expected a number, found 'six'"):
            data.build(Stand(), dataset_dir=folder)
    finally:
        raw.write_text(text, encoding="utf-8")
    assert tiny.paths["train.jsonl"].read_bytes() == before
    assert not list((folder / "build").glob(".*"))


def test_load_built_says_what_to_run(folder):
    with pytest.raises(data.DataError, match=r"not been built.*lesson 03.*build-data"):
        data.load_built(Stand("t4"), "train", folder)
    with pytest.raises(data.DataError, match="no part 'tset'; expected one of train, valid, test, general"):
        data.load_built(Stand(), "tset", folder)


def test_a_profile_without_rows_says_so(folder):
    with pytest.raises(data.DataError, match="languages fr and kinds math: no row has both"):
        data.build(Stand("none", ("fr",), ("math",)), dataset_dir=folder)
