"""`read`: every container gives the same rows, each with its number and line, also after a fault, and as a stream."""

import json
import math
import tracemalloc
from itertools import islice

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from course_utils import data
from course_utils.data.reading import read
from course_utils.data.records import Problem, Record

ROWS = [{"q": '你好,\n"hi"', "n": 1}, {"q": "a\u2028b\u0085c", "n": None}, {"q": "", "n": {"deep": [True, 2.5]}}]


@pytest.fixture
def write(tmp_path):
    def written(name, body):
        path = tmp_path / name
        path.write_bytes(body if isinstance(body, bytes) else body.encode())
        return path

    return written


def found(path):
    """(row, line, what stands there) of each item: the row, or "" for a problem."""
    return [(item.row, item.line, item.value if isinstance(item, Record) else "") for item in read(path)]


def problems(path):
    return [item for item in read(path) if isinstance(item, Problem)]


# --------------------------------------------------------------------------------------------------- JSON, every layout
def layouts(rows):
    """(name of the file, body) of each way in which rows are written as JSON."""
    compact = [json.dumps(row, ensure_ascii=False) for row in rows]
    pretty = [json.dumps(row, ensure_ascii=True, indent=2) for row in rows]
    lists = {"list": f"[{','.join(compact)}]", "indented": json.dumps(rows, indent=4, ensure_ascii=False)}
    bodies = {
        "lines": "\n".join(compact) + "\n",
        "blank-lines": "\n\n".join(compact) + "\n \n",
        "concatenated": "".join(pretty),
        "pretty": "\n".join(pretty),
        **lists,
    }
    for name, body in bodies.items():
        for what, changed in (("", body), ("-crlf", body.replace("\n", "\r\n")), ("-mark", "\ufeff" + body)):
            yield f"{name}{what}.json", changed
    for name in ("lines", "blank-lines", "pretty", "indented"):
        yield f"{name}.jsonl", bodies[name]


@pytest.mark.parametrize(("name", "body"), layouts(ROWS), ids=[name for name, _ in layouts(ROWS)])
def test_every_layout_of_json_gives_the_rows(write, name, body):
    assert data.read_raw(write(name, body)) == ROWS


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8")),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner, max_size=3)
    ),
    max_leaves=6,
)
some_rows = st.lists(
    st.dictionaries(st.text(st.characters(codec="utf-8")), values, min_size=1, max_size=3), min_size=1, max_size=4
)


@given(some_rows)
def test_rows_written_by_json_come_back_equal_from_every_layout(tmp_path_factory, rows):
    folder = tmp_path_factory.getbasetemp()
    for name, body in layouts(rows):
        path = folder / name
        path.write_bytes(body.encode())
        assert data.read_raw(path) == rows, name


def test_one_object_is_one_row(write):
    assert data.read_raw(write("a.json", '{"a": 1}')) == data.read_raw(write("a.jsonl", '{\n"a": 1\n}\n')) == [{"a": 1}]


def test_lines_are_counted_from_one_and_rows_without_the_blank_lines(write):
    assert found(write("a.jsonl", '\ufeff\r\n{"a": 1}\r\n\r\n  \n{"a": "\u2028\u2029\x85"}\n')) == [
        (1, 2, {"a": 1}),
        (2, 5, {"a": "\u2028\u2029\x85"}),
    ]
    assert found(write("a.json", '\n[\n  {"a":\n 1},\r\n\r\n {"a": 2}, {"a":\n"\u2028"}\n,{}]')) == [
        (1, 3, {"a": 1}),
        (2, 6, {"a": 2}),
        (3, 6, {"a": "\u2028"}),
        (4, 8, {}),
    ]
    assert found(write("b.json", '{"a": 1}{"a": 2}\n\n{"a": 3}')) == [
        (1, 1, {"a": 1}),
        (2, 1, {"a": 2}),
        (3, 3, {"a": 3}),
    ]


