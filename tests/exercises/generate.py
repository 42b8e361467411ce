"""Write the learners' copies of the exercises: exercises/NN_name.ipynb from exercises/solutions/NN_name.ipynb.

What stands between the solution marks becomes the stub of exercises/nbgrader_config.py, by nbgrader's own
preprocessors in nbgrader's own order, so that `nbgrader generate_assignment` gives the same notebooks.

make exercises
"""

import sys
from pathlib import Path

import nbformat
from nbgrader.preprocessors import CheckCellMetadata, ClearOutput, ClearSolutions, ComputeChecksums, LockCells
from traitlets.config import PyFileConfigLoader

ROOT = Path(__file__).resolve().parents[2]
EXERCISES = ROOT / "exercises"
SOLUTIONS = sorted((EXERCISES / "solutions").glob("[0-9]*.ipynb"))
STEPS = (LockCells, ClearSolutions, ClearOutput, CheckCellMetadata, ComputeChecksums)
STUB = "raise NotImplementedError("


def learners_copy(solution: Path) -> str:
    """The text of the learner's copy of a solution notebook."""
    notebook = nbformat.read(solution, as_version=4)
    config = PyFileConfigLoader("nbgrader_config.py", path=str(EXERCISES)).load_config()
    for step in STEPS:
        notebook, _ = step(config=config).preprocess(notebook, {})
    return nbformat.writes(notebook) + "\n"


def is_answered(copy: Path) -> bool:
    """True where somebody has worked in the copy: a cell for an answer has no stub any more."""
    cells = nbformat.read(copy, as_version=4).cells
    return any(cell.metadata.get("nbgrader", {}).get("solution") and STUB not in cell.source for cell in cells)


def main() -> None:
    for solution in SOLUTIONS:
        copy = EXERCISES / solution.name
        if copy.exists() and is_answered(copy):
            sys.exit(f"{copy.relative_to(ROOT)} holds answers, which would be lost. Move it away first.")
        copy.write_text(learners_copy(solution), encoding="utf-8")


if __name__ == "__main__":
    main()
