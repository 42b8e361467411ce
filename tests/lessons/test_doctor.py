"""course_utils.lessons.doctor: every fault is found on a machine described by hand, and the real one is looked at."""

import json
import os
import re
from dataclasses import replace
from types import SimpleNamespace

import pytest
from conftest import ROOT
from rich.console import Console
from typer.testing import CliRunner

from course_utils import cli, doctor, hub, machine, profiles
from course_utils.core.budget import CONFIGS
from course_utils.core.hardware import Hardware
from course_utils.core.profiles import PROFILES, ProfileError, choose
from course_utils.lessons.doctor import judge, model_fits
from course_utils.lessons.machine import Findings, Gpu

REQUIREMENTS = ("torch>=2.9,<2.15", "transformers==5.17.0", "unsloth==2026.10.9")
INSTALLED = {"torch": "2.13.0", "transformers": "5.17.0", "unsloth": "2026.10.9"}
HUBS = {"mirror": None, "huggingface": "no answer", "modelscope": None}

CPU = Findings(
    hardware=Hardware("cpu", None, 0.0, None, True, 24.0, 2, 100.0),
    system="Linux",
    release="6.8.0, x86_64",
    python="3.11.9",
    requirements=REQUIREMENTS,
    installed=INSTALLED | {"torch": "2.13.0+cpu"},
    torch="2.13.0+cpu",
    hubs=HUBS,
)


def with_gpu(name, gib, capability, **changes):
    """A machine with one NVIDIA GPU that torch sees."""
    found = replace(
        CPU,
        hardware=Hardware("cuda", name, gib, capability, capability >= (8, 0), 32.0, 8, 100.0),
        installed=INSTALLED,
        torch="2.13.0+cu130",
        torch_cuda="13.0",
        gpus=(Gpu(name, gib - 0.3),),
        gpu_on_bus=True,
        driver="580.65.06",
        driver_cuda="13.0",
        compiler="gcc",
        python_h=True,
        packager="apt-get",
    )
    return replace(found, **changes)


GPU_8 = with_gpu("NVIDIA GeForce RTX 4060", 7.6, (8, 9))
GPU_6 = with_gpu("NVIDIA GeForce RTX 3050", 5.8, (8, 6))
OLD_8 = with_gpu("NVIDIA GeForce GTX 1080", 7.9, (6, 1), torch="2.13.0+cu126", torch_cuda="12.6")
T4 = with_gpu("Tesla T4", 14.6, (7, 5))
GPU_16 = with_gpu("NVIDIA GeForce RTX 4080", 15.7, (8, 9))
GPU_24 = with_gpu("NVIDIA GeForce RTX 4090", 23.5, (8, 9))
WSL = replace(GPU_16, system="WSL2", release="5.15.167.4-microsoft-standard-WSL2, x86_64", gpu_on_bus=False)
MAC = replace(CPU, system="macOS", release="15.1, arm64", torch="2.13.0")
WINDOWS = replace(CPU, system="Windows", release="11, AMD64")
PLAIN_CPU = replace(CPU, hardware=replace(CPU.hardware, bf16=False))
UNSEEN = replace(GPU_16, hardware=CPU.hardware)  # the driver lists a GPU, torch sees none
COLAB = replace(T4, hardware=replace(T4.hardware, ram_gib=12.7, cores=2, disk_free_gib=70.0))
MACHINES = [CPU, COLAB, PLAIN_CPU, GPU_6, GPU_8, OLD_8, T4, GPU_16, GPU_24, WSL, MAC]


def short_of(machine=CPU, **less):
    """The machine with less memory or disk."""
    return replace(machine, hardware=replace(machine.hardware, **less))


def examined(findings, name=None):
    return judge(findings, choose(name, findings.hardware))


def fact(diagnosis, name):
    return next(fact for fact in diagnosis.facts if fact.name == name)


@pytest.fixture(autouse=True)
def no_variable(monkeypatch):
    monkeypatch.delenv(profiles.VARIABLE, raising=False)


# ---- faults

