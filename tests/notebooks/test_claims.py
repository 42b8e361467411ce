"""What a notebook's prose says in figures stands in what the notebook shows."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from concepts import EXTRAS, LESSONS
from sizes import read_by_people
from test_anatomy import cells

FIGURE = re.compile(r"(?<![\w.])\d+\.\d+(?!\w|\.\w)")
ELSEWHERE = {  # from where a figure comes that no cell shows
    "01_download": {"0.95": "an example of a setting"},
    "03_data_building": {"4.7": "a version of datasets"},
    "05_evaluation": {"0.05": "the usual limit of a test", "0.90": "a question's example"},
    "10_many_gpus": dict.fromkeys(
        ("3.622", "3.910", "2.291", "3.527", "3.961", "2.963"), "a run of the wrong way, told as such"
    )
    | {"23.6": "what drivers leave free of 24 GB", "1.75": "an answer"},
    "04_inside_the_run": dict.fromkeys(
        ("8.0", "0.80", "0.309", "1.09", "0.389", "1.52", "0.368", "2.56", "0.369", "3.3", "0.370"), "docs"
    )
    | {"1.75": "an answer"},
    "05_more_on_measuring": {"0.125": "the step of a logit in bfloat16", "0.91": "a question's example"},
    "05_public_tasks": {"0.62": "a question's example"},
    "05_talk_and_vote": {"0.05": "the usual limit of a test"},
    "06_more_ways_out": {"0.20": "a version of vLLM"},
}


def claimed(path: Path) -> Iterator[tuple[str, str]]:
    """Each decimal number of the prose below a notebook's head that is in no code and no output: cell and number."""
    found, shown = cells(path), ""
    for cell in (cell for cell in found if cell["cell_type"] == "code"):
        shown += cell["source"]
        for output in cell["outputs"]:
            texts = (value for mime, value in output.get("data", {}).items() if mime.startswith("text/"))
            shown += "".join("".join(text) for text in (output.get("text", ""), *texts))
    for cell in (cell for cell in found[1:] if cell["cell_type"] == "markdown"):
        prose = re.sub("`[^`]*`", "", read_by_people(cell["source"]))
        for figure in FIGURE.findall(prose):
            if not re.search(rf"(?<![\d.]){re.escape(figure)}0*(?!\d)", shown):  # 0.055 does not show 0.05, 0.050 does
                yield cell["id"], figure


@pytest.mark.parametrize("path", LESSONS + EXTRAS, ids=lambda path: path.stem)
def test_every_figure_of_the_prose_is_shown(path):
    known = ELSEWHERE.get(path.stem, {})
    found = list(claimed(path))
    assert [(cell, figure) for cell, figure in found if figure not in known] == []
    assert {*known} <= {figure for _, figure in found}, "no longer needed here"


def test_a_figure_that_nothing_shows_is_found(tmp_path):
    text = "The loss fell to 0.42, not to 0.43. `x = 0.44`"
    cells = [{"cell_type": "markdown", "id": name, "source": [words]} for name, words in (("c0", "1.5"), ("c1", text))]
    output = {"output_type": "stream", "text": ["loss 0.420, then 0.437"]}
    cells.append({"cell_type": "code", "id": "c2", "source": ["1"], "outputs": [output]})
    path = tmp_path / "x.ipynb"
    path.write_text(json.dumps({"cells": cells}), encoding="utf-8")
    assert list(claimed(path)) == [("c1", "0.43")]
