"""The ballot, to be voted on with buttons."""

from __future__ import annotations

from ipywidgets import HTML, Button, HBox, Layout, VBox

from notebooks.extras.blind_vote import CHOICES, Ballot
from notebooks.widgets.common import COLUMN, as_text


class Vote(VBox):
    """The ballot's questions one by one: two replies without names, and a button for each choice.

    Attributes:
        buttons: by the choice that they file.
        place: which question this is, or the tally when all are voted on.
    """

    def __init__(self, ballot: Ballot) -> None:
        """Show the first question that has no vote.

        Args:
            ballot: a `blind_vote.Ballot`.
        """
        self._ballot = ballot
        self.place, self._prompt, self._left, self._right = HTML(), HTML(), HTML(), HTML()
        self.buttons = {choice: Button(description=choice.capitalize()) for choice in CHOICES}
        for choice, button in self.buttons.items():
            button.on_click(lambda _, choice=choice: self._vote(choice))
        replies = HBox([VBox([reply], layout=Layout(**COLUMN)) for reply in (self._left, self._right)])
        super().__init__([self.place, self._prompt, replies, HBox(list(self.buttons.values()))])
        self._next()

    def _vote(self, choice: str) -> None:
        self._ballot.vote(self._open[0], choice)
        self._next()

    def _next(self) -> None:
        self._open = self._ballot.open()
        every = len(self._ballot.questions)
        if not self._open:
            self.place.value = f"<b>All {every} voted on.</b> {as_text(self._ballot.tally().words)}"
            self.children = (self.place,)
            return
        question = self._open[0]
        self.place.value = f"Question {every - len(self._open) + 1} of {every}"
        self._prompt.value = f"<b>prompt</b>{as_text(question.prompt)}"
        self._left.value, self._right.value = (
            f"<b>left</b>{as_text(question.left)}",
            f"<b>right</b>{as_text(question.right)}",
        )