def test_lines_stay_right_after_a_fault(write):
    lines = ['{"a": 1}', "{broken", '{"a": NaN}', '{"a": 2, "a": 3}', "[1]", '{"a": "\\ud83d"}', '{"a": 4}']
    rows = [(number, number, "") for number in range(2, 7)]
    assert found(write("a.jsonl", "\n".join(lines))) == [(1, 1, {"a": 1}), *rows, (7, 7, {"a": 4})]
    del lines[1]  # after it the end of an object is not known
    rows = [(number, number + 1, "") for number in range(2, 6)]
    assert found(write("a.json", "[\n" + ",\n".join(lines) + "\n]")) == [(1, 2, {"a": 1}), *rows, (6, 7, {"a": 4})]
    assert found(write("b.json", "\n".join(lines))) == [
        (1, 1, {"a": 1}),
        *((n, n, "") for n in range(2, 6)),
        (6, 6, {"a": 4}),
    ]


def test_a_document_is_read_up_to_what_is_no_json_and_says_so(write):
    good = '{"a": 1}'
    for body, row, line, reason in (
        (f"[{good},\n{{broken", 2, 2, "not JSON .*What follows was not read"),
        (f"[{good}\n{good}]", 2, 2, "expected a comma"),
        (f"[{good},\n{good}\n", None, 2, "the list is not closed"),
        (f"[{good}]\n\n{good}", 2, 3, "the list is closed before this"),
        (f"[{good}][{good}]", 2, 1, "the list is closed before this"),
        (f"[{good}] oops", 2, 1, "the list is closed before this"),
    ):
        [problem] = problems(write("a.json", body))
        assert (problem.row, problem.line) == (row, line), body
        with pytest.raises(data.DataError, match=reason):
            data.read_raw(write("a.json", body))


def test_white_space_after_a_list_is_nothing(write):
    assert data.read_raw(write("a.json", '[{"a": 1}]\r\n\t \n')) == [{"a": 1}]
    assert data.read_raw(write("a.json", "[]")) == data.read_raw(write("a.jsonl", " \n")) == []


def test_bytes_that_are_no_utf8_are_reported_in_their_row_and_field(write):
    body = b'{"a": {"b": ["ok", "caf\xe9"]}}\n{"a": "\\ud83d\\ude00"}\n{"a": "\\ud83d"}\n{"caf\xe9": 1}\n'
    for name, changed in (("a.jsonl", body), ("a.json", b"[" + body.strip().replace(b"\n", b",\n") + b"]")):
        path = write(name, changed)
        assert [(p.row, p.field) for p in problems(path)] == [(1, "a.b[1]"), (3, "a"), (4, "a key")]
        assert [item.value for item in read(path) if isinstance(item, Record)] == [{"a": "\U0001f600"}]


def test_a_problem_can_always_be_printed(write):
    """Half of a character stands in a key that is there twice, and in the head of a table that was saved as GBK."""
    for path in (
        write("a.jsonl", '{"\\ud83d": 1, "\\ud83d": 2}'),
        write("a.csv", "指令,指令\n甲,乙\n".encode("gbk")),
        write("b.csv", "指令,输出\n甲,乙,丙\n".encode("gbk")),
    ):
        [problem] = problems(path)
        assert str(problem).encode()


def test_what_is_no_json_in_any_layout_names_the_key(write):
    path = write("a.jsonl", '{"a": {"b": 1, "b": 2}}\n{"x": [Infinity]}\n{"n": ' + "9" * 5000 + "}\n")
    first, second, third = problems(path)
    assert first.field == "b" and "stands twice" in first.reason
    assert "Infinity is no JSON" in second.reason and "4300" in third.reason


# ------------------------------------------------------------------------------------------------------------ streaming
def test_jsonl_is_read_as_it_is_asked_for(write):
    """What is spoiled after the first row was read comes out spoiled: it had not been read."""
    path = write("a.jsonl", '{"a": 1}\n' * 10_000)
    stream = read(path)
    assert next(stream).value == {"a": 1}
    with path.open("r+b") as file:
        file.seek(9 * 9_000)
        file.write(b"{broken}\n" * 1_000)
    assert [isinstance(item, Problem) for item in stream] == [False] * 8_999 + [True] * 1_000
    assert [item.row for item in islice(read(path), 1)] == [1]


