"""The tuned model in the tool behind most published tables, lm-evaluation-harness.

It is run as other people run it: by its own command line, from an environment of its own, offline. What this module
adds is the way in (the course's rows as tasks, from the configs in `public_tasks/`) and the way out (its report as
values).
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any

from course_utils import chat
from course_utils.core.errors import CourseError
from course_utils.core.files import atomic_dir, write_text
from course_utils.core.profiles import Profile

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = Path(__file__).with_suffix("")  # the folder beside this file
OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
"""Nothing is looked up on a hub: model, tokenizer and rows are named by their folders."""

SOURCES = {"json": "json.yaml", "mawps": "number.yaml", "cmath": "number.yaml", "general": "choice.yaml"}
"""The sources that can be a task, and the config of each: a written reply and its metric, or the likeliest of four
answers."""

NUMBER = r"(?:(?<![\w)])-)?\d[\d,]*(?:\.\d+)?(?:\s*/\s*\d+)?"
"""What the harness takes for a number: plainer than `metrics.same_answer`, because a filter is one pattern."""

CHOICES = 4


class PublicTaskError(CourseError):
    """Rows that cannot be a task, or a tool that could not be installed, failed, or left no report."""


@dataclass(frozen=True)
class TaskScore:
    """What lm-evaluation-harness says about one task.

    Attributes:
        task: its name, `course_` and the source.
        prompts: how many rows were asked.
        metric: as the harness names it.
        value: the mean over the prompts, 0 to 1.
        stderr: the standard error of that mean.
        samples: one dict per row, in their order: `prompt`, `reply` (of a choice: the number of the answer chosen),
            `reference`, `value`.
    """

    task: str
    prompts: int
    metric: str
    value: float
    stderr: float
    samples: list[dict[str, Any]]


def environment(folder: str | Path = ROOT / ".tools") -> Path:
    """The folder with the command `lm_eval`; its environment is made where it is missing (40 seconds on two cores).

    The harness runs the model itself and must do so with the course's torch and transformers: its environment lies on
    top of this one. In this one it would bring scikit-learn, which transformers imports wherever it is found: seconds
    for every start of every lesson.

    Args:
        folder: where the environment lies; the harness's version stands in pyproject.toml.

    Raises:
        PublicTaskError: pip failed; the message holds its last lines.
    """
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (pin,) = project["optional-dependencies"]["lm-eval"]
    home = Path(folder).resolve() / "lm-eval"
    record = home / "installed"  # written last: it says that the environment is whole, and of which version
    if not record.is_file() or record.read_text(encoding="utf-8") != pin:
        # Without pip of its own, because some systems (Colab's among them) cannot give it one.
        _call([sys.executable, "-m", "venv", "--clear", "--without-pip", str(home)])
        paths = {key: str(home) for key in ("base", "platbase")}
        inside = Path(sysconfig.get_path("purelib", "venv", vars=paths))
        here = sysconfig.get_path("purelib")
        # addsitedir, so that editable installs (the course itself) are seen, too.
        write_text(inside / "course.pth", f"import site; site.addsitedir({here!r})\n")
        pip = [sys.executable, "-m", "pip", "--python", str(home / "bin" / "python"), "install"]
        _call([*pip, "--quiet", "--disable-pip-version-check", pin])
        write_text(record, pin)
    return home / "bin"


def write_tasks(
    rows: Iterable[Mapping[str, Any]], tokenizer: PreTrainedTokenizerBase, folder: str | Path, *, max_new_tokens: int
) -> Path:
    """Write rows as local tasks of lm-evaluation-harness: one YAML and one JSONL per source, and the group `course`.

    The prompts are rendered here and not by the harness. `--apply_chat_template` makes one user turn of each row:
    a system turn, earlier turns, tools and thinking would be lost, and each of them was there in training.

    Args:
        rows: dicts with `messages` and `source`; the last message is the reference answer.
        tokenizer: of the model that will be asked; base and merged share it.
        folder: for `--include_path`; replaced whole.
        max_new_tokens: longest reply, in tokens.

    Returns:
        The folder.

    Raises:
        PublicTaskError: a row's source has no kind of task (`SOURCES`), or its last message is no answer.

    Source:
        lm-evaluation-harness, docs/new_task_guide.md and docs/task_guide.md.
    """
    by_source: dict[str, list[dict[str, Any]]] = {}
    for number, row in enumerate(rows):
        source, last = row["source"], row["messages"][-1]
        if source not in SOURCES:
            raise PublicTaskError(
                f"row {number}: no task for the source {source!r}; leave out all but {list(SOURCES)}."
            )
        if last["role"] != "assistant" or not last["content"]:
            raise PublicTaskError(f"row {number}: the last message holds no answer to compare with; leave the row out.")
        prompt = chat.render(
            tokenizer,
            row["messages"][:-1],
            tools=row.get("tools"),
            enable_thinking=bool(last.get("reasoning_content")),
            add_generation_prompt=True,
        )
        question = row["messages"][-2]["content"]
        by_source.setdefault(source, []).append({"prompt": prompt, "question": question, "reference": last["content"]})

    target = Path(folder).resolve()
    with atomic_dir(target) as draft:
        for source, docs in by_source.items():
            if SOURCES[source] == "choice.yaml":
                docs = _with_choices(docs)
            lines = (json.dumps(doc, ensure_ascii=False) + "\n" for doc in docs)
            write_text(draft / f"{source}.jsonl", "".join(lines))
            config = Template((CONFIGS / SOURCES[source]).read_text(encoding="utf-8"))
            text = config.substitute(
                source=source,
                rows=json.dumps(str(target / f"{source}.jsonl"), ensure_ascii=False),
                max_new_tokens=max_new_tokens,
                stop=json.dumps(tokenizer.eos_token),
                number=json.dumps(NUMBER),
            )
            write_text(draft / f"{source}.yaml", text)
        shutil.copyfile(CONFIGS / "metrics.py", draft / "metrics.py")
        names = "".join(f"  - course_{source}\n" for source in by_source)
        write_text(draft / "course.yaml", f"group: course\ntask:\n{names}")
    return target


def _with_choices(docs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The same rows with four answers each: their own, at a changing place, and those of the rows after it."""
    answers = list(dict.fromkeys(doc["reference"] for doc in docs))
    if len(answers) < CHOICES:
        raise PublicTaskError(f"A choice needs {CHOICES} different answers; the rows hold {len(answers)}: add rows.")
    made = []
    for number, doc in enumerate(docs):
        at, right = answers.index(doc["reference"]), number % CHOICES
        choices = [answers[(at + step) % len(answers)] for step in range(1, CHOICES)]
        choices.insert(right, doc["reference"])
        made.append({**doc, "choices": choices, "right": right})
    return made


