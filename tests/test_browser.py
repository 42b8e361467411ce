"""The course in JupyterLab, looked at with Chromium: start page, lessons, widgets. Pictures go to runs/screenshots/."""

import json
import re
import shutil

import browser as jupyterlab
import nbformat
import pytest
from conftest import ROOT
from playwright.sync_api import Locator, Page, expect, sync_playwright

SCREENSHOTS = ROOT / "runs" / "screenshots"
LESSONS = sorted(path.stem for path in (ROOT / "notebooks").glob("[0-9]*.ipynb"))
SECONDS = 1000  # playwright counts in milliseconds
FIRST = 5  # code cells of a lesson that are run

EVIL = "<script>document.title = 'forged'</script>"
WIDGETS = f"""
from course_utils import conversation, modeling, setup
from notebooks.widgets import BudgetSlider, Chat, MaskViewer, Playground
course = setup(needs=["tokenizers", "model", "data", "adapter"])
from transformers import AutoTokenizer
tokenizers = {{name: AutoTokenizer.from_pretrained(course.home / "models" / name) for name in
              ("qwen3-instruct-2507-tokenizer", "qwen3-tokenizer", "smollm2-135m-instruct")}}
talks = {{"two sums": [{{"role": "user", "content": "2+3?"}}, {{"role": "assistant", "content": "FIVE"}},
                      {{"role": "user", "content": "Plus 4?"}}, {{"role": "assistant", "content": "NINE"}}],
         "evil": [{{"role": "user", "content": "{EVIL}"}}, {{"role": "assistant", "content": "{EVIL}"}}]}}
---
MaskViewer(talks, tokenizers)
---
Playground(talks, tokenizers, tools=[{{"type": "function", "function": {{"name": "get_weather"}}}}])
---
BudgetSlider()
---
model, tokenizer = modeling.load_model(course.model_dir, course.profile, load_in_4bit=course.profile.eval_in_4bit)
model = modeling.for_inference(modeling.load_adapter(model, course.run_dir / "adapter"))
Chat({{"base": conversation.Conversation(model, tokenizer, base=True, max_new_tokens=24),
      "tuned": conversation.Conversation(model, tokenizer, max_new_tokens=24)}})
"""


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as playwright:
        program = jupyterlab.chromium(playwright)
        if program is None:
            pytest.skip(jupyterlab.NO_BROWSER)
        started = playwright.chromium.launch(executable_path=program, args=jupyterlab.FLAGS, chromium_sandbox=False)
        yield started
        started.close()


@pytest.fixture(scope="module")
def lab(browser, trained, smol, qwen3, qwen3_2507, tmp_path_factory):
    """JupyterLab on a copy of the course; the first cells of its lessons have no output until they are run."""
    root = jupyterlab.copy_course(tmp_path_factory.mktemp("course"))
    shutil.copytree(trained[0].adapter_dir, root / "runs/tiny/adapter")  # else lesson 05 would train for minutes
    for name in LESSONS:
        path = root / "notebooks" / f"{name}.ipynb"
        notebook = nbformat.read(path, as_version=4)
        for cell in [cell for cell in notebook.cells if cell.cell_type == "code"][:FIRST]:
            cell.outputs, cell.execution_count = [], None
        nbformat.write(notebook, path)
    cells = [nbformat.v4.new_code_cell(text.strip()) for text in WIDGETS.split("---\n")]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}  # else JupyterLab asks for it
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), root / "notebooks/widgets.ipynb")
    with jupyterlab.serve(root, tmp_path_factory.mktemp("settings")) as running:
        yield running


@pytest.fixture(scope="module")
def context(browser):
    made = browser.new_context(viewport={"width": 1400, "height": 1000})
    made.set_default_timeout(60 * SECONDS)
    expect.set_options(timeout=60 * SECONDS)
    yield made
    made.close()


@pytest.fixture
def page(lab, context):
    """A fresh tab; the kernels that it started are shut down with it."""
    tab = context.new_page()
    yield tab
    tab.close()
    lab.stop_kernels()


def photograph(page: Page, name: str) -> None:
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SCREENSHOTS / f"{name}.png")


