"""course_utils.deploy: the merged folder answers as base + adapter, by itself, in a new process; GGUF files."""

import hashlib
import json
import os
import resource
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from course_utils import adapters, chat, export, hardware
from notebooks import gguf_file
from notebooks.ollama import modelfile


@pytest.fixture(scope="module")
def merged(smol, trained, tmp_path_factory):
    """Made of an adapter folder whose own template is a trainer's: the base's must be shipped."""
    adapter = tmp_path_factory.mktemp("adapter") / "adapter"
    shutil.copytree(trained[0].adapter_dir, adapter)
    (adapter / "chat_template.jinja").write_text("{% generation %}{{ messages }}{% endgeneration %}")
    return export.merge_adapter(smol, adapter, tmp_path_factory.mktemp("merge") / "merged")


@pytest.fixture
def changed_adapter(trained, tmp_path):
    """Make a copy of the adapter whose configuration or weights differ."""
    from safetensors.torch import save_file

    def make(config=None, weights=None):
        folder = tmp_path / "adapter"
        shutil.copytree(trained[0].adapter_dir, folder)
        path = folder / "adapter_config.json"
        path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | (config or {})), encoding="utf-8")
        if weights:
            save_file(weights(load_file(folder / "adapter_model.safetensors")), folder / "adapter_model.safetensors")
        return folder

    return make


@pytest.fixture
def prompts(toy_rows, smol_tokenizer):
    return [chat.render(smol_tokenizer, row["messages"][:1], add_generation_prompt=True) for row in toy_rows]


def test_the_folder_is_complete(merged, smol):
    assert set(export.FULL) < set(merged.files)
    assert merged.adapter.layers == 30 * 7 and merged.adapter.rank == 16 and merged.adapter.remarks == ()
    for name in ("chat_template.jinja", "generation_config.json"):
        assert (merged.path / name).read_bytes() == (smol / name).read_bytes()
    config = json.loads((merged.path / "config.json").read_text(encoding="utf-8"))
    assert config["dtype"] == "bfloat16" and config["tie_word_embeddings"] is True
    assert not list(merged.path.parent.glob(".*"))  # no draft is left


