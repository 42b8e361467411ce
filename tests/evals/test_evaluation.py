"""course_utils.evals.evaluation: perplexity on the real model, reports, and what changed between two of them."""

import copy
import json
import math

import pytest
import torch
from conftest import shipped_template

from course_utils import adapters, evaluation, generation, masking, statistics


@pytest.fixture(scope="module")
def float32_model(smol):
    model, tokenizer = adapters.load_base(smol)
    return model.float(), tokenizer


@pytest.fixture(scope="module")
def uneven_rows(toy_rows):
    """Seventeen rows of 30 to 150 tokens: one more than the largest batch."""
    talks = [("Hi", "Hello! " * times) for times in (1, 2, 5, 9, 20, 30, 50)]
    long = [[{"role": "user", "content": ask}, {"role": "assistant", "content": said}] for ask, said in talks]
    return [*toy_rows[:10], *({"messages": messages} for messages in long)]


def test_perplexity_in_float32_is_that_of_a_plain_loop_at_any_batch_size_and_padding_side(float32_model, uneven_rows):
    model, tokenizer = float32_model
    examples = list(masking.build_dataset(uneven_rows, tokenizer))
    total, count = 0.0, 0
    for example in examples:
        with torch.inference_mode():
            logits = model(torch.tensor([example["input_ids"]])).logits[0, :-1].log_softmax(-1)
        for place, label in enumerate(example["labels"][1:]):
            if label != masking.IGNORED:
                total, count = total - float(logits[place, label]), count + 1
    plain = math.exp(total / count)
    for batch_size in (1, 5, 16):
        found = evaluation.perplexity(model, tokenizer, iter(examples), batch_size=batch_size)
        assert found.learned == pytest.approx(plain, rel=1e-4), batch_size
        assert (found.learned_count, found.all_count) == (count, sum(len(e["input_ids"]) - 1 for e in examples))
    assert left_padded(model, tokenizer, examples, 16) == pytest.approx(plain, rel=1e-4)


def test_no_pass_holds_the_logits_of_more_tokens_than_the_budget_counts(float32_model, toy_rows, monkeypatch):
    model, tokenizer = float32_model
    monkeypatch.setattr(evaluation, "TOKENS_PER_PASS", 300)
    examples = list(masking.build_dataset(toy_rows, tokenizer))
    seen = []
    hook = model.get_output_embeddings().register_forward_hook(lambda head, given, logits: seen.append(logits.shape))
    evaluation.perplexity(model, tokenizer, examples, batch_size=12)
    hook.remove()
    assert sum(rows for rows, *_ in seen) == 12 and len(seen) > 1
    assert all(rows * length <= 300 for rows, length, _ in seen)


def left_padded(model, tokenizer, examples, batch_size):
    """Perplexity of learned tokens, batches filled up on the left, each token at its own place."""
    total, count = 0.0, 0
    for start in range(0, len(examples), batch_size):
        batch = examples[start : start + batch_size]
        width = max(len(example["input_ids"]) for example in batch)
        fill = [width - len(example["input_ids"]) for example in batch]
        pairs = list(zip(batch, fill, strict=True))
        ids = torch.tensor([[tokenizer.pad_token_id] * rest + row["input_ids"] for row, rest in pairs])
        labels = torch.tensor([[masking.IGNORED] * rest + row["labels"] for row, rest in pairs])
        attention = torch.tensor([[0] * rest + [1] * (width - rest) for rest in fill])
        places = torch.tensor([[0] * rest + list(range(width - rest)) for rest in fill])
        with torch.inference_mode():
            logits = model(input_ids=ids, attention_mask=attention, position_ids=places).logits[:, :-1]
        wanted = labels[:, 1:]
        total += float(torch.nn.functional.cross_entropy(logits.flatten(0, 1), wanted.flatten(), reduction="sum"))
        count += int((wanted != masking.IGNORED).sum())
    return math.exp(total / count)


