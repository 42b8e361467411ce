"""course_utils.lessons.colab and install.py on Google's machines, with a stand-in for the module `google.colab`."""

import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from types import ModuleType, SimpleNamespace

import IPython
import pytest
from conftest import ROOT
from jupyter_client import KernelManager
from jupyter_client.kernelspec import KernelSpecManager

from course_utils import colab, hardware, profiles
from course_utils.lessons import setup
from course_utils.lessons.colab import ColabError

sys.path.insert(0, str(ROOT))
import install

# ---- what is installed


@pytest.fixture
def pip(monkeypatch):
    """Every line that pip gets, in place of running it."""
    lines = []
    monkeypatch.setattr(install, "pip", lambda *words: lines.append(" ".join(words).replace(str(ROOT), "COURSE")))
    return lines


def driver(monkeypatch, folder, header="CUDA Version: 13.0", capabilities="8.9", code=0):
    """A stand-in for nvidia-smi, with these words in its header and a GPU for each line of `capabilities`."""
    script = folder / "nvidia-smi"
    script.write_text(
        f"""#!/bin/sh
case "$1" in
-L) echo "{"GPU 0: NVIDIA (UUID: GPU-1)" if capabilities else "No devices found."}";;
--query-gpu=compute_cap) echo "{capabilities}";;
"") echo "| NVIDIA-SMI 570.86  Driver Version: 570.86  {header} |";;
*) exit 3;;
esac
exit {code}
"""
    )
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)


def machine(monkeypatch, *, google=True, **packages):
    """A machine without a GPU as install.py sees it, with these packages of the torch family on it."""
    monkeypatch.setattr(install, "on_colab", lambda: google)
    monkeypatch.delenv("COURSE_CUDA", raising=False)
    monkeypatch.setenv("PATH", os.devnull)  # whatever this machine has

    def version(name):
        if name not in packages:
            raise metadata.PackageNotFoundError(name)
        return packages[name]

    monkeypatch.setattr(install, "version", version)


FAMILY = {"torch": "2.11.0+cu128", "torchvision": "0.26.0+cu128", "torchaudio": "2.11.0+cu128", "torchao": "0.10.0"}
KEPT = "torch==2.11.0+cu128 torchvision==0.26.0+cu128 torchaudio==2.11.0+cu128"


def test_colab_with_a_gpu_keeps_its_torch(monkeypatch, pip, capsys, tmp_path):
    machine(monkeypatch, **FAMILY)
    driver(monkeypatch, tmp_path, "CUDA Version: 12.4", "7.5")
    install.main()
    assert pip == [
        "uninstall --yes torchao",
        "install --no-compile --upgrade pip",
        f"install --no-compile --editable COURSE[gpu,serve] {KEPT}",
    ]
    assert "Colab's torch 2.11.0+cu128 stays." in capsys.readouterr().out


def test_colab_without_a_gpu_keeps_its_torch_and_takes_unsloth_alone(monkeypatch, pip):
    machine(monkeypatch, **FAMILY)
    install.main()
    assert pip[2:] == [
        f"install --no-compile --editable COURSE[serve] {KEPT}",
        "install --no-compile --no-deps unsloth==2026.10.9 unsloth_zoo==2026.10.9",
    ]


@pytest.mark.parametrize("number", ["2.8.0+cu126", "2.15.0"])
def test_a_torch_out_of_range_is_replaced_and_said(monkeypatch, pip, capsys, number):
    machine(monkeypatch, **FAMILY | {"torch": number})
    install.main()
    assert pip[0] == "uninstall --yes torchao torchvision torchaudio"
    assert "whl/cpu torch==2.13.0" in pip[2] and "torch==" not in pip[3]
    assert f"Colab's torch {number} is replaced: the course needs torch>=2.9,<2.15." in capsys.readouterr().out


@pytest.mark.parametrize("number", ["2.9.0", "2.14.1+cu130"])
def test_the_ends_of_the_range_stay(monkeypatch, pip, number):
    machine(monkeypatch, torch=number)
    install.main()
    assert pip[1] == f"install --no-compile --editable COURSE[serve] torch=={number}"


