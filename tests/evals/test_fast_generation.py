"""course_utils.evals.fast_generation: quicker logits are the same; an adapter is merged and taken out again."""

import pytest
import torch

from course_utils import chat, generation
from course_utils.evals.fast_generation import faster_decoding, merged_in_memory


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
        with faster_decoding(model):
            quick = head(hidden[:, -1:, :])
        after = head(hidden[:, -1:, :])
    watch.remove()
    assert torch.equal(plain, after)
    rounding = 0 if model.dtype == torch.bfloat16 else 1e-4
    torch.testing.assert_close(quick, plain, atol=rounding, rtol=rounding)
    assert strides == [False, True, False], "only inside of the block, and nothing stays behind"


def test_heads_that_share_a_key_ask_together_and_the_logits_are_the_same(tuned, prompts):
    model, tokenizer = tuned
    asked = tokenizer([*prompts, "Red,"], padding=True, padding_side="left", return_tensors="pt")
    base, rows = model.get_base_model(), len(prompts) + 1
    seen = []
    watch = base.model.layers[0].register_forward_pre_hook(
        lambda *_: seen.append(base.config._attn_implementation), with_kwargs=True
    )

    def logits():
        """Of the token after the prompt, read in one pass, and of the next one, which has a pass of its own."""
        with torch.inference_mode():
            first = model(**asked, use_cache=True)
            mask = torch.cat([asked["attention_mask"], torch.ones(rows, 1, dtype=torch.int64)], dim=1)
            step = {"attention_mask": mask, "past_key_values": first.past_key_values}
            next_ones = asked["input_ids"][:, -1:]
            return first.logits[:, -1], model(input_ids=next_ones, **step).logits[:, -1]

    plain = logits()
    with faster_decoding(model):
        quick = logits()
    watch.remove()
    assert seen == ["sdpa", "sdpa", "grouped", "grouped"] and base.config._attn_implementation == "sdpa"
    assert torch.equal(plain[0], quick[0])
    assert torch.allclose(plain[1].float(), quick[1].float(), atol=0.5)


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
