"""course_utils.train.preferences: every stage learns from its own rows, in the tokens of use, and repeats itself."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import tokenizer_of

from course_utils import masking, modeling, settings
from course_utils.text import chat
from course_utils.train import preferences
from course_utils.train.runs import TrainingError

STRICT, CHATTY = '{{"fruit": "{}"}}', 'Sure! Here it is: {{"fruit": "{}"}} Anything else?'
STAGES = sorted(settings.LEARNS_FROM.keys() - {"sft", "pretrain"})
FRUITS = ["apple", "pear", "plum", "fig"]
STEPS = {"max_steps": 2, "eval_steps": 1, "batch_size": 2, "logging_steps": 1, "tracker": "none"}


def ask(fruit: str) -> list[dict]:
    return [{"role": "user", "content": f"Give me the JSON of one {fruit}."}]


def reply(text: str, fruit: str) -> list[dict]:
    return [{"role": "assistant", "content": text.format(fruit)}]


def rows_of(stage: str) -> list[dict]:
    """Four rows of the kind that a stage learns from."""
    kind = settings.LEARNS_FROM[stage]
    if kind == "preference":
        return [{"messages": ask(f), "chosen": reply(STRICT, f), "rejected": reply(CHATTY, f)} for f in FRUITS]
    rows = [{"messages": ask(f) + reply(text, f)} for f, text in zip(FRUITS, [STRICT, CHATTY] * 2, strict=True)]
    return [row | {"label": place % 2 == 0} for place, row in enumerate(rows)] if kind == "kto" else rows


def length(completions, **_) -> list[float]:
    return [float(len(text)) for text in completions]


def run(smol, tiny, stage: str, out: Path, *, changes=None, **options):
    profile = replace(tiny, train=settings.for_stage(tiny.train, stage))
    of_grpo = {"batch_size": 4, "group_size": 2, "reply_tokens": 6} if stage == "grpo" else {}
    changes = STEPS | of_grpo | (changes or {})
    profile = replace(profile, train=replace(profile.train, output_dir=str(out), **changes))
    if stage == "reward":
        model, tokenizer = modeling.load_reward_model(smol, profile)
    else:
        model, tokenizer = modeling.load_model(smol, profile)
        model = modeling.attach_lora(model, profile)
    rows = rows_of(stage)
    return preferences.train(model, tokenizer, rows, rows, profile.train, rewards=[length], **options), model


def digest(folder: Path) -> str:
    return hashlib.sha256((folder / "adapter_model.safetensors").read_bytes()).hexdigest()


@pytest.mark.parametrize("stage", STAGES)
def test_the_same_seed_gives_the_same_adapter_and_a_stopped_run_goes_on_to_it(stage, smol, tiny, tmp_path):
    from transformers import TrainerCallback

    class Stop(TrainerCallback):
        def on_save(self, args, state, control, **_):
            raise KeyboardInterrupt

    whole, model = run(smol, tiny, stage, tmp_path / "whole")
    assert whole.metrics["steps"] == 2 and [entry["step"] for entry in whole.log if "loss" in entry] == [1, 2]
    assert list(model.peft_config) == ["default"]
    assert sorted(path.name for path in (tmp_path / "whole").iterdir()) == [
        "adapter",
        "run.json",
        "train_log.jsonl",
        "train_metrics.json",
    ]
    again, _ = run(smol, tiny, stage, tmp_path / "again")
    assert digest(again.adapter_dir) == digest(whole.adapter_dir)
    with pytest.raises(KeyboardInterrupt):
        run(smol, tiny, stage, tmp_path / "stopped", callbacks=[Stop()])
    resumed, _ = run(smol, tiny, stage, tmp_path / "stopped", resume=True)
    assert digest(resumed.adapter_dir) == digest(whole.adapter_dir)


def test_a_reward_model_gives_a_text_one_number_and_learns_which_is_higher(smol, tiny, tmp_path):
    """Unsloth's CPU backend would have loaded a model that writes: its scores are no numbers."""
    from safetensors import safe_open

    changes = {"max_steps": 12, "eval_steps": 12, "learning_rate": 5e-4}
    result, model = run(smol, tiny, "reward", tmp_path, changes=changes)
    looks = [entry["eval_loss"] for entry in result.log if "eval_loss" in entry]
    assert looks[-1] < 0.5 < looks[0] and [e for e in result.log if "eval_accuracy" in e][-1]["eval_accuracy"] == 1
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        assert model(input_ids=torch.tensor([[1, 2, 3], [4, 5, 2]])).logits.shape == (2, 1)
    with safe_open(result.adapter_dir / "adapter_model.safetensors", "pt") as file:
        assert [name for name in file.keys() if "score" in name], "the head is kept beside the adapter"  # noqa: SIM118


