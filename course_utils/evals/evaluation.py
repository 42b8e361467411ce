"""Is it better? Perplexity, and what the replies are worth, per source and per tag, before and after.

Every rate has all prompts of its group as the denominator. A reply that does not fit a definition of `metrics` counts
as a miss, never as missing. Every figure has a 95 % interval, and every change a paired test (`statistics`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from course_utils.core.budget import TOKENS_PER_PASS
from course_utils.core.errors import CourseError
from course_utils.core.files import write_json
from course_utils.evals import generation, metrics, statistics
from course_utils.evals.fast_generation import merged_in_memory
from course_utils.text import chat, masking, thinking
from course_utils.text.messages import is_learned
from course_utils.text.turns import cleaned

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

METRICS = {"json": "json_strict", "emoji": "emoji", "mawps": "bare", "cmath": "bare", "cluener": "entity_f1"}
METRICS |= {"tools": "calls", "general": "emoji_fits", "all": "stopped"}
"""The figure that says most about a source of the course, and about all; a learner's own rows are judged by `same`."""
NO_NLL = {"learned": 0.0, "learned_count": 0, "all_tokens": 0.0, "all_count": 0}
"""The sums of an example without tokens: NLL and number, of the learned tokens and of all."""
OTHER_KINDS = {"text": "text", "chosen": "preference", "rejected": "preference"}
OTHER_KINDS |= dict.fromkeys(("images", "videos", "audios"), "media")

By = Literal["source", "tag"]
Row = Mapping[str, Any]
Rows = Sequence[Row]


class EvaluationError(CourseError):
    """Rows that cannot be evaluated, or a file that holds no evaluation."""


@dataclass(frozen=True)
class Perplexity:
    """exp(total NLL / number of tokens): how many tokens the model hesitates between on average.

    Attributes:
        learned: over the tokens with a label (the replies).
        all_tokens: over every token but the first of each example.
        learned_count, all_count: how many tokens those are.
    """

    learned: float
    all_tokens: float
    learned_count: int
    all_count: int


def perplexity(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, examples: Iterable[Row], *, batch_size: int
) -> Perplexity:
    """Perplexity of masked examples: total NLL over count, then exp, whatever the batch size.

    Args:
        model, tokenizer: any causal language model; the tokenizer's `pad_token_id` fills the batches.
        examples: dicts with `input_ids` and `labels`.
        batch_size: examples per forward pass, fewer where they are long (`budget.TOKENS_PER_PASS`).

    Raises:
        EvaluationError: one is no masked example, or no token is learned in any of them.
    """
    examples = list(examples)
    for number, example in enumerate(examples):
        found = [example.get(key) if isinstance(example, Mapping) else None for key in ("input_ids", "labels")]
        ids, labels = (len(values) if hasattr(values, "__len__") else 0 for values in found)
        if not ids or ids != labels:
            reason = "expected as many labels as input_ids, at least one. masking.build_dataset makes examples of rows."
            raise EvaluationError(f"example {number}, {'labels' if ids else 'input_ids'}: {reason}")
    return _total(_nlls(model, tokenizer, examples, batch_size))


def _total(parts: Iterable[Row]) -> Perplexity:
    """Add up before dividing, so that batches do not matter (pitfall perplexity-by-batch)."""
    sums = {key: math.fsum(part[key] for part in parts) for key in NO_NLL}
    counts = {key: int(sums[key]) for key in ("learned_count", "all_count")}
    if not counts["learned_count"]:
        raise EvaluationError("Perplexity needs at least one learned token; masking.audit shows what the rows lack.")
    means = (sums["learned"] / counts["learned_count"], sums["all_tokens"] / counts["all_count"])
    return Perplexity(*map(math.exp, means), **counts)


