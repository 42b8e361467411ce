"""What a template makes of messages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ipywidgets import Checkbox

from course_utils.lessons import highlight
from course_utils.lessons.widgets.common import WIDE, MessagesForm
from course_utils.text import chat

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Playground(MessagesForm):
    """Messages through a template: the text in colour and the ids beside it, or what is wrong with the messages.

    Attributes:
        tools: give the template the tools.
        generation_prompt: end with the opening of an assistant's turn.
    """

    def __init__(
        self,
        conversations: Mapping[str, Sequence[Mapping[str, Any]]],
        tokenizers: Mapping[str, PreTrainedTokenizerBase],
        tools: Sequence[Mapping[str, Any]],
    ) -> None:
        """Show the rendering of the first conversation.

        Args:
            conversations: messages by the name to choose them by.
            tokenizers: by the name to choose them by; their templates are in the ChatML format.
            tools: schemas that the switch `tools` gives to the template.
        """
        self._schemas = tools
        names = ("tools", "add_generation_prompt")
        self.tools, self.generation_prompt = (Checkbox(description=name, **WIDE) for name in names)
        super().__init__(conversations, tokenizers, [self.tools, self.generation_prompt])

    def answer(self, messages: Any) -> str:
        """HTML of the rendering and its ids."""
        parts = chat.parts(
            self.tokenizer.value,
            messages,
            tools=self._schemas if self.tools.value else None,
            enable_thinking=self.thinking.value,
            add_generation_prompt=self.generation_prompt.value,
        )
        return highlight.rendered(parts, self.tokenizer.value).html
