"""A lesson's work in one call: train the adapter, evaluate it; on the course's rows, or on a learner's own file."""

from __future__ import annotations

import json
import math
import os
import shlex
import warnings
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from accelerate.utils.memory import clear_device_cache

from course_utils import data, hub
from course_utils.core import profiles, settings
from course_utils.core.files import write_text
from course_utils.core.profiles import Profile
from course_utils.evals import evaluation
from course_utils.lessons import reports
from course_utils.lessons.setup import LessonError, merged_dir, run_dir
from course_utils.text import masking, packing
from course_utils.train import modeling, preferences, training

if TYPE_CHECKING:
    from datasets import Dataset

FEWEST_ROWS = 10  # of one's own: most to train on, and at least two to evaluate with
FEW_ROWS = 50  # below that many the held-back tenth is five rows at most: too few to judge by
FEWEST_STEPS = 32  # below that an adapter has hardly moved, however often it saw its few rows
TOKENS_PER_SECOND = {"bfloat16": 130, "float32": 52}
"""Real tokens that the real Qwen trains on, on two cores (docs/profiles.md); no GPU has been measured."""


def train_adapter(
    profile: Profile, *, rows: tuple[Dataset, Dataset] | None = None, resume: bool = False
) -> training.TrainResult:
    """Lesson 04 (or, by `profile.train.stage`, 09) in one call; the adapter lands in `run_dir(profile)`.

    Args:
        rows: to train on and to validate with, in place of the course's; `own_rows` gives them.
        resume: go on from the last checkpoint, where there is one.
    """
    if rows is None:
        rows = data.load_built(profile, "train"), data.load_built(profile, "valid")
    if profile.train.stage == "reward":
        model, tokenizer = modeling.load_reward_model(hub.download(profile.model), profile)
    else:
        model, tokenizer = modeling.load_model(hub.download(profile.model), profile)
        model = modeling.attach_lora(model, profile)
    how, limit = {"resume": resume, "profile": profile}, profile.train.max_length
    if profile.train.stage == "sft":
        parts = (masking.build_dataset(part, tokenizer, max_length=limit, train_on_tool_calls=True) for part in rows)
        result = training.train(model, tokenizer, *parts, profile.train, **how)
    elif profile.train.stage == "pretrain":
        parts = (packing.chunks(part, tokenizer, limit) for part in rows)
        result = training.train(model, tokenizer, *parts, profile.train, audit=False, **how)
    else:
        result = preferences.train(model, tokenizer, *rows, profile.train, rewards=[preferences.answered], **how)
    del model  # the Trainer holds it in a circle; the next model of this process needs the room
    clear_device_cache(garbage_collection=True)
    return result


def own_run(profile: Profile, file: str | Path) -> Profile:
    """The profile whose run lies in a folder that is named after a learner's file."""
    return replace(profile, train=replace(profile.train, output_dir=f"runs/own/{Path(file).stem}"))


def own_rows(file: str | Path, profile: Profile, tokenizer: Any) -> tuple[Dataset, Dataset]:
    """Rows that a learner brings (whatever `data.check` opens), checked and split into a dataset to train on and one of
    a tenth, in whole groups, for validation. The profile gives the longest row, in tokens, and the seed.

    Raises:
        DataError: rows of another kind than the profile's stage learns from.
        LessonError: a row that cannot be used (the first is named, and the command that lists all), or too few.
    """
    limit = profile.train.max_length
    report = data.check(file, tokenizer, limit)
    wanted = settings.LEARNS_FROM[profile.train.stage]
    if report.kind and report.kind != wanted:
        refused = f"{file} holds {report.kind} rows, and `train --stage {profile.train.stage}` learns {wanted} rows."
        raise data.DataError(report.not_chats if wanted == "chat" else refused)
    if report.problems:
        name = shlex.quote(str(file))
        every = f"`python -m course_utils check-data {name} --tokenizer {profile.model} --max-length {limit}`"
        raise LessonError(f"{report.problems[0]} {every} lists every problem ({len(report.problems)}).")
    if len(report.rows) < FEWEST_ROWS:
        raise LessonError(f"{file} holds {len(report.rows)} rows; {FEWEST_ROWS} are the least, and 200 a good start.")
    if len(report.rows) < FEW_ROWS:
        few = f"{file} holds {len(report.rows)} rows. They may teach a form; below {FEW_ROWS} the figures are chance."
        warnings.warn(few, stacklevel=2)
    for remark in filter(lambda remark: "not read" in remark, report.remarks):
        warnings.warn(remark, stacklevel=2)
    return data.split(report.rows, valid_ratio=0.1, min_valid=2, seed=profile.train.seed)


class Plan(NamedTuple):
    """What a run on rows of one's own will take."""

    profile: Profile  # with the settings for this many rows
    steps: int
    tokens: int  # that the run sees, without padding
    gib: float  # the peak, for the longest row
    minutes: float | None  # None where no speed was measured


def plan(profile: Profile, rows: tuple[Dataset, Dataset], tokenizer: Any) -> Plan:
    """Settings for few rows, and what the run will take: three times through them, but `FEWEST_STEPS` at least; four
    looks at the held-back ones, and two without a gain end the run.
    """
    train = [len(row["input_ids"]) for row in masking.build_dataset(rows[0], tokenizer, train_on_tool_calls=True)]
    per_step = profile.train.batch_size * profile.train.grad_accum
    steps = 4 * math.ceil(max(FEWEST_STEPS, 3 * len(train) / per_step) / 4)
    fitted = replace(profile.train, max_steps=steps, eval_steps=steps // 4, early_stop=2)
    tokens = round(steps * per_step * sum(train) / len(train))
    config = json.loads((hub.download(profile.model) / "config.json").read_text(encoding="utf-8"))
    longest = replace(profile, train=replace(fitted, max_length=max(train)))
    measured = profile.device == "cpu" and profile.model == profiles.PROFILES["cpu"].model
    return Plan(
        profile=replace(profile, train=fitted),
        steps=steps,
        tokens=tokens,
        gib=profiles.memory_budget(config, longest).gib,
        minutes=tokens / TOKENS_PER_SECOND[profile.dtype] / 60 if measured else None,
    )


def in_turn() -> AbstractContextManager[Any]:
    """Let the first of several processes make what is missing; the others then find it."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return nullcontext()
    import torch
    from accelerate import PartialState

    return PartialState(cpu=not torch.cuda.is_available()).main_process_first()


def evaluate_adapter(
    profile: Profile, *, rows: Dataset | None = None, merged: bool = False, resume: bool = False
) -> evaluation.Comparison:
    """Lesson 05 in one call: the held-out rows answered by the base and by the base with the adapter.

    The figures land in `evaluation.json` in the run's folder, and as a page in `evaluation.html`; those of the merged
    model in `evaluation_merged.json` and `.html`.

    Args:
        rows: to answer in place of the course's test and general rows; `own_rows` holds some back.
        merged: compare the base with the merged model of lesson 06 in place of the adapter.
        resume: keep the replies of a run that was stopped, and ask only for the rest.

    Raises:
        GenerationError: `resume`, and the replies that were kept are of other rows or of another model.
    """
    model, tokenizer = modeling.load_model(hub.download(profile.model), profile, load_in_4bit=profile.eval_in_4bit)
    if rows is None:
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
