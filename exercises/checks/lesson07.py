"""Checks of exercise 07: prompts, answers, F1 by label, a converter with bugs, what a grammar would guarantee."""

from __future__ import annotations

import copy
import json
import math
import random
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from course_utils import metrics
from course_utils.data import sources
from exercises.checks import ask, check, expect, expect_error, shown

Row = dict[str, Any]
Names = dict[str, list[str]]

BEGIN = sources.CLUENER_PROMPT.partition("address")[0]  # what stands before the labels
LABELS = (*sources.CLUENER_LABELS, "地名", "人名", "Name", "site")
NAMES = ("林墨白", "柳如砚", "杭州", "杭州湾", "云程科技", "记者", "《长夜》", "Nordwind Labs", "江", "𠮷野家")
ABSENT = ("王小明", "林 墨白", "nordwind labs", "《江》", "", "科技云程")
BETWEEN = ("，", "在", "见了", " ", "说：", "\n", "老")


def _row(text: str, label: Mapping[str, Sequence[str]]) -> Row:
    """A row as CLUENER has it, each name with every place at which it stands."""
    marked = {}
    for kind, names in label.items():
        found = {name: re.finditer(re.escape(name), text) for name in names}
        marked[kind] = {name: [[at.start(), at.end() - 1] for at in places] for name, places in found.items()}
    return {"text": text, "label": marked}


def _drawn(draw: random.Random) -> tuple[Row, Names]:
    """A row in which nothing stands in order, and what stands in its text, in order."""
    text, marked, wanted = "", {}, {}
    for _ in range(draw.randint(0, 9)):
        text += draw.choice(BETWEEN)
        kind, name = draw.choice(LABELS[:4]), draw.choice(NAMES)
        places = marked.setdefault(kind, {}).setdefault(name, [])
        places.append([len(text), len(text) + len(name) - 1])
        if len(places) == 1:
            wanted.setdefault(kind, []).append(name)
        text += name
    mixed = {kind: {name: _mixed(draw, marked[kind][name]) for name in _mixed(draw, marked[kind])} for kind in marked}
    return {"text": f"{text}。", "label": {kind: mixed[kind] for kind in _mixed(draw, mixed)}}, wanted


def _mixed(draw: random.Random, items: Collection[Any]) -> list[Any]:
    return draw.sample([*items], len(items))


def _compare(found: Any, wanted: Names, given: str) -> None:
    """Expect the text of a JSON object with these labels and names, in this order, that one can read."""
    expect(isinstance(found, str), f"for {given} it returned {shown(found)}; expected the text of a JSON object")
    value = metrics.parse_json(found)
    expect(isinstance(value, dict), f"for {given} it returned {shown(found)}, which is no JSON object")
    expect("\\u" not in found, f"for {given} it returned {shown(found)}; write the letters, not their numbers")
    lost, more = sorted(wanted.keys() - value), sorted(value.keys() - wanted)
    expect(not lost, f"for {given} the answer lacks the label {', '.join(lost)}: {shown(value)}")
    expect(not more, f"for {given} the answer has the label {shown(more)}, which doesn't belong there: {shown(value)}")
    for label, names in wanted.items():
        mine = value[label]
        expect(mine == names, f"for {given} {label} is {shown(mine)}; expected {shown(names)}")
    ordered = list(value) == list(wanted)
    expect(ordered, f"for {given} the labels stand as {shown(list(value))}; expected {shown(list(wanted))}")


# ── a prompt ────────────────────────────────────────────────────────────────────────────────────────────────────────

TEXTS = (
    "林墨白在杭州。",
    "第一行\n第二行\n",
    "{labels} 和 {text}",
    "{",
    "}{0}",
    "文本：又来\n文本：又来",
    "  空格  ",
    "%s，100%，\\n",
    "",
)


@check
def prompt_for(attempt: Callable[[Collection[str], str], str]) -> None:
    """`prompt_for(labels, text)`: one prompt for the same labels, and the text whole."""
    for labels, listed in (
        (["book"], "book"),
        (["name", "book"], "book、name"),
        ({"scene", "game", "company"}, "company、game、scene"),
        (("b", "a", "C"), "C、a、b"),
    ):
        _examine_prompt(attempt, labels, TEXTS[0], listed)
    for text in TEXTS:
        _examine_prompt(attempt, ["name", "book"], text, "book、name")
    whole = sources.normalise_rows("cluener", [{"text": TEXTS[0], "label": {}}])[0]["messages"][0]["content"]
    found = ask(attempt, sources.CLUENER_LABELS[::-1], TEXTS[0])
    expect(found == whole, f"for the ten labels of the course it returned {shown(found)}; the rows have {shown(whole)}")
    draw = random.Random(7)
    for _ in range(20):
        some = draw.sample(LABELS, draw.randint(2, 9))
        first = ask(attempt, list(some), TEXTS[0])
        for labels in (some[::-1], set(some), tuple(_mixed(draw, some)), [*some, some[0]]):
            other = ask(attempt, labels, TEXTS[0])
            expect(other == first, f"{shown(some)} and {shown(labels)} are the same labels, and give two prompts")
    for nothing in ([], (), set()):
        expect_error(attempt, nothing, TEXTS[0], kind=ValueError, why="without a label there is nothing to look for")