def test_perplexity_of_nothing_is_an_error(float32_model):
    silent = [{"input_ids": [1, 2], "labels": [masking.IGNORED] * 2}]
    with pytest.raises(evaluation.EvaluationError, match="learned token"):
        evaluation.perplexity(*float32_model, silent, batch_size=1)


ODD = {
    "usable": '{"n":0}',
    "empty": "",
    "broken": '{"n":0',
    "NaN": '{"n":NaN}',
    "deep": '{"n":' * 101 + "0" + "}" * 101,
    "fenced": '```json\n{"n":0}\n```',
    "fenced twice": '```json\n```json\n{"n":0}\n```\n```',
    "cut off while thinking": "<think>The number is",
    "leaked": '{"n":0}<|im_start|>',
    "wrong type": '{"n":"0"}',
}


def test_odd_replies_are_counted_where_the_definitions_say(float32_model, toy_rows, monkeypatch):
    model, tokenizer = float32_model
    ids = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in ODD.values()]
    endless = tokenizer("and then " * 20, add_special_tokens=False)["input_ids"]
    cut_off = list(ODD).index("cut off while thinking")
    outputs = [line + [tokenizer.eos_token_id] * (number != cut_off) for number, line in enumerate(ids)] + [endless]
    monkeypatch.setattr(generation, "generate", lambda *_, **__: outputs)
    rows = [toy_rows[0]] * len(outputs)
    report = evaluation.evaluate(model, tokenizer, rows, batch_size=8, max_new_tokens=60)
    measured = dict(zip([*ODD, "endless"], report.rows, strict=True))

    def named(key):
        return {name for name, row in measured.items() if row[key]}

    leaked_and_strict = {"usable", "leaked", "wrong type"}  # a control token is no text: JSON yes, usable no
    assert named("json_strict") == leaked_and_strict
    assert named("json_lenient") == leaked_and_strict | {"fenced"}
    assert named("json_schema") == named("exact") == {"usable", "leaked"}
    assert named("stopped") == set(measured) - {"cut off while thinking", "endless"}
    assert {name: row["faults"] for name, row in measured.items() if row["faults"]} == {
        "empty": ["empty"],
        "deep": ["loop"],
        "cut off while thinking": ["empty", "does not end"],
        "leaked": ["template token"],
        "endless": ["does not end", "loop"],
    }
    assert measured["cut off while thinking"]["status"] == "truncated"
    (strict,) = [f for f in report.figures() if (f["source"], f["figure"]) == ("json", "JSON valid, strict")]
    assert (strict["value"], strict["prompts"]) == (3 / 11, 11)  # all prompts are the denominator


def test_thinking_that_the_prompt_opened_and_that_was_cut_off_is_no_answer(float32_model, toy_rows):
    tokenizer = float32_model[1]
    output = tokenizer('{"n":0}', add_special_tokens=False)["input_ids"]
    for prompt, status in (("Hi <think>\n", "truncated"), ("Hi", "no_thinking")):
        row = evaluation._measured(toy_rows[0], prompt, output, tokenizer, {2})
        assert row["status"] == status and row["json_strict"] == (status == "no_thinking")


def measured(source, tags, **figures):
    """A measured row, a hit in every figure unless told otherwise."""
    hits = dict.fromkeys(
        ("usable", "same", "stopped", "json_strict", "json_lenient", "json_schema", "exact", "bare", "emoji_fits"), True
    )
    nll = {"learned": 4.0, "learned_count": 4, "all_tokens": 8.0, "all_count": 8}
    base = {"source": source, "tags": tags, "prompt": "?", "reference": "Fine.", "nll": nll, "tokens": 4}
    base |= {"calls": None, "entities": None}
    return {**base, **hits, "emoji": False, **figures}


def reports():
    """A trained source that gained, and one that was never trained on and lost."""
    before = [measured("json", ["json", "en"], reference="{}", json_strict=False) for _ in range(12)]
    before += [measured("general", ["en"]) for _ in range(12)]
    after = [measured("json", ["json", "en"], reference="{}") for _ in range(12)]
    worse = {"learned": 9.0, "learned_count": 4, "all_tokens": 9.0, "all_count": 8}
    after += [measured("general", ["en"], nll=worse, emoji=True, emoji_fits=False) for _ in range(12)]
    return evaluation.EvalReport(before), evaluation.EvalReport(after)


