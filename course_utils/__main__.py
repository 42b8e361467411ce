"""`python -m course_utils`."""

from course_utils.cli import main

main()
