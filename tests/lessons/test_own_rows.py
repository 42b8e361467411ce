"""Rows that a learner brings, from the file to the chat: in the package, and by the command line as he would do it."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import ROOT

from course_utils import data, masking, pipeline, profiles, settings
from course_utils.lessons.setup import LessonError
from course_utils.train import callbacks

COLOURS = ("red", "blue", "green", "white", "black", "brown", "pink", "grey", "gold", "silver", "teal", "plum")
QUESTIONS = [f"Where is the {colour} {thing}?" for colour in COLOURS for thing in ("cup", "hat")]
CACHES = {"__pycache__", ".pytest_cache", ".ruff_cache", ".hypothesis", "unsloth_compiled_cache"}


def line(question: str, reply: str = "Place: the shelf") -> str:
    turns = [{"role": "user", "content": question}, {"role": "assistant", "content": reply}]
    return json.dumps({"messages": turns})


def write(path: Path, lines: list[str]) -> Path:
    path.write_text("".join(f"{each}\n" for each in lines), encoding="utf-8")
    return path


BROKEN = {  # row 4 of a file, and what is said of it
    "cut off": (line("What?")[:-9], "not JSON"),
    "ends with the user's turn": ('{"messages": [{"role": "user", "content": "What?"}]}', "must end with an assistant"),
    "an empty reply": (line("What?", " "), "messages[1].content: is empty"),
    "too long": (line("What? " * 600), "tokens, more than 512"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_row_is_named_with_the_command_that_lists_all(kind, tiny, smol_tokenizer, tmp_path):
    wrong, words = BROKEN[kind]
    file = write(tmp_path / "my rows.jsonl", [*map(line, QUESTIONS[:3]), wrong, *map(line, QUESTIONS[3:])])
    with pytest.raises(LessonError) as refused:
        pipeline.own_rows(file, tiny, smol_tokenizer)
    said = str(refused.value)
    assert said.startswith(f"{file}, row 4, line 4") and words in said
    command = f"check-data '{file}' --tokenizer smollm2-135m-instruct --max-length 512`"
    assert f"{command} lists every problem (1)." in said


OTHERS = {  # rows of other kinds, and what is said of a file of them
    "kto": ({"instruction": "Q {}?", "output": "A", "kto_tag": False}, "KTO rows .* lesson 09"),
    "kto spelt otherwise": ({"instruction": "Q {}?", "output": "A", "label": "false"}, "KTO rows .* lesson 09"),
    "preference": ({"instruction": "Q {}?", "chosen": "A", "rejected": "B"}, "preference rows .* lesson 09"),
    "text": ({"text": "Once upon a time {}."}, "text for pretraining.* `train --stage pretrain`"),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_rows_of_another_kind_are_refused_in_the_words_of_the_check(kind, tiny, smol_tokenizer, tmp_path):
    """Kind of fault: `check-data` and `train` give the same answer."""
    row, words = OTHERS[kind]
    file = write(tmp_path / "rows.jsonl", [json.dumps(row).replace("{}", str(number)) for number in range(12)])
    with pytest.raises(data.DataError, match=words) as refused:
        pipeline.own_rows(file, tiny, smol_tokenizer)
    assert str(refused.value) == data.check(file).not_chats
    mixed = write(tmp_path / "chats.jsonl", [line(question) for question in QUESTIONS])
    with pytest.raises(data.DataError, match=r"holds chat and .* rows in one"):
        pipeline.own_rows(mixed.parent, tiny, smol_tokenizer)


def test_plain_text_is_learned_whole_and_resumed(tiny, smol_tokenizer, tmp_path):
    """`train --stage pretrain`: texts longer than a step's rows are cut, and every token of them is learned."""
    text = "The miller of Otterby counts the {} geese at noon, and the bell is rung for those that are missing. " * 40
    file = write(tmp_path / "texts.jsonl", [json.dumps({"text": text.format(*[each] * 40)}) for each in COLOURS])
    short = {"output_dir": str(tmp_path / "run"), "max_steps": 4, "eval_steps": 2, "batch_size": 2, "max_length": 64}
    train = replace(settings.for_stage(tiny.train, "pretrain"), tracker="none", **short)
    profile = replace(tiny, train=train)
    rows = pipeline.own_rows(file, profile, smol_tokenizer)
    assert sum(map(len, rows)) == 12
    result = pipeline.train_adapter(profile, rows=rows)
    looks = [entry["eval_loss"] for entry in result.log if "eval_loss" in entry]
    full = 4 * train.batch_size * train.grad_accum * train.max_length
    assert looks[-1] < looks[0] and full - train.max_length < result.metrics["tokens"] <= full  # one piece is shorter
    assert pipeline.train_adapter(profile, rows=rows, resume=True).metrics == result.metrics
    chats = write(tmp_path / "chats.jsonl", [line(question) for question in QUESTIONS])
    with pytest.raises(data.DataError, match="holds chat rows, and `train --stage pretrain` learns text rows"):
        pipeline.own_rows(chats, profile, smol_tokenizer)


