"""The lessons' pictures: in README.md what one cell of each shows, into docs/lessons/; and those in a lesson's head.

make outputs
"""

import base64
import json
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "docs" / "lessons"
PICTURES = {
    "00_ten_minutes": "c32",
    "01_download": "c24",
    "02_templates_and_special_tokens": "c38",
    "03_data_building": "c60",
    "04_qlora_sft": "c69",
    "05_evaluation": "c42",
    "06_merge_and_serve": "c21d",
    "07_named_entities": "c22",
    "08_forgetting": "c22",
    "09_preferences": "c20",
    "10_many_gpus": "c40",
}
"""The cell of each lesson; the output of lesson 02 is HTML, the others' are figures."""
HEADS = {
    "00_ten_minutes": ("road.png", "c32"),
    "01_download": ("six_steps.png", "c81"),
    "02_templates_and_special_tokens": ("tokens.png", "p02"),
    "03_data_building": ("steps.png", "r02"),
    "04_qlora_sft": ("loss.png", "c69"),
    "05_evaluation": ("before_after.png", "c42"),
    "06_merge_and_serve": ("merge.png", "c14"),
    "07_named_entities": ("labels.png", "c22"),
    "08_forgetting": ("remedies.png", "c22"),
    "09_preferences": ("curves.png", "c16"),
    "10_many_gpus": ("step.png", "c08"),
}
"""The picture on a lesson's first screen: its name as an attachment of the first cell, and the cell that draws it."""


def shown(lesson: str, drawn_by: str | None = None) -> dict[str, str]:
    """What a cell's outputs hold, by MIME type; by default those of the cell in `PICTURES`."""
    cells = json.loads((ROOT / "notebooks" / f"{lesson}.ipynb").read_text(encoding="utf-8"))["cells"]
    [cell] = [cell for cell in cells if cell["id"] == (drawn_by or PICTURES[lesson])]
    data = [output["data"] for output in cell["outputs"] if "data" in output]
    return {mime: "".join(value) for part in data for mime, value in part.items()}


def figure(lesson: str) -> bytes | None:
    """The PNG in the cell's output; None where there is none."""
    image = shown(lesson).get("image/png")
    return base64.b64decode(image) if image else None


def photograph(html: str) -> bytes:
    """A picture of HTML, taken by Chromium; it needs fonts with Chinese and emoji, as the data does."""
    from browser import FLAGS, chromium
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(playwright), args=FLAGS)
        page = browser.new_page(viewport={"width": 850, "height": 400}, device_scale_factor=1.5)
        page.set_content(f'<body style="margin: 0; padding: 12px; display: inline-block">{html}</body>')
        return page.locator("body").screenshot()


def main() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    for lesson in PICTURES:
        (FOLDER / f"{lesson[:2]}.png").write_bytes(figure(lesson) or photograph(shown(lesson)["text/html"]))
    for lesson, (name, cell) in HEADS.items():
        path = ROOT / "notebooks" / f"{lesson}.ipynb"
        notebook = json.loads(path.read_text(encoding="utf-8"))
        notebook["cells"][0]["attachments"] = {name: {"image/png": shown(lesson, cell)["image/png"]}}
        path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
