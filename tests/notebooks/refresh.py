"""Put the outputs of the last `make course` and `make course-2` into notebooks/, without widget views and the like.

The extras are no part of either: they are run here.

make outputs
"""

import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parents[2]
WIDGET = "application/vnd.jupyter.widget-view+json"
KEPT = ("concept", "english", "jupyter", "slideshow", "tags")  # of a cell's metadata
METADATA = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}} | {
    "language_info": {"name": "python"}
}


def clean(notebook: nbformat.NotebookNode) -> None:
    """Keep what a reader looks at, and of the metadata what the course's tests read."""
    notebook.metadata = nbformat.from_dict(METADATA)
    for cell in notebook.cells:
        cell.metadata = {key: value for key, value in cell.metadata.items() if key in KEPT}
        if cell.cell_type == "code":
            cell.outputs = [
                output
                for output in cell.outputs
                if WIDGET not in output.get("data", {}) and output.get("name") != "stderr"
            ]


def main() -> None:
    executed = ROOT / "runs" / "cpu" / "notebooks"
    for path in sorted((ROOT / "notebooks").glob("[0-9]*.ipynb")):
        if not (executed / path.name).is_file():
            sys.exit(f"{executed / path.name} is missing; run `make course` and `make course-2` first.")
        notebook = nbformat.read(executed / path.name, as_version=4)
        clean(notebook)
        nbformat.write(notebook, path)
    for path in sorted((ROOT / "notebooks" / "extras").glob("[0-9]*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        NotebookClient(notebook, timeout=None, resources={"metadata": {"path": str(path.parent)}}).execute()
        clean(notebook)
        nbformat.write(notebook, path)


if __name__ == "__main__":
    main()
