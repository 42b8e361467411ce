"""The checks of the exercises: each takes what a learner wrote and says what is not right about it yet.

A module for each lesson, a function for each task. A check says which input shows a fault and what kind of fault it is;
it holds examples, properties and calls of the package, never a solution written out.
"""

from __future__ import annotations

import traceback
import warnings
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any, NoReturn

from course_utils.core.errors import CourseError
from course_utils.core.language import said

SHOWN = 90  # characters of a value in a message


class CheckFailed(CourseError):
    """What is not right yet, in one line that helps; a notebook shows that line and no traceback."""

    def _render_traceback_(self) -> list[str]:  # IPython asks for it
        return [f"{said('Not yet:')} {said(self.args[0])}"]


class Solved:
    """What a check returns; a notebook shows it below the cell."""

    def _ipython_display_(self) -> None:  # no execute_result: nbgrader would take that for a number of points
        from IPython.display import display

        display({"text/plain": said("Solved.")}, raw=True)


def check(examine: Callable[[Any], None]) -> Callable[[Any], Solved]:
    """Make a task's check of a function that raises a CheckFailed for the first fault that it finds."""

    @wraps(examine)
    def run(attempt: Any) -> Solved:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # a library's remark on stderr costs the points in nbgrader
                examine(attempt)
        except CheckFailed:
            raise
        except Exception as error:  # the check stumbled over a value that it did not expect
            raise CheckFailed(f"it returned something of another kind than the task asks for: {error}") from error
        return Solved()

    return run


def expect(holds: bool, line: str) -> None:
    """Raise a CheckFailed with `line` where `holds` is false."""
    if not holds:
        raise CheckFailed(line)


def ask(function: Callable[..., Any], *arguments: Any, given: str = "") -> Any:
    """Call what the learner wrote.

    Args:
        function: the learner's.
        arguments: for it.
        given: the input in words, where the arguments themselves say little.

    Returns:
        What the function returns.

    Raises:
        CheckFailed: it is not written yet, or it raises an error; the line says for which input, and where.
    """
    try:
        return function(*arguments)
    except Exception as error:
        _tell(function, error, given or ", ".join(map(shown, arguments)))


def expect_error(function: Callable[..., Any], *arguments: Any, kind: type[Exception], why: str) -> None:
    """Call what the learner wrote with an input that it must refuse.

    Args:
        function: the learner's.
        arguments: for it.
        kind: the error that it must raise.
        why: what is wrong with the input.

    Raises:
        CheckFailed: there was no error, or another one.
    """
    given = ", ".join(map(shown, arguments))
    try:
        found = function(*arguments)
    except kind as error:
        if isinstance(error, NotImplementedError):  # a RuntimeError, too
            _tell(function, error, given)
        return
    except Exception as error:
        _tell(function, error, given)
    raise CheckFailed(f"for {given} it returned {shown(found)}; it must raise {kind.__name__}, because {why}")


def shown(value: Any) -> str:
    """A value as a message shows it: on one line, and in full where it is short."""
    text = " ".join(repr(value).split())
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 1]}…"


def _tell(function: Callable[..., Any], error: Exception, given: str) -> NoReturn:
    """Raise a CheckFailed that says what the learner's function raised, for which input and in which line."""
    if isinstance(error, NotImplementedError):
        raise CheckFailed(f"`{function.__name__}` is not written yet. {error}".strip()) from None
    steps = traceback.extract_tb(error.__traceback__)
    outside = [step for step in steps if Path(step.filename).parent != Path(__file__).parent]
    own = [step for step in outside if step.filename == outside[0].filename]  # not a library that it called
    line = f", in the line `{own[-1].line}`" if own and own[-1].line else ""
    raise CheckFailed(f"for {given} it raised {type(error).__name__}: {shown(str(error))}{line}") from error
