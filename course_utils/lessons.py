"""The lessons as a chain: what each of them needs, how to make it where it is missing, and the run of all six."""

from __future__ import annotations

import html
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from course_utils import data, evaluation, export, hub, masking, modeling, profiles, show, training
from course_utils.doctor import STACK
from course_utils.errors import CourseError
from course_utils.files import write_json, write_text
from course_utils.profiles import ROOT, Hardware, Profile

FEWEST_ROWS = 10  # of one's own, to train on nine of them and to be judged by one
TOKENIZERS = ("qwen3-tokenizer", "qwen3-instruct-2507-tokenizer")


class LessonError(CourseError):
    """A lesson that failed, or that needs something nobody can make for it."""


@dataclass(frozen=True)
class Need:
    """Something that a lesson finds on disk, or has made for it.

    Attributes:
        what: in words, with the time it takes to make it on two cores.
        there: True where it is on disk already.
        make: makes it.
        after: the needs that must be there first.
    """

    what: str
    there: Callable[[Profile], bool]
    make: Callable[[Profile], Any]
    after: tuple[str, ...] = ()


def _command(name: str) -> Callable[[Profile], None]:
    """Make a need with `python -m course_utils NAME`, in a process of its own: it may need Unsloth, or much memory."""

    def run(profile: Profile) -> None:
        done = subprocess.run(
            [sys.executable, "-m", "course_utils", name, "--profile", profile.name],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if done.returncode:
            last = " | ".join(done.stdout.strip().splitlines()[-3:])
            raise LessonError(f"`python -m course_utils {name} --profile {profile.name}` failed: {last}")

    return run


def _run_file(name: str) -> Callable[[Profile], bool]:
    return lambda profile: (run_dir(profile) / name).is_file()


NEEDS: dict[str, Need] = {
    "tokenizers": Need(
        "both Qwen3 tokenizers (half a minute)",
        lambda profile: all((Path("models") / name / "tokenizer.json").is_file() for name in TOKENIZERS),
        lambda profile: [hub.download(name) for name in TOKENIZERS],
    ),
    "model": Need(
        "the base model (a minute for the small one; 8 GB for Qwen3-4B)",
        lambda profile: (Path("models") / profile.model / "config.json").is_file(),
        lambda profile: hub.download(profile.model),
    ),
    "data": Need(
        "the training and validation rows (seconds)",
        lambda profile: (Path("data/build") / profile.name / "train").is_dir(),
        lambda profile: data.build(profile),
    ),
    "adapter": Need(
        "the trained adapter (3 minutes)",
        _run_file("adapter/adapter_model.safetensors"),
        _command("train"),
        after=("model", "data"),
    ),
    "evaluation": Need(
        "the before/after table (3 minutes)", _run_file("evaluation.json"), _command("evaluate"), after=("adapter",)
    ),
    "merged": Need(
        "the merged model (10 seconds)", _run_file("merged/config.json"), _command("merge"), after=("adapter",)
    ),
}


def run_dir(profile: Profile) -> Path:
    """The folder of everything that a profile's run writes."""
    return Path(profile.train.output_dir)


@dataclass(frozen=True)
class Setup:
    """What the first cell of a lesson found and made.

    Attributes:
        profile: the profile in use, with the reason.
        hardware: the machine.
        versions: the stack's versions.
        made: what was missing and has been made, in words.
        model_dir: where the base model lies (or will lie).
        run_dir: where this profile's run is written.
    """

    profile: Profile
    hardware: Hardware
    versions: dict[str, str]
    made: tuple[str, ...]
    model_dir: Path
    run_dir: Path

    def _shown(self) -> show.Shown:
        machine = self.hardware
        card = f"{machine.card}, {machine.vram_gib:.1f} GiB" if machine.card else "no NVIDIA card"
        rows = [
            ("profile", self.profile.name),
            ("why", self.profile.reason),
            (
                "model",
                f"{self.profile.model}{', in 4 bits' if self.profile.load_in_4bit else ''}, {self.profile.dtype}",
            ),
            ("machine", f"{card}; {machine.cores} cores, {machine.ram_gib:.0f} GiB memory"),
            ("versions", " · ".join(f"{name} {number}" for name, number in self.versions.items())),
            *(("made just now", what) for what in self.made),
        ]
        return show.table(rows, columns=("setup", "value"))

    def __repr__(self) -> str:
        return repr(self._shown())

    def _repr_html_(self) -> str:
        return self._shown().html


def setup(needs: Sequence[str] = (), profile: str | None = None) -> Setup:
    """The first cell of every lesson: go to the clone's folder, choose the profile, make what is missing.

    Args:
        needs: names out of `NEEDS`: what the lesson finds on disk. What is missing is made by the package's own
            commands, and what those need before it. "model" also imports Unsloth, which must come before transformers.
        profile: a profile's name; None leaves the choice to COURSE_PROFILE and the hardware.

    Returns:
        A table for people, with the profile and the paths as attributes.

    Raises:
        LessonError: an unknown need, or one that could not be made.
        ProfileError: an unknown profile.
    """
    unknown = [name for name in needs if name not in NEEDS]
    if unknown:
        raise LessonError(f"Nothing is called {', '.join(unknown)}; a lesson can need {', '.join(NEEDS)}.")
    os.chdir(ROOT)  # `data/`, `models/` and `runs/` then mean the same everywhere
    hardware = profiles.detect_hardware()
    chosen = profiles.choose(profile, hardware)
    if "model" in needs:
        modeling.import_unsloth()
    made: list[str] = []
    for name in needs:
        _provide(name, chosen, made)
    return Setup(
        profile=chosen,
        hardware=hardware,
        versions={name: version(name) for name in STACK},
        made=tuple(made),
        model_dir=Path("models") / chosen.model,
        run_dir=run_dir(chosen),
    )


def _provide(name: str, profile: Profile, made: list[str]) -> None:
    """Make the need `name` and what it needs before it, where they are missing; note each in `made`."""
    need = NEEDS[name]
    if need.there(profile):
        return
    for earlier in need.after:
        _provide(earlier, profile, made)
    started = time.monotonic()
    need.make(profile)
    made.append(f"{need.what.split(' (')[0]}, {time.monotonic() - started:.0f} s")


def train_adapter(profile: Profile, *, file: str | Path | None = None, resume: bool = False) -> training.TrainResult:
    """Lesson 04 in one call: masked rows, LoRA, training; the adapter lands in `run_dir(profile)`.

    Args:
        profile: model, rows and settings.
        file: rows of one's own in place of the course's; see `own_rows`.
        resume: go on from the last checkpoint, where there is one.
    """
    model, tokenizer = modeling.load_model(hub.download(profile.model), profile)
    if file is None:
        rows = [data.load_built(profile, part) for part in ("train", "valid")]
    else:
        rows = own_rows(file, profile, tokenizer)
    model = modeling.attach_lora(model, profile)
    train, valid = (masking.build_dataset(part, tokenizer, max_length=profile.train.max_length) for part in rows)
    return training.train(model, tokenizer, train, valid, profile.train, resume=resume, profile=profile)


def own_rows(file: str | Path, profile: Profile, tokenizer: Any) -> tuple[Any, Any]:
    """Rows that a learner brings, checked and split: a tenth of them, in whole groups, is held back to judge the run.

    Args:
        file: whatever `data.check` opens.
        profile: gives the longest row in tokens, and the seed.
        tokenizer: of the model that they will be trained on.

    Returns:
        The rows to train on and those held back, as datasets.

    Raises:
        LessonError: a row that cannot be used (the first is named, and the command that lists all), or too few.
    """
    limit = profile.train.max_length
    report = data.check(file, tokenizer, limit)
    if report.problems:
        name = shlex.quote(str(file))
        every = f"`python -m course_utils check-data {name} --tokenizer {profile.model} --max-length {limit}`"
        raise LessonError(f"{report.problems[0]} {every} lists every problem ({len(report.problems)}).")
    if len(report.rows) < FEWEST_ROWS:
        raise LessonError(f"{file} holds {len(report.rows)} rows; {FEWEST_ROWS} are the least, and 200 a good start.")
    return data.split(report.rows, valid_ratio=0.1, min_valid=2, seed=profile.train.seed)


def is_first_process() -> bool:
    """True in a run of one process, and in the first of several (`accelerate launch`)."""
    return int(os.environ.get("RANK", "0")) == 0


@contextmanager
def in_turn() -> Iterator[None]:
    """Let the first of several processes make what is missing; the others then find it."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield
        return
    import torch
    from accelerate import PartialState

    with PartialState(cpu=not torch.cuda.is_available()).main_process_first():
        yield


def evaluate_adapter(profile: Profile, *, merged: bool = False, resume: bool = False) -> evaluation.Comparison:
    """Lesson 05 in one call: the held-out rows answered by the base and by the base with the adapter.

    The figures land in `evaluation.json` in the run's folder, and as a page in `evaluation.html`; those of the merged
    model in `evaluation_merged.json` and `.html`.

    Args:
        profile: model, rows and settings.
        merged: compare the base with the merged model of lesson 06 in place of the adapter.
        resume: keep the replies of a run that was stopped, and ask only for the rest.

    Raises:
        GenerationError: `resume`, and the replies that were kept are of other rows or of another model.
    """
    # In 16 bits also where training was in 4: NF4 generates half as fast.
    model, tokenizer = modeling.load_model(hub.download(profile.model), profile, load_in_4bit=False)
    rows = [*data.load_built(profile, "valid"), *data.load_built(profile, "general")]
    out, name = run_dir(profile), "evaluation_merged" if merged else "evaluation"
    kept = {when: out / f"{name}_{when}.jsonl" for when in ("before", "after")}
    if not resume:
        _remove(kept.values())

    def answered(model: Any, when: str) -> evaluation.EvalReport:
        how = {"batch_size": profile.eval_batch_size, "max_new_tokens": profile.max_new_tokens}
        return evaluation.evaluate(modeling.for_inference(model), tokenizer, rows, resume_file=kept[when], **how)

    before = answered(model, "before")
    if merged:
        del model  # one at a time: two large models do not fit a card
        model, _ = modeling.load_model(out / "merged", profile, load_in_4bit=False)
    else:
        model = modeling.load_adapter(model, out / "adapter")
    comparison = evaluation.compare(before, answered(model, "after"))
    evaluation.save(comparison, out / f"{name}.json")
    page = show.page("Before and after", evaluation_body(comparison.table(), comparison.worse()))
    write_text(out / f"{name}.html", page)
    _remove(kept.values())
    return comparison


def _remove(files: Iterable[Path]) -> None:
    for file in files:
        file.unlink(missing_ok=True)


def evaluation_body(table: Sequence[Mapping[str, Any]], worse: Sequence[Mapping[str, Any]]) -> str:
    """The HTML of an evaluation: the table, the picture, and what got worse.

    Args:
        table: `Comparison.table()`.
        worse: `Comparison.worse()`.
    """
    return f"""{show.comparison(table).html}
{show.image(show.before_after(table))}
<h2>What got worse</h2>{show.changes(worse).html}"""


def merge(profile: Profile) -> export.MergeReport:
    """The first half of lesson 06 in one call: the merged model lands in `merged/` in the run's folder."""
    out = run_dir(profile)
    return export.merge_adapter(hub.download(profile.model), out / "adapter", out / "merged")


def notebooks() -> list[Path]:
    """The six lessons in order."""
    return sorted((ROOT / "notebooks").glob("0*.ipynb"))


def run(profile: Profile) -> Path:
    """Execute the six lessons in order, with one progress bar, and write the report.

    Args:
        profile: what the lessons run on.

    Returns:
        The report's HTML file. Beside it lie `report.json` and the executed notebooks.

    Raises:
        LessonError: a cell failed; the message names notebook and cell, and the notebook is kept as far as it came.
    """
    from tqdm.auto import tqdm

    out = ROOT / run_dir(profile)
    lessons = {path: _read(path) for path in notebooks()}
    durations: dict[str, float] = {}
    total = sum(cell.cell_type == "code" for lesson in lessons.values() for cell in lesson.cells)
    with tqdm(total=total, unit="cell") as bar:
        for path, lesson in lessons.items():
            bar.set_description(path.stem)
            started = time.monotonic()
            _execute(path, lesson, out / "notebooks", profile, on_cell=lambda: bar.update(1))
            durations[path.stem] = round(time.monotonic() - started, 1)
    return _write_report(profile, out, durations)


def _read(path: Path) -> Any:
    import nbformat

    return nbformat.read(path, as_version=4)


def _execute(path: Path, lesson: Any, folder: Path, profile: Profile, *, on_cell: Callable[[], Any]) -> None:
    """Run one notebook in a kernel of its own; the executed copy is written to `folder` as .ipynb and .html."""
    import nbformat
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError
    from nbconvert import HTMLExporter

    def count(cell: Any, cell_index: int, execute_reply: Any) -> None:
        on_cell()

    client = NotebookClient(
        lesson,
        timeout=None,
        kernel_name="python3",
        resources={"metadata": {"path": str(path.parent)}},
        on_cell_executed=count,
    )
    try:
        client.execute(env=os.environ | {profiles.VARIABLE: profile.name})
    except CellExecutionError as error:
        number = next(
            (
                index
                for index, cell in enumerate(lesson.cells)
                if any(o.output_type == "error" for o in cell.get("outputs", ()))
            ),
            None,
        )
        raise LessonError(
            f"{path.name}, cell {number}: {error.ename}: {error.evalue} The notebook as far as it came: "
            f"{(folder / path.name).relative_to(ROOT)}"
        ) from error
    finally:
        write_text(folder / path.name, nbformat.writes(lesson))
    write_text(folder / f"{path.stem}.html", HTMLExporter().from_notebook_node(lesson)[0])


def _write_report(profile: Profile, out: Path, durations: dict[str, float]) -> Path:
    """Put the table, the figure, the durations and the circumstances on one page, and the figures into JSON."""
    figures = json.loads((out / "evaluation.json").read_text(encoding="utf-8"))
    facts = {
        "profile": profile.name,
        "reason": profile.reason,
        "model": profile.model,
        "seed": profile.train.seed,
        "versions": {name: version(name) for name in STACK},
        "seconds": durations,
        "table": figures["table"],
        "worse": figures["worse"],
        "perplexities": figures["perplexities"],
        "training": json.loads((out / "train_metrics.json").read_text(encoding="utf-8"))["metrics"],
    }
    write_json(out / "report.json", facts)
    links = [
        f'<li><a href="notebooks/{name}.html">{html.escape(name)}</a>, {seconds:.0f} s</li>'
        for name, seconds in durations.items()
    ]
    versions = " · ".join(f"{name} {number}" for name, number in facts["versions"].items())
    body = f"""<h1>What fine-tuning did to {html.escape(profile.model)}</h1>
<p>Held-out rows, greedy replies, seed {profile.train.seed}. {html.escape(profile.reason)}</p>
{evaluation_body(figures["table"], figures["worse"])}
<h2>The lessons as they ran</h2><ol>{"".join(links)}</ol><p><small>{html.escape(versions)}</small></p>"""
    return write_text(out / "report.html", show.page("Before and after", body))