def _examine_prompt(attempt: Callable[..., Any], labels: Collection[str], text: str, listed: str) -> None:
    given = f"{shown(labels)} and {shown(text)}"
    before = copy.copy(labels)
    found = ask(attempt, labels, text, given=given)
    expect(labels == before, f"for {given} it changes the labels that it was given")
    expect(isinstance(found, str), f"for {given} it returned {shown(found)}, which is no text")
    head, line, rest = found.partition("\n文本：")
    expect(bool(line), f"for {given} it returned {shown(found)}; no line begins with 文本：")
    expect(rest == text, f"for {given} what follows 文本： is {shown(rest)}; expected the text as it is")
    expect(head.startswith(BEGIN), f"for {given} the instruction is {shown(head)}; INSTRUCTION begins otherwise")
    names = head.removeprefix(BEGIN)
    expect(names == f"{listed}。", f"for {given} the instruction ends with {shown(names)}; expected {listed}。")


# ── an answer ───────────────────────────────────────────────────────────────────────────────────────────────────────

ORDERS = (  # text, the row's labels and names, the answer where it is in another order
    (
        "记者柳如砚在杭州见了林墨白。",
        {"name": ["林墨白", "柳如砚"], "address": ["杭州"], "position": ["记者"]},
        {"position": ["记者"], "name": ["柳如砚", "林墨白"], "address": ["杭州"]},
    ),
    ("没有名字。", {}, None),
    ("林墨白说，林墨白不去。", {"name": ["林墨白"]}, None),
    ("林说，柳说，林说。", {"name": ["柳", "林"]}, {"name": ["林", "柳"]}),
    ("浙江大学", {"organization": ["大学", "浙江大学"]}, {"organization": ["浙江大学", "大学"]}),
    ("《长夜》", {"movie": ["《长夜》"], "book": ["《长夜》"]}, None),
    ("《长夜》", {"book": ["《长夜》"], "movie": ["《长夜》"]}, None),
    ("杭州大学", {"organization": ["杭州大学"], "address": ["杭州"]}, None),
    ("杭州大学", {"address": ["杭州"], "organization": ["杭州大学"]}, None),
    ("杭州大学", {"organization": ["杭州", "杭州大学"]}, None),
    ("杭州大学", {"organization": ["杭州大学", "杭州"]}, None),
    ('店名"江\\湖"。', {"company": ['"江\\湖"']}, None),
)
STRAY = (  # text, the row's labels, the name that does not stand where the row says
    ("记者林墨白在杭州", {"name": {"林墨白": [[2, 5]]}}, "林墨白"),
    ("记者林墨白在杭州", {"name": {"林墨白": [[2, 3]]}}, "林墨白"),
    ("记者林墨白在杭州", {"name": {"林墨白": [[1, 3]]}}, "林墨白"),
    ("记者林墨白在杭州", {"name": {"林墨": [[2, 4]]}}, "林墨"),
    ("记者林墨白在杭州", {"position": {"记者": [[0, 1]]}, "address": {"杭州": [[5, 6]]}}, "杭州"),
    ("林墨白和林墨白", {"name": {"林墨白": [[0, 2], [3, 5]]}}, "林墨白"),
    ("林墨白和林墨白", {"name": {"林墨白": [[4, 6], [9, 11]]}}, "林墨白"),
)


@check
def to_answer(attempt: Callable[[Row], str]) -> None:
    """`to_answer(row)`: what stands in a row's text, in its order, as JSON; each place is checked."""
    draw = random.Random(8)
    cases = [(_row(text, label), wanted or label) for text, label, wanted in ORDERS]
    for row, wanted in [*cases, *(_drawn(draw) for _ in range(60))]:
        before = copy.deepcopy(row)
        given = f"the text {shown(row['text'])} with {shown(row['label'])}"
        _compare(ask(attempt, row, given=given), wanted, given)
        expect(row == before, f"for {given} it changes the row that it was given")
    for text, label, name in STRAY:
        row = {"text": text, "label": label}
        expect_error(attempt, row, kind=ValueError, why=f"{name} does not stand there")
        try:
            attempt(row)
        except ValueError as error:
            said = str(error)
        expect(name in said, f"for {shown(row)} the error says {shown(said)}; it must name {name}")


