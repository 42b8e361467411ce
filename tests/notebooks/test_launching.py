"""Lesson 10's launcher: results by rank, from processes that are alone; what fails is said, and nothing is left."""

from pathlib import Path

import pytest

from notebooks.launching import LaunchError, launch

TOGETHER = "torchrun --standalone --nproc-per-node 2"


def look(words):
    """What a process sees."""
    import os
    import sys

    import torch.distributed as dist

    dist.init_process_group("gloo")
    assert "pytest" not in sys.modules
    names = ("CUDA_VISIBLE_DEVICES", "GLOO_SOCKET_IFNAME", "OMP_NUM_THREADS", "MASTER_ADDR")
    return {"rank": dist.get_rank(), "words": words, "file": __file__} | {name: os.environ[name] for name in names}


def fail():
    """Only the second process does."""
    import os

    if os.environ.get("RANK") != "0":
        raise ValueError("no row left for this one")


def test_two_processes_see_each_other_on_loopback_and_leave_nothing():
    found = launch(TOGETHER, look, words=["eins", "二"])
    assert [each["rank"] for each in found] == [0, 1]
    for each in found:
        assert each["words"] == ["eins", "二"]
        assert each["GLOO_SOCKET_IFNAME"].startswith("lo") and each["MASTER_ADDR"] in ("localhost", "127.0.0.1")
        assert (each["CUDA_VISIBLE_DEVICES"], each["OMP_NUM_THREADS"]) == ("-1", "1")
        assert not Path(each["file"]).parent.exists()


@pytest.mark.parametrize("command", ["python", TOGETHER])
def test_a_process_that_fails_is_told_with_its_error(command):
    with pytest.raises(LaunchError, match=r"with fail\(\) ended with 1: ValueError: no row left for this one$"):
        launch(command, fail)