def test_a_group_is_told_the_figures_that_its_rows_ask_for():
    before, _ = reports()
    by_source = {line["source"]: [] for line in before.figures()}
    for line in before.figures():
        by_source[line["source"]].append(line["figure"])
    assert set(by_source) == {"general", "json", "all"}
    assert "JSON valid, strict" in by_source["json"] and "JSON valid, strict" not in by_source["general"]
    by_tag = {(line["tag"], line["figure"]): line for line in before.figures("tag")}
    assert by_tag["en", "JSON valid, strict"]["prompts"] == 24  # all prompts of the group count
    assert by_tag["json", "JSON valid, strict"]["value"] == 0
    assert by_tag["en", "JSON valid, strict"]["value"] == 0.5


def test_what_got_worse_has_its_own_section_and_the_test_is_said_in_words():
    comparison = evaluation.compare(*reports())
    lost = {(line["source"], line["figure"]) for line in comparison.worse}
    assert lost == {
        ("general", "perplexity of the reference"),
        ("general", "emoji only where the reference has one"),
    }
    lines = {line["source"]: line for line in comparison.table}
    assert lines["json"]["verdicts"] == {"perplexity": "not told apart", "tokens": "not told apart", "metric": "better"}
    assert lines["general"]["verdicts"]["perplexity"] == "worse"
    low, high = lines["json"]["intervals"]["metric after"]
    assert 0.7 < low < high == lines["json"]["metric after"] == 1
    assert lines["json"]["perplexity before"] == pytest.approx(math.e)
    shares = [line for line in comparison.changes("tag") if line["figure"] == "emoji in the reply"]
    assert {line["verdict"] for line in shares} == {""}  # a share of emoji is neither better nor worse in itself


def test_replies_that_tell_what_changed():
    chinese = measured("json", ["json", "zh"], reference="{}", reply="前")
    call = measured("tools", ["tools", "en"], calls=False, reply="call")
    before = [
        chinese | {"json_strict": False},
        call,
        measured("mawps", ["en"], reference="8", reply="long", bare=False),
    ]
    after = [
        chinese,
        call | {"calls": True},
        measured("mawps", ["en"], reference="8", reply="9", bare=False, exact=False),
    ]
    compared = evaluation.compare(evaluation.EvalReport(before), evaluation.EvalReport(after))
    shown = {name: (old["reply"], new["reply"]) for name, (old, new) in compared.telling().items()}
    assert shown == {"Chinese": ("前", "前"), "a tool call": ("call", "call"), "got worse": ("long", "9")}
    nothing = evaluation.compare(evaluation.EvalReport(before), evaluation.EvalReport(before))
    assert nothing.telling() == {}


def test_entity_f1_counts_only_the_rows_that_ask_for_entities():
    counts = [{"right": 1, "found": 2, "due": 2}, {"right": 0, "found": 0, "due": 4}]
    rows = [measured("cluener", ["ner"], entities=found) for found in counts] + [measured("general", ["en"])]
    found = {(line["source"], line["figure"]): line["value"] for line in evaluation.EvalReport(rows).figures()}
    assert found["cluener", "entity F1"] == found["all", "entity F1"] == 2 * 1 / (2 + 6)
    assert ("general", "entity F1") not in found
    assert evaluation.METRICS["cluener"] == "entity_f1"


