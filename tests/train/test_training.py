"""course_utils.train.training: a run that learns, leaves whole files, repeats itself, and refuses what cannot teach."""

import hashlib
import inspect
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
from collections import Counter
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st

from course_utils import masking, modeling, packing, training
from course_utils.core.budget import PLAIN_ATTENTION_UP_TO
from course_utils.train import runs
from course_utils.train.cpu import cpu_shortcuts


def digest(folder: Path) -> str:
    return hashlib.sha256((folder / "adapter_model.safetensors").read_bytes()).hexdigest()


def run(smol, tiny, toy_rows, settings, **options):
    model, tokenizer = modeling.load_model(smol, tiny)
    model = modeling.attach_lora(model, tiny)
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
    steps = [entry for entry in result.log if "loss" in entry]
    assert [entry["step"] for entry in steps] == [1, 2, 3, 4, 5, 6]
    for entry in steps:
        assert entry["tokens_per_second"] > 0 and entry["memory_gib"] > 0 and entry["learning_rate"] >= 0
    assert steps[-1]["seconds_left"] == 0 < steps[0]["seconds_left"]
    assert [entry["step"] for entry in result.log if "eval_loss" in entry] == [0, 3, 6]
    assert steps[-1]["epoch"] == 2.0, "six steps of four are twice the twelve rows"
    assert training.load_result(settings.output_dir) == result


def test_the_tracker_gets_what_the_log_adds(trained):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    read = EventAccumulator(str(Path(trained[1].output_dir) / "tensorboard")).Reload()
    for name in ("loss", "tokens_per_second", "memory_gib"):
        assert [point.step for point in read.Scalars(f"train/{name}")] == [1, 2, 3, 4, 5, 6]


def test_the_same_seed_gives_the_same_adapter(smol, tiny, toy_rows, trained, tmp_path):
    result, settings = trained
    again = run(smol, tiny, toy_rows, replace(settings, output_dir=str(tmp_path / "again")))
    assert digest(again.adapter_dir) == digest(result.adapter_dir)


def test_a_run_that_was_stopped_goes_on(smol, tiny, toy_rows, trained, tmp_path):
    from transformers import TrainerCallback

    class Stop(TrainerCallback):
        def on_save(self, args, state, control, **_):
            raise KeyboardInterrupt

    result, settings = trained
    settings = replace(settings, output_dir=str(tmp_path / "stopped"))
    with pytest.raises(KeyboardInterrupt):
        run(smol, tiny, toy_rows, settings, callbacks=[Stop()])
    resumed = run(smol, tiny, toy_rows, settings, resume=True)
    assert digest(resumed.adapter_dir) == digest(result.adapter_dir)


def finished_by_a_process(smol: Path, out: Path, kill_after: float | None = None) -> bool:
    """Begin or go on with `interrupted.py` in a process of its own; kill it so many seconds after the first step."""
    script = str(ROOT / "tests" / "interrupted.py")
    process = subprocess.Popen([sys.executable, script, str(smol), str(out)], stdout=subprocess.PIPE, text=True)
    while kill_after is not None and "training" not in (process.stdout.readline() or "training"):
        pass
    try:
        return process.wait(kill_after) == 0
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return False


def test_killed_at_any_moment_a_run_goes_on_to_the_same_adapter(smol, tmp_path, kills):
    whole, out = tmp_path / "whole", tmp_path / "killed"
    assert finished_by_a_process(smol, whole)
    steps = [(entry["step"], entry.get("loss")) for entry in training.load_result(whole).log]
    assert sum(loss is not None for _, loss in steps) == 8

    def same_as_the_whole_one() -> None:
        assert digest(out / "adapter") == digest(whole / "adapter")
        assert [(entry["step"], entry.get("loss")) for entry in training.load_result(out).log] == steps

    draw, killed = random.Random(), 0
    while killed < kills:
        if finished_by_a_process(smol, out, kill_after=draw.uniform(0.0, 6.0)):  # it was quicker: the next one anew
            same_as_the_whole_one()
            shutil.rmtree(out)
            continue
        killed += 1
        for path in out.glob("adapter/*"):  # whole or absent
            assert path.stat().st_size == (whole / "adapter" / path.name).stat().st_size
    assert finished_by_a_process(smol, out)
    same_as_the_whole_one()


