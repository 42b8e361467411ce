"""What this machine can run, what is wrong with it, and what to do about that.

Everything is judged from what `machine.look` gathered, so that a machine nobody has at hand (an 8 GB GPU, a Mac, a
driver that is too old) can be described and tested. `doctor_view` shows the diagnosis.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, get_args

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from course_utils import hub
from course_utils.core import profiles
from course_utils.core.budget import CONFIGS, GIB, Shape, weights
from course_utils.core.hardware import BF16_CAPABILITY, Hardware
from course_utils.core.paths import home
from course_utils.core.profiles import PROFILES, Profile, memory_budget
from course_utils.hub.fetch import ROOM_MARGIN
from course_utils.lessons import doctor_view, machine
from course_utils.lessons.machine import STACK, Findings

if TYPE_CHECKING:
    from rich.console import Group

SMALL = PROFILES["cpu"].model
CPU_MINUTES = 24  # as README.md states it, with the machine it was timed on
TIGHT = 0.92  # above this share of the memory any other program tips it over
HELD_SHARE = 0.85  # of a GPU's memory should be free before a training
LESSON_GIB = 4.3  # the most that a lesson held on a CPU: lesson 04, which also trains all weights for a few steps
SYSTEM_GIB = 1.5  # memory for the system, JupyterLab and a browser's tab
CUDA_13_SINCE = (7, 5)  # Turing; CUDA 13 has no kernels for older GPUs (its release notes, "deprecated architectures")
RUN_GIB = 0.5  # disk for rows, adapters, checkpoints and reports

State = Literal["fault", "note", "ok"]  # the worst first
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
    """What a model would need on this machine."""

    model: str  # a name for hub.download
    base: str  # how the frozen base is held in training: "4 bits" or "16 bits"
    train_gib: float  # memory that training needs at its peak
    answer_gib: float  # memory that lesson 05 needs, which answers with the base in 16 bits
    state: FitState  # "tight": above TIGHT of the memory there; "trains only": lesson 05 does not fit

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
        return doctor_view.text(self)

    def __rich__(self) -> Group:
        return doctor_view.terminal(self)

    def _repr_html_(self) -> str:
        return doctor_view.page(self)


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


def judge(findings: Findings, profile: Profile) -> Diagnosis:
    """Turn what was seen into facts, the faults first, and a plain verdict.

    Args:
        findings: from `machine.look`.
        profile: from `profiles.choose`, for `findings.hardware`.
    """
    models = model_fits(profile, findings.hardware)
    facts = [
        _profile(findings, profile, models),
        Fact("why", profile.reason, "note" if "Warning:" in profile.reason else "ok"),
        _driver(findings),
        *_gpu(findings),
        _torch(findings),
        *_companions(findings),
        _python(findings),
        _packages(findings),
        _import_order(findings),
        *_variables(findings),
        _system(findings),
        *_memory_and_disk(findings, profile),
        _hubs(findings, profile),
    ]
    found = sorted(filter(None, facts), key=lambda fact: get_args(State).index(fact.state))
    faults = sum(fact.state == "fault" for fact in found)
    return Diagnosis(tuple(found), tuple(_verdict(findings, profile, models, faults)), models, profile)


def model_fits(profile: Profile, hardware: Hardware) -> tuple[ModelFit, ...]:
    """What each model of the course's list needs, with the settings it would be trained with on this hardware.

    The profile's own model is budgeted with the profile's settings, another Qwen3 with those of profile 16gb, the small
    one with those of profile cpu.
    """
    there = hardware.vram_gib if hardware.device == "cuda" else hardware.ram_gib - SYSTEM_GIB
    fits = []
    for model, config in CONFIGS.items():
        settings = profile if model == profile.model else PROFILES["cpu" if model == SMALL else "16gb"]
        needs = memory_budget(config, settings).gib
        answers = memory_budget(config, replace(settings, load_in_4bit=False), generate=True).gib
        state: FitState = "tight" if max(needs, answers) > TIGHT * there else "fits"
        if hardware.device == "cpu" and model != SMALL:
            state = "needs a GPU"
        elif needs > there:
            state = "too large"
        elif answers > there:
            state = "trains only"
        fits.append(ModelFit(model, f"{settings.bits} bits", round(needs, 1), round(answers, 1), state))
    return tuple(fits)


# ---- the facts


def _fault(name: str, value: str, remedy: str) -> Fact:
    return Fact(name, value, "fault", remedy)


def _note(name: str, value: str, remedy: str = "") -> Fact:
    return Fact(name, value, "note", remedy)


def _profile(findings: Findings, profile: Profile, models: Sequence[ModelFit]) -> Fact:
    own = next(fit for fit in models if fit.model == profile.model)
    lies = "on disk" if findings.on_disk else "not downloaded yet"
    value = f"{profile.name}: {own.short}, base in {own.base}, arithmetic in {profile.dtype} ({lies})"
    if own.state == "needs a GPU" or (own.state == "too large" and findings.hardware.device == "cuda"):
        return _fault("profile", value, "Leave --profile out and COURSE_PROFILE unset: the machine then decides.")
    return Fact("profile", value, "ok" if own.state == "fits" else "note")


def _driver(findings: Findings) -> Fact | None:
    said = findings.smi_error
    if said and findings.gpu_on_bus:
        value = f"There is an NVIDIA GPU, but its driver does not answer. nvidia-smi says: {said}"
        return _fault("driver", value, "Restart the machine; if that does not help, install NVIDIA's driver anew.")
    if said:
        return _note("driver", f"nvidia-smi is installed, but says: {said}")
    if findings.gpu_on_bus and not findings.gpus:
        value = "There is an NVIDIA GPU, but no driver for it, so the CPU does the work."
        return _note("driver", value, "Install NVIDIA's driver, then run `python install.py` again.")
    if findings.driver is None:
        return None
    serves = f", serves CUDA up to {findings.driver_cuda}" if findings.driver_cuda else ""
    return Fact("driver", f"{findings.driver}{serves}")


def _gpu(findings: Findings) -> Iterator[Fact]:
    """The GPU and its memory, and whether there is bfloat16 arithmetic."""
    hardware = findings.hardware
    if hardware.device == "cuda":
        has, first = (".".join(map(str, number)) for number in (hardware.capability or (0, 0), BF16_CAPABILITY))
        yield Fact("gpu", f"{hardware.gpu}, compute capability {has}")
        there = hardware.vram_gib
        free = next((gpu.free_gib for gpu in findings.gpus if gpu.name == hardware.gpu), None)
        if free is not None and free < HELD_SHARE * there:
            value = f"{free:.1f} of {there:.1f} GiB are free: something else holds the rest."
            remedy = "Shut down other notebooks' kernels; `nvidia-smi` lists who holds it."
            yield _note("GPU's memory", value, remedy)
        else:
            yield Fact("GPU's memory", f"{there:.1f} GiB" + (f", {free:.1f} free" if free is not None else ""))
        no = f"no: {has} is older than {first} (Ampere), so float16 is used"
        yield Fact("bfloat16", f"yes: in hardware since compute capability {first} (Ampere)" if hardware.bf16 else no)
        return
    if findings.gpus:
        gpu = findings.gpus[0]
        size = f", {gpu.total_gib:.1f} GiB" if gpu.total_gib else ""
        yield _note("gpu", f"{gpu.name}{size}: there, but torch does not see it")
    elif not findings.gpu_on_bus:
        yield Fact("gpu", "no NVIDIA GPU")
    if findings.torch:
        no = "no: this CPU has no bfloat16 instructions (avx512_bf16, amx_bf16; ARM: bf16), so float32 is used"
        yield Fact("bfloat16", f"yes: this CPU has {', '.join(findings.cpu_bf16)}" if findings.cpu_bf16 else no)


def _torch(findings: Findings) -> Fact:
    """Whether torch can be imported, sees the GPU that is there, and can compute on it."""
    if findings.torch is None:
        return _fault("torch", f"cannot be used: {findings.torch_error}", "python install.py")
    hardware, cuda = findings.hardware, findings.torch_cuda
    value = f"{findings.torch}, {f'built for CUDA {cuda}' if cuda else 'built without CUDA'}"
    too_old = hardware.capability is not None and hardware.capability < CUDA_13_SINCE
    if too_old and cuda and _major(cuda) >= 13:
        value += f", which has no kernels for the {hardware.gpu}: CUDA 13 begins with Turing"
        remedy = "Set CUDA_VISIBLE_DEVICES=-1 where you start Jupyter, which uses the CPU"
        return _fault("torch", value, f"{remedy}; or install a torch built for CUDA 12.")
    if hardware.device == "cuda" or not findings.gpus:
        return Fact("torch", value)
    unseen = f"{value}. It does not see the {findings.gpus[0].name}"
    if cuda is None:
        remedy = "python -m pip uninstall -y torch, then python install.py"
        return _fault("torch", f"{unseen}, because it is a build for CPUs.", remedy)
    if _hides(findings.visible, len(findings.gpus)):
        remedy = "Unset CUDA_VISIBLE_DEVICES (or set it to 0) where you start Jupyter, then restart the kernel."
        return _fault("torch", f'{unseen}, because CUDA_VISIBLE_DEVICES is "{findings.visible}".', remedy)
    if findings.driver_cuda and _major(findings.driver_cuda) < _major(cuda):
        value = f"{unseen}: the driver serves CUDA up to {findings.driver_cuda} only."
        return _fault("torch", value, "Update NVIDIA's driver.")
    value = f"{unseen}: {findings.torch_error}" if findings.torch_error else f"{unseen}."
    return _fault("torch", value, "Update NVIDIA's driver and restart; in a container, start it with `--gpus all`.")


def _hides(visible: str | None, gpus: int) -> bool:
    """True where a value of CUDA_VISIBLE_DEVICES leaves no GPU: CUDA stops at the first entry that names none."""
    if visible is None:
        return False
    first = visible.split(",")[0].strip()
    return not first.startswith(("GPU-", "MIG-")) and not (first.isdigit() and int(first) < gpus)


def _major(number: str) -> int:
    return int(number.split(".")[0])


def _companions(findings: Findings) -> Iterator[Fact]:
    """Companions of torch that break `import transformers`, which imports them where it finds them."""
    for name, (number, error) in (findings.companions or {}).items():
        for_cuda = findings.torch and findings.torch_cuda is None and ("+cu" in number or name == "xformers")
        if error or for_cuda:
            why = f"cannot be imported beside torch {findings.torch} ({error})" if error else "is built for CUDA"
            value = f"{number} {why}, which can break `import transformers`. The course does not need it."
            yield _fault(name, value, f"python -m pip uninstall -y {name}, then restart the kernel")


def _python(findings: Findings) -> Fact:
    value = f"{findings.python} (the course needs {findings.requires_python})"
    if SpecifierSet(findings.requires_python).contains(findings.python, prereleases=True):
        return Fact("Python", value)
    remedy = "Install Python 3.11, 3.12 or 3.13, then `make PYTHON=/path/to/python3.12 install`."
    return _fault("Python", value, remedy)


def _packages(findings: Findings) -> Fact:
    wrong = []
    for pin in map(Requirement, findings.requirements):
        number = findings.installed.get(pin.name)
        if number is None:
            wrong.append(f"{pin.name} is missing")
        elif not pin.specifier.contains(number, prereleases=True):
            wrong.append(f"{pin.name} is {number}, wanted {pin.specifier}")
    if wrong:
        more = f"; and {len(wrong) - 4} more" if len(wrong) > 4 else ""
        return _fault("packages", "; ".join(wrong[:4]) + more, "python install.py")
    shown = ", ".join(f"{name} {findings.installed[name]}" for name in STACK[1:] if name in findings.installed)
    return Fact("packages", f"all {len(findings.requirements)} as pinned: {shown}")


def _import_order(findings: Findings) -> Fact | None:
    """Unsloth patches transformers, TRL and PEFT while they are imported, so it must come first."""
    came, remedy = findings.imported, "Restart the kernel and run setup() first."
    if not came or came[0] == "unsloth":
        return None
    if "unsloth" not in came:
        return _note("Unsloth", f"{', '.join(came)} came before it: too late to train in this process", remedy)
    early = ", ".join(came[: came.index("unsloth")])
    return _fault("Unsloth", f"imported too late, after {early}: its patches are incomplete", remedy)


def _variables(findings: Findings) -> Iterator[Fact]:
    remedy = "Set it before Python starts (or before the first import), then restart."
    for late in findings.late:
        now = f"{late.name} is {late.environment or 'not set'}"
        yield _fault("variable", f"{now}, but huggingface_hub had read it before and goes on with {late.held}.", remedy)
    if findings.hardware.device == "cuda" and findings.gpus and _hides(findings.visible, len(findings.gpus)):
        value = f'CUDA_VISIBLE_DEVICES="{findings.visible}" came after CUDA had started, so it does nothing.'
        yield _fault("variable", value, remedy)


def _system(findings: Findings) -> Fact:
    value = f"{findings.system} {findings.release}"
    if findings.system == "Windows":
        remedy = "Run `wsl --install` in an administrator's PowerShell, then clone and install the course inside WSL2."
        return _fault("system", f"{value}: the course runs on Windows inside WSL2 only", remedy)
    if findings.system == "WSL1":
        return _note("system", f"{value}: WSL1 passes no GPU on", "wsl --set-version <your distribution> 2")
    if findings.system == "macOS":
        return _note("system", f"{value}: no CUDA here; the course uses the CPU, not Apple's GPU")
    return Fact("system", value)


def _memory_and_disk(findings: Findings, profile: Profile) -> Iterator[Fact]:
    hardware, remedy = findings.hardware, "Close other programs, or open the lessons in Colab."
    value = f"{hardware.ram_gib:.1f} GiB, {hardware.cores} cores"
    yield _enough("memory", value, hardware.ram_gib, ram_needed(profile), "the lessons need", remedy)
    free, wanted = hardware.disk_free_gib, disk_needed(profile, findings.on_disk)
    remedy = f"Free {wanted - free:.1f} GiB, or clone the course to a larger disk."
    yield _enough("disk", f"{free:.1f} GiB free", free, wanted, "download and lessons need", remedy)
    if findings.unwritable:
        remedy = "Give yourself the right to write there, or clone the course into your own folder."
        yield _fault("models/", f"nothing can be written there: {findings.unwritable}", remedy)


def _enough(name: str, value: str, there: float, wanted: float, who: str, remedy: str) -> Fact:
    return Fact(name, value) if there >= wanted else _fault(name, f"{value}; {who} {wanted:.1f} GiB", remedy)


def ram_needed(profile: Profile) -> float:
    """GiB of the machine's own memory that the lessons need: for training on a CPU, or for the merge of lesson 06."""
    config = CONFIGS[profile.model]
    if profile.device == "cpu":
        return max(LESSON_GIB, memory_budget(config, profile).gib) + SYSTEM_GIB
    return weights(Shape.of(config), 16).bytes / GIB + SYSTEM_GIB  # the merge adds up in 16 bits, on the CPU


