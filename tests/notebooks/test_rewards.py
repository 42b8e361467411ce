"""The rewards of lesson 09, by hand."""

import pytest

from notebooks import rewards

DUE = '{"fruit": "fig", "count": 3}'
FENCED = f"Sure!\n```json\n{DUE}\n```"


def test_form_and_content_are_told_apart():
    replies = [DUE, '{"count":3,"fruit":"fig"}', FENCED, "{}", "fig, 3", ""]
    assert rewards.valid(replies) == [1, 1, 0, 1, 0, 0]
    assert rewards.right(replies, [DUE] * 6) == [1, 1, 1, 0, 0, 0]
    nearly = ['{"fruit":"fig","count":"3"}', '{"fruit":"fig","count":3,"more":1}', '{"fruit":"fig"}', f"{DUE} or {DUE}"]
    assert rewards.right(nearly, [DUE] * 4) == [0, 0, 0, 0]
    assert not rewards.is_right('{"ripe": true}', '{"ripe": 1}'), "for Python they are equal"


def test_the_hole_pays_for_nothing_and_the_closed_one_does_not():
    replies = ["{}", DUE, FENCED, "x" * 300]
    assert rewards.short(replies) == pytest.approx([0.98, 0.72, 0.54, 0])
    assert rewards.short_if_right(replies, [DUE] * 4) == pytest.approx([0, 0.72, 0.54, 0])
    hacked, due = (sum(way(["{}"])[0] for way in (rewards.valid, rewards.short)), 1 + rewards.short([DUE])[0])
    assert hacked > due, "an empty object earns more than the right one"
