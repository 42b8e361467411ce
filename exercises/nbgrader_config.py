# ruff: noqa: F821
"""This folder as an nbgrader course: `nbgrader generate_assignment solutions` and so on, run here.

`make exercises` reads the stub from this file.
"""

c = get_config()

c.CourseDirectory.course_id = "qwen-finetuning-course"
c.CourseDirectory.source_directory = "."  # the assignment is the folder solutions/
c.ClearSolutions.code_stub = {
    "python": 'raise NotImplementedError("Write this part; the hint above the cell is a start.")'
}
