"""Write the repository's address (pyproject.toml, `Repository`) into the badge and the Colab cell of every notebook.

make address
"""

import json
import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ADDRESS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["urls"]["Repository"]
NOTEBOOKS = sorted(path for folder in ("notebooks", "exercises") for path in (ROOT / folder).rglob("[0-9]*.ipynb"))
COLAB = "https://colab.research.google.com/github"
CELL = """\
import sys

if "google.colab" in sys.modules:
    import os
    import subprocess

    address = "{address}"
    if not os.path.isdir("/content/course"):
        subprocess.run(["git", "clone", "--quiet", address, "/content/course"], check=True)
    sys.path.insert(0, "/content/course")
    from course_utils import colab

    colab.prepare()"""


def opened(notebook: dict, path: Path) -> dict:
    """The notebook (its JSON) with this badge in its first cell and `CELL` as its first code cell.

    Args:
        notebook: changed in place.
        path: where it lies in the clone.
    """
    lies = path.relative_to(ROOT).as_posix().replace("/solutions/", "/")  # a solution's badge opens the learner's copy
    where = f"{COLAB}{ADDRESS.removeprefix('https://github.com')}/blob/main/{lies}"
    header, cell = notebook["cells"][0], next(cell for cell in notebook["cells"] if cell["cell_type"] == "code")
    header["source"] = [re.sub(rf"\({COLAB}/.+?\)", f"({where})", line) for line in header["source"]]
    cell["source"] = CELL.format(address=ADDRESS).splitlines(keepends=True)
    return notebook


def main() -> None:
    for path in NOTEBOOKS:
        notebook = opened(json.loads(path.read_text(encoding="utf-8")), path)
        path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
