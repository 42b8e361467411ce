"""What this machine can run, what is wrong with it, and what to do about that.

Everything is judged from what `machine.look` gathered, so that a machine nobody has at hand (an 8 GB GPU, a Mac, a
driver that is too old) can be described and tested.
"""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from itertools import takewhile
from typing import Any

from packaging.requirements import Requirement
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from course_utils import hub
from course_utils.core import profiles
from course_utils.core.budget import CONFIGS, GIB, Shape, weights
from course_utils.core.hardware import Hardware
from course_utils.core.language import said
from course_utils.core.paths import home
from course_utils.core.profiles import PROFILES, Profile, memory_budget
from course_utils.hub.fetch import ROOM_MARGIN
from course_utils.lessons import machine, tables
from course_utils.lessons.machine import Findings

SMALL = {PROFILES[name].model: PROFILES[name] for name in ("cpu", "tiny")}  # the models that a CPU trains
CPU_MINUTES = 38  # as README.md states it, with the machine it was timed on
TIGHT = 0.92  # above this share of the memory any other program tips it over
HELD_SHARE = 0.85  # of a GPU's memory should be free before a training
# The most that lesson 04 held on a CPU, measured when it also trained all weights for a few steps.
LESSON_GIB = {("tiny", "bfloat16"): 4.3, ("tiny", "float32"): 4.3, ("cpu", "bfloat16"): 7.1, ("cpu", "float32"): 11.3}
SYSTEM_GIB = 1.5  # memory for the system, JupyterLab and a browser's tab
CUDA_13_SINCE = (7, 5)  # Turing; CUDA 13 has no kernels for older GPUs (its release notes, "deprecated architectures")
RUN_GIB = 0.5  # disk for rows, adapters, checkpoints and reports
SYSTEMS: dict[str, tuple[str, str, str]] = {  # those about which there is something to say
    "Windows": ("fault", ": the course runs inside WSL2 only", "Run `wsl --install`, then install the course there."),
    "WSL1": ("note", ": WSL1 passes no GPU on", "wsl --set-version <your distribution> 2"),
    "macOS": ("note", ": no CUDA here; the course uses the CPU, not Apple's GPU", ""),
}
COMPILER = {  # what installs a C compiler and the headers of Python {0}, by what the system installs with
    "conda": "conda install -c conda-forge c-compiler, then activate the environment anew, which sets CC",
    "apt-get": "sudo apt-get install build-essential python{0}-dev",
    None: "Install gcc and the headers of Python {0}; a compiler of another name goes into the variable CC.",
}
COLOURS = {"fault": "bold red", "note": "yellow", "ok": "green"}  # the worst first
BELOW = "Memory by calculation. Lesson 05 answers with the base in 16 bits, with profile 8gb in 4."


@dataclass(frozen=True)
class Fact:
    """One line of the diagnosis."""

    name: str
    value: str
    state: str = "ok"  # or note, or fault
    remedy: str = ""

    @property
    def cells(self) -> tuple[str, str, str]:
        """The line as it is shown: state, name, and the value with what to do."""
        sign, value = "FAULT" if self.state == "fault" else self.state, said(self.value)
        return said(sign), said(self.name), f"{value}\n→ {said(self.remedy)}" if self.remedy else value


@dataclass(frozen=True)
class ModelFit:
    """What a model would need on this machine."""

    model: str  # a name for hub.download
    base: str  # how the frozen base is held in training: "4 bits" or "16 bits"
    train_gib: float  # memory that training needs at its peak
    answer_gib: float  # memory that lesson 05 needs, as the profile answers there: in 16 bits, or in 4
    state: str  # fits, tight (above TIGHT of the memory), trains only (not lesson 05), too large, needs a GPU


