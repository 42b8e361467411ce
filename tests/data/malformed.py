"""Files with one fault each, made from good rows: what people really bring, in every format and container.

for case in cases():
    path = case.write(folder)      # and data.check(path) must name case.row and case.field
"""

import copy
import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Row = dict[str, Any]
GOOD_ROWS = 6
DEEP = 100_000  # brackets in one another


@dataclass(frozen=True)
class Case:
    """A file with a fault, and where a report must find it (row None: the file as a whole)."""

    name: str
    body: bytes
    row: int | None
    field: str  # a regular expression

    def write(self, folder: Path) -> Path:
        path = folder / self.name
        path.write_bytes(self.body)
        return path


# ------------------------------------------------------------------------------------------------------------ good rows
def alpaca(n: int) -> Row:
    return {"instruction": f"Count to {n}. 数到{n}。", "input": "", "output": f"{n}!"}


def sharegpt(n: int) -> Row:
    return {"conversations": [{"from": "human", "value": f"问题 {n}?"}, {"from": "gpt", "value": f"{n}."}]}


def openai(n: int) -> Row:
    asked = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": f"Q {n}?"}]
    return {"messages": [*asked, {"role": "assistant", "content": f"答 {n}"}]}


def tools(n: int) -> Row:
    call = {"type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}}
    turns = [
        {"role": "user", "content": f"Q {n}?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "1"},
        {"role": "assistant", "content": "One."},
    ]
    return {"messages": turns, "tools": json.dumps([{"name": "f", "parameters": {}}])}


def preference(n: int) -> Row:
    row = {"conversations": [{"from": "human", "value": f"Q {n}?"}]}
    return row | {"chosen": {"from": "gpt", "value": "yes"}, "rejected": {"from": "gpt", "value": "no"}}


def pairs(n: int) -> Row:
    return {"instruction": f"Q {n}?", "chosen": "yes", "rejected": "no"}


def kto(n: int) -> Row:
    return openai(n) | {"label": n % 2 == 0}


def text(n: int) -> Row:
    return {"text": f"Once upon a time {n}. 从前。"}


def media(n: int) -> Row:
    turns = [{"from": "human", "value": f"<image>{n}?"}, {"from": "gpt", "value": "A cat."}]
    return {"conversations": turns, "images": ["cat.png"]}


FORMATS: dict[str, Callable[[int], Row]] = {
    made.__name__: made for made in (alpaca, sharegpt, openai, tools, preference, pairs, kto, text, media)
}
ESSENTIAL = {  # of each format, the fields that a row cannot be without
    "alpaca": ("instruction", "output"),
    "sharegpt": ("conversations",),
    "openai": ("messages",),
    "tools": ("messages",),
    "preference": ("conversations", "chosen", "rejected"),
    "pairs": ("instruction", "chosen", "rejected"),
    "kto": ("messages", "label"),
    "text": ("text",),
    "media": ("conversations",),
}
TURNS = {
    "sharegpt": ("conversations", "from", "value"),
    "openai": ("messages", "role", "content"),
    "tools": ("messages", "role", "content"),
    "kto": ("messages", "role", "content"),
    "media": ("conversations", "from", "value"),
}


# ------------------------------------------------------------------------------------------------------- faults of rows
def row_faults(name: str, row: Row) -> Iterator[tuple[str, Any, str]]:
    """(what, the spoiled row, the field that a report must name); "" where it is the row itself."""
    for field in ESSENTIAL[name]:
        yield f"no-{field}", {key: value for key, value in row.items() if key != field}, field
        for what, value in (("number", 7), ("null", None), ("object", {"a": 1}), ("list", [1, 2])):
            yield f"{field}-{what}", row | {field: value}, field
    if name in TURNS:
        yield from turn_faults(name, row)
    if name == "kto":
        yield "label-text", row | {"label": "true"}, "label"
    if name == "tools":
        yield "tools-no-json", row | {"tools": "[{"}, "tools"
        yield "tools-number", row | {"tools": 5}, "tools"
        spoiled = copy.deepcopy(row)
        spoiled["messages"][1]["tool_calls"][0]["function"]["arguments"] = "{x: 1}"
        yield "arguments-no-json", spoiled, r"messages\[1\]\.tool_calls\[0\]\.arguments"
        spoiled = copy.deepcopy(row)
        del spoiled["messages"][1]["tool_calls"][0]["function"]["name"]
        yield "call-without-name", spoiled, r"messages\[1\]\.tool_calls\[0\]"
        yield "no-result", row | {"messages": [row["messages"][at] for at in (0, 1, 3)]}, r"messages\[2\]"
    if name == "media":
        yield "path-escape", row | {"images": ["../../etc/passwd"]}, r"images\[0\]"
        yield "absolute-path", row | {"images": ["/etc/passwd"]}, r"images\[0\]"
        yield "no-such-image", row | {"images": ["dog.png"]}, r"images\[0\]"
        yield "too-many-images", row | {"images": ["cat.png", "cat.png"]}, "images"
        yield "no-images", row | {"images": []}, "images"
        yield "image-number", row | {"images": [5]}, r"images\[0\]"
    yield "tags-text", row | {"tags": {"lang": "en"}}, "tags"
    yield "id-list", row | {"id": [1]}, "id"


def turn_faults(name: str, row: Row) -> Iterator[tuple[str, Row, str]]:
    column, role, content = TURNS[name]
    turns = row[column]
    first = next(at for at, turn in enumerate(turns) if turn[role] in ("human", "user"))

    def with_turns(changed: list[Any]) -> Row:
        return row | {column: changed}

    yield "role-capital", with_turns([*turns[:-1], turns[-1] | {role: "Assistant"}]), rf"{column}\[\d\]\.{role}"
    yield "role-number", with_turns([*turns[:-1], turns[-1] | {role: 1}]), rf"{column}\[\d\]\.{role}"
    yield "no-role", with_turns([*turns[:-1], {content: "x"}]), rf"{column}\[\d\]\.{role}"
    yield "content-list", with_turns([*turns[:-1], turns[-1] | {content: [{"text": "x"}]}]), rf"\[\d\]\.{content}"
    yield "content-null", with_turns([*turns[:-1], turns[-1] | {content: None}]), rf"\[\d\]\.{content}"
    yield "reasoning-key", with_turns([*turns[:-1], turns[-1] | {"reasoning": "why"}]), rf"{column}\[\d\]\.reasoning"
    yield "turn-text", with_turns([*turns[:-1], "hello"]), rf"{column}\[\d\]"
    yield (
        "two-questions",
        with_turns([*turns[: first + 1], turns[first], *turns[first + 1 :]]),
        rf"{column}\[{first + 1}\]",
    )
    yield "ends-with-question", with_turns([*turns, turns[first]]), column
    yield "reply-first", with_turns(turns[first + 1 :]), rf"{column}\[0\]"
    yield "no-turns", with_turns([]), column


# ------------------------------------------------------------------------------------------------------ faults of bytes
def lines_of(rows: list[Any]) -> list[bytes]:
    return [json.dumps(row, ensure_ascii=False).encode() for row in rows]


def byte_faults(name: str, rows: list[Row], at: int) -> Iterator[tuple[str, str, bytes, int | None, str]]:
    """(what, suffix, bytes, row, field) of files that are broken below the rows."""
    lines = lines_of(rows)
    field = ESSENTIAL[name][0]

    def jsonl(changed: bytes) -> bytes:
        return b"\n".join([*lines[:at], changed, *lines[at + 1 :]]) + b"\n"

    def listed(changed: bytes) -> bytes:
        return b"[\n" + b",\n".join([*lines[:at], changed, *lines[at + 1 :]]) + b"\n]"

    spoiled: dict[str, tuple[bytes, str]] = {
        "cut": (lines[at][: len(lines[at]) // 2], ""),
        "single-quotes": (lines[at].replace(b'"', b"'"), ""),
        "no-colon": (lines[at].replace(b": ", b" "), ""),
        "twice-the-key": (lines[at][:-1] + b", " + lines[at][1:], field),
        "nan": (lines[at][:-1] + b', "score": NaN}', ""),
        "infinity": (lines[at][:-1] + b', "score": -Infinity}', ""),
        "deep": (lines[at][:-1] + b', "more": ' + b"[" * DEEP + b"]" * DEEP + b"}", ""),
        "digits": (lines[at][:-1] + b', "more": ' + b"9" * 5000 + b"}", ""),
        "half-a-character": (lines[at][:-1] + b', "note": "\\ud83d"}', "note"),
        "latin-1": (lines[at][:-1] + b', "note": "caf\xe9"}', "note"),
        "a-list": (b"[1, 2]", ""),
        "a-number": (b"42", ""),
        "a-text": (b'"hello"', ""),
        "null": (b"null", ""),
    }
    for what, (changed, where) in spoiled.items():
        yield what, ".jsonl", jsonl(changed), at + 1, where
        yield what, ".json", listed(changed), at + 1, where
    for what, body in {"empty": b"", "blank": b" \n\n", "only-a-bracket": b"[]"}.items():
        yield what, ".json", body, None, ""
    yield "empty", ".jsonl", b"", None, ""
    no_comma = b"[" + b",".join(lines[: at + 1]) + b"\n" + b",".join(lines[at + 1 :]) + b"]"
    yield "no-comma", ".json", no_comma, at + 2, ""
    yield "not-closed", ".json", b"[" + b",".join(lines), None, ""
    yield "utf-16", ".jsonl", jsonl(lines[at]).decode().encode("utf-16"), None, ""
    yield "gbk", ".jsonl", "\n".join(json.dumps(text(n), ensure_ascii=False) for n in range(4)).encode("gbk"), 1, ""
    yield "zeros", ".json", bytes(100), None, ""
    yield "picture", ".jsonl", b"\x89PNG\r\n\x1a\n" + bytes(range(256)), None, ""
    yield "lines-in-json", ".json", b"\n".join([*lines[:at], b"{broken", *lines[at:]]), at + 1, ""
    yield "no-parquet", ".parquet", b"PAR1" + bytes(64), None, ""


def csv_faults() -> Iterator[tuple[str, bytes, int | None, str]]:
    head = b"instruction,input,output\n"
    rows = b"".join(b"Q %d,,A\n" % n for n in range(3))
    yield "too-many-cells", head + rows + b"Q,,A,B\n", 4, ""
    yield "too-few-cells", head + rows + b"Q\n", 4, ""
    yield "open-quote", head + rows + b'Q,,"A\n', None, ""
    yield "twice-the-column", b"instruction,output,output\nQ,A,B\n", None, "output"
    yield "latin-1", head + rows + b"caf\xe9,,A\n", 4, "instruction"
    yield "no-rows", head, None, ""
    yield "empty", b"", None, ""
    yield "other-columns", b"title,body\nQ,A\n", 1, ""


def source_faults() -> Iterator[tuple[str, str, bytes, int, str]]:
    """Rows of the sources that `data.normalise` knows."""
    good = {"input": "1+1?", "golden": "2"}
    for what, row, field in (("no-answer", {"input": "q"}, "golden"), ("no-question", {"golden": "1"}, "input")):
        yield f"cmath-{what}", ".jsonl", b"\n".join(lines_of([good, row])), 2, field
    head = b"Question,Equation,Answer,Numbers\nN_00 cats?,N_00,1.0,1.0\n"
    yield "mawps-number-missing", ".csv", head + b"N_03 cats?,N_00,1.0,1.0\n", 2, "Question"
    yield "mawps-no-number", ".csv", head + b"N_00 cats?,N_00,many,1.0\n", 2, "Answer"
    yield "mawps-numbers", ".csv", head + b"N_00 cats?,N_00,1.0,one\n", 2, "Numbers"
    yield "mawps-endless-number", ".csv", head + b"N_00 cats?,N_00,1e999999999,1.0\n", 2, "Answer"
    emoji = {"question": "Hi?", "answer_zh": "你好👋", "answer_en": "Hi"}
    blank = b"\n".join(lines_of([emoji, {"question": "Hi?", "answer_zh": " ", "answer_en": None}]))
    yield "emoji-blank", ".jsonl", blank, 2, "answer_zh"
    spans = {"text": "在北京", "label": {"address": {"北京": [[1, 2]]}}}
    for what, label, field in (
        ("off-by-one", {"address": {"北京": [[1, 3]]}}, r"label\.address\.北京"),
        ("unknown", {"planet": {"北京": [[1, 2]]}}, r"label\.planet"),
        ("negative", {"address": {"北京": [[-2, 2]]}}, r"label\.address\.北京"),
        ("no-list", {"address": {"北京": 1}}, r"label\.address\.北京"),
        ("text", "北京", "label"),
    ):
        yield f"cluener-{what}", ".jsonl", b"\n".join(lines_of([spans, spans | {"label": label}])), 2, field


# ---------------------------------------------------------------------------------------------------------------- cases
def cases() -> list[Case]:
    """All of them, always the same."""
    draw = random.Random(0)
    found = []
    for name, make in FORMATS.items():
        rows = [make(n) for n in range(GOOD_ROWS)]
        for what, spoiled, field in row_faults(name, copy.deepcopy(rows[0])):
            at = draw.randrange(GOOD_ROWS)
            changed = [*rows[:at], spoiled, *rows[at:]]
            for suffix in (".jsonl", ".json"):
                pretty = json.dumps(changed, ensure_ascii=False, indent=1).encode()
                body = b"\n".join(lines_of(changed)) if suffix == ".jsonl" else pretty
                found.append(Case(f"{name}-{what}{suffix}", body, at + 1, field))
        for what, suffix, body, row, field in byte_faults(name, rows, draw.randrange(1, GOOD_ROWS - 1)):
            found.append(Case(f"{name}-{what}{suffix}", body, row, field))
    found += [Case(f"csv-{what}.csv", body, row, field) for what, body, row, field in csv_faults()]
    found += [Case(f"{what}{suffix}", body, row, field) for what, suffix, body, row, field in source_faults()]
    return found
