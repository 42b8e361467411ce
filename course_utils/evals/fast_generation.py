"""What makes greedy replies faster on a CPU; on a GPU, where Unsloth has kernels of its own, both do nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def contiguous_head(model: Any) -> Iterator[None]:
    """Inside this block the head reads its input from one piece of memory; no logit changes.

    Where a prompt is read, transformers gives the head a slice of the hidden states, and torch then copies the head's
    whole weight once for each row of the batch: half of the time and three quarters of the memory (docs/evaluation.md).

    Args:
        model: any causal language model, with or without an adapter.
    """
    head = model.get_output_embeddings() if model.device.type == "cpu" else None
    if head is None:
        yield
        return
    hook = head.register_forward_pre_hook(lambda module, inputs: (inputs[0].contiguous(), *inputs[1:]))
    try:
        yield
    finally:
        hook.remove()


@contextmanager
def merged_in_memory(model: Any) -> Iterator[None]:
    """Inside this block the active adapter is part of its base's weights; afterwards the base has its own, to the bit.

    A mounted adapter costs two thin products for each of its layers and tokens. Merged into 16-bit weights it is
    rounded, so a reply may differ where two tokens are nearly as likely: a near-tie. Layers in 4 bits stay as they are.

    Args:
        model: a base model, which is left as it is, or one with an adapter.
    """
    from peft.tuners.lora import LoraLayer

    layers = [
        module
        for module in model.modules()
        if isinstance(module, LoraLayer)
        and not (module.disable_adapters or module.merged)
        and module.get_base_layer().weight.is_floating_point()
    ]
    if model.device.type != "cpu":
        layers = []
    own = [layer.get_base_layer().weight.detach().clone() for layer in layers]
    try:
        for layer in layers:
            layer.merge()
        yield
    finally:
        with torch.no_grad():
            for layer, weight in zip(layers, own, strict=True):
                layer.unmerge()  # by subtraction, which leaves rounding behind
                layer.get_base_layer().weight.copy_(weight)