@torch.inference_mode()
def _nlls(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, examples: Rows, batch_size: int
) -> list[dict[str, Any]]:
    """The NLL sums of each example, in the order given. Examples of similar length share a batch."""
    model.eval()
    order = sorted(range(len(examples)), key=lambda number: len(examples[number]["input_ids"]))
    parts: dict[int, dict[str, Any]] = {}
    while order:
        longest = len(examples[order[-1]]["input_ids"])
        size = min(batch_size, max(1, TOKENS_PER_PASS // longest))
        order, numbers = order[:-size], order[-size:]
        rows = {"input_ids": [examples[number]["input_ids"] for number in numbers]}
        batch = tokenizer.pad(rows, padding_side="right", return_tensors="pt").to(model.device)
        for ids, logits, number in zip(batch["input_ids"], model(**batch).logits, numbers, strict=True):
            learned = torch.tensor(examples[number]["labels"][1:], device=model.device) != masking.IGNORED
            # The logits at one place predict the token at the next. In float32 row by row: all at once take gigabytes.
            scores = logits[: len(learned)].float(), ids[1 : len(learned) + 1]
            every = torch.nn.functional.cross_entropy(*scores, reduction="none").double()
            sums = float(every[learned].sum()), int(learned.sum()), float(every.sum()), len(every)
            parts[number] = dict(zip(NO_NLL, sums, strict=True))
    return [parts[number] for number in range(len(examples))]


@dataclass(frozen=True)
class Figure:
    """One figure of a group of prompts.

    Attributes:
        name: in words.
        part: what a row adds to the top and to the bottom of a ratio.
        asked_by: whether a row asks for it. A group has the figure if one of its rows does, and then *all* rows count.
        higher_is_better: None where neither way is better in itself.
        shown: what people see of the ratio.
    """

    name: str
    part: Callable[[Row], statistics.Part]
    asked_by: Callable[[Row], bool] = lambda row: True
    higher_is_better: bool | None = True
    shown: Callable[[float], float] = float

    def interval(self, rows: Iterable[Row]) -> statistics.Interval:
        """The figure of some rows, with its 95 % interval."""
        found = statistics.ratio([self.part(row) for row in rows])
        return statistics.Interval(*map(self.shown, (found.value, found.low, found.high)))

    def verdict(self, before: Iterable[Row], after: Iterable[Row]) -> statistics.Verdict:
        """The paired test in words; where neither way is better in itself, more counts as better."""
        parts = [[self.part(row) for row in rows] for rows in (before, after)]
        return statistics.verdict(*parts, higher_is_better=self.higher_is_better is not False)


def _rate(name: str, key: str, **options: Any) -> Figure:
    return Figure(name, lambda row: (int(row[key] or False), 1), **options)


def _asks_for_json(row: Row) -> bool:
    return isinstance(metrics.parse_json(row["reference"]), dict)


def _asks_for_a_number(row: Row) -> bool:
    return metrics.parse_number(row["reference"]) is not None


def _f1_part(row: Row) -> statistics.Part:
    counts = row["entities"]
    return (2 * counts["right"], counts["found"] + counts["due"]) if counts else (0, 0)


FIGURES = {
    "perplexity": Figure(
        "perplexity of the reference",
        lambda row: (row["nll"]["learned"], row["nll"]["learned_count"]),
        asked_by=lambda row: row["nll"]["learned_count"] > 0,
        higher_is_better=False,
        shown=math.exp,
    ),
    "tokens": Figure("tokens of a reply", lambda row: (row["tokens"], 1), higher_is_better=None),
    "usable": _rate("well-formed and ended", "usable"),
    "stopped": _rate("ends by itself", "stopped"),
    "same": _rate("equal to the reference", "same", asked_by=lambda row: row["source"] not in METRICS),
    "json_strict": _rate("JSON valid, strict", "json_strict", asked_by=_asks_for_json),
    "json_lenient": _rate("JSON valid, lenient", "json_lenient", asked_by=_asks_for_json),
    "json_schema": _rate("JSON with the right keys and types", "json_schema", asked_by=_asks_for_json),
    "bare": _rate("answer right, as asked", "bare", asked_by=_asks_for_a_number),
    "exact": _rate("answer reached", "exact", asked_by=lambda row: _asks_for_json(row) or _asks_for_a_number(row)),
    "calls": _rate("right tool, right arguments", "calls", asked_by=lambda row: row["calls"] is not None),
    "entity_f1": Figure("entity F1", _f1_part, asked_by=lambda row: row["entities"] is not None),
    "emoji": _rate("emoji in the reply", "emoji", higher_is_better=None),
    "emoji_fits": _rate("emoji only where the reference has one", "emoji_fits"),
}
"""Every figure of a report, by its key."""


def _groups(by: By, *runs: Rows) -> dict[str, Sequence[Rows]]:
    """The rows of each source, or tag, in each of the runs; "all" holds every one."""
    own = {"source": lambda row: [row["source"]], "tag": lambda row: row["tags"]}[by]
    names = sorted({name for row in runs[0] for name in own(row)})
    return {name: [[row for row in rows if name in own(row)] for rows in runs] for name in names} | {"all": runs}


def _asked(rows: Rows) -> list[str]:
    """The keys of the figures that a group's rows ask for."""
    return [key for key, figure in FIGURES.items() if any(map(figure.asked_by, rows))]


@dataclass(frozen=True)
class EvalReport:
    """What a model answered, and what that is worth.

    Attributes:
        rows: one dict per prompt: `source`, `tags`, `prompt` (the last user message), `reference`, `reply`, `tokens`
            (that the model wrote), `status` (of the thinking), `nll` (sums of the reference), and what
            `metrics.measure` returns.
    """

    rows: list[dict[str, Any]]

    @property
    def perplexities(self) -> dict[str, Perplexity]:
        """Of the references, per source; "all" holds all of them together. A source with nothing to learn has none."""
        groups = {source: rows for source, [rows] in _groups("source", self.rows).items()}
        asked = {source: rows for source, rows in groups.items() if "perplexity" in _asked(rows)}
        return {source: _total([row["nll"] for row in rows]) for source, rows in asked.items()}

    def figures(self, by: By = "source") -> list[dict[str, Any]]:
        """One dict per group and figure that its rows ask for: value, 95 % interval, prompts.

        Args:
            by: groups are sources, or tags; the last group is "all".
        """
        return [
            {by: group, "prompts": len(rows), "figure": FIGURES[key].name, **asdict(FIGURES[key].interval(rows))}
            for group, [rows] in _groups(by, self.rows).items()
            for key in _asked(rows)
        ]


def evaluate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Iterable[Row],
    *,
    batch_size: int,
    max_new_tokens: int,
    resume_file: str | Path | None = None,
) -> EvalReport:
    """Let the model answer every row, and measure the replies.

    Args:
        model, tokenizer: base, base with adapter, or merged, and its tokenizer.
        rows: dicts with `messages`, `source` and perhaps `tags` and `tools`; the last message is the reference answer.
            The prompt asks for thinking where the reference has some, and switches it off elsewhere.
        batch_size, max_new_tokens, resume_file: see `generation.generate`.

    Raises:
        EvaluationError: there are no rows, or one cannot be evaluated (with its number, the field and what to do);
            said before the first reply is generated.
        GenerationError: `resume_file` belongs to other work.
    """
    for name, value in {"batch_size": batch_size, "max_new_tokens": max_new_tokens}.items():
        if not isinstance(value, int) or value < 1:
            raise EvaluationError(f"{name} is {value!r}; give a whole number from 1 on.")
    if tokenizer.pad_token_id is None:
        raise EvaluationError("The tokenizer has no pad token to fill batches with; set tokenizer.pad_token first.")
    if isinstance(rows, Mapping | str | None) or not (rows := list(rows)):
        raise EvaluationError("There are no rows in a list to evaluate; data.load_built(profile, 'valid') gives some.")
    rows, prompts = zip(*(_prepared(number, row, tokenizer) for number, row in enumerate(rows)), strict=True)
    try:
        examples = masking.build_dataset(rows, tokenizer, train_on="last", train_on_tool_calls=True)
    except CourseError as error:
        raise EvaluationError(str(error)) from error
    how = {"batch_size": batch_size, "max_new_tokens": max_new_tokens, "resume_file": resume_file}
    with merged_in_memory(model):
        outputs = generation.generate(model, tokenizer, prompts, **how)
    sums = dict(zip(examples["row"], _nlls(model, tokenizer, list(examples), batch_size), strict=True))
    stops = set(generation.stop_ids(model, tokenizer))
    return EvalReport(
        [
            {**_measured(row, prompt, output, tokenizer, stops), "nll": sums.get(number, dict(NO_NLL))}
            for number, (row, prompt, output) in enumerate(zip(rows, prompts, outputs, strict=True))
        ]
    )


def _prepared(number: int, row: Row, tokenizer: PreTrainedTokenizerBase) -> tuple[Row, str]:
    """A row as training reads it, and its rendered prompt; an EvaluationError for one that cannot be evaluated."""
    try:
        for field, reason in _misfits(row):
            raise EvaluationError(f"row {number}, {field}: {reason}")
        *asked, last = messages = cleaned(row["messages"], None)
        options = {"tools": row.get("tools"), "enable_thinking": bool(last.get("reasoning_content"))}
        return {**row, "messages": messages}, chat.render(tokenizer, asked, add_generation_prompt=True, **options)
    except chat.MessageError as error:
        raise EvaluationError(f"row {number}, {error}") from error


def _misfits(row: Row) -> Iterator[tuple[str, str]]:
    """Each field that keeps a row from being evaluated, and why; a MessageError for wrong messages."""
    if not isinstance(row, Mapping):
        yield "the row", f"expected a dict with messages and source, found {type(row).__name__}."
    for field, kind in OTHER_KINDS.items():
        if row.get(field) not in (None, []):
            yield field, f"a row of the kind {kind} has no reference answer to text. Evaluate rows with messages."
    source, tags, messages = row.get("source"), row.get("tags") or [], row.get("messages")
    if not _is_name(source):
        yield "source", f"expected a name to group the rows by, other than 'all', found {source!r}."
    if not isinstance(tags, list | tuple) or not all(map(_is_name, tags)):
        yield "tags", f"expected a list of names, other than 'all', found {tags!r}."
    chat.validate(messages)
    *asked, last = messages
    if last["role"] != "assistant":
        yield f"messages[{len(asked)}]", f"the last is the {last['role']}'s, and a reference answer is due. Add it."
    if not {"user", "tool"} & {message["role"] for message in asked}:
        yield "messages", "there is no question: no user's message and no tool's. Leave the row out."
    if str(row.get("label")).lower() in ("false", "0", "0.0") or not is_learned(last):
        yield f"messages[{len(asked)}]", "the reply is marked as bad or not to be learned. Leave the row out."


def _is_name(name: Any) -> bool:
    return isinstance(name, str) and name.isprintable() and name.strip() not in ("", "all")  # "all" is every row


def _measured(
    row: Row, prompt: str, output: list[int], tokenizer: PreTrainedTokenizerBase, stops: set[int]
) -> dict[str, Any]:
    """One dict of `EvalReport.rows`, without its `nll`."""
    stopped = bool(output) and output[-1] in stops
    opened = prompt.rstrip().endswith(thinking.OPENER)
    parsed = thinking.parse_output(output, tokenizer, prompt_opens_thinking=opened)
    reply, written = parsed.answer or "", tokenizer.decode(output[:-1] if stopped else output)
    return {
        "source": row["source"],
        "tags": list(row.get("tags") or ()),
        "prompt": next(m["content"] for m in reversed(row["messages"][:-1]) if m["role"] in ("user", "tool")),
        "reference": row["messages"][-1]["content"] or metrics.written_calls(row["messages"][-1].get("tool_calls")),
        "reply": reply,
        "tokens": len(output),
        "status": parsed.status,
        **metrics.measure(reply, row, written=written, stopped=stopped, template_tokens=tokenizer.get_added_vocab()),
    }


@dataclass(frozen=True)
class Comparison:
    """Two reports on the same prompts, as `evaluation.json` holds them: each field is a key of the file.

    Attributes:
        table: one dict per source: prompts, perplexity, the source's own metric, the share of answers reached by
            whatever way (where numbers are due) and tokens of a reply, before and after; `intervals` holds the 95 %
            interval of each of these figures, `verdicts` what the paired tests say.
        worse: the changes by source that the paired test calls worse, also of sources that were never trained on.
        perplexities, figures, replies: "before" and "after", each with that report's `perplexities`, its `figures` by
            "source" and by "tag", and its `rows`.
    """

    table: list[dict[str, Any]]
    worse: list[dict[str, Any]]
    perplexities: dict[str, dict[str, dict[str, Any]]]
    figures: dict[str, dict[By, list[dict[str, Any]]]]
    replies: dict[str, list[dict[str, Any]]]

    def changes(self, by: By = "source") -> list[dict[str, Any]]:
        """One dict per group and figure: before, after, and the paired test in words.

        Args:
            by: groups are sources, or tags; the last group is "all".
        """
        return _changes(by, **self.replies)

    def telling(self) -> dict[str, tuple[Row, Row]]:
        """Prompts to look at, each with its rows before and after, by what they show; what does not occur is left out.

        A Chinese prompt and a tool call that were missed before and are hit after, and one that got worse: by its
        source's own figure, or an answer that was reached before.
        """

        def hits(row: Row, key: str | None = None) -> float:
            return FIGURES[key or METRICS.get(row["source"], "same")].part(row)[0]

        shows = {
            "Chinese": lambda old, new: "zh" in old["tags"] and old["source"] != "tools" and hits(new) > hits(old),
            "a tool call": lambda old, new: old["calls"] is not None and hits(new) > hits(old),
            "got worse": lambda old, new: hits(new) < hits(old) or hits(new, "exact") < hits(old, "exact"),
        }
        pairs = list(zip(self.replies["before"], self.replies["after"], strict=True))
        found = {name: next((pair for pair in pairs if shown(*pair)), None) for name, shown in shows.items()}
        return {name: pair for name, pair in found.items() if pair}

    @classmethod
    def load(cls, path: str | Path) -> Comparison:
        """Read what `save` wrote.

        Raises:
            EvaluationError: there is no such file, or it holds something else.
        """
        try:
            return cls(**json.loads(Path(path).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError) as error:
            raise EvaluationError(
                f"{path} holds no evaluation ({error}); `python -m course_utils evaluate` writes one."
            ) from error

    def save(self, path: str | Path) -> Path:
        """Write a JSON file; returns its path."""
        return write_json(path, vars(self))


def compare(before: EvalReport, after: EvalReport) -> Comparison:
    """Put two reports side by side, with all figures, intervals and tests.

    Raises:
        EvaluationError: they are not about the same prompts in the same order.
    """
    if [row["prompt"] for row in before.rows] != [row["prompt"] for row in after.rows]:
        raise EvaluationError("The two reports are about different prompts; evaluate both on the same rows.")
    runs = {"before": before, "after": after}
    changes = _changes("source", before.rows, after.rows)
    return Comparison(
        table=_table(before.rows, after.rows),
        worse=[line for line in changes if line["verdict"] == "worse" and line["source"] != "all"],
        perplexities={
            when: {source: asdict(each) for source, each in run.perplexities.items()} for when, run in runs.items()
        },
        figures={when: {by: run.figures(by) for by in ("source", "tag")} for when, run in runs.items()},
        replies={when: run.rows for when, run in runs.items()},
    )


def _table(before: Rows, after: Rows) -> list[dict[str, Any]]:
    lines = []
    for source, (old, new) in _groups("source", before, after).items():
        own = FIGURES[METRICS.get(source, "same")]
        line: dict[str, Any] = {"source": source, "prompts": len(old), "metric": own.name}
        intervals, verdicts = {}, {}
        columns = {"perplexity": FIGURES["perplexity"], "metric": own, "tokens": FIGURES["tokens"]}
        if source != "all" and "bare" in _asked(old):
            columns["reached"] = FIGURES["exact"]
        for column, figure in columns.items():
            for when, rows in (("before", old), ("after", new)):
                found = figure.interval(rows)
                line[f"{column} {when}"] = found.value
                intervals[f"{column} {when}"] = [found.low, found.high]
            verdicts[column] = figure.verdict(old, new)
        lines.append(line | {"intervals": intervals, "verdicts": verdicts})
    return lines


def _changes(by: By, before: Rows, after: Rows) -> list[dict[str, Any]]:
    return [
        {
            by: group,
            "prompts": len(old),
            "figure": figure.name,
            "before": figure.interval(old).value,
            "after": figure.interval(new).value,
            "verdict": "" if figure.higher_is_better is None else figure.verdict(old, new),
        }
        for group, (old, new) in _groups(by, before, after).items()
        for figure in map(FIGURES.__getitem__, _asked(old))
    ]
