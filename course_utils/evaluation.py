"""Is it better? Perplexity, usability, JSON, exact answers and emoji, per source, before and after.

Every rate has all prompts of its source as the denominator. A reply that does not fit a definition counts as a miss,
never as missing.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from course_utils import chat, masking, thinking
from course_utils.errors import CourseError
from course_utils.files import write_json

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

METRICS = {"json": "json_strict", "emoji": "emoji", "mawps": "exact", "cmath": "exact"}
"""The figure that says most about a source; of the others it is told whether the reply ended by itself."""

METRIC_NAMES = {
    "json_strict": "JSON valid, strict",
    "exact": "answer right",
    "emoji": "emoji in the reply",
    "stopped": "ends by itself",
}

EMOJI = re.compile("[\U0001f300-\U0001faff\u2600-\u27bf\u2b50\u2b55\u231a\u231b\u23e9-\u23f3]")
LOOP = re.compile(r"(?=\S)(.{4,80}?)\1{3,}", re.DOTALL)
NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?(?:\s*/\s*\d+)?")
FENCE = re.compile(r"```(?:json)?\s*\n(.*?)\n?```", re.DOTALL)


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
    """Sums for one example, so that totals do not depend on how examples were batched (trap 25)."""

    learned: float
    learned_count: int
    all_tokens: float
    all_count: int


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
        width = max(len(examples[number]["input_ids"]) for number in numbers)
        ids = torch.full((len(numbers), width), tokenizer.pad_token_id)
        labels = torch.full((len(numbers), width), masking.IGNORED)
        attention = torch.zeros((len(numbers), width), dtype=torch.long)
        for line, number in enumerate(numbers):
            length = len(examples[number]["input_ids"])
            ids[line, :length] = torch.tensor(examples[number]["input_ids"])
            labels[line, :length] = torch.tensor(examples[number]["labels"])
            attention[line, :length] = 1
        ids, labels, attention = (tensor.to(model.device) for tensor in (ids, labels, attention))
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


@torch.inference_mode()
def generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    *,
    batch_size: int,
    max_new_tokens: int,
) -> list[list[int]]:
    """Greedy replies to rendered prompts, in batches of like length, padded on the left (trap 26).

    Args:
        model: any causal language model.
        tokenizer: the model's.
        prompts: what `chat.render(…, add_generation_prompt=True)` returns.
        batch_size: prompts answered at once.
        max_new_tokens: longest reply, in tokens.

    Returns:
        The new ids of each reply, in the order of the prompts. A reply that ended by itself ends with the stop token.
    """
    from tqdm.auto import tqdm

    model.eval()
    ids = [tokenizer(prompt, add_special_tokens=False)["input_ids"] for prompt in prompts]
    order = sorted(range(len(ids)), key=lambda number: len(ids[number]))
    stops = set(stop_ids(model, tokenizer))
    replies: dict[int, list[int]] = {}
    with tqdm(total=len(ids), unit="reply", leave=False) as bar:
        for start in range(0, len(order), batch_size):
            numbers = order[start : start + batch_size]
            width = max(len(ids[number]) for number in numbers)
            batch = torch.full((len(numbers), width), tokenizer.pad_token_id)
            attention = torch.zeros((len(numbers), width), dtype=torch.long)
            for line, number in enumerate(numbers):
                batch[line, width - len(ids[number]) :] = torch.tensor(ids[number])
                attention[line, width - len(ids[number]) :] = 1
            output = model.generate(
                input_ids=batch.to(model.device),
                attention_mask=attention.to(model.device),
                max_new_tokens=max_new_tokens,
                pad_token_id=tokenizer.pad_token_id,
                eos_token_id=sorted(stops),
                # Greedy is said here, not in generation_config (trap 26); the None silence its sampling settings.
                do_sample=False,
                temperature=None,
                top_p=None,
                top_k=None,
            )
            for number, new in zip(numbers, output[:, width:].tolist(), strict=True):
                replies[number] = _until_stop(new, stops)
            bar.update(len(numbers))
    return [replies[number] for number in range(len(ids))]


def stop_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Every id that ends a reply: the tokenizer's stop token and those of the model's generation config."""
    configured = model.generation_config.eos_token_id
    listed = configured if isinstance(configured, list) else [configured]
    return sorted({tokenizer.eos_token_id, *listed} - {None})


def _until_stop(ids: list[int], stops: set[int]) -> list[int]:
    """The ids up to the first stop token, which is kept; what follows it in a batch is padding."""
    end = next((place for place, token in enumerate(ids) if token in stops), len(ids) - 1)
    return ids[: end + 1]


@dataclass(frozen=True)
class EvalReport:
    """What a model answered, and what that is worth.

    Attributes:
        rows: one dict per prompt: `source`, `tags`, `prompt` (the last user message), `reference`, `reply`, `status`
            (of the thinking), and the judgements `stopped`, `usable`, `json_strict`, `json_lenient`, `exact`, `emoji`.
        perplexities: of the references, per source; "all" holds all of them together.
    """

    rows: list[dict[str, Any]]
    perplexities: dict[str, Perplexity]

    def table(self) -> list[dict[str, Any]]:
        """One dict per source, and one for all: prompts, perplexity on learned tokens, usable, the source's metric."""
        lines = []
        for source in [*sorted({row["source"] for row in self.rows}), "all"]:
            rows = [row for row in self.rows if source in (row["source"], "all")]
            metric = METRICS.get(source, "stopped")
            lines.append(
                {
                    "source": source,
                    "prompts": len(rows),
                    "perplexity": self.perplexities[source].learned,
                    "usable": _rate(rows, "usable"),
                    "metric": METRIC_NAMES[metric],
                    "value": _rate(rows, metric),
                }
            )
        return lines