@pytest.mark.parametrize("name", ["smollm2-135m-instruct", "qwen3-tokenizer", "qwen3-instruct-2507-tokenizer", "2.5"])
def test_the_tokens_are_those_of_supervised_tuning_and_of_use(name, tiny, qwen25):
    tokenizer = qwen25 if name == "2.5" else tokenizer_of(name)
    [row, *_] = rows = rows_of("dpo")
    [texts, *_] = preferences.as_text(rows, tokenizer, replace(tiny.train, stage="dpo"))
    for name in ("chosen", "rejected"):
        [example] = masking.build_examples([*row["messages"], *row[name]], tokenizer)
        ids = tokenizer(texts["prompt"] + texts[name])["input_ids"]
        assert ids == example["input_ids"][: len(ids)] and ids[-1] == tokenizer.eos_token_id
        learned = [token for token, label in zip(ids, example["labels"], strict=False) if label != masking.IGNORED]
        assert learned == tokenizer(texts[name])["input_ids"]
    thinks = {"enable_thinking": False} if "enable_thinking" in tokenizer.chat_template else {}
    assert texts["prompt"] == chat.render(tokenizer, row["messages"], add_generation_prompt=True, **thinks)


def test_trl_learns_these_very_tokens(smol, tiny, tmp_path):
    """What TRL made of the text, seen in its own data set."""
    seen = []
    made = preferences._trainer
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(preferences, "_trainer", lambda *a: seen.append(made(*a)) or seen[0])
        run(smol, tiny, "dpo", tmp_path)
    _, tokenizer = modeling.load_model(smol, tiny)
    for row, tokens in zip(rows_of("dpo"), seen[0].train_dataset, strict=True):
        for name in ("chosen", "rejected"):
            [example] = masking.build_examples([*row["messages"], *row[name]], tokenizer)
            learned = [token for token, label in zip(*example.values(), strict=True) if label != masking.IGNORED]
            assert tokens[f"{name}_ids"] == learned[: learned.index(tokenizer.eos_token_id) + 1], "one stop token"
            assert example["input_ids"][: len(tokens["prompt_ids"])] == tokens["prompt_ids"]


def test_rows_of_another_kind_and_rows_that_do_not_fit_are_told(smol_tokenizer, tiny):
    of = {stage: replace(tiny.train, stage=stage) for stage in STAGES}
    with pytest.raises(TrainingError, match=r"Row 0 is of the kind chat, and dpo learns from preference rows"):
        preferences.as_text(rows_of("grpo"), smol_tokenizer, of["dpo"])
    with pytest.raises(TrainingError, match=r"Row 1 is of the kind preference, and grpo"):
        preferences.as_text([*rows_of("grpo")[:1], *rows_of("dpo")], smol_tokenizer, of["grpo"])
    long = {"messages": ask("fig"), "chosen": reply("word " * 900, ""), "rejected": reply(STRICT, "fig")}
    with pytest.warns(UserWarning, match=r"1 rows are longer than 512 tokens and left out"):
        assert len(preferences.as_text([long, *rows_of("dpo")], smol_tokenizer, of["dpo"])) == 4
    with pytest.raises(TrainingError, match="None of 1 rows fits"), pytest.warns(UserWarning):
        preferences.as_text([long], smol_tokenizer, of["dpo"])


def test_the_reward_of_the_command_line_sees_form_and_answer():
    found = preferences.answered(["12", "It is 12.", "13", ""], ["12"] * 4)
    assert found == [1, 0.5, 0, 0]
    assert preferences.answered(['{"n":1}', 'It is {"n": 1}'], ['{"n": 1}'] * 2) == [1, 0]


def test_a_reply_that_is_not_learned_is_told(smol_tokenizer, tiny):
    [row, *_] = rows_of("dpo")
    muted = row | {"rejected": [row["rejected"][0] | {"weight": 0}]}
    with pytest.raises(masking.MaskError, match="no stop token is learned: it has weight 0"):
        preferences.as_text([muted], smol_tokenizer, replace(tiny.train, stage="dpo"))


def test_a_file_of_the_wrong_kind_is_refused_by_name(tiny, smol_tokenizer, tmp_path):
    from course_utils import data, pipeline

    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows_of("dpo") * 3), encoding="utf-8")
    with pytest.raises(data.DataError, match=r"rows.jsonl holds preference rows .*`train --stage dpo`"):
        pipeline.own_rows(file, tiny, smol_tokenizer)
    kto = replace(tiny, train=settings.for_stage(tiny.train, "kto"))
    with pytest.raises(data.DataError, match=r"holds preference rows, and `train --stage kto` learns kto rows"):
        pipeline.own_rows(file, kto, smol_tokenizer)