FAULTS = {
    "torch cannot be imported": (
        replace(CPU, torch=None, torch_error="ImportError: libtorch_cpu.so"),
        ("torch", "libtorch_cpu.so", "python install.py"),
    ),
    "CPU build beside a GPU": (
        replace(UNSEEN, torch="2.13.0+cpu", torch_cuda=None),
        ("torch", "does not see the NVIDIA GeForce RTX 4080: it is a build for CPUs", "uninstall -y torch,"),
    ),
    "GPU hidden": (
        replace(UNSEEN, visible="-1", torch_error="No CUDA GPUs are available"),
        ("torch", 'No CUDA GPUs are available; CUDA_VISIBLE_DEVICES is "-1"', "Unset CUDA_VISIBLE_DEVICES"),
    ),
    "driver too old": (
        replace(UNSEEN, driver="550.54.14", driver_cuda="12.4"),
        ("torch", "the driver serves CUDA up to 12.4 only", "python install.py, which takes a torch for this driver"),
    ),
    "driver too old for any torch": (
        replace(UNSEEN, driver="470.82.01", driver_cuda="11.4"),
        ("torch", "the driver serves CUDA up to 11.4 only", "Update NVIDIA's driver"),
    ),
    "unseen for a reason that torch gives": (
        replace(UNSEEN, torch_error="CUDA unknown error"),
        ("torch", "RTX 4080: CUDA unknown error", "--gpus all"),
    ),
    "a GPU that CUDA 13 has left behind": (
        replace(OLD_8, torch="2.13.0+cu130", torch_cuda="13.0"),
        (
            "torch",
            "no kernels for the NVIDIA GeForce GTX 1080",
            "python install.py, which takes a torch built for CUDA 12",
        ),
    ),
    "no compiler": (
        replace(GPU_16, compiler=None),
        ("compiler", "no C compiler (CC, gcc or clang): Triton", "apt-get install build-essential python3.11-dev"),
    ),
    "no headers of Python": (
        replace(GPU_16, python_h=False),
        ("compiler", "no Python.h: Triton", "sudo apt-get install build-essential python3.11-dev"),
    ),
    "neither, in conda's Python": (
        replace(GPU_16, compiler=None, python_h=False, packager="conda"),
        ("compiler", "no C compiler (CC, gcc or clang) and no Python.h", "conda install -c conda-forge c-compiler"),
    ),
    "no compiler, and nobody knows how to install one": (
        replace(GPU_16, compiler=None, packager=None),
        ("compiler", "no C compiler", "Install gcc and the headers of Python 3.11"),
    ),
    "driver does not answer": (
        replace(CPU, gpu_on_bus=True, smi_error="Failed to initialize NVML: Driver/library version mismatch"),
        ("driver", "version mismatch", "Restart the machine"),
    ),
    "torchvision that cannot be imported": (
        replace(CPU, companions={"torchvision": ("0.28.0", "operator torchvision::nms does not exist")}),
        ("torchvision", "torchvision::nms does not exist", "uninstall -y torchvision"),
    ),
    "torchvision of another CUDA torch": (
        replace(GPU_16, companions={"torchvision": ("0.20.0", "undefined symbol")}),
        (
            "torchvision",
            "does not need it: undefined symbol",
            "uninstall -y torchvision",
        ),
    ),
    "a package of another version": (
        replace(CPU, installed=CPU.installed | {"transformers": "5.16.0"}),
        ("packages", "transformers is 5.16.0, wanted ==5.17.0", "python install.py"),
    ),
    "a package missing": (
        replace(CPU, installed={"torch": "2.13.0", "transformers": "5.17.0"}),
        ("packages", "unsloth is missing", "python install.py"),
    ),
    "Unsloth too late": (
        replace(CPU, imported=("transformers", "peft", "unsloth", "trl")),
        ("Unsloth", "after transformers, peft:", "Restart the kernel"),
    ),
    "a variable too late": (
        replace(CPU, late=(hub.LateVariable("HF_ENDPOINT", "https://hf-mirror.com", "https://huggingface.co"),)),
        ("variable", "HF_ENDPOINT is https://hf-mirror.com, but", "restart"),
    ),
    "CUDA_VISIBLE_DEVICES too late": (
        replace(GPU_16, visible=""),
        ("variable", 'CUDA_VISIBLE_DEVICES="" came after CUDA had started', "restart"),
    ),
    "Windows": (WINDOWS, ("system", "inside WSL2 only", "wsl --install")),
    "4 GB of memory": (short_of(ram_gib=3.8), ("memory", "3.8 GiB, 2 cores; the lessons need 5.8 GiB", "Colab")),
    "no memory for the merge": (short_of(T4, ram_gib=7.6), ("memory", "7.6 GiB", "Colab")),
    "1 GB of disk": (short_of(disk_free_gib=1.0), ("disk", "1.0 GiB free; download and lessons need", "Free 2.")),
    "no disk for the large model": (short_of(GPU_16, disk_free_gib=14.0), ("disk", "need 16.", "larger disk")),
    "unwritable": (
        replace(CPU, writable=False),
        ("models/", "nothing can be written there", "Give yourself the right"),
    ),
    "no hub for a model that is needed": (
        replace(GPU_16, hubs=dict.fromkeys(HUBS, "no answer")),
        ("model hubs", "none reachable, and Qwen/Qwen3-4B-Instruct-2507 is not on disk", "HTTPS_PROXY"),
    ),
}