def test_reading_a_broken_line_is_no_error_until_it_is_reached(write):
    stream = read(write("a.jsonl", '{"a": 1}\n{broken\n{"a": 2}\n'))
    assert next(stream).value == {"a": 1}
    assert isinstance(next(stream), Problem)
    assert next(stream).value == {"a": 2}


@pytest.mark.parametrize(("name", "line"), [("a.jsonl", '{"text": "%s"}\n'), ("a.csv", '"%s"\n'), ("a.txt", "%s\n")])
def test_a_container_of_lines_is_never_whole_in_memory(write, name, line):
    """Ten thousand lines of a kilobyte: the reader holds a few of them at a time."""
    path = write(name, ("text\n" if name == "a.csv" else "") + line % ("x" * 1000) * 10_000)
    tracemalloc.start()
    assert sum(1 for _ in read(path)) == 10_000
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**20


# --------------------------------------------------------------------------------------------------------- csv and text
def test_csv_keeps_quotes_commas_and_line_breaks_and_counts_the_lines(write):
    body = '\ufeffq,a\r\n"Say ""hi"",\r\nplease\u2028",6\r\n\r\n,"\n\n"\r\nlast,x'
    assert found(write("a.csv", body)) == [
        (1, 2, {"q": 'Say "hi",\r\nplease\u2028', "a": "6"}),
        (2, 5, {"q": "", "a": "\n\n"}),
        (3, 8, {"q": "last", "a": "x"}),
    ]


def test_csv_goes_on_after_a_row_with_too_many_cells_and_stops_at_an_open_quote(write):
    path = write("a.csv", 'q,a\n1,2\n1,2,3\n"x\ny",5\n\n1\n7,8\n"open,9\n')
    assert found(path) == [
        (1, 2, {"q": "1", "a": "2"}),
        (2, 3, ""),
        (3, 4, {"q": "x\ny", "a": "5"}),
        (4, 7, ""),
        (5, 8, {"q": "7", "a": "8"}),
        (None, 9, ""),
    ]
    assert "has 3 cells, the header has 2 (q, a)" in problems(path)[0].reason


def test_csv_may_begin_with_blank_lines_and_hold_long_cells(write):
    assert found(write("a.csv", "\n\nq,a\n1,2\n")) == [(1, 4, {"q": "1", "a": "2"})]
    assert len(data.read_raw(write("b.csv", "q\n" + "x" * 200_000 + "\n"))[0]["q"]) == 200_000
    assert data.read_raw(write("c.csv", "")) == data.read_raw(write("c.csv", "q,a\n")) == []


def test_csv_of_another_encoding_is_reported_by_row(write):
    path = write("a.csv", b"q,a\nok,1\ncaf\xe9,2\nok,3\n")
    assert found(path) == [(1, 2, {"q": "ok", "a": "1"}), (2, 3, ""), (3, 4, {"q": "ok", "a": "3"})]
    assert problems(path)[0].field == "q"


def test_every_line_of_text_that_is_not_blank_is_a_row(write):
    assert found(write("a.txt", "\ufeffone \r\n\r\n \n\ttwo\u2028still two\x85\nthree")) == [
        (1, 1, {"text": "one "}),
        (2, 4, {"text": "\ttwo\u2028still two\x85"}),
        (3, 5, {"text": "three"}),
    ]
    path = write("b.txt", b"one\ncaf\xe9\nthree\n")
    assert [(item.row, item.line) for item in read(path)] == [(1, 1), (2, 2), (3, 3)]
    assert [(p.row, p.field) for p in problems(path)] == [(2, "text")]