def test_evaluate_compare_and_save(float32_model, toy_rows, tmp_path):
    model, tokenizer = float32_model
    how = {"batch_size": 2, "max_new_tokens": 4, "resume_file": tmp_path / "replies.jsonl"}
    report = evaluation.evaluate(model, tokenizer, toy_rows[:2], **how)
    assert evaluation.evaluate(model, tokenizer, toy_rows[:2], **how) == report
    assert [row["stopped"] for row in report.rows] == [False, False]
    examples = masking.build_dataset(toy_rows[:2], tokenizer, train_on="last")
    alone = evaluation.perplexity(model, tokenizer, examples, batch_size=2)
    assert report.perplexities == {"json": alone, "all": alone}
    comparison = evaluation.compare(report, report)
    assert {verdict for line in comparison.table for verdict in line["verdicts"].values()} == {"not told apart"}
    saved = json.loads(comparison.save(tmp_path / "e.json").read_text(encoding="utf-8"))
    assert saved["table"] == comparison.table and saved["worse"] == []
    assert saved["figures"]["after"]["tag"] == report.figures("tag") and len(saved["replies"]["after"]) == 2
    read = evaluation.Comparison.load(tmp_path / "e.json")
    assert read == comparison and read.changes("tag") == comparison.changes("tag")
    assert read.save(tmp_path / "again.json").read_bytes() == (tmp_path / "e.json").read_bytes()
    with pytest.raises(evaluation.EvaluationError, match="different prompts"):
        evaluation.compare(report, evaluation.EvalReport(report.rows[:1]))


def test_a_tool_row_is_asked_for_its_call(float32_model, toy_rows, monkeypatch):
    model, tokenizer = float32_model[0], copy.deepcopy(float32_model[1])
    tokenizer.chat_template = shipped_template("qwen2_5")  # SmolLM2's has no place for tools
    call = {"type": "function", "function": {"name": "f", "arguments": '{"n": 1}'}}
    row = {
        "messages": [toy_rows[0]["messages"][0], {"role": "assistant", "content": "", "tool_calls": [call]}],
        "source": "tools",
        "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}],
    }
    text = '<tool_call>\n{"name": "f", "arguments": {"n": 1.0}}\n</tool_call>'
    said = [tokenizer(text.replace("1.0", n), add_special_tokens=False)["input_ids"] for n in ("1.0", "2")]
    monkeypatch.setattr(generation, "generate", lambda *_, **__: said)
    report = evaluation.evaluate(model, tokenizer, [row, row], batch_size=2, max_new_tokens=9)
    assert [each["calls"] for each in report.rows] == [True, False]
    assert report.rows[0]["reference"] == text.replace("1.0", "1") and report.rows[0]["nll"]["learned_count"] > 10
    (line,) = [each for each in evaluation.compare(report, report).table if each["source"] == "tools"]
    assert (line["metric"], line["metric after"]) == ("right tool, right arguments", 0.5)


def test_sums_are_told_as_asked_and_as_reached():
    worked, bare = {"bare": False, "tokens": 90}, {"bare": True, "tokens": 3}
    before, after = (
        evaluation.EvalReport([measured("mawps", ["math"], reference="8", **how) for _ in range(12)])
        for how in (worked, bare)
    )
    mawps, everything = evaluation.compare(before, after).table
    assert (mawps["metric before"], mawps["metric after"]) == (0, 1)
    assert (mawps["reached before"], mawps["reached after"]) == (1, 1) and "reached after" not in everything
    assert (mawps["tokens before"], mawps["tokens after"]) == (90, 3)


def test_thinking_in_the_reference_s_text_is_thinking(float32_model, monkeypatch):
    """Nothing raw from the API: a row is read as training reads it, with its thinking in a key or in the text."""
    tokenizer, prompts = copy.deepcopy(float32_model[1]), []
    tokenizer.chat_template = shipped_template("qwen3")
    output = [*tokenizer("<think>\nHm.\n</think>\n\n8", add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    monkeypatch.setattr(generation, "generate", lambda _, __, texts, **___: prompts.extend(texts) or [output] * 2)
    inline, apart = {"content": "<think>\ny\n</think>\n\n8"}, {"content": "8", "reasoning_content": "y"}
    rows = [{"messages": [USER, {"role": "assistant", **said}], "source": "x"} for said in (inline, apart)]
    found = evaluation.evaluate(float32_model[0], tokenizer, rows, batch_size=2, max_new_tokens=20).rows
    assert prompts[0] == prompts[1] and "</think>" not in prompts[0]
    assert found[0] == found[1] and found[0]["exact"] and found[0]["reference"] == "8"


USER, REPLY = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}
HALF_EMOJI = "cut \ud83d"
CALL = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]}


