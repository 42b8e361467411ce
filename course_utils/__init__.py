"""Helpers of the course, in folders named by stage: core, hub, text, data, evals, train, deploy, lessons.

Importing this package is quick and imports no torch. A module is loaded when it is first named
(`from course_utils import masking`), and Unsloth only by a lesson that trains.
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# torch's threads spin while they wait for each other. On two cores beside a browser each spin keeps the core from the
# thread that is waited for: generation then takes three times as long. Read when torch is loaded, so set here.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

if TYPE_CHECKING:  # for editors and type checkers; a test holds this list and _FOLDERS to each other
    from course_utils import data as data
    from course_utils import hub as hub
    from course_utils.core import budget as budget
    from course_utils.core import files as files
    from course_utils.core import hardware as hardware
    from course_utils.core import profiles as profiles
    from course_utils.core import remedies as remedies
    from course_utils.core import settings as settings
    from course_utils.deploy import adapters as adapters
    from course_utils.deploy import client as client
    from course_utils.deploy import export as export
    from course_utils.deploy import publishing as publishing
    from course_utils.deploy import serving as serving
    from course_utils.evals import evaluation as evaluation
    from course_utils.evals import generation as generation
    from course_utils.evals import metrics as metrics
    from course_utils.evals import statistics as statistics
    from course_utils.lessons import colab as colab
    from course_utils.lessons import conversation as conversation
    from course_utils.lessons import doctor as doctor
    from course_utils.lessons import figures as figures
    from course_utils.lessons import highlight as highlight
    from course_utils.lessons import machine as machine
    from course_utils.lessons import pipeline as pipeline
    from course_utils.lessons import reports as reports
    from course_utils.lessons import tables as tables
    from course_utils.lessons.setup import setup as setup
    from course_utils.text import chat as chat
    from course_utils.text import masking as masking
    from course_utils.text import packing as packing
    from course_utils.text import thinking as thinking
    from course_utils.train import modeling as modeling
    from course_utils.train import trackers as trackers
    from course_utils.train import training as training

_FOLDERS = {
    "core": ("budget", "files", "hardware", "profiles", "remedies", "settings"),
    "text": ("chat", "masking", "packing", "thinking"),
    "evals": ("evaluation", "generation", "metrics", "statistics"),
    "train": ("modeling", "trackers", "training"),
    "deploy": ("adapters", "client", "export", "publishing", "serving"),
    "lessons": ("colab", "conversation", "doctor", "figures", "highlight", "machine", "pipeline", "reports", "tables"),
}
_MODULES = {name: f"{__name__}.{folder}.{name}" for folder, names in _FOLDERS.items() for name in names}


def __getattr__(name: str) -> Any:
    """`from course_utils import masking` finds the module in its folder, and costs nothing until then (PEP 562)."""
    if name == "setup":
        return import_module(f"{__name__}.lessons.setup").setup
    if name in _MODULES:
        return import_module(_MODULES[name])
    raise AttributeError(f"course_utils has no module {name!r}; it has {', '.join(sorted([*_MODULES, 'data', 'hub']))}")


def __dir__() -> list[str]:
    return [*_MODULES, "data", "hub", "setup"]
