"""Check rows before they cost training time: every problem with its place, and what the rows are like (C35)."""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from course_utils.core.errors import CourseError
from course_utils.data.deduplication import Removed, deduplicate
from course_utils.data.faults import fault_of, faults
from course_utils.data.loading import Opened, open_rows
from course_utils.data.records import DataError, Fault, Problem, Record, Row, judged, parted
from course_utils.data.rows import BAR_AFTER, kind_of, plain_rows, texts_of, to_dataset
from course_utils.data.splitting import leaks
from course_utils.text import masking
from course_utils.text.script import HAN

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

    from course_utils.text.masking import MaskAudit

ROWS_AT_ONCE = 500  # are masked together; where one of them fails, it is looked for
KINDS = {
    "preference": ("preference rows (two replies, chosen and rejected)", "`train --stage dpo` of lesson 09"),
    "kto": ("KTO rows (a reply, and whether it is a good one)", "`train --stage kto` of lesson 09"),
    "text": ("rows of text for pretraining", "`train --stage pretrain`"),
}
LATIN = re.compile(r"[A-Za-z\u00c0-\u024f]{2}")


@dataclass(frozen=True)
class CheckReport:
    """What is wrong with a file or a data set, and what its rows are like."""

    name: str  # what was checked
    read_as: str  # how the rows were read
    kind: str  # of the rows: "chat", "preference", "kto", "text"; several joined by "and"; "" where none is known
    rows: Dataset  # those that can be used
    read: int  # all rows, which is the usable and the reported ones
    problems: list[Problem]  # what keeps rows from being used; a row may have several
    remarks: list[str]  # what is worth knowing and keeps no row from being used
    repeats: list[Removed]  # usable rows that say what an earlier one says; they count from 0 in `rows`
    tokens: dict[str, list[int]] | None  # of each example, by source; None without a tokenizer
    audit: MaskAudit | None  # what is learned from the usable rows with messages; None without a tokenizer

    @property
    def not_chats(self) -> str:
        """Why `train --data` refuses rows of this kind, and what trains on them; "" for chats."""
        if self.kind in ("chat", ""):
            return ""
        if " and " in self.kind:
            return f"{self.name} holds {self.kind} rows in one, and each is trained in another way. Part them first."
        rows, way = KINDS[self.kind]
        return f"{self.name} holds {rows}, and `train --data` learns chats: use {way}."

    @property
    def kept(self) -> int:
        """Rows without a problem."""
        return len(self.rows)

    @property
    def reported(self) -> int:
        """Rows with a problem."""
        return len(_rows_of(self.problems))

    @cached_property
    def characters(self) -> dict[str, list[int]]:
        """Characters of each usable row, by its source."""
        return _by_source((row["source"], [sum(map(len, texts_of(row)))]) for row in plain_rows(self.rows))

    @cached_property
    def tallies(self) -> dict[str, Counter[str]]:
        """Usable rows by source, by tag, and by the language of their text ("zh", "en", "zh and en" or "other")."""
        rows = list(plain_rows(self.rows))
        tags = Counter(tag for row in rows for tag in row["tags"])
        languages = Counter(_language(" ".join(texts_of(row))) for row in rows)
        return {"source": Counter(self.rows["source"]), "tag": tags, "language": languages}

    def table(self) -> list[tuple[str, Any]]:
        """The summary, as pairs of what and how much."""
        table: list[tuple[str, Any]] = [
            ("read as", self.read_as),
            ("rows read", self.read),
            ("rows that can be used", self.kept),
            ("rows with a problem", self.reported),
            ("problems", len(self.problems)),
            ("repeats of an earlier row", len(self.repeats)),
            ("characters of a row: median, longest", _median_and_longest(self.characters)),
        ]
        if self.audit is not None and self.tokens is not None:
            table += [
                ("tokens of a row: median, longest", _median_and_longest(self.tokens)),
                ("tokens in all", f"{sum(map(sum, self.tokens.values())):,}"),
                ("share of the chats' tokens that is learned", f"{self.audit.learned_share:.1%}"),
            ]
        for what, tally in self.tallies.items():
            names = ", ".join(f"{name} {count:,}" for name, count in tally.most_common(12))
            table.append((f"rows by {what}", names or "none"))
        return table


def check(
    path_or_dataset: str | Path | Dataset | list[Row],
    tokenizer: PreTrainedTokenizerBase | None = None,
    max_length: int | None = None,
    *,
    against: str | Path | Dataset | list[Row] | None = None,
) -> CheckReport:
    """Look at every row of a file, of all files of a folder or a registry, or of a data set. Nothing is written.

    Args:
        path_or_dataset: a .jsonl, .json, .csv, .parquet or .txt file; a folder of them; a `dataset_info.json` or the
            folder it lies in; a folder of `save_to_disk`; or rows of the course's schema, also as a list.
        tokenizer: the model's. With it every row is rendered and masked, and its tokens are counted.
        max_length: tokens that a row may have.
        against: an evaluation file or set. A row that asks what one of it asks, if only with other numbers, is a
            problem.

    Raises:
        DataError: there is no such file, `max_length` cannot be meant, or no row of `against` can be read.
    """
    if max_length is not None and (tokenizer is None or max_length < 1):
        raise DataError("check: max_length counts tokens, so it needs a tokenizer and must be at least 1.")
    opened = open_rows(path_or_dataset)
    problems, records = _judged(opened)
    total = len(records) + len(_rows_of(problems))
    if not total and not problems:
        problems.append(Problem(opened.name, None, None, "", "has no rows. Check that the file was saved whole."))
    remarks = list(opened.remarks)
    if against is not None:
        leaked, unread = _leaked(records, against)
        problems += leaked
        remarks += unread
    examples: list[list[Row]] = [[] for _ in records]
    if tokenizer is not None:
        examples, unfit = _masked(records, tokenizer, max_length)
        problems += unfit
    bad = _rows_of(problems)
    made = zip(records, examples, strict=True)
    usable = [(record.value, found) for record, found in made if (record.file, record.row) not in bad]
    rows = [row for row, _ in usable]
    tokens, audit = None, None
    if tokenizer is not None:
        tokens = _by_source((row["source"], [len(one["input_ids"]) for one in found]) for row, found in usable)
        audit = masking.audit((one for row, found in usable if "text" not in row for one in found), tokenizer)
    return CheckReport(
        name=opened.name,
        read_as=opened.read_as,
        kind=" and ".join(sorted({*opened.kinds, *(kind_of(record.value) for record in records)})),
        rows=to_dataset(rows),
        read=total,
        problems=sorted(problems, key=lambda problem: (problem.file, problem.row or 0)),
        remarks=remarks,
        repeats=deduplicate(rows)[1],
        tokens=tokens,
        audit=audit,
    )


