"""Data of the course: read, normalise, deduplicate, split, mix and build, always in the same row schema.

A row is `messages` (OpenAI turns), `source`, `tags`, and `tools` where it has some; see `rows.py`. `datasets` is
imported only when a function that needs it is called.
"""

from course_utils.data.building import BuildReport, Pool, build, load_built, pool
from course_utils.data.checking import CheckReport, check
from course_utils.data.cleaning import Dropped, clean, clean_row
from course_utils.data.deduplication import Removed, deduplicate
from course_utils.data.keys import group_key
from course_utils.data.loading import load, stream
from course_utils.data.mixing import MixReport, mix
from course_utils.data.reading import read_raw
from course_utils.data.records import DataError, Problem
from course_utils.data.rows import export_jsonl, join, plain, to_dataset
from course_utils.data.sources import normalise
from course_utils.data.splitting import leaks, split

__all__ = [
    "BuildReport", "CheckReport", "DataError", "Dropped", "MixReport", "Pool", "Problem", "Removed", "build", "check",
    "clean", "clean_row", "deduplicate", "export_jsonl", "group_key", "join", "leaks", "load", "load_built", "mix",
    "normalise", "plain", "pool", "read_raw", "split", "stream", "to_dataset",
]  # fmt: skip
