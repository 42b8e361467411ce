"""Is it better? Perplexity, and what the replies are worth, per source and per tag, before and after.

Every rate has all prompts of its group as the denominator. A reply that does not fit a definition of `judging` counts
as a miss, never as missing. Every figure has a 95 % interval, and every change a paired test (`chance`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch.nn.utils.rnn import pad_sequence

from course_utils.core.errors import CourseError
from course_utils.core.files import write_json
from course_utils.evals import generation, metrics, statistics
from course_utils.text import chat, masking, thinking

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

METRICS = {"json": "json_strict", "emoji": "emoji", "mawps": "exact", "cmath": "exact", "cluener": "entity_f1"}
"""The figure that says most about a source; of the others it is told whether the reply ended by itself."""

By = Literal["source", "tag"]


class EvaluationError(CourseError):
    """Rows that cannot be evaluated."""


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


@dataclass(frozen=True)
class _Nll:
    """Sums for one example, so that totals do not depend on how examples were batched (pitfall perplexity-by-batch)."""

    learned: float = 0.0
    learned_count: int = 0
    all_tokens: float = 0.0
    all_count: int = 0


def perplexity(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    examples: Iterable[Mapping[str, Any]],
    *,
    batch_size: int,
) -> Perplexity:
    """Perplexity of masked examples: total NLL over count, then exp, whatever the batch size.

    Args:
        model: any causal language model.
        tokenizer: its `pad_token_id` fills the batches.
        examples: dicts with `input_ids` and `labels`.
        batch_size: examples per forward pass.

    Raises:
        EvaluationError: no token is learned in any of them.
    """
    return _total(_nlls(model, tokenizer, list(examples), batch_size))


def _total(parts: Sequence[_Nll]) -> Perplexity:
    learned_count, all_count = sum(part.learned_count for part in parts), sum(part.all_count for part in parts)
    if not learned_count:
        raise EvaluationError("Perplexity needs at least one learned token; masking.audit shows what the rows lack.")
    return Perplexity(
        math.exp(math.fsum(part.learned for part in parts) / learned_count),
        math.exp(math.fsum(part.all_tokens for part in parts) / all_count),
        learned_count,
        all_count,
    )


@torch.inference_mode()
def _nlls(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, examples: Sequence[Mapping[str, Any]], batch_size: int
) -> list[_Nll]:
    """The NLL sums of each example, in the order given. Batches are made of examples of like length."""
    model.eval()
    order = sorted(range(len(examples)), key=lambda number: len(examples[number]["input_ids"]))
    parts: dict[int, _Nll] = {}
    for start in range(0, len(order), batch_size):
        numbers = order[start : start + batch_size]
        rows = [torch.tensor(examples[number]["input_ids"]) for number in numbers]
        wanted = [torch.tensor(examples[number]["labels"]) for number in numbers]
        ids = pad_sequence(rows, batch_first=True, padding_value=tokenizer.pad_token_id).to(model.device)
        labels = pad_sequence(wanted, batch_first=True, padding_value=masking.IGNORED).to(model.device)
        attention = pad_sequence([torch.ones_like(row) for row in rows], batch_first=True).to(model.device)
        # The logits at one place predict the token at the next. They are flattened because cross_entropy over a
        # class axis that is not the last one adds up in another order, and is off by 3e-4 nats a token in float32.
        logits = model(input_ids=ids, attention_mask=attention).logits[:, :-1].float()
        targets = ids[:, 1:]
        nll = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
        nll = nll.view_as(targets).double()
        real, learned = attention[:, 1:].bool(), labels[:, 1:] != masking.IGNORED
        for line, number in enumerate(numbers):
            parts[number] = _Nll(
                float(nll[line][learned[line]].sum()),
                int(learned[line].sum()),
                float(nll[line][real[line]].sum()),
                int(real[line].sum()),
            )
    return [parts[number] for number in range(len(examples))]


Row = Mapping[str, Any]


@dataclass(frozen=True)
class Figure:
    """One figure of a group of prompts: what it is called, and how it is read off the judged rows.

    Attributes:
        name: in words.
        part: what a row adds to the top and to the bottom of a ratio.
        told_of: whether a row asks for it; a group without such a row is not told of the figure, and in a group with
            one *all* rows count.
        higher_is_better: None where neither way is better in itself.
    """

    name: str
    part: Callable[[Row], statistics.Part]
    told_of: Callable[[Row], bool] = lambda row: True
    higher_is_better: bool | None = True


def _rate(name: str, key: str, **options: Any) -> Figure:
    return Figure(name, lambda row: (int(row[key]), 1), **options)


def _asks_for_json(row: Row) -> bool:
    return isinstance(metrics.parse_json(row["reference"]), dict)


def _f1_part(row: Row) -> statistics.Part:
    counts = row["entities"]
    return (2 * counts["right"], counts["found"] + counts["due"]) if counts else (0, 0)


FIGURES = {
    "perplexity": Figure(
        "perplexity of the reference",
        lambda row: (row["nll"]["learned"], row["nll"]["learned_count"]),
        told_of=lambda row: row["nll"]["learned_count"] > 0,
        higher_is_better=False,
    ),
    "usable": _rate("usable", "usable"),
    "stopped": _rate("ends by itself", "stopped"),
    "json_strict": _rate("JSON valid, strict", "json_strict", told_of=_asks_for_json),
    "json_lenient": _rate("JSON valid, lenient", "json_lenient", told_of=_asks_for_json),
    "json_schema": _rate("JSON with the right keys and types", "json_schema", told_of=_asks_for_json),
    "exact": _rate(
        "answer right",
        "exact",
        told_of=lambda row: _asks_for_json(row) or metrics.parse_number(row["reference"]) is not None,
    ),
    "entity_f1": Figure("entity F1", _f1_part, told_of=lambda row: row["entities"] is not None),
    "emoji": _rate("emoji in the reply", "emoji", higher_is_better=None),
    "emoji_fits": _rate("emoji only where the reference has one", "emoji_fits"),
}
"""Every figure of a report, by its key."""


def _measured(key: str, rows: Sequence[Row]) -> statistics.Interval:
    found = statistics.ratio([FIGURES[key].part(row) for row in rows])
    if key != "perplexity":
        return found
    return statistics.Interval(*(math.exp(nll) for nll in (found.value, found.low, found.high)))


def _groups(rows: Sequence[Row], by: By) -> dict[str, list[int]]:
    """The numbers of the rows of each source, or tag; "all" holds every one."""
    names = [[row["source"]] if by == "source" else row["tags"] for row in rows]
    found = {
        name: [number for number, own in enumerate(names) if name in own]
        for name in sorted({n for o in names for n in o})
    }
    return found | {"all": list(range(len(rows)))}


@dataclass(frozen=True)
class EvalReport:
    """What a model answered, and what that is worth.

    Attributes:
        rows: one dict per prompt: `source`, `tags`, `prompt` (the last user message), `reference`, `reply`, `status`
            (of the thinking), `nll` (sums of the reference), and the judgements of `judging.judge`.
    """

    rows: list[dict[str, Any]]

    @property
    def perplexities(self) -> dict[str, Perplexity]:
        """Of the references, per source; "all" holds all of them together. A source with nothing to learn has none."""
        sums = {
            source: [_Nll(**self.rows[number]["nll"]) for number in numbers]
            for source, numbers in _groups(self.rows, "source").items()
        }
        return {source: _total(parts) for source, parts in sums.items() if any(part.learned_count for part in parts)}

    def figures(self, by: By = "source") -> list[dict[str, Any]]:
        """One dict per group and figure that its rows ask for: value, 95 % interval, prompts.

        Args:
            by: groups are sources, or tags; the last group is "all".
        """
        return [
            {by: group, "prompts": len(numbers), "figure": figure.name, **asdict(_measured(key, rows))}
            for group, numbers in _groups(self.rows, by).items()
            for rows in [[self.rows[number] for number in numbers]]
            for key, figure in FIGURES.items()
            if any(map(figure.told_of, rows))
        ]


def evaluate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Iterable[Mapping[str, Any]],
    *,
    batch_size: int,
    max_new_tokens: int,
    resume_file: str | Path | None = None,
) -> EvalReport:
    """Let the model answer every row, and judge the answers.

    Args:
        model: base, base with adapter, or merged.
        tokenizer: the model's.
        rows: dicts with `messages`, `source`, `tags` and perhaps `tools`; the last message is the reference answer.
            Thinking is asked for where the reference has some, and is off elsewhere.
        batch_size: prompts answered at once.
        max_new_tokens: longest reply, in tokens.
        resume_file: keeps the replies while they come, so that a run that was stopped goes on; see
            `generation.generate`.

    Raises:
        EvaluationError: there are no rows, or one does not end with an assistant's message.
        GenerationError: `resume_file` belongs to other work.
    """
    rows = list(rows)
    if not rows:
        raise EvaluationError("There are no rows to evaluate; data.load_built(profile, 'valid') gives the course's.")
    prompts = []
    for number, row in enumerate(rows):
        last = row["messages"][-1]
        if last["role"] != "assistant":
            raise EvaluationError(
                f"row {number}: the last message is the {last['role']}'s; a reference answer is missing"
            )
        prompts.append(
            chat.render(
                tokenizer,
                row["messages"][:-1],
                tools=row.get("tools"),
                enable_thinking=bool(last.get("reasoning_content")),
                add_generation_prompt=True,
            )
        )
    outputs = generation.generate(
        model,
        tokenizer,
        prompts,
        batch_size=batch_size,
        max_new_tokens=max_new_tokens,
        resume_file=resume_file,
    )
    examples = masking.build_dataset(rows, tokenizer, train_on="last")
    sums = dict(zip(examples["row"], _nlls(model, tokenizer, list(examples), batch_size), strict=True))
    stops = set(generation.stop_ids(model, tokenizer))
    return EvalReport(
        [
            {**_judged(row, prompt, output, tokenizer, stops), "nll": asdict(sums.get(number, _Nll()))}
            for number, (row, prompt, output) in enumerate(zip(rows, prompts, outputs, strict=True))
        ]
    )


def _judged(
    row: Mapping[str, Any], prompt: str, output: list[int], tokenizer: PreTrainedTokenizerBase, stops: set[int]
) -> dict[str, Any]:
    """One line of `EvalReport.rows`, but for its `nll`."""
    stopped = bool(output) and output[-1] in stops
    opened = prompt.rstrip().endswith(thinking.OPENER)
    parsed = thinking.parse_output(output, tokenizer, prompt_opens_thinking=opened)
    reply = parsed.answer or ""
    return {
        "source": row["source"],
        "tags": list(row.get("tags") or ()),
        "prompt": next(m["content"] for m in reversed(row["messages"][:-1]) if m["role"] in ("user", "tool")),
        "reference": row["messages"][-1]["content"] or "",
        "reply": reply,
        "status": parsed.status,
        **metrics.judge(
            reply,
            row,
            written=tokenizer.decode(output[:-1] if stopped else output),
            stopped=stopped,
            template_tokens=tokenizer.get_added_vocab(),
        ),
    }


@dataclass(frozen=True)
class Comparison:
    """Two reports on the same prompts."""

    before: EvalReport
    after: EvalReport

    def table(self) -> list[dict[str, Any]]:
        """One dict per source: prompts, perplexity, usable, and the source's own metric, before and after.

        `intervals` holds the 95 % interval of each of these figures, `verdicts` what the paired tests say.
        """
        lines = []
        for source, numbers in _groups(self.before.rows, "source").items():
            own = METRICS.get(source, "stopped")
            keys = {"perplexity": "perplexity", "usable": "usable", "metric": own}
            line: dict[str, Any] = {"source": source, "prompts": len(numbers), "metric": FIGURES[own].name}
            intervals, verdicts = {}, {}
            for column, key in keys.items():
                for when, report in (("before", self.before), ("after", self.after)):
                    found = _measured(key, [report.rows[number] for number in numbers])
                    line[f"{column} {when}"] = found.value
                    intervals[f"{column} {when}"] = [found.low, found.high]
                # A source whose own figure is the emoji asks for it.
                verdicts[column] = self._verdict(key, numbers, FIGURES[key].higher_is_better is not False)
            lines.append(line | {"intervals": intervals, "verdicts": verdicts})
        return lines

    def changes(self, by: By = "source") -> list[dict[str, Any]]:
        """One dict per group and figure: before, after, and the paired test in words.

        Args:
            by: groups are sources, or tags; the last group is "all".
        """
        return [
            {
                by: old[by],
                "prompts": old["prompts"],
                "figure": old["figure"],
                "before": old["value"],
                "after": new["value"],
                "verdict": verdict,
            }
            for old, new, verdict in zip(
                self.before.figures(by), self.after.figures(by), self._verdicts(by), strict=True
            )
        ]

    def worse(self) -> list[dict[str, Any]]:
        """The changes by source of which the paired test says worse, sources that were never trained on among them."""
        return [line for line in self.changes() if line["verdict"] == "worse" and line["source"] != "all"]

    def _verdicts(self, by: By) -> list[str]:
        return [
            "" if figure.higher_is_better is None else self._verdict(key, numbers, figure.higher_is_better)
            for numbers in _groups(self.before.rows, by).values()
            for key, figure in FIGURES.items()
            if any(figure.told_of(self.before.rows[number]) for number in numbers)
        ]

    def _verdict(self, key: str, numbers: Sequence[int], higher_is_better: bool) -> statistics.Verdict:
        before, after = (
            [FIGURES[key].part(report.rows[number]) for number in numbers] for report in (self.before, self.after)
        )
        return statistics.verdict(before, after, higher_is_better=higher_is_better)


def save(comparison: Comparison, path: str | Path) -> Path:
    """Write the table, all figures with their intervals, what got worse, and every reply to a JSON file.

    Returns:
        The file's path.
    """
    reports = {"before": comparison.before, "after": comparison.after}
    return write_json(
        path,
        {
            "table": comparison.table(),
            "worse": comparison.worse(),
            "perplexities": {
                when: {source: asdict(figure) for source, figure in report.perplexities.items()}
                for when, report in reports.items()
            },
            "figures": {when: {by: report.figures(by) for by in ("source", "tag")} for when, report in reports.items()},
            "replies": {when: report.rows for when, report in reports.items()},
        },
    )


def compare(before: EvalReport, after: EvalReport) -> Comparison:
    """Put two reports side by side.

    Raises:
        EvaluationError: they are not about the same prompts in the same order.
    """
    if [row["prompt"] for row in before.rows] != [row["prompt"] for row in after.rows]:
        raise EvaluationError("The two reports are about different prompts; evaluate both on the same rows.")
    return Comparison(before, after)