def test_a_text_that_nobody_reads_is_refused_and_a_label_is_a_warning(tiny, smol_tokenizer, tmp_path):
    """Kind of fault: `train --data` is no quieter than `check-data`."""
    rows = [json.loads(line(question)) for question in QUESTIONS]
    lost = write(tmp_path / "lost.jsonl", [json.dumps(row | {"context": "It was on the shelf."}) for row in rows])
    with pytest.raises(LessonError, match=r"lost\.jsonl, row 1, line 1, context: would be lost"):
        pipeline.own_rows(lost, tiny, smol_tokenizer)
    labels = write(tmp_path / "labels.jsonl", [json.dumps(row | {"topic": "places"}) for row in rows])
    with pytest.warns(UserWarning, match="not read are the columns topic"):
        pipeline.own_rows(labels, tiny, smol_tokenizer)


def test_a_turn_that_is_not_to_be_learned_stays_so_on_the_way_to_training(tiny, smol_tokenizer, tmp_path):
    """Kind of fault: training hears what a row says about itself."""
    rows = [json.loads(line(question, "Place: the shelf")) for question in QUESTIONS]
    for row in rows:
        bad = {"role": "assistant", "content": "No idea!", "weight": 0}
        row["messages"][1:1] = [bad, {"role": "user", "content": "Look again."}]
    file = write(tmp_path / "rows.jsonl", map(json.dumps, rows))
    for part in pipeline.own_rows(file, tiny, smol_tokenizer):
        for example in masking.build_dataset(part, smol_tokenizer):
            learned = [id for id, label in zip(example["input_ids"], example["labels"], strict=True) if label >= 0]
            text = smol_tokenizer.decode(learned)
            assert "the shelf" in text and "idea" not in text


def test_too_few_rows_are_refused(tiny, smol_tokenizer, tmp_path):
    nine = write(tmp_path / "nine.jsonl", [line(question) for question in QUESTIONS[:9]])
    with pytest.raises(LessonError, match=r"nine\.jsonl holds 9 rows; 10 are the least"):
        pipeline.own_rows(nine, tiny, smol_tokenizer)
    ten = write(tmp_path / "ten.jsonl", [line(question) for question in QUESTIONS[:10]])
    assert [len(part) for part in pipeline.own_rows(ten, tiny, smol_tokenizer)] == [8, 2]


def test_what_is_held_back_is_not_trained_in_other_numbers(tiny, smol_tokenizer, tmp_path):
    asked = [*QUESTIONS, *(f"Where is order {number}?" for number in range(8))]
    file = write(tmp_path / "rows.jsonl", [line(question) for question in asked])
    train, valid = pipeline.own_rows(file, tiny, smol_tokenizer)
    assert len(train) + len(valid) == len(asked) and len(valid) >= 3
    assert not data.leaks(train, valid)
    orders = ["order" in row["messages"][0]["content"] for row in train]
    assert sum(orders) in (0, 8), "all orders are one exercise"


