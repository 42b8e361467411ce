"""Write how every notebook begins: badge and Colab's lines with the repository's address, a lesson's place on the map.

make address
"""

import json
import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ADDRESS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["urls"]["Repository"]
NOTEBOOKS = sorted(path for folder in ("notebooks", "exercises") for path in (ROOT / folder).rglob("[0-9]*.ipynb"))
COLAB = "https://colab.research.google.com/github"
CELL = """\
import sys

if "google.colab" in sys.modules:
    import os
    import subprocess

    address = "{address}"
    if not os.path.isdir("/content/course"):
        subprocess.run(["git", "clone", "--quiet", address, "/content/course"], check=True)
    sys.path.insert(0, "/content/course")
    from course_utils import colab

    colab.prepare()"""
FOLDED = {"source_hidden": True}  # how JupyterLab marks a cell whose code is folded
HERE = "**you are here**"
MAP = {
    "00_ten_minutes": ("Ten minutes", "the whole road, small"),
    "01_download": ("Download", "a model that answers"),
    "02_templates_and_special_tokens": ("Templates", "what it really reads"),
    "03_data_building": ("Data", "rows to train on"),
    "04_qlora_sft": ("Fine-tune", "an adapter"),
    "05_evaluation": ("Evaluate", "before and after"),
    "06_merge_and_serve": ("Serve", "a model others can ask"),
    "07_named_entities": ("Your task", "names found in news"),
    "08_forgetting": ("Forgetting", "what stays, and new facts"),
    "09_preferences": ("Preferences", "better, not only right"),
    "10_many_gpus": ("Many GPUs", "a run on several"),
}
"""Each lesson in the order of the road: its name there, and what one has after it."""
CHINESE_MAP = {
    "00_ten_minutes": ("十分钟", "走一遍全程"),
    "01_download": ("下载", "能回答的模型"),
    "02_templates_and_special_tokens": ("模板", "模型真正读到的内容"),
    "03_data_building": ("数据", "可以训练的数据"),
    "04_qlora_sft": ("微调", "一个适配器"),
    "05_evaluation": ("评估", "训练前后的对比"),
    "06_merge_and_serve": ("部署", "别人也能提问的模型"),
    "07_named_entities": ("你的任务", "从新闻里找出名字"),
    "08_forgetting": ("遗忘", "留得住的，和新学的"),
    "09_preferences": ("偏好", "不只要对，还要更好"),
    "10_many_gpus": ("多卡", "在多张卡上跑一次"),
}
MAPS = {"notebooks": (MAP, HERE), "notebooks/zh": (CHINESE_MAP, "**你在这里**")}
"""By the folder of the lessons: the map, and what marks the lesson that one is in."""


def road(lesson: str, folder: str = "notebooks") -> str:
    """The map for a lesson's first screen, a Markdown table: every lesson, what it leaves you with, "you are here"."""
    lessons, here = MAPS[folder]
    names = [f"**{name}**" if stem == lesson else f"[{name}]({stem}.ipynb)" for stem, (name, _) in lessons.items()]
    gains = [here if stem == lesson else gain for stem, (_, gain) in lessons.items()]
    return "\n".join(f"| {' | '.join(row)} |" for row in (names, [":-:"] * len(lessons), gains))


def opened(notebook: dict, path: Path) -> dict:
    """The notebook (its JSON) with this badge and, in a lesson, the map in its first cell, `CELL` in the first code.

    Args:
        notebook: changed in place.
        path: where it lies in the clone.
    """
    lies = path.relative_to(ROOT).as_posix().replace("/solutions/", "/")  # a solution's badge opens the learner's copy
    where = f"{COLAB}{ADDRESS.removeprefix('https://github.com')}/blob/main/{lies}"
    header, cell = notebook["cells"][0], next(cell for cell in notebook["cells"] if cell["cell_type"] == "code")
    text = re.sub(rf"\({COLAB}/.+?\)", f"({where})", "".join(header["source"]))
    folder = path.parent.relative_to(ROOT).as_posix()
    if folder in MAPS:
        here = re.escape(MAPS[folder][1])
        text = re.sub(rf"(^\|.*\n){{2}}^\|.*{here}.*\n\n", "", text, flags=re.MULTILINE)
        text = re.sub(rf"(\({re.escape(where)}\)\n)", lambda badge: f"{badge[1]}\n{road(path.stem, folder)}\n", text)
    header["source"] = text.splitlines(keepends=True)
    own = "".join(cell["source"]).split("colab.prepare()", 1)[1]
    cell["source"] = (CELL.format(address=ADDRESS) + own).splitlines(keepends=True)
    return notebook


def main() -> None:
    for path in NOTEBOOKS:
        notebook = opened(json.loads(path.read_text(encoding="utf-8")), path)
        path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
