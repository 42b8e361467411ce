"""What many tests share: the real model folder and the real tokenizers, made once by the course's own download."""
# ruff: noqa: I001

import copy
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import pytest

import course_utils  # noqa: F401  (first: it sets how torch's threads wait)
import unsloth  # noqa: F401  (before transformers, as everywhere in the course)
import torch
from course_utils import hub, profiles
from hub_server import move, seal
from hypothesis import HealthCheck, settings

# The same examples in every run, so that the tests of one commit always say the same. The long mode searches for new
# ones, fifty times as many: `make test-long`.
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.register_profile("long", max_examples=5000, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("repeatable")


def pytest_collection_modifyitems(config, items):
    """Leave out the tests marked `long` outside of the long mode."""
    if config.getoption("--hypothesis-profile") == "long":
        return
    left_out = [item for item in items if item.get_closest_marker("long")]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]


ROOT = Path(__file__).resolve().parents[1]


def tokenizer_of(name: str):
    """Download (or find) `name` and load its tokenizer from the folder, offline."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(hub.download(name, models_dir=ROOT / "models"))


def shipped_template(name: str) -> str:
    """A model's chat template as TRL ships it."""
    return (Path(find_spec("trl").origin).with_name("chat_templates") / f"{name}.jinja").read_text(encoding="utf-8")


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


@pytest.fixture(scope="session")
def qwen25(qwen3):
    """Qwen2.5's tokenizer, without its model: the ids of Qwen3's, the template as TRL ships it."""
    made = copy.deepcopy(qwen3)
    made.chat_template = shipped_template("qwen2_5")
    return made


class Scripted:
    """Stands for a thinking model: `generate` writes the given text, token by token."""

    class config:
        max_position_embeddings = 10_000

    class generation_config:
        eos_token_id = None

    device = "cpu"

    def __init__(self, tokenizer, text):
        self.ids = tokenizer(text, return_tensors="pt", add_special_tokens=False)["input_ids"]

    def generate(self, *, input_ids, streamer, **_):
        streamer.put(input_ids)
        for token in self.ids[0]:
            streamer.put(token[None])
        streamer.end()
        return torch.cat([input_ids, self.ids], dim=1)


@pytest.fixture(scope="session")
def tiny() -> profiles.Profile:
    """The tiny profile; tests train for a few steps with it, into folders of their own."""
    return profiles.choose("tiny")


@pytest.fixture(scope="session")
def toy_rows() -> list[dict]:
    """Twelve short rows of one exercise, enough to see an adapter learn."""
    return [
        {
            "messages": [
                {"role": "user", "content": f"Return only JSON with the key n. The number is {number}."},
                {"role": "assistant", "content": f'{{"n":{number}}}'},
            ],
            "source": "json",
            "tags": ["json", "en"],
        }
        for number in range(12)
    ]


@pytest.fixture(scope="session")
def trained(smol, tiny, toy_rows, tmp_path_factory):
    """A short run on the toy rows: (TrainResult, settings)."""
    from course_utils import masking, modeling, training

    settings = replace(tiny.train, max_steps=6, eval_steps=3, output_dir=str(tmp_path_factory.mktemp("run")))
    model, tokenizer = modeling.load_model(smol, tiny)
    model = modeling.attach_lora(model, tiny)
    examples = masking.build_dataset(toy_rows, tokenizer)
    return training.train(model, tokenizer, examples, examples, settings), settings


@pytest.fixture(scope="session")
def tuned(smol, tiny, trained):
    """(the small model with that adapter on it, its tokenizer), ready to answer."""
    from course_utils import modeling

    model, tokenizer = modeling.load_model(smol, tiny, load_in_4bit=False)
    return modeling.for_inference(modeling.load_adapter(model, trained[0].adapter_dir)), tokenizer


@pytest.fixture
def sealed(monkeypatch, tmp_path_factory):
    """No hub variable and no login of this machine reaches a test, and nobody waits between two tries."""
    from course_utils.hub import fetch

    seal(monkeypatch, tmp_path_factory.getbasetemp())
    monkeypatch.setattr(fetch, "BACKOFF_SECONDS", 0.0)


@pytest.fixture
def endpoints(monkeypatch):
    """Set the hubs' addresses, in the order of ENDPOINTS."""
    return partial(move, monkeypatch, hub.ENDPOINTS)


@pytest.fixture(scope="session")
def kills(request) -> int:
    """How often a run is killed: 3 times, and 20 times in `make test-long`."""
    return 20 if request.config.getoption("--hypothesis-profile") == "long" else 3


def compared(source: str, metric: str = "JSON valid, strict", before: float = 0.25, after: float = 1.0) -> dict:
    """One line of `Comparison.table` with these values."""
    values = {
        f"{key} {when}": value
        for key in ("perplexity", "metric", "tokens")
        for when, value in (("before", before), ("after", after))
    }
    return {
        "source": source,
        "prompts": 2,
        "metric": metric,
        **values,
        "intervals": {name: [value * 0.9, value * 1.1] for name, value in values.items()},
        "verdicts": dict.fromkeys(("perplexity", "metric", "tokens"), "not told apart"),
    }