def test_the_log_has_each_steps_loss(tmp_path):
    """With tokens counted, the Trainer adds train_runtime to every line of the log, not only to its summary."""
    from types import SimpleNamespace

    log = callbacks.RunLog(tmp_path / "log.jsonl", epochs=1)
    state = SimpleNamespace(global_step=0, max_steps=2, num_input_tokens_seen=0, is_world_process_zero=True)
    log.on_train_begin(None, state, None)
    state.global_step, state.num_input_tokens_seen = 1, 100
    log.on_log(None, state, None, {"loss": 2.0, "train_runtime": 1.0, "train_tokens_per_second": 100.0})
    log.on_log(None, state, None, {"train_loss": 2.0, "train_runtime": 1.0})
    assert [entry["step"] for entry in log.entries] == [1]
    assert {"loss", "tokens_per_second", "memory_gib", "seconds_left"} <= set(log.entries[0])


def command(*arguments: str, cwd: Path = ROOT, typed: str = "", **variables: str) -> subprocess.CompletedProcess[str]:
    """`python -m course_utils …` on two cores."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "COURSE_PROFILE": "tiny"} | variables
    return subprocess.run(
        [sys.executable, "-m", "course_utils", *arguments],
        cwd=cwd,
        env=environment,
        input=typed,
        capture_output=True,
        text=True,
        check=False,
    )


def files_of_the_clone() -> set[str]:
    """All files in the clone's folder but models, caches and what the lessons write, which may run beside this test."""
    found, lessons = set(), {str(ROOT / "runs" / "tiny"), str(ROOT / "data" / "build")}
    for folder, folders, names in os.walk(ROOT):
        folders[:] = [
            name for name in folders if name not in CACHES | {".git", "models"} and f"{folder}/{name}" not in lessons
        ]
        found |= {f"{folder}/{name}" for name in names}
    return found


def the_error(run: subprocess.CompletedProcess[str]) -> str:
    """The one line that a failed command says."""
    assert run.returncode == 1 and "Traceback" not in run.stderr
    said = [each for each in run.stderr.replace("\r", "\n").splitlines() if each.startswith("error: ")]
    assert len(said) == 1 and run.stderr.rstrip().endswith(said[0])
    return said[0]


def test_the_whole_path_by_the_command_line(smol, tmp_path):
    """From a folder of the learner's own, with paths as seen from there."""
    write(tmp_path / "rows.jsonl", [line(question) for question in QUESTIONS])
    chosen = {"max_steps": 4, "eval_steps": 2, "output_dir": str(tmp_path / "run"), "tracker": "none"}
    (tmp_path / "config.json").write_text(json.dumps(chosen), encoding="utf-8")
    before = files_of_the_clone()

    checked = command("check-data", "rows.jsonl", "--tokenizer", smol.name, "--max-length", "512", cwd=tmp_path)
    assert checked.returncode == 0, checked.stderr[-1000:]
    assert "rows that can be used" in checked.stdout

    trained = command("train", "--data", "rows.jsonl", "--config", "config.json", cwd=tmp_path)
    assert trained.returncode == 0, trained.stderr[-1000:]
    adapter = tmp_path / "run" / "adapter"
    assert "The adapter lies in run/adapter." in trained.stdout
    for name in ("adapter_model.safetensors", "adapter_config.json", "tokenizer.json"):
        assert (adapter / name).stat().st_size > 0, name
    log = [json.loads(each) for each in (tmp_path / "run" / "train_log.jsonl").read_text("utf-8").splitlines()]
    assert [entry["step"] for entry in log if "loss" in entry] == [1, 2, 3, 4]
    losses = {entry["step"]: entry["eval_loss"] for entry in log if "eval_loss" in entry}
    assert list(losses) == [0, 2, 4] and losses[4] < losses[0]

    chatted = command("chat", "--adapter", "run/adapter", cwd=tmp_path, typed=f"{QUESTIONS[0]}\n")
    assert chatted.returncode == 0, chatted.stderr[-1000:]
    _, reply, end = chatted.stdout.split("you> ")
    assert reply.strip() and not end.strip(), chatted.stdout

    written = {path.name for path in tmp_path.iterdir()} - CACHES
    assert written == {"rows.jsonl", "config.json", "run"}
    assert files_of_the_clone() == before