@pytest.mark.parametrize(("findings", "said"), FAULTS.values(), ids=FAULTS)
def test_each_fault_is_found_alone_and_has_a_remedy(findings, said):
    diagnosis = examined(findings)
    name, value, remedy = said
    assert [fault.name for fault in diagnosis.faults] == [name]
    (fault,) = diagnosis.faults
    assert value in fault.value and remedy in fault.remedy
    assert diagnosis.facts[0] is fault  # the worst first
    assert diagnosis.verdict[0].startswith("Not ")


@pytest.mark.parametrize("findings", MACHINES, ids=lambda found: f"{found.system} {found.hardware.gpu}")
def test_a_sound_machine_has_no_fault(findings):
    diagnosis = examined(findings)
    assert not diagnosis.faults
    assert diagnosis.verdict[0].startswith("You can do the lessons with ")


@pytest.mark.parametrize(
    ("findings", "name", "said"),
    [
        (replace(CPU, imported=("transformers",)), "Unsloth", "too late to train in this process"),
        (replace(CPU, gpu_on_bus=True), "driver", "no driver for it"),
        (replace(CPU, smi_error="couldn't communicate"), "driver", "couldn't communicate"),
        (
            replace(CPU, hubs=dict.fromkeys(HUBS, "no answer")),
            "model hubs",
            "none needed, none reachable (not mirror, ",
        ),
        (replace(GPU_16, on_disk=True, hubs=dict.fromkeys(HUBS, "no")), "model hubs", "none needed"),
        (replace(GPU_16, gpus=(Gpu("NVIDIA GeForce RTX 4080", 6.0),)), "GPU's memory", "6.0 of 15.7"),
        (replace(CPU, system="WSL1"), "system", "WSL1"),
        (MAC, "system", "not Apple's GPU"),
        (PLAIN_CPU, "why", "no bfloat16 instructions"),
    ],
)
def test_what_only_deserves_a_note_is_no_fault(findings, name, said):
    diagnosis = examined(findings)
    assert not diagnosis.faults
    assert fact(diagnosis, name).state == "note" and said in fact(diagnosis, name).value


@pytest.mark.parametrize(
    ("findings", "name", "said"),
    [
        (CPU, "bfloat16", "yes, in hardware"),
        (PLAIN_CPU, "bfloat16", "no, so float32 is used"),
        (T4, "bfloat16", "no, so float16 is used"),
        (GPU_16, "bfloat16", "yes, in hardware"),
        (GPU_16, "gpu", "RTX 4080, compute capability 8.9"),
        (GPU_16, "GPU's memory", "15.4 of 15.7 GiB are free"),
        (GPU_16, "driver", "580.65.06, serves CUDA up to 13.0"),
        (GPU_16, "compiler", "gcc, Python.h"),
        (CPU, "gpu", "no NVIDIA GPU"),
        (CPU, "model hubs", "mirror, modelscope reachable (not huggingface: no answer)"),
        (replace(CPU, hubs=None), "model hubs", "not asked"),
        (CPU, "packages", "all 3 as pinned"),
        (WSL, "system", "WSL2"),
        (replace(CPU, imported=("unsloth", "transformers", "trl")), "torch", "built without CUDA"),
    ],
)
def test_plain_facts(findings, name, said):
    found = fact(examined(findings), name)
    assert found.state == "ok" and said in found.value and not found.remedy


def test_without_a_gpu_nobody_needs_a_compiler():
    assert not [fact for fact in examined(CPU).facts if fact.name == "compiler"]


# ---- the verdict