def test_a_second_run_into_the_same_folder_is_refused(smol, tiny, toy_rows, trained, tmp_path):
    """While this run stands still in its second step, a process begins another one in its folder."""
    from transformers import TrainerCallback

    result, settings = trained
    settings = replace(settings, output_dir=str(tmp_path / "run"))
    outcomes = []

    def snapshot():
        return {path: (path.stat().st_mtime_ns, path.is_file() and path.read_bytes()) for path in tmp_path.rglob("*")}

    class Second(TrainerCallback):
        def on_step_begin(self, args, state, control, **_):
            if state.global_step != 1:
                return
            for begun in ("resume", "anew"):
                before = snapshot()
                command = [sys.executable, ROOT / "tests" / "interrupted.py", smol, settings.output_dir, begun]
                done = subprocess.run(command, capture_output=True, text=True, check=False)
                outcomes.append((done.returncode, done.stderr.splitlines()[-1], snapshot() == before))

    first = run(smol, tiny, toy_rows, settings, callbacks=[Second()])
    assert [(code, unchanged) for code, _, unchanged in outcomes] == [(1, True)] * 2
    assert all(f"FolderInUse: A run goes on in {settings.output_dir}" in error for _, error, _ in outcomes)
    assert digest(first.adapter_dir) == digest(result.adapter_dir)
    with pytest.raises(training.TrainingError, match="train rows, valid rows differ"):  # it is free again
        run(smol, tiny, toy_rows[:6], settings, resume=True)


def test_only_the_first_of_several_processes_clears_a_folder(smol, tiny, toy_rows, trained, tmp_path, monkeypatch):
    """The first holds the folder: were it refused, the others must not have cleared it."""
    monkeypatch.setattr(training, "_trainer", lambda *_, **__: pytest.fail("stop here"))
    monkeypatch.setenv("RANK", "1")
    before = shutil.copytree(trained[1].output_dir, tmp_path / "run")
    with pytest.raises(pytest.fail.Exception, match="stop here"):
        run(smol, tiny, toy_rows, replace(trained[1], output_dir=str(before)))
    names = [sorted(path.name for path in Path(folder).rglob("*")) for folder in (before, trained[1].output_dir)]
    assert names[0] == names[1]


def test_a_checkpoint_that_was_cut_off_is_not_gone_on_from(tmp_path):
    for step, whole in ((2, True), (4, True), (6, False), (10, False)):
        folder = tmp_path / "checkpoints" / f"checkpoint-{step}"
        folder.mkdir(parents=True)
        if whole:
            (folder / "whole").touch()
    assert runs._last_whole_checkpoint(tmp_path) == tmp_path / "checkpoints" / "checkpoint-4"
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["checkpoint-2", "checkpoint-4"]


def test_ctrl_c_leaves_a_checkpoint_and_says_how_to_go_on(smol, tiny, toy_rows, trained, tmp_path):
    from transformers import TrainerCallback

    class CtrlC(TrainerCallback):
        def on_step_begin(self, args, state, control, **_):
            if state.global_step == 1:
                os.kill(os.getpid(), signal.SIGINT)

    result, settings = trained
    settings = replace(settings, output_dir=str(tmp_path / "stopped"))
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(training.Interrupted, match=r"after step 2 of 6.*resume=True"):
        run(smol, tiny, toy_rows, settings, callbacks=[CtrlC()])
    assert signal.getsignal(signal.SIGINT) is before
    assert not (tmp_path / "stopped" / "adapter").exists()
    resumed = run(smol, tiny, toy_rows, settings, resume=True)
    assert digest(resumed.adapter_dir) == digest(result.adapter_dir)
    assert [entry["step"] for entry in resumed.log] == [entry["step"] for entry in result.log]


def test_only_the_same_run_goes_on(smol, tiny, toy_rows, trained, tmp_path):
    settings = replace(trained[1], output_dir=str(tmp_path / "run"), max_steps=1)
    first = run(smol, tiny, toy_rows, settings)
    assert run(smol, tiny, toy_rows, settings, resume=True) == first, "a finished run is returned as it is"
    with pytest.raises(training.TrainingError, match="learning_rate differ from when it began"):
        run(smol, tiny, toy_rows, replace(settings, learning_rate=1e-5), resume=True)
    with pytest.raises(training.TrainingError, match="train rows, valid rows differ"):
        run(smol, tiny, toy_rows[:6], settings, resume=True)


