"""course_utils.train.modeling: the folder's own model, tokenizer and template; Unsloth first; clear refusals."""

import copy
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import shipped_template

from course_utils import chat, evaluation, export, masking, modeling, training
from course_utils.core.budget import LINEAR_ATTENTION, Shape, lora_sizes


def test_load_model_gives_what_lies_in_the_folder(smol, tiny):
    model, tokenizer = modeling.load_model(smol, tiny)
    assert model.dtype == getattr(torch, tiny.dtype)
    assert tokenizer.chat_template == (smol / "chat_template.jinja").read_text(encoding="utf-8")
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|im_end|>", "<|endoftext|>")


def test_four_bits_on_request(smol, tiny):
    model, _ = modeling.load_model(smol, tiny, load_in_4bit=True)
    layer = model.model.layers[0].self_attn.q_proj
    assert type(layer).__name__ == "Linear4bit" and layer.weight.quant_type == "nf4"


def test_lora_starts_from_the_seed_and_is_all_that_trains(smol, tiny):
    def first_matrix(seed):
        model, _ = modeling.load_model(smol, tiny)
        torch.rand(seed + 1)  # whatever ran before must not matter
        model = modeling.attach_lora(model, replace(tiny, train=replace(tiny.train, seed=seed)))
        trained = {name for name, weight in model.named_parameters() if weight.requires_grad}
        assert trained and all("lora_" in name for name in trained)
        return next(weight for name, weight in model.named_parameters() if "lora_A" in name).clone()

    assert torch.equal(first_matrix(1), first_matrix(1))
    assert not torch.equal(first_matrix(1), first_matrix(2))


