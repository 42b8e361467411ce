"""The stretch task of exercise 06 against PEFT: its names are PEFT's, and its solution merges as PEFT does."""

import pytest
import torch
from answers import answers
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from torch import nn

from exercises.checks import lesson06


def tiny(base):
    """The model whose weights the exercise gives."""

    def layer():
        return nn.ModuleDict({"up_proj": nn.Linear(6, 8, bias=False), "down_proj": nn.Linear(8, 6, bias=False)})

    model = nn.ModuleDict({"embed_tokens": nn.Embedding(10, 6), "norm": nn.RMSNorm(6)})
    model["lm_head"] = nn.Linear(6, 10, bias=False)
    model["layers"] = nn.ModuleList([layer(), layer()])
    model.load_state_dict({name: tensor.clone() for name, tensor in base.items()})
    return model


@pytest.mark.parametrize("use_rslora", [False, True])
@pytest.mark.parametrize("more", [(), ("lm_head",), ("embed_tokens",)])
def test_the_solution_merges_as_peft_does(use_rslora, more):
    targets = ("up_proj", "down_proj", *more)
    base, adapter, settings = lesson06.small_adapter(use_rslora=use_rslora, targets=targets)
    config = LoraConfig(r=4, rank_pattern={"layers.1.down_proj": 16}, target_modules=list(targets), **settings)
    mounted = get_peft_model(tiny(base), config)
    own = get_peft_model_state_dict(mounted, save_embedding_layers=False)
    assert {name: tensor.shape for name, tensor in own.items()} == {n: tensor.shape for n, tensor in adapter.items()}
    if "embed_tokens" in more:
        return  # the solution is not asked to merge it
    for name, weight in mounted.named_parameters():
        if "lora_" in name:
            weight.data = adapter[name.replace(".default", "")]
    [merge_all] = [a.function(a.source) for a in answers("06_merge_and_serve") if a.name == "merge_all"]
    merged = merge_all(base, adapter, settings, False)
    for name, weight in mounted.merge_and_unload().state_dict().items():
        assert torch.allclose(merged[name], weight, atol=1e-5), name
