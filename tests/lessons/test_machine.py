"""course_utils.lessons.machine: the real machine is looked at, and what cannot be had here is put in its place."""

import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import psutil
import pytest

from course_utils import hardware, machine
from course_utils.lessons.machine import Gpu


def test_this_machine_is_looked_at():
    import torch

    found = machine.look()
    assert found.torch == torch.__version__ and found.torch_cuda == torch.version.cuda
    assert found.python == ".".join(map(str, sys.version_info[:3]))
    assert found.installed["rich"] and found.installed["unsloth"] and "pytest" not in found.installed
    assert found.imported[0] == "unsloth" and "transformers" in found.imported  # conftest imports it first
    assert not found.late and found.companions == {}
    assert found.writable
    assert found.python_h == Path(sysconfig.get_config_var("INCLUDEPY"), "Python.h").is_file()
    assert 0 < found.hardware.ram_gib < 10_000


def program(folder, *lines):
    """A stand-in for nvidia-smi; returns the PATH that finds it first."""
    folder.mkdir()
    script = folder / "nvidia-smi"
    script.write_text("\n".join(["#!/bin/sh", *lines]) + "\n")
    script.chmod(0o755)
    return f"{folder}{os.pathsep}{os.environ['PATH']}"


TWO_GPUS = (
    'case "$1" in',
    '--query*) echo "NVIDIA A10G, 22000, 550.54.14"; echo "NVIDIA H100, [N/A], 550.54.14";;',
    '*) echo "| NVIDIA-SMI 550.54.14   Driver Version: 550.54.14   CUDA Version: 12.4 |";;',
    "esac",
)


