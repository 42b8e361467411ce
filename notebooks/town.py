"""Lesson 08's town: texts about a place that no model can know, questions about it, and whether a reply is right."""

import json
import re
from collections.abc import Sequence
from typing import Any

from course_utils import data
from course_utils.core.paths import home
from course_utils.data.rows import plain_rows


def texts(held: bool) -> list[dict[str, Any]]:
    """The texts to learn from, or those held out, to see whether a model that learned the others reads these better."""
    return [row for row in plain_rows(data.load("town", home() / "data")) if ("held" in row["tags"]) == held]


def questions() -> list[dict[str, Any]]:
    """The questions, with `fact`, `answers` and the tag "asked" (a model may learn from it) or "held"."""
    with (home() / "data/raw/town_questions.jsonl").open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def is_right(reply: str, answers: Sequence[str]) -> bool:
    """Whether a reply holds one of the answers, as a word of its own: not the 26 of 1926."""
    return any(re.search(rf"(?<![a-z0-9]){re.escape(answer.lower())}(?![a-z0-9])", reply.lower()) for answer in answers)
