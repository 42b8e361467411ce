"""course_utils.core.weights: files of models and adapters that are not what their names say (kind: adapters and models
from elsewhere)."""

import json

import pytest
import torch
from hub_server import POINTER
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save, save_file

from course_utils.core import weights

TENSORS = {"layer.lora_A.weight": torch.ones(4, 8), "layer.lora_B.weight": torch.ones(8, 4)}
WHOLE = save(TENSORS)


class TestFilesThatAreNotWhole:
    """Kind: a model folder with Git LFS pointers or cut weights is said before it is loaded."""

    def fault(self, folder, file, content, **how):
        (folder / file).write_bytes(content)
        return weights.fault(folder, **how)

    @pytest.mark.parametrize("file", ["model.safetensors", "tokenizer.json", "config.json", "vocab.txt"])
    def test_a_pointer(self, tmp_path, file):
        assert f"{file} is a Git LFS pointer" in self.fault(tmp_path, file, POINTER)

    @given(st.integers(0, len(WHOLE) - 1))
    def test_cut_anywhere(self, tmp_path_factory, length):
        folder = tmp_path_factory.mktemp("model")
        assert "model.safetensors was cut" in self.fault(folder, "model.safetensors", WHOLE[:length], model=True)

    @pytest.mark.parametrize("length", [0, 4, 20, len(WHOLE) - 1])
    def test_cut_is_said_of_a_download_too(self, tmp_path, length):
        assert "was cut" in self.fault(tmp_path, "model.safetensors", WHOLE[:length])

    @pytest.mark.parametrize("content", [b"<!doctype html>" * 99, bytes(5000), WHOLE + b"!"])
    def test_no_safetensors(self, tmp_path, content):
        assert "is no safetensors file" in self.fault(tmp_path, "model.safetensors", content, model=True)

    def test_a_shard_that_the_index_names_is_missing(self, tmp_path):
        named = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
        self.fault(tmp_path, "model-1.safetensors", WHOLE)
        found = self.fault(tmp_path, "model.safetensors.index.json", json.dumps(named).encode())
        assert "model-2.safetensors" in found and "is not there" in found
        (tmp_path / "model-2.safetensors").write_bytes(WHOLE)
        (tmp_path / "tokenizer.json").write_text("{}")
        assert not weights.fault(tmp_path, model=True)

    @pytest.mark.parametrize("index", [b"[]", b"{}", b"no", b'{"weight_map": []}', b'{"weight_map": {"a": 1}}'])
    def test_an_index_that_names_nothing(self, tmp_path, index):
        assert "names no files" in self.fault(tmp_path, "model.safetensors.index.json", index)

    def test_a_link_that_leads_nowhere(self, tmp_path):
        (tmp_path / "model.safetensors").symlink_to(tmp_path / "blob")
        assert "link" in weights.fault(tmp_path)

    def test_what_is_whole(self, tmp_path):
        assert not weights.fault(tmp_path)
        assert "no safetensors" in weights.fault(tmp_path, model=True)
        assert "no tokenizer" in self.fault(tmp_path, "model.safetensors", WHOLE, model=True)
        assert not self.fault(tmp_path, "tokenizer.json", b"{}", model=True)

    @pytest.mark.parametrize("file", ["figure.png", "README.md", "model-q4.gguf", "pytorch_model.bin", "optimizer.pt"])
    def test_what_is_not_loaded_may_be_anything(self, tmp_path, file):
        for name, content in {"config.json": b"{}", "tokenizer.json": b"{}", "model.safetensors": WHOLE}.items():
            (tmp_path / name).write_bytes(content)
        (tmp_path / "dead.png").symlink_to(tmp_path / "blob")
        (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {"a": "model-2.safetensors"}}')
        assert not self.fault(tmp_path, file, POINTER, model=True)

    @pytest.mark.parametrize(
        "file", ["config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json"]
    )
    @pytest.mark.parametrize("content", [b"<!doctype html>", b'{"a": ', b"", b"[]", b"\xff"])
    def test_json_that_is_none(self, tmp_path, file, content):
        (tmp_path / "config.json").write_text("{}")
        assert f"{file} " in self.fault(tmp_path, file, content)

    def test_a_web_page_is_said_of_a_download_too(self, tmp_path):
        assert "no safetensors file" in self.fault(tmp_path, "model.safetensors", b"\n<!doctype html>" * 99)

    def test_shards_without_an_index_and_pickles(self, tmp_path):
        assert "save_pretrained" in self.fault(tmp_path, "pytorch_model.bin", b"pickle", model=True)
        found = self.fault(tmp_path, "model-1.safetensors", WHOLE, model=True)
        assert "model-1.safetensors, and no model.safetensors.index.json" in found