def test_elsewhere_everything_is_installed(monkeypatch, pip):
    machine(monkeypatch, google=False, **FAMILY)
    install.main()
    assert "uninstall" not in " ".join(pip)
    assert pip[2] == "install --no-compile --editable COURSE[trackers,lab,serve,test]"


# What nvidia-smi says in its header and of its GPUs, and the torch that is then asked for: the newest of the range, for
# CUDA 13; the build for CUDA 12.8, which is the package index's own; PyTorch's for CUDA 12.6, with kernels for Pascal.
NEWEST, CUDA_12_8 = "", " torch==2.10.0"
CUDA_12_6 = " --extra-index-url https://download.pytorch.org/whl/cu126 torch==2.10.0+cu126"
DRIVERS = {
    "580 or newer": ("CUDA Version: 13.0", "8.9", NEWEST),
    "newer than any": ("CUDA Version: 14.1", "12.0", NEWEST),
    "below 580": ("CUDA Version: 12.8", "8.9", CUDA_12_8),
    "the oldest that serves": ("CUDA Version: 12.0", "7.5", CUDA_12_8),
    "a header that does not say": ("CUDA Version: N/A", "8.9", CUDA_12_8),
    "Volta, for which CUDA 13 has no kernels": ("CUDA Version: 13.0", "7.0", CUDA_12_8),
    "Volta beside a newer GPU": ("CUDA Version: 13.0", "8.9\\n7.0", CUDA_12_8),
    "Pascal": ("CUDA Version: 12.8", "6.1", CUDA_12_6),
}


@pytest.mark.parametrize(("header", "capabilities", "torch"), DRIVERS.values(), ids=DRIVERS)
def test_torch_is_chosen_by_what_nvidia_smi_says(monkeypatch, pip, tmp_path, header, capabilities, torch):
    machine(monkeypatch, google=False)
    driver(monkeypatch, tmp_path, header, capabilities)
    install.main()
    assert pip[1:] == [f"install --no-compile --editable COURSE[gpu,trackers,lab,serve,test]{torch}"]


def test_a_torch_of_colabs_that_is_replaced_is_chosen_so_too(monkeypatch, pip, tmp_path):
    machine(monkeypatch, **FAMILY | {"torch": "2.8.0+cu126"})
    driver(monkeypatch, tmp_path, "CUDA Version: 12.4", "7.5")
    install.main()
    assert pip[2] == "install --no-compile --editable COURSE[gpu,serve] torch==2.10.0"


def test_a_driver_that_no_torch_can_use_is_named_and_the_cpu_serves(monkeypatch, pip, tmp_path, capsys):
    machine(monkeypatch, google=False)
    driver(monkeypatch, tmp_path, "CUDA Version: 11.4")
    install.main()
    assert "whl/cpu torch==2.13.0" in pip[1] and "[gpu" not in " ".join(pip)
    assert "serves CUDA 11.4, and torch needs 12.0 (update the driver" in capsys.readouterr().out


@pytest.mark.parametrize("broken", [{"capabilities": ""}, {"code": 9}])
def test_a_driver_without_a_gpu_or_an_answer_gets_the_cpu_packages(monkeypatch, pip, tmp_path, capsys, broken):
    machine(monkeypatch, google=False)
    driver(monkeypatch, tmp_path, **broken)
    install.main()
    assert "No NVIDIA GPU: installing the CPU packages" in capsys.readouterr().out and "[gpu" not in " ".join(pip)


def test_an_image_is_built_for_the_cuda_that_it_is_told(monkeypatch, pip):
    machine(monkeypatch, google=False)
    monkeypatch.setenv("COURSE_CUDA", "12.8")
    install.main()
    assert pip[1].endswith("[gpu,trackers,lab,serve,test] torch==2.10.0")
    monkeypatch.setenv("COURSE_CUDA", "none")
    with pytest.raises(SystemExit, match='COURSE_CUDA is "none"; it takes what nvidia-smi says'):
        install.main()


