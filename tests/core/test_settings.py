"""course_utils.core.settings: every value that no run can have is refused by name, and so is an unknown name."""

import json
from dataclasses import asdict, fields, replace

import pytest

from course_utils import profiles, settings
from course_utils.core.settings import SettingsError, TrainSettings

CPU = profiles.PROFILES["tiny"].train


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("learning_rate", 0, "expected greater than 0"),
        ("learning_rate", 20.0, "expected less than or equal to 1"),
        ("learning_rate", "1e-4", "expected a valid number\\."),
        ("learning_rate", float("nan"), "expected a finite number"),
        ("epochs", 0, "expected greater than 0"),
        ("epochs", float("inf"), "expected a finite number"),
        ("batch_size", 0, "expected greater than or equal to 1"),
        ("batch_size", 2.0, "expected a valid integer"),
        ("batch_size", True, "expected a valid integer"),
        ("grad_accum", -1, "expected greater than or equal to 1"),
        ("max_length", 0, "expected greater than or equal to 1"),
        ("optimizer", "sgd", "expected 'adamw_torch'"),
        ("gradient_checkpointing", 1, "expected a valid boolean"),
        ("eval_steps", 0, "expected greater than or equal to 1"),
        ("max_steps", 0, "expected -1 or greater than or equal to 1"),
        ("warmup_steps", -0.1, "expected greater than or equal to 0"),
        ("scheduler", "cosines", "expected 'cosine'"),
        ("weight_decay", 2, "expected less than or equal to 1"),
        ("r", 0, "expected greater than or equal to 1"),
        ("alpha", 0, "expected greater than or equal to 1"),
        ("dropout", 1.0, "expected less than 1"),
        ("target_modules", "q_proj", "expected a valid tuple"),
        ("target_modules", (), "expected at least 1 item"),
        (
            "target_modules",
            ("q_proj", "lm_head"),
            "expected no lm_head, which many models share",
        ),  # pitfall adapter-on-tied-weights
        ("early_stop", -1, "expected greater than or equal to 0"),
        ("logging_steps", 0, "expected greater than or equal to 1"),
        ("tracker", "visdom", "expected 'tensorboard'"),
        ("seed", -1, "expected greater than or equal to 0"),
        ("output_dir", 3, "expected a valid string"),
    ],
)
def test_a_value_that_cannot_be_is_refused_by_name(name, value, said):
    with pytest.raises(SettingsError, match=f"{name} .*{said}"):
        replace(CPU, **{name: value})


def test_a_whole_number_is_a_float_too_and_stays_whole():
    assert replace(CPU, epochs=2) == replace(CPU, epochs=2.0)
    assert repr(replace(CPU, epochs=2)).count("epochs=2,") == 1
    with pytest.raises(SettingsError, match="seed is 4294967296, expected less than"):
        replace(CPU, seed=2**32)
    assert asdict(CPU)["target_modules"] == CPU.target_modules and TrainSettings(**asdict(CPU)) == CPU


def test_all_faults_are_told_at_once():
    with pytest.raises(SettingsError) as error:
        replace(CPU, batch_size=0, learning_rate="fast", seed=-1)
    assert all(told in str(error.value) for told in ("batch_size is 0", "learning_rate is 'fast'", "seed is -1"))


def test_every_setting_has_its_meaning_and_is_checked():
    assert list(settings.meanings(TrainSettings)) == [item.name for item in fields(TrainSettings)]
    for name, meaning in settings.meanings(TrainSettings).items():
        assert meaning
        with pytest.raises(SettingsError, match=name):
            replace(CPU, **{name: object()})


def test_a_name_that_is_no_setting_is_refused_with_the_nearest_one():
    with pytest.raises(SettingsError, match=r"'learnig_rate' \(do you mean 'learning_rate'\?\)"):
        replace(CPU, learnig_rate=1e-4, batch_size=0)


def test_changes_from_json():
    changed = replace(CPU, **json.loads('{"learning_rate": 1e-4, "target_modules": ["q_proj"], "epochs": 2}'))
    assert (changed.learning_rate, changed.target_modules, changed.epochs) == (1e-4, ("q_proj",), 2)
    assert (
        replace(changed, **{name: getattr(CPU, name) for name in ("learning_rate", "target_modules", "epochs")}) == CPU
    )


def test_the_defaults_of_the_16_gb_gpu_are_the_owners():
    """The notes' values: r 16, alpha 32, 1e-4 to 2e-4, 1 x 16, 1024 tokens, cosine, warmup, decay 0.01, seed 42."""
    gpu = profiles.PROFILES["16gb"].train
    assert (gpu.r, gpu.alpha, gpu.batch_size, gpu.grad_accum, gpu.max_length) == (16, 32, 16, 1, 1024)
    assert 1e-4 <= gpu.learning_rate <= 2e-4 and gpu.scheduler == "cosine" and gpu.warmup_steps > 0
    assert (gpu.weight_decay, gpu.seed) == (0.01, 42)


def test_another_stage_has_its_own_rate_and_folder():
    assert settings.for_stage(CPU, "sft") is CPU
    dpo, grpo = settings.for_stage(CPU, "dpo"), settings.for_stage(CPU, "grpo")
    assert dpo.learning_rate < CPU.learning_rate and dpo.output_dir == f"{CPU.output_dir}/dpo"
    assert grpo.batch_size % grpo.group_size == 0, "whole groups in every step"
    with pytest.raises(SettingsError, match="stage is 'ppo'"):
        settings.for_stage(CPU, "ppo")