@dataclass(frozen=True)
class Diagnosis:
    """The machine in plain words: a table in a notebook, colours in a terminal, data for a program."""

    facts: tuple[Fact, ...]  # the worst first
    verdict: tuple[str, ...]  # sentences
    models: tuple[ModelFit, ...]
    profile: Profile

    @property
    def faults(self) -> tuple[Fact, ...]:
        return tuple(fact for fact in self.facts if fact.state == "fault")

    def to_dict(self) -> dict[str, Any]:
        """The diagnosis for JSON."""
        return {"faults": len(self.faults), **asdict(self)}

    def __repr__(self) -> str:
        console = Console(width=100, color_system=None, force_jupyter=False)
        with console.capture() as kept:
            console.print(self)
        return kept.get().rstrip()

    def __rich__(self) -> Group:
        facts = Table.grid(padding=(0, 2, 0, 0))
        for fact in self.facts:
            sign, name, words = fact.cells
            facts.add_row(Text(sign, COLOURS[fact.state]), Text(name, "bold"), Text(words))
        return Group(
            Text("\n".join(map(said, self.verdict)), "bold"), "", facts, "", Text(self._models().text), said(BELOW)
        )

    def _repr_html_(self) -> str:
        verdict = "<br>".join(html.escape(said(line)) for line in self.verdict)
        facts = tables.table((fact.cells for fact in self.facts), columns=("", "what", "found")).html
        return f"<p><b>{verdict}</b></p>{facts}<br>{self._models().html}<small>{said(BELOW)}</small>"

    def _models(self) -> tables.Shown:
        rows = [
            (fit.model, fit.base, f"{fit.train_gib:.1f} GiB", f"{fit.answer_gib:.1f} GiB", said(fit.state))
            for fit in self.models
        ]
        return tables.table(rows, columns=("model", "base in", "training", "lesson 05", "here"))


def examine(profile: str | None = None, *, online: bool = True) -> Diagnosis:
    """Look at this machine and say what it can run and what is wrong with it.

    Args:
        profile: a profile's name; None leaves the choice to COURSE_PROFILE and the hardware.
        online: also ask whether the model hubs answer (a few seconds).

    Raises:
        ProfileError: an unknown profile.
    """
    findings = machine.look()
    chosen = profiles.choose(profile, findings.hardware)
    on_disk = (home() / "models" / chosen.model / "config.json").is_file()
    return judge(replace(findings, on_disk=on_disk, hubs=hub.reachable(seconds=4.0) if online else None), chosen)


def judge(findings: Findings, profile: Profile) -> Diagnosis:
    """Turn what was seen into facts, the faults first, and a plain verdict; `profile` is chosen for the hardware."""
    models = model_fits(profile, findings.hardware)
    facts = [
        *_profile(findings, profile, models),
        *_gpu(findings, profile),
        _torch(findings),
        *_packages(findings),
        *_process(findings),
        *_system(findings, profile),
        _hubs(findings, profile),
    ]
    facts.sort(key=lambda fact: list(COLOURS).index(fact.state))
    verdict = _verdict(findings, profile, models, sum(fact.state == "fault" for fact in facts))
    return Diagnosis(tuple(facts), tuple(verdict), models, profile)


def model_fits(profile: Profile, hardware: Hardware, configs: Mapping[str, Any] = CONFIGS) -> tuple[ModelFit, ...]:
    """What each model of a list needs: the profile's with its settings, others with those of cpu, tiny, 8gb or 16gb."""
    there = hardware.vram_gib if hardware.device == "cuda" else hardware.ram_gib - SYSTEM_GIB
    fits, others = [], PROFILES["8gb" if profile.name == "8gb" else "16gb"]
    for model, config in configs.items():
        settings = profile if model == profile.model else SMALL.get(model, others)
        needs = memory_budget(config, settings).gib
        answers = memory_budget(config, settings, generate=True).gib
        state = "tight" if max(needs, answers) > TIGHT * there else "fits"
        if hardware.device == "cpu" and settings.device == "cuda":
            state = "needs a GPU"
        elif needs > there:
            state = "too large"
        elif answers > there:
            state = "trains only"
        fits.append(ModelFit(model, f"{settings.bits} bits", round(needs, 1), round(answers, 1), state))
    return tuple(fits)


def _fact(name: str, value: str, fine: bool, remedy: str, state: str = "fault") -> Fact:
    """A fact that is fine, or else has a remedy."""
    return Fact(name, value) if fine else Fact(name, value, state, remedy)


def _profile(findings: Findings, profile: Profile, models: tuple[ModelFit, ...]) -> Iterator[Fact]:
    own = next(fit for fit in models if fit.model == profile.model)
    there = "on disk" if findings.on_disk else "not downloaded yet"
    value = f"{profile.name}: {own.model}, base in {own.base}, arithmetic in {profile.dtype} ({there})"
    cannot = own.state == "needs a GPU" or (own.state == "too large" and findings.hardware.device == "cuda")
    remedy = "Leave --profile out and COURSE_PROFILE unset: the machine then decides."
    yield _fact("profile", value, not cannot, remedy)
    yield Fact("why", profile.reason, "note" if "Warning:" in profile.reason else "ok")


