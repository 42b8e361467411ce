"""A lesson's work in one call: train the adapter, evaluate it."""

from __future__ import annotations

import os
import shlex
import warnings
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from course_utils import data, hub
from course_utils.core.files import write_text
from course_utils.core.profiles import Profile
from course_utils.evals import evaluation
from course_utils.lessons import reports
from course_utils.lessons.setup import LessonError, merged_dir, run_dir
from course_utils.text import masking
from course_utils.train import modeling, training

FEWEST_ROWS = 10  # of one's own: most to train on, and at least two to evaluate with


def train_adapter(profile: Profile, *, file: str | Path | None = None, resume: bool = False) -> training.TrainResult:
    """Lesson 04 in one call: masked rows, LoRA, training; the adapter lands in `run_dir(profile)`.

    Args:
        file: rows of one's own in place of the course's; see `own_rows`.
        resume: go on from the last checkpoint, where there is one.
    """
    model, tokenizer = modeling.load_model(hub.download(profile.model), profile)
    if file is None:
        rows = [data.load_built(profile, part) for part in ("train", "valid")]
    else:
        rows = own_rows(file, profile, tokenizer)
    model = modeling.attach_lora(model, profile)
    train, valid = (
        masking.build_dataset(part, tokenizer, max_length=profile.train.max_length, train_on_tool_calls=True)
        for part in rows
    )
    return training.train(model, tokenizer, train, valid, profile.train, resume=resume, profile=profile)


def own_rows(file: str | Path, profile: Profile, tokenizer: Any) -> tuple[Any, Any]:
    """Rows that a learner brings (whatever `data.check` opens), checked and split into a dataset to train on and one of
    a tenth, in whole groups, for validation. The profile gives the longest row, in tokens, and the seed.

    Raises:
        DataError: rows of another kind than chats, which another lesson trains on.
        LessonError: a row that cannot be used (the first is named, and the command that lists all), or too few.
    """
    limit = profile.train.max_length
    report = data.check(file, tokenizer, limit)
    if report.not_chats:
        raise data.DataError(report.not_chats)
    if report.problems:
        name = shlex.quote(str(file))
        every = f"`python -m course_utils check-data {name} --tokenizer {profile.model} --max-length {limit}`"
        raise LessonError(f"{report.problems[0]} {every} lists every problem ({len(report.problems)}).")
    if len(report.rows) < FEWEST_ROWS:
        raise LessonError(f"{file} holds {len(report.rows)} rows; {FEWEST_ROWS} are the least, and 200 a good start.")
    for remark in filter(lambda remark: "not read" in remark, report.remarks):
        warnings.warn(remark, stacklevel=2)
    return data.split(report.rows, valid_ratio=0.1, min_valid=2, seed=profile.train.seed)


def in_turn() -> AbstractContextManager[Any]:
    """Let the first of several processes make what is missing; the others then find it."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return nullcontext()
    import torch
    from accelerate import PartialState

    return PartialState(cpu=not torch.cuda.is_available()).main_process_first()


def evaluate_adapter(profile: Profile, *, merged: bool = False, resume: bool = False) -> evaluation.Comparison:
    """Lesson 05 in one call: the held-out rows answered by the base and by the base with the adapter.

    The figures land in `evaluation.json` in the run's folder, and as a page in `evaluation.html`; those of the merged
    model in `evaluation_merged.json` and `.html`.

    Args:
        merged: compare the base with the merged model of lesson 06 in place of the adapter.
        resume: keep the replies of a run that was stopped, and ask only for the rest.

    Raises:
        GenerationError: `resume`, and the replies that were kept are of other rows or of another model.
    """
    model, tokenizer = modeling.load_model(hub.download(profile.model), profile, load_in_4bit=profile.eval_in_4bit)
    rows = [*data.load_built(profile, "test"), *data.load_built(profile, "general")]
    out, name = run_dir(profile), "evaluation_merged" if merged else "evaluation"
    kept = {when: out / f"{name}_{when}.jsonl" for when in ("before", "after")}

    def answered(model: Any, when: str) -> evaluation.EvalReport:
        how = {"batch_size": profile.eval_batch_size, "max_new_tokens": profile.max_new_tokens}
        return evaluation.evaluate(modeling.for_inference(model), tokenizer, rows, resume_file=kept[when], **how)

    for file in kept.values() if not resume else ():
        file.unlink(missing_ok=True)
    before = answered(model, "before")
    if merged:
        from accelerate.utils.memory import clear_device_cache

        del model  # one at a time: two large models do not fit a GPU
        clear_device_cache(garbage_collection=True)
        model, _ = modeling.load_model(merged_dir(profile), profile, load_in_4bit=profile.eval_in_4bit)
    else:
        model = modeling.load_adapter(model, out / "adapter")
    comparison = evaluation.compare(before, answered(model, "after"))
    comparison.save(out / f"{name}.json")
    body = reports.evaluation(comparison).html
    write_text(out / f"{name}.html", reports.page("Before and after", body))
    for file in kept.values():
        file.unlink(missing_ok=True)
    return comparison