def test_the_driver_is_asked_through_nvidia_smi(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", program(tmp_path / "two", *TWO_GPUS))
    found = machine._ask_driver()
    assert (found["driver"], found["driver_cuda"]) == ("550.54.14", "12.4")
    assert found["gpus"] == (Gpu("NVIDIA A10G", 22000 / 1024), Gpu("NVIDIA H100"))
    monkeypatch.setenv("PATH", program(tmp_path / "bad", 'echo "NVIDIA-SMI has failed"', "exit 9"))
    assert machine._ask_driver() == {"smi_error": "NVIDIA-SMI has failed"}
    monkeypatch.setenv("PATH", program(tmp_path / "none", 'echo "No devices were found"'))
    assert machine._ask_driver() == {"gpus": (), "driver": None, "driver_cuda": None}
    monkeypatch.setattr(machine.shutil, "which", lambda *_, **__: None)
    assert machine._ask_driver() == {}


@pytest.mark.parametrize(
    ("on_the_path", "variable", "found"),
    [
        (("gcc", "clang"), None, "gcc"),
        (("clang",), None, "clang"),
        (("cc",), None, None),  # Triton does not look for it
        ((), None, None),
        (("x86_64-conda-linux-gnu-cc",), "x86_64-conda-linux-gnu-cc", "x86_64-conda-linux-gnu-cc"),
        (("gcc",), "nowhere", None),  # it calls what CC names, and nothing else
    ],
)
def test_the_compiler_is_the_one_that_triton_would_call(tmp_path, monkeypatch, on_the_path, variable, found):
    for name in on_the_path:
        (tmp_path / name).touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    if variable:
        monkeypatch.setenv("CC", variable)
    assert machine.look().compiler == found


def test_the_headers_are_those_of_this_python(tmp_path, monkeypatch):
    monkeypatch.setattr(machine.sysconfig, "get_path", lambda *_: str(tmp_path))
    assert not machine.look().python_h
    (tmp_path / "Python.h").touch()
    assert machine.look().python_h


def test_what_installs_a_compiler_is_told_apart(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert machine.look().packager is None
    (tmp_path / "apt-get").touch(mode=0o755)
    assert machine.look().packager == "apt-get"
    monkeypatch.setattr(machine.sys, "base_prefix", str(tmp_path))
    (tmp_path / "conda-meta").mkdir()
    assert machine.look().packager == "conda"


@pytest.mark.parametrize(
    ("vendor", "kind", "there"),
    [("10DE", "03", True), ("10DE", "04", False), ("1002", "03", False)],  # 04 is the GPU's sound
)
def test_a_gpu_without_a_driver_is_seen_on_the_bus(tmp_path, monkeypatch, vendor, kind, there):
    monkeypatch.setattr(machine, "BUS", tmp_path)
    (tmp_path / "device").mkdir()
    name = f"pci:v0000{vendor}d00002684sv00001043sd000088E2bc{kind}sc00i00\n"
    (tmp_path / "device/modalias").write_text(name)
    assert machine.look().gpu_on_bus == there


@pytest.mark.parametrize(("text", "gib"), [(str(4 * 2**30), 4.0), ("max", float("inf")), (None, float("inf"))])
def test_a_container_may_have_less_memory(tmp_path, monkeypatch, text, gib):
    monkeypatch.setattr(hardware, "CONTAINER_LIMIT", tmp_path / "memory.max")
    if text:
        (tmp_path / "memory.max").write_text(text)
    there = psutil.virtual_memory().total / 2**30
    assert machine._ask_torch()["hardware"].ram_gib == min(gib, there)


def test_a_torch_that_cannot_be_imported_is_a_finding(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    found = machine._ask_torch()
    assert found["torch_error"].startswith("ModuleNotFoundError") and found["hardware"].ram_gib > 0


def test_faults_of_a_process_are_found_by_looking(tmp_path):
    """A GPU that torch does not see, a broken torchvision, Unsloth and a variable too late: all really there."""
    package = tmp_path / "site"
    (package / "torchvision").mkdir(parents=True)
    (package / "torchvision/__init__.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')")
    (package / "torchvision-0.28.0.dist-info").mkdir()
    (package / "torchvision-0.28.0.dist-info/METADATA").write_text("Name: torchvision\nVersion: 0.28.0\n")
    code = (
        "import json, os, sys, types\n"
        "import huggingface_hub.constants; os.environ['HF_ENDPOINT'] = 'https://hf-mirror.com'\n"
        "for name in ('transformers.utils', 'unsloth.models', 'transformers', 'unsloth'):\n"
        "    sys.modules[name] = types.ModuleType(name)\n"
        "from course_utils import doctor\n"
        "print(json.dumps(doctor.examine('tiny', online=False).to_dict()))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ
        | {
            "PATH": program(tmp_path / "smi", *TWO_GPUS),
            "PYTHONPATH": str(package),
            "CUDA_VISIBLE_DEVICES": "",
        },
        capture_output=True,
        text=True,
        check=True,
    )
    faults = {fact["name"]: fact["value"] for fact in json.loads(run.stdout)["facts"] if fact["state"] == "fault"}
    assert set(faults) == {"torch", "torchvision", "Unsloth", "variable"}
    assert "HF_ENDPOINT is https://hf-mirror.com" in faults["variable"]
    assert "does not see the NVIDIA A10G" in faults["torch"]
    assert "operator torchvision::nms does not exist" in faults["torchvision"]
    assert "after transformers" in faults["Unsloth"]


def test_a_folder_that_cannot_be_written(tmp_path, monkeypatch):
    monkeypatch.setenv("COURSE_HOME", str(tmp_path))
    monkeypatch.setattr(machine.os, "access", lambda path, mode: path != tmp_path)  # models/ is not there yet
    assert not machine.look().writable
    (tmp_path / "models").mkdir()
    assert machine.look().writable


@pytest.mark.parametrize(
    ("system", "release", "name"),
    [
        ("Linux", "6.8.0-45-generic", "Linux"),
        ("Linux", "5.15.167.4-microsoft-standard-WSL2", "WSL2"),
        ("Linux", "4.4.0-19041-Microsoft", "WSL1"),
        ("Windows", "11", "Windows"),
        ("Darwin", "24.1.0", "macOS"),
    ],
)
def test_systems_are_told_apart(monkeypatch, system, release, name):
    monkeypatch.setattr(machine.platform, "system", lambda: system)
    monkeypatch.setattr(machine.platform, "release", lambda: release)
    assert machine._system()["system"] == name
