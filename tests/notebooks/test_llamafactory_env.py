"""LLaMA-Factory in its environment: a sentence where it is not there, and the real program where it is."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from course_utils import data, hub, masking, profiles
from course_utils.core.settings import TrainSettings
from notebooks import llamafactory, llamafactory_env

THERE = llamafactory_env.folder().is_dir()
needs_it = pytest.mark.skipif(not THERE, reason=llamafactory_env.MISSING)
TINY = profiles.PROFILES["tiny"]


def recipe_in(folder: Path, **settings):
    rows = data.load("plain").select(range(12))
    path = llamafactory.export_llamafactory(rows, folder / "rows", "plain")
    settings = {"output_dir": str(folder / "run"), "max_steps": 2} | settings
    profile = replace(TINY, train=replace(TINY.train, **settings))
    return rows, llamafactory.recipe(profile, model=hub.download(TINY.model), rows=path, template="smollm2")


def test_a_recipe_says_what_the_settings_say(tmp_path):
    _, recipe = recipe_in(tmp_path, r=4, alpha=8)
    train = TINY.train
    assert recipe["lora_target"] == "all" and recipe["use_cpu"] and not recipe["trust_remote_code"]
    assert (recipe["lora_rank"], recipe["lora_alpha"], recipe["learning_rate"]) == (4, 8, train.learning_rate)
    assert recipe["cutoff_len"] == train.max_length and recipe["per_device_train_batch_size"] == train.batch_size
    assert yaml.safe_load(yaml.safe_dump(recipe)) == recipe  # plain values: no path, no tuple
    _, fewer = recipe_in(tmp_path, target_modules=("q_proj", "v_proj"))
    assert fewer["lora_target"] == "q_proj,v_proj"


def test_every_linear_layer_is_what_the_course_trains():
    [modules] = [field.default for name, field in TrainSettings.__pydantic_fields__.items() if name == "target_modules"]
    assert set(modules) == llamafactory.ALL_LINEAR


def test_without_its_environment_one_sentence_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setattr(llamafactory_env, "folder", lambda: tmp_path / "none")
    _, recipe = recipe_in(tmp_path)
    for ask in (llamafactory_env.train, llamafactory_env.labels):
        with pytest.raises(llamafactory_env.FactoryError, match="make llamafactory"):
            ask(recipe)


@needs_it
def test_it_learns_the_tokens_of_the_course_but_for_a_full_stop_in_its_copy_of_the_template(tmp_path):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(hub.download(TINY.model))
    rows, recipe = recipe_in(tmp_path)
    for row, other in zip(masking.build_dataset(rows, tokenizer), llamafactory_env.labels(recipe), strict=True):
        ours, theirs = (tokenizer.decode(each["input_ids"]) for each in (row, other))
        assert theirs.replace("trained by Hugging Face.<", "trained by Hugging Face<", 1) == ours != theirs
        learned = ([label for label in each["labels"] if label != masking.IGNORED] for each in (row, other))
        assert len(set(map(tuple, learned))) == 1


@needs_it
def test_it_trains_and_a_wrong_setting_is_told(tmp_path):
    _, recipe = recipe_in(tmp_path)
    run = llamafactory_env.train(recipe)
    assert [line["step"] for line in run.log] == [1, 2] and run.gib > 0.2 and run.seconds > 0
    assert json.loads((run.adapter / "adapter_config.json").read_text())["r"] == recipe["lora_rank"]
    with pytest.raises(llamafactory_env.FactoryError, match="no_such_setting"):
        llamafactory_env.train(recipe | {"no_such_setting": 1})