def _gpu(findings: Findings, profile: Profile) -> Iterator[Fact]:
    """The driver, the GPU and its memory, and whether there is bfloat16 arithmetic."""
    hardware = findings.hardware
    if findings.smi_error:
        remedy = "Restart the machine; if that does not help, install NVIDIA's driver anew."
        state = "fault" if findings.gpu_on_bus else "note"
        yield Fact("driver", f"nvidia-smi says: {findings.smi_error}", state, remedy)
    elif findings.driver:
        yield Fact("driver", f"{findings.driver}, serves CUDA up to {findings.driver_cuda}")
    elif findings.gpu_on_bus and hardware.device == "cpu":
        value = "There is an NVIDIA GPU, but no driver for it, so the CPU does the work."
        yield Fact("driver", value, "note", "Install NVIDIA's driver, then run `python install.py` again.")
    if hardware.device == "cuda":
        yield Fact("gpu", f"{hardware.gpu}, compute capability {'.'.join(map(str, hardware.capability))}")
        total = hardware.vram_gib
        free = next((gpu.free_gib for gpu in findings.gpus if gpu.name == hardware.gpu), None) or total
        remedy = "Shut down other notebooks' kernels; `nvidia-smi` lists who holds the rest."
        value = f"{free:.1f} of {total:.1f} GiB are free"
        yield _fact("GPU's memory", value, free >= HELD_SHARE * total, remedy, "note")
        yield _compiler(findings)
    else:
        yield Fact("gpu", findings.gpus[0].name if findings.gpus else "no NVIDIA GPU")
    yield Fact("bfloat16", "yes, in hardware" if hardware.bf16 else f"no, so {profile.dtype} is used")


def _compiler(findings: Findings) -> Fact:
    """Whether Triton, in which Unsloth's kernels are written, can build the C code that starts them on the GPU."""
    wanted = {"C compiler (CC, gcc or clang)": findings.compiler, "Python.h": findings.python_h}
    missing = [name for name, there in wanted.items() if not there]
    value = (
        f"no {' and no '.join(missing)}: Triton cannot start a kernel" if missing else f"{findings.compiler}, Python.h"
    )
    remedy = COMPILER[findings.packager].format(".".join(findings.python.split(".")[:2]))
    return _fact("compiler", value, not missing, remedy)


def _torch(findings: Findings) -> Fact:
    """Whether torch can be imported, sees the GPU that is there, and can compute on it."""
    if findings.torch is None:
        return Fact("torch", f"cannot be used: {findings.torch_error}", "fault", "python install.py")
    hardware, cuda, gpus = findings.hardware, findings.torch_cuda, findings.gpus
    value = f"{findings.torch}, {f'built for CUDA {cuda}' if cuda else 'built without CUDA'}"
    if cuda and float(cuda) >= 13 and hardware.capability and hardware.capability < CUDA_13_SINCE:
        value += f", which has no kernels for the {hardware.gpu}: CUDA 13 begins with Turing"
        return Fact("torch", value, "fault", "python install.py, which takes a torch built for CUDA 12")
    if hardware.device == "cuda" or not gpus:
        return Fact("torch", value)
    why = findings.torch_error
    remedy = "Update NVIDIA's driver and restart; in a container, start it with `--gpus all`."
    if cuda is None:
        why, remedy = "it is a build for CPUs", "python -m pip uninstall -y torch, then python install.py"
    elif findings.driver_cuda and int(float(findings.driver_cuda)) < int(float(cuda)):
        why = f"the driver serves CUDA up to {findings.driver_cuda} only"
        if findings.driver_cuda.startswith("12."):
            remedy = "python install.py, which takes a torch for this driver; or update the driver"
    elif findings.visible not in {None, "0"}:
        why += f'; CUDA_VISIBLE_DEVICES is "{findings.visible}"'
        remedy = "Unset CUDA_VISIBLE_DEVICES (or set it to 0) where you start Jupyter, then restart the kernel."
    return Fact("torch", f"{value}. It does not see the {gpus[0].name}: {why}", "fault", remedy)


def _packages(findings: Findings) -> Iterator[Fact]:
    """Packages beside torch, which transformers imports where it finds them; Python; the pins."""
    for name, (number, error) in findings.companions.items():
        value = f"{number} breaks `import transformers` beside torch {findings.torch}, and the course does not need it"
        remedy = f"python -m pip uninstall -y {name}, then restart the kernel"
        yield Fact(name, f"{value}: {error}", "fault", remedy)
    yield Fact("Python", findings.python)  # pip and install.py refuse one that is not right
    wrong = [
        f"{pin.name} is {findings.installed.get(pin.name, 'missing')}, wanted {pin.specifier}"
        for pin in map(Requirement, findings.requirements)
        if not pin.specifier.contains(findings.installed.get(pin.name, "0"), prereleases=True)
    ]
    value = "; ".join(wrong[:4]) + f"; and {len(wrong) - 4} more" * (len(wrong) > 4)
    yield _fact("packages", value or f"all {len(findings.requirements)} as pinned", not wrong, "python install.py")


