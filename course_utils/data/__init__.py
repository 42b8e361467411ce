"""Data of the course: read, normalise, deduplicate, split, mix and build, always in the same row schema.

A row is `messages` (OpenAI turns), `source`, `tags`, and `tools` where it has some; see `rows.py`. `datasets` is
imported only when a function that needs it is called.
"""

from course_utils.data.build import BuildReport, build, load_built
from course_utils.data.deduplication import Removed, deduplicate
from course_utils.data.mixing import MixReport, mix
from course_utils.data.reading import read_raw
from course_utils.data.registry import load
from course_utils.data.rows import DataError, plain, to_dataset
from course_utils.data.sources import normalise
from course_utils.data.splitting import group_key, split

__all__ = [
    "BuildReport",
    "DataError",
    "MixReport",
    "Removed",
    "build",
    "deduplicate",
    "group_key",
    "load",
    "load_built",
    "mix",
    "normalise",
    "plain",
    "read_raw",
    "split",
    "to_dataset",
]