@pytest.mark.parametrize(("google", "remedy"), [(True, "Runtime version"), (False, "python")])
def test_a_python_that_is_too_new_is_named(monkeypatch, pip, google, remedy):
    machine(monkeypatch, google=google, **FAMILY)
    monkeypatch.setattr(install.sys, "version_info", (3, 14, 0))
    with pytest.raises(SystemExit, match=r"needs Python 3\.11 to 3\.13; this is") as ended:
        install.main()
    assert remedy in str(ended.value) and not pip


def test_this_machine_is_not_colab():
    assert not install.on_colab()


@pytest.mark.parametrize(
    ("machine_has", "name", "dtype"),
    [
        (("cuda", "Tesla T4", 14.56, (7, 5), False, 12.7, 2, 70.0), "t4", "float16"),
        (("cpu", None, 0.0, None, True, 12.7, 2, 80.0), "cpu", "bfloat16"),
        (("cpu", None, 0.0, None, False, 12.7, 2, 80.0), "tiny", "float32"),  # the real Qwen in float32 needs 14 GiB
        (("cuda", "NVIDIA L4", 22.2, (8, 9), True, 53.0, 12, 190.0), "24gb", "bfloat16"),
    ],
)
def test_colabs_machines_get_their_profile(monkeypatch, machine_has, name, dtype):
    monkeypatch.delenv(profiles.VARIABLE, raising=False)
    chosen = profiles.choose(hardware=hardware.Hardware(*machine_has))
    assert (chosen.name, chosen.dtype) == (name, dtype)


# ---- once, and with a restart where it must be


def test_it_runs_before_anything_is_installed():
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from course_utils import colab"
    subprocess.run([sys.executable, "-I", "-S", "-c", code], check=True)


@pytest.fixture
def clone(monkeypatch, tmp_path):
    """A clone whose install.py writes down that it ran, and a kernel that writes down that it was ended."""
    root = tmp_path / "course"
    root.mkdir()
    (root / "pyproject.toml").write_text("[project]\n")
    (root / "install.py").write_text("open('runs.txt', 'a').write('ran ')")
    ended = []
    kernel = SimpleNamespace(do_shutdown=ended.append)
    monkeypatch.setattr(IPython, "get_ipython", lambda: SimpleNamespace(kernel=kernel))
    monkeypatch.setattr(colab, "CLONE", root)
    monkeypatch.chdir(root)
    monkeypatch.setattr(colab, "packages_distributions", lambda: {"wetpaint": ["wetpaint"]})  # the real one is slow
    colab._loaded.cache_clear()  # a new kernel
    return SimpleNamespace(root=root, ended=ended, runs=lambda: (root / "runs.txt").read_text().split())


def test_it_is_installed_once_and_again_when_a_pin_changes(clone, capsys):
    colab.prepare()
    colab.prepare()
    assert clone.runs() == ["ran"] and not clone.ended
    assert "use_drive()" in capsys.readouterr().out
    (clone.root / "pyproject.toml").write_text("[project]\nname = 'x'\n")
    colab.prepare()
    assert clone.runs() == ["ran", "ran"]


def test_a_failed_installation_is_said_and_tried_again(clone):
    (clone.root / "install.py").write_text("raise SystemExit('no room')")
    for _ in range(2):
        with pytest.raises(ColabError, match="not installed"):
            colab.prepare()
    assert not (clone.root / ".installed").exists()


def package(folder, number):
    """Version `number` of a package `wetpaint`, as pip leaves it."""
    for old in folder.glob("wetpaint-*"):
        shutil.rmtree(old)
    info = folder / f"wetpaint-{number}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: wetpaint\nVersion: {number}\n")
    (info / "RECORD").write_text("wetpaint.py,,\n")
    (folder / "wetpaint.py").write_text("")


