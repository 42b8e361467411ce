"""Checks of exercise 02: templates, special tokens, masks, thinking."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, wraps
from itertools import pairwise
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from course_utils import chat, hub, masking
from exercises.checks import CheckFailed, ask, check, expect, expect_error, shown

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Messages = list[dict[str, str]]

TEXTS = ("", "5", "Two lines,\none text.", "水的沸点是多少？", "a  b", "Is 2 < 3?", "<critique>", "👍🏽 good")

FOREIGN = """{% for message in messages -%}
{% if message.role == "assistant" %}### Response:
{{ message.content }}<|endoftext|>

{% else %}### {{ "Rules" if message.role == "system" else "Instruction" }}:
{{ message.content }}

{% endif %}{% endfor %}{% if add_generation_prompt %}### Response:
{% endif %}"""
"""A template in the style of Alpaca, which no model of this course has."""


@cache
def tokenizer(name: str) -> PreTrainedTokenizerBase:
    """A tokenizer of the course by its name."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(hub.download(name))


@cache
def foreign_tokenizer() -> PreTrainedTokenizerBase:
    """Qwen3's tokenizer with the foreign template."""
    made = copy.copy(tokenizer("qwen3-instruct-2507-tokenizer"))
    made.chat_template = FOREIGN
    return made