# -------------------------------------------------------------------------------------------------------------- parquet
def test_parquet_gives_its_rows_without_their_empty_fields(tmp_path):
    rows = [{"q": "你好", "turns": [{"role": "user", "name": None}]}, {"q": None, "turns": []}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    assert found(tmp_path / "a.parquet") == [
        (1, None, {"q": "你好", "turns": [{"role": "user"}]}),
        (2, None, {"turns": []}),
    ]


def test_parquet_is_read_in_batches_and_counted_over_them(tmp_path):
    pq.write_table(pa.table({"n": list(range(2500))}), tmp_path / "a.parquet")
    assert [(item.row, item.value["n"]) for item in read(tmp_path / "a.parquet")] == [(n + 1, n) for n in range(2500)]
    assert data.read_raw(tmp_path / "a.parquet")[-1] == {"n": 2499}


def test_parquet_that_is_cut_is_a_problem(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"q": ["a"]}), path)
    path.write_bytes(path.read_bytes()[:-9])
    [problem] = problems(path)
    assert problem.row is None and "not Parquet" in problem.reason


@pytest.mark.parametrize("spoiled", [b"\xff\xfe\xff", b"\xed\xa0\xbd"], ids=["no UTF-8", "half of an emoji"])
def test_a_text_of_parquet_that_is_not_utf8_is_a_problem(tmp_path, spoiled):
    offsets, texts = pa.py_buffer(b"\0\0\0\0\3\0\0\0\4\0\0\0"), pa.py_buffer(spoiled + b"A")
    column = pa.StringArray.from_buffers(2, offsets, texts)
    nested = pa.StructArray.from_arrays([column, pa.array([1, 2])], ["deep", "n"])
    for name, values in (("q", column), ("turns", nested)):
        pq.write_table(pa.table({"id": ["a", "b"], name: values}), tmp_path / "a.parquet")
        [problem] = read(tmp_path / "a.parquet")
        assert "utf-8" in problem.reason


# -------------------------------------------------------------------------------------- files as people write them
TURNS = [{"role": "user", "content": "Q\n{"}, {"role": "assistant", "content": "A"}]
MINE = [{"messages": TURNS, "n": n} for n in range(3)]


class TestObjectsOverSeveralLines:
    """A .jsonl whose first object spans several lines is read as a document."""

    @pytest.mark.parametrize("indent", [0, 1, 4])
    @pytest.mark.parametrize("opening", ["{", '{"messages": ['])
    def test_they_are_read_with_the_lines_where_they_begin(self, write, indent, opening):
        pretty = [json.dumps(row, indent=indent) for row in MINE]
        if opening != "{":
            pretty = ['{"messages": [' + text.partition("[")[2] for text in pretty]
        path = write("a.jsonl", "\n".join(pretty) + "\n")
        assert data.read_raw(path) == MINE
        lines, begin = [item.line for item in read(path)], 1
        for text, line in zip(pretty, lines, strict=True):
            assert line == begin
            begin += text.count("\n") + 1

    @pytest.mark.parametrize("cut", range(1, 60, 7))
    def test_a_line_that_is_cut_does_not_take_the_next_ones_along(self, write, cut):
        lines = [json.dumps(row) for row in MINE]
        path = write("a.jsonl", "\n".join([lines[0], lines[1][:cut], lines[1], lines[2]]))
        assert [(item.row, isinstance(item, Record)) for item in read(path)] == [
            (1, True),
            (2, False),
            (3, True),
            (4, True),
        ]


class TestLists:
    """A list on one line of a .jsonl, and lists in place of rows."""

    @pytest.mark.parametrize("rows", [MINE, MINE[:1]])
    def test_a_list_of_rows_on_one_line_is_read(self, write, rows):
        assert data.read_raw(write("a.jsonl", json.dumps(rows))) == rows
        assert data.read_raw(write("b.jsonl", "\n [" + ",\n".join(map(json.dumps, rows)) + "]\n")) == rows

    def test_one_conversation_as_a_file_is_told_to_be_one_row(self, write):
        report = data.check(write("a.json", json.dumps(TURNS)))
        assert report.kept == 0 and '{"messages": [turn, turn]}' in report.problems[0].reason

    @pytest.mark.parametrize("value", [[1, 2], ["a"], [], [TURNS[0], "a"]])
    def test_another_list_in_place_of_a_row_is_a_problem(self, write, value):
        path = write("a.jsonl", f'{{"a": 1}}\n{json.dumps(value)}\n{{"a": 2}}\n')
        assert [(p.row, p.reason) for p in problems(path)] == [(2, "expected an object, found list.")]


