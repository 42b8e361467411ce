"""`dataset_info.json`: which data sets there are, where each lies, how it is written, in LLaMA-Factory's schema (C2).

Read as LLaMA-Factory 0.9.5 reads it (`llamafactory/data/parser.py`, `loader.py`): a hub wins over a script and that
over a file; where an entry has `columns` (or `tags`), what that object does not name is None and not its default
(pitfall registry-silence). Unlike there, a key that is unknown, stands twice or would go unread is an error.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from course_utils import hub
from course_utils.core.paths import home
from course_utils.core.strict_json import STRICT
from course_utils.data.reading import SUFFIXES
from course_utils.data.records import DataError, Fault, short
from course_utils.data.rows import MEDIA, REPLIES
from course_utils.text.messages import LEARN_FLAGS

REGISTRY = "dataset_info.json"
HUB_OPTIONS = ("subset", "folder")
ENTRY_KEYS = ("file_name", "hf_hub_url", "ms_hub_url", "om_hub_url", "script_url", "cloud_file_name")
ENTRY_KEYS += ("formatting", "columns", "tags", "ranking", "split", "num_samples", *HUB_OPTIONS)
NO_ROWS = ("", ".md")  # suffixes of what may lie beside the rows: README.md, LICENSE
AS_FILE = "Save its rows once as JSONL in the data folder and name that file as file_name, in an entry without the hub."
REFUSED = {  # places that LLaMA-Factory reads and this course does not
    "om_hub_url": "is not read here: it needs the openmind package, which this course does not have. Name hf_hub_url "
    f"or ms_hub_url, and leave USE_OPENMIND_HUB unset. Or: {AS_FILE}",
    "script_url": "is not read: `datasets` 4 runs no scripts. Run the script once elsewhere, with `datasets` below 4, "
    "save its rows by to_json(..., force_ascii=False) as JSONL and name that as file_name.",
    "cloud_file_name": f"is not read here. {AS_FILE}",
}
FORMATTINGS = ("alpaca", "sharegpt", "openai")
DEFAULT_COLUMNS: dict[str, str | None] = {"prompt": "instruction", "query": "input", "response": "output"}
DEFAULT_COLUMNS |= {"history": None, "messages": "conversations"}
DEFAULT_COLUMNS |= dict.fromkeys(("system", "tools", *MEDIA, *REPLIES, "kto_tag"))
DEFAULT_TAGS: dict[str, str | None] = {"role_tag": "from", "content_tag": "value", "user_tag": "human"}
DEFAULT_TAGS |= {"assistant_tag": "gpt", "observation_tag": "observation", "function_tag": "function_call"}
DEFAULT_TAGS |= {"system_tag": "system"}
ROLES = {"user_tag": "user", "assistant_tag": "assistant", "system_tag": "system", "observation_tag": "tool"}
ROLES |= {"function_tag": "function"}
NEEDED_TAGS = ("role_tag", "content_tag", "user_tag", "assistant_tag")  # where turns have tags
TURN_TEXTS = ("reasoning_content", "tool_call_id", "name")  # OpenAI's keys of a turn that hold text
OWN_COLUMNS = ("id", "tags")  # of the course: kept where a row has them, unknown to LLaMA-Factory


@dataclass(frozen=True)
class Layout:
    """How a file is written."""

    formatting: str
    columns: dict[str, str | None]  # of each part
    tags: dict[str, str | None]  # of each role
    kind: str = "chat"  # or preference (chosen and rejected replies), kto (a reply and whether it is good), text
    explicit: tuple[str, ...] = ()  # the parts that the entry's `columns` names itself: see `unread`

    @cached_property
    def roles(self) -> dict[str, str]:
        """The role that each tag stands for; "function" is an assistant turn that holds calls as JSON text."""
        return {tag: role for part, role in ROLES.items() if (tag := self.tags[part]) is not None}

    @cached_property
    def read_columns(self) -> frozenset[str]:
        """The columns of a row that are read; all others are not."""
        of_others = ("messages",) if self.formatting == "alpaca" else ("prompt", "query", "response", "history")
        named = {column for part, column in self.columns.items() if column is not None and part not in of_others}
        return frozenset(named | set(OWN_COLUMNS))

    @cached_property
    def read_keys(self) -> frozenset[str]:
        """The keys of a turn that are read; all others are not."""
        tags = {self.tags["role_tag"] or "", self.tags["content_tag"] or ""}
        return frozenset(tags | {*TURN_TEXTS, "tool_calls", *LEARN_FLAGS})

    def unread(self, found: set[str]) -> list[Fault]:
        """What the layout says that no row has, or what would be lost, by all columns that the rows have."""
        named = {part: self.columns[part] for part in self.explicit if found}
        missing = {part: column for part, column in named.items() if column is not None and column not in found}
        has = f"which no row has. Rows have: {', '.join(sorted(found))}."
        faults = [Fault(f"columns.{part}", f"names {column!r}, {has}") for part, column in missing.items()]
        if self.kind == "text" and DEFAULT_COLUMNS["response"] in found:
            reason = "columns names prompt alone, so the rows are pretraining text, but they have 'output', which would"
            mend = "Name it as columns.response: what columns does not name is None, not its default."
            faults.append(Fault("columns", f"{reason} be lost. {mend}"))
        return faults


@dataclass(frozen=True)
class Entry:
    """One data set of the registry: where its rows are, how they are written, and which of them are taken."""

    name: str
    folder: Path
    layout: Layout
    files: tuple[Path, ...] = ()
    hub_source: str = "auto"
    address: str = ""  # on a hub, where there are no files
    subset: str | None = None
    hub_folder: str | None = None
    split: str = "train"
    num_samples: int | None = None

    @property
    def where(self) -> str:
        """The registry and the name, for errors."""
        return f"{self.folder / REGISTRY}, {self.name}"


def find(name: str, dataset_dir: str | Path = "data") -> Entry:
    """The entry of a data set, checked: its keys are known, its files lie inside `dataset_dir`."""
    folder = home() / dataset_dir
    known = read_registry(folder)
    if name not in known:
        raise DataError(f"{folder / REGISTRY} has no data set {name!r}. It has: {', '.join(sorted(known)) or 'none'}.")
    return parse(name, known[name], folder)


def naming(file: Path) -> Entry | None:
    """The first entry that reads a file, of the registry in the file's folder or in the folder above it."""
    for folder in (file.parent, file.parent.parent):
        known = read_registry(folder) if (folder / REGISTRY).is_file() else {}
        for name, entry in known.items():
            if isinstance(entry, dict) and entry.get("file_name") == file.relative_to(folder).as_posix():
                return parse(name, entry, folder)
    return None