def run_cells(page: Page, count: int, patience: int = 120) -> None:
    """Press Shift+Enter until `count` code cells ran, and wait for the last; none may end in an error."""
    # What is pressed before the kernel is connected is lost.
    expect(page.get_by_role("button", name="| Idle")).to_be_visible()
    page.locator(".jp-Cell").first.click()
    code = page.locator(".jp-CodeCell").nth(count - 1)
    expect(code).to_be_attached()
    last = page.locator(".jp-Cell").evaluate_all(
        "(cells, count) => cells.indexOf(cells.filter(c => c.classList.contains('jp-CodeCell'))[count - 1])", count
    )
    for _ in range(last + 1):
        page.keyboard.press("Shift+Enter")
    done = code.locator(".jp-InputPrompt").filter(has_text=f"[{count}]:")
    failed = page.locator(".jp-OutputArea-output", has_text="Traceback (most recent call last)")
    expect(done.or_(failed).first).to_be_visible(timeout=patience * SECONDS)
    assert not failed.count(), failed.first.inner_text()[-2000:]


def test_the_start_page_comes_up_and_opens_lessons(lab, page):
    page.goto(lab.address("/"))
    start = page.locator(".jp-RenderedMarkdown").first
    expect(start.locator("h1")).to_contain_text("Start here")
    for words in ("You can do the lessons", "tasks solved, as their notebooks", "the trained adapter (10 minutes)"):
        expect(start).to_contain_text(words)
    links = start.locator("td a")
    extras = list((ROOT / "notebooks/extras").glob("[0-9]*.ipynb"))
    assert links.count() == 2 * len(LESSONS) + len(extras)
    pictures = start.locator("td img")
    assert pictures.count() == len(LESSONS)
    pictures.evaluate_all("images => Promise.all(images.map(image => image.decode()))")  # raises where one is not there
    photograph(page, "start")
    for link, title in (("01 ·", "01 · Download"), ("0 of 6 solved", "01 · Exercises"), ("Public tasks", "05 extra")):
        page.get_by_role("tab", name="start.md").click()
        start.get_by_role("link", name=link).first.click()
        expect(page.locator(".jp-NotebookPanel:visible h1").first).to_contain_text(title)
    for asked in (page.locator(".jp-Dialog"), page.locator(".Toastify__toast"), page.get_by_text("Nbgrader")):
        expect(asked).to_have_count(0)


# Each imports the whole stack into a kernel of its own, beside a browser: two in `make test`, all in `make test-long`.
@pytest.mark.parametrize("name", [*LESSONS[:2], *(pytest.param(name, marks=pytest.mark.long) for name in LESSONS[2:])])
def test_a_lesson_runs_and_shows_its_picture(name, lab, page):
    notebook = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)
    committed = [cell.outputs for cell in notebook.cells if cell.cell_type == "code"]
    page.goto(lab.address(f"/lab/workspaces/{name[:2]}/tree/notebooks/{name}.ipynb"))
    title = notebook.cells[0].source.partition("\n")[0].removeprefix("# ")
    expect(page.locator("h1").first).to_contain_text(title)
    run_cells(page, FIRST)
    code = page.locator(".jp-CodeCell")
    for number in range(FIRST):
        said = code.nth(number).locator(".jp-OutputArea-output")
        shown = "".join(said.all_text_contents()).strip() or said.locator("img, svg").count()
        assert bool(shown) == bool(committed[number]), f"code cell {number + 1}"
    setup = code.nth(0).locator(".jp-OutputArea-output table")
    setup.scroll_into_view_if_needed()
    expect(setup).to_contain_text("profile")
    expect(setup).to_contain_text("smollm2-135m-instruct")
    photograph(page, name)

    drawn = next(number for number, outputs in enumerate(committed) if "image/png" in json.dumps(outputs))
    picture = code.nth(drawn).locator(".jp-OutputArea-output img")
    picture.scroll_into_view_if_needed()
    assert picture.evaluate("image => image.complete && image.naturalWidth > 0")
    expect(picture).to_be_visible()
    photograph(page, f"{name}_picture")


