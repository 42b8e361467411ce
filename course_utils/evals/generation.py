"""Greedy replies, many at a time: batched, resumable, and compared with others token by token."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from course_utils.core.errors import CourseError
from course_utils.evals.fast_generation import faster_decoding

if TYPE_CHECKING:
    from transformers import BatchEncoding, PreTrainedModel, PreTrainedTokenizerBase

Ids = Sequence[Sequence[int]]
FIRST_ROUND = 64  # tokens; most replies are shorter
SAMPLED = 1024  # values of each weight that go into a model's fingerprint
# Said with each call, not in generation_config (pitfall greedy-in-config); the None silence its sampling settings.
GREEDY = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}


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
    """Greedy replies to rendered prompts, in batches of similar length (pitfall right-padded-generation).

    A batch lasts as long as its longest reply. So all prompts are first answered with at most `FIRST_ROUND` tokens, and
    those that are not done by then go on in batches of their own.

    Args:
        model, tokenizer: any causal language model and its tokenizer.
        prompts: what `chat.render(…, add_generation_prompt=True)` returns.
        batch_size: prompts answered at once.
        max_new_tokens: longest reply, in tokens.
        resume_file: a JSONL file that takes each batch's replies as they come. If it is there already, its replies are
            kept, and only the other prompts are answered.

    Returns:
        The new ids of each reply, in the order of the prompts. A reply that ended by itself ends with the stop token.

    Raises:
        GenerationError: `resume_file` holds the replies to other prompts, of another model or of another length.
    """
    from tqdm.auto import tqdm

    model.eval()
    ids = [tokenizer(prompt, add_special_tokens=False)["input_ids"] for prompt in prompts]
    stops = set(stop_ids(model, tokenizer))
    kept = {}
    if resume_file is not None:
        digest = hashlib.sha256(json.dumps(list(prompts)).encode()).hexdigest()
        limits = {"max_new_tokens": max_new_tokens, "first_round": FIRST_ROUND}
        head = {"prompts": digest, **limits, "model": _fingerprint(model)}
        kept = _kept(Path(resume_file), head)
    replies: dict[int, list[int]] = {number: [] for number in range(len(ids))}
    with faster_decoding(model), tqdm(total=len(ids), unit="reply", leave=False) as bar:
        for limit in sorted({min(FIRST_ROUND, max_new_tokens), max_new_tokens}):
            going_on = [number for number, reply in replies.items() if not stops.intersection(reply[-1:])]
            order = sorted(going_on, key=lambda number: len(ids[number]) + len(replies[number]))
            for start in range(0, len(order), batch_size):
                numbers = order[start : start + batch_size]
                # A batch that was cut off is answered again whole, so that a resumed run gives what one run gives.
                if any((limit, number) not in kept for number in numbers):
                    so_far = [ids[number] + replies[number] for number in numbers]
                    more = _batch(model, tokenizer, so_far, limit - len(replies[numbers[0]]))
                    kept |= {(limit, n): replies[n] + new for n, new in zip(numbers, more, strict=True)}
                    if resume_file is not None:
                        lines = ({"limit": limit, "number": n, "reply": kept[limit, n]} for n in numbers)
                        _append(Path(resume_file), lines)
                replies |= {number: kept[limit, number] for number in numbers}
                bar.update(sum(limit == max_new_tokens or replies[number][-1] in stops for number in numbers))
    return [replies[number] for number in range(len(ids))]


def stop_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Every id that ends a reply: the tokenizer's stop token and those of the model's generation config."""
    configured = model.generation_config.eos_token_id
    listed = configured if isinstance(configured, list) else [configured]
    return sorted({tokenizer.eos_token_id, *listed} - {None})


@torch.inference_mode()
def _batch(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, ids: Ids, max_new_tokens: int
) -> list[list[int]]:
    """The replies of one batch, each up to and with its stop token; what follows that is padding."""
    inputs, stops = _padded_left(ids, tokenizer, model), stop_ids(model, tokenizer)
    how = {"max_new_tokens": max_new_tokens, "pad_token_id": tokenizer.pad_token_id, "eos_token_id": stops}
    output = model.generate(**inputs, **how, **GREEDY)
    replies = output[:, inputs["input_ids"].shape[1] :].tolist()
    ends = [next((place for place, token in enumerate(reply) if token in stops), len(reply)) for reply in replies]
    return [reply[: end + 1] for reply, end in zip(replies, ends, strict=True)]


def _padded_left(ids: Ids, tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel) -> BatchEncoding:
    """One batch of ids and its attention mask, both (rows, longest row)."""
    return tokenizer.pad({"input_ids": ids}, padding_side="left", return_tensors="pt").to(model.device)


