"""`pool`: made once, reused without reading the raw file again, made anew where anything it is made of has changed."""

import json
import shutil

import pytest

from course_utils import data
from course_utils.data import building

CMATH = [{"input": f"{n}加1等于几？", "golden": str(n + 1)} for n in range(6)]
ALPACA = [{"instruction": f"Q {n}?", "output": "A"} for n in range(4)]


def write(path, rows):
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


@pytest.fixture
def folder(tmp_path):
    """A raw file of a known source and one that a registry names."""
    (tmp_path / "raw").mkdir()
    write(tmp_path / "raw" / "cmath.jsonl", CMATH)
    write(tmp_path / "raw" / "mine.jsonl", ALPACA)
    registry = {"mine": {"file_name": "raw/mine.jsonl"}, "other": {"file_name": "raw/cmath.jsonl"}}
    (tmp_path / "dataset_info.json").write_text(json.dumps(registry), encoding="utf-8")
    return tmp_path


@pytest.fixture
def reads(monkeypatch):
    """The sources whose rows were read anew, one after the other."""
    read = []
    normalise, load = building.normalise_rows, building.load_rows
    monkeypatch.setattr(
        building, "normalise_rows", lambda source, rows: (read.append(source), normalise(source, rows))[1]
    )
    monkeypatch.setattr(building, "load_rows", lambda name, folder: (read.append(name), load(name, folder))[1])
    return read


def asked(pool):
    return [messages[0]["content"] for messages in pool.rows["messages"]]


def files(folder):
    """What lies in the folder of the pools: name and bytes of each file."""
    inside = folder / "build" / "pools"
    return {path.relative_to(inside): path.read_bytes() for path in inside.rglob("*") if path.is_file()}


def test_a_pool_counts_what_was_read_and_keeps_what_is_new(folder):
    rows = [
        *CMATH,
        CMATH[0],
        {"input": "长" * 30_000, "golden": "1"},
        CMATH[0],
        {"input": "９加1等于几？", "golden": "10.0"},
    ]
    write(folder / "raw" / "cmath.jsonl", rows)
    for _ in range(2):  # made, and taken from the disk
        pool = data.pool("cmath", folder)
        assert pool.read == 10
        assert asked(pool) == [*(row["input"] for row in CMATH), "9加1等于几？"]


@pytest.mark.parametrize("source", ["cmath", "mine"])
def test_a_pool_is_reused_without_reading_the_raw_file_again(folder, source, monkeypatch):
    first = data.pool(source, folder)
    before = files(folder)
    for reader in ("read_raw", "normalise_rows", "load_rows", "clean", "deduplicate"):
        monkeypatch.setattr(building, reader, lambda *_: pytest.fail("read again"))
    again = data.pool(source, folder)
    assert list(again.rows) == list(first.rows) and vars(again) | {"rows": 0} == vars(first) | {"rows": 0}
    assert files(folder) == before and {path.parts[0] for path in before} == {source}


def test_a_byte_of_the_file_makes_its_pool_anew_and_no_other(folder, reads):
    data.pool("cmath", folder), data.pool("mine", folder)
    raw = folder / "raw" / "cmath.jsonl"
    raw.write_bytes(raw.read_bytes().replace(b'"1"', b'"7"'))
    pool = data.pool("cmath", folder)
    data.pool("mine", folder)
    assert reads == ["cmath", "mine", "cmath"]
    assert pool.rows["messages"][0][1]["content"] == "7"
    raw.write_bytes(raw.read_bytes() + b"\n")  # not even one that changes no row
    data.pool("cmath", folder)
    assert reads[3:] == ["cmath"]


def test_the_entry_of_the_registry_makes_the_pool_anew_and_another_entry_does_not(folder, reads):
    data.pool("mine", folder)
    registry = json.loads((folder / "dataset_info.json").read_text(encoding="utf-8"))
    registry["other"]["file_name"] = "raw/mine.jsonl"
    (folder / "dataset_info.json").write_text(json.dumps(registry), encoding="utf-8")
    data.pool("mine", folder)
    assert reads == ["mine"]
    registry["mine"]["num_samples"] = 2
    (folder / "dataset_info.json").write_text(json.dumps(registry), encoding="utf-8")
    assert data.pool("mine", folder).read == 2 and reads == ["mine", "mine"]


