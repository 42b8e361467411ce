"""Write the generated files of this folder: cmath, mawps, worked, json, tools, thinking and entities.

    python data/raw/generate.py [--out FOLDER]

Standard library only. The same code writes the same bytes, whatever the machine: every file has a seed of its own, so
that a change to one leaves the others as they are. The texts stand in the `_*.py` and `_entities.txt` files beside this
one; here they get numbers, answers, ids and places.
"""

import argparse
import ast
import csv
import io
import json
import operator
import random
import re
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

from _cmath import PROBLEMS, Problem
from _json_rows import FACTS, FACTS_ZH, NEGATIVES, NEGATIVES_ZH, WORDINGS, WORDINGS_ZH, Fact
from _mawps import HALVES, STORIES
from _thinking import WORKED, WRITTEN
from _tools import COMMON, FILLERS, MORE_TOOLS, PARALLEL, RATES, SINGLE, TALKS, TOOLS, Pattern, Talk

SEED = 42
Row = dict[str, Any]


# ---------------------------------------------------------------------------------------------------------------- mawps
OPERATORS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv}


def work_out(node: ast.expr, numbers: dict[str, Fraction], step: Fraction) -> Fraction:
    """The value of an equation; ValueError where a step on the way is not a positive multiple of `step`."""
    if isinstance(node, ast.Name):
        return numbers[node.id]
    if not isinstance(node, ast.BinOp):
        raise TypeError(ast.dump(node))
    left, right = (work_out(side, numbers, step) for side in (node.left, node.right))
    value = OPERATORS[type(node.op)](left, right)
    if value <= 0 or value % step:
        raise ValueError(value)
    return value


def draw_story(equation: str, rng: random.Random, *, halves: bool) -> tuple[list[Fraction], Fraction]:
    """Small numbers for a story and the answer, drawn until every step comes out even and stays under 100."""
    names = sorted(set(re.findall(r"N_\d\d", equation)))
    tree = ast.parse(equation, mode="eval").body
    factors = set(re.findall(r"(N_\d\d) \*|[*/] (N_\d\d)", equation))
    small = {name for pair in factors for name in pair if name}  # a factor or a divisor stays at ten or less
    step = Fraction(1, 2) if halves else Fraction(1)
    while True:
        numbers = {}
        for name in names:
            whole = rng.randint(2, 10 if name in small else 30)
            numbers[name] = Fraction(whole) + (step * rng.randint(0, 1) if halves and name not in small else 0)
        if halves and "*" in equation:
            numbers["N_00"] += step
        try:
            answer = work_out(tree, numbers, step)
        except ValueError:
            continue
        if answer < 100 and len(set(numbers.values())) == len(numbers) and (answer > 1 or "-" in equation):
            return [numbers[name] for name in names], answer


def mawps_rows() -> list[Row]:
    """Two or three rows of each story, with different numbers."""
    rng = random.Random(f"{SEED}:mawps")
    rows: list[Row] = []
    for index, (question, equation) in enumerate(STORIES):
        seen: set[tuple[Fraction, ...]] = set()
        while len(seen) < 2 + index % 2:
            numbers, answer = draw_story(equation, rng, halves=index >= len(STORIES) - HALVES)
            if tuple(numbers) in seen:
                continue
            seen.add(tuple(numbers))
            shown = " ".join(str(float(number)) for number in numbers)
            rows.append({"Question": question, "Equation": equation, "Answer": str(float(answer)), "Numbers": shown})
    rng.shuffle(rows)
    return rows


# ---------------------------------------------------------------------------------------------------------------- cmath
def draw(ranges: dict[str, tuple[int, int]], rng: random.Random) -> dict[str, int]:
    """One number for each name, both ends of its range included."""
    return {name: rng.randint(low, high) for name, (low, high) in ranges.items()}


def golden_of(problem: Problem, numbers: dict[str, int]) -> str:
    """The answer as CMATH writes it: always text, a fraction as "2/6"."""
    answer = problem.answer(**numbers)
    return f"{answer[0]}/{answer[1]}" if isinstance(answer, tuple) else str(answer)


def cmath_problems() -> Iterator[tuple[Problem, dict[str, int]]]:
    """Each problem three times, with different numbers."""
    rng = random.Random(f"{SEED}:cmath")
    for problem in PROBLEMS:
        seen: set[str] = set()
        while len(seen) < 3:
            numbers = draw(problem.ranges, rng)
            question, golden = problem.text.format(**numbers), golden_of(problem, numbers)
            if question in seen or not problem.holds(**numbers) or golden.startswith(("-", "0")):
                continue
            seen.add(question)
            yield problem, numbers


