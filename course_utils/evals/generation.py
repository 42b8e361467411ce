"""Greedy replies, many at a time: batched, resumable, and compared with others token by token."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import torch
from torch.nn.utils.rnn import pad_sequence

from course_utils.core.errors import CourseError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

SAMPLED = 1024  # values of each weight that go into a model's fingerprint


class GenerationError(CourseError):
    """A file of replies that belongs to other work."""


def generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    *,
    batch_size: int,
    max_new_tokens: int,
    resume_file: str | Path | None = None,
) -> list[list[int]]:
    """Greedy replies to rendered prompts, in batches of like length, padded on the left (pitfall
    right-padded-generation).

    Args:
        model: any causal language model.
        tokenizer: the model's.
        prompts: what `chat.render(…, add_generation_prompt=True)` returns.
        batch_size: prompts answered at once.
        max_new_tokens: longest reply, in tokens.
        resume_file: a JSONL file that takes each batch's replies as they come. Where it is there, its replies are
            kept and the rest is asked.

    Returns:
        The new ids of each reply, in the order of the prompts. A reply that ended by itself ends with the stop token.

    Raises:
        GenerationError: `resume_file` holds the replies to other prompts, of another model or of another length.
    """
    from tqdm.auto import tqdm

    model.eval()
    ids = [tokenizer(prompt, add_special_tokens=False)["input_ids"] for prompt in prompts]
    order = sorted(range(len(ids)), key=lambda number: len(ids[number]))
    batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    work = {"prompts": _digest(prompts), "max_new_tokens": max_new_tokens}
    with _kept(resume_file, work, model) as (replies, keep), tqdm(total=len(ids), unit="reply", leave=False) as bar:
        for numbers in batches:
            # A batch that was cut in the middle is asked again whole, so that going on gives what one run gives.
            if any(number not in replies for number in numbers):
                answered = _batch(model, tokenizer, [ids[number] for number in numbers], max_new_tokens)
                for number, reply in zip(numbers, answered, strict=True):
                    replies[number] = reply
                    keep(number, reply)
            bar.update(len(numbers))
    return [replies[number] for number in range(len(ids))]


def stop_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Every id that ends a reply: the tokenizer's stop token and those of the model's generation config."""
    configured = model.generation_config.eos_token_id
    listed = configured if isinstance(configured, list) else [configured]
    return sorted({tokenizer.eos_token_id, *listed} - {None})


@torch.inference_mode()
def _batch(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, ids: Sequence[list[int]], max_new_tokens: int
) -> list[list[int]]:
    """The replies of one batch, each up to its stop token, which is kept; what follows it is padding."""
    inputs, stops = _padded_left(ids, tokenizer, model), stop_ids(model, tokenizer)
    output = model.generate(
        input_ids=inputs["input_ids"],
        attention_mask=inputs["attention_mask"],
        max_new_tokens=max_new_tokens,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=stops,
        # Greedy is said here, not in generation_config (pitfall greedy-in-config); the None silence its sampling
        # settings.
        do_sample=False,
        temperature=None,
        top_p=None,
        top_k=None,
    )
    replies = output[:, inputs["input_ids"].shape[1] :].tolist()
    ends = [next((place for place, token in enumerate(reply) if token in stops), len(reply)) for reply in replies]
    return [reply[: end + 1] for reply, end in zip(replies, ends, strict=True)]


def _padded_left(
    ids: Sequence[Sequence[int]], tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel
) -> dict[str, torch.Tensor]:
    """One batch, (rows, longest row): ids, attention mask, and the place of each token in its own row."""
    rows = [torch.tensor(row) for row in ids]
    padded = pad_sequence(rows, batch_first=True, padding_value=tokenizer.pad_token_id, padding_side="left")
    attention = pad_sequence([torch.ones_like(row) for row in rows], batch_first=True, padding_side="left")
    places = (attention.cumsum(-1) - 1).clamp(min=0)
    batch = {"input_ids": padded, "attention_mask": attention, "position_ids": places}
    return {name: tensor.to(model.device) for name, tensor in batch.items()}


