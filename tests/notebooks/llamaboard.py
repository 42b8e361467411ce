"""Photograph LLaMA-Factory's web page, panel by panel, into docs/llamaboard/; needs `make llamafactory` and Chromium.

python tests/notebooks/llamaboard.py
"""

import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import suppress
from pathlib import Path
from urllib.error import URLError

from playwright.sync_api import sync_playwright

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))

import browser  # noqa: E402

from course_utils.deploy.serving import free_port  # noqa: E402
from notebooks import llamafactory_env  # noqa: E402

PICTURES = ROOT / "docs" / "llamaboard"
PANELS = {"train": "Train", "evaluate": "Evaluate & Predict", "chat": "Chat", "export": "Export"}
SCREEN = {"width": 1280, "height": 900}
SECONDS = 180  # until it has to answer


def main() -> None:
    PICTURES.mkdir(exist_ok=True)
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        program = browser.chromium(playwright) or sys.exit(browser.NO_BROWSER)
        variables = llamafactory_env.environment({"GRADIO_SERVER_PORT": str(port)})
        with open(os.devnull, "w") as nothing:
            line = [llamafactory_env.program("llamafactory-cli"), "webui"]
            board = subprocess.Popen(line, cwd=folder, env=variables, stdout=nothing, stderr=nothing)
        try:
            deadline = time.monotonic() + SECONDS
            while time.monotonic() < deadline:
                with suppress(URLError, OSError):
                    urllib.request.urlopen(url, timeout=5).close()
                    break
                if board.poll() is not None:
                    sys.exit(f"LlamaBoard ended with {board.returncode}.")
                time.sleep(0.5)
            shown = playwright.chromium.launch(executable_path=program, args=browser.FLAGS, chromium_sandbox=False)
            page = shown.new_page(viewport=SCREEN)
            page.goto(url)
            page.get_by_role("tab", name="Train").wait_for()
            page.wait_for_timeout(2000)  # its page fills in by and by
            tabs = page.get_by_role("tablist").first.bounding_box()
            general = {"x": 0, "y": 0, "width": SCREEN["width"], "height": tabs["y"]}
            page.screenshot(path=PICTURES / "general.png", clip=general)
            for name, words in PANELS.items():
                page.get_by_role("tab", name=words, exact=True).click()
                page.wait_for_timeout(1500)
                page.screenshot(path=PICTURES / f"{name}.png", full_page=True)
            shown.close()
        finally:
            board.terminate()
            board.wait(timeout=30)


if __name__ == "__main__":
    main()