def adapter(folder, **config):
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 4, "lora_alpha": 8} | config))
    save_file(TENSORS, folder / "adapter_model.safetensors")
    return folder


class TestAdapters:
    """Kind: adapters from elsewhere; each that is not simply added to its base is refused with one clear error."""

    def refused(self, folder):
        with pytest.raises(ValueError, match=r"\S") as caught:
            weights.adapter_config(folder)
        return str(caught.value)

    @pytest.mark.parametrize(
        "start", ["pissa", "pissa_niter_16", "olora", "corda", "loftq", "lora_ga", "OLoRA", "new", 7]
    )
    def test_a_start_that_changes_the_base(self, tmp_path, start):
        assert "path_initial_model_for_weight_conversion" in self.refused(adapter(tmp_path, init_lora_weights=start))

    @pytest.mark.parametrize("start", [True, False, None, "gaussian", "Gaussian", "orthogonal", "eva", "mica"])
    def test_a_start_that_does_not(self, tmp_path, start):
        assert weights.adapter_config(adapter(tmp_path, init_lora_weights=start))["r"] == 4

    def test_those_are_the_starts_that_peft_knows(self):
        """A start that a later PEFT brings must be looked at: does it change the base?"""
        from typing import get_args, get_type_hints

        from peft import LoraConfig

        known = get_args(get_type_hints(LoraConfig)["init_lora_weights"])
        named = {name for each in known for name in get_args(each)}
        changing = {"olora", "pissa", "pissa_niter_[number of iters]", "corda", "loftq"}
        assert named == changing | {start for start in weights.KEEPS_BASE if isinstance(start, str)}

    @pytest.mark.parametrize(
        "kind", ["IA3", "LOHA", "LOKR", "VERA", "ADALORA", "PROMPT_TUNING", "PREFIX_TUNING", "P_TUNING", None, ["LORA"]]
    )
    def test_another_kind(self, tmp_path, kind):
        assert f"no LoRA but {kind}" in self.refused(adapter(tmp_path, peft_type=kind))

    @pytest.mark.parametrize("setting", weights.NO_SUM)
    def test_a_lora_that_is_no_sum(self, tmp_path, setting):
        assert setting in self.refused(adapter(tmp_path, **{setting: [1]}))

    @pytest.mark.parametrize("text", ["[]", '"lora"', "3", "null", "{", "", "\xff"])
    def test_a_config_that_is_no_object(self, tmp_path, text):
        (adapter(tmp_path) / "adapter_config.json").write_bytes(text.encode("latin-1"))
        assert "adapter_config.json" in self.refused(tmp_path)

    @pytest.mark.parametrize("kind", ["lora", "Lora"])
    def test_small_letters_and_a_mark_of_the_order_of_bytes(self, tmp_path, kind):
        path = adapter(tmp_path, peft_type=kind) / "adapter_config.json"
        path.write_text(path.read_text(), encoding="utf-8-sig")
        assert weights.adapter_config(tmp_path)["r"] == 4

    @pytest.mark.parametrize(
        "setting",
        [
            {"use_rslora": "false"},
            {"use_dora": 0},
            {"lora_alpha": "16"},
            {"lora_alpha": None},
            {"lora_alpha": True},
            {"r": 4.0},
            {"r": None},
            {"rank_pattern": {"q": "8"}},
            {"alpha_pattern": [8]},
            {"base_model_name_or_path": ["a"]},
        ],
        ids=str,
    )
    def test_a_setting_of_another_type_is_named(self, tmp_path, setting):
        said = self.refused(adapter(tmp_path, **setting))
        assert f"{next(iter(setting))} in adapter_config.json is" in said

    @pytest.mark.parametrize("number", [float("nan"), float("inf")])
    def test_tensors_and_alphas_that_are_no_numbers(self, tmp_path, number):
        adapter(tmp_path)
        save_file(TENSORS | {"layer.lora_A.weight": torch.tensor([1, number])}, tmp_path / "adapter_model.safetensors")
        assert "NaN or infinity (layer.lora_A.weight)" in self.refused(tmp_path)
        assert "no JSON" in self.refused(adapter(tmp_path, lora_alpha=number))

    @pytest.mark.parametrize(
        "tensors",
        [
            {"a.lora_A.weight": torch.ones(4, 8), "a.lora_B.weight": torch.zeros(8, 4)},
            {"a.lora_embedding_A": torch.zeros(4, 8), "a.lora_embedding_B": torch.ones(8, 4)},
            {"a.lora_A.weight": torch.ones(0), "a.lora_B.weight": torch.ones(0)},
        ],
        ids=str,
    )
    def test_one_that_changes_nothing(self, tmp_path, tensors):
        adapter(tmp_path)
        save_file(tensors, tmp_path / "adapter_model.safetensors")
        assert "changes nothing" in self.refused(tmp_path)
        save_file(tensors | {"lm_head.weight": torch.ones(1)}, tmp_path / "adapter_model.safetensors")
        assert weights.adapter_config(tmp_path)
        assert "lora_alpha is 0" in self.refused(adapter(tmp_path, lora_alpha=0))

    @pytest.mark.parametrize("content", [POINTER, WHOLE[:50], b"", b"<html>" * 99])
    def test_weights_that_are_none(self, tmp_path, content):
        (adapter(tmp_path) / "adapter_model.safetensors").write_bytes(content)
        assert "cannot be read" in self.refused(tmp_path)

    def test_the_config_is_a_pointer(self, tmp_path):
        (adapter(tmp_path) / "adapter_config.json").write_bytes(POINTER)
        assert "Git LFS pointer" in self.refused(tmp_path)

    def test_so_is_the_tokenizer_beside_it(self, tmp_path):
        (adapter(tmp_path) / "tokenizer.json").write_bytes(POINTER)
        assert "tokenizer.json is a Git LFS pointer" in self.refused(tmp_path)

    def test_it_lies_one_folder_below(self, tmp_path):
        (tmp_path / "checkpoint-3").mkdir()
        adapter(tmp_path / "checkpoint-3")
        assert f"There is one in {tmp_path / 'checkpoint-3'}" in self.refused(tmp_path)

    def test_a_pickle_is_named_and_what_to_do_with_it(self, tmp_path):
        adapter(tmp_path)
        (tmp_path / "adapter_model.safetensors").rename(tmp_path / "adapter_model.bin")
        said = self.refused(tmp_path)
        assert "pickle (adapter_model.bin)" in said and "save it once more by save_pretrained" in said


@pytest.mark.parametrize(
    ("named", "same"),
    [
        ("Qwen/Qwen3-0.6B", True),
        ("/root/.cache/huggingface/hub/models--Qwen--Qwen3-0.6B/snapshots/7ae5576", True),
        ("C:\\models\\models--Qwen--qwen3-0.6b\\snapshots\\7ae5576\\", True),
        ("/root/.cache/modelscope/hub/models/Qwen/Qwen3-0___6B", True),
        ("unsloth/Qwen3-0.6B-bnb-4bit", True),
        ("unsloth/Qwen3-0.6B-unsloth-bnb-4bit", True),
        ("Qwen/Qwen3-0.6B-GGUF", True),
        ("", True),
        ("Qwen/Qwen3-0.6B-Base", False),
        ("/hub/models--Qwen--Qwen3-4B/snapshots/7ae5576", False),
        ("unsloth/Qwen3-4B-bnb-4bit", False),
    ],
)
def test_names_of_one_base(named, same):
    """Kind: adapters from elsewhere; caches and 4-bit copies write the name of one base in many ways."""
    for base in ("models/Qwen3-0.6B", "/hub/models--Qwen--Qwen3-0.6B/snapshots/123"):
        assert (weights.other_base(named, base) == "") is same