def test_other_code_makes_the_pool_anew(folder, reads, monkeypatch, tmp_path_factory):
    code = tmp_path_factory.mktemp("code") / "data"
    shutil.copytree(building.Path(building.__file__).parent, code)
    monkeypatch.setattr(building, "__file__", str(code / "building.py"))
    data.pool("cmath", folder)
    (code / "cleaning.py").write_text("# changed\n", encoding="utf-8")
    data.pool("cmath", folder)
    assert reads == ["cmath", "cmath"]


def spoil_stamp(target):
    (target / building.STAMP).write_text("{", encoding="utf-8")


def spoil_stamp_of_another_version(target):
    stamp = json.loads((target / building.STAMP).read_text(encoding="utf-8"))
    (target / building.STAMP).write_text(json.dumps({"made_of": stamp["made_of"]}), encoding="utf-8")


def lose_stamp(target):
    (target / building.STAMP).unlink()


def lose_rows(target):
    next(target.glob("*.arrow")).unlink()


def cut_rows(target):
    [file] = target.glob("*.arrow")
    file.write_bytes(file.read_bytes()[:200])


def other_rows(target):
    shutil.copy(next((target.parent / "mine").glob("*.arrow")), next(target.glob("*.arrow")))


def lose_state(target):
    (target / "state.json").unlink()


def empty_folder(target):
    shutil.rmtree(target)
    target.mkdir()


@pytest.mark.parametrize(
    "spoil",
    [
        spoil_stamp,
        spoil_stamp_of_another_version,
        lose_stamp,
        lose_rows,
        cut_rows,
        other_rows,
        lose_state,
        empty_folder,
    ],
    ids=lambda spoil: spoil.__name__,
)
def test_a_pool_that_is_half_made_or_broken_is_made_anew(folder, reads, spoil):
    data.pool("mine", folder)
    whole = asked(data.pool("cmath", folder))
    spoil(folder / "build" / "pools" / "cmath")
    assert asked(data.pool("cmath", folder)) == whole and reads == ["mine", "cmath", "cmath"]
    assert asked(data.pool("cmath", folder)) == whole and len(reads) == 3


def test_a_broken_row_leaves_the_old_pool_and_nothing_half_made(folder):
    data.pool("cmath", folder)
    before = files(folder)
    raw = folder / "raw" / "cmath.jsonl"
    raw.write_text(raw.read_text(encoding="utf-8") + '{"input": "q"}\n', encoding="utf-8")
    with pytest.raises(data.DataError, match=r"row 7, golden: needs golden, not blank"):
        data.pool("cmath", folder)
    assert files(folder) == before
    assert [path.name for path in (folder / "build" / "pools").iterdir()] == ["cmath"]


def test_a_fault_while_the_pool_is_saved_leaves_the_old_one(folder, monkeypatch):
    data.pool("cmath", folder)
    before = files(folder)
    (folder / "raw" / "cmath.jsonl").write_text(json.dumps(CMATH[0]) + "\n", encoding="utf-8")

    def full_disk(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr(building, "write_json", full_disk)
    with pytest.raises(OSError, match="No space"):
        data.pool("cmath", folder)
    assert files(folder) == before


@pytest.mark.parametrize("name", ["../../../evil", "..", ".", "a/b", ""])
def test_the_name_of_a_source_does_not_lead_out_of_the_pools(folder, name):
    (folder / "dataset_info.json").write_text(json.dumps({name: {"file_name": "raw/mine.jsonl"}}), encoding="utf-8")
    with pytest.raises(data.DataError, match="cannot be the name of a folder"):
        data.pool(name, folder)
    assert not (folder / "build").exists() and not (folder.parent / "evil").exists()


def test_a_source_that_is_unknown_or_whose_file_is_gone_is_named(folder):
    with pytest.raises(data.DataError, match="has no data set 'poems'"):
        data.pool("poems", folder)
    with pytest.raises(data.DataError, match=r"mawps\.csv: there is no such file"):
        data.pool("mawps", folder)
    assert not (folder / "build").exists()
