"""What is taken of a hub's repository: where models and data sets differ, and file names that nobody should take."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch

from course_utils.hub.fetch import MODEL_MARKS, PART, RECORD, HubFile, SourceError
from course_utils.hub.wheels import WHEELS, WheelSource

Files = Mapping[str, HubFile]  # by path

DATA = ("*.jsonl", "*.json", "*.csv", "*.parquet", "*.txt")
# Of these kinds, but without rows: what `datasets` skips (its data_files.py, FILES_TO_IGNORE), and two that many have.
NO_DATA = (
    "config.json",
    "dataset_info.json",
    "dataset_infos.json",
    "dataset_dict.json",
    "LICENSE*",
    "requirements.txt",
)


@dataclass(frozen=True)
class RepoType:
    """What a model's and a data set's repository differ in; all else of a download is the same."""

    name: str  # as the hubs' own clients call it
    words: str  # as an error text calls what it holds
    id_example: str
    wheels: Mapping[str, WheelSource]  # the names that come from no hub
    record: str  # the file that says where a folder came from
    marks: tuple[str, ...]  # a folder on disk that holds one of these is there
    wanted: tuple[str, ...]  # patterns of file names
    subfolders: str  # pattern of the wanted paths that do not lie at the root
    check: Callable[[Sequence[str], Files], None]  # refuses a repository by all its paths and its wanted files

    @property
    def without_hub(self) -> str:
        """The end of an error text: what comes without a hub."""
        return f" Without a hub there are {', '.join(self.wheels)}." if self.wheels else ""


def wanted(files: Sequence[HubFile], repo_type: RepoType) -> dict[str, HubFile]:
    """What is needed of a hub's files, by path.

    Raises:
        SourceError: a file name leads elsewhere, a file has no size, or the repository lacks what its type needs.
    """
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


def _check_model(paths: Sequence[str], taken: Files) -> None:
    """Refuse a repository without a model or tokenizer, and one whose weights are pickles only."""
    if not set(MODEL_MARKS) & set(taken):
        raise SourceError(f"the repository holds neither {' nor '.join(MODEL_MARKS)}")
    pickles = [path for path in paths if path.endswith((".bin", ".pt", ".pth"))]
    if pickles and not any(path.endswith(".safetensors") for path in taken):
        raise SourceError(f"its weights are pickles only ({pickles[0]}), which run code when loaded")


def _check_dataset(paths: Sequence[str], taken: Files) -> None:
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
)

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
