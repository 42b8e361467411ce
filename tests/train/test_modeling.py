"""course_utils.train.modeling: the folder's own model, tokenizer and template; Unsloth first; clear refusals."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from course_utils import modeling


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
