"""course_utils.export: the merged folder answers as base + adapter, by itself, in a new process."""

import json

import pytest

from course_utils import chat, export


@pytest.fixture(scope="module")
def merged(smol, trained, tmp_path_factory):
    return export.merge_adapter(smol, trained[0].adapter_dir, tmp_path_factory.mktemp("merge") / "merged")


def test_the_folder_is_complete(merged, smol):
    assert set(export.FULL) < set(merged.files)
    assert merged.layers == 30 * 7
    template = (merged.path / "chat_template.jinja").read_text(encoding="utf-8")
    assert template == (smol / "chat_template.jinja").read_text(encoding="utf-8")
    config = json.loads((merged.path / "config.json").read_text(encoding="utf-8"))
    assert config["dtype"] == "bfloat16" and config["tie_word_embeddings"] is True
    assert not list(merged.path.parent.glob(".*"))  # no draft is left


def test_reloaded_alone_it_answers_as_in_memory_and_as_the_adapter(smol, trained, merged, toy_rows, smol_tokenizer):
    prompts = [chat.render(smol_tokenizer, row["messages"][:1], add_generation_prompt=True) for row in toy_rows[:6]]
    check = export.check_merge(smol, trained[0].adapter_dir, merged.path, prompts, max_new_tokens=16)
    assert check.equal_to_memory == check.prompts == 6
    assert check.holds and 0 < check.logit_error < 2


def test_a_folder_that_does_not_load_says_why(tmp_path):
    with pytest.raises(export.ExportError, match="did not load"):
        export.replies_in_new_process(tmp_path, ["Hi"], batch_size=1, max_new_tokens=1)


def test_no_adapter_there(smol, tmp_path):
    with pytest.raises(export.ExportError, match="no adapter"):
        export.merge_adapter(smol, tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()
