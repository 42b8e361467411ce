"""Lesson 10's launcher: a function of the notebook, run by several processes at once, on this machine's CPU."""

from __future__ import annotations

import inspect
import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from course_utils.core.errors import CourseError
from course_utils.core.paths import VARIABLE, home

CLONE = Path(__file__).resolve().parents[1]
PROGRAMS = {
    "python": [],
    "torchrun": ["-m", "torch.distributed.run"],
    "accelerate": ["-m", "accelerate.commands.accelerate_cli"],
}
LOOPBACK = "lo0" if sys.platform == "darwin" else "lo"
VARIABLES = {
    "CUDA_VISIBLE_DEVICES": "-1",  # two processes cannot share the one GPU that most machines have
    "ACCELERATE_USE_CPU": "true",
    "GLOO_SOCKET_IFNAME": LOOPBACK,  # nobody outside can connect
    "OMP_NUM_THREADS": "1",  # else each process takes all cores, and sums are added up in another order
}
AROUND = """

if __name__ == "__main__":
    import json
    import os
    import sys
    from pathlib import Path

    found = {name}(**json.loads(sys.argv[1]))
    Path(__file__).with_name(os.environ.get("RANK", "0") + ".json").write_text(json.dumps(found))
    distributed = sys.modules.get("torch.distributed")
    if distributed and distributed.is_initialized():
        distributed.barrier()  # who ends first would break the line that the others still read from
        distributed.destroy_process_group()
"""


class LaunchError(CourseError):
    """Processes that did not come to their end."""


def launch(command: str, work: Callable[..., Any], **arguments: Any) -> list[Any]:
    """Run a function in processes that `command` starts, from a file of its own in a folder that is removed again.

    Args:
        command: what a terminal would get, without the script: "torchrun --standalone --nproc-per-node 2",
            "accelerate launch --num_processes 2", or "python" for one process.
        work: a function of the notebook. The processes see nothing else of it, so it imports what it needs.
        arguments: for `work`, such as JSON can hold.

    Returns:
        What each process returned, in the order of their ranks, as JSON gives it back.

    Raises:
        LaunchError: a process failed; the message ends with what it said.
    """
    program, *words = shlex.split(command)
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder, f"{work.__name__}.py")
        script.write_text(inspect.getsource(work) + AROUND.format(name=work.__name__), encoding="utf-8")
        paths = os.pathsep.join(filter(None, (str(CLONE), os.environ.get("PYTHONPATH"))))
        done = subprocess.run(
            [sys.executable, *PROGRAMS[program], *words, str(script), json.dumps(arguments)],
            cwd=CLONE,
            env=os.environ | VARIABLES | {"PYTHONPATH": paths, VARIABLE: str(home())},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            said = first_error(done.stderr)
            raise LaunchError(f"`{command}` with {work.__name__}() ended with {done.returncode}: {said}")
        files = sorted(Path(folder).glob("*.json"), key=lambda path: int(path.stem))
        return [json.loads(path.read_text(encoding="utf-8")) for path in files]


def first_error(said: str) -> str:
    """The first error among the lines of failed processes (what starts them adds its own below), or how they end."""
    errors = re.findall(r"^(?:\[rank\d+\]:\s*)?([\w.]*Error: .+)$", said, re.MULTILINE)
    return errors[0] if errors else said.strip()[-300:]
