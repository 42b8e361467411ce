"""Dockerfile, .dockerignore and devcontainer.json, held to the pins, the README and each other without any Docker.

`make test-long` also runs the steps of the image's user in a clean folder.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from urllib.error import HTTPError, URLError
from urllib.request import urlopen

import pytest
from conftest import ROOT
from packaging.specifiers import SpecifierSet

from course_utils.lessons.doctor import COMPILER

sys.path.insert(0, str(ROOT))
import install

PYTHONS = {"24.04": "3.12"}  # Ubuntu's own
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PAGE = (ROOT / "docs/install.md").read_text(encoding="utf-8")


def steps() -> list[tuple[str, str]]:
    """The Dockerfile's instructions in their order, as (RUN, what it runs)."""
    text = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    lines = re.sub(r"\\\n\s*", "", text).splitlines()
    return [tuple(line.split(" ", 1)) for line in lines if line.strip()]


def only(instruction: str, part: str = "") -> str:
    """The one instruction of a kind that holds these words."""
    (found,) = [value for name, value in steps() if name == instruction and part in value]
    return found


def test_the_bases_python_is_one_that_the_course_takes():
    ubuntu = set(re.findall(r"ubuntu:?(\d\d\.\d\d)", " ".join(value for name, value in steps() if name == "FROM")))
    assert len(ubuntu) == 1  # with a GPU and without
    python = PYTHONS[ubuntu.pop()]
    assert SpecifierSet(PYPROJECT["project"]["requires-python"]).contains(python)
    assert f"python={python}" in (ROOT / "environment.yml").read_text(encoding="utf-8")


def test_one_argument_chooses_between_a_gpu_and_none():
    assert only("ARG") == "DEVICE=cuda"
    assert [value.split(" AS ")[-1] for name, value in steps() if name == "FROM"] == ["cuda", "cpu", "${DEVICE}"]
    assert "--build-arg DEVICE=cpu" in PAGE


def test_the_image_gets_the_torch_that_is_pinned_for_the_cuda_of_its_base(monkeypatch):
    cuda = re.search(r"COURSE_CUDA=(\S+)", only("ENV", "COURSE_CUDA"))[1]
    assert re.search(r"nvidia/cuda:(\d+\.\d+)\.\d+-runtime", only("FROM", "nvidia"))[1] == cuda
    monkeypatch.setenv("COURSE_CUDA", cuda)
    monkeypatch.setenv("PATH", os.devnull)
    pinned = PYPROJECT["tool"]["course"]["cuda12_torch"]
    assert install.torch_for(install.driver_cuda(), pinned) == [f"torch=={pinned}"]
    least = re.search(r'NVIDIA_REQUIRE_CUDA="cuda>=([\d.]+)"', only("ENV", "COURSE_CUDA"))[1]
    assert float(least) == install.OLDEST_CUDA


def test_its_steps_are_those_of_the_readme():
    made = re.findall(r"make (\w+)", f"{only('RUN', 'make install')} {' '.join(json.loads(only('CMD')))}")
    assert made == ["install", "lab"]
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert all(f"make {target}" in readme for target in made)


def test_it_has_what_doctor_asks_for():
    packages = only("RUN", "apt-get").split("--no-install-recommends")[1].split("&&")[0].split()
    wanted = COMPILER["apt-get"].format("3").removeprefix("sudo apt-get install ").split()
    assert {"make", "python3-venv", *wanted} <= set(packages) and packages == sorted(packages)


def test_nobody_is_root_and_what_is_large_lies_in_volumes():
    names = [name for name, _ in steps()]
    user, folder = only("USER"), only("WORKDIR")
    assert user != "root" and f"--chown={user}:{user}" in only("COPY") and f"-o {user}" in only("RUN", "install -d")
    assert names.index("USER") < names.index("COPY")  # and so before `make install`
    volumes = json.loads(only("VOLUME"))
    assert volumes == [f"{folder}/models", f"{folder}/runs"]
    assert re.findall(r"-v \S+:(\S+)", PAGE) == volumes
    assert "mkdir -p runs" in only("RUN", "make install")  # a volume without a folder would be root's


