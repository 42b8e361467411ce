"""course_utils.core.paths: the clone is found from any folder in it, and a variable says otherwise."""

from pathlib import Path

from conftest import ROOT

from course_utils.core import paths
from course_utils.core.paths import VARIABLE, home, seen_from_here


def test_the_nearest_folder_above_with_a_registry(tmp_path, monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    (tmp_path / "course/data").mkdir(parents=True)
    (tmp_path / "course/data/dataset_info.json").write_text("{}")
    (tmp_path / "course/notebooks/extras").mkdir(parents=True)
    for folder, seen in (("course", "."), ("course/notebooks", ".."), ("course/notebooks/extras", "../..")):
        monkeypatch.chdir(tmp_path / folder)
        assert home() == tmp_path / "course" and seen_from_here(home()) == Path(seen)


def test_outside_of_a_clone_it_is_the_one_that_the_package_lies_in(tmp_path, monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.chdir(tmp_path)
    assert home().resolve() == ROOT


def test_without_a_clone_it_is_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(paths, "CLONE", tmp_path / "site-packages")
    assert home() == tmp_path


def test_the_variable_comes_first(tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(VARIABLE, str(tmp_path / "elsewhere"))
    assert home() == tmp_path / "elsewhere"


def test_the_nearest_folder_that_is_there(tmp_path):
    assert paths.nearest(tmp_path / "not" / "yet") == paths.nearest(tmp_path) == tmp_path
