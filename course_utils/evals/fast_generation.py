"""What makes greedy replies faster on a CPU; on a GPU, where Unsloth has kernels of its own, both do nothing."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def faster_decoding(model: Any) -> Iterator[None]:
    """Inside this block a CPU writes tokens faster; logits change by rounding at most.

    Two findings (docs/evaluation.md). Where a prompt is read, transformers gives the head a slice of the hidden states,
    and torch then copies the head's whole weight once for each row of the batch: the slice is made contiguous. And for
    each new token every key and value is copied for all query heads that share it: these heads ask together instead.

    Args:
        model: any causal language model, with or without an adapter.
    """
    head = model.get_output_embeddings() if model.device.type == "cpu" else None
    if head is None:
        yield
        return
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register("grouped", _grouped_attention)
    AttentionMaskInterface.register("grouped", sdpa_mask)
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    before = base.config._attn_implementation
    hook = head.register_forward_pre_hook(lambda module, inputs: (inputs[0].contiguous(), *inputs[1:]))
    try:
        if before == "sdpa":
            base.set_attn_implementation("grouped")
        yield
    finally:
        hook.remove()
        base.set_attn_implementation(before)


def _grouped_attention(module: Any, query: torch.Tensor, key: torch.Tensor, *rest: Any, **more: Any) -> Any:
    """transformers' own; of a new token the heads of `query` (rows, heads, 1, width) that share a key go together."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    if query.shape[2] > 1:
        return sdpa_attention_forward(module, query, key, *rest, **more)
    (value, mask), (rows, heads, _, width) = rest, query.shape
    together = query.reshape(rows, key.shape[1], -1, width)
    found = torch.nn.functional.scaled_dot_product_attention(together, key, value, mask, scale=more.get("scaling"))
    return found.reshape(rows, 1, heads, width), None


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
