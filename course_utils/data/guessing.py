"""What the first rows of a file look like: a source that `normalise` knows, or the entry of a registry that reads them.

Columns and roles are told by the names in use (below), never by their place. Where a file names a role in two ways, the
one that it uses more often is read, because an entry has one tag for a role; rows with the other are problems.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from course_utils.data.records import Row
from course_utils.data.registry import DEFAULT_TAGS
from course_utils.data.rows import MEDIA, REPLIES

OPENAI_TAGS = {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"}
OPENAI_TAGS |= {"observation_tag": "tool", "system_tag": "system"}
TURNS = ("conversations", "messages", "conversation")
SPEAKER_KEYS = {"role", "from"}  # by which a turn is told
PROMPTS = ("instruction", "prompt", "question", "query")
QUERIES = ("input", "context", "passage", "document", "background", "article", "paragraph", "question", "query")
RESPONSES = ("output", "response", "completion", "answer")
SYSTEMS = ("system", "system_prompt", "system_message")
LABELS = ("kto_tag", "label", "thumbs_up", "desirable", "is_good")
YES_OR_NO = {"true": True, "1": 1, "false": False, "0": 0}
TEXTS_OF_ROWS = {*TURNS, *PROMPTS, *QUERIES, *RESPONSES, *SYSTEMS, "history", "text"}  # such a column is no remark
NAMES = {  # of each role, in small letters
    "user_tag": ("user", "human", "prompter"),
    "assistant_tag": ("assistant", "gpt", "chatgpt", "bot", "chatbot", "ai", "model", "bing", "bard", "claude"),
    "system_tag": ("system", "developer"),
    "observation_tag": ("observation", "tool", "function", "tool_response", "function_response", "ipython"),
    "function_tag": ("function_call", "tool_call"),
}
PART_OF = {name: part for part, names in NAMES.items() for name in names}


def turns_in(row: Row, *columns: str) -> Iterator[tuple[str, Row]]:
    """The turns that columns of a raw row hold, as far as they are objects, each with its place."""
    for column in columns:
        found = row.get(column)
        if isinstance(found, dict):
            yield column, found
        elif isinstance(found, list):
            yield from ((f"{column}[{at}]", turn) for at, turn in enumerate(found) if isinstance(turn, dict))


def keys_of(rows: list[Row]) -> set[str]:
    """The keys under which one of these rows has something."""
    return {key for row in rows for key, value in row.items() if value not in (None, "", [])}


def tags_of(first: list[Row], column: str) -> Row:
    """The `tags` by which an entry would read the turns of these rows, and those of their replies."""
    turns = [turn for row in first for _, turn in turns_in(row, column, *REPLIES)]
    keys = keys_of(turns)
    role_tag = next((key for key in ("role", "from", "speaker") if key in keys), None)
    if role_tag is None:
        return OPENAI_TAGS if column == "messages" else DEFAULT_TAGS
    content_tag = next((key for key in ("content", "value", "text") if key in keys), "content")
    found = Counter(turn[role_tag] for turn in turns if isinstance(turn.get(role_tag), str))
    known: Row = {}
    for tag, _ in found.most_common():
        known.setdefault(PART_OF.get(tag.casefold(), ""), tag)
    known.pop("", None)
    default = DEFAULT_TAGS if role_tag == "from" else OPENAI_TAGS
    return default | {"role_tag": role_tag, "content_tag": content_tag} | known


def source(first: list[Row]) -> str | None:
    """Which of the sources that `normalise` knows these rows are in, if any (pitfall source-dialects)."""
    keys = set().union(*first)
    fits = {
        "mawps": {"Question", "Numbers"} <= keys,
        "cmath": "golden" in keys,
        "emoji": bool({"answer_zh", "answer_en"} & keys),
        "cluener": "text" in keys and any(isinstance(row.get("label"), dict) for row in first),
    }
    return next((name for name in fits if fits[name]), None)


def entry(first: list[Row]) -> Row | None:
    """The entry of a registry that reads these rows, but for its file_name."""
    keys, said = set().union(*first), keys_of(first)

    def named(*names: str) -> str | None:
        return next((name for rows in (said, keys) for name in names if name in rows), None)

    label = next((name for name in LABELS if _is_label(name, first)), None)
    parts: dict[str, Any] = {"system": named(*SYSTEMS), "kto_tag": label}
    parts = {part: column for part, column in parts.items() if column is not None}
    parts |= {part: part for part in ("tools", *MEDIA) if part in keys}
    found: Row = {}
    if set(REPLIES) <= said:
        parts |= {part: part for part in REPLIES}
        found["ranking"] = True
    if (column := named(*TURNS)) is not None:
        tags = tags_of(first, column)
        is_openai = (tags["role_tag"], tags["content_tag"]) == ("role", "content")
        written = {"formatting": "openai" if is_openai else "sharegpt", "columns": {"messages": column, **parts}}
        return written | ({"tags": tags} if tags != DEFAULT_TAGS else {}) | found
    prompt, reply = named(*PROMPTS), named(*RESPONSES)
    if prompt is not None and (reply is not None or found):
        query = named(*(name for name in QUERIES if name != prompt))
        more = {part: key for part, key in (("query", query), ("history", "history")) if key in keys}
        answer = {"response": reply} if reply is not None and not found else {}
        return {"columns": {"prompt": prompt, **answer, **more, **parts}, **found}
    return {"columns": {"prompt": "text"}} if "text" in keys else None


def _is_label(name: str, first: list[Row]) -> bool:
    """Whether a column says of each row that its reply is a good one, or not."""
    values = [row[name] for row in first if row.get(name) is not None]
    spelt = name in ("kto_tag", "label") and all(str(value).lower() in YES_OR_NO for value in values)
    return any(isinstance(value, bool) for value in values) or bool(values and spelt)
