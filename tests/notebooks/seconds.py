"""Put the seconds that cells took in the last `make course` into the instructor's plan (docs/instructor.md).

make outputs
"""

import json
import re
from datetime import datetime
from pathlib import Path

from course_utils.core.files import write_text

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "instructor.md"
ROW = re.compile(r"^\| (?P<what>[^|]*\((?P<lesson>\d\d) `(?P<cell>\w+)`[^|]*\)) \| [^|]+ \|", re.MULTILINE)
"""A line of the plan's tables that begins with a cell of a lesson: what it is, and then its seconds."""


def seconds(notebook: Path, cell: str) -> float:
    """How long a cell took, by the times that nbclient has written beside it."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    [times] = [each["metadata"]["execution"] for each in cells if each["id"] == cell]
    began, ended = (datetime.fromisoformat(times[key]) for key in ("iopub.execute_input", "shell.execute_reply"))
    return (ended - began).total_seconds()


def renewed(page: str, notebooks: Path) -> str:
    """The page with the seconds of these executed notebooks, rounded to five; a line without one stays as it is."""

    def line(found: re.Match[str]) -> str:
        ran = list(notebooks.glob(f"{found['lesson']}_*.ipynb"))
        return f"| {found['what']} | {5 * round(seconds(ran[0], found['cell']) / 5)} |" if ran else found[0]

    return ROW.sub(line, page)


if __name__ == "__main__":
    write_text(PAGE, renewed(PAGE.read_text(encoding="utf-8"), ROOT / "runs" / "cpu" / "notebooks"))