def read_registry(folder: Path) -> dict[str, Any]:
    """What the registry in a folder says of each data set by name, as it stands there."""
    path = folder / REGISTRY
    try:
        known = STRICT.decode(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{path} is missing: `dataset_dir` must be the folder that holds {REGISTRY}.") from None
    except ValueError as error:  # no UTF-8, no JSON, or a key that stands twice
        raise DataError(f"{path} cannot be read: {error}. Mend it first.") from None
    if not isinstance(known, dict):
        raise DataError(f"{path}: expected an object of data sets, found {type(known).__name__}.")
    return known


def parse(name: str, entry: Any, folder: Path) -> Entry:
    """An entry of the registry in a folder, checked; a DataError names the registry, the entry and the key."""
    where = f"{folder / REGISTRY}, {name}"
    check_keys(entry, ENTRY_KEYS, where)
    for key in (*HUB_OPTIONS, "split"):
        if not isinstance(entry.get(key), str | None):
            raise DataError(f"{where}: {key} must be text, found {entry[key]!r}.")
    wanted = entry.get("num_samples")
    if wanted is not None and (type(wanted) is not int or wanted < 1):
        raise DataError(f"{where}: num_samples must be a whole number of at least 1, found {wanted!r}.")
    source, address = _hub_address(entry, where)
    return Entry(
        name=name,
        folder=folder,
        layout=parse_layout(entry, where),
        files=() if address else _local_files(entry, folder, where),
        hub_source=source,
        address=address,
        subset=entry.get("subset"),
        hub_folder=entry.get("folder"),
        split=entry.get("split") or "train",
        num_samples=wanted,
    )


def path_inside(folder: Path, name: str, field: str) -> Path:
    """The path of a file in `folder`; a DataError where links or ".." lead out of it. It need not exist."""
    path = folder / name
    try:
        inside = path.resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError, ValueError) as error:  # too long, links in a circle, a zero byte
        raise DataError(f"{field}: {short(name)} is no path that can be read ({error}). Name a file.") from None
    if not inside:
        raise DataError(f"{field}: {short(name)} leads out of {folder}. Put the file inside that folder.")
    return path


