"""course_utils.core.weights: files of models and adapters that are not what their names say (kind: adapters and models
from elsewhere)."""

import json
import subprocess
import sys

import pytest
import torch
from hub_server import POINTER
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save, save_file

from course_utils.core import weights

TENSORS = {"layer.lora_A.weight": torch.zeros(4, 8), "layer.lora_B.weight": torch.zeros(8, 4)}
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
        assert not self.fault(tmp_path, "model.safetensors", WHOLE, model=True)


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

    def test_a_pickle_is_named_and_the_way_that_is_told_converts_it(self, tmp_path):
        adapter(tmp_path)
        (tmp_path / "adapter_model.safetensors").unlink()
        shared = torch.zeros(8, 4)
        torch.save({"a.lora_B.weight": shared, "b.lora_B.weight": shared}, tmp_path / "adapter_model.bin")
        said = self.refused(tmp_path)
        assert "pickle (adapter_model.bin)" in said
        code = said.partition('python -c "')[2].removesuffix('"')
        subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
        assert load_file(tmp_path / "adapter_model.safetensors").keys() == {"a.lora_B.weight", "b.lora_B.weight"}
        assert weights.adapter_config(tmp_path)
