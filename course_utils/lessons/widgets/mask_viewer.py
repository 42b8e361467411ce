"""Which tokens of a conversation are learned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ipywidgets import Dropdown

from course_utils.lessons import highlight, tables
from course_utils.lessons.widgets.common import WIDE, MessagesForm, as_fault
from course_utils.text import masking

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


SIDE_BY_SIDE = "display:flex;flex-wrap:wrap;gap:2em;line-height:1.4"


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
        counts = tables.table(report.table()).html
        return f'<div style="{SIDE_BY_SIDE}"><div style="flex:1 1 24em">{faults}{masks}</div><div>{counts}</div></div>'
