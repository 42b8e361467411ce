"""notebooks.extras.public_tasks: rows become tasks; the real harness runs them in the long mode (`make test-long`)."""

import importlib.util
import json
from dataclasses import replace

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from course_utils import adapters, chat, evaluation, export, metrics
from notebooks.extras import public_tasks
from notebooks.extras.public_tasks import PublicTaskError


def row(source: str, question: str, answer: str, *earlier: dict) -> dict:
    turns = [*earlier, {"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {"messages": turns, "source": source, "tags": []}


ROWS = [
    *(row("json", f"Return only JSON with the key n. The number is {n}.", f'{{"n":{n}}}') for n in range(4)),
    row("json", "你好", '{"text":"你好"}', {"role": "system", "content": "Only JSON."}),
    *(row("mawps", f"What is {n} plus {n}?", str(2 * n)) for n in range(4)),
    *(row("general", f"Say the word for {n}.", word) for n, word in enumerate(("zero", "one", "two", "three", "four"))),
]


class Loader(yaml.SafeLoader):
    """YAML with the harness's own tag."""


Loader.add_constructor("!function", lambda loader, node: loader.construct_scalar(node))


@pytest.fixture
def tasks(smol_tokenizer, tmp_path):
    return public_tasks.write_tasks(ROWS, smol_tokenizer, tmp_path / "tasks", max_new_tokens=24)


def lines(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_the_folder_holds_every_row_with_its_prompt_rendered(tasks, smol_tokenizer):
    group = yaml.safe_load((tasks / "course.yaml").read_text(encoding="utf-8"))
    assert group == {"group": "course", "task": ["course_json", "course_mawps", "course_general"]}
    docs = [doc for name in ("json", "mawps", "general") for doc in lines(tasks / f"{name}.jsonl")]
    assert len(docs) == len(ROWS)
    for doc, asked in zip(docs, ROWS, strict=True):
        assert doc["prompt"] == chat.render(smol_tokenizer, asked["messages"][:-1], add_generation_prompt=True)
        assert all(turn["content"] in doc["prompt"] for turn in asked["messages"][:-1]), "the system turn, too"
        assert (doc["question"], doc["reference"]) == tuple(turn["content"] for turn in asked["messages"][-2:])


def test_the_yaml_says_how_to_ask_and_what_counts_as_right(tasks):
    found = {
        name: yaml.load((tasks / f"{name}.yaml").read_text(encoding="utf-8"), Loader=Loader)
        for name in ("json", "mawps", "general")
    }
    for name, task in found.items():
        assert task["task"] == f"course_{name}" and task["doc_to_text"] == "prompt"
        assert task["dataset_kwargs"]["data_files"]["test"] == str(tasks / f"{name}.jsonl")
    assert found["json"]["process_results"] == "metrics.json_valid"
    for name in ("json", "mawps"):
        assert found[name]["generation_kwargs"] == {"do_sample": False, "max_gen_toks": 24, "until": ["<|im_end|>"]}
    (last_number,) = found["mawps"]["filter_list"]
    assert last_number["filter"][0]["regex_pattern"] == public_tasks.NUMBER
    assert found["general"]["output_type"] == "multiple_choice" and found["general"]["target_delimiter"] == ""


def test_a_choice_has_four_different_answers_and_the_right_one_moves(tasks):
    docs = lines(tasks / "general.jsonl")
    assert all(doc["choices"][doc["right"]] == doc["reference"] for doc in docs)
    assert all(len(set(doc["choices"])) == public_tasks.CHOICES == len(doc["choices"]) for doc in docs)
    assert [doc["right"] for doc in docs] == [0, 1, 2, 3, 0]


@pytest.fixture(scope="module")
def json_valid(smol_tokenizer, tmp_path_factory):
    """The function that the harness calls, from the file that was written."""
    folder = public_tasks.write_tasks(ROWS[:1], smol_tokenizer, tmp_path_factory.mktemp("t") / "t", max_new_tokens=9)
    spec = importlib.util.spec_from_file_location("metrics", folder / "metrics.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.json_valid


REPLIES = ["", '{"a": 1}', ' {"a": 1}\n', '```json\n{"a": 1}\n```', '{"a": NaN}', '{"a": 1', "[1]", "[" * 100_000]


@pytest.mark.parametrize("reply", REPLIES, ids=lambda reply: reply[:12])
def test_json_is_what_the_course_takes_for_json(json_valid, reply):
    assert json_valid({}, [reply]) == {"json_valid": float(isinstance(metrics.parse_json(reply), dict))}


@given(st.text(alphabet='{}[]":,1.eNa -\n', max_size=20))
def test_any_text_is_json_here_as_in_the_course(json_valid, reply):
    assert json_valid({}, [reply])["json_valid"] == isinstance(metrics.parse_json(reply), dict)


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([row("emoji", "Hi", "😀")], "row 0: no task for the source 'emoji'"),
        ([ROWS[0], row("json", "Hi", "")], "row 1: the last message holds no answer"),
        (ROWS[-2:], "4 different answers; the rows hold 2"),
    ],
    ids=["source", "no answer", "too few choices"],
)
def test_rows_that_are_no_task_are_refused_and_nothing_is_written(smol_tokenizer, tmp_path, rows, words):
    with pytest.raises(PublicTaskError, match=words):
        public_tasks.write_tasks(rows, smol_tokenizer, tmp_path / "tasks", max_new_tokens=9)
    assert not list(tmp_path.iterdir())


def test_a_tool_that_fails_is_told_with_its_last_words_and_leaves_the_old_report(tiny, tasks, tmp_path):
    tool = tmp_path / "lm_eval"
    tool.write_text("#!/bin/sh\necho first; echo no such model; exit 3\n")
    tool.chmod(0o755)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old").touch()
    with pytest.raises(PublicTaskError, match=r"lm_eval run --model hf …` failed: first \| no such model"):
        public_tasks.run_lm_eval(tiny, "model", tasks, tmp_path / "out", bin_dir=tmp_path)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["old"]
    with pytest.raises(PublicTaskError, match=r"is not there.*environment"):
        public_tasks.run_lm_eval(tiny, "model", tasks, tmp_path / "out", bin_dir=tmp_path / "nowhere")


def test_a_folder_without_a_report_is_told(tmp_path):
    with pytest.raises(PublicTaskError, match="results_"):
        public_tasks.read_lm_eval(tmp_path)


def test_an_environment_is_made_once_and_again_for_another_version(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(public_tasks, "_call", lambda line: calls.append(line))
    assert public_tasks.environment(tmp_path) == tmp_path / "lm-eval" / "bin"
    assert [line[2] for line in calls] == ["venv", "pip"] and calls[1][-1].startswith("lm_eval==")
    public_tasks.environment(tmp_path)
    assert len(calls) == 2
    (tmp_path / "lm-eval" / "installed").write_text("lm_eval==0.1")
    public_tasks.environment(tmp_path)
    assert len(calls) == 4


@pytest.mark.long
def test_the_harness_agrees_with_the_course_on_base_and_tuned(tiny, smol, trained, smol_tokenizer, tmp_path):
    """lm-eval for real, offline, from an environment made for this test; in float32, where no two tokens tie."""
    tiny = replace(tiny, dtype="float32")
    result, _ = trained
    merged = export.merge_adapter(smol, result.adapter_dir, tmp_path / "merged").path
    tools = public_tasks.environment(tmp_path / "tools")
    tasks = public_tasks.write_tasks(ROWS, smol_tokenizer, tmp_path / "tasks", max_new_tokens=24)
    for folder in (smol, merged):
        scores = public_tasks.run_lm_eval(tiny, folder, tasks, tmp_path / "out", bin_dir=tools)
        assert [score.task for score in scores] == ["course_general", "course_json", "course_mawps"]
        assert [score.prompts for score in scores] == [5, 5, 4]
        model, tokenizer = adapters.load_base(folder)
        report = evaluation.evaluate(model.float(), tokenizer, ROWS, batch_size=tiny.eval_batch_size, max_new_tokens=24)
        for score, source, figure in zip(scores[1:], ("json", "mawps"), ("json_strict", "exact"), strict=True):
            mine = [line for line in report.rows if line["source"] == source]
            assert [sample["prompt"] for sample in score.samples] == [
                doc["prompt"] for doc in lines(tasks / f"{source}.jsonl")
            ]
            same = [
                line["reply"].strip() == sample["reply"].strip()
                for line, sample in zip(mine, score.samples, strict=True)
            ]
            assert sum(same) >= len(same) - 1, "all but a tie of bfloat16"
            for line, sample, equal in zip(mine, score.samples, same, strict=True):
                assert not equal or line[figure] == bool(sample["value"])
            assert score.value == pytest.approx(sum(s["value"] for s in score.samples) / score.prompts)
