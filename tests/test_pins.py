"""pyproject.toml is the one place for versions and for the repository's address; everything else agrees with it."""

import json
import tomllib
from importlib.metadata import version

import pytest
from conftest import ROOT
from packaging.requirements import Requirement

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT = PYPROJECT["project"]
REQUIREMENTS = [  # all but lm-eval, which gets an environment of its own (tests/test_public_tasks.py)
    Requirement(text)
    for text in [
        *PROJECT["dependencies"],
        *(pin for name, extra in PROJECT["optional-dependencies"].items() if name != "lm-eval" for pin in extra),
    ]
]


@pytest.mark.parametrize("requirement", REQUIREMENTS, ids=lambda requirement: requirement.name)
def test_what_is_installed_is_what_is_pinned(requirement):
    assert requirement.specifier.contains(version(requirement.name), prereleases=True)


def test_the_cpu_torch_is_in_the_range():
    (torch,) = [requirement for requirement in REQUIREMENTS if requirement.name == "torch"]
    assert torch.specifier.contains(PYPROJECT["tool"]["course"]["cpu_torch"])


def test_conda_takes_its_pins_from_the_package():
    text = (ROOT / "environment.yml").read_text(encoding="utf-8")
    lines = [line.strip().removeprefix("- ") for line in text.splitlines() if line.strip().startswith("- ")]
    assert lines == ["conda-forge", "python=3.12", "pip", "make", "pip:", "--editable .[gpu,trackers,lab,serve,test]"]
    from packaging.specifiers import SpecifierSet

    assert SpecifierSet(PROJECT["requires-python"]).contains("3.12")


def test_the_repositorys_address_is_everywhere_the_same():
    address = PROJECT["urls"]["Repository"]
    slug = address.removeprefix("https://github.com/")
    for path in sorted([*(ROOT / "notebooks").glob("*.ipynb"), *(ROOT / "exercises").glob("*.ipynb")]):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        badge, bootstrap = (
            "".join(cells[0]["source"]),
            "".join(next(c for c in cells if c["cell_type"] == "code")["source"]),
        )
        assert f"https://colab.research.google.com/github/{slug}/blob/main/{path.relative_to(ROOT)}" in badge, path.name
        assert f'address = "{address}"' in bootstrap, path.name
