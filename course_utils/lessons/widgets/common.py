"""What the widgets share: texts that stay texts, columns, and the form around a conversation typed as JSON."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ipywidgets import HTML, Dropdown, HBox, Layout, Textarea, VBox, Widget

from course_utils.text.chat import MessageError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

COLUMN = {"flex": "1 1 0", "min_width": "16em", "border": "1px solid #a9cce3", "padding": "4px 10px"}
WIDE = {"style": {"description_width": "9em"}, "layout": {"width": "26em"}}
"""Of a control: its description is read in full, and controls stand in line."""


def as_text(text: str) -> str:
    """HTML of a text as it is, line breaks and all."""
    return f'<div style="white-space:pre-wrap;overflow-wrap:anywhere;line-height:1.4">{html.escape(text)}</div>'


def as_fault(what: object) -> str:
    """HTML of an error, or of what else is wrong, in its own words."""
    return f'<div style="background:#f5b7b1;color:#78281f;padding:4px 8px">{as_text(str(what))}</div>'


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
        """Show the first conversation with the first tokenizer.

        Args:
            conversations: messages by the name to choose them by.
            tokenizers: by the name to choose them by.
            switches: the subclass's own; they stand beside the others.
        """
        self._conversations = dict(conversations)
        self.conversation = Dropdown(options=list(conversations), description="conversation", **WIDE)
        self.tokenizer = Dropdown(options=dict(tokenizers), description="template", **WIDE)
        self.thinking = Dropdown(
            options={"not set": None, "True": True, "False": False},
            index=0,  # else a value of None counts as nothing chosen
            description="enable_thinking",
            **WIDE,
        )
        self.field = Textarea(layout=Layout(flex="1 1 24em", height="13em"))
        self.shown = HTML()
        controls = [self.conversation, self.tokenizer, self.thinking, *switches]
        self.conversation.observe(self._take, "value")
        for control in (self.field, self.tokenizer, self.thinking, *switches):
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
