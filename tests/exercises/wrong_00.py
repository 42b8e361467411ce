"""Wrong answers to exercise 00: each is the solution with one of its lines as people write it."""

WRONG = {  # task: (what is wrong, what the solution says, what stands there instead)
    "to_line": [
        ("Chinese is escaped", ", ensure_ascii=False", ""),
        ("Python's own text", "json.dumps({", "str({"),
        ("many lines", "ensure_ascii=False", "ensure_ascii=False, indent=1"),
        ("a list, no object", '{"messages": messages}', "messages"),
        ("other names", '"role": role, "content": text', '"from": role, "value": text'),
        ("the answer first", "in turns", "in turns[::-1]"),
        ("the texts are stripped", '"content": text', '"content": text.strip()'),
    ],
    "mask": [
        ("everything is learned", "token if inside else -100", "token"),
        (
            "the token that closes is left out",
            "token if inside else -100",
            "token if inside and token != end else -100",
        ),
        ("the first reply alone", "inside = token != end", "inside = True"),
        ("it begins at the last id of the opening", "ids[: place + 1][-len(opens) :] == opens", "token == opens[-1]"),
        (
            "it begins at the first id of the opening",
            "ids[: place + 1][-len(opens) :]",
            "ids[place : place + len(opens)]",
        ),
        ("zero in place of -100", "else -100", "else 0"),
        ("the questions are learned", "token if inside else -100", "-100 if inside else token"),
        (
            "an opening inside of a reply begins it anew",
            "        if inside:\n",
            "        if inside and token != opens[0]:\n",
        ),
    ],
    "changes": [
        ("a beginning is enough", "re.fullmatch", "re.match"),
        ("found anywhere", "re.fullmatch", "re.search"),
        ("a line break at the end", "re.fullmatch(form, reply)", 're.match(f"(?:{form})$", reply)'),
        ("white space is taken off", "fullmatch(form, reply)", "fullmatch(form, reply.strip())"),
        ("the shorter list decides", ", strict=True", ""),
        ("lost and gained are exchanged", "zip(before, after", "zip(after, before"),
        ("no zeros", "return counts", "return {name: count for name, count in counts.items() if count}"),
        ("case does not matter", "fullmatch(form, reply)", "fullmatch(form, reply, re.IGNORECASE)"),
    ],
    "faults": [
        ("split at what looks like a line's end", 'text.split("\\n")', "text.splitlines()"),
        ("counted from 0", "start=1", "start=0"),
        (
            "empty lines are not counted",
            'enumerate(text.split("\\n"), start=1) if line.strip()',
            'enumerate(filter(str.strip, text.split("\\n")), start=1)',
        ),
        ("empty lines are faults", " if line.strip()]", "]"),
        ("an empty list goes through", " or not turns:", " or turns is None:"),
        ("no list goes through", "not isinstance(turns, list) or not turns", "not turns"),
        ("the first turn's role", 'turns[-1]["role"]', 'turns[0]["role"]'),
        ("white space is a reply", '["content"].strip()', '["content"]'),
        ("the user's words are looked at", 'turns[-1]["content"]', 'turns[0]["content"]'),
        ("no object, no answer", 'row.get("messages") if isinstance(row, dict) else None', 'row.get("messages")'),
        ("the first fault alone", "(found := fault(line))]", "(found := fault(line))][:1]"),
    ],
}

SURVIVORS = {}  # task: mutant: why no check can or should notice it
