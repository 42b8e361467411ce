"""course_utils.evals.generation: batches answer as one by one, a stopped run goes on, differences are counted."""

import json
import os
import subprocess
import sys
import time

import pytest
import torch
from conftest import ROOT

from course_utils import adapters, chat, generation

ASKED = [
    "What is the capital of France?",
    "Say hi.",
    "Name a colour of the rainbow, please, and nothing else at all.",
    "Return only JSON with the key n. The number is 7.",
    "Why?",
]
HOW = {"batch_size": 2, "max_new_tokens": 12}


@pytest.fixture(scope="module")
def float32_model(smol):
    model, tokenizer = adapters.load_base(smol)
    return model.float(), tokenizer


@pytest.fixture(scope="module")
def prompts(smol_tokenizer):
    return [
        chat.render(smol_tokenizer, [{"role": "user", "content": ask}], add_generation_prompt=True) for ask in ASKED
    ]


@pytest.fixture(scope="module")
def replies(float32_model, prompts):
    return generation.generate(*float32_model, prompts, **HOW)


def test_a_batch_answers_as_one_by_one(float32_model, prompts, replies):
    tokenizer = float32_model[1]
    assert generation.generate(*float32_model, prompts, batch_size=1, max_new_tokens=12) == replies
    assert tokenizer.decode(replies[0], skip_special_tokens=True) == "The capital of France is Paris."
    assert replies[0][-1] == tokenizer.eos_token_id


def test_a_finished_file_answers_without_the_model(float32_model, prompts, replies, tmp_path, monkeypatch):
    file = tmp_path / "new" / "replies.jsonl"
    assert generation.generate(*float32_model, prompts, **HOW, resume_file=file) == replies
    monkeypatch.setattr(generation, "_batch", None)  # calling it would raise
    assert generation.generate(*float32_model, prompts, **HOW, resume_file=file) == replies


@pytest.mark.parametrize("kept", [0, 1, 2, 4])
def test_a_run_cut_anywhere_goes_on(kept, float32_model, prompts, replies, tmp_path, monkeypatch):
    file = tmp_path / "replies.jsonl"
    generation.generate(*float32_model, prompts, **HOW, resume_file=file)
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join(lines[: 1 + kept]) + lines[1 + kept][:9])  # the last line is cut in the middle
    asked = []
    batch = generation._batch
    monkeypatch.setattr(generation, "_batch", lambda *given: asked.append(len(given[2])) or batch(*given))
    assert generation.generate(*float32_model, prompts, **HOW, resume_file=file) == replies
    assert sum(asked) == {0: 5, 1: 5, 2: 3, 4: 1}[kept]  # a cut batch is asked again whole
    values = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()[1:]]
    assert {value["number"]: value["reply"] for value in values} == dict(enumerate(replies))


@pytest.mark.parametrize("kept", [2, 5, 7])
def test_long_replies_go_on_in_batches_of_their_own(kept, float32_model, prompts, replies, tmp_path, monkeypatch):
    monkeypatch.setattr(generation, "FIRST_ROUND", 8)
    file, asked = tmp_path / "replies.jsonl", []
    batch = generation._batch
    monkeypatch.setattr(generation, "_batch", lambda *given: asked.append((len(given[2]), given[3])) or batch(*given))
    assert generation.generate(*float32_model, prompts, **HOW, resume_file=file) == replies
    long = sum(len(reply) > 8 for reply in replies)
    assert 0 < long < len(replies), "some end in the first round, some do not"
    assert [sum(size for size, most in asked if most == tokens) for tokens in (8, 4)] == [len(replies), long]
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join(lines[: 1 + kept]))
    assert generation.generate(*float32_model, prompts, **HOW, resume_file=file) == replies


def test_a_file_of_other_work_is_refused(float32_model, prompts, tmp_path):
    model, tokenizer = float32_model
    file = tmp_path / "replies.jsonl"
    generation.generate(model, tokenizer, prompts[:2], **HOW, resume_file=file)
    before = file.read_bytes()
    with pytest.raises(generation.GenerationError, match="prompts differ"):
        generation.generate(model, tokenizer, prompts[:3], **HOW, resume_file=file)
    with pytest.raises(generation.GenerationError, match="max_new_tokens differ"):
        generation.generate(model, tokenizer, prompts[:2], batch_size=2, max_new_tokens=9, resume_file=file)
    weight = model.model.layers[3].mlp.up_proj.weight
    kept = weight.detach().clone()
    with torch.no_grad():
        weight.mul_(1.001)
    with pytest.raises(generation.GenerationError, match="model differ"):
        generation.generate(model, tokenizer, prompts[:2], **HOW, resume_file=file)
    with torch.no_grad():
        weight.copy_(kept)
    assert file.read_bytes() == before
    file.write_text("no json\n", encoding="utf-8")
    with pytest.raises(generation.GenerationError, match="no file of replies"):
        generation.generate(model, tokenizer, prompts[:2], **HOW, resume_file=file)


