"""`check-data` as people run it: exit codes, text, JSON, a page; never a traceback."""

import json
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import malformed
import pytest

from course_utils import cli

ROOT = Path(__file__).resolve().parents[2]

GOOD = [malformed.openai(n) for n in range(6)]
APART = ("kto-deep.json", "openai-half-a-character.jsonl", "text-no-parquet.parquet", "gbk.csv")  # a process each
MALFORMED = (
    *APART,
    "alpaca-cut.jsonl",
    "sharegpt-not-closed.json",
    "tools-arguments-no-json.json",
    "text-latin-1.jsonl",
    "media-path-escape.jsonl",
    "csv-open-quote.csv",
)
CASES = {case.name: case for case in malformed.cases() if case.name in MALFORMED}
CASES["gbk.csv"] = malformed.Case("gbk.csv", "指令,输出\n甲,乙,丙\n".encode("gbk"), None, "")


def write(path, rows):
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def start(folder, *arguments):
    """`python -m course_utils check-data` in a folder of its own, with an output that takes nothing but UTF-8."""
    environment = {"PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8:strict", "PATH": "", "HOME": str(folder)}
    command = [sys.executable, "-m", "course_utils", "check-data", *map(str, arguments)]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, encoding="utf-8", check=False)


@pytest.fixture
def run(monkeypatch, capsys):
    """The same in this process, which has torch already: exit code and output."""

    def ran(*arguments):
        monkeypatch.setattr(sys, "argv", ["course_utils", "check-data", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            cli.main()
        return end.value.code, capsys.readouterr().out

    return ran


@pytest.fixture(scope="module")
def processes(tmp_path_factory):
    """Some malformed files, a good one and one that is not there, each checked by a process of its own."""
    folder = tmp_path_factory.mktemp("cli")
    paths = [CASES[name].write(folder) for name in APART]
    paths += [write(folder / "good.jsonl", GOOD), folder / "gone.json"]
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with ThreadPoolExecutor(2) as pool:
        ended = pool.map(lambda path: start(folder, path.name, "--json"), paths)
    found = {path.name: process for path, process in zip(paths, ended, strict=True)}
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()} == before  # nothing written
    return found


def assert_report_of(case, code, text):
    """The exit code and the JSON of a malformed file: its problem is there, with its place."""
    report = json.loads(text)
    assert code == 1 and set(report) == {"read", "kept", "reported", "repeats", "kind", "problems", "remarks"}
    assert report["read"] == report["kept"] + report["reported"]
    found = [problem for problem in report["problems"] if problem["row"] == case.row]
    assert any(re.search(case.field, problem["field"]) for problem in found)
    assert all(set(problem) == {"file", "row", "line", "field", "reason"} for problem in found)
    assert {Path(problem["file"]).name for problem in found} == {case.name}


# ------------------------------------------------------------------------------------------------------ its own process
@pytest.mark.parametrize("name", APART)
def test_a_malformed_file_ends_in_a_report_and_not_in_a_traceback(processes, name):
    process = processes[name]
    assert "Traceback" not in process.stderr
    assert_report_of(CASES[name], process.returncode, process.stdout)


def test_a_good_file_ends_with_zero_and_a_missing_one_with_a_line(processes):
    good, gone = processes["good.jsonl"], processes["gone.json"]
    assert good.returncode == 0
    assert json.loads(good.stdout) | {"remarks": []} == {
        "read": 6,
        "kept": 6,
        "reported": 0,
        "repeats": 0,
        "kind": "chat",
        "problems": [],
        "remarks": [],
    }
    assert gone.returncode == 1 and gone.stdout == ""
    assert gone.stderr.startswith("error: gone.json: there is no such file.") and gone.stderr.count("\n") == 1


# --------------------------------------------------------------------------------------------------------- this process
@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_file_is_reported_in_text_and_in_json(run, tmp_path, name):
    (tmp_path / "cat.png").write_bytes(b"")
    path = CASES[name].write(tmp_path)
    assert_report_of(CASES[name], *run(path, "--json"))
    code, out = run(path)
    assert code == 1 and f"\n{path}" in out and "rows with a problem" in out


def test_the_text_holds_the_summary_and_every_problem(run, tmp_path):
    path = write(tmp_path / "rows.jsonl", [*GOOD, {"messages": 5}, {"x": 1}])
    code, out = run(path)
    assert code == 1
    assert re.search(r"rows that can be used +6\n", out) and re.search(r"rows with a problem +2\n", out)
    assert f"{path}, row 7, line 7, messages: expected a list of turns, found 5." in out
    assert f"{path}, row 8, line 8, messages: " in out


def test_json_holds_every_problem_and_the_text_only_the_first_hundred(run, tmp_path):
    path = write(tmp_path / "rows.jsonl", [*GOOD, *[{"messages": n} for n in range(130)]])
    code, out = run(path, "--json")
    report = json.loads(out)
    assert code == 1 and (report["read"], report["kept"], report["reported"]) == (136, 6, 130)
    assert [problem["row"] for problem in report["problems"]] == list(range(7, 137))
    _, out = run(path)
    assert out.count("expected a list of turns") == 100 and "… and 30 more." in out


def test_the_page_stands_alone_with_figures_and_problems_and_is_the_only_file_written(run, tmp_path):
    (tmp_path / "rows").mkdir()
    path = write(tmp_path / "rows" / "rows.jsonl", [*GOOD, {"messages": "<script>"}])
    page = tmp_path / "reports" / "page.html"
    code, out = run(path, "--page", page)
    assert code == 1 and "rows read" in out
    assert {file for file in tmp_path.rglob("*") if file.is_file()} == {path, page}
    text = page.read_text(encoding="utf-8")
    assert text.startswith("<!doctype html>") and text.count("data:image/png;base64,") == 1
    assert f"Check of {path}" in text and "expected a list of turns" in text
    assert "<script" not in text and "&lt;script&gt;" in text and "数到" not in text and "答 3" in text
    assert not re.search(r"(src|href)=.(?!data:)", text)  # it needs no other file
    code, out = run(path, "--page", page, "--json")
    assert code == 1 and json.loads(out)["kept"] == 6 and page.is_file()


def test_a_page_that_is_a_folder_is_refused(run, tmp_path):
    path = write(tmp_path / "rows.jsonl", GOOD)
    code, _ = run(path, "--page", tmp_path)
    assert code == 2 and [file.name for file in tmp_path.iterdir()] == ["rows.jsonl"]


def test_tokens_are_counted_and_rows_that_are_too_long_reported(run, tmp_path, qwen3_2507):
    long = malformed.openai(7)
    long["messages"][-1]["content"] = "long " * 100
    path = write(tmp_path / "rows.jsonl", [*GOOD, long])
    options = ("--tokenizer", "qwen3-instruct-2507-tokenizer")
    code, out = run(path, *options, "--max-length", 64, "--page", tmp_path / "page.html")
    assert code == 1 and "row 7, line 7, messages: 1" in out and "more than 64: training would leave it out" in out
    assert re.search(r"tokens of a row: median, longest +\d\d, \d\d\n", out)
    assert re.search(r"share of the chats' tokens that is learned +\d+\.\d%\n", out)
    assert (tmp_path / "page.html").read_text(encoding="utf-8").count("data:image/png;base64,") == 2
    assert run(path, *options)[0] == 0


def test_rows_of_an_evaluation_file_are_reported(run, tmp_path):
    path = write(tmp_path / "rows.jsonl", GOOD)
    (tmp_path / "held").mkdir()
    code, out = run(path, "--against", write(tmp_path / "held" / "eval.jsonl", [malformed.openai(100)]))
    assert code == 1 and out.count("asks what row 1 of") == 6
    assert run(path, "--against", write(tmp_path / "held" / "eval.jsonl", [malformed.alpaca(1)]))[0] == 0


@pytest.mark.parametrize(
    ("kind", "way"),
    [
        ("preference", "`train --stage dpo` of lesson 09"),
        ("pairs", "`train --stage dpo` of lesson 09"),
        ("kto", "`train --stage kto` of lesson 09"),
        ("text", "`train --stage pretrain`"),
    ],
)
def test_the_kind_of_a_file_and_the_lesson_that_trains_on_it_are_said(run, tmp_path, kind, way):
    """Kind of fault: `check-data` and `train` give the same answer."""
    path = write(tmp_path / "rows.jsonl", [malformed.FORMATS[kind](n) for n in range(4)])
    code, out = run(path)
    assert code == 0 and f"`train --data` learns chats: use {way}" in out
    assert json.loads(run(path, "--json")[1])["kind"] == {"pairs": "preference"}.get(kind, kind)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--max-length", "64"), "error: check: max_length counts tokens, so it needs a tokenizer"),
        (("--against", "gone.jsonl"), "error: gone.jsonl: there is no such file"),
        (("--tokenizer", "no-such-tokenizer"), "error: .*no-such-tokenizer"),
    ],
)
def test_what_cannot_be_done_is_an_error_of_one_line(run, tmp_path, options, message):
    code, out = run(write(tmp_path / "rows.jsonl", GOOD), *options)
    assert re.match(message, code) and out == ""
