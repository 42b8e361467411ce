"""Write the lessons as slides: runs/slides/NN_name.slides.html, one deck for each, from what is in the notebooks.

The cells' own metadata say what is on a slide (`slideshow.slide_type`, as JupyterLab's property inspector sets it), the
committed outputs are what is shown, and nothing is run. The tag `slides-hide-code` leaves a cell's code out and keeps
its output.

make slides
"""

from pathlib import Path

from nbconvert import SlidesExporter
from traitlets.config import Config

from course_utils.core.files import write_text

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "runs" / "slides"
HIDE_CODE = "slides-hide-code"
# `npm install --prefix runs/slides reveal.js@4.0.2` puts it there: the decks then need no network.
REVEAL = "node_modules/reveal.js"


def exporter(folder: Path) -> SlidesExporter:
    """What makes a deck of a notebook. A reveal.js that lies in `folder` is used; else the network has nbconvert's."""
    here = {"reveal_url_prefix": REVEAL} if (folder / REVEAL).is_dir() else {}
    return SlidesExporter(
        config=Config(TagRemovePreprocessor={"enabled": True, "remove_input_tags": {HIDE_CODE}}),
        template_name="slides_template",
        extra_template_basedirs=[str(Path(__file__).parent)],
        reveal_theme="white",  # its fonts lie beside it; the default theme asks the network for them
        reveal_width="1280",
        reveal_height="720",
        reveal_number="c/t",
        **here,
    )


def write(folder: Path) -> list[Path]:
    """Write a deck for each lesson into `folder`, and return their files."""
    lessons = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))
    made = exporter(folder)
    return [write_text(folder / f"{path.stem}.slides.html", made.from_filename(str(path))[0]) for path in lessons]


if __name__ == "__main__":
    for deck in write(FOLDER):
        print(deck.relative_to(ROOT))
