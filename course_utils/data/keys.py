"""What a row asks, with its numbers masked: the key by which `deduplicate` and `split` tell exercises apart."""

import re
import unicodedata
from typing import Any

from course_utils.data.records import Row

DIGITS = re.compile(r"\d\d*(?:[.,:/\u2044]\d+)*")  # a pattern that begins with one class of characters is found fastest
CHINESE_DIGITS = re.compile(r"[零〇一二两三四五六七八九十百千万亿]")
WORD = (  # by first letters, so that most words are ruled out at their first
    r"(?:zero|one|t(?:en|hirteen|hirty|housand|hree|welve|wenty|wo)|f(?:ifteen|ifty|ive|orty|our|ourteen)"
    r"|s(?:even|eventeen|eventy|ix|ixteen|ixty)|e(?:ight|ighteen|ighty|leven)|n(?:ine|ineteen|inety)"
    r"|hundred|million|billion|dozen)\b"
)
WORDS = re.compile(rf"\W{WORD}(?:[\s-]+(?:and\s+)?{WORD})*")  # the character before in place of \b: twice as fast


def group_key(messages: list[dict[str, Any]]) -> str:
    """What a conversation asks, with its numbers masked: two rows of one key are one exercise in two sizes.

    NFKC, lower case, every number (digits, number words in English, Chinese numerals) becomes 0, white space goes away.
    The user's turns count; where there is none, all turns do. A key is for comparing only.
    """
    asked = [message.get("content") or "" for message in messages if message["role"] == "user"]
    return _masked("\n".join(asked or [message.get("content") or "" for message in messages]))


def row_key(row: Row) -> str:
    """`group_key` of a row's messages, or the same made of its `text` where it has no messages (pretraining)."""
    messages = row.get("messages")
    return group_key(messages) if messages else _masked(row.get("text") or "")


def _masked(text: str) -> str:
    """The text without white space, every number 0."""
    text = f" {unicodedata.normalize('NFKC', text).casefold()}"
    text = CHINESE_DIGITS.sub("0", DIGITS.sub("0", text))
    text = "".join(WORDS.sub(lambda match: f"{match[0][0]}0", text).split())
    return re.sub(r"00+", "0", text)