# ── F1 by label ─────────────────────────────────────────────────────────────────────────────────────────────────────

REPLIES = (  # reply, reference
    ('{"name":["林墨白"]}', '{"name":["林墨白"]}'),
    ('{"name":["林墨白"],"company":["云程"]}', '{"name":["林墨白"],"company":["云程科技"]}'),
    ('{"name":["杭州"]}', '{"address":["杭州"]}'),
    ("杭州", '{"address":["杭州"]}'),
    ("", '{"name":["林墨白","柳如砚"]}'),
    ('["林墨白"]', '{"name":["林墨白"]}'),
    ('{"name":"林墨白"}', '{"name":["林墨白"]}'),
    ('{"name":null,"address":["杭州"]}', '{"address":["杭州"]}'),
    ('{"name":{"林墨白":1}}', '{"name":["林墨白"]}'),
    ('{"name":["林墨白","林墨白","柳如砚"]}', '{"name":["林墨白"]}'),
    ('{"name":["林墨白","柳如砚"]}', '{"name":["柳如砚","林墨白"],"position":["记者"]}'),
    ('{"book":["《长夜》"]}', '{"book":["《长夜》"],"movie":["《长夜》"]}'),
    ('{"scene":["江"]}', "{}"),
    ('{"scene":[]}', "{}"),
    ('{"name":["林墨白"]', '{"name":["林墨白"]}'),
    ("{}", "{}"),
)


@check
def f1_by_label(attempt: Callable[[list[tuple[str, str]]], dict[str, float]]) -> None:
    """`f1_by_label(rows)`: strict F1 of each label and of all, counted first and divided once."""
    draw = random.Random(9)
    several = [draw.choices(REPLIES, k=count) for count in (2, 3, 4, 9) for _ in range(12)]
    for rows in [*([row] for row in REPLIES), *several, []]:
        given = f"the rows {shown(rows)}"
        found = ask(attempt, list(rows), given=given)
        expect(isinstance(found, Mapping), f"for {given} it returned {shown(found)}; expected a dict of numbers")
        labels = {label for row in rows for text in row for label, _ in metrics.entities(text)}
        lost, more = sorted({"all", *labels} - found.keys()), sorted(found.keys() - {"all", *labels})
        expect(not lost, f"for {given} {', '.join(lost)} is missing")
        expect(not more, f"for {given} there is a figure for {shown(more)}; no such name is due or found")
        for label in sorted(found):
            counts = [metrics.entity_counts(*(_only(text, label) for text in row)) for row in rows]
            right, both = sum(each.right for each in counts), sum(each.found + each.due for each in counts)
            number = isinstance(found[label], (int, float))
            expect(number, f"for {given} {label} is {shown(found[label])}, which is no number")
            wanted = 2 * right / max(both, 1)
            same = math.isclose(found[label], wanted)
            expect(same, f"for {given} the F1 of {label} is {found[label]:.3f}; expected {wanted:.3f}")


def _only(text: str, label: str) -> str:
    """The answer with the names of one label alone."""
    return text if label == "all" else json.dumps({label: [n for kind, n in metrics.entities(text) if kind == label]})


# ── find the bug ────────────────────────────────────────────────────────────────────────────────────────────────────

SHOWN_BUGS = (
    _row("林墨白在杭州。", {"name": ["林墨白"], "address": ["杭州"]}),
    _row("江在这里。", {"scene": ["江"]}),
    _row("柳如砚说，柳如砚不来。", {"name": ["柳如砚"]}),
    _row("《长夜》先是书，后是电影。", {"book": ["《长夜》"], "movie": ["《长夜》"]}),
    _row("《长夜》先是书，后是电影。", {"movie": ["《长夜》"], "book": ["《长夜》"]}),
    _row("林墨白和柳如砚", {"name": ["柳如砚", "林墨白"]}),
    _row("杭州大学在杭州", {"organization": ["杭州大学"], "address": ["杭州"]}),
    _row("没有名字。", {}),
    _row("林墨白来了", {"company": [], "name": ["林墨白"], "scene": []}),
)


@check
def convert(attempt: Callable[[Row], Mapping[str, str]]) -> None:
    """`convert(row)`: instruction, input and output, with nothing cut, doubled or lost."""
    draw = random.Random(10)
    for row in [*SHOWN_BUGS, *(_drawn(draw)[0] for _ in range(40))]:
        before = copy.deepcopy(row)
        given = f"the text {shown(row['text'])} with {shown(row['label'])}"
        found = ask(attempt, row, given=given)
        expect(row == before, f"for {given} it changes the row that it was given")
        keys = ("instruction", "input", "output")
        whole = isinstance(found, Mapping) and {*found} == {*keys}
        expect(whole, f"for {given} it returned {shown(found)}; expected the keys {', '.join(keys)}")
        [question, answer] = (turn["content"] for turn in sources.normalise_rows("cluener", [row])[0]["messages"])
        right = question.startswith(f"{found['instruction']}\n")
        expect(right, f"for {given} the instruction is {shown(found['instruction'])}; leave it as it is given")
        expect(found["input"] == f"文本：{row['text']}", f"for {given} the input is {shown(found['input'])}")
        wanted = {label: names for label, names in json.loads(answer).items() if names}
        _compare(found["output"], wanted, given)


