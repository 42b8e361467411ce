"""The instructor's seconds come from the executed lessons."""

import json

import seconds

PAGE = "| the training (04 `c69`, *Train*) | 520 | the demo |\n| its extra (extra 04_x `c1`, *X*) | 7 | wait |\n"


def test_a_cells_seconds_go_into_its_line(tmp_path):
    times = {"iopub.execute_input": "2026-01-01T10:00:00Z", "shell.execute_reply": "2026-01-01T10:08:21.5Z"}
    cells = [{"id": "c69", "metadata": {"execution": times}}, {"id": "c70", "metadata": {}}]
    (tmp_path / "04_train.ipynb").write_text(json.dumps({"cells": cells}), encoding="utf-8")
    assert seconds.seconds(tmp_path / "04_train.ipynb", "c69") == 501.5
    assert seconds.renewed(PAGE, tmp_path) == PAGE.replace("520", "500")


def test_a_lesson_that_did_not_run_keeps_its_line(tmp_path):
    assert seconds.renewed(PAGE, tmp_path) == PAGE


def test_the_plan_has_such_lines():
    assert len(seconds.ROW.findall(seconds.PAGE.read_text(encoding="utf-8"))) >= 4