def test_a_loss_that_is_no_number_ends_the_run(smol, tiny, toy_rows, trained, tmp_path):
    model, tokenizer = modeling.load_model(smol, tiny)
    model = modeling.attach_lora(model, tiny)
    with torch.no_grad():
        model.base_model.model.model.layers[3].mlp.up_proj.lora_B["default"].weight[0] = float("nan")
    examples = masking.build_dataset(toy_rows, tokenizer)
    settings = replace(trained[1], output_dir=str(tmp_path / "nan"))
    with pytest.raises(training.TrainingError, match=r"loss is nan at step 0.*Lower learning_rate"):
        training.train(model, tokenizer, examples, examples, settings)
    assert not (tmp_path / "nan" / "adapter").exists()
    assert model.get_base_model().config._attn_implementation == "sdpa", "the shortcuts are taken back"


def test_a_full_disk(smol, tiny, toy_rows, trained, tmp_path):
    """No file may grow beyond a mebibyte: what the system says then is what it says on a full disk."""
    settings = replace(trained[1], output_dir=str(tmp_path / "run"), tracker="none")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, limits[1]))
    try:
        with pytest.raises(training.TrainingError, match=r"could not be written .* Free some space"):
            run(smol, tiny, toy_rows, settings)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not (tmp_path / "run" / "adapter").exists()
    assert digest(run(smol, tiny, toy_rows, settings, resume=True).adapter_dir) == digest(trained[0].adapter_dir)