@pytest.fixture(scope="module")
def widgets(lab, context):
    """The notebook with every widget, run once: by widget, the cell that shows it."""
    tab = context.new_page()
    tab.goto(lab.address("/lab/workspaces/widgets/tree/notebooks/widgets.ipynb"))
    run_cells(tab, WIDGETS.count("---\n") + 1)
    code = tab.locator(".jp-CodeCell")
    yield {name: code.nth(number) for number, name in enumerate(("", "mask", "playground", "budget", "chat"))}
    tab.close()
    lab.stop_kernels()


def token(shown: Locator, text: str) -> Locator:
    """The place in a coloured text where a token stands."""
    return shown.locator("span[title]", has_text=re.compile(f"^{re.escape(text)}$")).first


def shot(widget: Locator, name: str) -> None:
    widget.scroll_into_view_if_needed()
    photograph(widget.page, f"widget_{name}")


def test_the_mask_viewer_colours_what_is_learned(widgets):
    viewer = widgets["mask"]
    viewer.scroll_into_view_if_needed()
    blue, clear = "rgb(214, 234, 248)", "rgba(0, 0, 0, 0)"
    for choice, colours in (("last", (clear, clear, blue)), ("all", (clear, blue, blue))):
        viewer.locator("select").nth(3).select_option(choice)
        for text, colour in zip(("?", "IVE", "INE"), colours, strict=True):
            expect(token(viewer, text)).to_have_css("background-color", colour)
    expect(viewer.locator("td", has_text="learned tokens")).to_be_visible()
    shot(viewer, "mask")
    viewer.locator("select").nth(1).select_option("qwen3-tokenizer")
    expect(viewer.get_by_text("learned (underlined)")).to_have_count(2)


def test_the_playground_renders_and_says_what_is_wrong(widgets):
    playground = widgets["playground"]
    playground.scroll_into_view_if_needed()
    expect(token(playground, "user")).to_be_visible()
    playground.get_by_title("tools").click()
    expect(playground.get_by_text("get_weather").first).to_be_visible()
    shot(playground, "playground")
    typed = playground.locator("textarea")
    typed.fill('[{"role": "user" "content": "Hi"}]')
    expect(playground.get_by_text("messages: not JSON: Expecting ',' delimiter")).to_be_visible()
    shot(playground, "playground_error")
    typed.fill('[{"role": "human", "content": "Hi"}]')
    expect(playground.get_by_text("write 'user'")).to_be_visible()
    playground.locator("select").first.select_option("evil")
    expect(playground.get_by_text("<script>").first).to_be_visible()


def test_the_budget_follows_the_sliders(widgets):
    budget = widgets["budget"]
    budget.scroll_into_view_if_needed()
    expect(budget.get_by_text("5.5 GiB: fits into 15 GiB.")).to_be_visible()
    assert budget.locator("img").evaluate("image => image.naturalWidth > 0")
    budget.locator("select").nth(1).select_option("Qwen/Qwen3-14B")
    expect(budget.get_by_text("13.8 GiB: fits into 15 GiB.")).to_be_visible()
    shot(budget, "budget")
    budget.get_by_role("slider").nth(1).press("End")  # the longest rows
    expect(budget.get_by_text("does not fit into 15 GiB.")).to_be_visible()


def test_a_message_to_both_models_fills_both_columns(widgets):
    chat = widgets["chat"]
    chat.scroll_into_view_if_needed()
    chat.get_by_placeholder("Say something").fill(f"What is the capital of France? {EVIL}")
    chat.get_by_role("button", name="Send").click()
    expect(chat.get_by_text("you", exact=True)).to_have_count(2)
    expect(chat.get_by_role("button", name="Send")).to_be_enabled()  # both have answered
    expect(chat.get_by_text(EVIL)).to_have_count(2)
    assert chat.locator("script").count() == 0 and "forged" not in chat.page.title()
    for column in (0, 1):
        answer = chat.locator(".widget-vbox .widget-vbox .widget-vbox").nth(column).locator(".widget-html").last
        assert answer.inner_text().strip()
    shot(chat, "chat")