def test_base_and_adapter_are_two_models(smol, trained, prompts, tmp_path):
    model, tokenizer = adapters.load_with_adapter(smol, trained[0].adapter_dir)
    file = tmp_path / "replies.jsonl"
    generation.generate(model, tokenizer, prompts[:1], **HOW, resume_file=file)
    with model.disable_adapter(), pytest.raises(generation.GenerationError, match="model differ"):
        generation.generate(model, tokenizer, prompts[:1], **HOW, resume_file=file)


def test_a_killed_run_goes_on_and_answers_as_one_that_was_not(smol, prompts, tmp_path):
    file = tmp_path / "replies.jsonl"
    (tmp_path / "prompts.json").write_text(json.dumps(prompts * 4), encoding="utf-8")
    code = (
        "import json, sys; from course_utils import adapters, generation; folder, asked, kept = sys.argv[1:]; "
        "model, tokenizer = adapters.load_base(folder); prompts = json.load(open(asked)); "
        "generation.generate(model, tokenizer, prompts, batch_size=2, max_new_tokens=12, resume_file=kept)"
    )
    command = [sys.executable, "-c", code, str(smol), str(tmp_path / "prompts.json"), str(file)]
    process = subprocess.Popen(
        command, cwd=ROOT, stderr=subprocess.DEVNULL, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    deadline = time.monotonic() + 120
    while not (file.is_file() and file.read_bytes().count(b"\n") >= 5) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.kill()
    process.wait()
    there = file.read_bytes().count(b"\n") - 1
    assert 4 <= there < 20, "killed in the middle"
    model, tokenizer = adapters.load_base(smol)
    resumed = generation.generate(model, tokenizer, prompts * 4, **HOW, resume_file=file)
    assert resumed == generation.generate(model, tokenizer, prompts * 4, **HOW)


def test_logits_of_replies_do_not_depend_on_the_batch(float32_model, prompts, replies):
    alone = generation.reply_logits(*float32_model, prompts, replies)
    together = generation.reply_logits(*float32_model, prompts, replies, batch_size=3)
    assert [len(logits) for logits in alone] == [len(reply) for reply in replies]
    assert [logits.argmax(-1).tolist() for logits in alone] == replies  # greedy: the best logit chose the token
    found = generation.agreement(replies, alone, replies, together)
    assert found.equal == len(replies) and found.same_top == 1 and found.logit_error < 1e-3


def test_replies_that_differ_are_counted_and_near_ties_told_apart():
    """Three replies of two tokens; a vocabulary of four; by hand."""
    sure, close = [9.0, 0, 0, 0], [5.0, 4.9, 0, 0]
    logits = [torch.tensor([sure, close])] * 3
    others = [scores + torch.tensor([0.2, -0.1, 0, 0]) for scores in logits]
    found = generation.agreement([[0, 0]] * 3, logits, [[0, 0], [0, 1], [1, 0]], others)
    assert (found.prompts, found.equal, found.near_ties) == (3, 1, 1) and not found.holds
    assert found.widest_gap == 9 and found.places == 6 and found.same_top == 1
    assert found.logit_error == pytest.approx(0.2) and found.mean_error == pytest.approx(0.3 / 4)
    assert generation.agreement([[0, 0]] * 2, logits[:2], [[0, 0], [0, 1]], others[:2]).holds
    assert generation.agreement([[0, 0]] * 2, logits[:2], [[0, 0], [0, 1]], logits[:2]).near_ties == 0
    rough = [logits[0] + torch.tensor([0, 0, 0, 9.0]), others[1]]  # the first reply's rounding excuses no other reply
    assert generation.agreement([[0, 0]] * 2, logits[:2], [[0, 0], [1, 0]], rough).near_ties == 0


def test_in_16_bits_every_difference_is_a_near_tie(smol, prompts):
    model, tokenizer = adapters.load_base(smol)
    alone = generation.generate(model, tokenizer, prompts, batch_size=1, max_new_tokens=24)
    together = generation.generate(model, tokenizer, prompts, batch_size=5, max_new_tokens=24)
    logits = generation.reply_logits(model, tokenizer, prompts, alone)
    shifted = generation.reply_logits(model, tokenizer, prompts, alone, batch_size=5)
    found = generation.agreement(alone, logits, together, shifted)
    assert found.holds and 0 < found.logit_error < 2