def cmath_rows() -> Iterator[Row]:
    """The problems as CMATH writes them."""
    for problem, numbers in cmath_problems():
        question, golden = problem.text.format(**numbers), golden_of(problem, numbers)
        figures = re.findall(r"\d+(?:\.\d+)?", f"{question} {golden}")
        digits = max(len(re.sub(r"\D", "", figure)) for figure in figures)
        row = {"grade": problem.grade, "input": question, "golden": golden}
        yield row | {"reasoning_step": problem.steps, "num_digits": digits}


# --------------------------------------------------------------------------------------------------------------- worked
SIGNS = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/"}


def shown(number: Fraction) -> str:
    """8 or 2.5, never 8.0."""
    return f"{float(number):g}"


def steps_of(node: ast.expr, numbers: dict[str, Fraction]) -> tuple[list[str], Fraction]:
    """An equation as steps with one operator each ("28 - 25 = 3."), and its value."""
    if isinstance(node, ast.Name):
        return [], numbers[node.id]
    if not isinstance(node, ast.BinOp):
        raise TypeError(ast.dump(node))
    before, left = steps_of(node.left, numbers)
    between, right = steps_of(node.right, numbers)
    value = OPERATORS[type(node.op)](left, right)
    step = f"{shown(left)} {SIGNS[type(node.op)]} {shown(right)} = {shown(value)}."
    return [*before, *between, step], value


def worked_rows() -> Iterator[Row]:
    """Every row of cmath and mawps as a question, the bare answer, and the steps to it in `reasoning_content`."""
    worked = [
        ("cmath", "zh", problem.text.format(**numbers), golden_of(problem, numbers), problem.worked(**numbers))
        for problem, numbers in cmath_problems()
    ]
    for row in mawps_rows():
        numbers = {f"N_{index:02}": Fraction(number) for index, number in enumerate(row["Numbers"].split())}
        question = re.sub(r"N_\d\d", lambda match, numbers=numbers: shown(numbers[match[0]]), row["Question"])
        steps, answer = steps_of(ast.parse(row["Equation"], mode="eval").body, numbers)
        worked.append(("mawps", "en", question, shown(answer), " ".join(steps)))
    counts = {"cmath": 0, "mawps": 0}
    for source, language, question, answer, steps in worked:
        counts[source] += 1
        reply = {"role": "assistant", "content": answer, "reasoning_content": steps}
        messages = [{"role": "user", "content": question}, reply]
        tags = ["thinking", "math", language, "worked"]
        yield {"id": f"worked-{source}-{counts[source]:03}", "messages": messages, "tags": tags}


# ----------------------------------------------------------------------------------------------------------------- json
NAMES = {str: "string", bool: "boolean", int: "number", float: "number"}
NAMES_ZH = {"string": "字符串", "boolean": "布尔值", "number": "数字", "list of ": "列表：", " or null": "或null"}


def type_of(key: str, value: Any) -> str:
    """What the prompt says about a value: "string", "list of numbers", "string or null"."""
    if isinstance(value, list):
        return f"list of {NAMES[type(value[0])]}s"
    kind = "string" if value is None else NAMES[type(value)]
    return f"{kind} or null" if key.endswith("?") else kind


def keys_text(values: Row, style: int) -> str:
    """The keys and their types in one of three ways of writing them."""
    pairs = [(key.rstrip("?"), type_of(key, value)) for key, value in values.items()]
    if style == 0:
        return ", ".join(f"{key} ({kind})" for key, kind in pairs)
    if style == 1:
        return ", ".join(f'"{key}": {kind}' for key, kind in pairs)
    return "; ".join(f"{key}: {kind}" for key, kind in pairs)


def keys_text_zh(values: Row) -> str:
    """The same in Chinese: 姓名（字符串）、分数（数字）."""
    shown = []
    for key, value in values.items():
        kind = type_of(key, value).removesuffix("s") if isinstance(value, list) else type_of(key, value)
        for english, chinese in NAMES_ZH.items():
            kind = kind.replace(english, chinese)
        shown.append(f"{key.rstrip('?')}（{kind}）")
    return "、".join(shown)


def compact(values: Row) -> str:
    """The object as one line of JSON without white space between its parts."""
    return json.dumps(
        {key.rstrip("?"): value for key, value in values.items()}, ensure_ascii=False, separators=(",", ":")
    )


def broken(values: Row, how: str) -> str:
    """A reply that breaks the rules in one named way."""
    right = {key.rstrip("?"): value for key, value in values.items()}
    text = json.dumps(right, ensure_ascii=False)
    if how == "wrong_type":
        key = next(key for key, value in right.items() if not isinstance(value, str))
        return json.dumps(right | {key: json.dumps(right[key])}, ensure_ascii=False)
    if how == "missing":
        return json.dumps(dict(list(right.items())[:-1]), ensure_ascii=False)
    if how == "extra":
        return json.dumps(right | {"note": "as asked"}, ensure_ascii=False)
    chatty = f"好的，结果如下：{text}" if re.search(r"[\u4e00-\u9fff]", text) else f"Sure! Here is your JSON: {text}"
    return {
        "chatty": chatty,
        "fenced": f"```json\n{text}\n```",
        "single_quotes": text.replace('"', "'"),
        "trailing_comma": f"{text[:-1]},}}",
        "python_words": text.replace("null", "None").replace("true", "True"),
        "unclosed": text[:-1],
    }[how]


