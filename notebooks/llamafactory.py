"""Rows and settings of the course as files that LLaMA-Factory trains on.

Source: LLaMA-Factory 0.9.6.dev0, `data/README.md`, `src/llamafactory/data/parser.py`, `converter.py`, `formatter.py`;
of the settings 0.9.5, `src/llamafactory/hparams/`. What that would drop with a warning, or read as something else, is
refused here with the row and the reason.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from course_utils.core.files import write_json
from course_utils.data.faults import out_of_order, uneven_media, validate
from course_utils.data.formats import BETWEEN_RESULTS
from course_utils.data.records import DataError, Row, short
from course_utils.data.registry import DEFAULT_COLUMNS, REGISTRY, path_inside, read_registry
from course_utils.data.rows import MEDIA, REPLIES, kind_of, plain_rows
from course_utils.text import chat
from course_utils.text.messages import MessageError, is_learned, prepared
from course_utils.text.thinking import CLOSER, OPENER

if TYPE_CHECKING:
    from datasets import Dataset

    from course_utils.core.profiles import Profile

ALL_LINEAR = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
COLUMNS = {part: column or part for part, column in DEFAULT_COLUMNS.items()}  # of each part, as the README names them
TAGS = {"system": "system", "user": "human", "tool": "observation"}
NAME = re.compile(r"\w[\w.-]*")  # it is a file's, too, and LLaMA-Factory splits lists of names at commas


def export_llamafactory(dataset: Dataset, folder: str | Path, name: str) -> Path:
    """Write a data set as `folder/name.json` and enter it in `folder/dataset_info.json` for LLaMA-Factory.

    The entry names every column that LLaMA-Factory has to read: what `columns` does not name is None there (pitfall
    registry-silence). Other entries stay. The same data set gives the same bytes. The rows are written first, then the
    registry, each whole or not at all. `id` and `tags` go along as columns that LLaMA-Factory passes over.

    Thinking stands inside the reply, as <think>, line break, thinking, line break, </think>, blank line, answer.
    Results of parallel calls become one observation, because ShareGPT wants the roles by turns; they are joined as
    LLaMA-Factory's OpenAI converter does it, with what Qwen's template writes between them, and `load` takes them apart
    again. Pretraining text is written as Alpaca, all else as ShareGPT. Images, videos and audios are named, not copied:
    copy the files to the same place in `folder`.

    What ShareGPT cannot hold is lost: ids of tool calls (`tool_call_id`; results are put in the order of the calls),
    names of who speaks, and `source`, in whose place the name of the entry comes when the file is loaded here. Control
    tokens in the texts stay as they are (pitfall forged-control-tokens).

    Args:
        dataset: rows of the course's schema, all of one kind: chats, preferences, KTO, or text.
        folder: where to write; made if missing.
        name: of the data set in the registry, and of the file without `.json`.

    Returns:
        The path of the rows.

    Raises:
        DataError: no rows, a row that ShareGPT cannot hold (with the reason), a registry that cannot be read, or a file
            or an entry of this name that is not from an export. Nothing is written then.
    """
    folder = Path(folder)
    known = _known(folder, name)
    kind, rows = _file_rows(dataset, folder, name)
    used = {column for row in rows for column in row}
    columns = {part: column for part, column in COLUMNS.items() if column in used}
    entry: Row = {"file_name": f"{name}.json", "formatting": "sharegpt", "columns": columns}
    if kind == "text":
        entry |= {"formatting": "alpaca", "columns": {"prompt": "text"}}
    if kind == "preference":
        entry["ranking"] = True
    path = write_json(folder / f"{name}.json", rows)
    write_json(folder / REGISTRY, known | {name: entry})
    return path


def recipe(profile: Profile, *, model: Path, rows: Path, template: str = "qwen") -> dict[str, Any]:
    """The settings of a run under the names that `llamafactory-cli train` reads in a YAML file.

    Args:
        profile: its device, dtype and training settings; their `output_dir` is the folder that is written to.
        model: the folder of the base.
        rows: what `export_llamafactory` wrote; its stem is the name of the data set.
        template: LLaMA-Factory's name for the model's chat template; `qwen` serves Qwen to 2.5.

    Returns:
        A mapping whose every key LLaMA-Factory 0.9.5 knows: it refuses one that it does not.
    """
    settings = profile.train
    every = set(settings.target_modules) == ALL_LINEAR
    return {
        "model_name_or_path": str(model),
        "trust_remote_code": False,  # the notes' true would run the code of whoever uploaded the model
        "stage": "sft",
        "do_train": True,
        "finetuning_type": "lora",
        "lora_rank": settings.r,
        "lora_alpha": settings.alpha,
        "lora_dropout": settings.dropout,
        "lora_target": "all" if every else ",".join(settings.target_modules),
        "dataset_dir": str(rows.parent),
        "dataset": rows.stem,
        "template": template,
        "cutoff_len": settings.max_length,  # longer rows are cut, without a word
        "overwrite_cache": True,
        "output_dir": settings.output_dir,
        "overwrite_output_dir": True,
        "per_device_train_batch_size": settings.batch_size,
        "gradient_accumulation_steps": settings.grad_accum,
        "learning_rate": settings.learning_rate,
        "num_train_epochs": settings.epochs,
        "max_steps": settings.max_steps,
        "lr_scheduler_type": settings.scheduler,
        "warmup_steps": settings.warmup_steps,
        "weight_decay": settings.weight_decay,
        "optim": settings.optimizer,
        "bf16": profile.dtype == "bfloat16",
        "fp16": profile.dtype == "float16",
        "use_cpu": profile.device == "cpu",
        "disable_gradient_checkpointing": not settings.gradient_checkpointing,
        "logging_steps": settings.logging_steps,
        "save_strategy": "no",  # the adapter is written at the end
        "seed": settings.seed,
        "report_to": "none",
    }


def _known(folder: Path, name: str) -> Row:
    """The entries that are there, if there is place for one of this name beside them."""
    registry, path = folder / REGISTRY, folder / f"{name}.json"
    if not NAME.fullmatch(name) or path.name.lower() == REGISTRY:
        raise DataError(
            f"export: {name!r} cannot name a data set. Take letters, digits, _, - and dots, and not dataset_info."
        )
    known = read_registry(folder) if registry.exists() else {}
    there = known.get(name)
    if name in known and (not isinstance(there, dict) or there.get("file_name") != path.name):
        found = f"{registry} has an entry {name!r} that is not from an export of this name: {short(there)}"
        raise DataError(f"{found}. Take another name, or remove that entry.")
    if name not in known and path.exists():
        found = f"{path} is there already, and {registry} has no entry for it"
        raise DataError(f"{found}. Take another name, or remove it.")
    return known


# ------------------------------------------------------------------------------------------------------------- the rows
def _file_rows(dataset: Dataset, folder: Path, name: str) -> tuple[str, list[Row]]:
    """The kind of the rows, and the rows as they stand in the file."""
    with_media = bool(set(MEDIA) & set(dataset.column_names))
    kind, rows = "", []
    for index, row in enumerate(plain_rows(dataset)):
        where = f"export of {name!r}, dataset[{index}]"
        found = kind_of(row)
        kind = kind or found
        if found != kind:
            raise DataError(f"{where}: a row of {found} among rows of {kind}. Export each kind by itself.")
        out: Row = {"id": row["id"]} if "id" in row else {}
        if kind == "text":
            out["text"] = row["text"]
        else:
            out |= _conversation(row, where)
            out |= {"tools": row["tools"]} if chat.load_tools(row.get("tools")) else {}
            out |= _media(row, folder, where) if with_media else {}
        rows.append(out | {"tags": row.get("tags", [])})
    if not rows:
        raise DataError(f"export of {name!r}: the data set has no rows, and LLaMA-Factory cannot load an empty file.")
    return kind, rows


def _conversation(row: Row, where: str) -> Row:
    """The turns of a row, its replies and its label."""
    messages = row.get("messages", [])
    options: dict[str, list[Row]] = {reply: row.get(reply, []) for reply in REPLIES if row.keys() & REPLIES}
    for reply, said in options.items():
        if len(said) != 1 or said[0].get("role") != "assistant":
            raise DataError(f"{where}, {reply}: expected a list of one assistant turn, found {short(said)}.")
    try:
        validate(row)
    except MessageError as error:
        raise DataError(f"{where}, {error}.") from None
    unlearned = next((index for index, message in enumerate(messages) if not is_learned(message)), None)
    if unlearned is not None:
        found = f"{where}, messages[{unlearned}]: is not to be learned (weight 0), and LLaMA-Factory would learn it"
        raise DataError(f"{found}. Leave the row out.")
    fault = out_of_order(messages, "messages", is_prompt=bool(options))
    if fault is not None:
        raise DataError(f"{where}, {fault.field}: {fault.reason}")
    turns: list[Row] = []
    for index, message in enumerate(prepared(messages)):  # results in the order of the calls: ShareGPT has no ids
        turn = _turn(message, f"{where}, messages[{index}]")
        if turns and turn["from"] == turns[-1]["from"] == "observation":  # results of parallel calls are one
            turns[-1]["value"] += BETWEEN_RESULTS + turn["value"]
        else:
            turns.append(turn)
    system = turns.pop(0)["value"] if turns[0]["from"] == "system" else None
    if system == "":
        found = f"{where}, messages[0]: an empty system turn, in whose place LLaMA-Factory puts the template's own"
        raise DataError(f"{found}. Write one, or leave the turn out.")
    made = {reply: prepared(messages + said)[-1] for reply, said in options.items()}
    replies = {reply: _turn(message, f"{where}, {reply}[0]") for reply, message in made.items()}
    out: Row = ({"system": system} if system else {}) | {"conversations": turns} | replies
    if "label" not in row:
        return out
    if turns[-1]["value"] == "":
        raise DataError(f"{where}, messages: an empty reply, which LLaMA-Factory gives the other label. Leave it out.")
    return out | {"kto_tag": row["label"]}


def _turn(message: Row, where: str) -> Row:
    """A message as a turn of ShareGPT."""
    if message.get("weight") == 0:
        raise DataError(
            f"{where}: is not to be learned (weight 0), and LLaMA-Factory would learn it. Leave the row out."
        )
    text, thinking = message.get("content", ""), message.get("reasoning_content")
    if message["role"] == "tool" and BETWEEN_RESULTS in text:
        raise DataError(f"{where}: holds what stands between the results of parallel calls. Make them turns.")
    if message["role"] != "assistant":
        return {"from": TAGS[message["role"]], "value": text}
    if message.get("tool_calls"):
        if text or thinking is not None:
            found = f"{where}: has a call beside text or thinking, and function_call holds nothing but the call"
            raise DataError(f"{found}. Leave the text out, or the row.")
        return {"from": "function_call", "value": _calls(message["tool_calls"])}
    for mark in (OPENER, CLOSER):
        if mark in text or mark in (thinking or ""):
            raise DataError(f"{where}: holds {mark}, which LLaMA-Factory takes for its mark of thinking. Reword it.")
    return {"from": "gpt", "value": text if thinking is None else f"{OPENER}\n{thinking}\n{CLOSER}\n\n{text}"}


def _calls(calls: list[Row]) -> str:
    """The calls of a turn as JSON text: one by itself, several as a list."""
    found = [call["function"] for call in calls]
    text = json.dumps(found if len(found) > 1 else found[0], ensure_ascii=False)
    return text.replace("<", "\\u003c")  # LLaMA-Factory would take <tool_call> or <think> in an argument for its mark


def _media(row: Row, folder: Path, where: str) -> Row:
    """Names of images, videos and audios, as many as there are placeholders, whichever reply is taken."""
    for media in MEDIA:
        for index, file in enumerate(row.get(media, [])):
            path_inside(folder, file, f"{where}, {media}[{index}]")
    for media, reason in uneven_media(row, row):
        raise DataError(f"{where}, {media}: {reason}.")
    return {media: row[media] for media in MEDIA if row.get(media)}
