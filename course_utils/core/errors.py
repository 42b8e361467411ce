"""The one family of errors that this package raises on purpose."""

from course_utils.core.language import said


def printable(text: str) -> str:
    """A text in which half of a character, as a path or a key may hold, is written as an escape."""
    return text.encode(errors="backslashreplace").decode()


class CourseError(Exception):
    """Something a learner can act on.

    Every message says what happened, where (file, row, field, model or source), and what to do now.
    Modules subclass it where a caller may want to tell one failure from another.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(printable(reason))
        if (told := said(str(self))) != str(self):
            self.add_note(told)  # below the English, by which docs/troubleshooting.md lists it