@contextmanager
def _kept(
    path: str | Path | None, work: Mapping[str, Any], model: PreTrainedModel
) -> Iterator[tuple[dict[int, list[int]], Any]]:
    """The replies that a file holds, by number, and what appends one to it; without a file nothing is kept."""
    if path is None:
        yield {}, lambda number, reply: None
        return
    path, head = Path(path), {**work, "model": _fingerprint(model)}
    lines = _whole_lines(path)
    if lines and (wrong := [key for key in head if lines[0].get(key) != head[key]]):
        raise GenerationError(
            f"{path} holds replies of other work: {', '.join(wrong)} differ. Delete it to start anew, or name another."
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8", newline="\n") as file:
        if not lines:
            _append(file, head)
        yield (
            {line["number"]: line["reply"] for line in lines[1:]},
            lambda number, reply: _append(file, {"number": number, "reply": reply}),
        )


def _append(file: TextIO, value: Mapping[str, Any]) -> None:
    file.write(json.dumps(value) + "\n")
    file.flush()  # a killed process loses nothing that it has answered


def _whole_lines(path: Path) -> list[dict[str, Any]]:
    """The values of a JSONL file; a last line that was cut is dropped from the file, too."""
    if not path.is_file():
        return []
    text = path.read_bytes()
    whole = text[: text.rfind(b"\n") + 1]
    if len(whole) < len(text):
        os.truncate(path, len(whole))
    try:
        return [json.loads(line) for line in whole.splitlines()]
    except ValueError as error:
        raise GenerationError(f"{path} is no file of replies ({error}). Delete it, or name another.") from error


def _digest(texts: Sequence[str]) -> str:
    return hashlib.sha256(json.dumps(list(texts)).encode()).hexdigest()


def _fingerprint(model: PreTrainedModel) -> str:
    """What tells one model from another: a sample of every weight, and which adapters are at work.

    A sample, because all weights of a large model take long; another training moves values everywhere.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    digest = hashlib.sha256()
    for name, weight in model.named_parameters():
        values = weight.detach().flatten()
        sample = values[:: max(1, len(values) // SAMPLED)].float().cpu()
        digest.update(f"{name} {tuple(weight.shape)} {weight.dtype}".encode() + sample.numpy().tobytes())
    for name, module in model.named_modules():
        if isinstance(module, BaseTunerLayer):
            at_work = [] if module.disable_adapters else module.active_adapters
            digest.update(f"{name} {at_work}".encode())
    return digest.hexdigest()


@dataclass(frozen=True)
class Agreement:
    """How near one set of greedy replies is to another on the same prompts: of two models, or of one in other batches.

    The logits are compared at every token of the first replies, after the same tokens.

    Attributes:
        prompts: how many there are.
        equal: pairs of replies that are equal, id by id.
        near_ties: of the others, those whose first difference lies where the two best logits are nearer to each other
            than `logit_error`: which of them wins is rounding.
        widest_gap: between those two logits, the largest over all first differences; 0 where there is none.
        places: how many tokens' logits were compared.
        same_top: share of these places where both rank the same token first.
        logit_error: largest difference of a logit, over all places and the whole vocabulary.
        mean_error: mean of these differences.
    """

    prompts: int
    equal: int
    near_ties: int
    widest_gap: float
    places: int
    same_top: float
    logit_error: float
    mean_error: float

    @property
    def holds(self) -> bool:
        """True where every pair is equal or a near-tie."""
        return self.equal + self.near_ties == self.prompts


@torch.inference_mode()
def reply_logits(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    replies: Sequence[Sequence[int]],
    *,
    batch_size: int = 1,
) -> list[torch.Tensor]:
    """The logits that each token of each reply was chosen from, float32, (tokens of the reply, vocabulary).

    Args:
        model: any causal language model.
        tokenizer: the model's.
        prompts: rendered prompts.
        replies: the new ids of one reply per prompt.
        batch_size: rows of one forward pass, padded on the left; 1 pads nothing.
    """
    ids = [
        tokenizer(prompt, add_special_tokens=False)["input_ids"] + list(reply)
        for prompt, reply in zip(prompts, replies, strict=True)
    ]
    found = []
    for start in range(0, len(ids), batch_size):
        logits = model(**_padded_left(ids[start : start + batch_size], tokenizer, model)).logits
        for row, reply in zip(logits, replies[start : start + batch_size], strict=False):
            found.append(row[len(row) - len(reply) - 1 : -1].float())  # a logit chooses the token after it
    return found


def agreement(
    replies: Sequence[Sequence[int]],
    logits: Sequence[torch.Tensor],
    others: Sequence[Sequence[int]],
    other_logits: Sequence[torch.Tensor],
) -> Agreement:
    """Compare two sets of greedy replies, and the logits behind the first.

    Args:
        replies: the new ids of one reply per prompt.
        logits: what `reply_logits` gives for `replies`.
        others: the replies of another model, or of the same one in other batches.
        other_logits: what `reply_logits` gives, of that model or in those batches, for `replies` as well.
    """
    largest, total, count, same_top, gaps = 0.0, 0.0, 0, 0, []
    for reply, mine, other, yours in zip(replies, logits, others, other_logits, strict=True):
        errors = (mine - yours).abs()
        largest, total, count = max(largest, float(errors.max())), total + float(errors.sum()), count + errors.numel()
        same_top += int((mine.argmax(-1) == yours.argmax(-1)).sum())
        if list(reply) != list(other):
            # Of two greedy replies under one limit neither is the beginning of the other: a stop token ends both.
            place = next(place for place, (a, b) in enumerate(zip(reply, other, strict=False)) if a != b)
            best, second = mine[place].topk(2).values.tolist()
            gaps.append(best - second)
    places = sum(map(len, replies))
    return Agreement(
        prompts=len(replies),
        equal=len(replies) - len(gaps),
        near_ties=sum(gap <= largest for gap in gaps),
        widest_gap=max(gaps, default=0.0),
        places=places,
        same_top=same_top / places,
        logit_error=largest,
        mean_error=total / count,
    )
