"""The one family of errors that this package raises on purpose."""


class CourseError(Exception):
    """Something a learner can act on.

    Every message says what happened, where (file, row, field, model or source), and what to do now.
    Modules subclass it where a caller may want to tell one failure from another.
    """
