"""A conversation typed as JSON, and below it what a template makes of it, or which of its tokens are learned."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ipywidgets import HTML, Checkbox, Dropdown, HBox, Layout, Textarea, VBox, Widget

from course_utils.lessons import highlight, tables
from course_utils.text import chat, masking
from course_utils.text.chat import MessageError
from notebooks.widgets.common import WIDE, as_fault

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class MessagesForm(VBox):
    """Messages as JSON and a choice of tokenizers; below them what a subclass makes of both, anew at each change.

    Attributes:
        conversation: chooses what stands in the field.
        field: the messages as JSON.
        tokenizer: whose template is used.
        thinking: the template's switch `enable_thinking`; None leaves it unset.
        shown: the answer, or what is wrong with the messages.
    """

    def __init__(
        self,
        conversations: Mapping[str, Sequence[Mapping[str, Any]]],
        tokenizers: Mapping[str, PreTrainedTokenizerBase],
        switches: Sequence[Widget],
    ) -> None:
        """Show the first conversation with the first tokenizer; `switches` are the subclass's own."""
        self._conversations = dict(conversations)
        self.conversation = Dropdown(options=list(conversations), description="conversation", **WIDE)
        self.tokenizer = Dropdown(options=dict(tokenizers), description="template", **WIDE)
        choices = {"not set": None, "True": True, "False": False}
        # index=0, or else a value of None counts as nothing chosen.
        self.thinking = Dropdown(options=choices, index=0, description="enable_thinking", **WIDE)
        self.field = Textarea(layout=Layout(flex="1 1 24em", height="13em"))
        self.shown = HTML()
        controls = [self.conversation, self.tokenizer, self.thinking, *switches]
        self.conversation.observe(self._take, "value")
        for control in (self.field, *controls[1:]):
            control.observe(self._look, "value")
        super().__init__([HBox([self.field, VBox(controls)], layout=Layout(flex_flow="row wrap")), self.shown])
        self._take()

    def answer(self, messages: Any) -> str:
        """HTML of what these messages give, from the subclass; whatever it raises is shown in its place."""
        raise NotImplementedError

    def _take(self, _: object = None) -> None:
        """Put the chosen conversation into the field."""
        chosen = self._conversations[self.conversation.value]
        self.field.value = json.dumps(chosen, ensure_ascii=False, indent=1)

    def _look(self, _: object = None) -> None:
        try:
            self.shown.value = self.answer(self._messages())
        except Exception as error:  # nobody reads the traceback of a handler; this place is looked at
            self.shown.value = as_fault(error)

    def _messages(self) -> Any:
        try:
            return json.loads(self.field.value)
        except ValueError as error:
            raise MessageError(None, None, f"not JSON: {error}") from None


class MaskViewer(MessagesForm):
    """The mask of a conversation in colour, and what the audit finds and counts in it.

    Attributes:
        train_on: which assistant turns are learned.
    """

    def __init__(
        self,
        conversations: Mapping[str, Sequence[Mapping[str, Any]]],
        tokenizers: Mapping[str, PreTrainedTokenizerBase],
    ) -> None:
        """Show the mask of the first conversation.

        Args:
            conversations: messages by the name to choose them by.
            tokenizers: by the name to choose them by.
        """
        self.train_on = Dropdown(options=("all", "last"), description="train_on", **WIDE)
        super().__init__(conversations, tokenizers, [self.train_on])

    def answer(self, messages: Any) -> str:
        """HTML of the audit's faults, the masks, one for each example, and the audit's counts."""
        tokenizer = self.tokenizer.value
        examples = masking.build_examples(
            messages, tokenizer, train_on=self.train_on.value, enable_thinking=self.thinking.value
        )
        report = masking.audit(examples, tokenizer)
        faults = "".join(map(as_fault, report.problems))
        masks = "".join(f"<p>{highlight.mask(example, tokenizer).html}</p>" for example in examples)
        side_by_side = "display:flex;flex-wrap:wrap;gap:2em;line-height:1.4"
        counts = tables.table(report.table()).html
        return f'<div style="{side_by_side}"><div style="flex:1 1 24em">{faults}{masks}</div><div>{counts}</div></div>'


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
        self.tools = Checkbox(description="tools", **WIDE)
        self.generation_prompt = Checkbox(description="add_generation_prompt", **WIDE)
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
