"""pyproject.toml is the one place for versions; everything else agrees with it.

So it is for the repository's address: tests/notebooks/test_openings.py.
"""

import sys
import tomllib
from importlib.metadata import requires, version

import pytest
from conftest import ROOT
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

sys.path.insert(0, str(ROOT))
import install

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT = PYPROJECT["project"]
REQUIREMENTS = [  # all but lm-eval, which gets an environment of its own (tests/notebooks/test_public_tasks.py)
    Requirement(text)
    for text in [
        *PROJECT["dependencies"],
        *(pin for name, extra in PROJECT["optional-dependencies"].items() if name != "lm-eval" for pin in extra),
    ]
]


@pytest.mark.parametrize("requirement", REQUIREMENTS, ids=lambda requirement: requirement.name)
def test_what_is_installed_is_what_is_pinned(requirement):
    assert requirement.specifier.contains(version(requirement.name), prereleases=True)


@pytest.mark.parametrize("name", ["cpu_torch", "cuda12_torch"])
def test_the_torch_that_is_installed_is_in_the_range(name):
    (torch,) = [requirement for requirement in REQUIREMENTS if requirement.name == "torch"]
    assert torch.specifier.contains(PYPROJECT["tool"]["course"][name])


def test_conda_brings_what_make_install_needs_and_no_package_of_the_course():
    text = (ROOT / "environment.yml").read_text(encoding="utf-8")
    lines = [line.strip().removeprefix("- ") for line in text.splitlines() if line.strip().startswith("- ")]
    assert lines == ["conda-forge", "python=3.12", "make", "c-compiler"]
    assert SpecifierSet(PROJECT["requires-python"]).contains("3.12")


def test_the_same_pythons_everywhere():
    oldest, newest = install.PYTHONS
    assert PROJECT["requires-python"] == f">=3.{oldest[1]},<3.{newest[1] + 1}"
    assert f"{oldest} <= sys.version_info[:2] <= {newest})" in (ROOT / "Makefile").read_text(encoding="utf-8")


def test_installed_extras_are_there():
    known = {*PROJECT["optional-dependencies"]}
    assert {*install.EXTRAS.split(",")} == known - {"gpu", "lm-eval"}
    assert {*install.COLAB_EXTRAS.split(",")} <= known


@pytest.mark.parametrize("package", ["unsloth", "unsloth_zoo"])
def test_unsloth_takes_every_torch_that_is_kept(package):
    (ours,) = [requirement for requirement in REQUIREMENTS if requirement.name == "torch"]
    theirs = next(r for r in map(Requirement, requires(package)) if r.name == "torch" and not r.extras)
    for minor in range(30):
        if ours.specifier.contains(f"2.{minor}.0"):
            assert theirs.specifier.contains(f"2.{minor}.0")