@pytest.fixture
def known_budgets(monkeypatch):
    """Budgets by hand: training needs the first figure, answering in 16 bits the second."""
    needs = {
        "0.6B": (2, 3),
        "1.7B": (4, 5),
        "4B": (6, 10),
        "8B": (9, 18),
        "14B": (15, 31),
        "135m": (2, 1),
        "coder-0.5b": (5, 4),
    }

    def budget(config, profile, *, generate=False):
        name = next(name for name, known in CONFIGS.items() if known is config)
        train, answer = next(figures for size, figures in needs.items() if f"-{size}" in name)
        return SimpleNamespace(gib=answer if generate else train + 8 * (profile.name == "24gb"))

    monkeypatch.setattr(doctor, "memory_budget", budget)


def states(findings, name=None):
    fits = model_fits(choose(name, findings.hardware), findings.hardware)
    return {fit.model.split("-", 1)[1]: fit.state for fit in fits}


def test_fits_tight_and_too_large(known_budgets):
    found = states(GPU_16)
    assert found["4B-Instruct-2507"] == found["0.6B"] == "fits"
    assert found["8B"] == "trains only"  # 9 of 15.7 to train, 18 to answer in 16 bits
    assert found["14B"] == "trains only"
    assert states(GPU_8)["14B"] == "too large"
    assert states(with_gpu("a GPU", 10.8, (8, 9)))["4B-Instruct-2507"] == "tight"
    assert states(with_gpu("a GPU", 10.9, (8, 9)))["4B-Instruct-2507"] == "fits"


def test_without_a_gpu_only_the_small_models_are_offered(known_budgets):
    found = states(CPU)
    assert found.pop("135m-instruct") == found.pop("coder-0.5b-instruct") == "fits"
    assert set(found.values()) == {"needs a GPU"}


def test_the_verdict_for_16_gb(known_budgets):
    assert examined(GPU_16).verdict == ("You can do the lessons with Qwen/Qwen3-4B-Instruct-2507 (profile 16gb).",)


def test_the_verdict_for_24_gb_budgets_its_own_model_in_16_bits(known_budgets):
    diagnosis = examined(GPU_24)
    own = next(fit for fit in diagnosis.models if fit.model == diagnosis.profile.model)
    assert (own.base, own.train_gib) == ("16 bits", 14)
    assert diagnosis.verdict[0].endswith("Qwen3-4B-Instruct-2507 (profile 24gb).")


def test_the_verdict_for_8_gb_is_the_4_billion_model_in_4_bits(known_budgets):
    diagnosis = examined(GPU_8)
    assert diagnosis.verdict == ("You can do the lessons with Qwen/Qwen3-4B-Instruct-2507 (profile 8gb).",)
    assert "answers so, too" in fact(diagnosis, "why").value


@pytest.mark.parametrize(("findings", "base"), [(GPU_6, "16gb"), (OLD_8, "t4")])
def test_a_smaller_or_older_gpu_gets_the_small_model_and_a_way_on(known_budgets, findings, base):
    verdict = examined(findings).verdict
    assert verdict[0] == "You can do the lessons with qwen2.5-coder-0.5b-instruct (profile cpu)."
    assert f'replace(PROFILES["{base}"], model="Qwen/Qwen3-1.7B")' in verdict[1]
    assert "needs an 8 GB GPU" in fact(examined(findings), "why").value


def test_a_gpu_for_no_qwen_promises_none(known_budgets):
    assert not any("replace(" in sentence for sentence in examined(with_gpu("a GPU", 2.0, (8, 6))).verdict)


def test_a_profile_that_cannot_work_is_a_fault(known_budgets):
    diagnosis = examined(CPU, "16gb")
    assert [fault.name for fault in diagnosis.faults] == ["profile"]
    assert "COURSE_PROFILE unset" in diagnosis.faults[0].remedy
    assert not any(sentence.startswith("You can") for sentence in diagnosis.verdict)
    diagnosis = examined(with_gpu("a GPU", 13.9, (8, 9)), "24gb")
    assert [fault.name for fault in diagnosis.faults] == ["profile"] and len(diagnosis.verdict) == 1


