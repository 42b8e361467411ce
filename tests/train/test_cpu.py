"""course_utils.train.cpu: whose attention may be Llama's."""

import inspect
from importlib import import_module
from types import SimpleNamespace

import pytest

from course_utils import modeling
from course_utils.train.cpu import LLAMA_LIKE, cpu_shortcuts


def attention(kind):
    modeling.import_unsloth()
    return import_module(f"transformers.models.{kind}.modeling_{kind}").eager_attention_forward


@pytest.mark.parametrize("kind", LLAMA_LIKE)
def test_the_plain_attention_of_these_types_is_llamas_to_the_letter(kind):
    assert inspect.getsource(attention(kind)) == inspect.getsource(attention("llama"))


def test_others_keep_their_own():
    """Gemma 2 has a cap on its scores, which Llama's attention would leave out without a word."""
    assert inspect.getsource(attention("gemma2")) != inspect.getsource(attention("llama"))
    asked = []
    for kind in ("gemma2", "llama"):
        config = SimpleNamespace(_attn_implementation="sdpa", model_type=kind)
        base = SimpleNamespace(config=config, set_attn_implementation=asked.append)
        with cpu_shortcuts(SimpleNamespace(get_base_model=lambda base=base: base), bf16=False):
            asked.append(kind)
    assert asked == ["gemma2", "sdpa", "by_length", "llama", "sdpa"]
