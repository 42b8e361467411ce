"""What the course does on this machine's GPU, in one go: `python tests/benchmarks/gpu_check.py`, ten minutes at most.

Each case of the plan runs in a process of its own (`gpu_steps.py`), with random weights and without a network. What it
finds is written into `gpu_check.json` as soon as it ends, and at the end `gpu_check.md` is a table of it, both in the
folder that `--out` or the variable OUT names (else `runs/gpu_check`). A case that fails is written down with its error,
what it printed goes into `gpu_check.log`, and the others go on. A case for which no time is left says so; its step can
be run alone: `gpu_check.py compiled`. `--toy` runs every step at toy size, on a CPU too.
"""

import argparse
import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS.parent), str(TESTS)]  # this clone, whichever one is installed

from benchmarks import gpu_shared, gpu_steps  # noqa: E402

from course_utils import machine  # noqa: E402
from course_utils.core.files import write_json, write_text  # noqa: E402

ROOT = TESTS.parent
PACKAGES = (
    *("torch", "transformers", "trl", "peft", "datasets", "accelerate", "bitsandbytes", "unsloth", "unsloth_zoo"),
    *("triton", "xformers"),
)
NEEDED = PACKAGES[:9]
SECONDS = 580  # for all of it, ten minutes with what starting and writing takes
FEWEST_SECONDS = 20  # to begin a case with
CAPS = {15.0: "16gb", 14.1: "t4"}  # GiB that such a GPU leaves to a process, and its profile
SMALL_ROUTE = {"UNSLOTH_FUSED_LINEAR_FLASH_MIN_ROWS": "0"}  # Unsloth's loss as on a GPU of at most 24 GiB


@dataclass(frozen=True)
class Case:
    """One process: a function of `gpu_steps.STEPS` with its arguments."""

    step: str
    case: str = ""
    function: str = ""
    arguments: dict[str, Any] = field(default_factory=dict)
    variables: dict[str, str] = field(default_factory=dict)  # of the environment
    unsloth: bool = True
    cold: bool = False  # compiles everything anew
    seconds: int = 90

    @property
    def key(self) -> str:
        return f"{self.step}: {self.case}" if self.case else self.step


def plan(toy: bool) -> list[Case]:
    """Every case, in the order in which they run; toy size needs no second cap."""

    rows = (gpu_shared.TOY if toy else gpu_shared.FULL).rows

    def cards(step: str, block_compile: str, seconds: int) -> list[Case]:
        return [
            Case(
                step,
                f"{cap} GiB, {rows} x 1" if at_once else f"{cap} GiB, 1 x {rows}",
                "cards",
                {"profile": profile, "cap_gib": cap, "at_once": at_once},
                SMALL_ROUTE | {"UNSLOTH_BLOCK_COMPILE_LEGACY": block_compile},
                cold=True,
                seconds=seconds,
            )
            for cap, profile in list(CAPS.items())[: 1 if toy else None]
            for at_once in (True, False)
        ]

    return [
        Case("make", unsloth=False, seconds=150),
        *cards("cards", "0", 100),
        Case("float16"),
        Case("merge", seconds=120),
        Case("evaluation", arguments={"cap_gib": 15.0}, seconds=120),
        Case("prompts", "Unsloth", arguments={"by": "unsloth"}),
        Case("prompts", "plain transformers", arguments={"by": "plain"}, unsloth=False),
        Case("resume", "bfloat16", arguments={"profile": "16gb"}),
        Case("resume", "float16", arguments={"profile": "t4"}),
        Case("24gb", arguments={"cap_gib": 23.0}, variables=SMALL_ROUTE),
        Case("plain", arguments={"cap_gib": 15.0}, unsloth=False),
        *cards("compiled", "1", 150),
    ]


def missing(toy: bool) -> str:
    """What keeps the script from running here, as a sentence; "" where nothing does."""
    if packages := [name for name in NEEDED if not find_spec(name)]:
        return f"these packages are missing: {', '.join(packages)} (`make install` brings them)."
    if toy:
        return ""
    import torch

    if not torch.cuda.is_available():
        return "torch sees no CUDA GPU here, so nothing was measured (--toy runs every step at toy size on a CPU)."
    files = [name for name in gpu_shared.TOKENIZER_FILES if not (gpu_shared.TOKENIZER / name).is_file()]
    if files:
        name = gpu_shared.TOKENIZER.name
        return f"models/{name} lacks {', '.join(files)}: `python -m course_utils download {name}`, or carry the folder."
    return ""


