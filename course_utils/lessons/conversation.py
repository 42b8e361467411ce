"""Talk to a model: the messages so far, and each reply piece by piece while it is written.

Plain `generate` of transformers, in a thread of its own, so that whoever shows the reply can also stop it. Base and
tuned model are one model in memory: the base is what remains while the adapter is switched off.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import KW_ONLY, dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any, Literal

import torch

from course_utils.core.errors import CourseError
from course_utils.evals import generation
from course_utils.text import chat
from course_utils.text.thinking import OPENER, Piece, ThinkingStream

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Ending = Literal["ended", "stopped", "cut off"]
# What is written behind a reply, so that nobody takes a part for the whole.
ENDINGS: dict[Ending, str] = {"ended": "", "stopped": " … (stopped)", "cut off": " … (did not stop)"}

# Two replies at once would only slow each other down, and switching the adapter off switches it off for both.
_ONE_REPLY_AT_A_TIME = threading.Lock()


class ConversationError(CourseError):
    """A conversation that cannot go on as asked."""


@dataclass(eq=False, repr=False)
class Conversation:
    """A conversation with one model.

    How the next token is chosen (greedily or by chance, at which temperature) is what the model's own generation config
    says. Qwen advises against greedy replies where the model thinks.

    Attributes:
        messages: what was said so far, as the template gets it: control tokens in the user's text are neutralised
            (pitfall forged-control-tokens), the thinking of a reply stands in its `reasoning_content`.
        ending: how the last reply ended: by itself, by `stop()`, or cut off at `max_new_tokens`; None before the first.

    Raises:
        ConversationError: `base` is asked of a model without an adapter.
    """

    model: PreTrainedModel | PeftModel  # base, base with adapter, or merged; in evaluation mode
    tokenizer: PreTrainedTokenizerBase
    _: KW_ONLY
    base: bool = False  # switch the adapter off for every reply: the base model answers
    thinking: bool = False  # let the model think before it answers, where its template leaves the choice
    max_new_tokens: int = 512  # longest reply, thinking included, in tokens

    def __post_init__(self) -> None:
        if self.base and not hasattr(self.model, "disable_adapter"):
            raise ConversationError("This model has no adapter to switch off; modeling.load_adapter mounts one.")
        self._stopped = threading.Event()
        self.restart()

    def restart(self) -> None:
        """Forget what was said."""
        self.messages: list[chat.Message] = []
        self.ending: Ending | None = None

    def stop(self) -> None:
        """End the reply that is being written, from any thread. What was said so far stays in the conversation."""
        self._stopped.set()

    def send(self, text: str) -> Iterator[Piece]:
        """Say something, and get the reply while it is written.

        Closing the iterator early stops the reply as `stop()` does. A reply that failed leaves the conversation as it
        was before.

        Yields:
            ("thinking" | "answer", text), some characters each; all of them joined are the reply.

        Raises:
            ConversationError: the conversation and the longest reply do not fit into what the model reads.
        """
        tokenizer = self.tokenizer
        asked = {"role": "user", "content": chat.neutralise(text, tokenizer)}
        prompt = chat.render(
            tokenizer, [*self.messages, asked], enable_thinking=self.thinking, add_generation_prompt=True
        )
        inputs = tokenizer(prompt, return_tensors="pt", add_special_tokens=False)
        length, reads = inputs["input_ids"].shape[1], self.model.config.max_position_embeddings
        reads = min(reads, getattr(self.model, "max_seq_length", reads))  # Unsloth's, which cuts what is longer
        if length + self.max_new_tokens > reads:
            raise ConversationError(
                f"The conversation has {length} tokens and the reply may have {self.max_new_tokens}; the model reads "
                f"{reads}. Begin anew: restart(), or /new in the terminal."
            )
        stream = ThinkingStream(tokenizer, prompt_opens_thinking=prompt.rstrip().endswith(OPENER), prompt_known=True)
        arriving = _Arriving()
        pieces = chain(chain.from_iterable(map(stream.feed, arriving)), stream.finish())
        self._stopped.clear()
        worker = threading.Thread(target=self._write, args=(inputs, arriving), daemon=True)
        worker.start()
        said = {"thinking": "", "answer": ""}
        try:
            for kind, piece in pieces:
                said[kind] += piece
                yield kind, piece
        except Exception:
            said.clear()
            raise
        finally:  # also where the reader has left, or Ctrl-C was pressed
            self._stopped.set()
            worker.join()
            if said:
                # A control token that the model spelled out is text in the next prompt, too.
                said = {kind: chat.neutralise(words.strip(), tokenizer) for kind, words in said.items()}
                reply = {"role": "assistant", "content": said["answer"]}
                self.messages += [asked, reply | ({"reasoning_content": said["thinking"]} if said["thinking"] else {})]

    def _write(self, inputs: Any, arriving: _Arriving) -> None:
        """Generate in a thread; ids, the error if there is one, and the end go into `arriving`."""

        def asked_to_stop(input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
            return torch.full((len(input_ids),), self._stopped.is_set(), device=input_ids.device)

        try:
            stops = generation.stop_ids(self.model, self.tokenizer)
            adapter = self.model.disable_adapter() if self.base else nullcontext()
            with _ONE_REPLY_AT_A_TIME, adapter:
                output = self.model.generate(
                    **inputs.to(self.model.device),
                    max_new_tokens=self.max_new_tokens,
                    pad_token_id=self.tokenizer.pad_token_id,
                    eos_token_id=stops,
                    streamer=arriving,
                    stopping_criteria=[asked_to_stop],
                )
            by_itself = int(output[0, -1]) in stops
            self.ending = "ended" if by_itself else "stopped" if self._stopped.is_set() else "cut off"
            arriving.put(None)
        except Exception as error:
            arriving.put(error)


class _Arriving(queue.SimpleQueue):
    """The streamer that `generate` puts ids into; None or an error behind them ends it."""

    def end(self) -> None:
        """Called by `generate`; the reader is told when the ending is known, too."""

    def __iter__(self) -> Iterator[list[int]]:
        is_prompt = True  # `generate` passes the prompt on first
        while isinstance(item := self.get(), torch.Tensor):
            if not is_prompt:
                yield item.flatten().tolist()
            is_prompt = False
        if item is not None:
            raise item
