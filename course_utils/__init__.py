"""Helpers of the course: one room (module) for each thing a lesson does.

Importing this package is quick and imports no torch: a room is loaded when it is first named
(`from course_utils import masking`), and Unsloth only by `setup()` of a lesson that trains.
"""

import os
from importlib import import_module
from typing import Any

__version__ = "0.1.0"

# torch's threads spin while they wait for each other. On two cores beside a browser each spin keeps the core from the
# thread that is waited for: generation then takes three times as long. Read when torch is loaded, so set here.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def setup(*args: Any, **kwargs: Any) -> Any:
    """The first cell of every lesson; see `course_utils.lessons.setup`."""
    from course_utils.lessons import setup

    return setup(*args, **kwargs)


def __getattr__(name: str) -> Any:
    """`course_utils.masking` works without an import of its own, and costs nothing until then."""
    if name.startswith("_"):
        raise AttributeError(name)
    try:
        return import_module(f"{__name__}.{name}")
    except ModuleNotFoundError as error:
        if error.name != f"{__name__}.{name}":
            raise
        raise AttributeError(f"course_utils has no room named {name!r}") from None
