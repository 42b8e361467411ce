"""Lesson 08's rows: one narrow thing to learn, general rows to mix in, and what may be lost meanwhile."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from course_utils import data, metrics
from course_utils.core.paths import home
from course_utils.core.profiles import Profile
from course_utils.data.rows import plain_rows, texts_of
from course_utils.text.script import HAN
from notebooks.town import is_right

ANSWERS: dict[str, list[str]] = json.loads(Path(__file__).with_name("general_answers.json").read_text(encoding="utf-8"))
"""By the question: what a right reply holds, for those general questions that have one answer."""
SETS = ("emoji", "English", "Chinese", "maths", "JSON")
"""What a model is judged by: held-out rows of what it learns, and four things that it should not lose."""


def part(profile: Profile, name: str, source: str, language: str = "") -> list[dict[str, Any]]:
    """The built rows of a part ("train", "test", …) and a source; of one language ("en", "zh") where it is named."""
    rows = plain_rows(data.load_built(profile, name, home() / "data"))
    return [row for row in rows if row["source"] == source and language in ("", language_of(row))]


def language_of(row: dict[str, Any]) -> str:
    """The language of a row: "zh" where it has a Chinese character anywhere, else "en"."""
    return "zh" if HAN.search(" ".join(texts_of(row))) else "en"


def narrow(profile: Profile, name: str = "train") -> list[dict[str, Any]]:
    """What lesson 08 trains on: chats in English whose replies hold an emoji."""
    return part(profile, name, "emoji", "en")


def replay() -> list[dict[str, Any]]:
    """General rows that may be trained on, in both languages; those of `general` are other ones, and held out."""
    return list(plain_rows(data.load("plain", home() / "data")))


def mixed(profile: Profile, share: float, seed: int = 42) -> list[dict[str, Any]]:
    """The narrow rows with so many general ones that they are this share of all."""
    rows, general = data.to_dataset(narrow(profile)), data.to_dataset(replay())
    total = round(len(rows) / (1 - share))
    shares = {"narrow": 1 - share, "general": share}
    mix, _ = data.mix({"narrow": rows, "general": general}, shares, total_size=total, seed=seed)
    return list(plain_rows(mix))


def judged_by(profile: Profile) -> dict[str, list[dict[str, Any]]]:
    """The held-out rows of each of `SETS`."""
    return {
        "emoji": narrow(profile, "test"),
        "English": part(profile, "general", "general", "en"),
        "Chinese": part(profile, "general", "general", "zh"),
        "maths": part(profile, "test", "mawps") + part(profile, "test", "cmath"),
        "JSON": part(profile, "test", "json"),
    }


def right(row: Mapping[str, Any]) -> bool | None:
    """Whether a reply to a general question is right; None where the question has more than one answer.

    Args:
        row: one of an `EvalReport`.
    """
    return is_right(row["reply"], ANSWERS[row["prompt"]]) if row["prompt"] in ANSWERS else None


def counted(answered: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, list[bool]]:
    """What was learned and what was lost, reply by reply.

    Args:
        answered: by the name of a set ("emoji", "English", "Chinese"), the rows of an `EvalReport` on it.
    """
    general = [*answered["English"], *answered["Chinese"]]
    return {
        "emoji learned": [row["emoji"] for row in answered["emoji"]],
        "general right": [found for found in map(right, general) if found is not None],
        "Chinese in Chinese": [metrics.language(row["reply"]) == "Chinese" for row in answered["Chinese"]],
        "emoji elsewhere": [row["emoji"] for row in general],
    }