def test_from_a_clean_directory_it_has_the_template_and_the_stops_of_the_base(merged, smol, tmp_path):
    """Moved elsewhere, in a new process that imports transformers and nothing of the course."""
    folder = shutil.copytree(merged.path, tmp_path / "elsewhere")
    code = (
        "import hashlib, sys; from transformers import AutoTokenizer, GenerationConfig; t = "
        "AutoTokenizer.from_pretrained(sys.argv[1]); g = GenerationConfig.from_pretrained(sys.argv[1]); "
        "print(hashlib.sha256(t.chat_template.encode()).hexdigest(), t.eos_token_id, t.pad_token_id, g.eos_token_id)"
    )
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"HF_HUB_OFFLINE": "1"}
    said = subprocess.run(
        [sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=True, env=environment, cwd="/"
    ).stdout
    digest = hashlib.sha256((smol / "chat_template.jinja").read_bytes()).hexdigest()
    assert said.split(maxsplit=3) == [digest, "2", "0", "[2]\n"]


def test_reloaded_alone_it_is_the_model_in_memory_and_answers_as_the_adapter(smol, trained, merged, prompts):
    check = export.check_merge(smol, trained[0].adapter_dir, merged.path, prompts[:6], max_new_tokens=16)
    assert check.same_weights and check.equal_to_memory == check.prompts == 6
    assert check.holds and 0 < check.adapter.logit_error < 2 and check.adapter.same_top > 0.9


def test_a_folder_with_other_weights_is_told_from_the_model_in_memory(smol, trained, prompts):
    check = export.check_merge(smol, trained[0].adapter_dir, smol, prompts[:1], max_new_tokens=4)
    assert not check.same_weights and not check.holds


@pytest.mark.parametrize(("bf16", "arithmetic"), [(True, torch.bfloat16), (False, torch.float32)])
def test_a_cpu_that_emulates_bfloat16_answers_in_float32_and_merges_into_bfloat16(
    smol, trained, monkeypatch, tmp_path, bf16, arithmetic
):
    machine = replace(hardware.hardware_without_torch(), bf16=bf16)
    monkeypatch.setattr(adapters, "detect_hardware", lambda: machine)
    report = export.merge_adapter(smol, trained[0].adapter_dir, tmp_path / "merged")
    held = load_file(report.path / "model.safetensors").values()
    assert {weight.dtype for weight in held} == {torch.bfloat16}
    assert adapters.load_base(report.path)[0].dtype == arithmetic
    mounted, _ = adapters.load_with_adapter(smol, trained[0].adapter_dir)
    frequencies = mounted.get_base_model().model.rotary_emb.inv_freq.clone()
    merged = export._merged(mounted)
    assert merged.dtype == torch.bfloat16 and torch.equal(merged.model.rotary_emb.inv_freq, frequencies)
    mounted, _ = adapters.load_with_adapter(smol, trained[0].adapter_dir)
    assert mounted.get_base_model().model.layers[0].mlp.up_proj.base_layer.weight.dtype == arithmetic


def test_a_folder_that_does_not_load_says_why(tmp_path):
    with pytest.raises(export.ExportError, match="did not load"):
        export._in_new_process(tmp_path, {"prompts": ["Hi"], "batch_size": 1, "max_new_tokens": 1})


# ---- refused, and nothing is left


def refused(base, adapter, out, words):
    before = sorted(out.parent.iterdir())
    with pytest.raises(export.ExportError, match=words):
        export.merge_adapter(base, adapter, out)
    assert sorted(out.parent.iterdir()) == before


def test_no_adapter_there(smol, tmp_path):
    refused(smol, tmp_path, tmp_path / "merged", "no adapter")


def test_no_base_there(trained, tmp_path):
    refused(tmp_path / "smollm2-135m-instruct", trained[0].adapter_dir, tmp_path / "out", "holds no model")


@pytest.mark.parametrize(
    ("config", "weights", "words"),
    [
        ({"base_model_name_or_path": "Qwen/Qwen3-4B"}, None, r"was trained on Qwen/Qwen3-4B.*base_model_name_or_path"),
        (
            {},
            lambda all: {k: v[:, :-1].contiguous() if "lora_A" in k else v for k, v in all.items()},
            "was not trained on",
        ),
        ({}, lambda all: {k: v for k, v in all.items() if ".layers.7." not in k}, "changes 203 layers of 210"),
    ],
    ids=["by name", "by shapes", "by layers"],
)
def test_an_adapter_of_another_base(smol, changed_adapter, tmp_path, config, weights, words):
    refused(smol, changed_adapter(config, weights), tmp_path / "merged", words)


def test_an_adapter_on_tied_weights(smol, tmp_path):
    from peft import LoraConfig, get_peft_model

    model, _ = adapters.load_base(smol)
    model = get_peft_model(model, LoraConfig(r=2, target_modules=["lm_head"], task_type="CAUSAL_LM"))
    model.save_pretrained(tmp_path / "adapter")
    assert adapters.read_adapter(tmp_path / "adapter").modules[-1] == "lm_head"
    refused(smol, tmp_path / "adapter", tmp_path / "merged", r"changes .*lm_head.*the same weights")


def test_a_base_in_4_bits(smol, trained, tmp_path):
    base = tmp_path / smol.name
    base.mkdir()
    (base / "config.json").write_text('{"quantization_config": {"load_in_4bit": true}}')
    refused(base, trained[0].adapter_dir, tmp_path / "merged", "16-bit model")


def test_folders_that_nobody_meant_to_lose(smol, trained, tmp_path):
    adapter = trained[0].adapter_dir
    for out, words in ((smol, "holds the base"), (adapter.parent, "holds the adapter")):
        with pytest.raises(export.ExportError, match=words):
            export.merge_adapter(smol, adapter, out)
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(export.ExportError, match="something else than a model"):
        export.merge_adapter(smol, adapter, tmp_path)
    assert (tmp_path / "thesis.txt").is_file() and (smol / "config.json").is_file()


def test_a_full_disk_leaves_the_older_model(smol, trained, tmp_path):
    """No file may grow beyond a mebibyte: what the system says then is what it says on a full disk."""
    out = tmp_path / "merged"
    out.mkdir()
    (out / "config.json").write_text("{}")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, limits[1]))
    try:
        refused(smol, trained[0].adapter_dir, out, "could not be written")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [path.name for path in out.iterdir()] == ["config.json"]