def turns(*contents: str) -> list[Row]:
    """User and assistant by turns."""
    return [{"role": ("user", "assistant")[i % 2], "content": content} for i, content in enumerate(contents)]


def asked(fact: Fact, index: int, language: str) -> str:
    """The prompt of a fact: its wording and its way of naming keys go round in turn."""
    sentence, values = fact
    if language == "zh":
        return WORDINGS_ZH[index % len(WORDINGS_ZH)].format(keys=keys_text_zh(values), fact=sentence)
    wording = WORDINGS[index % len(WORDINGS)]
    return wording.format(keys=keys_text(values, index // len(WORDINGS) % 3), fact=sentence)


def json_rows() -> Iterator[Row]:
    """Strict rows in both languages, then the negatives: a broken reply, the complaint, the right reply."""
    rng = random.Random(f"{SEED}:json")
    strict = [(fact, "en") for fact in rng.sample(FACTS, len(FACTS))]
    strict += [(fact, "zh") for fact in FACTS_ZH]
    contents = [(turns(asked(f, i, lang), compact(f[1])), ["json", lang, "json-only", "strict"])
                for i, (f, lang) in enumerate(strict)]  # fmt: skip
    negatives = [(item, "en") for item in NEGATIVES] + [(item, "zh") for item in NEGATIVES_ZH]
    for i, ((fact, how, complaint), language) in enumerate(negatives):
        messages = turns(asked(fact, i, language), broken(fact[1], how), complaint, compact(fact[1]))
        contents.append((messages, ["json", language, "json-only", "negative", how]))
    for number, (messages, tags) in enumerate(contents, start=1):
        yield {"id": f"json-{number:04}", "messages": messages, "tags": tags}


# -------------------------------------------------------------------------------------------------- tools and thinking
def facts_for(pattern: Pattern, rng: random.Random) -> dict[str, tuple[str, Any]]:
    """What fills each gap of a pattern: as it is written in the text, and its value."""
    gaps = set(re.findall(r"\{(\w+)\}", json.dumps(pattern)))
    fillers = COMMON | FILLERS[pattern.language]
    facts: dict[str, tuple[str, Any]] = {}
    for name, choice in fillers.items():
        wanted = [gap for gap in (name, f"{name}2") if gap in gaps]
        for gap, filler in zip(wanted, rng.sample(list(choice), len(wanted)), strict=True):
            facts[gap] = filler if isinstance(filler, tuple) else (str(filler), filler)
    if "topic" in facts:
        count = facts["limit"][1] if "limit" in facts else rng.randint(1, 3)
        titles = fillers["topic"][facts["topic"][1]][:count]
        english = " and ".join(filter(None, [", ".join(titles[:-1]), titles[-1]]))
        shown = english if pattern.language == "en" else "".join(f"《{title}》" for title in titles)
        facts["books"] = (shown, titles)
    for name in ("money", "code"):
        if name in facts:
            total = round(facts["amount"][1] * RATES[facts[name][1]] / RATES[facts[f"{name}2"][1]], 2)
            facts["sum"] = (f"{total:.2f}", total)
    return facts


def talk_of(pattern: Pattern, rng: random.Random) -> Talk:
    """A pattern with its gaps filled."""
    facts = facts_for(pattern, rng)
    shown = {gap: text for gap, (text, _) in facts.items()}

    def filled(values: Row) -> Row:
        return {key: facts[text[1:-1]][1] if str(text).startswith("{") else text for key, text in values.items()}

    calls = [(name, filled(arguments), filled(result)) for name, arguments, result in pattern.calls]
    return pattern.language, pattern.question.format(**shown), calls, pattern.answer.format(**shown)


def tool_row(number: int, talk: Talk, offered: list[Row]) -> Row:
    """Call, result and answer; arguments and the list of tools are JSON text, so that Arrow cannot add to them."""
    language, question, calls, answer = talk
    ids = [f"call_{i}" for i, _ in enumerate(calls, start=1)]
    made = [
        {
            "type": "function",
            "id": id_,
            "function": {"name": name, "arguments": json.dumps(values, ensure_ascii=False)},
        }
        for id_, (name, values, _) in zip(ids, calls, strict=True)
    ]
    results = [
        {"role": "tool", "tool_call_id": id_, "content": json.dumps(result, ensure_ascii=False)}
        for id_, (_, _, result) in zip(ids, calls, strict=True)
    ]
    messages = [
        {"role": "user", "content": question},
        {"role": "assistant", "content": "", "tool_calls": made},
        *results,
        {"role": "assistant", "content": answer},
    ]
    return {
        "id": f"tool-{number:04}",
        "tools": json.dumps(offered, ensure_ascii=False),
        "messages": messages,
        "tags": ["tools", language],
    }


def tools_rows() -> Iterator[Row]:
    """The written conversations, then three to five of each pattern in mixed order, with two or three tools offered."""
    rng = random.Random(f"{SEED}:tools")
    for number, talk in enumerate(TALKS, start=1):
        used = {name for name, _, _ in talk[2]}
        others = rng.sample([name for name in TOOLS if name not in used], k=number % 3)
        yield tool_row(number, talk, [TOOLS[name] for name in TOOLS if name in used or name in others])

    rng = random.Random(f"{SEED}:tools:patterns")
    talks: dict[str, Talk] = {}  # by question, so that none comes twice
    wanted = [(pattern, 4 + index % 2) for index, pattern in enumerate(SINGLE)] + [(pattern, 3) for pattern in PARALLEL]
    for pattern, count in wanted:
        goal = len(talks) + count
        while len(talks) < goal:
            talk = talk_of(pattern, rng)
            talks.setdefault(talk[1], talk)
    every = TOOLS | MORE_TOOLS
    for number, talk in enumerate(rng.sample(list(talks.values()), len(talks)), start=len(TALKS) + 1):
        right = list(dict.fromkeys(name for name, _, _ in talk[2]))
        wrong = [name for name in every if name not in right]
        offered = [*right, *rng.sample(wrong, rng.randint(2, 3) - len(right))]
        yield tool_row(number, talk, [every[name] for name in rng.sample(offered, len(offered))])


def thinking_rows() -> Iterator[Row]:
    """A question, then an answer that carries its thinking in `reasoning_content`."""
    rng = random.Random(f"{SEED}:thinking")
    rows = list(WRITTEN)
    for language, question, thinking, answer, ranges, worked in WORKED:
        numbers = draw(ranges, rng)
        numbers |= {name: formula(**numbers) for name, formula in worked.items()}
        rows.append((language, *(text.format(**numbers) for text in (question, thinking, answer))))
    for number, (language, question, thinking, answer) in enumerate(rows, start=1):
        reply = {"role": "assistant", "content": answer, "reasoning_content": thinking}
        messages = [{"role": "user", "content": question}, reply]
        yield {"id": f"think-{number:04}", "messages": messages, "tags": ["thinking", language]}


# ------------------------------------------------------------------------------------------------------------- entities
def entity_row(line: str) -> Row:
    """A sentence in CLUENER's shape: by label and name the places, each with its first and its last character.

    In the text an entity is written {label:name}, and another may stand inside the name: {company:{address:青岛}银行}.
    """
    text, opened, spans = "", [], []
    for part in re.findall(r"\{[a-z]+:|[{}]|[^{}]+", line):
        if part.startswith("{"):
            opened.append((part.strip("{:"), len(text)))
        elif part == "}":
            spans.append((*opened.pop(), len(text) - 1))
        else:
            text += part
    label: dict[str, dict[str, list[list[int]]]] = {}
    for name, start, end in sorted(spans, key=lambda span: (span[1], -span[2])):
        label.setdefault(name, {}).setdefault(text[start : end + 1], []).append([start, end])
    return {"text": text, "label": label}


def entity_rows() -> Iterator[Row]:
    """Every sentence, in an order in which no subject stands together."""
    lines = Path(__file__).with_name("_entities.txt").read_text(encoding="utf-8").splitlines()
    yield from map(entity_row, random.Random(f"{SEED}:entities").sample(lines, len(lines)))


# -------------------------------------------------------------------------------------------------------------- writing
def jsonl(rows: Iterator[Row] | list[Row]) -> str:
    """One JSON object a line, Chinese readable."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def table(rows: list[Row]) -> str:
    """Comma-separated text with a header."""
    out = io.StringIO()
    writer = csv.DictWriter(out, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def main() -> None:
    """Write the generated files."""
    parser = argparse.ArgumentParser(description="Write the generated files of data/raw.")
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).parent, help="folder to write to (default: this one)"
    )
    out = parser.parse_args().out
    files = {
        "cmath.jsonl": jsonl(cmath_rows()),
        "mawps.csv": table(mawps_rows()),
        "worked.jsonl": jsonl(worked_rows()),
        "json.jsonl": jsonl(json_rows()),
        "tools.jsonl": jsonl(tools_rows()),
        "thinking.jsonl": jsonl(thinking_rows()),
        "entities.jsonl": jsonl(entity_rows()),
    }
    for name, text in files.items():
        (out / name).write_text(text, encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
