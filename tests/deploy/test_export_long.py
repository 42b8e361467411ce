"""What the long mode adds to test_export.py: 50 prompts, and llama.cpp's real converter (`make test-long`)."""

import shutil
import subprocess
import sys

import pytest

from course_utils import chat, export
from notebooks import gguf_file

pytestmark = pytest.mark.long
CAPITALS = ("France", "Spain", "Italy", "Japan", "China", "Kenya", "Chile", "India", "Norway", "Egypt")


@pytest.fixture(scope="module")
def merged(smol, trained, tmp_path_factory):
    return export.merge_adapter(smol, trained[0].adapter_dir, tmp_path_factory.mktemp("merge") / "merged")


@pytest.fixture(scope="module")
def prompts(smol_tokenizer):
    asked = [f"Return only JSON with the key n. The number is {number}." for number in range(20)]
    asked += [f"{start} {name}" for name in CAPITALS for start in ("The capital of", "A poem about", "Three foods of")]
    return [
        chat.render(smol_tokenizer, [{"role": "user", "content": text}], add_generation_prompt=True) for text in asked
    ]


@pytest.fixture(scope="module")
def llama_cpp(tmp_path_factory):
    """llama.cpp's converter, out of the source package of llama-cpp-python: taken out, never built or installed."""
    folder = tmp_path_factory.mktemp("llama_cpp")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", ":all:", "--dest", str(folder)]
    subprocess.run([*command, "llama-cpp-python==0.3.36"], check=True, capture_output=True)
    (archive,) = folder.glob("*.tar.gz")
    shutil.unpack_archive(archive, folder, filter="data")
    return next(folder.glob("*/vendor/llama.cpp"))


def test_fifty_prompts(smol, trained, merged, prompts):
    check = export.check_merge(smol, trained[0].adapter_dir, merged.path, prompts)
    assert check.same_weights and check.equal_to_memory == check.prompts == 50
    assert check.adapter.holds and 0 < check.adapter.mean_error < 0.5


@pytest.mark.parametrize("outtype", ["bf16", "q8_0"])
def test_the_real_converter(outtype, merged, prompts, llama_cpp, tmp_path, monkeypatch):
    monkeypatch.setenv("LLAMA_CPP", str(llama_cpp))
    file = gguf_file.to_gguf(merged.path, tmp_path / "model.gguf", outtype=outtype)
    assert [path.name for path in tmp_path.iterdir()] == ["model.gguf"]
    found = gguf_file.check_gguf(merged.path, file, prompts[::3])
    if outtype == "bf16":  # the weights are kept as they are
        assert found.equal == found.prompts and found.logit_error == 0
    else:
        assert found.holds and 0 < found.mean_error < 0.5