# ── what a grammar would guarantee ──────────────────────────────────────────────────────────────────────────────────

SENTENCE = '记者柳如砚在杭州见了林墨白，店名"江湖"，5号。'
KNOWN = ("name", "address", "position")
MENDED = (  # reply, what is left of it
    ('{"name": ["林墨白", "柳如砚"], "address": ["杭州"]}', {"name": ["林墨白", "柳如砚"], "address": ["杭州"]}),
    ('{"position": ["记者"], "address": ["杭州"]}', {"position": ["记者"], "address": ["杭州"]}),
    ('{"person": ["林墨白"], "name": ["柳如砚"]}', {"name": ["柳如砚"]}),
    ('{"Name": ["林墨白"]}', {}),
    ('{"name": ["王小明", "柳如砚", "林 墨白"]}', {"name": ["柳如砚"]}),
    ('{"name": ["王小明"], "address": ["杭州"]}', {"address": ["杭州"]}),
    ('{"address": [], "name": ["柳如砚"]}', {"name": ["柳如砚"]}),
    ('{"name": ["柳如砚在", "记者"]}', {"name": ["柳如砚在", "记者"]}),
    ('{"name": ["柳如砚", "林墨白", "柳如砚"]}', {"name": ["柳如砚", "林墨白"]}),
    ('{"name": ["记者"], "position": ["记者"]}', {"name": ["记者"], "position": ["记者"]}),
    ('{"name": "林墨白", "address": ["杭州"]}', {"address": ["杭州"]}),
    ('{"name": {"林墨白": 1}, "address": null, "position": 5}', {}),
    ('{"name": [5, null, "林墨白", ["柳如砚"], true, {"a": 1}]}', {"name": ["林墨白"]}),
    ('{"name": ["", "林墨白"], "address": [""]}', {"name": ["林墨白"]}),
    ('{"name": ["\\"江湖\\""]}', {"name": ['"江湖"']}),
    ('{"name": ["\\u6797\\u58a8\\u767d"]}', {"name": ["林墨白"]}),
    ('```json\n{"name": ["林墨白"]}\n```', {"name": ["林墨白"]}),
    ('{"name": ["林墨白"]', {}),
    ('Here: {"name": ["林墨白"]}', {}),
    ('{"name": ["林墨白"]} {"name": ["柳如砚"]}', {}),
    ('["林墨白"]', {}),
    ('"林墨白"', {}),
    ("林墨白", {}),
    ('{"name": NaN}', {}),
    ("null", {}),
    ("5", {}),
    ("", {}),
    ("[" * 9999, {}),
    ("{}", {}),
)


@check
def mended(attempt: Callable[[str, str, Collection[str]], str]) -> None:
    """`mended(reply, text, labels)`: what is left of a reply when nothing impossible may stand in it."""
    for kind in (tuple, list, set):
        for reply, wanted in MENDED:
            _examine_mended(attempt, reply, SENTENCE, kind(KNOWN), wanted)
    _examine_mended(attempt, MENDED[0][0], "", KNOWN, {})
    _examine_mended(attempt, MENDED[0][0], SENTENCE, [], {})
    draw = random.Random(11)
    for _ in range(60):
        labels, asked, wanted = draw.sample(LABELS, 3), {}, {}
        for label in draw.sample(LABELS, 6):
            there, names = draw.sample(NAMES, draw.randint(0, 4)), []
            for name in there:
                names += [*draw.sample(ABSENT, draw.randint(0, 2)), name]
            asked[label] = [*names, *draw.sample(ABSENT, draw.randint(0, 1))]
            if there and label in labels:
                wanted[label] = there
        reply = json.dumps(asked, ensure_ascii=draw.random() < 0.5)
        _examine_mended(attempt, reply, "，".join(_mixed(draw, NAMES)), labels, wanted)


def _examine_mended(attempt: Callable[..., Any], reply: str, text: str, labels: Collection[str], wanted: Names) -> None:
    given = f"the reply {shown(reply)}, the text {shown(text)} and the labels {shown(labels)}"
    found = ask(attempt, reply, text, labels, given=given)
    _compare(found, wanted, given)
    again = ask(attempt, found, text, labels, given=f"its own result {shown(found)}")
    expect(again == found, f"for its own result {shown(found)} it returned {shown(again)}; nothing was left to mend")
