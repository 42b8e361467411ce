"""How long the lessons are, as a table, and the bounds that they keep.

python tests/notebooks/sizes.py
"""

import json
import re
from pathlib import Path
from typing import NamedTuple

from concepts import LESSONS
from openings import HERE

from course_utils.lessons import tables

CODE_CELLS, WORDS, PICTURES = range(10, 26), range(1200, 2501), 3
"""What a lesson holds: its code cells, its words, and how many pictures it has at least."""


class Size(NamedTuple):
    code_cells: int
    words: int
    pictures: int


def read_by_people(markdown: str) -> str:
    """What is left of a Markdown cell without code, the map, pictures, badges, addresses of links, and tags of HTML."""
    markdown = re.sub(r"^```.*?^```", "", markdown, flags=re.DOTALL | re.MULTILINE)
    text = re.sub(rf"(^\|.*\n){{2}}^\|.*{re.escape(HERE)}.*$", "", markdown, flags=re.MULTILINE)
    text = re.sub(r"!\[[^\]]*\]\([^)]*\)|<svg.*?</svg>", "", text, flags=re.DOTALL)
    return re.sub(r"\]\([^)]*\)|<[^>]+>|^\|[-:| ]+\|$|[|\[\]*#]", " ", text, flags=re.MULTILINE)


def is_picture(output: dict) -> bool:
    """True for a figure, and for HTML in colour or with a drawing in it."""
    data = output.get("data", {})
    html = "".join(data.get("text/html", ""))
    return "image/png" in data or "image/svg+xml" in data or "<svg" in html or "background" in html


def size(path: Path) -> Size:
    """The size of a notebook as it is committed, with its outputs."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    text = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown"]
    drawn = sum(is_picture(output) for cell in code for output in cell["outputs"])
    return Size(
        code_cells=len(code),
        words=sum(len(read_by_people(part).split()) for part in text),
        pictures=drawn + sum(part.count("](attachment:") + part.count("<svg") for part in text),
    )


def main() -> None:
    print(tables.table([{"lesson": path.stem} | size(path)._asdict() for path in LESSONS]))


if __name__ == "__main__":
    main()