def test_ones_own_file_travels_the_whole_road(smol, tmp_path):
    """`mine` trains and compares; `evaluate --data`, `merge --adapter` and `serve --merged` go on from there."""
    write(tmp_path / "rows.jsonl", [line(question) for question in QUESTIONS])
    (tmp_path / "models").symlink_to(ROOT / "models")
    here = {"cwd": tmp_path, "COURSE_HOME": str(tmp_path)}
    done = command("mine", "rows.jsonl", **here)
    assert done.returncode == 0, done.stderr[-1000:]
    assert "rows.jsonl holds 24 rows" in done.stderr and "below 50 the figures are chance" in done.stderr
    assert "22 rows to train on, 2 held back. The training: 32 steps, " in done.stdout and "minutes" not in done.stdout
    assert done.stdout.count("  after:  Place: the shelf\n") == 2
    assert "0.00 → 1.00" in next(each for each in done.stdout.splitlines() if each.startswith("rows "))
    run = tmp_path / "runs/own/rows"
    first = json.loads((run / "evaluation.json").read_text("utf-8"))
    (run / "evaluation.json").unlink()
    again = command("evaluate", "--data", "rows.jsonl", **here)
    assert again.returncode == 0, again.stderr[-1000:]
    assert json.loads((run / "evaluation.json").read_text("utf-8"))["table"] == first["table"]
    merged = command("merge", "--adapter", str(run / "adapter"), **here)
    assert merged.returncode == 0, merged.stderr[-1000:]
    assert (run / "merged/model.safetensors").is_file() and "layers merged" in merged.stdout


def test_the_plan_of_a_run_follows_the_rows(tiny, smol_tokenizer, tmp_path):
    many = write(tmp_path / "many.jsonl", [line(f"{question} {end}") for question in QUESTIONS for end in "abcdefgh"])
    rows = pipeline.own_rows(many, tiny, smol_tokenizer)
    found = pipeline.plan(tiny, rows, smol_tokenizer)
    assert found.steps == found.profile.train.max_steps == 4 * found.profile.train.eval_steps == 132
    assert 3 * len(rows[0]) <= 4 * found.steps < 3 * len(rows[0]) + 16
    assert found.tokens > 40 * found.steps and 0.5 < found.gib < 3 and found.minutes is None
    assert pipeline.plan(replace(tiny, model=profiles.PROFILES["cpu"].model), rows, smol_tokenizer).minutes > 2


def test_a_misspelled_setting_is_one_line(tmp_path):
    write(tmp_path / "rows.jsonl", [line(question) for question in QUESTIONS])
    (tmp_path / "config.json").write_text('{"max_step": 4}', encoding="utf-8")
    said = the_error(command("train", "--data", "rows.jsonl", "--config", "config.json", cwd=tmp_path))
    assert said.startswith("error: There is no setting 'max_step' (do you mean 'max_steps'?)")


def test_a_broken_file_is_one_line(tmp_path):
    file = write(tmp_path / "rows.jsonl", [*map(line, QUESTIONS), BROKEN["cut off"][0]])
    chosen = {"data": "rows.jsonl", "profile": "tiny", "output_dir": str(tmp_path / "run")}
    (tmp_path / "config.json").write_text(json.dumps(chosen), encoding="utf-8")
    said = the_error(command("train", "--profile", "tiny", "--config", "config.json", cwd=tmp_path))
    assert said.startswith(f"error: {file}, row 25, line 25: not JSON")
    assert not (tmp_path / "run").exists()
    checked = command("check-data", "rows.jsonl", cwd=tmp_path)
    assert checked.returncode == 1 and "rows.jsonl, row 25, line 25: not JSON" in checked.stdout
    assert "Traceback" not in checked.stderr


@pytest.mark.parametrize("text", ['{"data": 3}', '{"profile": ["tiny"]}', "[]", "{"])
def test_a_configuration_that_says_nothing_sensible(text, tmp_path, monkeypatch):
    from course_utils import cli

    (tmp_path / "config.json").write_text(text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(settings.SettingsError, match=r"config\.json"):
        cli.train(config=Path("config.json"))