def files_with_rows(folder: Path) -> list[Path]:
    """The files with rows right in a folder, by name; hidden ones are passed over."""
    inside = [file for file in sorted(folder.iterdir()) if not file.name.startswith(".")]
    return [file for file in inside if file.suffix in SUFFIXES and not file.is_dir()]


def _hub_address(entry: dict[str, Any], where: str) -> tuple[str, str]:
    """Which hub, as `hub.download_dataset` names it, and the name there, "" where the rows lie in files."""
    hf, ms = (key in entry for key in ("hf_hub_url", "ms_hub_url"))
    if not (hf or ms):
        return "auto", ""
    prefers_ms = os.environ.get("USE_MODELSCOPE_HUB", "0").lower() in ("true", "y", "1")  # LLaMA-Factory's own rule
    source, key = ("modelscope", "ms_hub_url") if ms and (prefers_ms or not hf) else ("auto", "hf_hub_url")
    address = entry[key]
    if not isinstance(address, str) or not hub.HUB_ID.fullmatch(address):
        raise DataError(f"{where}: {key} must be owner/name, found {address!r}.")
    return source, address


def _local_files(entry: dict[str, Any], folder: Path, where: str) -> tuple[Path, ...]:
    """The file that an entry names, or the files in the folder that it names; nothing that only a hub could give."""
    for key in entry:
        if key in REFUSED:
            raise DataError(f"{where}: {key} {REFUSED[key]}")
        if key in HUB_OPTIONS and entry[key]:
            found = f"{where}: {key} belongs to a hub; with file_name LLaMA-Factory does not read it"
            raise DataError(f"{found}. Remove it.")
    file_name = entry.get("file_name")
    if not isinstance(file_name, str) or not file_name:
        raise DataError(f"{where}: file_name is missing. Name a file or a folder in {folder}, or hf_hub_url.")
    path = path_inside(folder, file_name, f"{where}: file_name")
    if os.path.isfile(path):  # os.path: false, not an error, where the name is too long
        return (path,)
    if not os.path.isdir(path):
        raise DataError(f"{where}: there is no file {path}.")
    files = files_with_rows(path)
    # Such as README.md and LICENSE are passed over, all else is refused.
    beside = [file for file in sorted(path.iterdir()) if file not in files and not file.name.startswith(".")]
    unread = [file.name for file in beside if file.is_dir() or file.suffix not in NO_ROWS]
    if unread:
        mend = f"Convert it to one of {', '.join(SUFFIXES)}, or move it away."
        raise DataError(f"{where}: {path} holds {unread[0]}, whose rows would be missed. {mend}")
    if not files:
        raise DataError(f"{where}: the folder {path} has no {', '.join(SUFFIXES)} file.")
    return tuple(path_inside(folder, str(file.relative_to(folder)), f"{where}: file_name") for file in files)


# --------------------------------------------------------------------------------------------- how rows are written
def parse_layout(entry: dict[str, Any], where: str) -> Layout:
    """What an entry says about its rows; `where` names the entry in errors."""
    formatting = entry.get("formatting", "alpaca")
    if formatting not in FORMATTINGS:
        raise DataError(f"{where}: unknown formatting {formatting!r}; expected {', '.join(FORMATTINGS)}.")
    columns = _named(entry, "columns", DEFAULT_COLUMNS, where)
    tags = _named(entry, "tags", DEFAULT_TAGS, where)
    kind = _kind(entry, formatting, columns, where)
    needed = ["prompt"] if formatting == "alpaca" else ["messages", *NEEDED_TAGS]
    if kind == "preference":
        needed += REPLIES
    elif formatting == "alpaca" and kind != "text":
        needed.append("response")
    named, defaults = columns | tags, DEFAULT_COLUMNS | DEFAULT_TAGS  # no part is in both
    for part in needed:
        if named[part] is None:
            found = f"{where}.{'tags' if part in tags else 'columns'} does not name {part}, so it is None"
            default = f", not its default {defaults[part]!r}" if defaults[part] else ""
            raise DataError(f"{found}{default} (LLaMA-Factory reads it so too). Name it.")
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