class TestRowsThatCannotBeEvaluated:
    """Nothing raw from the API, and nothing late: refused with row and field before the first reply is generated."""

    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"messages": [{"role": "system", "content": "Be brief."}]}, r"messages\[0\]: the last is the system's"),
            ({"messages": [{"role": "system", "content": "Be brief."}, REPLY]}, "messages: there is no question"),
            ({"messages": [USER]}, r"messages\[0\]: the last is the user's"),
            ({"messages": [USER, REPLY, USER]}, r"messages\[2\]: the last is the user's"),
            ({"messages": [USER, CALL, {"role": "tool", "content": "7"}]}, r"messages\[2\]: the last is the tool's"),
            ({"messages": [USER, REPLY | {"weight": 0}]}, r"messages\[1\]: the reply is marked"),
            ({"label": False}, r"messages\[1\]: the reply is marked"),
            *(({"label": label}, r"messages\[1\]: the reply is marked") for label in (0, "false", "False", 0.0)),
            ({"images": ["cat.png"]}, "images: "),
            ({"videos": ["cat.mp4"]}, "videos: "),
            ({"messages": []}, "messages: expected a list"),
            ({"messages": None}, "messages: expected a list"),
            ({"messages": "Hi"}, "messages: expected a list"),
            ({"messages": [USER, REPLY | {"content": None}]}, r"messages\[1\]\.content"),
            ({"messages": [USER | {"content": HALF_EMOJI}, REPLY]}, r"messages\[0\]\.content"),
            ({"messages": [USER, REPLY | {"content": HALF_EMOJI}]}, r"messages\[1\]\.content"),
            ({"source": HALF_EMOJI}, "source: expected a name"),
            ({"tags": [HALF_EMOJI]}, "tags: expected a list of names"),
            ({"source": None}, "source: expected a name"),
            ({"source": " "}, "source: expected a name"),
            ({"source": 3}, "source: expected a name"),
            ({"source": "all"}, "source: .* other than 'all'"),
            ({"tags": "json"}, "tags: expected a list of names, .* found 'json'"),
            ({"tags": 3}, "tags: expected a list of names"),
            ({"tags": ["all"]}, "tags: .* other than 'all'"),
            ({"tools": "{"}, r"messages\.tools: not JSON"),
            ({"text": "Once upon a time"}, "text: a row of the kind text"),
            ({"messages": None, "text": "Once upon a time"}, "text: a row of the kind text"),
            ({"messages": [USER], "chosen": [REPLY], "rejected": [REPLY]}, "chosen: a row of the kind preference"),
            ({"rejected": "No"}, "rejected: a row of the kind preference"),
        ],
    )
    def test_a_row_is_refused_before_the_first_reply(self, float32_model, toy_rows, monkeypatch, changes, words):
        monkeypatch.setattr(generation, "generate", lambda *_, **__: pytest.fail("replies were generated"))
        row = {"messages": [USER, REPLY], "source": "json", "tags": ["json"]} | changes
        with pytest.raises(evaluation.EvaluationError, match=rf"^row 1, ({words})"):
            evaluation.evaluate(*float32_model, [toy_rows[0], row], batch_size=2, max_new_tokens=4)

    def test_a_row_without_source_or_that_is_no_row(self, float32_model, toy_rows):
        for row, words in (({"messages": [USER, REPLY]}, "source"), ("Hi", "the row"), (None, "the row")):
            with pytest.raises(evaluation.EvaluationError, match=f"^row 1, {words}: expected"):
                evaluation.evaluate(*float32_model, [toy_rows[0], row], batch_size=2, max_new_tokens=4)

    def test_a_reference_that_the_template_refuses_is_told_before_the_first_reply(
        self, float32_model, toy_rows, monkeypatch
    ):
        monkeypatch.setattr(generation, "generate", lambda *_, **__: pytest.fail("replies were generated"))
        thought = {"messages": [USER, REPLY | {"reasoning_content": "Hm."}], "source": "x"}
        with pytest.raises(evaluation.EvaluationError, match=r"reasoning_content.*row 1"):
            evaluation.evaluate(*float32_model, [toy_rows[0], thought], batch_size=2, max_new_tokens=4)

    def test_no_rows(self, float32_model):
        for rows in ([], None, {"messages": [USER, REPLY], "source": "x"}, "rows.jsonl"):
            with pytest.raises(evaluation.EvaluationError, match="no rows"):
                evaluation.evaluate(*float32_model, rows, batch_size=2, max_new_tokens=4)

    def test_sizes_and_a_tokenizer_that_generation_cannot_use(self, float32_model, toy_rows, monkeypatch):
        monkeypatch.setattr(generation, "generate", lambda *_, **__: pytest.fail("replies were generated"))
        for name in ("batch_size", "max_new_tokens"):
            for value in (0, -1, None, 1.5):
                sizes = {"batch_size": 2, "max_new_tokens": 4} | {name: value}
                with pytest.raises(evaluation.EvaluationError, match=f"^{name} is"):
                    evaluation.evaluate(*float32_model, toy_rows[:1], **sizes)
        unpadded = copy.deepcopy(float32_model[1])
        unpadded.pad_token = None
        with pytest.raises(evaluation.EvaluationError, match="no pad token"):
            evaluation.evaluate(float32_model[0], unpadded, toy_rows[:1], batch_size=2, max_new_tokens=4)

    def test_rows_as_arrow_gives_them_are_evaluated(self, float32_model, toy_rows, monkeypatch):
        monkeypatch.setattr(generation, "generate", lambda *_, **__: [[2]])
        row = toy_rows[0] | dict.fromkeys(("text", "chosen", "rejected", "label", "tools"))
        (measured,) = evaluation.evaluate(*float32_model, [row], batch_size=2, max_new_tokens=4).rows
        assert measured["faults"] == ["empty"]

    @pytest.mark.parametrize(
        ("example", "field"),
        [
            ({"messages": [USER, REPLY]}, "input_ids"),
            ({"input_ids": [1, 2]}, "labels"),
            ({"input_ids": [1, 2], "labels": [1]}, "labels"),
            ({"input_ids": [], "labels": []}, "input_ids"),
            ({"input_ids": None, "labels": [1]}, "input_ids"),
            ("Hi", "input_ids"),
        ],
    )
    def test_perplexity_of_what_is_no_masked_example(self, float32_model, example, field):
        good = {"input_ids": torch.tensor([1, 2]), "labels": torch.tensor([-100, 2])}
        with pytest.raises(evaluation.EvaluationError, match=f"^example 1, {field}: .*build_dataset"):
            evaluation.perplexity(*float32_model, [good, example], batch_size=2)


