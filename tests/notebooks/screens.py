"""What a learner sees first: start page and lessons in JupyterLab, light and dark, as they open and one screen below.

It runs no cell. Look at runs/screens/ after `make outputs`:

python tests/notebooks/screens.py
"""

import json
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))

import browser as jupyterlab  # noqa: E402

SCREENS = ROOT / "runs" / "screens"
THEMES = {"light": "JupyterLab Light", "dark": "JupyterLab Dark"}
SCREEN = {"width": 1280, "height": 720}  # a small laptop
LESSON, START = ".jp-NotebookPanel .jp-WindowedPanel-outer", ".jp-MarkdownViewer .jp-RenderedMarkdown"


def photograph(page: Page, name: str, scrolls: str) -> None:
    """Two pictures of what the page shows: its first screen, and the one below.

    Args:
        page: a tab whose address was just opened.
        name: begins the pictures' names.
        scrolls: the selector of what is scrolled.
    """
    shown = page.locator(f"{scrolls}:visible").first
    shown.locator("h1").first.wait_for()
    for picture in shown.locator("img:visible").all():
        picture.evaluate("image => image.decode().catch(() => {})")  # the badge is not there without a network
    if scrolls == LESSON:
        page.get_by_role("button", name="| Idle").wait_for()  # until then the page still moves
    for place in ("first", "second"):
        page.wait_for_timeout(500)
        page.screenshot(path=SCREENS / f"{name}_{place}.png")
        shown.evaluate("panel => panel.scrollBy(0, panel.clientHeight - 40)")


def main() -> None:
    SCREENS.mkdir(parents=True, exist_ok=True)
    pages = {"start": ("start.md", START)}
    pages |= {path.stem[:2]: (path.name, LESSON) for path in sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))}
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        course, settings = Path(folder, "course"), Path(folder, "settings")
        course.mkdir()
        settings.mkdir()
        program = jupyterlab.chromium(playwright) or sys.exit(jupyterlab.NO_BROWSER)
        browser = playwright.chromium.launch(executable_path=program, args=jupyterlab.FLAGS, chromium_sandbox=False)
        with jupyterlab.serve(jupyterlab.copy_course(course), settings) as lab:
            context = browser.new_context(viewport=SCREEN)
            for theme, name in THEMES.items():
                setting = lab.address("/lab/api/settings/@jupyterlab/apputils-extension:themes")
                assert context.request.put(setting, data={"raw": json.dumps({"theme": name})}).ok
                for stem, (file, scrolls) in pages.items():
                    page = context.new_page()
                    where = f"runs/{file}" if scrolls == START else f"notebooks/{file}"
                    page.goto(lab.address(f"/lab/workspaces/{stem}{theme}/tree/{where}"))
                    photograph(page, f"{stem}_{theme}", scrolls)
                    page.close()
                    lab.stop_kernels()
        browser.close()


if __name__ == "__main__":
    main()
