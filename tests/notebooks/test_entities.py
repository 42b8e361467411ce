"""Lesson 07's entities: figures of each label, the worst rows, and what stands in colour."""

import json

import pytest

from course_utils import metrics
from notebooks import entities


def row(reply, reference, text="云程科技的林墨白是记者。"):
    return {"prompt": f"找出实体。\n文本：{text}", "reply": reply, "reference": reference}


RIGHT = '{"company": ["云程科技"], "name": ["林墨白"]}'
ROWS = [
    row(RIGHT, RIGHT),
    row('{"company": ["云程"], "name": ["林墨白"]}', RIGHT),  # a border that is off: one missed, one invented
    row("I found none.", RIGHT),
    row("{}", "{}"),
]


def test_each_label_is_counted_by_itself_and_all_together():
    found = entities.by_label(ROWS)
    assert {label: due for label, (due, _) in found.items()} == {"all": 6, "company": 3, "name": 3}
    assert found["all"][1].value == pytest.approx(2 * 3 / (4 + 6))
    assert found["company"][1].value == pytest.approx(2 * 1 / (2 + 3))
    assert found["name"][1].value == pytest.approx(2 * 2 / (2 + 3))
    assert found["name"][1].low <= found["name"][1].value <= found["name"][1].high


def test_f1_is_that_of_the_evaluation():
    counts = [metrics.entity_counts(each["reply"], each["reference"]) for each in ROWS]
    right, both = sum(each.right for each in counts), sum(each.found + each.due for each in counts)
    assert entities.by_label(ROWS)["all"][1].value == pytest.approx(2 * right / both)


def test_the_worst_come_first():
    assert entities.worst(ROWS, 2) == [ROWS[1], ROWS[2]]  # two faults each, in their order
    assert entities.worst(ROWS, 9)[-1]["reply"] in (RIGHT, "{}")


def test_what_is_missed_and_what_is_wrong_is_said():
    told = repr(entities.compared(ROWS[1:2]))
    assert "right: 林墨白 (name)" in told and "missed: 云程科技 (company)" in told and "wrong: 云程 (company)" in told
    assert "none" in repr(entities.compared(ROWS[3:]))


def test_a_sentence_is_shown_as_text_not_as_html():
    evil = "<b>云程科技</b>"
    shown = entities.in_colour([(evil, json.dumps({"company": [evil]}))])
    assert "<b>" not in shown.html and "&lt;b&gt;" in shown.html and evil in repr(shown)
