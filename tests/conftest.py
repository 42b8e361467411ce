"""What many tests share: the real model folder and the real tokenizers, made once by the course's own download."""

from pathlib import Path

import pytest

from course_utils import hub

ROOT = Path(__file__).resolve().parents[1]


def tokenizer_of(name: str):
    """Download (or find) `name` and load its tokenizer from the folder, offline."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(hub.download(name, models_dir=ROOT / "models"))


@pytest.fixture(scope="session")
def smol() -> Path:
    """The folder of SmolLM2-135M-Instruct."""
    return hub.download("smollm2-135m-instruct", models_dir=ROOT / "models")


@pytest.fixture(scope="session")
def smol_tokenizer():
    return tokenizer_of("smollm2-135m-instruct")


@pytest.fixture(scope="session")
def qwen3():
    """Qwen3's tokenizer with the hybrid (thinking or not) template."""
    return tokenizer_of("qwen3-tokenizer")


@pytest.fixture(scope="session")
def qwen3_2507():
    """Qwen3's tokenizer with the Instruct-2507 template."""
    return tokenizer_of("qwen3-instruct-2507-tokenizer")
