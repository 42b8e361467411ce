"""What makes a training step faster on a CPU and changes no result beyond rounding."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import torch

from course_utils.core.budget import PLAIN_ATTENTION_UP_TO

if TYPE_CHECKING:
    from peft import PeftModel

LLAMA_LIKE = ("llama", "mistral", "qwen2", "qwen3")  # model types whose plain attention is Llama's to the letter


@contextmanager
def cpu_shortcuts(model: PeftModel, *, bf16: bool) -> Iterator[None]:
    """Train faster inside this block; on a GPU, where Unsloth has kernels of its own, it does nothing.

    Two switches of the libraries. PEFT copies each LoRA layer's input to float32, and autocast copies it back: left
    out, every loss is the same to the last bit. And torch's fused attention for CPUs takes several times as long on
    the way back as plain matrix products, where rows are short; for long ones these need too much memory.

    Args:
        model: what `modeling.attach_lora` returned.
        bf16: True where the run uses autocast to bfloat16.
    """
    if torch.cuda.is_available():
        yield
        return
    from peft.helpers import disable_input_dtype_casting
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import eager_mask

    AttentionInterface.register("by_length", _attention_by_length)
    AttentionMaskInterface.register("by_length", eager_mask)
    base = model.get_base_model()
    before = base.config._attn_implementation
    if base.config.model_type in LLAMA_LIKE:
        base.set_attn_implementation("by_length")
    try:
        with disable_input_dtype_casting(model) if bf16 else nullcontext():
            yield
    finally:
        base.set_attn_implementation(before)


def _attention_by_length(module: Any, query: torch.Tensor, *rest: Any, **more: Any) -> Any:
    """One of transformers' two ways of attention, by the tokens in a row of `query` (rows x heads x tokens x width)."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward
    from transformers.models.llama.modeling_llama import eager_attention_forward

    attend = eager_attention_forward if query.shape[2] <= PLAIN_ATTENTION_UP_TO else sdpa_attention_forward
    return attend(module, query, *rest, **more)