def lab_line(*words: str, **variables: str) -> str:
    """The line with which make would start JupyterLab."""
    line = ["make", "--dry-run", "--old-file=install", "lab", *words]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=True, env=os.environ | variables)
    (found,) = re.findall(r".*jupyter lab.*", done.stdout.replace("\\\n", ""))
    return found


def test_jupyterlab_listens_to_this_machine_alone_unless_the_image_says_otherwise():
    assert "--ServerApp.ip=127.0.0.1 " in lab_line()
    assert "--ServerApp.ip=127.0.0.1 " in lab_line(IP="0.0.0.0")  # a variable of the shell opens nothing
    assert "--ServerApp.ip=0.0.0.0 " in lab_line(*json.loads(only("CMD"))[2:])
    assert re.findall(r"-p (\S+)", PAGE) == [f"127.0.0.1:{only('EXPOSE')}:{only('EXPOSE')}"]
    settings = (ROOT / "lab").rglob("*.json")
    said = "".join([lab_line(), *(value for _, value in steps()), *(file.read_text() for file in settings)])
    assert "token" not in said.lower() and "password" not in said.lower()  # so JupyterLab makes a token


def test_the_devcontainer_is_the_image_with_your_clone_in_it():
    file = ROOT / ".devcontainer/devcontainer.json"
    said = json.loads(file.read_text(encoding="utf-8"))
    assert (file.parent / said["build"]["dockerfile"]).resolve() == ROOT / "Dockerfile"
    assert (file.parent / said["build"]["context"]).resolve() == ROOT
    assert said["build"]["args"] == {"DEVICE": "cuda"} and said["hostRequirements"] == {"gpu": "optional"}
    folder = only("WORKDIR")
    assert (said["remoteUser"], said["workspaceFolder"]) == (only("USER"), folder)
    assert f"target={folder},type=bind" in said["workspaceMount"]
    targets = re.findall(r"target=([^,]+),type=volume", " ".join(said["mounts"]))
    assert targets == [f"{folder}/.venv", *json.loads(only("VOLUME"))]
    assert said["postCreateCommand"] in only("RUN", "make install")


def test_what_git_ignores_stays_out_of_the_image():
    def patterns(name):
        lines = (ROOT / name).read_text(encoding="utf-8").split("\n")
        return {line.removeprefix("**/").strip("/") for line in lines if line and not line.startswith("#")}

    assert patterns(".dockerignore") - {".git"} == {each.replace("!/", "!") for each in patterns(".gitignore")}


@pytest.mark.long
def test_the_steps_of_its_user_work_in_a_clean_folder(tmp_path):
    """`make install`, then JupyterLab, which answers nobody without its token."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, listed.split("\0")):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, tmp_path / name)
    # An image has none of this shell's variables; no browser is there, and its user is not root.
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "COURSE", "VIRTUAL"))}
    env = kept | {"BROWSER": "true", "JUPYTER_CONFIG_DIR": str(tmp_path / "settings")}
    (tmp_path / "settings").mkdir()
    (tmp_path / "settings/jupyter_server_config.json").write_text('{"ServerApp": {"allow_root": true}}')
    subprocess.run(["bash", "-c", only("RUN", "make install")], cwd=tmp_path, env=env, check=True)
    assert (tmp_path / "runs").is_dir()
    answers_nobody_without_its_token([*json.loads(only("CMD"))[:2], "IP=127.0.0.1"], tmp_path, env)


def answers_nobody_without_its_token(line, folder, env):
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with subprocess.Popen(line, cwd=folder, env=env, start_new_session=True, **pipes) as lab:

        def ask(path):
            while True:
                try:
                    return urlopen(path).read().decode()
                except URLError as error:
                    if isinstance(error, HTTPError) or lab.poll() is not None:
                        raise
                    time.sleep(0.2)  # it prints its address before it listens there

        try:
            said = ""
            while not (found := re.search(r"(http://127\S+?/)lab\S*\?token=(\w+)", said)):
                said += lab.stdout.readline() or pytest.fail(said)
            with pytest.raises(HTTPError, match="403"):
                ask(f"{found[1]}api/contents")
            assert "notebooks" in ask(f"{found[1]}api/contents?token={found[2]}")
        finally:
            os.killpg(lab.pid, signal.SIGTERM)
