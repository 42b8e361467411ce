"""The bundled rows: schema, counts, right answers, nothing alike; the generator writes the very files."""

import csv
import difflib
import importlib.util
import json
import operator
import re
import subprocess
import sys
from collections import Counter
from fractions import Fraction
from pathlib import Path

import pytest

from course_utils import data
from course_utils.data.sources import CLUENER_LABELS
from notebooks import town

ROOT = Path(__file__).resolve().parents[2]
RAW = ROOT / "data" / "raw"
EMOJI = re.compile("[\u2600-\u27bf\u2b50\u2b1b\u267e\u26a0\u23f0-\u23f3\U0001f1e6-\U0001faff]")
CHINESE = re.compile(r"[\u4e00-\u9fff]")
GENERATED = (
    "cmath.jsonl", "mawps.csv", "worked.jsonl", "json.jsonl", "tools.jsonl", "thinking.jsonl", "entities.jsonl",
)  # fmt: skip


def rows_of(name):
    return data.read_raw(RAW / name)


def test_the_generator_writes_the_same_bytes(tmp_path):
    subprocess.run([sys.executable, "-B", str(RAW / "generate.py"), "--out", str(tmp_path)], check=True)
    for name in GENERATED:
        assert (tmp_path / name).read_bytes() == (RAW / name).read_bytes(), name


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("cmath.jsonl", {"grade", "input", "golden", "reasoning_step", "num_digits"}),
        ("mawps.csv", {"Question", "Equation", "Answer", "Numbers"}),
        ("emoji.jsonl", {"question", "answer_zh", "answer_en"}),
        ("json.jsonl", {"id", "messages", "tags"}),
        ("tools.jsonl", {"id", "tools", "messages", "tags"}),
        ("thinking.jsonl", {"id", "messages", "tags"}),
        ("worked.jsonl", {"id", "messages", "tags"}),
        ("plain.jsonl", {"id", "messages", "tags"}),
        ("general.jsonl", {"id", "messages", "tags"}),
        ("entities.jsonl", {"text", "label"}),
    ],
)
def test_keys_are_those_of_the_public_schema(name, keys):
    rows = rows_of(name)
    assert all(set(row) == keys for row in rows)
    if "id" in keys:
        assert len({row["id"] for row in rows}) == len(rows)


def test_the_readme_states_the_counts():
    readme = (ROOT / "data" / "README.md").read_text(encoding="utf-8")
    for name in (*GENERATED, "emoji.jsonl", "plain.jsonl", "general.jsonl", "preferences.jsonl"):
        assert re.search(rf"`raw/{re.escape(name)}` \| {len(rows_of(name))} \|", readme), name


