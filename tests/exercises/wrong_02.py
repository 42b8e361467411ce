"""Wrong answers to exercise 02: each is the solution with one of its lines as people write it."""

from mutants import WORDING

WRONG = {  # task: (what is wrong, what the solution says, what stands there instead)
    "render": [
        ("no closer after a critic", '                text += "<|im_end|>\\n"', "                pass"),
        ("each critic opens a turn", 'place and roles[place - 1] == "critic"', "False"),
        ("critics are joined across other turns", "roles[place - 1] ==", "roles[0] =="),
        ("no line break after the closer", "{message['content']}<|im_end|>\\n", "{message['content']}<|im_end|>"),
        ("contents are stripped", "{message['content']}<|im_end|>", "{message['content'].strip()}!<|im_end|>"),
        ("the reply is always opened", "if open_reply else", "if messages else"),
        ("the opening has no line break", "<|im_start|>assistant\\n", "<|im_start|>assistant"),
        ("an unknown role is written as it is", 'role in ("system", "user", "assistant")', 'role != "critic"'),
        ("the critic has a turn of its own role", "<|im_start|>user\\n", "<|im_start|>critic\\n"),
    ],
    "learned_spans": [
        ("what is open at the end is lost", "[*labels, -100]", "labels"),
        ("0 is taken for nothing", "if label != -100 and", "if label > 0 and"),
        ("the end is the last place", "(start, place)", "(start, place - 1)"),
        ("the end is one too far", "(start, place)", "(start, place + 1)"),
        ("a span at place 0 is lost", "elif label == -100 and start is not None", "elif label == -100 and start"),
        ("every place begins a span", "if label != -100 and start is None", "if label != -100"),
        ("lists instead of pairs", "append((start, place))", "append([start, place])"),
    ],
    "neutralise": [
        (
            "tokens are deleted",
            'safe = ""\n',
            'safe = ""\n    for token in control:\n        text = text.replace(token, "")\n',
        ),
        (
            "before the first character",
            '            safe += "\\u200b"',
            '            safe = safe[:-1] + "\\u200b" + safe[-1]',
        ),
        ("every < is broken", "any(text.startswith(token, place) for token in control)", 'character == "<"'),
        (
            "one for each token that matches",
            'if any(text.startswith(token, place) for token in control):\n            safe += "\\u200b"',
            'for token in control:\n            safe += "\\u200b" * text.startswith(token, max(place, 1) - 1)',
        ),
        ("only the first token of the list", "for token in control)", "for token in control[:1])"),
        ("a token at the very end is missed", "enumerate(text)", "enumerate(text[:-9])"),
        ("nothing is done", 'safe += "\\u200b"', "pass"),
    ],
    "build": [
        ("the prompt is learned", "[-100] * len(before) + reply", "before + reply"),
        ("nothing is learned", "[-100] * len(before) + reply", "[-100] * len(before + reply)"),
        ("the closer is not learned", "len(before) + reply", "len(before) + reply[:-2] + [-100] * 2"),
        ("only the line breaks are not learned", "len(before) + reply", "len(before) + reply[:-1] + [-100]"),
        ("the labels are shifted", "[-100] * len(before) + reply", "[-100] * (len(before) - 1) + reply + [-100]"),
        (
            "one id of the prompt too many",
            "[-100] * len(before) + reply",
            "[-100] * (len(before) - 1) + before[-1:] + reply",
        ),
        ("the user's turns are learned", 'if message["role"] == "assistant"', 'if message["role"] == "user"'),
        ("the earlier turns are repeated", "prompt[len(done) :]", "prompt"),
        ("no opening of the reply", "add_generation_prompt=True", "add_generation_prompt=False"),
        ("only the first reply", "done = whole", "break"),
        ("the opening is learned", "whole[len(prompt) :]", 'whole[len(prompt) - len("### Response:\\n") :]'),
    ],
    "split_stream": [
        ("the last </think> closes", "held.partition(closer)", "held.rpartition(closer)"),
        ("nothing is held back", 'rest = next((end for end in ends if closer.startswith(end)), "")', 'rest = ""'),
        ("too much is held back", "if closer.startswith(end)", "if end"),
        ("the opener counts anywhere", "held.startswith(opener)", "opener in held"),
        (
            "what is held at the end is lost",
            '    if held:\n        yield "answer" if',
            '    if False:\n        yield "answer" if',
        ),
        ("an open thought is an answer", '"answer" if state == "start" else state, held', '"answer", held'),
        ("the opening of the prompt is ignored", '"thinking" if opened else "start"', '"start"'),
        ("all of it comes at the end", "    for piece in pieces:", '    for piece in ["".join(pieces)]:'),
        (
            "empty texts",
            "            if thought:\n                yield",
            "            if True:\n                yield",
        ),
    ],
    "collate": [
        ("the ids are the labels", 'example["labels"] + [-100] * gap', 'example["input_ids"] + [-100] * gap'),
        (
            "pad is hidden wherever it is",
            'example["labels"] + [-100] * gap',
            '[-100 if i == pad else i for i in example["labels"]] + [-100] * gap',
        ),
        ("padding is learned", "[-100] * gap", "[pad] * gap"),
        (
            "the mask is guessed",
            "[1] * size + [0] * gap",
            '[int(i != pad) for i in example["input_ids"] + [pad] * gap]',
        ),
        ("padding on the left", 'example["input_ids"] + [pad] * gap', '[pad] * gap + example["input_ids"]'),
        (
            "as long as the first row",
            'max(len(example["input_ids"]) for example in examples)',
            'len(examples[0]["input_ids"])',
        ),
        ("the mask lets padding be seen", "[0] * gap", "[1] * gap"),
        (
            "the examples are changed",
            "gap = longest - size\n",
            'gap = longest - size\n        example["labels"] += [-100] * gap\n',
        ),
    ],
    "examples": [
        ("thinking is never asked for", "enable_thinking=thinks", "enable_thinking=False"),
        ("thinking is left unset", ", enable_thinking=thinks", ""),
        ("the whole conversation is rendered", "messages[: place + 1]", "messages"),
        ("the prompt is learned", "[-100] * len(before) + reply", "before + reply"),
        ("only the last reply", "return made", "return made[-1:]"),
        ("no opening of the reply", "add_generation_prompt=True", "add_generation_prompt=False"),
        ("the closer is not learned", "len(before) + reply", "len(before) + reply[:-2] + [-100] * 2"),
        ("the labels are shifted", "[-100] * len(before) + reply", "[-100] * (len(before) - 1) + reply + [-100]"),
    ],
}

NO_BOS = "Qwen's tokenizers add no special tokens, asked or not"
ENDS = "no end of the text that is longer or shorter can be the beginning of </think>: it begins with the only <"

SURVIVORS = {  # task: mutant: why no check can or should notice it
    "render": {"15:29 'no such role: ' → 'no such role: X'": WORDING},
    "build": {"10:71 False → True": NO_BOS, "11:71 False → True": NO_BOS},
    "split_stream": {
        "15:55 len(closer) - 1 → len(closer) + 1": ENDS,
        "15:72 0 → -1": ENDS,
        "15:69 1 → 0": ENDS,
    },
    "examples": {"12:58 False → True": NO_BOS, "13:71 False → True": NO_BOS},
}
