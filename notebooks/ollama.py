"""The Modelfile of lesson 06's extra: what Ollama has to know beside the GGUF file."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from course_utils.deploy.adapters import ExportError
from course_utils.text import chat

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def modelfile(merged: str | Path, gguf_file: str | Path) -> str:
    """The text of an Ollama Modelfile that asks the GGUF file as the course asked the model.

    Ollama's templates are not in Jinja, so the model's is not translated but looked at: rendered on sample
    conversations it must be ChatML (`<|im_start|>role … <|im_end|>`), as in Qwen and SmolLM2. A system prompt that it
    adds by itself becomes SYSTEM, and what it adds behind the opened reply is kept; its tools and thinking are not.
    Without sampling settings in `generation_config.json` the replies are greedy, as in lesson 05.

    Args:
        merged: the merged folder.
        gguf_file: what `to_gguf` made of it; the Modelfile expects it in its own folder.

    Raises:
        ExportError: the template is no ChatML.
    """
    from transformers import AutoTokenizer, GenerationConfig

    tokenizer = AutoTokenizer.from_pretrained(str(merged), local_files_only=True)
    settings = GenerationConfig.from_pretrained(str(merged))
    system, opened = _chatml(tokenizer, merged)
    stops = settings.eos_token_id if isinstance(settings.eos_token_id, list) else [settings.eos_token_id]
    parameters = {"temperature": 0, "repeat_penalty": settings.repetition_penalty or 1}
    if settings.do_sample:
        parameters |= {"temperature": settings.temperature, "top_p": settings.top_p, "top_k": settings.top_k}
    lines = [
        f"FROM ./{Path(gguf_file).name}",
        'TEMPLATE """{{ range .Messages }}<|im_start|>{{ .Role }}',
        "{{ .Content }}<|im_end|>",
        "{{ end }}<|im_start|>assistant",
        f'{opened}"""',
        *([f'SYSTEM """{system}"""'] if system else []),
        *(f'PARAMETER stop "{tokenizer.decode([stop])}"' for stop in stops),
        *(f"PARAMETER {name} {value:g}" for name, value in parameters.items() if value is not None),
    ]
    return "\n".join(lines) + "\n"


def _chatml(tokenizer: PreTrainedTokenizerBase, merged: str | Path) -> tuple[str, str]:
    """The system prompt that the template adds by itself, and what it adds behind the opened reply."""

    def turns(*messages: chat.Message) -> str:
        return "".join(f"<|im_start|>{turn['role']}\n{turn['content']}<|im_end|>\n" for turn in messages)

    system, question = {"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello?"}
    talk = [system, question, {"role": "assistant", "content": "Hello."}, {"role": "user", "content": "Who?"}]
    with_system, without = (
        chat.render(tokenizer, messages, enable_thinking=False, add_generation_prompt=True)
        for messages in (talk, talk[1:])
    )
    start = turns(*talk) + "<|im_start|>assistant\n"
    added = re.fullmatch(
        r"(?:<\|im_start\|>system\n(.*)<\|im_end\|>\n)?" + re.escape(turns(*talk[1:])) + ".*", without, re.DOTALL
    )
    if not with_system.startswith(start) or not added:
        raise ExportError(
            f"The template of {merged} is no ChatML, so its TEMPLATE for Ollama must be written by hand: "
            "https://github.com/ollama/ollama/blob/main/docs/modelfile.md"
        )
    return added[1] or "", with_system.removeprefix(start)