def _judged(opened: Opened) -> tuple[list[Problem], list[Record]]:
    """What keeps rows from being read or rendered, and the other rows."""
    return parted(judged(opened.items, lambda _, record: (record.value, faults(record.value))))


def _masked(
    records: list[Record], tokenizer: PreTrainedTokenizerBase, max_length: int | None
) -> tuple[list[list[Row]], list[Problem]]:
    """The examples of each row, and what keeps a row from giving one that fits."""
    from tqdm.auto import tqdm

    examples: list[list[Row]] = []
    problems = []
    # A row as training would see it: of a preference, the prompt with the chosen reply.
    rows = [row | {"messages": row["messages"] + row.get("chosen", [])} for row in (item.value for item in records)]
    batches = (rows[start : start + ROWS_AT_ONCE] for start in range(0, len(rows), ROWS_AT_ONCE))
    made = chain.from_iterable(_examples(batch, tokenizer) for batch in batches)
    for record, found in zip(tqdm(records, desc="masks", unit="row", leave=False, delay=BAR_AFTER), made, strict=True):
        fault = found if isinstance(found, Fault) else _unfit(record.value, found, max_length)
        if fault is not None:
            problems.append(record.problem(*fault))
        examples.append([] if isinstance(found, Fault) else found)
    return examples, problems


def _unfit(row: Row, examples: list[Row], max_length: int | None) -> Fault | None:
    """Why training would leave a row out."""
    if not examples:
        return Fault("messages", "nothing is learned from this row: it holds no reply. Add one.")
    longest = max(len(example["input_ids"]) for example in examples)
    if max_length is None or longest <= max_length or "text" in row:  # a text is cut, and nothing of it is lost
        return None
    return Fault("messages", f"{longest:,} tokens, more than {max_length:,}: training would leave it out. Shorten it.")


def _examples(rows: list[Row], tokenizer: PreTrainedTokenizerBase) -> list[list[Row] | Fault]:
    """The examples of each row, or why it cannot be rendered; of a text its ids, all of them learned."""
    made: list[list[Row] | Fault] = [[] for _ in rows]
    chats = [index for index, row in enumerate(rows) if "text" not in row]
    try:
        with warnings.catch_warnings():  # of rows that give no example: they are reported one by one
            warnings.simplefilter("ignore")
            talks = [{key: rows[index][key] for key in ("messages", "tools") if key in rows[index]} for index in chats]
            for example in masking.build_dataset(talks, tokenizer):
                made[chats[example["row"]]].append(example)
    except CourseError as error:
        if len(rows) == 1:
            return [fault_of(error)]
        half = len(rows) // 2  # one of the rows: which?
        return _examples(rows[:half], tokenizer) + _examples(rows[half:], tokenizer)
    for index in set(range(len(rows))) - set(chats):
        ids = tokenizer(rows[index]["text"], add_special_tokens=False)["input_ids"]
        made[index] = [{"input_ids": ids, "labels": ids}]
    return made


def _leaked(records: list[Record], against: str | Path | Dataset | list[Row]) -> tuple[list[Problem], list[str]]:
    """The rows that ask what an evaluation row asks, if only with other numbers; a remark where some were not read."""
    opened = open_rows(against)
    unread, held = _judged(opened)
    if not held:
        found = f"the first problem is {unread[0]}" if unread else "it is empty"
        raise DataError(f"check: {opened.name} has no row to compare with: {found}")
    count = len(_rows_of(unread))
    remarks = [f"{count} rows of {opened.name} cannot be read and were not compared: check it, too."] if count else []
    found = [
        records[leak.row].problem(
            "messages",
            f"asks what row {held[leak.first_row].row} of {opened.name} asks, if only with other numbers: the "
            "evaluation would measure memory. Take one of them out.",
        )
        for leak in leaks(*([record.value for record in part] for part in (records, held)))
    ]
    return found, remarks


def _rows_of(problems: Iterable[Problem]) -> set[tuple[str, int]]:
    """The rows that have a problem."""
    return {(problem.file, problem.row) for problem in problems if problem.row is not None}


def _by_source(pairs: Iterable[tuple[str, list[int]]]) -> dict[str, list[int]]:
    """The numbers of each source, one list after the other."""
    found: dict[str, list[int]] = {}
    for source, numbers in pairs:
        found.setdefault(source, []).extend(numbers)
    return found


def _median_and_longest(lengths: dict[str, list[int]]) -> str:
    together = sorted(chain.from_iterable(lengths.values())) or [0]
    return f"{together[len(together) // 2]:,}, {together[-1]:,}"


def _language(text: str) -> str:
    has = [name for name, letters in (("zh", HAN), ("en", LATIN)) if letters.search(text)]
    return " and ".join(has) or "other"
