"""Which profile is chosen, and what is said about it."""

import os
import subprocess
import sys
from dataclasses import FrozenInstanceError, replace

import pytest
from pydantic import ValidationError

from course_utils import budget, profiles
from course_utils.core.hardware import Hardware, detect_hardware
from course_utils.core.profiles import ProfileError, choose, memory_budget

NO_GPU = Hardware("cpu", None, 0.0, None, True, 24.0, 2, 100.0)
T4 = Hardware("cuda", "Tesla T4", 14.6, (7, 5), False, 12.0, 2, 60.0)
GPU_8 = Hardware("cuda", "NVIDIA GeForce RTX 4060", 7.6, (8, 9), True, 32.0, 8, 100.0)
GPU_16 = Hardware("cuda", "NVIDIA GeForce RTX 4080", 15.7, (8, 9), True, 32.0, 8, 100.0)
GPU_24 = Hardware("cuda", "NVIDIA GeForce RTX 4090", 23.5, (8, 9), True, 64.0, 16, 100.0)
OLD_SMALL = replace(GPU_8, gpu="NVIDIA GeForce GTX 1080", capability=(6, 1), bf16=False)


@pytest.fixture(autouse=True)
def no_variable(monkeypatch):
    monkeypatch.delenv(profiles.VARIABLE, raising=False)


@pytest.mark.parametrize(
    ("hardware", "expected", "said"),
    [
        (NO_GPU, "cpu", "No NVIDIA GPU was found"),
        (replace(NO_GPU, ram_gib=9.0), "tiny", "only 9 GiB of memory"),
        (replace(NO_GPU, ram_gib=12.0), "cpu", "12 GiB of memory"),
        (replace(NO_GPU, ram_gib=12.0, bf16=False), "tiny", "only 12 GiB of memory"),
        (replace(NO_GPU, ram_gib=15.6, bf16=False), "cpu", "16 GiB of memory"),
        (GPU_8, "8gb", "RTX 4060 with 7.6 GiB"),
        (replace(GPU_8, gpu="NVIDIA GeForce RTX 3060", vram_gib=11.6), "8gb", "held in 4 bits and answers so"),
        (replace(GPU_8, vram_gib=5.8), "cpu", "needs an 8 GB GPU"),
        (OLD_SMALL, "cpu", "needs an 8 GB GPU of compute capability 7.0"),
        (T4, "t4", "compute capability 7.5"),
        (replace(T4, gpu="Tesla V100", vram_gib=31.7, capability=(7, 0)), "t4", "without bfloat16"),
        (GPU_16, "16gb", "RTX 4080 with 15.7 GiB"),
        (replace(GPU_16, vram_gib=19.5), "16gb", "4 bits"),
        (GPU_24, "24gb", "fits in 16 bits"),
        (replace(GPU_24, vram_gib=79.0), "24gb", "79.0 GiB"),
    ],
)
def test_hardware_decides_and_says_why(hardware, expected, said):
    profile = choose(hardware=hardware)
    assert profile.name == expected
    assert said in profile.reason
    assert "COURSE_PROFILE" in profile.reason and "setup(profile=" in profile.reason
    assert ("Warning" in profile.reason) == (hardware.device == "cpu" and not hardware.bf16)


def test_the_argument_beats_the_variable_and_the_variable_beats_the_hardware(monkeypatch):
    monkeypatch.setenv("COURSE_PROFILE", "16GB")
    by_variable = choose(hardware=GPU_24)
    assert by_variable.name == "16gb" and "COURSE_PROFILE=16GB" in by_variable.reason
    by_argument = choose("t4", GPU_24)
    assert by_argument.name == "t4" and 'setup(profile="t4")' in by_argument.reason


def test_an_empty_variable_counts_as_none(monkeypatch):
    monkeypatch.setenv("COURSE_PROFILE", "")
    assert choose(hardware=GPU_24).name == "24gb"


@pytest.mark.parametrize(
    ("name", "hardware", "said"),
    [
        ("16gb", NO_GPU, "no NVIDIA GPU was found"),
        ("16gb", T4, "no bfloat16"),
        ("t4", GPU_8, "has 7.6 GiB and profile t4 needs 14"),
        ("8gb", replace(GPU_8, vram_gib=5.8), "has 5.8 GiB and profile 8gb needs 7"),
        ("24gb", GPU_16, "has 15.7 GiB and profile 24gb needs 20"),
        ("cpu", replace(NO_GPU, bf16=False), "no bfloat16 instructions"),
        ("cpu", replace(NO_GPU, ram_gib=12.0, bf16=False), "12 GiB of memory; profile tiny needs less"),
    ],
)
def test_a_choice_that_does_not_fit_is_kept_with_a_warning(name, hardware, said):
    profile = choose(name, hardware)
    assert profile.name == name
    assert "Warning: " in profile.reason and said in profile.reason


@pytest.mark.parametrize(("name", "hardware"), [("cpu", GPU_24), ("t4", GPU_24), ("16gb", GPU_24), ("t4", T4)])
def test_a_choice_that_fits_has_no_warning(name, hardware):
    assert "Warning" not in choose(name, hardware).reason


def test_a_small_old_gpu_gets_a_format_it_has():
    turing = replace(GPU_8, gpu="NVIDIA GeForce RTX 2070", capability=(7, 5), bf16=False)
    assert [choose(hardware=each).dtype for each in (OLD_SMALL, turing, GPU_8)] == ["float16", "float16", "bfloat16"]
    assert choose(hardware=turing).name == "8gb"


