"""notebooks/forgetting.py and kl.py: nothing held out is trained on, and the pull to the base pulls."""

import shutil
from dataclasses import replace

import pytest
import torch
from conftest import ROOT

from course_utils import data, masking, modeling, profiles
from notebooks import forgetting, kl

FRANCE = [{"role": "user", "content": "Where is Paris?"}, {"role": "assistant", "content": "In France."}]


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The profile `cpu`, whose rows lie built in a folder of the tests."""
    profile = profiles.PROFILES["cpu"]
    with pytest.MonkeyPatch.context() as patch:
        home = tmp_path_factory.mktemp("home")
        for name in ("raw", "dataset_info.json"):
            (shutil.copytree if name == "raw" else shutil.copy)(ROOT / "data" / name, home / "data" / name)
        data.build(profile, dataset_dir=home / "data")
        patch.setattr(forgetting, "home", lambda: home)
        yield profile


def asked(rows):
    return {row["messages"][0]["content"] for row in rows}


def test_what_judges_is_never_trained_on(built):
    judges = forgetting.judged_by(built)
    assert tuple(judges) == forgetting.SETS and all(len(rows) > 20 for rows in judges.values())
    trained = asked(forgetting.narrow(built)) | asked(forgetting.replay())
    assert not any(trained & asked(rows) for rows in judges.values())
    assert {forgetting.language_of(row) for row in judges["Chinese"]} == {"zh"}
    assert {forgetting.language_of(row) for row in forgetting.narrow(built) + judges["English"]} == {"en"}


def test_an_answer_to_a_general_question_is_that_of_its_row(built):
    judges = forgetting.judged_by(built)
    turns = [row["messages"] for row in judges["English"] + judges["Chinese"]]
    general = {question["content"]: answer["content"] for question, answer in turns}
    assert forgetting.ANSWERS.keys() <= general.keys()
    for question in forgetting.ANSWERS:
        assert forgetting.right({"prompt": question, "reply": general[question]}), question
        assert not forgetting.right({"prompt": question, "reply": "I don't know. 我不知道。"}), question
    assert forgetting.right({"prompt": "What is a democracy?", "reply": "A form of government."}) is None


@pytest.mark.parametrize("share", [0.1, 0.2])
def test_a_share_of_general_rows_is_mixed_in(built, share):
    rows, general = forgetting.mixed(built, share), asked(forgetting.replay())
    found = sum(row["messages"][0]["content"] in general for row in rows)
    assert abs(found / len(rows) - share) < 0.01 and len(rows) - found <= len(forgetting.narrow(built))
    assert rows == forgetting.mixed(built, share) != forgetting.mixed(built, share, seed=1)


def test_the_pull_is_nothing_at_first_and_keeps_a_model_near_its_base(smol, tiny, toy_rows, tmp_path):
    from course_utils import training

    changes = {"max_steps": 6, "eval_steps": 6, "learning_rate": 2e-3, "tracker": "none", "batch_size": 2}
    far = {}
    for name in ("free", "pulled"):
        profile = replace(tiny, train=replace(tiny.train, output_dir=str(tmp_path / name), **changes))
        model, tokenizer = modeling.load_model(smol, profile)
        model = modeling.attach_lora(model, profile)
        general = masking.build_dataset([{"messages": FRANCE}], tokenizer)
        batch = tokenizer.pad({"input_ids": list(general["input_ids"])}, return_tensors="pt")
        with torch.no_grad():
            assert kl.divergence(model, batch).item() == pytest.approx(0, abs=1e-6)
        examples = masking.build_dataset(toy_rows, tokenizer)
        pulled = {"trainer_class": kl.trainer(general, tokenizer)} if name == "pulled" else {}
        training.train(model, tokenizer, examples, examples, profile.train, **pulled)
        with torch.no_grad():
            far[name] = kl.divergence(model.eval(), batch).item()
    assert far["pulled"] < far["free"] / 3