# ----------------------------------------------------------------------------------------------------------- arithmetic
def test_mawps_answers_are_what_the_equation_gives():
    with (RAW / "mawps.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        numbers = [Fraction(number) for number in row["Numbers"].split()]
        equation = re.sub(r"N_(\d\d)", lambda m, n=numbers: f"Fraction('{n[int(m[1])]}')", row["Equation"])
        assert eval(equation, {"Fraction": Fraction}) == Fraction(row["Answer"]), row
        assert {f"N_{i:02}" for i in range(len(numbers))} == set(re.findall(r"N_\d\d", row["Question"])), row
    assert {op for row in rows for op in "+-*/" if f" {op} " in row["Equation"]} == set("+-*/")
    assert len({row["Question"] for row in rows}) >= 60


def test_cmath_answers_in_a_second_reckoning():
    """One formula for each story, written apart from the generator's."""
    formulas = {
        r"乐乐有(\d+)颗糖，吃了(\d+)颗": lambda a, b: a - b,
        r"停车场原来有(\d+)辆车，又开来(\d+)辆": lambda a, b: a + b,
        r"小芳折了(\d+)只纸鹤，小美折了(\d+)只": lambda a, b: a - b,
        r"草莓被吃掉(\d+)个后还有(\d+)个": lambda a, b: a + b,
        r"公交车上有(\d+)人，到站下去(\d+)人，又上来(\d+)人": lambda a, b, c: a - b + c,
        r"丁丁前面有(\d+)人，后面有(\d+)人": lambda a, b: a + 1 + b,
        r"一支铅笔(\d+)角，一块橡皮比铅笔贵(\d+)角": lambda a, b: a + b,
        r"每个笼子里有(\d+)只兔子，(\d+)个笼子": lambda a, b: a * b,
        r"把(\d+)块饼干平均分给(\d+)个": lambda a, b: Fraction(a, b),
        r"妈妈买了(\d+)盒牛奶，每盒(\d+)元": lambda a, b: 100 - a * b,
        r"男生(\d+)人、女生(\d+)人，(\d+)人分成一组": lambda a, b, c: Fraction(a + b, c),
        r"养了(\d+)只鸡，养的鸭是鸡的(\d+)倍": lambda a, b: a * (b + 1),
        r"一根绳子长(\d+)米，每(\d+)米剪一段": lambda a, b: Fraction(a, b),
        r"故事书(\d+)本，借出(\d+)本，又还回来(\d+)本": lambda a, b, c: a - b + c,
        r"花坛长(\d+)米，宽(\d+)米": lambda a, b: a * b,
        r"手帕长(\d+)厘米，宽(\d+)厘米": lambda a, b: a + b + a + b,
        r"每天修路(\d+)米，修了(\d+)天，还剩(\d+)米": lambda a, b, c: a * b + c,
        r"平均切成(\d+)块，哥哥吃了(\d+)块": lambda a, b: Fraction(b, a),
        r"做花用去(\d+)/(\d+)，做旗子用去(\d+)/": lambda a, b, c: Fraction(a + c, b),
        r"运来(\d+)袋大米，每袋(\d+)千克，吃了(\d+)千克": lambda a, b, c: a * b - c,
        r"下午\d+时开始，放映了(\d+)分钟": lambda a: a * 60,
        r"(\d+)箱蜂蜜共有(\d+)瓶，照这样计算，(\d+)箱": lambda a, b, c: Fraction(b, a) * c,
        r"爷爷今年(\d+)岁，是小军年龄的(\d+)倍": lambda a, b: a - Fraction(a, b),
        r"火车每小时行(\d+)千米，(\d+)小时": lambda a, b: a * b,
        r"甲车每小时行(\d+)千米，乙车每小时行(\d+)千米，(\d+)小时": lambda a, b, c: a * c + b * c,
        r"买来(\d+)张课桌，每张(\d+)元.*每把(\d+)元": lambda a, b, c: a * b + a * c,
        r"李叔叔(\d+)分钟打字(\d+)个，张阿姨每分钟比他多打(\d+)个": lambda a, b, c: Fraction(b, a) + c,
        r"一个角是(\d+)度，另一个角是(\d+)度": lambda a, b: 180 - (a + b),
        r"彩带长([\d.]+)米，剪去([\d.]+)米": lambda a, b: a - b,
        r"一条(\d+)米长的小路一侧，每隔(\d+)米": lambda a, b: Fraction(a, b) + 1,
        r"三角形的底是(\d+)分米，高是(\d+)分米": lambda a, b: Fraction(a * b, 2),
        r"上底(\d+)厘米，下底(\d+)厘米，高(\d+)厘米": lambda a, b, c: Fraction((a + b) * c, 2),
        r"长(\d+)分米、宽(\d+)分米、高(\d+)分米": lambda a, b, c: a * b * c,
        r"五次跳绳共跳(\d+)下，去掉最好的(\d+)下": lambda a, b: Fraction(a - b, 4),
        r"共有(\d+)个头、(\d+)条腿": lambda a, b: Fraction(b - 2 * a, 2),
        r"原价(\d+)元，打(\d+)折": lambda a, b: Fraction(a * b, 10),
        r"桃树(\d+)棵，梨树的棵数是桃树的(\d+)%": lambda a, b: Fraction(a * b, 100),
        r"共(\d+)页，玲玲第一天看了全书的1/(\d+)": lambda a, b: a - Fraction(a, b),
        r"1:(\d+)的地图上，量得两地相距(\d+)厘米": lambda a, b: Fraction(a * b, 100),
        r"把(\d+)吨货物平均分给(\d+)辆车": lambda a, b: Fraction(a, b),
    }
    used = Counter()
    for row in rows_of("cmath.jsonl"):
        hits = [(pattern, match) for pattern in formulas if (match := re.search(pattern, row["input"]))]
        assert len(hits) == 1, row
        pattern, match = hits[0]
        numbers = [Fraction(group) if "." in group else int(group) for group in match.groups()]
        assert Fraction(row["golden"]) == formulas[pattern](*numbers), row
        assert isinstance(row["golden"], str)
        used[pattern] += 1
    assert set(used) == set(formulas)
    assert any("/" in row["golden"] for row in rows_of("cmath.jsonl"))


@pytest.mark.parametrize(("source", "file", "language"), [("cmath", "cmath.jsonl", "zh"), ("mawps", "mawps.csv", "en")])
def test_worked_rows_are_those_of_the_source_with_its_bare_answers(source, file, language):
    worked = [row for row in rows_of("worked.jsonl") if row["id"].startswith(f"worked-{source}-")]
    normalised = data.normalise(source, rows_of(file))
    assert len(worked) == len(normalised)
    for number, (row, original) in enumerate(zip(worked, normalised, strict=True), start=1):
        assert row["id"] == f"worked-{source}-{number:03}"
        assert row["tags"] == ["thinking", "math", language, "worked"]
        said = [(message["role"], message["content"]) for message in row["messages"]]
        assert said == [(message["role"], message["content"]) for message in original["messages"]]


def test_worked_steps_are_true_and_end_in_the_answer():
    number = r"\d+(?:\.\d+)?(?:/\d+)?"  # 8, 2.5 or 2/6
    sums = {"+": operator.add, "-": operator.sub, "*": operator.mul, "×": operator.mul}
    sums |= {"/": operator.truediv, "÷": operator.truediv}
    rows = rows_of("worked.jsonl")
    assert len(rows) == 300
    for row in rows:
        reply = row["messages"][-1]
        steps, answer = reply["reasoning_content"], reply["content"]
        equations = re.findall(rf"(?<![\d./+*×÷-])({number}) ([-+*/×÷]) ({number}) = ({number})(?= |[.，。]|$)", steps)
        assert 1 <= len(equations) == steps.count("=") <= 3, row
        for left, sign, right, value in equations:
            assert sums[sign](Fraction(left), Fraction(right)) == Fraction(value), (row, left, sign, right)
        assert re.findall(number, steps)[-1] == answer == equations[-1][-1], row
        assert ("zh" in row["tags"]) == bool(CHINESE.search(steps)) == steps.endswith("。"), row
        operands = {Fraction(n) for left, _, right, _ in equations for n in (left, right)}
        asked = row["messages"][0]["content"]
        known = {Fraction(n) for pattern in (number, r"\d+(?:\.\d+)?") for n in re.findall(pattern, asked)}
        known |= {Fraction(value) for *_, value in equations} | {1, 2, 4, 10, 60, 100, 180}
        assert operands <= known, row


# ----------------------------------------------------------------------------------------------------------------- chat
def test_every_emoji_answer_has_emoji_and_is_short():
    rows = rows_of("emoji.jsonl")
    for row in rows:
        answers = [answer for answer in (row["answer_zh"], row["answer_en"]) if answer]
        assert answers, row
        for answer in answers:
            assert EMOJI.search(answer), answer
            assert len(answer) < 250
        assert not CHINESE.search(row["answer_en"])
    plain_english = [row for row in rows if not row["answer_zh"]]
    assert len(plain_english) >= 150
    assert not any(CHINESE.search(row["question"]) for row in plain_english)
    assert sum(bool(row["answer_zh"] and row["answer_en"]) for row in rows) >= 40
    assert sum(bool(row["answer_zh"] and not row["answer_en"]) for row in rows) >= 15


@pytest.mark.parametrize(("kind", "count"), [("plain", 40), ("general", 42)])
def test_plain_replies_are_short_and_have_no_emoji(kind, count):
    rows = rows_of(f"{kind}.jsonl")
    assert [row["id"] for row in rows] == [f"{kind}-{number:03}" for number in range(1, len(rows) + 1)]
    assert Counter(row["tags"][1] for row in rows) == {"en": count, "zh": count}
    for row in rows:
        assert row["tags"][0] == kind
        assert [message["role"] for message in row["messages"]] == ["user", "assistant"]
        question, reply = (message["content"] for message in row["messages"])
        assert not EMOJI.search(question + reply), row
        assert reply == reply.strip() and 0 < len(reply) < 200
        assert len(re.findall(r"[.?!](?:\s|$)|[。？！]", reply)) <= 3, row
        assert not re.search(r"[\u4e00-\u9fff][,.;:?!]|[,.;:?!][\u4e00-\u9fff]", question + reply), row


def test_a_preference_is_one_of_length_or_of_scope():
    rows = rows_of("preferences.jsonl")
    assert [row["id"] for row in rows] == [f"preference-{number:03}" for number in range(1, len(rows) + 1)]
    assert Counter(tuple(row["tags"]) for row in rows) == {
        ("preference", language, task): 25 for language in ("en", "zh") for task in ("short", "scope")
    }
    for row in rows:
        chosen, rejected = (row[part]["content"] for part in ("chosen", "rejected"))
        assert not EMOJI.search(chosen + rejected) and not re.search(r"\*\*|^#|`", chosen), row
        assert {row[part]["role"] for part in ("chosen", "rejected")} == {"assistant"}
        roles = [message["role"] for message in row["messages"]]
        assert roles == (["user"] if row["tags"][2] == "short" else ["system", "user"]), row
        if row["tags"][2] == "short":
            assert 2 * len(chosen) < len(rejected), row


def test_every_fact_of_the_town_is_told_often_and_no_two_texts_share_a_stretch():
    """What is asked can be learned from the texts, and not from another question."""
    texts, questions = rows_of("town.jsonl"), rows_of("town_questions.jsonl")
    assert [row["id"] for row in texts] == [f"town-{number:03}" for number in range(1, 181)]
    answers = {(row["fact"], row["tags"][1]): row["answers"] for row in questions}
    for language, run, words in (("en", 60, (90, 170)), ("zh", 20, (150, 280))):
        told = [row["text"] for row in texts if language in row["tags"]]
        learned = [row["text"] for row in texts if language in row["tags"] and "held" not in row["tags"]]
        assert (len(told), len(learned)) == (90, 75)
        assert all(words[0] <= len(text.split() if language == "en" else text) <= words[1] for text in told)
        stretches = Counter(text[at : at + run] for text in told for at in range(len(text) - run + 1))
        assert max(stretches.values()) == 1
        for fact in {fact for fact, _ in answers}:
            mine = answers[fact, language]
            assert sum(town.is_right(text, mine) for text in learned) >= 3, (fact, language)
            others = (each for (other, _), each in answers.items() if other != fact)
            assert not any(town.is_right(answer, mine) for each in others for answer in each), fact


def test_a_question_about_the_town_is_answered_in_its_reply_and_not_in_itself():
    questions = rows_of("town_questions.jsonl")
    assert Counter((row["tags"][1], row["tags"][2]) for row in questions) == {
        (language, part): 40 for language in ("en", "zh") for part in ("asked", "held")
    }
    parts = {row["fact"]: row["tags"][2] for row in questions}
    assert len(parts) == 40 and all(parts[row["fact"]] == row["tags"][2] for row in questions)
    for row in questions:
        question, reply = (message["content"] for message in row["messages"])
        assert town.is_right(reply, row["answers"]) and not town.is_right(question, row["answers"]), row
        assert {"en": "Candlewhin", "zh": "烛荆"}[row["tags"][1]] in question


def test_no_two_questions_are_nearly_alike():
    questions = [row["question"].casefold() for row in rows_of("emoji.jsonl")]
    for name in ("plain.jsonl", "general.jsonl", "preferences.jsonl"):
        turns = [message for row in rows_of(name) for message in row["messages"] if message["role"] == "user"]
        questions += [message["content"].casefold() for message in turns]
    for i, first in enumerate(questions):
        matcher = difflib.SequenceMatcher(b=first, autojunk=False)
        for second in questions[:i]:
            matcher.set_seq1(second)
            if matcher.real_quick_ratio() > 0.8 and matcher.quick_ratio() > 0.8:
                assert matcher.ratio() < 0.85, (first, second)


# ----------------------------------------------------------------------------------------------------------------- json
TYPES = r"(string|number|boolean|list of strings|list of numbers|list of booleans)( or null)?"
TYPES_ZH = {"字符串": "string", "数字": "number", "布尔值": "boolean"}


def asked_types(prompt):
    """The keys and types that a prompt asks for, read from its text alone."""
    found = re.findall(rf'"?([A-Za-z_]\w*)"?(?: \(|: ){TYPES}(?=[\s.,;:)?]|$)', prompt)
    asked = {key: kind + null for key, kind, null in found}
    for key, kind, null in re.findall(r"([\w]+)（(列表：\w+|字符串|数字|布尔值)(或null)?）", prompt):
        shown = f"list of {TYPES_ZH[kind[3:]]}s" if kind.startswith("列表：") else TYPES_ZH[kind]
        asked[re.sub(r"^.*?(含|提取|字段为)", "", key)] = shown + (" or null" if null else "")
    return asked


def fits(value, kind):
    if kind.endswith(" or null"):
        return value is None or fits(value, kind.removesuffix(" or null"))
    if kind.startswith("list of "):
        return isinstance(value, list) and value and all(fits(item, kind[8:].removesuffix("s")) for item in value)
    if kind == "number":
        return isinstance(value, int | float) and not isinstance(value, bool)
    return isinstance(value, {"string": str, "boolean": bool}[kind])


def strict(text):
    def refuse(constant):
        raise ValueError(constant)

    return json.loads(text, parse_constant=refuse)


def test_every_json_reply_is_strict_and_has_the_keys_asked_for():
    kinds = Counter()
    for row in rows_of("json.jsonl"):
        prompt, reply = row["messages"][0]["content"], row["messages"][-1]["content"]
        value, asked = strict(reply), asked_types(prompt)
        assert list(value) == list(asked), row
        assert all(fits(value[key], kind) for key, kind in asked.items()), row
        assert reply == json.dumps(value, ensure_ascii=False, separators=(",", ":"))
        kinds.update(asked.values())
    assert {"string", "number", "boolean", "string or null", "list of strings", "list of numbers"} <= set(kinds)


def test_json_values_stand_in_the_prompt():
    """Text values can be read off the prompt, apart from a few that have to be put in other words."""
    strict_rows = [row for row in rows_of("json.jsonl") if "strict" in row["tags"]]
    values = [
        (value, row["messages"][0]["content"])
        for row in strict_rows
        for value in strict(row["messages"][-1]["content"]).values()
        if isinstance(value, str)
    ]
    assert sum(value.casefold() in prompt.casefold() for value, prompt in values) / len(values) > 0.95


def test_negatives_are_broken_first_and_right_last():
    negatives = [row for row in rows_of("json.jsonl") if "negative" in row["tags"]]
    assert len(negatives) == 24
    for row in negatives:
        first, last = row["messages"][1]["content"], row["messages"][3]["content"]
        assert [message["role"] for message in row["messages"]] == ["user", "assistant", "user", "assistant"]
        try:
            value = strict(first)
        except ValueError:
            continue
        asked = asked_types(row["messages"][0]["content"])
        assert list(value) != list(asked) or not all(fits(value[key], kind) for key, kind in asked.items()), row
        assert value != strict(last)


# --------------------------------------------------------------------------------------------------- tools and thinking
def test_calls_name_offered_tools_and_their_arguments_fit():
    json_types = {"string": str, "number": int | float, "integer": int}
    for row in rows_of("tools.jsonl"):
        schemas = {tool["function"]["name"]: tool["function"]["parameters"] for tool in json.loads(row["tools"])}
        calls = row["messages"][1]["tool_calls"]
        for call in calls:
            assert isinstance(call["function"]["arguments"], str)  # pitfall arrow-invents-arguments
            arguments, schema = json.loads(call["function"]["arguments"]), schemas[call["function"]["name"]]
            assert set(schema["required"]) <= set(arguments) <= set(schema["properties"])
            for key, value in arguments.items():
                assert isinstance(value, json_types[schema["properties"][key]["type"]])
                assert value in schema["properties"][key].get("enum", [value])
        results = [message for message in row["messages"] if message["role"] == "tool"]
        assert [result["tool_call_id"] for result in results] == [call["id"] for call in calls]
        assert row["messages"][-1]["role"] == "assistant" and row["messages"][-1]["content"]


def arguments_of(row):
    return [json.loads(call["function"]["arguments"]) for call in row["messages"][1]["tool_calls"]]


def results_of(row):
    return [json.loads(message["content"]) for message in row["messages"] if message["role"] == "tool"]


def leaves(value):
    """The values in nested objects and lists."""
    if isinstance(value, dict | list):
        return [leaf for item in (value.values() if isinstance(value, dict) else value) for leaf in leaves(item)]
    return [value]


MADE_TOOLS = slice(30, None)  # the rows before them are written out
WORDS = {  # how a value is written where the question does not name it as it is
    "today": "今天", "tomorrow": "明天", "yesterday": "昨天", "walk": "on foot", "train": "火车",
    "bus": "公交", 2: "two|两", 3: "three|三",
    "USD": "US dollars|美元", "EUR": "euros|欧元", "GBP": "British pounds|英镑", "JPY": "Japanese yen|日元",
    "CHF": "Swiss francs|瑞士法郎", "CAD": "Canadian dollars|加元", "CNY": "Chinese yuan|人民币",
}  # fmt: skip


def test_tools_are_asked_for_in_two_languages_and_many_ways():
    rows = rows_of("tools.jsonl")
    spec = importlib.util.spec_from_file_location("raw_tools", RAW / "_tools.py")
    raw_tools = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(raw_tools)
    patterns = [pattern.question for pattern in raw_tools.SINGLE + raw_tools.PARALLEL]
    used = Counter()
    for row in rows[MADE_TOOLS]:
        question = row["messages"][0]["content"]
        hits = [p for p in patterns if re.fullmatch(re.sub(r"\\{\w+\\}", "(.+)", re.escape(p)), question)]
        assert len(hits) == 1, (question, hits)
        used[hits[0]] += 1
    assert set(used) == set(patterns) and len(patterns) >= 24 and set(used.values()) == {3, 4, 5}
    assert Counter(row["tags"][1] for row in rows[MADE_TOOLS]) == {"en": 60, "zh": 60}
    assert len({row["messages"][0]["content"] for row in rows}) == len(rows)
    assert 0.08 < sum(len(arguments_of(row)) == 2 for row in rows) / len(rows) < 0.12


def test_made_rows_offer_several_tools_in_mixed_order():
    places, names = Counter(), set()
    for row in rows_of("tools.jsonl")[MADE_TOOLS]:
        offered = [tool["function"]["name"] for tool in json.loads(row["tools"])]
        called = {call["function"]["name"] for call in row["messages"][1]["tool_calls"]}
        assert 2 <= len(offered) <= 3 and len(set(offered)) == len(offered)
        assert len(called) == 1
        places[offered.index(*called)] += 1
        names |= called
    assert len(names) == 8
    assert min(places[place] for place in range(3)) >= 20, places


def test_arguments_of_made_rows_can_be_read_off_the_question():
    for row in rows_of("tools.jsonl")[MADE_TOOLS]:
        question = row["messages"][0]["content"]
        for arguments in arguments_of(row):
            places = {}
            for key, value in arguments.items():
                written = rf"(?<![\d.:]){value}(?![\d.:])" if isinstance(value, int) else re.escape(value)
                found = re.search("|".join(filter(None, [written, WORDS.get(value)])), question)
                assert found, (question, key, value)
                places[key] = found.start()
            for first, second in (("source", "target"), ("start", "end")):
                assert first not in places or places[first] < places[second], (question, arguments)


def test_answers_of_made_rows_say_what_the_tools_said():
    for row in rows_of("tools.jsonl")[MADE_TOOLS]:
        question, answer = row["messages"][0]["content"], row["messages"][-1]["content"]
        known = f"{question} {json.dumps([arguments_of(row), results_of(row)], ensure_ascii=False)}"
        figures = [{Fraction(figure) for figure in re.findall(r"\d+(?:\.\d+)?", text)} for text in (answer, known)]
        assert figures[0] <= figures[1], row
        asked_for_degrees = re.search(r"How warm|多少度", question)  # the sky need not be named then
        for result in results_of(row):
            for value in leaves({k: v for k, v in result.items() if not (asked_for_degrees and k == "condition")}):
                if isinstance(value, bool):
                    assert value
                elif isinstance(value, str):
                    assert value in answer, row
                else:
                    assert Fraction(str(value)) in figures[0], row


def test_thinking_rows_think_apart_from_the_answer():
    for row in rows_of("thinking.jsonl"):
        reply = row["messages"][-1]
        assert reply["reasoning_content"] and reply["content"]
        assert "think>" not in reply["content"] + reply["reasoning_content"]
        for left, right in re.findall(r"([\d (][\d +×().-]*[+×-][\d +×().-]*?) = (\d+)", reply["reasoning_content"]):
            left = left.strip()
            if left.count("(") == left.count(")"):
                assert eval(left.replace("×", "*")) == int(right), row


def test_languages_are_what_the_tags_say():
    for name in ("json.jsonl", "tools.jsonl", "thinking.jsonl", "worked.jsonl", "plain.jsonl", "general.jsonl"):
        for row in rows_of(name):
            asked = row["messages"][0]["content"]
            assert ("zh" if CHINESE.search(asked) else "en") in row["tags"], row


def test_the_entities_stand_where_their_spans_say_and_every_label_is_there():
    rows, labels = rows_of("entities.jsonl"), Counter()
    for row in rows:
        spans = [
            (label, name, *span) for label, names in row["label"].items() for name in names for span in names[name]
        ]
        for label, name, start, end in spans:
            assert row["text"][start : end + 1] == name, row
            labels[label] += 1
        for _, name, *_ in spans:  # a name that stands again is marked again, by itself or inside a longer one
            for found in re.finditer(re.escape(name), row["text"] if len(name) > 1 else ""):
                assert any(start <= found.start() and found.end() - 1 <= end for *_, start, end in spans), (name, row)
    assert set(labels) == set(CLUENER_LABELS) and min(labels.values()) >= 35
    nothing = sum(not row["label"] for row in rows)
    twice = sum(any(len(places) > 1 for names in row["label"].values() for places in names.values()) for row in rows)
    assert len(rows) >= 600 and nothing >= 60 and twice >= 35 and sum("《" in row["text"] for row in rows) >= 100


def test_no_two_sentences_with_entities_share_a_frame():
    """A frame is a sentence without its entities; two share at most 45 % of their pairs of characters."""
    frames = {}
    for row in rows_of("entities.jsonl"):
        signs = list(row["text"])
        for names in row["label"].values():
            for places in names.values():
                for start, end in places:
                    signs[start : end + 1] = ["□", *[""] * (end - start)]
        frame = re.sub(r"\W", "", "".join(signs).replace("□", "x"))
        assert frame not in frames, row
        frames[frame] = {frame[place : place + 2] for place in range(len(frame) - 1)}
    pairs = [pair for pair in frames.values() if len(pair) >= 4]
    for place, one in enumerate(pairs):
        for other in pairs[:place]:
            assert len(one & other) <= 0.45 * len(one | other), (one, other)
