"""The memory budget: each term against the tensors that it counts, on real libraries and small shapes."""

import json
from dataclasses import replace

import pytest
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st

from course_utils import budget, modeling, profiles, remedies
from course_utils.core.budget import CONFIGS, BudgetError, Shape
from course_utils.core.profiles import PROFILES, memory_budget
from course_utils.train.cpu import cpu_shortcuts

QWEN = "Qwen/Qwen3-4B-Instruct-2507"
# Small: a CPU without bfloat16 emulates it a hundred times as slowly.
TINY = {**CONFIGS["Qwen/Qwen3-0.6B"], "num_hidden_layers": 2, "vocab_size": 151936 // 8}
TINY |= {"hidden_size": 512, "intermediate_size": 1536, "num_attention_heads": 8, "num_key_value_heads": 4}


def term(result: budget.Budget, name: str) -> int:
    (found,) = [term.bytes for term in result.terms if term.name.startswith(name)]
    return found


@pytest.mark.parametrize(
    ("name", "billions"),
    [("0.6B", 0.596), ("1.7B", 1.721), ("4B-Instruct-2507", 4.022), ("8B", 8.191), ("14B", 14.768)],
)
def test_parameters_are_those_of_the_model_cards(name, billions):
    assert Shape.of(CONFIGS[f"Qwen/Qwen3-{name}"]).parameters == pytest.approx(billions * 1e9, rel=1e-3)


@pytest.mark.parametrize("name", CONFIGS)
def test_parameters_are_those_of_transformers(name):
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**CONFIGS[name]))
    assert Shape.of(CONFIGS[name]).parameters == model.num_parameters()


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("whole", [False, True], ids=["text", "with vision"])
def test_parameters_of_linear_attention_are_those_of_transformers(tied, whole):
    """Qwen3.5's config nests its text part, and three of four layers have other projections."""
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.models.qwen3_5 import Qwen3_5Config, Qwen3_5TextConfig

    config = Qwen3_5TextConfig(hidden_size=1024, num_hidden_layers=8, tie_word_embeddings=tied)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    given = Qwen3_5Config(text_config=config.to_dict(), tie_word_embeddings=tied) if whole else config
    shape = Shape.of(given.to_dict())
    assert shape.linear_layers == 6 and shape.parameters == model.num_parameters()
    by_interval = {key: value for key, value in config.to_dict().items() if key != "layer_types"}
    assert Shape.of(by_interval) == shape
    assert memory_budget(config.to_dict(), PROFILES["16gb"]).terms[1].name == "weights (16 bits)"


def test_the_bundled_config_is_that_of_the_folder(smol):
    config = json.loads((smol / "config.json").read_text(encoding="utf-8"))
    assert Shape.of(config) == Shape.of(CONFIGS["smollm2-135m-instruct"])


def nbytes(tensors) -> int:
    return sum(tensor.untyped_storage().nbytes() for tensor in tensors)


