"""Wrong answers to exercise 07: each is the solution with one of its lines as people write it."""

from mutants import WORDING

WRONG = {  # task: (what is wrong, what the solution says, what stands there instead)
    "prompt_for": [
        ("as they come", "sorted({*labels})", "labels"),
        ("one that stands twice is named twice", "sorted({*labels})", "sorted(labels)"),
        ("a set has no order", "sorted({*labels})", "{*labels}"),
        ("the last first", "sorted({*labels})", "sorted({*labels}, reverse=True)"),
        ("capitals beside small letters", "sorted({*labels})", "sorted({*labels}, key=str.lower)"),
        ("another comma", '"、".join', '", ".join'),
        (
            "the braces of the text are filled, too",
            'f"{INSTRUCTION.format(labels=listed)}\\n文本：{text}"',
            'f"{INSTRUCTION}\\n文本：{text}".format(labels=listed)',
        ),
        (
            "the text may hold the place of the labels",
            'f"{INSTRUCTION.format(labels=listed)}\\n文本：{text}"',
            'f"{INSTRUCTION}\\n文本：{text}".replace("{labels}", listed)',
        ),
        ("edges are stripped", "文本：{text}", "文本：{text.strip()}"),
        ("one line", "文本：{text}", "文本：{' '.join(text.split())}"),
        ("the first line", "文本：{text}", "文本：{text.partition(chr(10))[0]}"),
        ("no line break", "\\n文本：", "文本："),
        ("a blank behind the colon", "文本：{text}", "文本： {text}"),
        ("no labels, all labels", 'raise ValueError("no labels")', "labels = data.sources.CLUENER_LABELS"),
        (
            "the labels are sorted in place",
            '    listed = "、".join(sorted({*labels}))\n',
            '    if isinstance(labels, list):\n        labels.sort()\n    listed = "、".join(sorted({*labels}))\n',
        ),
    ],
    "to_answer": [
        ("the end is cut off", 'row["text"][start : end + 1] != name', 'row["text"][start:end] != name'),
        ("nothing is checked", 'row["text"][start : end + 1] != name', "False"),
        ("anywhere will do", 'row["text"][start : end + 1] != name', 'name not in row["text"]'),
        ("the start alone", 'row["text"][start : end + 1] != name', 'not row["text"].startswith(name, start)'),
        ("the length alone", 'row["text"][start : end + 1] != name', "end - start + 1 != len(name)"),
        ("the first place alone", "in places:", "in places[:1]:"),
        ("what is off is left out", 'raise ValueError(f"{name} is not at its place")', "continue"),
        ("the error names nothing", 'f"{name} is not at its place"', '"a place is off"'),
        ("the error names the label", 'f"{name} is', 'f"{label} is'),
        ("the row's order", "sorted(spans, key=lambda span: span[0])", "spans"),
        ("by label where two begin together", "sorted(spans, key=lambda span: span[0])", "sorted(spans)"),
        (
            "the longest first where two begin together",
            "key=lambda span: span[0]",
            "key=lambda span: (span[0], -len(span[2]))",
        ),
        (
            "by where they last stand",
            "key=lambda span: span[0]",
            "key=lambda span: max(other[0] for other in spans if other[1:] == span[1:])",
        ),
        ("by label, then by place", "key=lambda span: span[0]", "key=lambda span: (span[1], span[0])"),
        ("a name for each place", "if name not in names:", "if True:"),
        ("a name under one label", "if name not in names:", "if not any(name in each for each in answer.values()):"),
        ("numbers of letters", ", ensure_ascii=False", ""),
        ("a dict", "json.dumps(answer, ensure_ascii=False)", "answer"),
        ("Python's quotes", "json.dumps(answer, ensure_ascii=False)", "str(answer)"),
        (
            "labels sorted",
            "json.dumps(answer, ensure_ascii=False)",
            "json.dumps(answer, ensure_ascii=False, sort_keys=True)",
        ),
        ("the row is changed", "    answer = {}\n", '    row["label"] = {}\n    answer = {}\n'),
    ],
    "f1_by_label": [
        (
            "the mean of the labels",
            "2 * right.total() / both.total() if both else 0.0",
            "sum(f1.values()) / len(f1) if f1 else 0.0",
        ),
        (
            "the mean of the rows",
            "    for reply, reference in rows:\n",
            "    if len(rows) > 1:\n"
            "        each = [f1_by_label([row]) for row in rows]\n"
            "        known = {label for found in each for label in found}\n"
            "        return {label: sum(found.get(label, 0.0) for found in each) / len(each) for label in known}\n"
            "    for reply, reference in rows:\n",
        ),
        ("recall", "[*found, *due]", "[*due, *due]"),
        ("precision", "[*found, *due]", "[*found, *found]"),
        ("each pair once", "[*found, *due]", "found | due"),
        ("half of it", "2 * right[label] / count", "right[label] / count"),
        (
            "only labels that are due",
            "for label, count in both.items()}",
            "for label, count in both.items() if any(label in (metrics.parse_json(row[1]) or {}) for row in rows)}",
        ),
        (
            "only labels that are right",
            "for label, count in both.items()}",
            "for label, count in both.items() if right[label]}",
        ),
        (
            "replies that are no JSON are left out",
            "        found, due = pairs(reply), pairs(reference)\n",
            "        found, due = pairs(reply), pairs(reference)\n        if not found:\n            continue\n",
        ),
        ("a text is a list of letters", "isinstance(names, list)", "isinstance(names, (list, str))"),
        ("lists are not asked for", "if isinstance(names, list) for", "for"),
        ("anything is an object", "value.items() if isinstance(value, dict) else []", "value.items()"),
        (
            "what stands twice counts twice",
            "[*found, *due]",
            "[*found, *due, *(pair for pair in found if reply.count(pair[1]) > 1)]",
        ),
        (
            "a name is right under any label",
            "label for label, _ in found & due",
            "label for label, name in found if name in {other for _, other in due}",
        ),
        ("nothing at all is a full score", "else 0.0", "else 1.0"),
        ("no case for nothing", " if both else 0.0", ""),
        ("per cent", "2 * right[label] / count", "200 * right[label] / count"),
    ],
    "convert": [
        (
            "the end is cut off",
            "list(names)",
            '[row["text"][places[0][0] : places[0][1]] for places in names.values()]',
        ),
        ("a name for each place", "list(names)", "[name for name, places in names.items() for _ in places]"),
        (
            "the last label wins",
            "list(names) for",
            '[n for n in names if label == [k for k, v in row["label"].items() if n in v][-1]] for',
        ),
        (
            "the first label wins",
            "list(names) for",
            '[n for n in names if label == [k for k, v in row["label"].items() if n in v][0]] for',
        ),
        ("labels without a name", " if names}", "}"),
        ("names sorted", "list(names)", "sorted(names)"),
        ("labels sorted", 'in row["label"].items() if', 'in sorted(row["label"].items()) if'),
        ("names with their places", "list(names)", "names"),
        ("numbers of letters", ", ensure_ascii=False", ""),
        ("the bare text", "文本：{row['text']}", "{row['text']}"),
        ("the labels' place is not filled", '"instruction": ASKED', '"instruction": INSTRUCTION'),
        ("the text in the instruction", '"instruction": ASKED', '"instruction": ASKED + "\\n" + row["text"]'),
        ("a dict as output", '"output": output', '"output": answer'),
        ("the row is changed", "    output = ", '    row["label"] = answer\n    output = '),
    ],
    "mended": [
        ("any label", "label not in labels or ", ""),
        ("labels in any case", "label not in labels", "label.lower() not in labels"),
        ("a text is a list", "not isinstance(names, list)", "not names"),
        ("any name", " and name in text", ""),
        ("every letter is somewhere", "name in text]", "{*name} <= {*text}]"),
        ("an empty name is in each text", "and name and name in text", "and name in text"),
        ("numbers are names", "isinstance(name, str) and name and name in text", "str(name) and str(name) in text"),
        ("labels without a name", "if there:", "if True:"),
        ("what stands twice", "list(dict.fromkeys(there))", "there"),
        ("names in no order", "list(dict.fromkeys(there))", "sorted(set(there))"),
        (
            "in the order of the text",
            "list(dict.fromkeys(there))",
            "sorted(dict.fromkeys(there), key=text.index)",
        ),
        (
            "a name under one label",
            "list(dict.fromkeys(there))",
            "[n for n in dict.fromkeys(there) if n not in str(kept)]",
        ),
        ("one wrong name takes all", "if there:", "if len(there) == len(names):"),
        ("one wrong label takes all", "            continue\n", "            return '{}'\n"),
        ("no fence", ", lenient=True", ""),
        (
            "the object in the talk",
            "metrics.parse_json(reply,",
            "metrics.parse_json(reply[reply.find('{') : reply.rfind('}') + 1],",
        ),
        ("Python's json", "metrics.parse_json(reply, lenient=True)", "json.loads(reply)"),
        ("anything is an object", "value.items() if isinstance(value, dict) else []", "value.items()"),
        ("nothing for what is no object", "value.items() if isinstance(value, dict) else []", "(value or {}).items()"),
        (
            "the reply itself where it is no object",
            "    kept = {}\n",
            "    kept = {}\n    if not isinstance(value, dict):\n        return reply\n",
        ),
        ("numbers of letters", ", ensure_ascii=False", ""),
        ("a dict", "json.dumps(kept, ensure_ascii=False)", "kept"),
    ],
}

SURVIVORS = {  # task: mutant: why no check can or should notice it
    "prompt_for": {"5:25 'no labels' → 'no labelsX'": WORDING},
    "to_answer": {
        "9:37 ' is not at its place' → ' is not at its placeX'": WORDING,
    },
}
