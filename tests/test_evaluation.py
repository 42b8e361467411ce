"""course_utils.evaluation: definitions on single replies, perplexity and generation on the real model."""

import json
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from course_utils import chat, evaluation, export, masking


@pytest.fixture(scope="module")
def float32_model(smol):
    model, tokenizer = export.load_base(smol)
    return model.float(), tokenizer


@pytest.mark.parametrize(
    ("reply", "strict", "lenient"),
    [
        ('{"a": 1}', True, True),
        (' {"a": 1}\n', True, True),
        ('```json\n{"a": 1}\n```', False, True),
        ('```\n{"a": 1}\n```', False, True),
        ('```json\n```json\n{"a": 1}\n```\n```', False, False),
        ('Here it is: {"a": 1}', False, False),
        ('{"a": 1} Done.', False, False),
        ('{"a": NaN}', False, False),
        ('{"a": 1', False, False),
        ("{'a': 1}", False, False),
        ("", False, False),
        ("[" * 100_000, False, False),
    ],
)
def test_json_strict_and_lenient(reply, strict, lenient):
    assert isinstance(evaluation.parse_json(reply), dict) is strict
    assert isinstance(evaluation.parse_json(reply, lenient=True), dict) is lenient


@given(st.recursive(st.none() | st.booleans() | st.integers(-99, 99) | st.text(max_size=5), st.lists, max_leaves=5))
def test_any_json_object_is_valid_and_equal_to_itself(value):
    text = json.dumps({"k": value}, ensure_ascii=False)
    assert evaluation.parse_json(text) is not None
    assert evaluation.same_answer(text, json.dumps({"k": value}, indent=1))


@pytest.mark.parametrize(
    ("reply", "reference", "same"),
    [
        ("9", "9", True),
        ("The answer is 9.", "9", True),
        ("9 - 2 = 7", "9", False),
        ("1/3", "2/6", True),
        ("0.5", "1/2", True),
        ("8.0", "8", True),
        ("1,200", "1200", True),
        ("nine", "9", False),
        ("", "9", False),
        ('{"a":1,"b":true}', '{"b": true, "a": 1.0}', True),
        ('{"a":true}', '{"a": 1}', False),
        ("Paris", " Paris\n", True),
    ],
)
def test_same_answer(reply, reference, same):
    assert evaluation.same_answer(reply, reference) is same


@pytest.mark.parametrize(
    ("reply", "usable"),
    [
        ("Fine.", True),
        ("", False),
        (" \n", False),
        ("and then and then and then and then and then", False),
        ("Hello<|im_start|>", False),
        ("no no, yes yes", True),
    ],
)
def test_usable(reply, usable, smol_tokenizer):
    assert evaluation.is_usable(reply, smol_tokenizer) is usable


def test_perplexity_does_not_depend_on_the_batch_and_equals_a_plain_loop(float32_model, toy_rows):
    model, tokenizer = float32_model
    rows = [
        *toy_rows[:5],
        {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello! " * 20}]},
    ]
    examples = list(masking.build_dataset(rows, tokenizer))
    total, count = 0.0, 0
    for example in examples:
        with torch.inference_mode():
            logits = model(torch.tensor([example["input_ids"]])).logits[0, :-1].log_softmax(-1)
        for place, label in enumerate(example["labels"][1:]):
            if label != masking.IGNORED:
                total, count = total - float(logits[place, label]), count + 1
    for batch_size in (1, 2, 6):
        found = evaluation.perplexity(model, tokenizer, examples, batch_size=batch_size)
        assert found.learned == pytest.approx(math.exp(total / count), rel=1e-4)
        assert (found.learned_count, found.all_count) == (count, sum(len(e["input_ids"]) - 1 for e in examples))


def test_perplexity_of_nothing_is_an_error(float32_model):
    silent = [{"input_ids": [1, 2], "labels": [masking.IGNORED] * 2}]
    with pytest.raises(evaluation.EvaluationError, match="learned token"):
        evaluation.perplexity(*float32_model, silent, batch_size=1)


def test_a_batch_answers_as_one_by_one(float32_model):
    model, tokenizer = float32_model
    asked = [
        "What is the capital of France?",
        "Say hi.",
        "Name a colour of the rainbow, please, and nothing else at all.",
    ]
    prompts = [chat.render(tokenizer, [{"role": "user", "content": ask}], add_generation_prompt=True) for ask in asked]
    together = evaluation.generate(model, tokenizer, prompts, batch_size=3, max_new_tokens=12)
    alone = evaluation.generate(model, tokenizer, prompts, batch_size=1, max_new_tokens=12)
    assert together == alone
    assert tokenizer.decode(together[0], skip_special_tokens=True) == "The capital of France is Paris."
    assert together[0][-1] == tokenizer.eos_token_id


def test_evaluate_compare_and_save(float32_model, toy_rows, tmp_path):
    model, tokenizer = float32_model
    report = evaluation.evaluate(model, tokenizer, toy_rows[:2], batch_size=2, max_new_tokens=4)
    assert [row["stopped"] for row in report.rows] == [False, False]
    assert [line["source"] for line in report.table()] == ["json", "all"]
    assert report.table()[0]["metric"] == "JSON valid, strict"
    comparison = evaluation.compare(report, report)
    saved = json.loads(evaluation.save(comparison, tmp_path / "e.json").read_text(encoding="utf-8"))
    assert saved["table"] == comparison.table() and len(saved["replies"]["after"]) == 2
    other = evaluation.EvalReport(report.rows[:1], report.perplexities)
    with pytest.raises(evaluation.EvaluationError, match="different prompts"):
        evaluation.compare(report, other)


def test_a_row_without_a_reference_is_named(float32_model, toy_rows):
    row = {"messages": toy_rows[0]["messages"][:1], "source": "json"}
    with pytest.raises(evaluation.EvaluationError, match="row 1"):
        evaluation.evaluate(*float32_model, [toy_rows[0], row], batch_size=2, max_new_tokens=4)