def disk_needed(profile: Profile, on_disk: bool) -> float:
    """GiB of disk for the download, the merged model and what the lessons write."""
    model = weights(Shape.of(CONFIGS[profile.model]), 16).bytes / GIB
    download = hub.WHEELS[profile.model].room / GIB if profile.model in hub.WHEELS else model
    return (0 if on_disk else download * ROOM_MARGIN) + model + RUN_GIB


def _hubs(findings: Findings, profile: Profile) -> Fact:
    if findings.hubs is None:
        return Fact("model hubs", "not asked")
    names: dict[str | None, list[str]] = {}
    for name, why in findings.hubs.items():
        names.setdefault(why, []).append(name)
    reached = ", ".join(names.pop(None, []))
    missed = "; ".join(f"{', '.join(each)}: {why}" for why, each in names.items())
    if reached:
        return Fact("model hubs", f"{reached} reachable" + (f" (not {missed})" if missed else ""))
    if findings.on_disk or profile.model in hub.WHEELS:
        source = "is on disk" if findings.on_disk else "comes with pip, not from a hub"
        return _note("model hubs", f"none reachable, none needed: {profile.model} {source} ({missed})")
    remedy = f"Set HTTPS_PROXY, or pass endpoint= to hub.download, or copy the model to models/{profile.model}."
    return _fault("model hubs", f"none reachable, and {profile.model} is not on disk ({missed})", remedy)


