"""Checks of exercise 00: a row of a file, the labels of a conversation, what a run changed, faults of a file."""

from __future__ import annotations

import json
import random
from collections.abc import Callable

from exercises.checks import ask, check, expect, expect_error, shown

# ── a row ───────────────────────────────────────────────────────────────────────────────────────────────────────────

TEXTS = (
    ("Hi", "Hello"),
    ("水的沸点是多少？", "100°C。"),
    ('Say "yes".', 'He said "yes".\nThen he left.'),
    ("Two\nlines", "a\\b\tc"),
    (" spaces ", "  {} "),
    ("🎈", ""),
)


@check
def to_line(attempt: Callable[..., str]) -> None:
    """`to_line(question, answer)`: one row of a JSONL file."""
    for question, answer in TEXTS:
        given = f"{shown(question)} and {shown(answer)}"
        found = ask(attempt, question, answer)
        expect(isinstance(found, str), f"for {given} it returned {shown(found)}; expected a text")
        expect("\n" not in found, f"for {given} the row has a line break in it, so it is more than one line")
        try:
            row = json.loads(found)
        except ValueError:
            row = None
        expect(row is not None, f"for {given} it returned {shown(found)}, which is no JSON")
        wanted = {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}
        expect(row == wanted, f"for {given} the row says {shown(row)}; expected {wanted}")
        readable = question.isascii() or question in found
        expect(readable, f"for {given} the row is {shown(found)}: nobody can read the question in it")


# ── labels ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@check
def mask(attempt: Callable[..., list[int]]) -> None:
    """`mask(ids, opens, end)`: the labels of a conversation; what they are is known, because it is built of turns."""
    draw = random.Random(30)
    for number in range(60):
        opens = [1, 3, 4][: draw.randint(1, 3)] if number else [1, 3]
        pieces = [([1, 2, 5, 9], False), ([*opens], False), ([7, 9], True)] if not number else []
        for _ in range(draw.randint(0, 4) if number else 0):
            asked = [2, *(draw.choice((3, 4, 5, 6)) for _ in range(draw.randint(0, 4))), 9, 6]
            said = [draw.choice((1, 2, 3, 4, 7, 8, 8)) for _ in range(draw.randint(0, 5))]
            pieces += [(asked, False), ([*opens], False), ([*said, 9], True)]
            pieces += [([6], False)] if draw.random() < 0.5 else []
        if pieces and number % 5 == 4:
            pieces += [([2, 5, 9], False), ([*opens], False), ([7, 8][: draw.randint(0, 2)], True)]  # breaks off
        ids = [token for piece, _ in pieces for token in piece]
        wanted = [token if learned else -100 for piece, learned in pieces for token in piece]
        given, before = f"ids {ids}, opens {opens} and end 9", list(ids)
        found = ask(attempt, ids, opens, 9, given=given)
        expect(ids == before, f"for {given} the ids that it was given are changed")
        expect(isinstance(found, list), f"for {given} it returned {shown(found)}; expected a list")
        right = len(found) == len(ids)
        expect(right, f"for {given} there are {len(found)} labels; expected one for each of {len(ids)} ids")
        for place, (label, right) in enumerate(zip(found, wanted, strict=True)):
            expect(label == right, f"for {given} the label at place {place} is {shown(label)}; expected {right}")


# ── what a run changed ──────────────────────────────────────────────────────────────────────────────────────────────

FORM = r"Category: (Billing|Bug); Priority: (High|Low)"
GOOD = ("Category: Billing; Priority: High", "Category: Bug; Priority: Low")
BAD = (
    "I'm sorry, but I can't assist with that.",
    "Category: Bug; Priority: Low.",
    "Sure! Category: Bug; Priority: Low",
    "Category: Bug; Priority: Low\n",
    "category: bug; priority: low",
    "",
)


@check
def changes(attempt: Callable[..., dict[str, int]]) -> None:
    """`changes(before, after, form)`: how many prompts gained, lost, kept or never had the form."""
    draw = random.Random(31)
    for number in range(40):
        wanted = dict.fromkeys(("gained", "lost", "kept", "never"), 0)
        before, after = [], []
        for name in draw.choices(list(wanted), k=draw.randint(0, 6) if number > 4 else number):
            wanted[name] += 1
            before.append(draw.choice(GOOD if name in ("lost", "kept") else BAD))
            after.append(draw.choice(GOOD if name in ("gained", "kept") else BAD))
        given = f"{before} and {after}"
        found = ask(attempt, before, after, FORM, given=given)
        expect(found == wanted, f"for {given} it returned {shown(found)}; expected {wanted}")
    found = ask(attempt, ["x", "B"], ["a", "b"], "[ab]")
    expect(found["gained"] == 2, f"for another form, '[ab]', it returned {shown(found)}; both were gained")
    for lists in ((["a"], []), (["a"], ["a", "b"])):
        expect_error(attempt, *lists, "a", kind=ValueError, why="a prompt has a reply in one of the lists alone")


# ── faults of a file ────────────────────────────────────────────────────────────────────────────────────────────────


def _row(*turns: tuple[str, str]) -> str:
    return json.dumps({"messages": [{"role": role, "content": text} for role, text in turns]}, ensure_ascii=False)


LINES = (
    (_row(("user", "Hi"), ("assistant", "Hello")), None),
    (_row(("system", "Be kind."), ("user", "Hi"), ("assistant", "Hello")), None),
    (_row(("user", "two\u2028parts\x85of a text"), ("assistant", "One line.")), None),
    (_row(("user", " "), ("assistant", "You said nothing.")) + "\r", None),
    ("", None),
    ("   ", None),
    ('{"messages": [', "not JSON"),
    ("Hi", "not JSON"),
    ('["messages"]', "no messages"),
    ("3", "no messages"),
    ("null", "no messages"),
    ('{"text": "Hi"}', "no messages"),
    ('{"messages": []}', "no messages"),
    ('{"messages": null}', "no messages"),
    ('{"messages": "Hi"}', "no messages"),
    ('{"messages": {"role": "assistant", "content": "Hello"}}', "no messages"),
    (_row(("user", "Hi")), "no reply"),
    (_row(("user", "Hi"), ("assistant", "Hello"), ("user", "")), "no reply"),
    (_row(("user", "Hi"), ("Assistant", "Hello")), "no reply"),
    (_row(("user", "Hi"), ("assistant", "")), "empty reply"),
    (_row(("user", "Hi"), ("assistant", " \n\t")), "empty reply"),
)


@check
def faults(attempt: Callable[..., list[tuple[int, str]]]) -> None:
    """`faults(text)`: the number and the fault of each line that cannot be trained on."""
    draw = random.Random(32)
    files = [[line] for line in LINES] + [draw.choices(LINES, k=draw.randint(2, 6)) for _ in range(60)]
    for lines in files:
        text = "\n".join(line for line, _ in lines) + "\n" * draw.randint(0, 1)
        given = f"the text {text!r:.300}"
        wanted = [(number, name) for number, (_, name) in enumerate(lines, start=1) if name]
        found = ask(attempt, text, given=given)
        right = isinstance(found, list)
        expect(right, f"for {given} it returned {shown(found)}; expected a list")
        expect(found == wanted, f"for {given} it returned {shown(found)}; expected {shown(wanted)}")