@pytest.mark.parametrize("loaded", [True, False])
@pytest.mark.parametrize("after", ["2.0", "1.0"])
def test_the_kernel_restarts_where_a_loaded_package_was_replaced(clone, monkeypatch, tmp_path, loaded, after):
    site = tmp_path / "site"
    package(site, "1.0")
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.setitem(sys.modules, "wetpaint", ModuleType("wetpaint"))
    if not loaded:
        monkeypatch.delitem(sys.modules, "wetpaint")
    run = subprocess.run

    def pip_replaces(*given, **how):
        package(site, after)
        return run(*given, **how)

    monkeypatch.setattr(colab.subprocess, "run", pip_replaces)
    if loaded and after == "2.0":
        with pytest.raises(ColabError, match=r"older versions of wetpaint\. Run this cell again"):
            colab.prepare()
        assert clone.ended == [True]
    else:
        colab.prepare()
        assert clone.ended == []
    colab._loaded.cache_clear()
    colab.prepare()  # in the new kernel
    assert clone.runs() == ["ran"]


def test_a_replacement_by_a_failed_installation_is_remembered(clone, monkeypatch, tmp_path):
    site = tmp_path / "site"
    package(site, "1.0")
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.setattr(colab, "packages_distributions", metadata.packages_distributions)
    monkeypatch.setitem(sys.modules, "wetpaint", ModuleType("wetpaint"))
    (clone.root / "install.py").write_text("raise SystemExit('no network')")
    with pytest.raises(ColabError, match="not installed"):
        colab.prepare()
    package(site, "2.0")
    (clone.root / "install.py").write_text("")
    with pytest.raises(ColabError, match="The kernel restarts"):
        colab.prepare()


# ---- Google Drive


@pytest.fixture
def drive(clone, monkeypatch, tmp_path):
    """The stand-in for `google.colab.drive`, and the folder of the mounted drive."""
    mounted = []
    module = ModuleType("google.colab")
    module.drive = SimpleNamespace(mount=mounted.append)
    monkeypatch.setitem(sys.modules, "google.colab", module)
    monkeypatch.setattr(colab, "DRIVE", tmp_path / "drive")
    return SimpleNamespace(module=module, mounted=mounted, home=tmp_path / "drive/MyDrive/course")


def work(root, name, text):
    (root / name).mkdir(parents=True)
    (root / name / "file").write_text(text)


def test_drive_is_mounted_only_on_request(clone, drive):
    colab.prepare()
    assert drive.mounted == []
    assert colab.use_drive() == drive.home
    assert drive.mounted == [str(colab.DRIVE)]


def test_models_and_runs_move_to_drive_and_are_there_on_the_next_machine(clone, drive, monkeypatch, tmp_path):
    work(clone.root, "models/small", "weights")
    (clone.root / "models/README.md").write_text("what lies here")
    work(clone.root, "runs/cpu/adapter", "trained")
    colab.use_drive()
    assert (drive.home / "models/small/file").read_text() == "weights"
    assert (clone.root / "models/README.md").read_text() == "what lies here"
    work(clone.root, "runs/t4", "later")
    assert (drive.home / "runs/t4/file").read_text() == "later"
    colab.use_drive()  # again: nothing left to do

    second = tmp_path / "second"
    work(second, "models/other", "new")
    (second / "models/README.md").write_text("what lies here")
    monkeypatch.setattr(colab, "CLONE", second)
    colab.use_drive()
    assert sorted(path.name for path in (second / "models").iterdir()) == ["README.md", "other", "small"]
    assert (second / "runs/cpu/adapter/file").read_text() == "trained"


