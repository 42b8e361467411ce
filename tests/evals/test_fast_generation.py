"""course_utils.evals.fast_generation: the head gives the same logits; an adapter is merged and taken out again."""

import pytest
import torch

from course_utils import chat, generation
from course_utils.evals.fast_generation import contiguous_head, merged_in_memory


@pytest.fixture(scope="module")
def prompts(tuned):
    asked = [f"Return only JSON with the key n. The number is {number}." for number in range(4)]
    return [chat.render(tuned[1], [{"role": "user", "content": each}], add_generation_prompt=True) for each in asked]


def bases(model):
    return {name: weight.clone() for name, weight in model.named_parameters() if "base_layer" in name}


def test_the_head_gives_the_same_logits(tuned):
    model, _ = tuned
    head, hidden = model.get_output_embeddings(), torch.randn(3, 7, model.config.hidden_size, dtype=model.dtype)
    strides = []
    watch = head.register_forward_hook(lambda module, inputs, _: strides.append(inputs[0].is_contiguous()))
    with torch.inference_mode():
        plain = head(hidden[:, -1:, :])
        with contiguous_head(model):
            quick = head(hidden[:, -1:, :])
        after = head(hidden[:, -1:, :])
    watch.remove()
    assert torch.equal(plain, quick) and torch.equal(plain, after)
    assert strides == [False, True, False], "only inside of the block, and nothing stays behind"


def test_an_adapter_is_merged_and_the_base_is_its_own_again_to_the_bit(tuned, prompts):
    model, tokenizer = tuned
    before = bases(model)
    how = {"batch_size": 2, "max_new_tokens": 12}
    mounted = generation.generate(model, tokenizer, prompts, **how)
    with merged_in_memory(model):
        assert any(not torch.equal(weight, before[name]) for name, weight in bases(model).items())
        merged = generation.generate(model, tokenizer, prompts, **how)
        merged_logits = generation.reply_logits(model, tokenizer, prompts, mounted)
    assert all(torch.equal(weight, before[name]) for name, weight in bases(model).items())
    assert generation.generate(model, tokenizer, prompts, **how) == mounted
    logits = generation.reply_logits(model, tokenizer, prompts, mounted)
    assert generation.agreement(mounted, logits, merged, merged_logits).holds


def test_a_base_and_an_adapter_that_is_off_stay_as_they_are(tuned):
    model, _ = tuned
    before = bases(model)
    with model.disable_adapter(), merged_in_memory(model):
        assert all(torch.equal(weight, before[name]) for name, weight in bases(model).items())
    with pytest.raises(KeyError), merged_in_memory(model):
        raise KeyError
    assert all(torch.equal(weight, before[name]) for name, weight in bases(model).items())
