"""Wrong answers to exercise 05: each is the solution with one of its lines as people write it."""

from mutants import WORDING

WRONG = {  # task: (what is wrong, what the solution says, what stands there instead)
    "perplexity": [
        ("every token counts", "if flag:", "if True:"),
        (
            "the mean of the batches' means",
            "                    total += value\n                    count += 1\n",
            "                    total += value / sum(map(sum, learned))\n        count += 1\n",
        ),
        (
            "the mean of the rows' means",
            "            for value, flag in zip(values, flags):\n",
            "            values, flags = [sum(v for v, f in zip(values, flags) if f) / max(sum(flags), 1)], [1]\n"
            "            for value, flag in zip(values, flags):\n",
        ),
        (
            "the mask is multiplied with the NLL",
            "                if flag:\n                    total += value\n                    count += 1",
            "                total += value * flag\n                count += flag",
        ),
        ("padding is counted", "count += 1", "count = sum(len(row) for nll, _ in batches for row in nll)"),
        ("the loss, not its exponential", "math.exp(total / count)", "total / count"),
        ("powers of two", "math.exp(total / count)", "2 ** (total / count)"),
        ("nothing learned is 1", 'raise ValueError("no token is learned")', "return 1.0"),
        ("only the last batch", "    for nll, learned in batches:", "    for nll, learned in batches[-1:]:"),
    ],
    "pad_left": [
        ("padding on the right", "[pad] * gap + row", "row + [pad] * gap"),
        ("the mask is guessed", "[0] * gap + [1] * len(row)", "[int(i != pad) for i in [pad] * gap + row]"),
        ("everything is seen", "[0] * gap + [1] * len(row)", "[1] * width"),
        ("positions count the padding", "[0] * gap + list(range(len(row)))", "list(range(width))"),
        ("positions from 1", "list(range(len(row)))", "list(range(1, len(row) + 1))"),
        ("the mask is turned round", "[0] * gap + [1] * len(row)", "[1] * gap + [0] * len(row)"),
        ("as long as the first row", "max(len(row) for row in rows)", "len(rows[0])"),
        ("one place too many", "max(len(row) for row in rows)", "max(len(row) for row in rows) + 1"),
        (
            "the rows are changed",
            "        gap = width - len(row)\n",
            "        gap = width - len(row)\n        row[:0] = [pad] * gap\n",
        ),
    ],
    "json_rates": [
        ("NaN goes through", ", parse_constant=refuse", ""),
        ("any value is an object", "isinstance(value, dict)", "True"),
        ("lists are objects", "isinstance(value, dict)", "isinstance(value, (dict, list))"),
        (
            "the cut off are left out",
            "    for reply in replies:\n",
            "    replies = [r for r in replies if r]\n    for reply in replies:\n",
        ),
        (
            "the fence is forgiven in both",
            "enumerate((text, fence[1] if fence else text))",
            "enumerate((fence[1] if fence else text,) * 2)",
        ),
        ("a fence anywhere", "FENCE.fullmatch(text)", "FENCE.search(text)"),
        ("talk around the object", "enumerate((text,", "enumerate((text[text.find('{') : text.rfind('}') + 1],"),
        ("edges are not stripped", "reply.strip()", "reply"),
        ("lenient first", "return valid[0] / len(replies), valid[1]", "return valid[1] / len(replies), valid[0]"),
        ("of the last divisor only", "valid[1] / len(replies)", "valid[1] / max(valid[0], 1)"),
    ],
    "find_loop": [
        ("three times are enough", "times >= 4", "times >= 3"),
        ("more than four times", "times >= 4", "times > 4"),
        ("short pieces", "range(4, 81)", "range(1, 81)"),
        ("one size too few", "range(4, 81)", "range(4, 80)"),
        ("the longest piece first", "range(4, 81)", "range(80, 3, -1)"),
        ("white space may begin it", "text[start].isspace()", "False"),
        ("always four", "return piece, times", "return piece, 4"),
        ("the place, not the piece", "return piece, times", "return start, times"),
        ("only at the beginning", "range(len(text))", "range(min(len(text), 1))"),
        (
            "counted anywhere, not in a row",
            "times = len(list(row))",
            "times = text.count(piece)",
        ),
    ],
    "entity_f1": [
        (
            "the mean of the rows' F1",
            "    return 2 * right / (found + due) if found + due else 0.0",
            "    scores = []\n    for reply, reference in zip(replies, references):\n"
            "        given, wanted = pairs(reply), pairs(reference)\n"
            "        scores.append(2 * len(given & wanted) / max(len(given) + len(wanted), 1))\n"
            "    return sum(scores) / max(len(scores), 1)",
        ),
        ("labels do not matter", "{(label, name) for", "{name for"),
        ("duplicates count", "        found += len(given)", "        found += reply.count('Oslo') or len(given)"),
        (
            "case does not matter",
            "(label, name) for label, names in lists",
            "(label, str(name).lower()) for label, names in lists",
        ),
        ("a text is a list of letters", "if isinstance(names, list)]", "if not isinstance(names, float)]"),
        (
            "replies that are no JSON are left out",
            "        given, wanted = pairs(reply), pairs(reference)\n",
            "        given, wanted = pairs(reply), pairs(reference)\n        if not given:\n            continue\n",
        ),
        ("precision", "(found + due) if", "(2 * max(found, 1)) if"),
        ("recall", "(found + due) if", "(2 * max(due, 1)) if"),
        ("no pair is a full score", "else 0.0", "else 1.0"),
        ("half of the F1", "return 2 * right", "return right"),
    ],
    "accuracy": [
        ("half a thought is an answer", 'answer = "" if "<think>" in output else output', "answer = output"),
        (
            "what has no number is left out",
            "reached / len(outputs)",
            "reached / max(sum(bool(NUMBER.findall(o)) for o in outputs), 1)",
        ),
        (
            "texts are compared",
            "metrics.parse_number(numbers[-1]) == metrics.parse_number(reference)",
            "numbers[-1] == reference",
        ),
        ("the first number", "numbers[-1]", "numbers[0]"),
        ("the last closer", 'output.partition("</think>")', 'output.rpartition("</think>")'),
        (
            "decimals are compared",
            "metrics.parse_number(numbers[-1]) == metrics.parse_number(reference)",
            "abs(float(metrics.parse_number(numbers[-1]) or 0) - float(metrics.parse_number(reference))) < 1e-9",
        ),
        (
            "any number of the reply",
            "numbers[-1]) == metrics.parse_number(reference)",
            "numbers[-1]) in map(metrics.parse_number, [*numbers, reference])",
        ),
        ("no thinking is no answer", 'answer = "" if "<think>" in output else output', 'answer = ""'),
        ("the thought counts, too", "NUMBER.findall(answer)", "NUMBER.findall(answer or thought)"),
        ("reached is as asked", "bool(NUMBER.fullmatch(answer.strip()))", "1"),
        ("any bare number is as asked", "            asked += bool", "        asked += bool"),
        ("a text with one number is as asked", "bool(NUMBER.fullmatch(answer.strip()))", "len(numbers) == 1"),
        ("white space is no answer", "answer.strip()", "answer"),
        ("asked is of those reached", "return asked / len(outputs)", "return asked / max(reached, 1)"),
        (
            "reached first",
            "asked / len(outputs), reached / len(outputs)",
            "reached / len(outputs), asked / len(outputs)",
        ),
    ],
    "fair_limit": [
        ("the base is not asked", "with model.disable_adapter():", "if True:"),
        ("the adapter stays off", "with model.disable_adapter():", "model.disable_adapter_layers()\n    if True:"),
        ("the prompt counts, too", "[:, ids.shape[1] :]", ""),
        ("sampled", '"do_sample": False', '"do_sample": True'),
        ("the model's own settings", ', "do_sample": False', ""),
        ("only the last place", "stop in reply[:limit]", "reply[:limit][-1] == stop"),
        ("one token more", "reply[:limit]", "reply[: limit + 1]"),
        ("the stop does not count", "reply[:limit]", "reply[: limit - 1]"),
        ("the limit does not matter", "reply[:limit]", "reply"),
        (
            "each limit anew",
            "    ended = {",
            "    for limit in limits:\n        model.generate(input_ids=ids, max_new_tokens=limit, do_sample=False)\n"
            "    ended = {",
        ),
        ("after first", "both = before, replies()", "both = replies(), before"),
        ("the adapter alone is asked", "ended[limit] == (len(ids), len(ids))", "ended[limit][1] == len(ids)"),
        ("the base alone is asked", "ended[limit] == (len(ids), len(ids))", "ended[limit][0] == len(ids)"),
        ("the largest", "min(fair", "max(fair"),
        ("the largest is fair at any rate", "default=None", "default=max(limits)"),
        ("shares", "for reply in each)", "for reply in each) / len(each)"),
    ],
    "paired_interval": [
        (
            "the mean of the ratios",
            "top / sum(parts[number][1] for number in draw)",
            "sum(parts[n][0] / parts[n][1] for n in draw) / len(draw)",
        ),
        (
            "two intervals by themselves",
            "    changes = [ratio(after, draw) - ratio(before, draw) for draw in draws]\n"
            "    low, high = numpy.quantile(changes, [0.025, 0.975])",
            "    olds, news = ([ratio(parts, draw) for draw in draws] for parts in (before, after))\n"
            "    low = numpy.quantile(news, 0.025) - numpy.quantile(olds, 0.975)\n"
            "    high = numpy.quantile(news, 0.975) - numpy.quantile(olds, 0.025)",
        ),
        (
            "prompts are not the same",
            "ratio(after, draw) - ratio(before, draw) for draw in draws]",
            "ratio(after, draw) - ratio(before, other) for draw, other in zip(draws, draws[::-1])]",
        ),
        ("each prompt once", "for number in draw)\n        return", "for number in {*draw})\n        return"),
        ("before less after", "ratio(after, draw) - ratio(before, draw)", "ratio(before, draw) - ratio(after, draw)"),
        ("90 per cent", "[0.025, 0.975]", "[0.05, 0.95]"),
        ("the whole range", "[0.025, 0.975]", "[0, 1]"),
        ("turned round", "return float(low), float(high)", "return float(high), float(low)"),
    ],
}

SURVIVORS = {  # task: mutant: why no check can or should notice it
    "perplexity": {"15:25 'no token is learned' → 'no token is learnedX'": WORDING},
    "find_loop": {
        "16:4 return None → pass": "a function without a return gives None",
    },
    "accuracy": {"8:21 '' → 'X'": "X holds no number either"},
}
