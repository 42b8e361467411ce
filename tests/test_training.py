"""course_utils.training: a run that learns, leaves whole files, repeats itself, and refuses what cannot teach."""

import hashlib
import inspect
import json
from dataclasses import replace
from pathlib import Path

import pytest

from course_utils import masking, modeling, training


def digest(folder: Path) -> str:
    return hashlib.sha256((folder / "adapter_model.safetensors").read_bytes()).hexdigest()


def run(smol, cpu, toy_rows, settings, **options):
    model, tokenizer = modeling.load_model(smol, cpu)
    model = modeling.attach_lora(model, cpu)
    examples = masking.build_dataset(toy_rows, tokenizer)
    return training.train(model, tokenizer, examples, examples, settings, **options)


def test_the_run_learns_and_leaves_whole_files(trained):
    result, settings = trained
    assert result.metrics["last_eval_loss"] < result.metrics["first_eval_loss"]
    assert result.metrics["steps"] == 6
    assert sorted(path.name for path in Path(settings.output_dir).iterdir()) == [
        "adapter",
        "run.json",
        "tensorboard",
        "train_log.jsonl",
        "train_metrics.json",
    ]
    lines = (Path(settings.output_dir) / "train_log.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == result.log
    assert training.load_result(settings.output_dir) == result


def test_the_same_seed_gives_the_same_adapter(smol, cpu, toy_rows, trained, tmp_path):
    result, settings = trained
    again = run(smol, cpu, toy_rows, replace(settings, output_dir=str(tmp_path / "again")))
    assert digest(again.adapter_dir) == digest(result.adapter_dir)


def test_a_run_that_was_stopped_goes_on(smol, cpu, toy_rows, trained, tmp_path):
    from transformers import TrainerCallback

    class Stop(TrainerCallback):
        def on_save(self, args, state, control, **_):
            raise KeyboardInterrupt

    result, settings = trained
    settings = replace(settings, output_dir=str(tmp_path / "stopped"))
    with pytest.raises(KeyboardInterrupt):
        run(smol, cpu, toy_rows, settings, callbacks=[Stop()])
    resumed = run(smol, cpu, toy_rows, settings, resume=True)
    assert digest(resumed.adapter_dir) == digest(result.adapter_dir)


def test_a_set_that_cannot_teach_is_refused(smol, cpu, trained, tmp_path):
    model, tokenizer = modeling.load_model(smol, cpu)
    silent = [{"input_ids": [1, 2, 3], "labels": [masking.IGNORED] * 3}]
    settings = replace(trained[1], output_dir=str(tmp_path / "none"))
    with pytest.raises(training.TrainingError, match="nothing is learned: 1 of"):
        training.train(model, tokenizer, silent, silent, settings)
    assert not (tmp_path / "none").exists()


def test_a_run_that_is_not_there(tmp_path):
    with pytest.raises(training.TrainingError, match="holds no finished run"):
        training.load_result(tmp_path)


def test_the_foreign_signatures_that_the_course_calls():
    """Trap 21: names come and go between releases."""
    from trl import SFTConfig, SFTTrainer

    # Unsloth puts classes of its own before TRL's, which take whatever is given: look through all of them.
    def names(kind):
        return {name for base in kind.__mro__ for name in inspect.signature(base.__init__).parameters}

    assert {"model", "processing_class", "train_dataset", "eval_dataset", "args"} <= names(SFTTrainer)
    assert {"max_length", "warmup_steps", "train_sampling_strategy", "dataset_kwargs", "eval_on_start"} <= names(
        SFTConfig
    )
    assert "tokenizer" not in names(SFTTrainer) and "max_seq_length" not in names(SFTConfig)