def test_a_learners_own_rows_are_judged_by_their_references():
    runs = [evaluation.EvalReport([measured("mine", [], same=same), measured("json", [])]) for same in (False, True)]
    table = {line["source"]: line for line in evaluation.compare(*runs).table}
    assert table["mine"]["metric"] == "equal to the reference"
    assert (table["mine"]["metric before"], table["mine"]["metric after"]) == (0, 1)
    assert table["all"]["metric"] == "ends by itself"
    asked = {(line["source"], line["figure"]) for line in runs[0].figures()}
    assert ("mine", "equal to the reference") in asked and ("json", "equal to the reference") not in asked


def test_every_figure_is_a_ratio_of_sums():
    for figure in evaluation.FIGURES.values():
        top, bottom = figure.part(measured("x", []))
        assert isinstance(statistics.ratio([(top, bottom)]), statistics.Interval)


@pytest.mark.parametrize("content", [None, "{", "{}", "[1]", '{"table": [], "more": 1}'])
def test_a_file_that_holds_no_evaluation(content, tmp_path):
    if content:
        (tmp_path / "e.json").write_text(content, encoding="utf-8")
    with pytest.raises(evaluation.EvaluationError, match="`python -m course_utils evaluate` writes one"):
        evaluation.Comparison.load(tmp_path / "e.json")