def test_on_a_cpu_the_minutes_are_those_of_the_readme():
    (minutes,) = re.findall(r"make course .*about (\d+) minutes", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert f"about {minutes} minutes" in examined(CPU).verdict[1]


def test_a_gpu_that_torch_does_not_see_is_not_told_to_buy_one():
    verdict = examined(replace(UNSEEN, visible="-1")).verdict
    assert verdict[0] == "Not yet. Faults to mend first: 1; what to do stands under each."
    assert verdict[1].startswith("You can then do the lessons with qwen2.5-coder")
    assert not any("needs a CUDA GPU" in sentence for sentence in verdict)
    assert fact(examined(UNSEEN), "gpu").value == "NVIDIA GeForce RTX 4080"


@pytest.mark.parametrize("findings", MACHINES, ids=lambda found: f"{found.system} {found.hardware.gpu}")
def test_real_budgets_grow_with_the_model_and_the_profiles_fit_their_machines(findings):
    diagnosis = examined(findings)
    own = next(fit for fit in diagnosis.models if fit.model == diagnosis.profile.model)
    assert own.state == "fits" or (own.state == "tight" and findings.hardware.vram_gib < 8)
    in_4_bits = [fit.train_gib for fit in diagnosis.models if fit.base == "4 bits"]
    assert len(in_4_bits) >= 4 and in_4_bits == sorted(in_4_bits)


def test_every_profiles_model_has_a_config():
    assert {profile.model for profile in PROFILES.values()} <= set(CONFIGS)


def test_what_is_on_disk_needs_no_room_again():
    little = short_of(GPU_16, disk_free_gib=9.0)
    assert fact(examined(little), "disk").state == "fault"
    assert fact(examined(replace(little, on_disk=True)), "disk").state == "ok"


# ---- this machine


def test_an_unknown_profile_is_refused_before_anything_is_asked(monkeypatch):
    monkeypatch.setattr(machine, "look", lambda: CPU)
    monkeypatch.setattr(hub, "reachable", lambda seconds: pytest.fail("asked"))
    with pytest.raises(ProfileError):
        doctor.examine("huge")


def test_the_hubs_are_asked_unless_offline(monkeypatch):
    monkeypatch.setattr(machine, "look", lambda: replace(CPU, hubs=None))
    monkeypatch.setattr(hub, "reachable", lambda seconds: {"mirror": None})
    assert "mirror reachable" in fact(doctor.examine("tiny"), "model hubs").value
    assert fact(doctor.examine("tiny", online=False), "model hubs").value == "not asked"


# ---- what people see


def invoke(monkeypatch, findings, *arguments):
    monkeypatch.setattr(machine, "look", lambda: findings)
    return CliRunner().invoke(cli.app, ["doctor", "--offline", *arguments])


def test_the_exit_code_says_whether_there_are_faults(monkeypatch):
    assert invoke(monkeypatch, GPU_16).exit_code == 0
    ended = invoke(monkeypatch, short_of(disk_free_gib=0.1))
    assert ended.exit_code == 1 and "FAULT" in ended.stdout


def test_json_is_the_whole_output(monkeypatch):
    ended = invoke(monkeypatch, short_of(GPU_16, disk_free_gib=0.1), "--json", "--profile", "t4")
    data = json.loads(ended.stdout)
    assert ended.exit_code == 1 and data["faults"] == 1
    assert data["profile"]["name"] == "t4" and data["facts"][0]["name"] == "disk"
    assert {model["model"] for model in data["models"]} == set(CONFIGS)


@pytest.mark.parametrize("findings", [*MACHINES, WINDOWS], ids=lambda found: f"{found.system} {found.hardware.gpu}")
def test_it_fits_on_one_screen_without_colour(findings):
    lines = repr(examined(findings)).splitlines()
    assert len(lines) <= 36 and max(map(len, lines)) <= 100
    assert not any("\x1b" in line for line in lines)


def test_the_terminal_gets_colours_unless_it_asks_for_none(monkeypatch):
    def printed():
        page = Console(force_terminal=True, color_system="truecolor", width=100, _environ=dict(os.environ))
        with page.capture() as kept:
            page.print(examined(GPU_16))
        return kept.get()

    monkeypatch.delenv("NO_COLOR", raising=False)
    assert "\x1b[32mok" in printed()
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[32m" not in printed() and "ok" in printed()


def test_the_notebook_gets_a_table_that_escapes_what_it_shows():
    page = examined(replace(CPU, gpu_on_bus=True, smi_error="<script>"))._repr_html_()
    assert "&lt;script&gt;" in page and "<script>" not in page
    assert "FAULT" in page and page.count("<table>") == 2 == page.count("</table>")