def test_a_folder_that_cannot_be_written_to(smol, tiny, toy_rows, trained, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    settings = replace(trained[1], output_dir=str(tmp_path / "file" / "run"))
    with pytest.raises(training.TrainingError, match=r"cannot be written to .* set output_dir"):
        run(smol, tiny, toy_rows, settings)


def test_out_of_memory_is_explained_with_budget_and_remedy(smol, tiny, toy_rows, trained, tmp_path):
    from transformers import TrainerCallback

    class Greedy(TrainerCallback):
        def on_step_end(self, *_, **__):
            torch.empty(10**15)

    settings = replace(trained[1], output_dir=str(tmp_path / "run"))
    with pytest.raises(training.OutOfMemory, match=r"predicted was \d\.\d GiB.*Next: gradient_checkpointing False"):
        run(smol, tiny, toy_rows, settings, callbacks=[Greedy()], profile=tiny)
    with pytest.raises(training.OutOfMemory, match="Set gradient_checkpointing=True, then halve"):
        run(smol, tiny, toy_rows, settings, callbacks=[Greedy()])
    assert not (tmp_path / "run" / "adapter").exists()


@pytest.mark.parametrize(
    ("config", "words"), [({"num_experts": 128}, "mixture of experts"), ({"text_config": {}}, "'num_attention_heads'")]
)
def test_out_of_memory_is_said_also_of_a_model_that_the_budget_cannot_count(tiny, config, words):
    model = SimpleNamespace(config=SimpleNamespace(to_dict=lambda: config))
    advice = runs._memory_advice(tiny.train, model, tiny)
    assert advice.startswith("Memory ran out. Set gradient_checkpointing=True") and words in advice


def test_early_stop_keeps_the_best(smol, tiny, toy_rows, trained, tmp_path):
    wild = {"learning_rate": 0.05, "max_steps": 12, "eval_steps": 1, "early_stop": 1, "scheduler": "constant"}
    settings = replace(trained[1], output_dir=str(tmp_path / "run"), **wild)
    result = run(smol, tiny, toy_rows, settings)
    losses = [entry["eval_loss"] for entry in result.log if "eval_loss" in entry]
    assert result.metrics["steps"] < 12
    assert losses[-1] > min(losses)


class TestRowOrder:
    @given(
        lengths=st.lists(st.integers(1, 500), min_size=1, max_size=120),
        rows_per_step=st.integers(1, 16),
        epochs=st.integers(1, 3),
        seed=st.integers(0, 99),
    )
    def test_every_row_comes_once_an_epoch_and_the_longest_first(self, lengths, rows_per_step, epochs, seed):
        order = training.row_order(lengths, rows_per_step, epochs, seed)
        assert Counter(order) == dict.fromkeys(range(len(lengths)), epochs)
        assert order == training.row_order(lengths, rows_per_step, epochs, seed)
        if len(order) >= rows_per_step:
            whole = len(order) // rows_per_step * rows_per_step
            assert max(lengths[row] for row in order[:rows_per_step]) == max(lengths[row] for row in order[:whole])

    def test_rows_of_like_length_share_a_step(self):
        lengths = [random.Random(seed).randint(20, 400) for seed in range(400)]
        shuffled = packing.padding_share(lengths, 8)
        grouped = packing.padding_share([lengths[row] for row in training.row_order(lengths, 8, 1, 42)], 8)
        assert grouped < 0.06 < 0.3 < shuffled

    @pytest.mark.parametrize(("rows", "rows_per_step", "epochs"), [(374, 16, 2), (374, 4, 1.5), (12, 4, 8)])
    def test_a_row_does_not_meet_itself_in_a_step(self, rows, rows_per_step, epochs):
        lengths = [random.Random(seed).randint(20, 400) for seed in range(rows)]
        order = training.row_order(lengths, rows_per_step, epochs, 42)
        steps = [order[start : start + rows_per_step] for start in range(0, len(order), rows_per_step)]
        assert all(len(set(step)) == len(step) for step in steps)

    def test_part_of_an_epoch(self):
        assert len(training.row_order([5] * 10, 4, 1.5, 42)) == 15
        assert len(training.row_order([5] * 10, 4, 0.01, 42)) == 1


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_precision(dtype):
    switches = training.precision(getattr(torch, dtype))
    assert switches == {"bf16": dtype == "bfloat16", "fp16": dtype == "float16"}


@pytest.mark.parametrize("dtype", ["float32", pytest.param(None, id="the profile's")])
def test_the_switches_are_those_of_the_loaded_model(smol, tiny, toy_rows, trained, tmp_path, monkeypatch, dtype):
    """Pitfall sft-config-defaults: SFTConfig's own default is bf16, whatever the machine and the model."""
    seen = []
    made = training._trainer
    monkeypatch.setattr(training, "_trainer", lambda *a, **k: seen.append(made(*a, **k)) or seen[0])
    profile = replace(tiny, dtype=dtype or tiny.dtype)
    model, tokenizer = modeling.load_model(smol, profile)
    examples = masking.build_dataset(toy_rows, tokenizer).select(range(2))
    settings = replace(trained[1], output_dir=str(tmp_path / "run"), max_steps=1, batch_size=1, grad_accum=2)
    training.train(modeling.attach_lora(model, profile), tokenizer, examples, examples, settings)
    told = seen[0].args
    assert (told.bf16, told.fp16) == (profile.dtype == "bfloat16", False)
    assert told.padding_free is False, "None would let Unsloth decide"
    assert (told.per_device_train_batch_size, told.per_device_eval_batch_size) == (1, 2)


@pytest.mark.parametrize("tokens", [PLAIN_ATTENTION_UP_TO, PLAIN_ATTENTION_UP_TO + 1])
def test_the_shortcuts_change_no_result_beyond_rounding(smol, tiny, tokens):
    """In float32, where rounding is small: the loss and the gradients are those of the stock model, padding and all."""
    model, _ = modeling.load_model(smol, replace(tiny, dtype="float32"))
    model = modeling.attach_lora(model, tiny)
    ids = torch.randint(100, 40_000, (2, tokens), generator=torch.Generator().manual_seed(0))
    seen = torch.ones_like(ids)
    seen[1, tokens // 2 :] = 0
    batch = {"input_ids": ids, "attention_mask": seen, "labels": ids.masked_fill(seen == 0, masking.IGNORED)}
    found = []
    for shortcuts in (nullcontext(), cpu_shortcuts(model, bf16=False)):
        with shortcuts:
            model.zero_grad()
            loss = model(**batch).loss
            loss.backward()
            layer = model.base_model.model.model.layers[0].self_attn.q_proj
            found.append((loss.detach(), layer.lora_B["default"].weight.grad.clone()))
    for stock, ours in zip(*found, strict=True):
        assert torch.allclose(stock, ours, rtol=1e-4, atol=1e-4 * float(stock.abs().max()))


def test_inputs_that_are_not_copied_give_the_same_bits(smol, tiny, toy_rows):
    from peft.helpers import disable_input_dtype_casting

    model, tokenizer = modeling.load_model(smol, tiny)
    model = modeling.attach_lora(model, tiny)
    ids = torch.tensor([masking.build_dataset(toy_rows, tokenizer)[0]["input_ids"]])
    found = []
    for way in (nullcontext(), disable_input_dtype_casting(model)):
        with way, torch.autocast("cpu", dtype=torch.bfloat16):
            found.append(model(input_ids=ids).logits.detach())
    assert torch.equal(*found)


def test_two_processes_take_the_steps_of_one_with_twice_the_accumulation(smol, tmp_path):
    """`accelerate launch -m course_utils train --config …` under gloo: the same rows per step, so the same losses."""
    rows = [
        {
            "messages": [
                {"role": "user", "content": f"{n} {'and ' * n}?"},
                {"role": "assistant", "content": f"It is {n}."},
            ]
        }
        for n in range(16)
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    common = {"profile": "tiny", "batch_size": 2, "max_steps": 3, "eval_steps": 3, "tracker": "none"}
    common |= {"data": str(tmp_path / "rows.jsonl")}
    together = ["--config_file", str(ROOT / "docs" / "accelerate" / "ddp_cpu.yaml")]
    launches = {1: [], 2: ["-m", "accelerate.commands.launch", *together]}
    losses = []
    for processes, accumulated in ((1, 2), (2, 1)):
        out, config = tmp_path / f"run{processes}", tmp_path / f"{processes}.json"
        config.write_text(json.dumps(common | {"grad_accum": accumulated, "output_dir": str(out)}))
        done = subprocess.run(
            [sys.executable, *launches[processes], "-m", "course_utils", "train", "--config", str(config)],
            cwd=ROOT,
            env=os.environ | {"OMP_NUM_THREADS": "1"},  # accelerate's own choice; sums in another order round otherwise
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-2000:]
        assert done.stdout.count("The adapter lies in") == 1
        losses.append([entry["loss"] for entry in training.load_result(out).log if "loss" in entry])
    assert len(losses[0]) == 3
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_a_set_that_cannot_teach_is_refused(smol, tiny, trained, tmp_path):
    model, tokenizer = modeling.load_model(smol, tiny)
    silent = [{"input_ids": [1, 2, 3], "labels": [masking.IGNORED] * 3}]
    settings = replace(trained[1], output_dir=str(tmp_path / "none"))
    with pytest.raises(training.TrainingError, match="nothing is learned: 1 of"):
        training.train(model, tokenizer, silent, silent, settings)
    assert not (tmp_path / "none").exists()


def test_an_evaluation_gives_freed_memory_back_to_the_system():
    modeling.import_unsloth()
    from course_utils.train.callbacks import FreeMemory

    def held() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

    pieces = [torch.ones(2**14) for _ in range(4096)]  # 256 MiB, each small enough for glibc to keep
    del pieces[::2]  # what is left lies between the gaps
    before = held()
    FreeMemory().on_evaluate(None, None, None)
    assert before - held() > 64 * 2**20
    assert len(pieces) == 2048


def test_a_run_that_is_not_there(tmp_path):
    with pytest.raises(training.TrainingError, match="holds no finished run"):
        training.load_result(tmp_path)


def test_the_foreign_signatures_that_the_course_calls():
    """Pitfall renamed-arguments: names come and go between releases."""
    from trl import SFTConfig, SFTTrainer

    # Unsloth puts classes of its own before TRL's, which take whatever is given: look through all of them.
    def names(kind):
        return {name for base in kind.__mro__ for name in inspect.signature(base.__init__).parameters}

    assert {"model", "processing_class", "train_dataset", "eval_dataset", "args"} <= names(SFTTrainer)
    assert {"max_length", "warmup_steps", "train_sampling_strategy", "dataset_kwargs", "eval_on_start"} <= names(
        SFTConfig
    )
    assert "tokenizer" not in names(SFTTrainer) and "max_seq_length" not in names(SFTConfig)