def test_the_small_model_on_a_small_gpu_is_budgeted_as_on_a_gpu():
    gpu_6 = replace(GPU_16, gpu="NVIDIA GeForce RTX 3050", vram_gib=5.8)
    config = budget.CONFIGS[profiles.PROFILES["cpu"].model]
    small, cpu = (choose(hardware=hardware) for hardware in (gpu_6, NO_GPU))
    assert (small.name, small.device, cpu.device) == ("cpu", "cuda", "cpu")
    for generate in (False, True):
        here, there = (memory_budget(config, profile, generate=generate).terms for profile in (small, cpu))
        assert here[0].name == "overhead" and "CUDA context" in here[0].formula and there[0].name == "process"
    terms = {term.name: term for term in memory_budget(config, small).terms}
    assert "unsloth/kernels" in terms["activations"].source
    assert "fused_linear" in terms["logits and loss"].source
    assert choose("cpu", gpu_6).device == "cuda", "asked for by name, it is the same"


@pytest.mark.parametrize("by_variable", [False, True])
def test_an_unknown_name_names_them_all_and_where_it_came_from(monkeypatch, by_variable):
    if by_variable:
        monkeypatch.setenv("COURSE_PROFILE", "32gb")
    with pytest.raises(ProfileError) as caught:
        choose(None if by_variable else "32gb", NO_GPU)
    message = str(caught.value)
    assert "cpu, tiny, 8gb, t4, 16gb, 24gb" in message and "'32gb'" in message
    assert ("COURSE_PROFILE" in message) == by_variable


def test_profiles_are_frozen_hashable_and_never_changed_by_choosing():
    profile = choose("cpu", NO_GPU)
    with pytest.raises(FrozenInstanceError):
        profile.model = "other"
    with pytest.raises(FrozenInstanceError):
        profile.train.seed = 1
    assert profiles.PROFILES["cpu"].reason == ""
    assert len({hash(profile) for profile in profiles.PROFILES.values()}) == 6


def test_a_profile_has_no_other_names_and_values_than_those_of_its_fields():
    for change in ({"modle": "x"}, {"dtype": "int8"}, {"device": "tpu"}):
        with pytest.raises(ValidationError, match=next(iter(change))):
            replace(profiles.PROFILES["cpu"], **change)


def test_a_profile_like_another_has_its_values_but_those_that_it_names():
    t4, gpu_16 = profiles.PROFILES["t4"], profiles.PROFILES["16gb"]
    assert (t4.train.batch_size, t4.train.epochs, t4.kinds) == (16, 2, gpu_16.kinds)
    assert replace(t4.train, output_dir=gpu_16.train.output_dir) == gpu_16.train
    changed = {"name": "16gb", "dtype": "bfloat16", "eval_batch_size": 16, "notes": gpu_16.notes, "train": gpu_16.train}
    assert replace(t4, **changed) == gpu_16


@pytest.mark.parametrize("name", profiles.PROFILES)
def test_values_of_a_profile_agree(name):
    profile = profiles.PROFILES[name]
    assert profile.name == name and profile.train.output_dir == f"runs/{name}"
    assert profile.train.batch_size * profile.train.grad_accum in {4, 16}
    assert profile.train.seed == 42
    assert not {"lm_head", "embed_tokens"} & set(profile.train.target_modules)  # pitfall adapter-on-tied-weights
    assert profile.train.r <= 16  # vLLM's max_lora_rank
    assert (profile.languages == ("en",)) == (name == "tiny")
    assert "thinking" not in profile.kinds  # neither model's template renders it


@pytest.mark.parametrize("name", profiles.PROFILES)
def test_the_table_shows_every_setting_with_a_reason(name):
    profile = profiles.PROFILES[name]
    rows = profile.table()
    settings = [setting for setting, _, _ in rows]
    assert len(settings) == len(set(settings))
    assert {"model", "dtype", "r", "alpha", "learning_rate", "max_length", "seed"} <= set(settings)
    assert {setting for setting, _ in profile.notes} <= set(settings)
    assert all(why for _, _, why in rows)
    shown = {setting: (value, why) for setting, value, why in rows}
    assert shown["learning_rate"][0] == str(profile.train.learning_rate)
    assert shown["target_modules"][0].startswith("q_proj, k_proj")
    assert shown["model"][1] == dict(profile.notes)["model"]


def test_this_machine_is_looked_at():
    hardware = detect_hardware()
    assert (hardware.device == "cuda") == (hardware.gpu is not None) == (hardware.capability is not None)
    assert hardware.ram_gib > 1 and hardware.disk_free_gib > 0
    assert 1 <= hardware.cores <= (os.cpu_count() or 1)


def test_the_import_is_light():
    code = "import sys, course_utils.core.profiles; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("vram", [7.5, 11.6])
def test_the_4_billion_model_trains_and_answers_on_a_small_gpu(vram):
    profile = choose(hardware=replace(GPU_8, vram_gib=vram))
    config = budget.CONFIGS[profile.model]
    assert profile.model == profiles.PROFILES["16gb"].model
    assert all(memory_budget(config, profile, generate=generate).gib < 0.9 * vram for generate in (False, True))