def _kept(path: Path, head: dict[str, Any]) -> dict[tuple[int, int], list[int]]:
    """A file's replies by limit and number. A last line that was cut off is removed; a new file gets its head."""
    text = path.read_bytes() if path.is_file() else b""
    whole = text[: text.rfind(b"\n") + 1]
    if len(whole) < len(text):
        os.truncate(path, len(whole))
    try:
        lines = [json.loads(line) for line in whole.splitlines()]
    except ValueError as error:
        raise GenerationError(f"{path} is no file of replies ({error}). Delete it, or name another.") from error
    if not lines:
        path.parent.mkdir(parents=True, exist_ok=True)
        _append(path, [head])
    elif wrong := [key for key in head if lines[0].get(key) != head[key]]:
        raise GenerationError(
            f"{path} holds replies of other work: {', '.join(wrong)} differ. Delete it to start anew, or name another."
        )
    return {(line["limit"], line["number"]): line["reply"] for line in lines[1:]}


def _append(path: Path, lines: Iterable[dict[str, Any]]) -> None:
    with path.open("a", encoding="utf-8", newline="\n") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)


def _fingerprint(model: PreTrainedModel) -> str:
    """A hash of the active adapters and of a sample of every weight: all of a large model's would take long."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    digest = hashlib.sha256()
    for name, weight in model.named_parameters():
        values = weight.detach().flatten()
        sample = values[:: max(1, len(values) // SAMPLED)].float().cpu()
        digest.update(f"{name} {tuple(weight.shape)} {weight.dtype}".encode() + sample.numpy().tobytes())
    for name, module in model.named_modules():
        if isinstance(module, BaseTunerLayer):
            active = [] if module.disable_adapters else module.active_adapters
            digest.update(f"{name} {active}".encode())
    return digest.hexdigest()


@dataclass(frozen=True)
class Agreement:
    """How close two sets of greedy replies to the same prompts are: of two models, or of one in other batches.

    The logits are compared at every token of the first replies, after the same tokens.

    Attributes:
        prompts: how many there are.
        equal: pairs of replies that are equal, id by id.
        near_ties: of the others, those whose first difference lies where the two best logits are closer to each other
            than a logit moves in this very reply: rounding decides which of them wins.
        widest_gap: between those two logits, the largest over all first differences; 0 where there is none.
        places: how many tokens' logits were compared.
        same_top: share of these places where both rank the same token first.
        logit_error, mean_error: largest and mean difference of a logit, over all places and the whole vocabulary.
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
    replies: Ids,
    *,
    batch_size: int = 1,
) -> list[torch.Tensor]:
    """The logits that each token of each reply was chosen from: float32 on the CPU, (tokens of the reply, vocabulary).

    Args:
        model, tokenizer, prompts: see `generate`.
        replies: the new ids of one reply per prompt.
        batch_size: rows of one forward pass, padded on the left; 1 pads nothing.
    """
    asked = [tokenizer(prompt, add_special_tokens=False)["input_ids"] for prompt in prompts]
    ids = [ask + list(reply) for ask, reply in zip(asked, replies, strict=True)]
    found = []
    for start in range(0, len(ids), batch_size):
        batch = _padded_left(ids[start : start + batch_size], tokenizer, model)
        places = (batch["attention_mask"].cumsum(-1) - 1).clamp(min=0)  # of each token in its own row
        logits = model(**batch, position_ids=places).logits
        for row, reply in zip(logits, replies[start : start + batch_size], strict=True):
            found.append(row[len(row) - len(reply) - 1 : -1].float().cpu())  # a logit chooses the token after it
    return found


def agreement(
    replies: Ids, logits: Sequence[torch.Tensor], others: Ids, other_logits: Sequence[torch.Tensor]
) -> Agreement:
    """Compare two sets of greedy replies, and the logits behind the first.

    Args:
        replies: the new ids of one reply per prompt.
        logits: what `reply_logits` gives for `replies`.
        others: the replies of another model, or of the same one in other batches.
        other_logits: what `reply_logits` gives, of that model or in those batches, for `replies` as well.
    """
    largest, total, count, same_top, near_ties, gaps = 0.0, 0.0, 0, 0, 0, []
    for reply, mine, other, yours in zip(replies, logits, others, other_logits, strict=True):
        errors = (mine - yours).abs()
        moved = float(errors.max())  # as far as a logit moves in this reply
        largest, total, count = max(largest, moved), total + float(errors.sum()), count + errors.numel()
        same_top += int((mine.argmax(-1) == yours.argmax(-1)).sum())
        if list(reply) != list(other):
            # Of two greedy replies under one limit neither is the beginning of the other: a stop token ends both.
            place = next(place for place, (a, b) in enumerate(zip(reply, other, strict=False)) if a != b)
            best, second = mine[place].topk(2).values.tolist()
            gaps.append(best - second)
            near_ties += best - second <= moved
    places = sum(map(len, replies))
    return Agreement(
        prompts=len(replies),
        equal=len(replies) - len(gaps),
        near_ties=near_ties,
        widest_gap=max(gaps, default=0.0),
        places=places,
        same_top=same_top / places,
        logit_error=largest,
        mean_error=total / count,
    )
