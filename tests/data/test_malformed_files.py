"""Every malformed file gives a report that names file, row and field; none a traceback; nothing is written."""

import re

import malformed
import pytest

from course_utils import data

CASES = malformed.cases()


def test_there_are_enough_of_them_and_each_has_its_own_name():
    assert len({case.name for case in CASES}) == len(CASES) >= 200


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_report_names_file_row_and_field(case, tmp_path):
    (tmp_path / "cat.png").write_bytes(b"")
    path = case.write(tmp_path)
    report = data.check(path)
    at_fault = [problem for problem in report.problems if problem.row == case.row]
    assert at_fault, report.problems
    for problem in report.problems:
        assert problem.file == str(path) and len(problem.reason) > 10
        assert (problem.row is None) or (problem.line is not None)
    assert any(re.search(case.field, problem.field) for problem in at_fault), at_fault
    assert report.kept + report.reported == report.read
    assert {problem.row for problem in report.problems} == {case.row} or "gbk" in case.name  # there each row is broken
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted(["cat.png", path.name])
    assert path.read_bytes() == case.body