# ---- the verdict


def _verdict(findings: Findings, profile: Profile, models: Sequence[ModelFit], faults: int) -> Iterator[str]:
    """What a learner can do here, in sentences."""
    hardware = findings.hardware
    if findings.system == "Windows":
        yield "Not here: the course runs on Windows inside WSL2 only. Install it, and run doctor there."
        return
    own, *larger = models[[fit.model for fit in models].index(profile.model) :]
    name = "SmolLM2-135M-Instruct" if own.model == SMALL else own.short
    if faults:
        many = "faults come" if faults > 1 else "fault comes"
        yield f"Not yet: {faults} {many} first; what to do stands under each."
    if own.state in {"needs a GPU", "too large"}:
        there = f"the GPU has {hardware.vram_gib:.1f}" if hardware.device == "cuda" else "torch sees no GPU"
        if own.model == SMALL:
            there = f"of {hardware.ram_gib:.1f} the system takes about {SYSTEM_GIB}"
        yield f"Profile {profile.name} does not fit: {name} needs {own.train_gib:.1f} GiB, and {there}."
        return
    held = f" in {own.base}" if profile.name != "cpu" else ""
    yield f"You can {'then ' if faults else ''}do lessons 1-6 with {name}{held} (profile {profile.name})."
    if own.state == "tight":
        yield "The memory is just enough: close other programs first."
    if hardware.device == "cpu":
        timed = f"They took about {CPU_MINUTES} minutes on the two cores where they were last timed"
        yield f"{timed}; nobody has timed them on a Mac." if findings.system == "macOS" else f"{timed}."
        if findings.gpus:
            yield f"Once torch sees the {findings.gpus[0].name}, run doctor again: the GPU then decides."
        else:
            qwen = PROFILES["16gb"].model.split("/")[-1]
            yield f"{qwen} needs a CUDA GPU: a T4 in Colab, or one with 16 GB."
    elif profile.name == "cpu":
        if hardware.vram_gib < profiles.NEEDED_VRAM_GIB:
            yield f"The larger profiles need a 16 GB GPU; this one has {hardware.vram_gib:.1f} GiB."
        if fitting := [fit for fit in larger if fit.state == "fits"]:
            yield (
                f"By memory, {fitting[-1].short} is the largest Qwen3 for all lessons: pass "
                f'replace(PROFILES["{"16gb" if hardware.bf16 else "t4"}"], model="{fitting[-1].model}") by hand.'
            )
        yield from (_about(fit) for fit in larger if fit.state == "trains only")
    else:
        yield from map(_about, larger)


def _about(fit: ModelFit) -> str:
    """One sentence about a model that is not the profile's."""
    needs = f"{fit.short} in {fit.base} needs {fit.train_gib:.1f} GiB"
    return {
        "fits": f"{needs} and fits, too.",
        "tight": f"{needs} (lesson 05: {fit.answer_gib:.1f}), which is tight.",
        "trains only": f"{needs}: it trains, but lesson 05, in 16 bits, needs {fit.answer_gib:.1f}.",
        "too large": f"{needs}: too large.",
    }[fit.state]