def run_lm_eval(
    profile: Profile, model: str | Path, tasks: str | Path, out: str | Path, *, bin_dir: str | Path
) -> list[TaskScore]:
    """Ask a model every row of the group `course` with lm-evaluation-harness, offline.

    Args:
        profile: gives number format, batch size and device.
        model: a complete model folder.
        tasks: what `write_tasks` returned.
        out: folder for the harness's report; replaced whole.
        bin_dir: what `environment` returned.

    Returns:
        One score per task, by name.

    Raises:
        PublicTaskError: the harness failed; the message holds its last lines.
    """
    with atomic_dir(out) as draft:
        _call(lm_eval_command(profile, model, tasks, draft, bin_dir=bin_dir))
    return read_lm_eval(out)


def lm_eval_command(
    profile: Profile, model: str | Path, tasks: str | Path, out: str | Path, *, bin_dir: str | Path
) -> list[str]:
    """The command line that `run_lm_eval` runs; the arguments are the same."""
    return [
        *(str(Path(bin_dir) / "lm_eval"), "run", "--model", "hf"),
        *("--model_args", f"pretrained={Path(model).resolve()},dtype={profile.dtype}"),
        *("--tasks", "course", "--include_path", str(tasks)),
        *("--device", profile.device),
        *("--batch_size", str(profile.eval_batch_size)),
        *("--output_path", str(out), "--log_samples"),
    ]


def read_lm_eval(out: str | Path) -> list[TaskScore]:
    """The scores in a folder that `lm_eval --output_path FOLDER --log_samples` wrote; of several runs the last.

    Raises:
        PublicTaskError: there is no report in it.
    """
    reports = sorted(Path(out).rglob("results_*.json"), key=lambda path: path.name)  # the name holds the time
    if not reports:
        raise PublicTaskError(f"{out} holds no results_*.json; did lm_eval run with --output_path {out}?")
    report, when = json.loads(reports[-1].read_text(encoding="utf-8")), reports[-1].stem.removeprefix("results_")
    scores = []
    for task, asked in sorted(report["n-samples"].items()):
        # A metric's key is "name,filter", that of its error "name_stderr,filter".
        key = next(key for key in report["results"][task] if re.fullmatch(r"(exact_match|json_valid|acc),.*", key))
        metric, filtered = key.split(",")
        lines = (reports[-1].parent / f"samples_{task}_{when}.jsonl").read_text(encoding="utf-8").splitlines()
        samples = sorted((json.loads(line) for line in lines), key=lambda sample: sample["doc_id"])
        scores.append(
            TaskScore(
                task,
                asked["effective"],
                metric,
                report["results"][task][key],
                report["results"][task][f"{metric}_stderr,{filtered}"],
                [_sample(sample, metric) for sample in samples],
            )
        )
    return scores


def _sample(sample: Mapping[str, Any], metric: str) -> dict[str, Any]:
    if metric == "acc":
        likelihoods = [float(answer[0]) for answer in sample["filtered_resps"]]
        reply: Any = likelihoods.index(max(likelihoods))
    else:
        reply = sample["resps"][0][0]
    return {
        "prompt": sample["arguments"]["gen_args_0"]["arg_0"],
        "reply": reply,
        "reference": sample["target"],
        "value": float(sample[metric]),
    }


def _call(line: Sequence[str]) -> None:
    """Run a command offline and in silence; raise a PublicTaskError with its last lines where it fails."""
    try:
        done = subprocess.run(
            line,
            env=os.environ | OFFLINE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            check=False,
        )
    except FileNotFoundError:
        raise PublicTaskError(f"{line[0]} is not there; public_tasks.environment(…) makes it.") from None
    if done.returncode:
        last = " | ".join(done.stdout.strip().splitlines()[-3:])
        raise PublicTaskError(f"`{Path(line[0]).name} {' '.join(line[1:4])} …` failed: {last}")