def _rate(rows: Sequence[Mapping[str, Any]], key: str) -> float:
    return sum(bool(row[key]) for row in rows) / len(rows)


def evaluate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Iterable[Mapping[str, Any]],
    *,
    batch_size: int,
    max_new_tokens: int,
) -> EvalReport:
    """Let the model answer every row, and judge the answers.

    Args:
        model: base, base with adapter, or merged.
        tokenizer: the model's.
        rows: dicts with `messages`, `source`, `tags` and perhaps `tools`; the last message is the reference answer.
        batch_size: prompts answered at once.
        max_new_tokens: longest reply, in tokens.

    Raises:
        EvaluationError: a row does not end with an assistant's message.
    """
    rows = list(rows)
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
    outputs = generate(model, tokenizer, prompts, batch_size=batch_size, max_new_tokens=max_new_tokens)
    stops = set(stop_ids(model, tokenizer))
    judged = [_judge(row, output, tokenizer, stops) for row, output in zip(rows, outputs, strict=True)]

    examples = masking.build_dataset(rows, tokenizer, train_on="last")
    parts = _nlls(model, tokenizer, list(examples), batch_size)
    perplexities = {"all": _total(parts)}
    for source in dict.fromkeys(examples["source"]):
        mine = [part for part, owner in zip(parts, examples["source"], strict=True) if owner == source]
        perplexities[source] = _total(mine)
    return EvalReport(judged, perplexities)


def _judge(
    row: Mapping[str, Any], output: list[int], tokenizer: PreTrainedTokenizerBase, stops: set[int]
) -> dict[str, Any]:
    """One line of `EvalReport.rows`."""
    stopped = bool(output) and output[-1] in stops
    parsed = thinking.parse_output(output, tokenizer)
    reply = parsed.answer or ""
    reference = row["messages"][-1]["content"] or ""
    strict, lenient = parse_json(reply), parse_json(reply, lenient=True)
    return {
        "source": row["source"],
        "tags": list(row.get("tags") or ()),
        "prompt": next(m["content"] for m in reversed(row["messages"][:-1]) if m["role"] in ("user", "tool")),
        "reference": reference,
        "reply": reply,
        "status": parsed.status,
        "stopped": stopped,
        "usable": stopped and is_usable(reply, tokenizer),
        "json_strict": isinstance(strict, dict),
        "json_lenient": isinstance(lenient, dict),
        "exact": same_answer(reply, reference),
        "emoji": bool(EMOJI.search(reply)),
    }


def is_usable(reply: str, tokenizer: PreTrainedTokenizerBase) -> bool:
    """True for a reply that says something, does not run in a loop and shows no template token.

    A loop is a piece of 4 to 80 characters that stands four times in a row. Together with ending by itself this is
    the course's definition of a usable reply.
    """
    leaked = any(token in reply for token in tokenizer.get_added_vocab())
    return bool(reply.strip()) and not LOOP.search(reply) and not leaked


def parse_json(reply: str, *, lenient: bool = False) -> Any:
    """The value of a reply that is JSON and nothing else, or None (trap 27).

    Args:
        reply: an answer without its thinking.
        lenient: accept one code fence around the whole of it.
    """
    text = reply.strip()
    if lenient and (fence := FENCE.fullmatch(text)):
        text = fence[1]
    try:
        # 1 and 1.0 are one number in JSON, and neither is true: as floats they compare so.
        return json.loads(text, parse_int=float, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):  # JSONDecodeError is a ValueError; nesting without end is not JSON to us
        return None


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def same_answer(reply: str, reference: str) -> bool:
    """True where the reply is the reference: as JSON, as a number, else as text.

    Numbers are compared as numbers ("2/6" is "1/3", "8.0" is "8"); the last number in the reply counts.
    """
    expected = parse_json(reference)
    if isinstance(expected, (dict, list)):
        return json.dumps(parse_json(reply), sort_keys=True) == json.dumps(expected, sort_keys=True)
    number = _number(reference)
    if number is not None:
        found = NUMBER.findall(reply)
        return bool(found) and _number(found[-1]) == number
    return reply.strip() == reference.strip()


def _number(text: str) -> Fraction | None:
    try:
        return Fraction(re.sub(r"[,\s]", "", text))
    except (ValueError, ZeroDivisionError):
        return None


@dataclass(frozen=True)
class Comparison:
    """Two reports on the same prompts."""

    before: EvalReport
    after: EvalReport

    def table(self) -> list[dict[str, Any]]:
        """One dict per source: prompts, perplexity, usable, and the source's own metric, before and after."""
        return [
            {
                "source": old["source"],
                "prompts": old["prompts"],
                "perplexity before": old["perplexity"],
                "perplexity after": new["perplexity"],
                "usable before": old["usable"],
                "usable after": new["usable"],
                "metric": old["metric"],
                "metric before": old["value"],
                "metric after": new["value"],
            }
            for old, new in zip(self.before.table(), self.after.table(), strict=True)
        ]


def save(comparison: Comparison, path: str | Path) -> Path:
    """Write the table, the perplexities and every reply to a JSON file; returns its path."""
    reports = {"before": comparison.before, "after": comparison.after}
    return write_json(
        path,
        {
            "table": comparison.table(),
            "perplexities": {
                when: {source: asdict(figure) for source, figure in report.perplexities.items()}
                for when, report in reports.items()
            },
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
