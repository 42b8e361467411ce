"""course_utils.deploy.adapters: adapters from elsewhere are merged as they were trained, or refused with words.

Kind of all of them: adapters from elsewhere (a merge that is wrong in silence).
"""

import json
import shutil
import weakref

import pytest
import torch
from hub_server import POINTER
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

from course_utils import adapters, export, modeling, profiles, serving
from course_utils.deploy.adapters import ExportError


@pytest.fixture(scope="module", params=[False, True], ids=["two tables", "tied"])
def base(request, smol, tmp_path_factory):
    """A Qwen2 of two layers with SmolLM2's tokenizer, in 32 bits: what differs then differs by more than rounding."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    tokenizer = AutoTokenizer.from_pretrained(smol)
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=request.param,
        eos_token_id=2,
    )
    Qwen2ForCausalLM(config).float().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def logits(model):
    ids = torch.randint(20, 4000, (2, 24), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return model.eval()(ids).logits


def trained_adapter(base, folder, *, new=0, rows=None, tokenizer=True, saving=None, noise=0.02, **config):
    """An adapter as another program saves it, far from its start; returns the logits of the base with it."""
    model, words = AutoModelForCausalLM.from_pretrained(base), AutoTokenizer.from_pretrained(base)
    words.add_tokens([f"<new{number}>" for number in range(new)])
    if new or rows:
        model.resize_token_embeddings(rows or len(words), mean_resizing=False)
    settings = {"r": 4, "target_modules": ["q_proj"], "task_type": "CAUSAL_LM"} | config
    model = get_peft_model(model, LoraConfig(**settings))
    torch.manual_seed(1)
    with torch.no_grad():
        for weight in (weight for weight in model.parameters() if weight.requires_grad):
            weight += noise * torch.randn_like(weight)
    model.save_pretrained(folder, **saving or {})
    if tokenizer:
        words.save_pretrained(folder)
    return logits(model)


WHOLE = [
    {"use_dora": True, "target_modules": ["q_proj", "up_proj"]},
    {"modules_to_save": ["norm"]},
    {"modules_to_save": ["input_layernorm", "post_attention_layernorm", "norm"]},
    {"modules_to_save": ["lm_head"]},
    {"modules_to_save": ["embed_tokens"]},
    {"modules_to_save": ["embed_tokens", "lm_head"]},
    {"modules_to_save": ["embed_tokens", "lm_head"], "ensure_weight_tying": True},
    {"trainable_token_indices": [5, 21, 22]},
    {"bias": "all"},
    {"bias": "lora_only"},
    {"lora_bias": True},
    {"rank_pattern": {"layers.0.self_attn.q_proj": 8}, "use_rslora": True},
    {"alpha_pattern": {"layers.1.self_attn.q_proj": 64}},
]


@pytest.mark.parametrize("config", WHOLE, ids=str)
def test_what_is_more_than_a_plain_lora_is_merged_as_it_was_trained_and_not_mounted(base, config, tmp_path):
    expected = trained_adapter(base, tmp_path / "adapter", **config)
    merged = export.merge_adapter(base, tmp_path / "adapter", tmp_path / "merged").path
    model = adapters.load_base(merged)[0]
    torch.testing.assert_close(logits(model), expected, atol=1e-5, rtol=0)
    assert (logits(adapters.load_base(base)[0]) - expected).abs().max() > 1e-3
    # PEFT's merge sets it; vLLM and llama.cpp drop a table where it is wrong
    one = torch.equal(model.get_input_embeddings().weight, model.get_output_embeddings().weight)
    assert json.loads((merged / "config.json").read_text())["tie_word_embeddings"] is one
    read = adapters.read_adapter(tmp_path / "adapter")
    assert read.merge_only and "serve it merged" in read.remarks[-1]


def test_a_plain_one_has_nothing_to_remark(base, tmp_path):
    trained_adapter(base, tmp_path / "adapter")
    read = adapters.read_adapter(tmp_path / "adapter")
    assert (read.modules, read.layers, read.whole, read.rows, read.remarks) == (("q_proj",), 2, (), 0, ())


@pytest.mark.parametrize(("gpu", "free", "place"), [(True, 2.0, "cuda"), (True, 1.1, None), (False, 2.0, None)])
def test_a_gpu_with_room_for_the_model_gets_it(base, gpu, free, place, monkeypatch):
    size = sum(file.stat().st_size for file in base.glob("*.safetensors"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (free * size, 4 * size))
    monkeypatch.setattr(adapters, "upcast", lambda model: model)
    asked, load = [], AutoModelForCausalLM.from_pretrained
    without_gpu = lambda name, device_map, **how: asked.append(device_map) or load(name, **how)  # noqa: E731
    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", without_gpu)
    adapters.load_base(base)
    assert [each for each in asked if each != "meta"] == [place]  # on meta its names are read


def test_the_check_of_a_merge_holds_one_model_at_a_time(base, tmp_path, monkeypatch):
    trained_adapter(base, tmp_path / "adapter")
    export.merge_adapter(base, tmp_path / "adapter", tmp_path / "merged")
    alive, load, ask = [], export.load_with_adapter, export._in_new_process

    def loaded(*folders):
        model, tokenizer = load(*folders)
        alive.extend(map(weakref.ref, (model, model.get_base_model())))
        return model, tokenizer

    def asked(*given):
        assert alive and not any(each() for each in alive)
        return ask(*given)

    monkeypatch.setattr(export, "load_with_adapter", loaded)
    monkeypatch.setattr(export, "_in_new_process", asked)
    assert export.check_merge(base, tmp_path / "adapter", tmp_path / "merged", ["One, two"], max_new_tokens=4).holds


class TestTokensThatWereAdded:
    """Kind: a grown tokenizer beside the adapter is kept with its rows, or refused; never lost in silence."""

    @pytest.mark.parametrize(
        "how",
        [
            {"new": 3},
            {"new": 3, "saving": {"save_embedding_layers": True}},
            {"new": 3, "modules_to_save": ["embed_tokens", "lm_head"]},
            {"new": 3, "rows": 49_216},  # padded to a multiple of 64
            {"rows": 49_216},
            {"new": 3, "trainable_token_indices": [5, 49_153], "saving": {"save_embedding_layers": True}},
        ],
        ids=str,
    )
    def test_they_are_kept_with_their_rows(self, base, how, tmp_path):
        expected = trained_adapter(base, tmp_path / "adapter", **how)
        merged = export.merge_adapter(base, tmp_path / "adapter", tmp_path / "merged").path
        model, tokenizer = adapters.load_base(merged)
        torch.testing.assert_close(logits(model), expected, atol=1e-5, rtol=0)
        assert len(tokenizer) == 49_152 + how.get("new", 0)
        assert model.get_input_embeddings().weight.shape[0] == how.get("rows", 49_155)
        assert tokenizer.chat_template == AutoTokenizer.from_pretrained(base).chat_template

    def test_in_rows_that_the_base_has_to_spare_they_are_kept_too(self, base, tmp_path):
        spare = tmp_path / "tiny"
        model, tokenizer = AutoModelForCausalLM.from_pretrained(base), AutoTokenizer.from_pretrained(base)
        model.resize_token_embeddings(49_216, mean_resizing=False)
        model.save_pretrained(spare)
        tokenizer.save_pretrained(spare)
        trained_adapter(spare, tmp_path / "adapter", rows=49_216, new=2)
        merged = export.merge_adapter(spare, tmp_path / "adapter", tmp_path / "merged").path
        assert adapters.load_base(merged)[1].tokenize("<new1>") == ["<new1>"]

    def test_in_the_slow_form_of_a_tokenizer_they_are_kept_too(self, base, tmp_path):
        expected = trained_adapter(base, tmp_path / "adapter", new=3)
        path = tmp_path / "adapter" / "tokenizer.json"
        told = json.loads(path.read_text())
        path.unlink()
        (path.parent / "vocab.json").write_text(json.dumps(told["model"]["vocab"]))
        merges = [each if isinstance(each, str) else " ".join(each) for each in told["model"]["merges"]]
        (path.parent / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]))
        added = {each["content"]: each["id"] for each in told["added_tokens"]}
        (path.parent / "added_tokens.json").write_text(json.dumps(added))
        assert adapters.new_tokens(base, path.parent) == ["<new0>", "<new1>", "<new2>"]
        merged = export.merge_adapter(base, path.parent, tmp_path / "merged").path
        model, tokenizer = adapters.load_base(merged)
        torch.testing.assert_close(logits(model), expected, atol=1e-5, rtol=0)
        assert tokenizer.tokenize("<new1>") == ["<new1>"]

    def test_a_template_of_its_own_is_kept_and_one_for_masks_is_not(self, base, tmp_path):
        trained_adapter(base, tmp_path / "adapter", new=3)
        for template, kept in (("<new0>{{ messages }}", True), ("{% generation %}<new0>{% endgeneration %}", False)):
            (tmp_path / "adapter" / "chat_template.jinja").write_text(template)
            tokenizer = adapters.load_with_adapter(base, tmp_path / "adapter")[1]
            assert (tokenizer.chat_template == template) is kept

    @pytest.mark.parametrize(
        "how", [{"saving": {"save_embedding_layers": False}}, {"tokenizer": False}], ids=["no rows", "no tokenizer"]
    )
    def test_without_their_rows_or_without_the_tokenizer_both_sizes_are_named(self, base, how, tmp_path):
        trained_adapter(base, tmp_path / "adapter", new=3, **how)
        with pytest.raises(ExportError, match=r"49155 tokens.*49152.*save_embedding_layers"):
            export.merge_adapter(base, tmp_path / "adapter", tmp_path / "merged")
        assert not (tmp_path / "merged").exists()


one_base = pytest.mark.parametrize("base", [False], indirect=True, ids=["two tables"])


@one_base
class TestStartsThatChangeTheBase:
    """Kind: PiSSA and what is like it, not converted, is refused; converted, it is merged."""

    @pytest.mark.parametrize("start", ["pissa", "pissa_niter_4", "olora"])
    def test_not_converted(self, base, start, tmp_path):
        trained_adapter(base, tmp_path / "adapter", init_lora_weights=start)
        with pytest.raises(ExportError, match=rf"'{start}'.*path_initial_model_for_weight_conversion"):
            export.merge_adapter(base, tmp_path / "adapter", tmp_path / "merged")
        model = AutoModelForCausalLM.from_pretrained(base)
        with pytest.raises(modeling.ModelError, match="taken out of its base"):
            modeling.load_adapter(model, tmp_path / "adapter")

    @pytest.mark.parametrize("start", ["pissa", "olora"])
    def test_not_converted_although_its_configuration_says_nothing(self, base, start, tmp_path):
        """As PEFT's own example of PiSSA saves it. On the base that lacks the part it is right."""
        trained_adapter(base, tmp_path / "adapter", init_lora_weights=start, noise=0.002)
        path = tmp_path / "adapter" / "adapter_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"init_lora_weights": True}))
        with pytest.raises(ExportError, match="repeats what stands in the weights"):
            export.merge_adapter(base, tmp_path / "adapter", tmp_path / "merged")
        rest = get_peft_model(
            AutoModelForCausalLM.from_pretrained(base),
            LoraConfig(r=4, target_modules=["q_proj"], task_type="CAUSAL_LM", init_lora_weights=start),
        ).unload()
        rest.save_pretrained(tmp_path / "tiny")
        AutoTokenizer.from_pretrained(base).save_pretrained(tmp_path / "tiny")
        assert export.merge_adapter(tmp_path / "tiny", tmp_path / "adapter", tmp_path / "merged").adapter.layers == 2

    @pytest.mark.parametrize("start", ["pissa", "olora"])
    def test_converted(self, base, start, tmp_path):
        model = AutoModelForCausalLM.from_pretrained(base)
        config = LoraConfig(r=4, target_modules=["q_proj"], task_type="CAUSAL_LM", init_lora_weights=start)
        model = get_peft_model(model, config)
        model.peft_config["default"].init_lora_weights = True
        model.save_pretrained(tmp_path / "start")
        model.peft_config["default"].init_lora_weights = start
        with torch.no_grad():
            for weight in (weight for weight in model.parameters() if weight.requires_grad):
                weight += 0.02 * torch.randn_like(weight)
        model.save_pretrained(tmp_path / "adapter", path_initial_model_for_weight_conversion=str(tmp_path / "start"))
        expected = logits(model)
        merged = export.merge_adapter(base, tmp_path / "adapter", tmp_path / "merged")
        assert merged.adapter.rank == 8
        torch.testing.assert_close(logits(adapters.load_base(merged.path)[0]), expected, atol=1e-4, rtol=0)

    @pytest.mark.parametrize("start", [True, False, "gaussian", "orthogonal", "eva", "mica"])
    def test_starts_that_leave_the_base_alone(self, base, start, tmp_path):
        expected = trained_adapter(base, tmp_path / "adapter", init_lora_weights=start)
        merged = export.merge_adapter(base, tmp_path / "adapter", tmp_path / "merged").path
        torch.testing.assert_close(logits(adapters.load_base(merged)[0]), expected, atol=1e-5, rtol=0)

    @pytest.mark.parametrize("name", ["me/tiny-pissa-r16", "LoftQ/tiny-4bit", "out/residual_model"])
    def test_only_the_name_of_its_base_tells(self, base, name, tmp_path):
        trained_adapter(base, tmp_path / "adapter")
        path = tmp_path / "adapter" / "adapter_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"base_model_name_or_path": name}))
        with pytest.raises(ExportError, match=rf"{name}.*Download that base.*taken out of it"):
            export.merge_adapter(base, tmp_path / "adapter", tmp_path / "merged")