def test_a_merged_model_and_a_gguf_file_never_go_to_drive(clone, drive, tiny, monkeypatch):
    """Not those that are there when Drive is mounted, nor those made later; what only bears such a name does."""
    monkeypatch.setenv("COURSE_HOME", str(clone.root))
    run = Path("runs/cpu/Qwen--Qwen3-0.6B")
    for name in ("adapter", "merged", "gguf", "public/merged"):
        work(clone.root, run / name, name)
    (clone.root / run / "merged/config.json").touch()
    profile = replace(tiny, train=replace(tiny.train, output_dir=str(run)))
    assert setup.merged_dir(profile) == run / "merged"
    colab.use_drive()
    there = {path.parent.relative_to(drive.home).as_posix() for path in drive.home.rglob("file")}
    assert there == {f"{run}/adapter", f"{run}/public/merged"}
    assert setup.merged_dir(profile) == Path("runs.local/cpu/Qwen--Qwen3-0.6B/merged")
    assert (setup.merged_dir(profile) / "file").read_text() == "merged"
    assert (setup.merged_dir(profile).with_name("gguf") / "file").read_text() == "gguf"
    monkeypatch.chdir(clone.root / "runs.local")  # as a notebook does, which runs in a folder of its own
    at_home = setup.at_home(replace(tiny, train=replace(tiny.train, output_dir="runs/other")))
    assert setup.merged_dir(at_home) == Path("other/merged")
    assert setup.run_dir(at_home).resolve() == drive.home / "runs/other"


def test_a_run_outside_of_runs_keeps_its_merged_model(clone, drive, tiny, monkeypatch, tmp_path):
    monkeypatch.setenv("COURSE_HOME", str(clone.root))
    colab.use_drive()
    profile = replace(tiny, train=replace(tiny.train, output_dir=str(tmp_path / "mine")))
    assert setup.merged_dir(profile) == tmp_path / "mine/merged"


def test_nothing_in_drive_is_overwritten(clone, drive):
    work(clone.root, "models/small", "here")
    work(clone.root, "runs/cpu", "here")
    work(drive.home, "runs/cpu", "in Drive")
    with pytest.raises(ColabError, match=r"runs/ holds cpu, and so does .+ nothing was moved"):
        colab.use_drive()
    assert (drive.home / "runs/cpu/file").read_text() == "in Drive"
    assert not (clone.root / "models").is_symlink() and (clone.root / "models/small/file").read_text() == "here"


def test_a_full_drive_loses_nothing(clone, drive, monkeypatch):
    work(clone.root, "models/small", "weights")

    def full(*given, **how):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(colab.shutil, "copytree", full)
        with pytest.raises(ColabError, match="No space left on device"):
            colab.use_drive()
    assert (clone.root / "models/small/file").read_text() == "weights"
    colab.use_drive()
    assert (drive.home / "models/small/file").read_text() == "weights"


def test_a_refused_drive_says_how_to_go_on(clone, drive):
    def refuse(place):
        raise ValueError("mount failed")

    drive.module.drive.mount = refuse
    with pytest.raises(ColabError, match=r"not mounted \(mount failed\).+go on without"):
        colab.use_drive()


def test_drive_elsewhere_is_an_error_that_says_so():
    with pytest.raises(ColabError, match="for Google Colab"):
        colab.use_drive()


# ---- the real thing: an empty machine


class Machine:
    """A Python with a stand-in for `google.colab`, and a kernel that is started again when it ends, as in Colab."""

    def __init__(self, python: Path, folder: Path):
        command = "import sysconfig; print(sysconfig.get_path('purelib'))"
        self.site = Path(
            subprocess.run([python, "-c", command], capture_output=True, text=True, check=True).stdout.strip()
        )
        (self.site / "google/colab").mkdir(parents=True, exist_ok=True)
        (self.site / "google/colab/__init__.py").touch()
        (self.site / "google_colab.pth").write_text("import google.colab\n")  # Colab's kernel is part of that package
        (folder / "kernels/stand-in").mkdir(parents=True)
        spec = {
            "argv": [str(python), "-m", "ipykernel_launcher", "-f", "{connection_file}"],
            "display_name": "stand-in",
        }
        (folder / "kernels/stand-in/kernel.json").write_text(json.dumps(spec))
        specs = KernelSpecManager(kernel_dirs=[str(folder / "kernels")], ensure_native_kernel=False)
        self.manager = KernelManager(kernel_name="stand-in", kernel_spec_manager=specs)
        left_out = ("PYTHONPATH", profiles.VARIABLE, "PYTEST_CURRENT_TEST")  # with the last one ipykernel shows less
        env = {name: value for name, value in os.environ.items() if name not in left_out}
        self.manager.start_kernel(cwd=str(folder), env=env)
        self.client = self.manager.blocking_client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=60)

    def run(self, code: str) -> tuple[str, str]:
        """("ok" or the error's name, all that the cell shows)."""
        shown = []

        def show(message):
            content = message["content"]
            shown.append(
                content.get("text") or content.get("data", {}).get("text/plain") or content.get("evalue") or ""
            )

        reply = self.client.execute_interactive(code, allow_stdin=False, timeout=3600, output_hook=show)["content"]
        return reply.get("ename", reply["status"]), "".join(shown)

    def start_again(self) -> None:
        """Wait until the kernel has ended by itself, and start it as Colab does."""
        limit = time.monotonic() + 20
        while self.manager.is_alive():
            assert time.monotonic() < limit, "the kernel did not end"
            time.sleep(0.1)
        self.manager.restart_kernel(now=True)
        self.client.wait_for_ready(timeout=60)

    def close(self) -> None:
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)


