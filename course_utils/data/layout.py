"""How the rows of a file are written: what an entry of `dataset_info.json` says of its formatting, columns and tags.

Read as LLaMA-Factory 0.9.5 reads it (`llamafactory/data/parser.py`): where an entry has `columns` (or `tags`), whatever
that object does not name is None and not its default (pitfall registry-silence).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from course_utils.data.rows import MEDIA, REPLIES, DataError, Fault

FORMATTINGS = ("alpaca", "sharegpt", "openai")
DEFAULT_COLUMNS: dict[str, str | None] = {"prompt": "instruction", "query": "input", "response": "output"}
DEFAULT_COLUMNS |= {"history": None, "messages": "conversations"}
DEFAULT_COLUMNS |= dict.fromkeys(("system", "tools", *MEDIA, *REPLIES, "kto_tag"))
DEFAULT_TAGS: dict[str, str | None] = {"role_tag": "from", "content_tag": "value", "user_tag": "human"}
DEFAULT_TAGS |= {"assistant_tag": "gpt", "observation_tag": "observation", "function_tag": "function_call"}
DEFAULT_TAGS |= {"system_tag": "system"}
NEEDED_TAGS = ("role_tag", "content_tag", "user_tag", "assistant_tag")  # where turns have tags
TURN_TEXTS = ("reasoning_content", "tool_call_id")  # OpenAI's keys of a turn that hold text
OWN_COLUMNS = ("id", "tags")  # of the course: kept where a row has them, unknown to LLaMA-Factory


@dataclass(frozen=True)
class Layout:
    """How a file is written: the formatting, what kind its rows are, the column of each part, the tag of each role.

    `kind` is "chat", "preference" (chosen and rejected replies), "kto" (a reply and whether it is good) or "text"
    (pretraining). `explicit` lists the parts that the entry's `columns` names itself: see `unread`.
    """

    formatting: str
    columns: dict[str, str | None]
    tags: dict[str, str | None]
    kind: str = "chat"
    explicit: tuple[str, ...] = ()

    @cached_property
    def roles(self) -> dict[str, str]:
        """The role that each tag stands for; "function" is an assistant turn that holds calls as JSON text."""
        named = {"user": "user", "assistant": "assistant", "observation": "tool", "function": "function"}
        tags = {self.tags[f"{name}_tag"]: role for name, role in (named | {"system": "system"}).items()}
        return {tag: role for tag, role in tags.items() if tag is not None}

    @cached_property
    def read_columns(self) -> frozenset[str]:
        """The columns of a row that are read; all others are not."""
        parts = {"messages"} if self.formatting != "alpaca" else {"prompt", "query", "response", "history"}
        parts = {"prompt"} if self.kind == "text" else parts | {"system", "tools", *MEDIA}
        parts |= {"kto": {"kto_tag"}, "preference": set(REPLIES)}.get(self.kind, set())
        return frozenset({self.columns[part] or part for part in parts if self.columns[part]} | set(OWN_COLUMNS))

    @cached_property
    def read_keys(self) -> frozenset[str]:
        """The keys of a turn that are read; all others are not."""
        tags = {self.tags["role_tag"] or "", self.tags["content_tag"] or ""}
        return frozenset(tags | {*TURN_TEXTS, "tool_calls"})

    def unread(self, found: set[str]) -> list[Fault]:
        """What the layout says that no row has, or what would be lost, by all columns that the rows have.

        LLaMA-Factory answers with a KeyError, or with silence.
        """
        faults = []
        for part in self.explicit if found else ():
            column = self.columns[part]
            if column is not None and column not in found:
                names = ", ".join(sorted(found))
                faults.append(Fault(f"columns.{part}", f"names {column!r}, which no row has. Rows have: {names}."))
        lost = DEFAULT_COLUMNS["response"]
        if self.kind == "text" and lost in found:
            reason = f"columns names prompt alone, so the rows are pretraining text, but they have {lost!r}"
            mend = "Name it as columns.response: what columns does not name is None, not its default."
            faults.append(Fault("columns", f"{reason}, which would be lost. {mend}"))
        return faults


def parse_layout(entry: dict[str, Any], where: str) -> Layout:
    """What an entry says about its rows; `where` names the entry in errors."""
    formatting = entry.get("formatting", "alpaca")
    if formatting not in FORMATTINGS:
        raise DataError(f"{where}: unknown formatting {formatting!r}; expected {', '.join(FORMATTINGS)}.")
    columns = _named(entry, "columns", DEFAULT_COLUMNS, where)
    tags = _named(entry, "tags", DEFAULT_TAGS, where)
    kind = _kind(entry, formatting, columns, where)
    needed = ["prompt"] if formatting == "alpaca" else ["messages"]
    if kind == "preference":
        needed += REPLIES
    elif formatting == "alpaca" and kind != "text":
        needed.append("response")
    for key in needed:
        if columns[key] is None:
            default = f", not its default {DEFAULT_COLUMNS[key]!r}" if DEFAULT_COLUMNS[key] else ""
            found = f"{where}.columns does not name {key}, so it is None{default}"
            raise DataError(f"{found} (LLaMA-Factory reads it so too). Name it.")
    for key in NEEDED_TAGS if formatting != "alpaca" else ():
        if tags[key] is None:
            raise DataError(f"{where}.tags does not name {key}, so it is None, not {DEFAULT_TAGS[key]!r}. Name it.")
    return Layout(formatting, columns, tags, kind, explicit=tuple(entry.get("columns") or ()))


def check_keys(found: Any, known: tuple[str, ...], where: str) -> None:
    """A DataError where `found` is no object, or has a key that is not known."""
    if not isinstance(found, dict):
        raise DataError(f"{where}: expected an object, found {type(found).__name__}.")
    unknown = sorted(set(found) - set(known))
    if unknown:
        raise DataError(f"{where}: unknown key {unknown[0]!r}. Known are: {', '.join(known)}.")


def _named(entry: dict[str, Any], key: str, defaults: dict[str, str | None], where: str) -> dict[str, str | None]:
    """What `columns` or `tags` of an entry says, or the defaults where the entry has none."""
    named = entry.get(key)
    if named is None:
        return dict(defaults)
    check_keys(named, tuple(defaults), f"{where}.{key}")
    for part, value in named.items():
        if not isinstance(value, str | None):
            raise DataError(f"{where}.{key}.{part}: expected a name as text, found {value!r}.")
    return {part: named.get(part) for part in defaults}


def _kind(entry: dict[str, Any], formatting: str, columns: dict[str, str | None], where: str) -> str:
    """Which kind of rows an entry has; LLaMA-Factory leaves that to the training stage."""
    ranking = entry.get("ranking", False)
    if not isinstance(ranking, bool):
        raise DataError(f"{where}: ranking must be true or false without quotes, found {ranking!r}.")
    unread = [part for part in REPLIES if columns[part] is not None and not ranking]
    if unread:
        raise DataError(f'{where}: columns.{unread[0]} is read only with "ranking": true. Add that, or remove it.')
    if columns["kto_tag"] is not None and ranking:
        raise DataError(f"{where}: ranking and columns.kto_tag are two kinds of rows. Keep the one that the rows have.")
    if ranking or columns["kto_tag"] is not None:
        return "preference" if ranking else "kto"
    named = [part for part, column in columns.items() if column is not None]
    return "text" if formatting == "alpaca" and named == ["prompt"] else "chat"