def test_a_folder_that_cannot_be_made(smol, trained, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(export.ExportError, match="could not be written"):
        export.merge_adapter(smol, trained[0].adapter_dir, tmp_path / "file" / "merged")


def test_a_rank_that_vllm_refuses_is_told(changed_adapter):
    assert (
        "--max-lora-rank of 64" in adapters.read_adapter(changed_adapter({"rank_pattern": {"q_proj": 64}})).remarks[0]
    )


def test_a_broken_adapter_file(changed_adapter):
    folder = changed_adapter()
    (folder / "adapter_model.safetensors").write_bytes(b"no weights")
    with pytest.raises(export.ExportError, match="cannot be read"):
        adapters.read_adapter(folder)
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(export.ExportError, match="cannot be read"):
        adapters.read_adapter(folder)


# ---- GGUF


def test_a_folder_that_is_not_whole_is_not_converted(tmp_path, converter):
    """Kind: a model folder that holds Git LFS pointers or cut weights is said."""
    converter("")
    (tmp_path / "model.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1")
    with pytest.raises(export.ExportError, match="Git LFS pointer"):
        gguf_file.to_gguf(tmp_path, tmp_path / "model.gguf")


def test_without_the_converter_it_is_told_how_to_get_it(merged, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    for folder in ("", str(tmp_path / "llama.cpp")):
        monkeypatch.setenv("LLAMA_CPP", folder)
        with pytest.raises(export.ExportError, match=r"git clone.*llama\.cpp(.|\n)*LLAMA_CPP"):
            gguf_file.to_gguf(merged.path, tmp_path / "model.gguf")


@pytest.fixture(params=["variable", "path"])
def converter(request, tmp_path, monkeypatch):
    """Put a script in the converter's place, where each of the two ways finds it."""

    def put(code):
        tools = tmp_path / "tools"
        tools.mkdir()
        (tools / gguf_file.CONVERTER).write_text(code)
        (tools / gguf_file.CONVERTER).chmod(0o755)
        monkeypatch.setenv("LLAMA_CPP", str(tools) if request.param == "variable" else "")
        monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")

    return put


@pytest.mark.parametrize(
    ("code", "words"),
    [("raise SystemExit('Model Foo is not supported')", "Model Foo is not supported"), ("", "said nothing")],
)
def test_a_converter_that_fails_leaves_nothing(converter, code, words, tmp_path):
    converter(code)
    with pytest.raises(export.ExportError, match=words):
        gguf_file.to_gguf(tmp_path, tmp_path / "out" / "model.gguf")
    assert list((tmp_path / "out").iterdir()) == []


def test_what_the_converter_writes_becomes_the_file(converter, tmp_path):
    converter("import sys; open(sys.argv[-1], 'wb').write(b'GGUF\\r\\n\\xff')")
    assert gguf_file.to_gguf(tmp_path, tmp_path / "out" / "model.gguf").read_bytes() == b"GGUF\r\n\xff"
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["model.gguf"]


def test_the_modelfile_asks_as_the_course_does(merged):
    assert modelfile(merged.path, "somewhere/model.gguf").splitlines() == [
        "FROM ./model.gguf",
        'TEMPLATE """{{ range .Messages }}<|im_start|>{{ .Role }}',
        "{{ .Content }}<|im_end|>",
        "{{ end }}<|im_start|>assistant",
        '"""',
        'SYSTEM """You are a helpful AI assistant named SmolLM, trained by Hugging Face"""',
        'PARAMETER stop "<|im_end|>"',
        "PARAMETER temperature 0",
        "PARAMETER repeat_penalty 1",
    ]


def test_the_modelfile_of_a_qwen3(qwen3, tmp_path):
    """Thinking is switched off in the template, and the settings are those of its generation_config.json."""
    qwen3.save_pretrained(tmp_path)
    settings = {"do_sample": True, "temperature": 0.6, "top_p": 0.95, "top_k": 20, "eos_token_id": [151645, 151643]}
    (tmp_path / "generation_config.json").write_text(json.dumps(settings))
    text = modelfile(tmp_path, "model.gguf")
    assert '<|im_start|>assistant\n<think>\n\n</think>\n\n"""' in text and "SYSTEM" not in text
    assert 'PARAMETER stop "<|im_end|>"\nPARAMETER stop "<|endoftext|>"\nPARAMETER temperature 0.6' in text
    assert "PARAMETER top_p 0.95\nPARAMETER top_k 20" in text
    (tmp_path / "chat_template.jinja").write_text("{% for m in messages %}[INST]{{ m.content }}[/INST]{% endfor %}")
    with pytest.raises(export.ExportError, match="no ChatML"):
        modelfile(tmp_path, "model.gguf")