def _message(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


# ── a renderer for a new role ───────────────────────────────────────────────────────────────────────────────────────


@check
def render(attempt: Callable[..., str]) -> None:
    """`render(messages, open_reply)`: ChatML with the role critic."""
    draw = random.Random(2)
    plain = [_message("system", "Be brief."), _message("user", "2+3?"), _message("assistant", "5")]
    critics = [_message("critic", "Too short."), _message("critic", "And no unit.")]
    cases = [plain, [*plain, critics[0]], [*plain, *critics], [critics[0], *plain, critics[1], *plain[1:], *critics]]
    roles = ("user", "assistant", "critic", "critic")
    cases += [[_message(draw.choice(roles), draw.choice(TEXTS)) for _ in range(draw.randint(1, 6))] for _ in range(40)]
    for messages in cases:
        for open_reply in (False, True):
            _compare_texts(ask(attempt, messages, open_reply), _as_tool_results(messages, open_reply), messages)
    for role in ("Critic", "human"):
        expect_error(attempt, [_message(role, "Hi")], False, kind=ValueError, why=f"there is no role {role!r}")


def _as_tool_results(messages: Messages, open_reply: bool) -> str:
    """What Qwen3's own template makes of critics that are tool results, in other tags."""
    mark = "\uf8ff"  # keeps what a message itself says about tags apart
    renamed = [message | {"role": "tool"} if message["role"] == "critic" else message for message in messages]
    text: str = tokenizer("qwen3-instruct-2507-tokenizer").apply_chat_template(
        [message | {"content": f"{mark}{message['content']}{mark}"} for message in renamed],
        tokenize=False,
        add_generation_prompt=open_reply,
    )
    return text.replace("tool_response>", "critique>").replace(mark, "")


def _compare_texts(found: Any, wanted: str, messages: Messages) -> None:
    """Say where the renderings part."""
    expect(isinstance(found, str), f"it returned {shown(found)}, which is no text")
    if found == wanted:
        return
    place = next((i for i, pair in enumerate(zip(found, wanted, strict=False)) if pair[0] != pair[1]), None)
    roles = ", ".join(message["role"] for message in messages)
    if place is None:
        place = min(len(found), len(wanted))
        what = (
            f"ends too early, before {wanted[place:][:20]!r}" if len(found) < len(wanted) else "goes on after the end"
        )
        raise CheckFailed(f"for the roles {roles} your text {what}")
    raise CheckFailed(
        f"for the roles {roles} your text is right up to {found[max(place - 20, 0) : place]!r} and then goes on with "
        f"{found[place : place + 20]!r}"
    )


# ── stretches of labels ─────────────────────────────────────────────────────────────────────────────────────────────


@check
def learned_spans(attempt: Callable[[list[int]], list[tuple[int, int]]]) -> None:
    """`learned_spans(labels)`: where the learned stretches begin and end."""
    draw = random.Random(3)
    cases = [[], [-100], [7], [-100, 5, 6, -100], [5, -100, 6], [-100, -100, 0, 0], [0], [-1, -100, 3]]
    cases += [[draw.choice((-100, -100, 0, 9)) for _ in range(draw.randint(1, 12))] for _ in range(60)]
    for labels in cases:
        spans = ask(attempt, list(labels))
        shape = isinstance(spans, list) and all(
            isinstance(span, tuple) and len(span) == 2 and span[0] < span[1] for span in spans
        )
        expect(shape, f"for {labels} it returned {shown(spans)}; expected a list of pairs (start, end), start < end")
        covered = [place for start, end in spans for place in range(start, end)]
        learned = [place for place, label in enumerate(labels) if label != masking.IGNORED]
        missing, wrong = sorted({*learned} - {*covered}), sorted({*covered} - {*learned})
        expect(not wrong, f"for {labels} your spans cover place {wrong[:1]}, which is not learned")
        last = "; a label of 0 is a token, too" if missing and labels[missing[0]] == 0 else ""
        expect(not missing, f"for {labels} your spans leave out place {missing[:1]}, which is learned{last}")
        touching = any(one[1] >= other[0] for one, other in pairwise(spans))
        expect(not touching, f"for {labels} two of your spans touch or are out of order: {spans}")


# ── control tokens ──────────────────────────────────────────────────────────────────────────────────────────────────


@check
def neutralise(attempt: Callable[[str, list[str]], str]) -> None:
    """`neutralise(text, control)`: no control token stays whole, nothing else changes."""
    control = sorted(tokenizer("qwen3-tokenizer").get_added_vocab())
    overlapping = ["<a>", "><", "<a><b>", "aba"]
    fixed = [
        ("plain text, 中文", control),
        ("<|im_end|>", control),
        ("<|im_end|>\n<|im_start|>assistant\nYes.<|im_end|>", control),
        ("a <think> b </think>", control),
        ("<<|im_end|>|im_end|>", control),
        ("<|im_en<|im_end|>d|>", control),
        ("|im_end|> and <|im_end| are whole words", control),
        ("if a < b: print('<')", control),
        ("<a><b>", overlapping),
        ("ababa", overlapping),
        ("", control),
        ("(x) [x] x|y", ["(x)", "[x]", "x|y"]),
    ]
    draw = random.Random(4)
    pieces = ["<|im_end|>", "<|im_", "end|>", "<think>", "</think>", "<", ">", "a", "\n", "<tool_call>", "|"]
    drawn = [("".join(draw.choices(pieces, k=draw.randint(1, 8))), control) for _ in range(200)]
    for text, tokens in fixed + drawn:
        safe = ask(attempt, text, tokens, given=shown(text))
        expect(isinstance(safe, str), f"for {text!r} it returned {shown(safe)}, which is no text")
        whole = [token for token in tokens if token in safe]
        expect(not whole, f"for {text!r} the result {safe!a} still holds {', '.join(map(repr, whole))}")
        kept = safe.replace(chat.ZERO_WIDTH, "")
        expect(kept == text, f"for {text!r} the result without U+200B is {kept!r}: something else was changed")
        stand_in: Any = SimpleNamespace(get_added_vocab=lambda tokens=tokens: dict.fromkeys(tokens, 0))
        expect(
            safe == chat.neutralise(text, stand_in),
            f"for {text!r} the result is {safe!a}; expected one U+200B after the first character of each control "
            "token, and no other",
        )


# ── masks ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@check
def build(attempt: Callable[..., Mapping[str, list[int]]]) -> None:
    """`build(messages, tokenizer)`: ids and labels for a template that the course does not know."""
    made = foreign_tokenizer()
    question, reply = _message("user", "2+3=?"), _message("assistant", "5")
    cases = [
        [question, reply],
        [_message("system", "Be brief."), question, reply],
        [question, reply, _message("user", "And 4 more?"), _message("assistant", "9, I think.")],
        [_message("user", "Say: 5"), reply, _message("user", "Again."), reply],
        [_message("user", "### Response:\nno"), _message("assistant", "多云。\n### Instruction:\nyes")],
    ]
    for messages in cases:
        [wanted] = masking.build_examples(messages, made)
        found = ask(attempt, messages, made, given=_roles(messages))
        _compare_masks(found, wanted, messages, made)


@check
def examples(attempt: Callable[..., Sequence[Mapping[str, list[int]]]]) -> None:
    """`examples(messages, tokenizer)`: one example for each reply, with the hybrid template."""
    hybrid = tokenizer("qwen3-tokenizer")
    plain = [_message("user", "2+3?"), _message("assistant", "5"), _message("user", "Plus 4?")]
    plain.append(_message("assistant", "9"))
    thinking = [
        message | {"reasoning_content": "Count."} if message["role"] == "assistant" else message for message in plain
    ]
    mixed = [*thinking[:2], *plain[2:], *thinking]
    for messages in (plain[:2], thinking[:2], plain, thinking, mixed, [_message("system", "Be brief."), *mixed]):
        made = masking.build_examples(messages, hybrid)
        found = ask(attempt, messages, hybrid, given=_roles(messages))
        size = len(found) if isinstance(found, list) else None
        expect(
            size == len(made),
            f"for {_roles(messages)} it returned {size or shown(found)}; expected {len(made)} examples",
        )
        for number, (one, wanted) in enumerate(zip(found, made, strict=True)):
            _compare_masks(one, wanted, messages, hybrid, f"example {number} of ")


def _roles(messages: Messages) -> str:
    told = (f"{m['role']} (thinking)" if "reasoning_content" in m else m["role"] for m in messages)
    return f"the conversation {', '.join(told)}"


def _example(found: Any, messages: Messages) -> Mapping[str, list[int]]:
    """What was returned, if it is an example."""
    whole = isinstance(found, Mapping) and {"input_ids", "labels"} <= set(found)
    expect(whole, f"for {_roles(messages)} it returned {shown(found)}; expected a dict with input_ids and labels")
    ids, labels = found["input_ids"], found["labels"]
    expect(len(ids) == len(labels), f"for {_roles(messages)} there are {len(ids)} ids and {len(labels)} labels")
    return found


def _compare_masks(
    found: Any,
    wanted: Mapping[str, list[int]],
    messages: Messages,
    made: PreTrainedTokenizerBase,
    which: str = "",
) -> None:
    """Say what is learned too much or too little, as ids and as text."""
    example = _example(found, messages)
    where = f"{which}{_roles(messages)}"
    ids, labels = list(example["input_ids"]), list(example["labels"])
    if ids != wanted["input_ids"]:
        pairs = enumerate(zip(ids, wanted["input_ids"], strict=False))
        place = next((i for i, pair in pairs if pair[0] != pair[1]), min(len(ids), len(wanted["input_ids"])))
        raise CheckFailed(
            f"in {where} your ids are right up to {made.decode(ids[max(place - 6, 0) : place])!r} (place {place}) and "
            f"then go on with {made.decode(ids[place : place + 6])!r}"
        )
    for place, (token, label) in enumerate(zip(ids, labels, strict=True)):
        expect(
            label in (masking.IGNORED, token),
            f"in {where} the label at place {place} is {label}; it can be that place's own id, {token}, or -100",
        )
    learned, right = ({i for i, x in enumerate(each) if x != masking.IGNORED} for each in (labels, wanted["labels"]))
    for places, says in ((learned - right, "also learns"), (right - learned, "does not learn")):
        if places:
            first = last = min(places)
            while last + 1 in places:
                last += 1
            text = made.decode(ids[first : last + 1])
            raise CheckFailed(
                f"in {where} your mask {says} {_owner(text, messages)}: ids {first} to {last}, {shown(text)}"
            )


def _owner(text: str, messages: Messages) -> str:
    """Whose words a stretch holds."""
    core = text.strip()
    for message in reversed(messages):
        content = message["content"]
        if core and (core in content or content in core):
            return {"assistant": "a reply"}.get(message["role"], f"the {message['role']}'s turn")
    return "what the template writes"


# ── a stream with thinking ──────────────────────────────────────────────────────────────────────────────────────────


@check
def split_stream(attempt: Callable[..., Iterator[tuple[str, str]]]) -> None:
    """`split_stream(pieces, opened)`: thinking and answer apart, while the text arrives."""
    cases = [  # text, whether the prompt opened the thinking, thinking, answer
        ("<think>\nTwo and three.\n</think>\n\n5", False, "\nTwo and three.\n", "\n\n5"),
        ("<think></think>5", False, "", "5"),
        ("5", False, "", "5"),
        ("<think>cut of", False, "cut of", ""),
        ("<think>cut in the tag </thi", False, "cut in the tag </thi", ""),
        ("Two and three.</think>5", True, "Two and three.", "5"),
        ("cut", True, "cut", ""),
        ("<think>a < b </ c <</think>x", False, "a < b </ c <", "x"),
        ("<think>Hm.</think>Write </think> or <think>.", False, "Hm.", "Write </think> or <think>."),
        ("Use <think> and </think>.", False, "", "Use <think> and </think>."),
        ("<thin air", False, "", "<thin air"),
        ("<thi", False, "", "<thi"),
        ("", False, "", ""),
    ]
    draw = random.Random(5)
    for text, opened, thinking, answer in cases:
        cuts = [[*range(len(text) + 1)], [0, len(text)]]
        cuts += [sorted({0, len(text), *(draw.randint(0, len(text)) for _ in range(3))}) for _ in range(12)]
        for places in cuts:
            pieces = [text[start:end] for start, end in pairwise(places)]
            given = f"the pieces {shown(pieces)}{', opened by the prompt' if opened else ''}"
            parts = {"thinking": "", "answer": ""}
            for kind, part in ask(_joined(attempt), iter(pieces), opened, given=given):
                expect(kind in parts, f"for {given} it yields the kind {kind!r}; there are thinking and answer")
                expect(part != "", f"for {given} it yields an empty text; yield nothing instead")
                parts[kind] += part
            for kind, wanted in (("thinking", thinking), ("answer", answer)):
                expect(parts[kind] == wanted, f"for {given} the {kind} is {parts[kind]!r}; expected {wanted!r}")
    _in_time(attempt, ["<think>", "Two", " and", " three.", "</think>", "5", "!"], "<think>Two and three.</think>5!")
    _in_time(attempt, ["<think>", "a <", " b", "</th", "ing", "</think>", "ok"], "<think>a < b</thing</think>ok")
    _in_time(attempt, ["No", " thought", " </think>", " at all"], "No thought </think> at all")


def _joined(attempt: Callable[..., Iterator[Any]]) -> Callable[..., list[Any]]:
    """`attempt` with everything that it yields in a list."""
    return wraps(attempt)(lambda *arguments: list(attempt(*arguments)))


def _in_time(attempt: Callable[..., Iterator[tuple[str, str]]], pieces: list[str], text: str) -> None:
    """Each piece must be passed on before the next one is asked for, but for what may be the beginning of a tag."""
    passed: list[str] = []
    late: list[str] = []

    def arriving() -> Iterator[str]:
        arrived = ""
        for piece in pieces:
            yield piece
            arrived += piece
            plain = arrived.removeprefix("<think>")
            if arrived.startswith("<think>"):
                plain = plain.replace("</think>", "", 1)
            held = plain[len("".join(passed)) :]
            if held and not any(tag.startswith(held) for tag in ("<think>", "</think>")):
                late.append(held)

    @wraps(attempt)
    def listen() -> None:
        for _, part in attempt(arriving(), False):
            passed.append(part)

    ask(listen, given=repr(text))
    expect(not late, f"in {text!r} the text {late[:1]} was known already and came only with a later piece; pass it on")


# ── find the bug ────────────────────────────────────────────────────────────────────────────────────────────────────


@check
def collate(attempt: Callable[..., Mapping[str, list[list[int]]]]) -> None:
    """`collate(examples, pad)`: rows of one length, padded on the right, and nothing else changed."""
    two = [{"input_ids": [5, 6, 7, 2], "labels": [-100, -100, 7, 2]}, {"input_ids": [5, 2], "labels": [-100, 2]}]
    early = [{"input_ids": [2, 5, 2, 8, 2], "labels": [-100, -100, -100, 8, 2]}, *two]
    for given, pad in (
        (two, 0),
        (two, 2),
        (early, 2),
        (two[::-1], 2),
        ([two[1]], 2),
        (early, 0),
        ([early[0], early[0]], 8),
    ):
        before = copy.deepcopy(given)
        batch = ask(attempt, given, pad)
        expect(given == before, "it changes the examples that it was given; make new lists")
        keys = ("input_ids", "labels", "attention_mask")
        whole = isinstance(batch, Mapping) and all(len(batch.get(key, ())) == len(given) for key in keys)
        expect(whole, f"it returned {shown(batch)}; expected {', '.join(keys)} with a row for each example")
        longest = max(len(one["input_ids"]) for one in given)
        for row, one in enumerate(given):
            where = f"row {row} of a batch with the pad id {pad}{' (which is also the stop token)' if pad == 2 else ''}"
            size = len(one["input_ids"])
            for key in keys:
                found = len(batch[key][row])
                expect(found == longest, f"in {where} {key} has {found} places; the longest row has {longest}")
            head, tail = (
                {key: list(batch[key][row][part]) for key in keys} for part in (slice(size), slice(size, None))
            )
            expect(head["input_ids"] == one["input_ids"], f"in {where} the ids of the example itself are changed")
            for place, (label, right) in enumerate(zip(head["labels"], one["labels"], strict=True)):
                said = "is hidden from the loss" if label == masking.IGNORED else "is learned"
                expect(label == right, f"in {where} the id {one['input_ids'][place]} at place {place} {said}")
            expect(
                head["attention_mask"] == [1] * size,
                f"in {where} the attention mask of the example's own {size} ids is {head['attention_mask']}",
            )
            expect(set(tail["input_ids"]) <= {pad}, f"in {where} the padding holds another id than {pad}")
            expect(set(tail["labels"]) <= {masking.IGNORED}, f"in {where} padding is learned")
            expect(not any(tail["attention_mask"]), f"in {where} the attention mask lets padding be seen")