@pytest.fixture(scope="module")
def qwen3_5(qwen3, tmp_path_factory):
    """Four layers with random weights, as learners have Qwen3.5: a model that also reads pictures."""
    from transformers.models.qwen3_5 import Qwen3_5Config, Qwen3_5ForConditionalGeneration

    torch.manual_seed(0)
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16}
    linear = {"linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 16}
    text = {"vocab_size": len(qwen3), "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 4} | heads
    text |= linear | {"linear_value_head_dim": 16, "eos_token_id": qwen3.eos_token_id, "tie_word_embeddings": True}
    vision = {"depth": 1, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2, "out_hidden_size": 64}
    config = Qwen3_5Config(text_config=text, vision_config=vision, tie_word_embeddings=True)
    folder = tmp_path_factory.mktemp("qwen3_5") / "model"
    Qwen3_5ForConditionalGeneration(config).save_pretrained(folder)
    tokenizer = copy.deepcopy(qwen3)
    tokenizer.chat_template = shipped_template("qwen3_5_think")
    tokenizer.save_pretrained(folder)
    return folder


def test_qwen3_5_trains_is_evaluated_and_merged(qwen3_5, tiny, toy_rows, tmp_path):
    model, tokenizer = modeling.load_model(qwen3_5, replace(tiny, load_in_4bit=True, dtype="float32"))
    kinds = {type(module).__name__ for module in model.modules()}
    assert "Linear4bit" not in kinds and not any("Vision" in kind for kind in kinds)
    model = modeling.attach_lora(model, tiny)
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    names = {name.split(".lora_")[0].split(".")[-1] for name, _ in model.named_parameters() if ".lora_" in name}
    assert set(LINEAR_ATTENTION) < names
    shape = Shape.of(json.loads((qwen3_5 / "config.json").read_text(encoding="utf-8")))
    sizes = lora_sizes(shape, tiny.train.r, tiny.train.target_modules)
    assert sum(sizes) == sum(weight.numel() for weight in trained)
    examples = masking.build_dataset(toy_rows, tokenizer)
    settings = replace(tiny.train, learning_rate=0.01, max_steps=4, eval_steps=4, output_dir=str(tmp_path / "run"))
    result = training.train(model, tokenizer, examples, examples, replace(settings, tracker="none"), profile=tiny)
    assert result.metrics["last_eval_loss"] < result.metrics["first_eval_loss"]
    report = evaluation.evaluate(model, tokenizer, toy_rows[:2], batch_size=2, max_new_tokens=4)
    assert len(report.rows) == 2
    with pytest.warns(UserWarning, match="text part alone"):
        export.merge_adapter(qwen3_5, result.adapter_dir, tmp_path / "merged")
    prompts = [chat.render(tokenizer, row["messages"][:1], add_generation_prompt=True) for row in toy_rows[:2]]
    assert export.check_merge(qwen3_5, result.adapter_dir, tmp_path / "merged", prompts, max_new_tokens=4).holds


def test_a_folder_without_a_model_is_refused(tmp_path, tiny):
    with pytest.raises(modeling.ModelError, match=r"no config\.json"):
        modeling.load_model(tmp_path, tiny)


@pytest.mark.parametrize("content", [b"version https://git-lfs.github.com/spec/v1", b"", b"<html>" * 99, None])
def test_weights_that_are_not_whole_are_said(tiny, tmp_path, content):
    """Kind: a model folder that holds Git LFS pointers or cut weights is said at load, not a SafetensorError."""
    (tmp_path / "config.json").write_text("{}")
    if content is not None:
        (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(modeling.ModelError, match=r"cannot be loaded: .*(pointer|cut|holds no safetensors)"):
        modeling.load_model(tmp_path, tiny)


@pytest.mark.parametrize(
    ("config", "words"),
    [({"peft_type": "IA3"}, "no LoRA but IA3"), ({"init_lora_weights": "pissa"}, "taken out of its base")],
)
def test_an_adapter_of_another_kind_is_refused(smol, tiny, trained, tmp_path, config, words):
    """Kind: adapters from elsewhere; with PiSSA's, the base beside it would lack a part."""
    folder = shutil.copytree(trained[0].adapter_dir, tmp_path / "adapter")
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | config), encoding="utf-8")
    with pytest.raises(modeling.ModelError, match=words):
        modeling.load_adapter(torch.nn.Linear(2, 2), folder)


def test_padding_with_the_stop_token_is_refused(smol, tiny, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(smol, folder)
    config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    (folder / "tokenizer_config.json").write_text(json.dumps(config | {"pad_token": "<|im_end|>"}), encoding="utf-8")
    with pytest.raises(modeling.ModelError, match="never learns to stop"):
        modeling.load_model(folder, tiny)


def test_an_adapter_of_another_model_is_refused(smol, tiny, trained, tmp_path):
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "adapter"
    shutil.copytree(trained[0].adapter_dir, folder)
    weights = load_file(folder / "adapter_model.safetensors")
    save_file(
        {name: weight[:, :8].contiguous() for name, weight in weights.items()}, folder / "adapter_model.safetensors"
    )
    model, _ = modeling.load_model(smol, tiny)
    with pytest.raises(modeling.ModelError, match="another base model"):
        modeling.load_adapter(model, folder)
    with pytest.raises(modeling.ModelError, match="no adapter"):
        modeling.load_adapter(model, tmp_path)


def test_unsloth_too_late_is_said_and_not_survived():
    code = "import transformers; from course_utils import modeling; modeling.import_unsloth()"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode and "transformers came before Unsloth" in run.stderr


def test_a_model_is_loaded_by_a_program_that_imports_nothing_else_first(smol):
    """As lesson 10's processes do: to look through the folder needs transformers, so Unsloth comes before that."""
    code = f"from course_utils import modeling, profiles\nmodeling.load_model({str(smol)!r}, profiles.PROFILES['tiny'])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-500:]


def test_no_layer_is_compiled_that_a_short_run_would_wait_for():
    """Read in the source: Unsloth's own file needs Triton, which only a GPU has."""
    switch = "UNSLOTH_BLOCK_COMPILE_LEGACY"
    source = (Path(modeling.import_unsloth().__file__).parent / "models" / "llama.py").read_text(encoding="utf-8")
    assert f'os.environ.get("{switch}", "auto")\n    if mode == "0":\n        return []' in source
    assert os.environ[switch] == "0"


def test_unsloth_comes_without_red_lines():
    code = "from course_utils import modeling; modeling.import_unsloth()"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not run.stderr


def test_a_mac_with_mlx_trains_on_the_cpu(tmp_path):
    """Bare Unsloth takes MLX's path there, and fails on this `mlx`, which is empty."""
    (tmp_path / "mlx").mkdir()
    (tmp_path / "mlx/__init__.py").touch()
    code = (
        f"import platform, sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "import torch; from course_utils import modeling\n"  # torch asks for the platform, too
        "platform.system, platform.machine = lambda: 'Darwin', lambda: 'arm64'\n"
        "print(modeling.import_unsloth().FastLanguageModel.__module__)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-500:]
    assert run.stdout.split()[-1] == "unsloth._cpu_init"