@one_base
class TestWhatCannotBeRead:
    @pytest.mark.parametrize(
        "config",
        [{"r": "16"}, {"r": None}, {"lora_alpha": "much"}, {"rank_pattern": [8]}, {"modules_to_save": ["norm"]}],
        ids=str,
    )
    def test_a_config_that_does_not_go_with_the_weights(self, base, config, tmp_path):
        """Kind: an error of ours for whatever the configuration says, and nothing on disk."""
        trained_adapter(base, tmp_path / "adapter")
        path = tmp_path / "adapter" / "adapter_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | config))
        with pytest.raises(ExportError):
            export.merge_adapter(base, tmp_path / "adapter", tmp_path / "merged")
        assert not (tmp_path / "merged").exists()

    @pytest.mark.parametrize("file", ["model.safetensors", "config.json", "tokenizer.json"])
    def test_a_base_of_pointers(self, base, file, tmp_path):
        """Kind: a model folder that holds Git LFS pointers is said, not a SafetensorError."""
        trained_adapter(base, tmp_path / "adapter")
        copy = shutil.copytree(base, tmp_path / "tiny")
        (copy / file).write_bytes(POINTER)
        with pytest.raises(ExportError, match=f"{file} is a Git LFS pointer"):
            export.merge_adapter(copy, tmp_path / "adapter", tmp_path / "merged")
        with pytest.raises(modeling.ModelError, match=f"{file} is a Git LFS pointer"):
            modeling.load_model(copy, profile=None)

    @pytest.mark.parametrize("lost", ["layers.1.", "layers.0.mlp.up_proj.weight", "lm_head.weight"])
    def test_a_base_without_some_of_its_tensors(self, base, tiny, lost, tmp_path):
        """Kind: wrong in silence; what a model's files lack would be random numbers."""
        trained_adapter(base, tmp_path / "adapter")
        copy = shutil.copytree(base, tmp_path / "tiny")
        kept = {name: tensor for name, tensor in load_file(base / "model.safetensors").items() if lost not in name}
        save_file(kept, copy / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(ExportError, match=f"lack .*{lost}"):
            export.merge_adapter(copy, tmp_path / "adapter", tmp_path / "merged")
        with pytest.raises(modeling.ModelError, match=f"lack .*{lost}"):
            modeling.load_model(copy, tiny)

    @pytest.mark.parametrize(
        "config", [{"model_type": "qwen9"}, {"num_hidden_layers": 3}, {"hidden_size": 32}, {"vocab_size": 50_000}]
    )
    def test_a_base_that_transformers_cannot_read(self, base, config, tmp_path):
        """Kind: no library's error at load."""
        copy = shutil.copytree(base, tmp_path / "tiny")
        (copy / "config.json").write_text(json.dumps(json.loads((base / "config.json").read_text()) | config))
        with pytest.raises(ExportError, match="transformers cannot read it"):
            adapters.load_base(copy)


def other_names(adapter, change):
    path = adapter / "adapter_model.safetensors"
    save_file({change(name): each for name, each in load_file(path).items() if change(name)}, path)


@one_base
def test_settings_that_are_greedy_and_no_quantisation_are_merged(base, tmp_path):
    """Kind: a good base is refused (pitfall greedy-in-config)."""
    copy = shutil.copytree(base, tmp_path / "tiny")
    (copy / "generation_config.json").write_text('{"do_sample": false, "temperature": 0.6, "top_k": 20}')
    config = json.loads((base / "config.json").read_text()) | {"quantization_config": None}
    (copy / "config.json").write_text(json.dumps(config))
    trained_adapter(base, tmp_path / "adapter")
    assert export.merge_adapter(copy, tmp_path / "adapter", tmp_path / "merged").adapter.layers == 2


@one_base
class TestMounted:
    """Kind: what a merge refuses is not mounted in silence, as if it were the base."""

    @pytest.mark.parametrize(
        "change",
        [
            lambda name: name.replace("model.layers", "model.language_model.layers"),
            lambda name: name.replace("base_model.model.", ""),
            lambda name: name.replace("base_model.model.", "module."),
            lambda name: "layers.1" not in name and name,
            lambda name: "layers.1.self_attn.q_proj.lora_B" not in name and name,
        ],
        ids=["language_model", "no prefix", "module", "one layer", "half a layer"],
    )
    def test_tensors_without_a_place(self, base, change, tmp_path):
        trained_adapter(base, tmp_path / "adapter")
        other_names(tmp_path / "adapter", change)
        model = AutoModelForCausalLM.from_pretrained(base)
        before = logits(model)
        with pytest.raises(modeling.ModelError, match="another base model"):
            modeling.load_adapter(model, tmp_path / "adapter")
        assert torch.equal(logits(model), before) and not any("lora" in name for name in model.state_dict())
        with pytest.raises(ExportError, match="another base model"):
            export.merge_adapter(base, tmp_path / "adapter", tmp_path / "merged")

    def test_another_base_by_its_name_and_a_start_that_repeats_the_base(self, base, tmp_path):
        trained_adapter(base, tmp_path / "adapter", init_lora_weights="pissa", noise=0.002)
        path = tmp_path / "adapter" / "adapter_config.json"
        for config, words in (
            ({"init_lora_weights": True}, "repeats what stands in the weights"),
            ({"base_model_name_or_path": "Qwen/Qwen3-4B"}, "was trained on Qwen/Qwen3-4B"),
        ):
            path.write_text(json.dumps(json.loads(path.read_text()) | config))
            with pytest.raises(modeling.ModelError, match=words):
                modeling.load_adapter(AutoModelForCausalLM.from_pretrained(base), tmp_path / "adapter")

    def test_one_without_tensors(self, base, tmp_path):
        trained_adapter(base, tmp_path / "adapter")
        save_file({}, tmp_path / "adapter" / "adapter_model.safetensors")
        with pytest.raises(ExportError, match="it changes 0 layers of"):
            export.merge_adapter(base, tmp_path / "adapter", tmp_path / "merged")
        assert not (tmp_path / "merged").exists()

    def test_one_that_fits(self, base, tmp_path):
        expected = trained_adapter(base, tmp_path / "adapter")
        model = modeling.load_adapter(AutoModelForCausalLM.from_pretrained(base), tmp_path / "adapter")
        torch.testing.assert_close(logits(model), expected)
        assert "--enable-lora" in serving.command(profiles.PROFILES["16gb"], base, adapter=tmp_path / "adapter")
