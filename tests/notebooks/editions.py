"""The Chinese edition: brings over what the English notebooks changed, and says what is to be translated again.

    make editions                                           code and outputs come over; stale Markdown cells are listed
    python tests/notebooks/editions.py 05_evaluation c13 …  these cells say again what the English ones say
    python tests/notebooks/editions.py docs/pitfalls.md     and so does this page
    python tests/notebooks/editions.py run 02_templates…    runs Chinese lessons: tables and figures are Chinese, too

A Chinese notebook holds the cells of the English one: code as it is, Markdown in Chinese, each with the hash of the
English text that it was written from. Its outputs are those of the English one until it is run itself. A Chinese page
ends with the hash of the English page.
"""

import hashlib
import json
import re
import sys
from pathlib import Path
from typing import Any

import nbformat
import openings
import refresh
from nbclient import NotebookClient
from openings import ROOT

FOLDERS = ("notebooks", "exercises")
ENGLISH = sorted(path for folder in FOLDERS for path in (ROOT / folder).glob("[0-9]*.ipynb"))
RAN = "ran"
"""The key of a Chinese notebook's metadata that says that its outputs are its own."""
PAGES = {"README.md": "README.zh.md"} | {
    f"docs/{name}.md": f"docs/zh/{name}.md" for name in ("instructor", "pitfalls", "troubleshooting")
}
OPENING = re.compile(rf"^\[!\[.*\({openings.COLAB}.*\n|^\|.*\(\d\d_\w+\.ipynb\).*\n\|.*\n\|.*\n", re.MULTILINE)
"""Badge and map, which `openings` writes for each edition."""
WRITTEN_FROM = "english"
"""The key of a Chinese cell's metadata that holds the hash."""


def chinese(path: Path) -> Path:
    """Where the Chinese edition of a notebook lies."""
    return path.parent / "zh" / path.name


def digest(cell: dict[str, Any]) -> str:
    """The hash of a cell's text without `OPENING`."""
    return hashlib.sha256(OPENING.sub("", source(cell)).encode()).hexdigest()[:12]


def mark(page: str) -> str:
    """The last line of the Chinese edition of a page."""
    return f"<!-- {WRITTEN_FROM}: {hashlib.sha256((ROOT / page).read_bytes()).hexdigest()[:12]} -->\n"


def stale_pages() -> list[str]:
    """The Chinese pages that were written from another English one."""
    return [
        zh
        for page, zh in PAGES.items()
        if not ((ROOT / zh).exists() and (ROOT / zh).read_text(encoding="utf-8").endswith(mark(page)))
    ]


def source(cell: dict[str, Any]) -> str:
    return "".join(cell["source"])


def moved(text: str, folder: str) -> str:
    """Markdown with links that are right one folder deeper; those between lessons, or exercises, stay in the edition.

    Args:
        text: of a cell of `folder`.
        folder: "notebooks" or "exercises".
    """
    other = {"notebooks": "exercises", "exercises": "notebooks"}[folder]
    text = re.sub(rf"\]\(\.\./{other}/(?=\d\d_)", f"](../../{other}/zh/", text)
    return re.sub(rf"\]\((?=\.\./(?!\.\./{other}/zh/)|extras/|solutions/)", "](../", text)


def brought_over(english: dict[str, Any], before: dict[str, Any], path: Path) -> dict[str, Any]:
    """The Chinese notebook: what it holds in Chinese, and all else as the English one has it.

    Args:
        english: the English notebook.
        before: the Chinese one; a Markdown cell that it does not have comes in English, and stale.
        path: where the Chinese one lies.
    """
    known, ran = {cell["id"]: cell for cell in before["cells"]}, before.get("metadata", {}).get(RAN)
    cells = []
    for cell in english["cells"]:
        text = known.get(cell["id"])
        if cell["cell_type"] == "code" and ran and text and source(text) == source(cell):
            cell = text
        if cell["cell_type"] == "markdown":
            said = text["source"] if text else moved(source(cell), path.parent.parent.name).splitlines(keepends=True)
            from_ = text["metadata"].get(WRITTEN_FROM, "") if text else ""
            cell = cell | {"source": said, "metadata": cell["metadata"] | {WRITTEN_FROM: from_}}
        cells.append(cell)
    metadata = english["metadata"] | ({RAN: True} if ran else {})
    return openings.opened(english | {"cells": cells, "metadata": metadata}, path)


def stale(english: dict[str, Any], translated: dict[str, Any]) -> list[str]:
    """The ids of the Chinese cells that were written from another English text."""
    now = {cell["id"]: cell for cell in english["cells"] if cell["cell_type"] == "markdown"}
    return [
        cell["id"]
        for cell in translated["cells"]
        if cell["cell_type"] == "markdown"
        and (cell["id"] not in now or cell["metadata"].get(WRITTEN_FROM) != digest(now[cell["id"]]))
    ]


def run(name: str) -> None:
    """Run a Chinese lesson in its folder, where the course speaks Chinese."""
    path = ROOT / "notebooks" / "zh" / f"{name}.ipynb"
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=None, resources={"metadata": {"path": str(path.parent)}}).execute()
    refresh.clean(notebook)
    notebook.metadata[RAN] = True
    nbformat.write(notebook, path)


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def main() -> None:
    sys.path.append(str(Path(__file__).resolve().parents[1] / "exercises"))
    from generate import is_answered

    for file in map(chinese, ENGLISH):
        if file.exists() and is_answered(file):
            sys.exit(f"{file.relative_to(ROOT)} holds answers, which would be lost. Move it away first.")
    name, *ids = sys.argv[1:] or [""]
    for lesson in ids if name == "run" else ():
        run(lesson)
    for path in ENGLISH:
        english, file = read(path), chinese(path)
        translated = brought_over(english, read(file) if file.exists() else {"cells": []}, file)
        now = {cell["id"]: digest(cell) for cell in english["cells"]}
        for cell in translated["cells"] if file.as_posix().endswith(f"{name}.ipynb") else ():
            if cell["id"] in ids and cell["cell_type"] == "markdown":
                cell["metadata"][WRITTEN_FROM] = now[cell["id"]]
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps(translated, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        for cell in stale(english, translated):
            print(f"{file.relative_to(ROOT).as_posix()} {cell}")
    if name in PAGES:
        page = ROOT / PAGES[name]
        text = re.sub(rf"\n<!-- {WRITTEN_FROM}: \w+ -->\n$", "", page.read_text(encoding="utf-8"))
        page.write_text(f"{text.rstrip()}\n\n{mark(name)}", encoding="utf-8")
    print(*stale_pages(), sep="\n")


if __name__ == "__main__":
    main()