def in_a_process(cases: Sequence[Case], work: Path, toy: bool, seconds: float, log: Path) -> dict[str, dict[str, Any]]:
    """What a process found, by the keys of its cases; it sees the first GPU and no other."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environment |= {"HF_HUB_OFFLINE": "1", "UNSLOTH_DISABLE_STATISTICS": "1", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    environment["CUDA_VISIBLE_DEVICES"] = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    kept = work / (cases[0].key.replace(" ", "_") if cases[0].cold else "compiled")
    environment |= {"TORCHINDUCTOR_CACHE_DIR": str(kept / "inductor"), "TRITON_CACHE_DIR": str(kept / "triton")}
    asked = json.dumps([asdict(case) | {"key": case.key, "function": case.function or case.step} for case in cases])
    process = subprocess.Popen(
        [sys.executable, gpu_steps.__file__, str(work), "toy" if toy else "full", asked],
        env=environment,
        cwd=work,  # Unsloth leaves what it compiles in the working folder
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # so that what it started ends with it
    )
    stopped = ""
    try:
        output, errors = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, errors = process.communicate()
        stopped = f"stopped after {seconds:.0f} seconds"
    found: dict[str, dict[str, Any]] = {}
    for line in output.splitlines():
        if line.startswith(gpu_steps.ANSWER):
            facts = json.loads(line.removeprefix(gpu_steps.ANSWER))
            found.setdefault(facts.pop("key"), {}).update(facts)
    said = stopped or f"exit code {process.returncode}: {gpu_steps.said((errors.strip().splitlines() or [''])[-1])}"
    for case in cases:
        facts = found.setdefault(case.key, {})
        if not facts.keys() & {"seconds", "error"}:
            facts["error"] = said
    if any("error" in facts for facts in found.values()):
        with log.open("a", encoding="utf-8") as file:
            file.write(f"==== {', '.join(case.key for case in cases)}\n{errors[-20_000:]}\n")
    return found


def row(case: Case, found: dict[str, Any]) -> dict[str, Any]:
    """A case's line of the results."""
    return {"step": case.step, "case": case.case, **{name: _figure(value) for name, value in found.items()}}


def _figure(value: Any) -> Any:
    """A number short enough to read; None for what is none, which JSON cannot hold."""
    if not isinstance(value, float):
        return value
    return float(f"{value:.5g}") if math.isfinite(value) else None


def failed(line: dict[str, Any]) -> bool:
    """Whether a case ended in an error, or found that something does not hold."""
    return "error" in line or line.get("holds") is False


# ---- the table

TIMED = {
    "first_step_seconds": "s to the first step",
    "step_seconds": "s/step",
    "allocated_gib": "allocated, GiB",
    "reserved_gib": "reserved, GiB",
    "predicted_gib": "predicted, GiB",
    "budget_error": "budget off by",
    "first_loss": "first loss",
    "last_loss": "last loss",
}


def as_page(found: dict[str, Any]) -> str:
    """The results as a page: the training runs side by side, then what each other step found."""
    about = {name: found[name] for name in ("memory_gib", "capability", "cuda") if name in found}
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    lines = [f"## {found['device']}{', toy size' if found['toy'] else ''}", ""]
    lines += [", ".join(f"{name} {value}" for name, value in about.items())]
    lines += [versions, "", f"| step | case | {' | '.join(TIMED.values())} |", "|---" * (2 + len(TIMED)) + "|"]
    timed = [line for line in found["cases"] if "step_seconds" in line]
    for line in timed:
        cells = [_shown(name, line[name]) if name in line else "" for name in TIMED]
        lines.append(f"| {line['step']} | {line['case']} | {' | '.join(cells)} |")
    lines += ["", "| step | case | found |", "|---|---|---|"]
    for line in found["cases"]:
        kept = ("step", "case", "versions", *(TIMED if line in timed else ()))
        facts = "; ".join(f"{name} {_shown(name, value)}" for name, value in line.items() if name not in kept)
        lines.append(f"| {line['step']} | {line['case']} | {facts.replace('|', '/')} |")
    return "\n".join(lines) + "\n"


def _shown(name: str, value: Any) -> str:
    return f"{value:+.1%}" if name == "budget_error" else str(value)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    steps = sorted({case.step for case in plan(toy=False)} - {"make"})
    parser.add_argument("steps", nargs="*", metavar="step", help=f"{', '.join(steps)}; none: all")
    parser.add_argument("--out", default=os.environ.get("OUT") or ROOT / "runs" / "gpu_check", type=Path)
    parser.add_argument("--toy", action="store_true", help="at toy size, on a CPU too")
    asked = parser.parse_args(arguments)
    if unknown := set(asked.steps) - set(steps):
        parser.error(f"there is no step {', '.join(sorted(unknown))}; the steps are {', '.join(steps)}")
    if problem := missing(asked.toy):
        print(f"gpu_check: {problem}", file=sys.stderr)
        return 1
    ends = time.monotonic() + SECONDS
    out = asked.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    (out / "gpu_check.log").unlink(missing_ok=True)
    cases = [case for case in plan(asked.toy) if not asked.steps or case.step in ("make", *asked.steps)]
    # At toy size the libraries are imported once for all, without Unsloth once more: that is most of the time.
    groups = [[case] for case in cases]
    if asked.toy:
        plain = [case for case in cases if not case.unsloth and case.step != "make"]
        groups = [group for group in ([case for case in cases if case not in plain], plain) if group]
    report: dict[str, Any] = {"device": "", "toy": asked.toy, "cases": []}
    report["versions"] = machine.versions(PACKAGES)
    with tempfile.TemporaryDirectory() as work:
        for group in groups:
            left = min(ends - time.monotonic(), sum(case.seconds for case in group))
            if left < FEWEST_SECONDS:
                found = {case.key: {"error": f"not run: the {SECONDS} seconds were over"} for case in group}
            else:
                found = in_a_process(group, Path(work), asked.toy, left, out / "gpu_check.log")
            made = found.get("make", {})
            report |= {name: made[name] for name in made.keys() - {"seconds", "error"}}
            report["cases"] += [row(case, found[case.key]) for case in group]
            write_json(out / "gpu_check.json", report)
            for line in report["cases"][-len(group) :]:
                print(json.dumps(line), flush=True)
    write_text(out / "gpu_check.md", as_page(report))
    wrong = [f"{line['step']} {line['case']}".strip() for line in report["cases"] if failed(line)]
    print(f"{len(cases) - len(wrong)} of {len(cases)} cases hold." + (f" Look at {', '.join(wrong)}." if wrong else ""))
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
