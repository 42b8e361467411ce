"""JupyterLab as `make lab` starts it, on a copy of the course, and the browser that looks at it.

`python tests/browser.py` says how to get a browser where there is none.
"""

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.error import URLError

from playwright.sync_api import Playwright, sync_playwright

ROOT = Path(__file__).resolve().parents[1]
NO_BROWSER = (
    "The browser tests were left out: no Chromium found. Get one with `sudo apt-get install chromium`, or with "
    "`.venv/bin/playwright install chromium`."
)
FLAGS = [
    "--disable-gpu",
    "--disable-quic",  # and below: no calls home
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def chromium(playwright: Playwright) -> str | None:
    """A Chromium on PATH, or the one that playwright brought."""
    known = map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))
    own = playwright.chromium.executable_path
    return next(filter(None, known), own if Path(own).is_file() else None)


@dataclass(frozen=True)
class Lab:
    """A running JupyterLab.

    Attributes:
        root: the copy of the course that it shows.
        url: its address, without a path.
        token: of this run.
    """

    root: Path
    url: str
    token: str

    def address(self, path: str) -> str:
        """Where a page of it lies; `path` begins with "/"."""
        return f"{self.url}{path}?token={self.token}"

    def get(self, path: str, method: str = "GET") -> bytes:
        """Ask the server's interface."""
        asked = urllib.request.Request(self.url + path, headers={"Authorization": f"token {self.token}"}, method=method)
        with urllib.request.urlopen(asked, timeout=60) as answer:
            return answer.read()

    def stop_kernels(self) -> None:
        """Shut every kernel down, as *Shut Down All* does."""
        for session in json.loads(self.get("/api/sessions")):
            self.get(f"/api/sessions/{session['id']}", method="DELETE")


def copy_course(to: Path) -> Path:
    """A clone without its downloads and runs: whatever is opened and saved there leaves this one as it is."""
    for name in ("course_utils", "docs", "exercises", "lab", "notebooks"):
        shutil.copytree(ROOT / name, to / name, ignore=shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints"))
    shutil.copytree(ROOT / "data", to / "data", ignore=shutil.ignore_patterns("build", "hub"))
    for name in ("Makefile", "pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, to)
    (to / "models").symlink_to(ROOT / "models", target_is_directory=True)
    return to


@contextmanager
def serve(root: Path, settings: Path) -> Iterator[Lab]:
    """`make lab` in a copy of the course, without an installation and without a browser.

    Args:
        root: from `copy_course`.
        settings: an empty folder, in place of the user's settings, workspaces and kernels.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    lab = Lab(root, f"http://127.0.0.1:{port}", secrets.token_hex(16))
    chosen = {
        "ServerApp": {"port": port, "port_retries": 0, "open_browser": False, "allow_root": True},
        "IdentityProvider": {"token": lab.token},
    }
    (settings / "config").mkdir()
    (settings / "config/jupyter_server_config.json").write_text(json.dumps(chosen))
    own = {f"JUPYTER_{name}_DIR": str(settings / name.lower()) for name in ("CONFIG", "DATA", "RUNTIME")}
    own |= {"IPYTHONDIR": str(settings / "ipython"), "PYTHONPATH": str(root), "COURSE_PROFILE": "tiny"}
    line = ["make", "--old-file=install", f"BIN={Path(sys.executable).parent}", "lab"]
    with (settings / "log").open("w") as log:
        # A group of its own, because make, the shell and the server are three processes.
        server = subprocess.Popen(line, cwd=root, env=os.environ | own, stdout=log, stderr=log, start_new_session=True)
    try:
        deadline = time.monotonic() + 120
        while server.poll() is None and time.monotonic() < deadline:
            with suppress(URLError):
                lab.get("/api")
                break
            time.sleep(0.2)
        else:
            raise RuntimeError(f"JupyterLab did not come up: {(settings / 'log').read_text()[-2000:]}")
        yield lab
        lab.stop_kernels()
        lab.get("/api/shutdown", method="POST")
        server.wait(timeout=30)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(server.pid, 9)


if __name__ == "__main__":
    with sync_playwright() as playwright:
        if chromium(playwright) is None:
            print(NO_BROWSER)
