"""Lesson 08's remedy with a price: a loss that also pulls the model back to its base on general prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import count
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.functional import kl_div

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedTokenizerBase

ROWS = 4  # general rows beside each pass
WEIGHT = 1.0  # of the divergence, in nats per token, against the loss of the row


def divergence(model: PeftModel, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """How far the model's next tokens have moved from its base's, in nats per token (KL divergence, base to model).

    Args:
        model: with an adapter; switched off, it is the base.
        batch: `input_ids` and `attention_mask`, rows x tokens.
    """
    with torch.no_grad(), model.disable_adapter():
        base = model(**batch).logits.float().log_softmax(-1)
    moved = model(**batch).logits.float().log_softmax(-1)
    each = kl_div(moved, base, log_target=True, reduction="none").sum(-1)
    return each[batch["attention_mask"].bool()].mean()


def trainer(general: Sequence[Mapping[str, Any]], tokenizer: PreTrainedTokenizerBase) -> type:
    """TRL's SFTTrainer with `WEIGHT` times the divergence on `ROWS` general rows added to each loss.

    TRL 1.15 has no such loss for supervised tuning. The rows come in turn, and nothing of them is copied: no label is
    used, so they may hold any text that the model should go on writing as it does.

    Args:
        general: examples with `input_ids`, from `masking.build_dataset`.
        tokenizer: the model's, for padding.
    """
    from trl import SFTTrainer

    class KLTrainer(SFTTrainer):
        passes = count()

        def compute_loss(self, model: Any, inputs: Any, *more: Any, **others: Any) -> Any:
            loss = super().compute_loss(model, inputs, *more, **others)
            if not model.training:  # the validation loss stays the loss of the rows
                return loss
            first = next(self.passes) * ROWS
            rows = [general[(first + place) % len(general)]["input_ids"] for place in range(ROWS)]
            batch = tokenizer.pad({"input_ids": rows}, return_tensors="pt").to(model.device)
            return loss + WEIGHT * divergence(model, batch) / self.args.gradient_accumulation_steps

    return KLTrainer
