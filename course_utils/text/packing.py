"""Packing: several rows in one sequence, none of which sees another (pitfall packing-leaks); or text, cut to length.

Packed rows need hardly any padding, which is computed like anything else. They are kept apart by position ids that
start anew with every row: transformers makes the block mask from these, but only where there is no attention mask and
no cache.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from course_utils.core.errors import CourseError
from course_utils.text.turns import IGNORED

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset
    from transformers import PreTrainedTokenizerBase

DatasetType = TypeVar("DatasetType", "Dataset", "IterableDataset")
END_OF_TEXT = "<|endoftext|>"
"""What stands between two texts in Qwen's own pretraining. A chat reply ends in another token."""


class PackingError(CourseError):
    """Rows that cannot be packed."""


def pack(examples: Sequence[Mapping[str, Any]], max_length: int) -> list[dict[str, list[int]]]:
    """Put rows (`input_ids` and `labels`) together, best fit first, up to `max_length` tokens a pack (TRL's "bfd").

    Returns:
        Dicts with `input_ids`, `labels` and `position_ids`, equally long. A row's first token is never learned: it
        would be predicted from the row before it.

    Raises:
        PackingError: a row has no tokens, or is longer than `max_length` (TRL would cut it, and with it the stop
            token: pitfall stop-token-cut-off).
    """
    from datasets import Dataset
    from trl import pack_dataset

    lengths = [len(example["input_ids"]) for example in examples]
    too_long = [row for row, length in enumerate(lengths) if length > max_length]
    empty = [row for row, length in enumerate(lengths) if not length]
    for problem, wrong in ((f"longer than {max_length} tokens", too_long), ("empty", empty)):
        if wrong:
            raise PackingError(
                f"{len(wrong)} rows are {problem} (first: row {wrong[0]}). masking.build_dataset with "
                f"max_length={max_length} leaves such rows out and counts them."
            )
    if not examples:
        return []
    columns = {
        "input_ids": [list(example["input_ids"]) for example in examples],
        "labels": [[IGNORED, *example["labels"][1:]] for example in examples],
    }
    # One batch: by default `datasets` would pack each thousand rows by themselves.
    packed = pack_dataset(Dataset.from_dict(columns), max_length, "bfd", {"batch_size": len(examples)})
    packs = packed.to_list()
    for row in packs:
        row["position_ids"] = [place for length in row.pop("seq_lengths") for place in range(length)]
    return packs


def chunks(texts: DatasetType, tokenizer: PreTrainedTokenizerBase, max_length: int) -> DatasetType:
    """Text for pretraining: one after the other, with `END_OF_TEXT` behind each, cut into equal pieces.

    Nothing is padded or lost, and every token is learned. What looks like a special token in a text stays plain text.

    Args:
        texts: rows with a `text`. An `IterableDataset` is read, tokenised and cut while the training runs.
        tokenizer: the model's.
        max_length: tokens of a piece; the last one of each thousand texts may be shorter.

    Returns:
        Rows with `input_ids` and the same `labels`, for `training.train(…, audit=False)`: there is no reply to find.
    """
    from trl import pack_dataset

    end = tokenizer.get_vocab().get(END_OF_TEXT, tokenizer.eos_token_id)

    def as_ids(batch: Mapping[str, list[str]]) -> dict[str, list[list[int]]]:
        made = tokenizer(batch["text"], add_special_tokens=False, split_special_tokens=True)
        return {"input_ids": [[*ids, end] for ids in made["input_ids"]]}

    ids = texts.select_columns(["text"]).map(as_ids, batched=True, remove_columns=["text"])
    return pack_dataset(ids, max_length, "wrapped").map(lambda piece: {"labels": piece["input_ids"]})


def padding_share(lengths: Sequence[int], batch_size: int) -> float:
    """The share of padding among the tokens of all batches, each of `batch_size` rows (or packs) in the order given, by
    the tokens of each row."""
    batches = [lengths[start : start + batch_size] for start in range(0, len(lengths), batch_size)]
    padded = sum(max(batch) * len(batch) for batch in batches)
    return 1 - sum(lengths) / padded if padded else 0.0