def _process(findings: Findings) -> Iterator[Fact]:
    """What came too late in this process: Unsloth, which patches transformers, TRL and PEFT, and variables."""
    if early := list(takewhile(lambda name: name != "unsloth", findings.imported)):
        value = f"comes after {', '.join(early)}: too late to train in this process"
        state = "fault" if "unsloth" in findings.imported else "note"
        yield Fact("Unsloth", value, state, "Restart the kernel and run setup() first.")
    late = [
        f"{each.name} is {each.environment or 'not set'}, but huggingface_hub goes on with {each.held}"
        for each in findings.late
    ]
    if findings.hardware.device == "cuda" and findings.visible in {"", "-1"}:
        late.append(f'CUDA_VISIBLE_DEVICES="{findings.visible}" came after CUDA had started, so it does nothing.')
    remedy = "Set it before Python starts (or before the first import), then restart."
    yield from (Fact("variable", value, "fault", remedy) for value in late)


def _system(findings: Findings, profile: Profile) -> Iterator[Fact]:
    """The system, its memory and its disk."""
    hardware = findings.hardware
    state, words, remedy = SYSTEMS.get(findings.system, ("ok", "", ""))
    yield Fact("system", f"{findings.system} {findings.release}{words}", state, remedy)
    size = weights(Shape.of(CONFIGS[profile.model]), 16).bytes / GIB  # downloaded, and merged on the CPU in lesson 06
    held = LESSON_GIB[profile.name, profile.dtype] if profile.device == "cpu" else size
    there, needed = hardware.ram_gib, SYSTEM_GIB + held
    value = f"{there:.1f} GiB, {hardware.cores} cores; the lessons need {needed:.1f} GiB"
    yield _fact("memory", value, there >= needed, "Close other programs, or open the lessons in Colab.")
    download = hub.WHEELS[profile.model].room / GIB if profile.model in hub.WHEELS else size
    there, needed = hardware.disk_free_gib, size + RUN_GIB + (0 if findings.on_disk else download * ROOM_MARGIN)
    value = f"{there:.1f} GiB free; download and lessons need {needed:.1f} GiB"
    remedy = f"Free {needed - there:.1f} GiB, or clone the course to a larger disk."
    yield _fact("disk", value, there >= needed, remedy)
    if not findings.writable:
        remedy = "Give yourself the right to write there, or clone the course into your own folder."
        yield Fact("models/", "nothing can be written there", "fault", remedy)


def _hubs(findings: Findings, profile: Profile) -> Fact:
    if findings.hubs is None:
        return Fact("model hubs", "not asked")
    missed = {name: why for name, why in findings.hubs.items() if why}
    reached = ", ".join(name for name in findings.hubs if name not in missed)
    why = f" (not {', '.join(missed)}: {', '.join(dict.fromkeys(missed.values()))})" if missed else ""
    if reached or findings.on_disk or profile.model in hub.WHEELS:
        return Fact("model hubs", f"{reached or 'none needed, none'} reachable{why}", "ok" if reached else "note")
    remedy = f"Set HTTPS_PROXY, or pass endpoint= to hub.download, or copy the model to models/{profile.model}."
    return Fact("model hubs", f"none reachable, and {profile.model} is not on disk{why}", "fault", remedy)


def _verdict(findings: Findings, profile: Profile, models: tuple[ModelFit, ...], faults: int) -> Iterator[str]:
    """What a learner can do here, in sentences; why it is this profile is a fact, other models are in the table."""
    if faults:
        yield f"Not yet. Faults to mend first: {faults}; what to do stands under each."
    own = next(fit for fit in models if fit.model == profile.model)
    if own.state in {"needs a GPU", "too large"}:
        return
    yield f"You can {'then ' if faults else ''}do the lessons with {own.model} (profile {profile.name})."
    fitting = [fit.model for fit in models if fit.state == "fits" and fit.model not in SMALL]
    if findings.hardware.device == "cpu":
        if profile.name == "cpu":
            yield f"They took about {CPU_MINUTES} minutes on the two cores, with bfloat16, where they were last timed."
        if not findings.gpus:
            yield f"{PROFILES['16gb'].model} needs a CUDA GPU: a T4 in Colab, or one with 16 GB."
    elif profile.name == "cpu" and fitting:
        way = f'replace(PROFILES["{"16gb" if findings.hardware.bf16 else "t4"}"], model="{fitting[-1]}")'
        yield f"For the largest Qwen3 that fits all lessons, pass {way} by hand."
