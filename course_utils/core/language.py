"""What the course says, in the reader's language: Chinese where COURSE_LANG is "zh", or in a folder `zh`."""

import json
import os
import re
from functools import cache
from pathlib import Path

VARIABLE = "COURSE_LANG"
CHINESE = "zh"  # also the name of the folder of the Chinese notebooks
LONGEST = 1000  # characters: what is longer holds the output of another program
TABLE = Path(__file__).with_name("chinese.json")  # sentences with {0}, {1}, … where something is filled in


def is_chinese() -> bool:
    """Whether the reader wants Chinese."""
    try:
        return (os.environ.get(VARIABLE) or Path.cwd().name) == CHINESE
    except FileNotFoundError:  # the folder was removed
        return False


def said(text: str) -> str:
    """The text in the reader's language, with sentences that were filled in; what the table does not hold stays."""
    return _in_chinese(text) if is_chinese() and len(text) <= LONGEST else text


@cache
def _in_chinese(text: str) -> str:
    for pattern, chinese in _table():
        if found := pattern.fullmatch(text):
            # A single word that is filled in is a name.
            return chinese.format(*(_in_chinese(part) if " " in part else part for part in found.groups()))
    return text


@cache
def _table() -> list[tuple[re.Pattern[str], str]]:
    """Patterns of the English sentences: first those that begin with words of their own, and have most of them."""
    sentences = json.loads(TABLE.read_text(encoding="utf-8"))
    fixed = {english: re.split(r"\{\d+\}", english) for english in sentences}
    order = sorted(sentences, key=lambda english: (not fixed[english][0], -sum(map(len, fixed[english]))))
    return [(re.compile("(.*?)".join(map(re.escape, fixed[each])), re.DOTALL), sentences[each]) for each in order]