@pytest.fixture(scope="module")
def tiny_folder(tmp_path_factory, qwen3_2507):
    """Two layers of half a Qwen3-0.6B with random weights, as a model folder."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    folder = tmp_path_factory.mktemp("tiny")
    AutoModelForCausalLM.from_config(AutoConfig.for_model(**TINY), dtype=torch.bfloat16).save_pretrained(folder)
    qwen3_2507.save_pretrained(folder)
    return folder


def test_nf4_weights_are_as_large_as_bitsandbytes_makes_them(tiny_folder, tiny):
    model, _ = modeling.load_model(tiny_folder, replace(tiny, dtype="bfloat16"), load_in_4bit=True)
    found = nbytes(parameter.data for parameter in model.parameters())
    for module in model.modules():
        if state := getattr(getattr(module, "weight", None), "quant_state", None):
            found += nbytes([state.absmax, state.code, state.state2.absmax, state.state2.code])
    assert budget.weights(Shape.of(TINY), 4).bytes == pytest.approx(found, rel=1e-4)


def test_8_bit_weights_are_as_large_as_bitsandbytes_makes_them():
    import bitsandbytes
    import torch

    inputs, outputs, _ = Shape.of(TINY).projections["up_proj"]
    packed, scales, _ = bitsandbytes.functional.int8_vectorwise_quant(torch.randn(outputs, inputs).half())
    everything, rest = budget.weights(Shape.of(TINY), 8).bytes, 2 * (Shape.of(TINY).tables + Shape.of(TINY).norms)
    per_weight = nbytes([packed, scales]) / (inputs * outputs)
    assert (everything - rest) / Shape.of(TINY).projected == pytest.approx(per_weight, rel=3e-3)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("length", [96, 512])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_training_terms_are_the_tensors_that_training_makes(tiny_folder, tiny, checkpointing, length, dtype):
    """One step by hand, in the order of the terms."""
    import torch

    rows = 2
    profile = replace(
        tiny,
        dtype=dtype,
        train=replace(tiny.train, batch_size=rows, max_length=length, gradient_checkpointing=checkpointing),
    )
    predicted = memory_budget(TINY, profile)
    model, _ = modeling.load_model(tiny_folder, profile)
    assert term(predicted, "weights") == nbytes(parameter.data for parameter in model.parameters())
    model = modeling.attach_lora(model, profile)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    assert term(predicted, "LoRA weights") == nbytes(parameter.data for parameter in trained)

    owned = {tensor.untyped_storage().data_ptr() for tensor in [*model.parameters(), *model.buffers()]}
    copies = {(parameter.shape, torch.bfloat16) for parameter in trained}  # autocast's copies of LoRA, on no list
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        copy = tensor.ndim == 2 and (tensor.mT.shape, tensor.dtype) in copies
        if storage.data_ptr() not in owned and not copy:
            kept[storage.data_ptr()] = tensor
        return tensor

    model.train()
    ids = torch.randint(100, 1000, (rows, length))
    inner = model.get_base_model().model  # without the loss, which is a term of its own
    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == "bfloat16"),
        cpu_shortcuts(model, bf16=dtype == "bfloat16"),
    ):
        hidden = inner(input_ids=ids).last_hidden_state
        at_the_end = dict(kept)
        hidden.float().mean().backward()
    if checkpointing:  # recomputing happens in the backward pass: here only what is kept until then
        number = 2 if dtype == "bfloat16" else 4
        inputs, last_norm = number * TINY["hidden_size"] * TINY["num_hidden_layers"], 4 * TINY["hidden_size"]
        assert nbytes(at_the_end.values()) == pytest.approx((inputs + last_norm) * rows * length, rel=0.01)
    else:
        assert nbytes(at_the_end.values()) == pytest.approx(term(predicted, "activations"), rel=0.05)
    assert term(predicted, "gradients") == nbytes(parameter.grad for parameter in trained)
    optimizer = torch.optim.AdamW(trained)
    optimizer.step()
    states = [value for state in optimizer.state.values() for name, value in state.items() if name != "step"]
    assert term(predicted, "optimiser states") == nbytes(states)


def test_8_bit_states_are_as_large_as_bitsandbytes_makes_them():
    import torch
    from bitsandbytes.optim import AdamW8bit

    sizes = budget.lora_sizes(Shape.of(TINY), 3, ("q_proj", "down_proj"))
    assert min(sizes) < budget.SMALLEST_8BIT_STATE < max(sizes)
    parameters = [torch.nn.Parameter(torch.zeros(size)) for size in sizes]
    optimizer = AdamW8bit(parameters)
    optimizer.fill_qmap()
    for number, parameter in enumerate(parameters):
        optimizer.init_state(optimizer.param_groups[0], parameter, 0, number)
    names = ("state1", "state2", "absmax1", "absmax2")
    found = nbytes(state[name] for state in optimizer.state.values() for name in names if name in state)
    *_, states = budget.adapter(Shape.of(TINY), 3, ("q_proj", "down_proj"), "adamw_8bit")
    assert states.bytes == found


def test_the_cache_is_as_large_as_transformers_makes_it(tiny_folder):
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=torch.bfloat16)
    with torch.inference_mode():
        cache = model(torch.randint(100, 1000, (2, 48)), use_cache=True).past_key_values
    found = nbytes(tensor for layer in cache.layers for tensor in (layer.keys, layer.values))
    assert budget.key_value_cache(Shape.of(TINY), rows=2, length=48).bytes == found


def test_the_published_measurements_are_within_a_tenth():
    """`docs/memory.json` holds what was measured; the budget of today is held to it."""
    for row in json.loads((ROOT / "docs" / "memory.json").read_text(encoding="utf-8")):
        assert row["predicted"] == pytest.approx(row["measured"], rel=0.10), row


def test_the_published_predictions_are_those_of_today():
    from benchmarks import memory

    for row in json.loads((ROOT / "docs" / "memory.json").read_text(encoding="utf-8")):
        rows, length = map(int, row["rows x tokens"].split(" x "))
        base = PROFILES["cpu" if row["machine"].startswith("CPU") else "16gb"]
        settings = {"batch_size": rows, "max_length": length, "gradient_checkpointing": row["checkpointing"]}
        profile = memory.changed(base, {"load_in_4bit": row["bits"] == 4}, settings)
        assert row["predicted"] == memory_budget(CONFIGS[row["model"]], profile).total


@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_work_is_what_torch_counts(tiny_folder, tiny, checkpointing):
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    length = 64
    train = replace(tiny.train, gradient_checkpointing=checkpointing, max_length=length)
    profile = replace(tiny, dtype="float32", train=train)
    model, _ = modeling.load_model(tiny_folder, profile)
    model = modeling.attach_lora(model, profile)
    model.train()
    ids = torch.randint(100, 1000, (2, length))
    with FlopCounterMode(display=False) as counted:
        logits = model(input_ids=ids).logits
        logits.float().mean().backward()
    found = budget.training_flops(Shape.of(TINY), train, tokens=2 * length)
    # Of three layers the first is a third: its q, k and v need no gradient of their input. Of 30 it is a thirtieth.
    assert found == pytest.approx(counted.get_total_flops(), rel=0.05)


@given(
    rows=st.integers(1, 16), length=st.integers(1, 4096), more=st.integers(1, 64), name=st.sampled_from(list(CONFIGS))
)
def test_more_tokens_never_need_less(rows, length, more, name):
    for profile in PROFILES.values():
        totals = [
            memory_budget(
                CONFIGS[name], replace(profile, train=replace(profile.train, batch_size=rows, max_length=tokens))
            ).total
            for tokens in (length, length + more)
        ]
        assert totals[0] <= totals[1]


@pytest.mark.parametrize("name", ["Qwen/Qwen3-0.6B", QWEN, "Qwen/Qwen3-14B"])
@pytest.mark.parametrize("tokens", [100, 1024, 16 * 1024, 64 * 1024])
def test_the_loss_on_a_gpu_counts_the_chunk_that_unsloth_takes(name, tokens):
    modeling.import_unsloth()
    from unsloth_zoo.fused_losses.fused_linear import fused_linear_rows

    shape = Shape.of(CONFIGS[name])
    chunk = 4 * shape.vocabulary * fused_linear_rows(tokens, shape.hidden, shape.vocabulary)  # one buffer, float32
    counted = budget.loss(shape, "cuda", tokens, 2).bytes - 2 * tokens * shape.hidden
    assert chunk <= counted <= 2 * chunk  # Unsloth rounds down to a power of two


def test_an_evaluation_counts_the_larger_of_cache_and_scores():
    cache, scores = (
        {term.name for term in memory_budget(CONFIGS[QWEN], PROFILES[name], generate=True).terms}
        for name in ("16gb", "8gb")
    )
    assert "key-value cache" in cache - scores and "scores" in scores - cache


def test_fewer_bits_need_less():
    totals = [memory_budget(CONFIGS[QWEN], PROFILES["16gb"], bits=bits).total for bits in (4, 8, 16, 32)]
    assert totals == sorted(totals) and len(set(totals)) == 4


def test_a_table_adds_up():
    result = memory_budget(CONFIGS[QWEN], PROFILES["16gb"])
    *rows, (last, total, _, _) = result.table()
    assert last == "total" and float(total) == pytest.approx(sum(float(row[1]) for row in rows), abs=0.05)
    assert all(formula and source for _, _, formula, source in rows)


def test_a_config_of_another_kind_is_refused():
    with pytest.raises(BudgetError, match="no 'num_hidden_layers'"):
        Shape.of({"n_layer": 12, "num_attention_heads": 12, "hidden_size": 768})
    with pytest.raises(BudgetError, match=r"other dimensions \(.*list"):
        Shape.of({**TINY, "num_attention_heads": [8, 12]})
    with pytest.raises(BudgetError, match="mixture of experts"):
        Shape.of({**TINY, "num_experts": 128})


# ---- remedies


@pytest.mark.parametrize("name", PROFILES)
def test_every_remedy_is_smaller_than_the_profile_before(name):
    profile, changes = PROFILES[name], []
    while remedy := remedies.smaller(profile):
        assert remedy.after_gib < remedy.before_gib, remedy.change
        assert remedy.cost and remedy.change
        changes.append(remedy.change)
        profile = remedy.profile
    assert len(changes) >= 3
    rows = [PROFILES[name].train.batch_size * PROFILES[name].train.grad_accum]
    assert profile.train.batch_size * profile.train.grad_accum == rows[0], "a step sees another number of rows"


def test_what_costs_the_result_nothing_comes_first():
    profile, order = replace(PROFILES["24gb"], train=replace(PROFILES["24gb"].train, gradient_checkpointing=False)), []
    while remedy := remedies.smaller(profile):
        order.append(remedy.change.split()[0])
        profile = remedy.profile
    first = list(dict.fromkeys(order))
    assert first == ["gradient_checkpointing", "batch_size", "load_in_4bit", "max_length", "r", "model"]


@pytest.mark.parametrize(("rows", "passes"), [(5, 1), (6, 3), (1, 9)])
def test_a_step_sees_as_many_rows_before_and_after(rows, passes):
    before = replace(
        PROFILES["16gb"], train=replace(PROFILES["16gb"].train, batch_size=rows, grad_accum=passes, max_length=256)
    )
    for first in (remedies.smaller(before), remedies.larger(before, 100.0)):
        assert first.profile.train.batch_size * first.profile.train.grad_accum == rows * passes


def test_a_paged_optimiser_has_8_bit_states_already():
    plain, paged = (
        replace(PROFILES["16gb"], train=replace(PROFILES["16gb"].train, optimizer=name))
        for name in ("adamw_8bit", "paged_adamw_8bit")
    )
    assert memory_budget(CONFIGS[QWEN], paged).total == memory_budget(CONFIGS[QWEN], plain).total
    assert remedies.smaller(paged).change == remedies.smaller(plain).change


def test_an_idle_gpu_gets_larger_until_it_is_full():
    profile, room = PROFILES["8gb"], 15.0
    while remedy := remedies.larger(profile, room):
        assert remedy.before_gib < remedy.after_gib < room
        profile = remedy.profile
    assert profile.train.batch_size > PROFILES["8gb"].train.batch_size
    assert profiles.memory_budget(CONFIGS[profile.model], profile).gib < room


def test_a_model_that_nobody_knows_has_remedies_without_figures():
    remedy = remedies.smaller(replace(PROFILES["8gb"], model="your_account/some-model"))
    assert remedy.before_gib is None and remedy.after_gib is None and "batch_size 4 -> 2" in remedy.change
