"""docs/accelerate/: the installed accelerate knows every key of every file, and makes of them what the page says."""

import os
import subprocess
import sys
import warnings

import pytest
from conftest import ROOT

CONFIGS = sorted((ROOT / "docs" / "accelerate").glob("*.yaml"))
PAGE = (ROOT / "docs" / "several_processes.md").read_text(encoding="utf-8")


def launched(path):
    """The arguments of `accelerate launch` with the file's values filled in, by accelerate itself."""
    from accelerate.commands import launch

    words = ["--config_file", str(path), "-m", "course_utils", "train", "--config", "FILE"]
    return launch._validate_launch_command(launch.launch_command_parser().parse_args(words))[0]


def test_they_are_all_here_and_in_the_page():
    names = [path.stem for path in CONFIGS]
    assert names == ["ddp", "ddp_cpu", "deepspeed_zero2", "deepspeed_zero3", "fsdp"]
    for path in CONFIGS:
        assert f"`{path.name}`" in PAGE
        assert "docs/several_processes.md" in path.read_text(encoding="utf-8")
    for name in ("ddp", "ddp_cpu"):
        assert f" --config_file docs/accelerate/{name}.yaml -m course_utils train --config FILE" in PAGE


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_accelerate_knows_every_key(path):
    from accelerate.commands.config.config_args import ClusterConfig, load_config_from_file
    from accelerate.commands.launch import launch_command_parser

    config = load_config_from_file(str(path))  # refuses unknown keys, but looks into no part
    assert isinstance(config, ClusterConfig)
    known = {action.dest for action in launch_command_parser()._actions}
    for part in (config.fsdp_config, config.deepspeed_config):
        assert set(part) <= known
    found = launched(path)
    kinds = {"fsdp": found.use_fsdp, "deepspeed": found.use_deepspeed, "ddp": found.multi_gpu}
    assert [kind for kind, chosen in kinds.items() if chosen] == [path.stem.split("_")[0]]
    assert found.use_cpu == (path.stem == "ddp_cpu") and found.num_processes == 2


def test_fsdp_is_its_second_version_and_wraps_layers(monkeypatch):
    from accelerate.commands.to_fsdp2 import ARGUMENT_KEY_MAPPING, ConversionStatus
    from accelerate.utils import FullyShardedDataParallelPlugin
    from accelerate.utils.launch import prepare_multi_gpu_env
    from torch.distributed.fsdp.wrap import transformer_auto_wrap_policy

    args = launched(ROOT / "docs" / "accelerate" / "fsdp.yaml")
    gone = {key for key, new in ARGUMENT_KEY_MAPPING.items() if isinstance(new, ConversionStatus)}
    text = (ROOT / "docs" / "accelerate" / "fsdp.yaml").read_text(encoding="utf-8")
    assert not [key for key in gone if f"{key}:" in text]
    for name, value in prepare_multi_gpu_env(args).items():
        if name.startswith("FSDP_"):
            monkeypatch.setenv(name, value)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plugin = FullyShardedDataParallelPlugin()
    assert plugin.fsdp_version == 2 and plugin.reshard_after_forward is True
    assert plugin.auto_wrap_policy is transformer_auto_wrap_policy
    assert not plugin.cpu_ram_efficient_loading and "FULL" in str(plugin.state_dict_type)


@pytest.mark.parametrize("stage", [2, 3])
def test_deepspeed_gets_its_stage_and_leaves_accumulation_to_the_trainer(stage):
    from accelerate.utils.launch import prepare_deepspeed_cmd_env

    args = launched(ROOT / "docs" / "accelerate" / f"deepspeed_zero{stage}.yaml")
    args.deepspeed_fields_from_accelerate_config = ""  # `launch_command` sets it where DeepSpeed is installed
    _, variables = prepare_deepspeed_cmd_env(args)
    assert variables["ACCELERATE_DEEPSPEED_ZERO_STAGE"] == str(stage)
    assert variables["ACCELERATE_DEEPSPEED_ZERO3_INIT"] == str(stage == 3).lower()
    assert "ACCELERATE_GRADIENT_ACCUMULATION_STEPS" not in variables


def test_the_cpu_config_starts_two_processes_that_see_each_other(tmp_path):
    script = tmp_path / "who.py"
    script.write_text(
        "import torch\n"
        "from accelerate import Accelerator\n"
        "accelerator = Accelerator()\n"
        "state = accelerator.state\n"
        "total = torch.ones(())\n"
        "torch.distributed.all_reduce(total)\n"
        "print(state.num_processes, state.backend, state.device.type, int(total), flush=True)\n"
        "accelerator.end_training()\n"  # else a process that ends first may abort the other
    )
    config = str(ROOT / "docs" / "accelerate" / "ddp_cpu.yaml")
    run = subprocess.run(
        [sys.executable, "-m", "accelerate.commands.launch", "--config_file", config, str(script)],
        env=os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-2000:]
    assert run.stdout.count("gloo cpu 2") == 2, run.stdout  # the two may write into one line
