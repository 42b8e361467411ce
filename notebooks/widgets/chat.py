"""Talk to several models at once, each in a column of its own."""

from __future__ import annotations

import html
import threading
import time
from collections.abc import Mapping

from ipywidgets import HTML, Button, HBox, Layout, Text, VBox

from course_utils.lessons.conversation import ENDINGS, Conversation
from notebooks.widgets.common import COLUMN, as_fault, as_text

EVERY = 0.1  # seconds between two looks of a reply that is being written: each is a message to the browser


class Chat(VBox):
    """One text field, and a column for each model, which answer one after the other.

    Stop ends the reply that is being written; the next model then answers. The thinking is folded away.

    Attributes:
        field: where the text is typed; Enter sends it.
        send_button, stop_button, new_button: what they say.
        columns: by the model's name, what was said in its column.
    """

    def __init__(self, conversations: Mapping[str, Conversation]) -> None:
        """Show conversations side by side.

        Args:
            conversations: by the name that stands above its column, for instance
                `{"base": Conversation(model, tokenizer, base=True), "tuned": Conversation(model, tokenizer)}`.
        """
        self._conversations = dict(conversations)
        self._writing: Conversation | None = None
        self._thread: threading.Thread | None = None
        self.field = Text(placeholder="Say something; Enter sends it", layout=Layout(flex="1 1 auto"))
        self.send_button = Button(description="Send", button_style="primary")
        self.stop_button = Button(description="Stop", disabled=True)
        self.new_button = Button(description="Begin anew")
        self.columns = {name: VBox() for name in conversations}
        self.field.on_submit(self._send)
        self.send_button.on_click(self._send)
        self.stop_button.on_click(self._stop)
        self.new_button.on_click(self._begin_anew)
        boxes = [
            VBox([HTML(f"<b>{html.escape(name)}</b>"), column], layout=Layout(**COLUMN))
            for name, column in self.columns.items()
        ]
        super().__init__([HBox(boxes), HBox([self.field, self.send_button, self.stop_button, self.new_button])])

    def wait(self) -> None:
        """Return when the replies that are being written are there."""
        if self._thread is not None:
            self._thread.join()

    def _send(self, _: object) -> None:
        text = self.field.value.strip()
        if not text or self.send_button.disabled:
            return
        self.field.value = ""
        self._busy(True)
        # A thread, because a kernel that is busy in a handler never hears of the stop button.
        self._thread = threading.Thread(target=self._answer, args=(text,), daemon=True)
        self._thread.start()

    def _stop(self, _: object) -> None:
        if self._writing is not None:
            self._writing.stop()

    def _begin_anew(self, _: object) -> None:
        for name, conversation in self._conversations.items():
            conversation.restart()
            self.columns[name].children = ()

    def _busy(self, busy: bool) -> None:
        self.send_button.disabled = self.new_button.disabled = busy
        self.stop_button.disabled = not busy

    def _answer(self, text: str) -> None:
        """Let every model answer, in a thread of its own."""
        for name, conversation in self._conversations.items():
            self._writing = conversation
            thinking, answer = HTML(), HTML()
            self.columns[name].children += (HTML(f"<b>you</b>{as_text(text)}"), thinking, answer)
            try:
                _show(conversation, text, thinking, answer)
            except Exception as error:  # nobody reads the traceback of a thread; the column is looked at
                answer.value = as_fault(error)
        self._writing = None
        self._busy(False)


def _show(conversation: Conversation, text: str, thinking: HTML, answer: HTML) -> None:
    """Write a reply into its two places while it arrives."""
    said = {"thinking": "", "answer": ""}
    looked = 0.0

    def look(last: str = "") -> None:
        if thought := said["thinking"].strip():
            # ipywidgets sends only what has changed, so that a reader's unfolded thinking stays unfolded.
            thinking.value = f"<details><summary>thinking</summary>{as_text(thought)}</details>"
        answer.value = as_text(said["answer"].strip() + last)

    for kind, piece in conversation.send(text):
        said[kind] += piece
        if time.monotonic() - looked > EVERY:
            look()
            looked = time.monotonic()
    look(ENDINGS[conversation.ending])