class TestOtherNames:
    """JSON that is named .txt, or .csv, becomes no text."""

    @pytest.mark.parametrize("name", ["a.txt", "a.csv"])
    @pytest.mark.parametrize(
        "body",
        [
            json.dumps(MINE),
            json.dumps(MINE, indent=1),
            "\n".join(map(json.dumps, MINE)),
            json.dumps(MINE[0], indent=4),
            "\ufeff\n  " + json.dumps([TURNS]),
            "[{'a': 1}]",
        ],
    )
    def test_the_message_says_rename(self, write, name, body):
        [problem] = problems(write(name, body))
        assert problem.row is None and "Rename it: .json for a list, .jsonl for an object a line" in problem.reason

    @pytest.mark.parametrize(
        "text", ["[Verse 1]", "{hello}", '["Hello" she said]', "[1] A note: see below", "{}", '"a"']
    )
    def test_brackets_alone_are_text(self, write, text):
        assert data.read_raw(write("a.txt", f"{text}\nmore\n")) == [{"text": text}, {"text": "more"}]


class TestSeparators:
    """A CSV with semicolons or tabs is read by its separator."""

    @pytest.mark.parametrize("separator", [",", ";", "\t"])
    @pytest.mark.parametrize("mark", ["", "\ufeff"])
    def test_it_is_told_by_the_header(self, write, separator, mark):
        lines = [["instruction", "output"], ['"a; b, c\td"', "x"], ['"two\nlines"', '"6"']]
        path = write("a.csv", mark + "\r\n".join(map(separator.join, lines)))
        assert data.read_raw(path) == [
            {"instruction": "a; b, c\td", "output": "x"},
            {"instruction": "two\nlines", "output": "6"},
        ]

    def test_commas_in_a_header_of_semicolons_and_one_column_alone(self, write):
        assert data.read_raw(write("a.csv", "q;a;note (en, zh)\n1;2;3\n")) == [
            {"q": "1", "a": "2", "note (en, zh)": "3"}
        ]
        assert data.read_raw(write("b.csv", "text\na;b\n")) == [{"text": "a;b"}]

    def test_a_row_with_too_many_cells_names_the_separator(self, write):
        [problem] = problems(write("a.csv", "q;a\n1;2;3\n"))
        assert "has 3 cells" in problem.reason and "';'" in problem.reason


# -------------------------------------------------------------------------------------------------------------- refused
def test_other_files_are_refused_before_a_row_is_asked_for(tmp_path, write):
    for name in ("a.xlsx", "a", "a.JSONL"):
        with pytest.raises(data.DataError, match=r"cannot read .*must be one of \.jsonl, \.json, \.csv"):
            read(tmp_path / name)
    (tmp_path / "folder.jsonl").mkdir()
    for name in ("absent.jsonl", "folder.jsonl"):
        with pytest.raises(data.DataError, match="there is no such file"):
            read(tmp_path / name)


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.txt"])
def test_utf16_is_named_as_such(write, name):
    [problem] = problems(write(name, '{"a": 1}'.encode("utf-16")))
    assert (problem.row, problem.line) == (None, 1) and "UTF-16" in problem.reason


def test_read_raw_tells_the_gravest_problem_and_how_many_more(write):
    with pytest.raises(data.DataError, match=r"a\.jsonl, row 1, line 1: not JSON .* And 1 more; .*check-data"):
        data.read_raw(write("a.jsonl", "{x\n{broken\n"))
    with pytest.raises(data.DataError, match=r"a\.json, line 2: the list is not closed.* And 1 more"):
        data.read_raw(write("a.json", '[{"a": NaN},\n{"a": 2}'))


def test_numbers_are_read_as_json_has_them(write):
    [row] = data.read_raw(write("a.json", '{"i": 12345678901234567890, "f": 1e400, "z": -0.0}'))
    assert row["i"] == 12345678901234567890 and math.isinf(row["f"]) and math.copysign(1, row["z"]) == -1