def lesson_05_alone(python: Path, folder: Path) -> list[str]:
    """Open lesson 05 on an empty machine and run all of it; returns what each step took."""
    opening, *others = (
        "".join(cell["source"])
        for cell in json.loads((ROOT / "notebooks/05_evaluation.ipynb").read_text(encoding="utf-8"))["cells"]
        if cell["cell_type"] == "code"
    )
    bootstrap, setup = opening.split("\n\nfrom course_utils import setup", 1)
    setup = "from course_utils import setup" + setup
    address = json.loads(bootstrap.split("address = ")[1].splitlines()[0])
    bootstrap = bootstrap.replace(address, ROOT.as_uri()).replace("/content/course", str(folder / "course"))
    machine, took = Machine(python, folder), []

    def step(name, code, wanted="ok"):
        started = time.monotonic()
        status, shown = machine.run(code)
        took.append(f"{name}: {time.monotonic() - started:.0f} s")
        assert status == wanted, f"{name}: {shown[-2000:]}"
        return shown

    try:
        asked = "from importlib.metadata import version as v; print(v('torch'), v('ipykernel'), v('ipython'))"
        before = step("versions", asked)
        torch = next(machine.site.glob("torch-*.dist-info"))
        laid = torch.stat().st_mtime
        shown = step("bootstrap", bootstrap, "ColabError")
        assert f"Colab's torch {before.split()[0]} stays." in shown and "psutil" in shown
        machine.start_again()
        assert "The course is ready" in step("bootstrap again", bootstrap)
        assert int(took[-1].split()[-2]) < 10
        assert step("versions", asked) == before and torch.stat().st_mtime == laid
        assert not list(machine.site.glob("nbgrader-*")) and not list(machine.site.glob("hypothesis-*"))
        shown = step("setup", setup)
        assert "the trained adapter" in shown and "No NVIDIA GPU was found" in shown
        assert (folder / "course/runs/cpu/adapter/adapter_model.safetensors").is_file()
        for number, code in enumerate(others, start=1):
            step(f"cell {number}", code)
        assert (folder / "course/runs/cpu/evaluation.json").is_file()
    finally:
        machine.close()
    return took


@pytest.mark.long
def test_lesson_05_alone_on_an_empty_machine(tmp_path, capsys):
    """A fresh environment with a torch, and with Colab's own versions of what its kernel is made of."""
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "machine")], check=True)
    python = tmp_path / "machine/bin/python"
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    index = ["--retries", "1", "--extra-index-url", install.TORCH_CPU_INDEX]
    subprocess.run([*pip, "--no-deps", *index, "torch==2.13.0"], check=True)
    kernel = ["ipykernel==6.17.1", "ipython==7.34.0", "psutil==5.9.5"]
    subprocess.run([*pip, *kernel, "torch==2.13.0", "setuptools"], check=True)
    took = lesson_05_alone(python, tmp_path)
    with capsys.disabled():
        print("\n" + "\n".join(line for line in took if not line.endswith(" 0 s")))
