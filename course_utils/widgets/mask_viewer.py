"""Which tokens of a conversation are learned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ipywidgets import ToggleButtons

from course_utils import masking, show
from course_utils.widgets.common import LABELS, MessagesForm, as_fault

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


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
        self.train_on = ToggleButtons(options=("all", "last"), description="train_on", style=LABELS)
        super().__init__(conversations, tokenizers, [self.train_on])

    def answer(self, messages: Any) -> str:
        """HTML of the audit's faults, the masks, one for each example, and the audit's counts."""
        tokenizer = self.tokenizer.value
        examples = masking.build_examples(
            messages, tokenizer, train_on=self.train_on.value, enable_thinking=self.thinking.value
        )
        report = masking.audit(examples, tokenizer)
        masks = (f"<p>{show.mask(example, tokenizer).html}</p>" for example in examples)
        return "".join([*map(as_fault, report.problems), *masks, show.table(report.table()).html])
