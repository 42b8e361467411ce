"""course_utils.core.settings: every value that no run can have is refused by name, and so is every name that is
none."""

from dataclasses import fields, replace

import pytest

from course_utils import profiles, settings
from course_utils.core.settings import SettingsError, TrainSettings

CPU = profiles.PROFILES["cpu"].train


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("learning_rate", 0, "above 0"),
        ("learning_rate", 20.0, "at most 1"),
        ("learning_rate", "1e-4", "expected float"),
        ("learning_rate", float("nan"), "above 0"),
        ("epochs", 0, "above 0"),
        ("epochs", float("inf"), "above 0"),
        ("batch_size", 0, "at least 1"),
        ("batch_size", 2.0, "expected int"),
        ("batch_size", True, "expected int"),
        ("grad_accum", -1, "at least 1"),
        ("max_length", 0, "at least 1"),
        ("optimizer", "sgd", "expected one of adamw_torch"),
        ("gradient_checkpointing", 1, "expected bool"),
        ("eval_steps", 0, "at least 1"),
        ("max_steps", 0, "-1 or at least 1"),
        ("warmup_steps", -0.1, "0 or more"),
        ("scheduler", "cosines", "expected one of cosine"),
        ("weight_decay", 2, "0 to 1"),
        ("r", 0, "at least 1"),
        ("alpha", 0, "at least 1"),
        ("dropout", 1.0, "below 1"),
        ("target_modules", "q_proj", "names of layers"),
        ("target_modules", (), "names of layers"),
        ("target_modules", ("q_proj", "lm_head"), "names lm_head"),  # pitfall adapter-on-tied-weights
        ("early_stop", -1, "0 or more"),
        ("logging_steps", 0, "at least 1"),
        ("tracker", "visdom", "expected one of tensorboard"),
        ("seed", -1, "0 to"),
        ("output_dir", 3, "expected str"),
    ],
)
def test_a_value_that_cannot_be_is_refused_by_name(name, value, said):
    with pytest.raises(SettingsError, match=f"{name} .*{said}"):
        replace(CPU, **{name: value})


def test_all_faults_are_told_at_once():
    with pytest.raises(SettingsError) as error:
        replace(CPU, batch_size=0, learning_rate="fast", seed=-1)
    assert all(name in str(error.value) for name in ("batch_size", "learning_rate", "seed"))


def test_every_setting_has_its_meaning_and_is_checked():
    for item in fields(TrainSettings):
        assert item.metadata["why"]
        with pytest.raises(SettingsError, match=item.name):
            replace(CPU, **{item.name: object()})


def test_a_name_that_is_no_setting_is_refused_with_the_nearest_one():
    with pytest.raises(SettingsError, match=r"'learnig_rate' \(do you mean 'learning_rate'\?\)"):
        settings.change(CPU, {"learnig_rate": 1e-4})


def test_changes_from_json():
    changed = settings.change(CPU, {"learning_rate": 1e-4, "target_modules": ["q_proj"], "epochs": 2})
    assert (changed.learning_rate, changed.target_modules, changed.epochs) == (1e-4, ("q_proj",), 2)
    assert (
        replace(changed, **{name: getattr(CPU, name) for name in ("learning_rate", "target_modules", "epochs")}) == CPU
    )


def test_the_defaults_of_the_16_gb_gpu_are_the_owners():
    """The notes' values: r 16, alpha 32, 1e-4 to 2e-4, 1 x 16, 1024 tokens, cosine, warmup, decay 0.01, seed 42."""
    gpu = profiles.PROFILES["16gb"].train
    assert (gpu.r, gpu.alpha, gpu.batch_size, gpu.grad_accum, gpu.max_length) == (16, 32, 1, 16, 1024)
    assert 1e-4 <= gpu.learning_rate <= 2e-4 and gpu.scheduler == "cosine" and gpu.warmup_steps > 0
    assert (gpu.weight_decay, gpu.seed) == (0.01, 42)
