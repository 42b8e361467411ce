"""Blind A/B voting: two replies to a prompt, unnamed and in random order; the votes in a file, and what they say.

A voter who knows which model wrote a reply votes for the model, and one who always sees a model on the same side votes
for the side. `python notebooks/extras/blind_vote.py` asks in a terminal.
"""

from __future__ import annotations

import hashlib
import json
import random
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, get_args

from course_utils import evaluation, statistics
from course_utils.core.errors import CourseError
from course_utils.core.files import write_text

Choice = Literal["left", "right", "same", "both bad"]
CHOICES: tuple[Choice, ...] = get_args(Choice)


class VoteError(CourseError):
    """A file of votes on something else, or a vote that cannot be cast."""


@dataclass(frozen=True)
class Question:
    """What a voter sees.

    Attributes:
        key: what its vote is filed under.
        prompt: what was asked.
        left, right: the two replies.
    """

    key: str
    prompt: str
    left: str
    right: str


@dataclass(frozen=True)
class Tally:
    """What the votes say.

    Attributes:
        names: the two sides, before and after.
        before, after: how often each was preferred.
        same, both_bad: votes without a preference.
        left: of the preferences, how many went to the left. Far from half of them: the voter votes for a place.
        open: questions that have no vote yet.
        equal: prompts that are not asked, because both replies are the same text (or the prompt stood there before).
        p: how likely chance alone splits the preferences at least as unevenly (exact two-sided sign test).
    """

    names: tuple[str, str]
    before: int
    after: int
    same: int
    both_bad: int
    left: int
    open: int
    equal: int
    p: float

    @property
    def words(self) -> str:
        """The tally as a person would say it."""
        preferred = self.before + self.after
        counts = (
            f"{self.names[1]} preferred {self.after} times, {self.names[0]} {self.before} times, same {self.same}, "
            f"both bad {self.both_bad}; {self.open} not voted on, {self.equal} not asked (equal replies). "
            f"The left one was chosen {self.left} times of {preferred}."
        )
        if self.p >= 1 - statistics.LEVEL:
            verdict = "not told apart: chance alone splits them so or more unevenly"
        else:
            better = self.names[self.after > self.before]
            verdict = f"{better} is preferred: chance alone would split them so or more unevenly"
        return f"{counts} {verdict[0].upper()}{verdict[1:]} with probability {self.p:.2g}."


class Ballot:
    """Fixed prompts with two replies each, to be voted on blindly; goes on where the file of votes ends."""

    def __init__(
        self,
        pairs: Iterable[tuple[Mapping[str, Any], Mapping[str, Any]]],
        path: str | Path,
        *,
        names: tuple[str, str] = ("base", "tuned"),
        seed: int = 42,
    ) -> None:
        """Make the questions.

        Args:
            pairs: (row of the report before, row of the report after), the same prompt in both, as `tables.replies`
                takes them. Prompts whose two replies are equal are not asked.
            path: the file of votes, one JSON object a line; made with the first vote.
            names: what the two sides are called in the file and in the tally.
            seed: of the order of the questions, and of the sides in each.

        Raises:
            VoteError: the file holds votes on another ballot, or no votes.
        """
        self._path, self._names = Path(path), names
        pairs = list(pairs)
        sides: dict[str, tuple[str, str]] = {}  # which name stands on the left, and which on the right
        questions = {}
        for old, new in pairs:
            replies = (old["reply"].strip(), new["reply"].strip())
            if replies[0] == replies[1]:
                continue
            key = _digest(old["prompt"], *replies)
            # A seed for each question: who stands on the left depends on the question and the seed alone.
            turned = random.Random(f"{seed} {key}").random() < 0.5
            sides[key] = names[::-1] if turned else names
            questions[key] = Question(key, old["prompt"], *(replies[::-1] if turned else replies))
        order = sorted(questions)
        random.Random(seed).shuffle(order)  # so that any number of votes is a fair sample of the prompts
        self.questions = [questions[key] for key in order]
        self._sides = sides
        self._equal = len(pairs) - len(questions)
        self._id = _digest(*names, str(seed), *order)
        self._votes()

    def open(self) -> list[Question]:
        """The questions that have no vote yet, in the order in which they are asked."""
        voted = {vote["question"] for vote in self._votes()}
        return [question for question in self.questions if question.key not in voted]

    def vote(self, question: Question, choice: Choice) -> None:
        """File a vote: the file gets one more whole line, or stays as it was.

        Args:
            question: one of `open()`.
            choice: "left", "right", "same" or "both bad".

        Raises:
            VoteError: no such choice, no such question, or it has a vote.
        """
        if choice not in CHOICES:
            raise VoteError(f"{choice!r} is no choice; a vote is one of {', '.join(CHOICES)}.")
        if question not in self.open():
            raise VoteError(f"{question.prompt[:60]!r} is not open in {self._path}: it has a vote, or was never asked.")
        line = {
            "ballot": self._id,
            "question": question.key,
            "left": self._sides[question.key][0],
            "choice": choice,
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        lines = [json.dumps(vote, ensure_ascii=False) for vote in (*self._votes(), line)]
        write_text(self._path, "\n".join(lines) + "\n")

    def tally(self) -> Tally:
        """Count the votes so far and say what they are worth."""
        votes = self._votes()
        choices = Counter(vote["choice"] for vote in votes)
        preferred = Counter(
            self._sides[vote["question"]][vote["choice"] == "right"]
            for vote in votes
            if vote["choice"] in ("left", "right")
        )
        before, after = (preferred[name] for name in self._names)
        return Tally(
            names=self._names,
            before=before,
            after=after,
            same=choices["same"],
            both_bad=choices["both bad"],
            left=choices["left"],
            open=len(self.questions) - len(votes),
            equal=self._equal,
            p=statistics.sign_test(before, after),
        )

    def _votes(self) -> list[dict[str, str]]:
        """The votes in the file, checked."""
        if not self._path.is_file():
            return []
        votes = []
        for number, line in enumerate(self._path.read_text(encoding="utf-8").splitlines(), 1):
            try:
                vote = json.loads(line)
                mine = vote["ballot"] == self._id and vote["question"] in self._sides and vote["choice"] in CHOICES
            except (ValueError, TypeError, KeyError):
                mine = False
            if not mine:
                raise VoteError(
                    f"{self._path}, line {number}: no vote on this ballot (other replies, names or seed). "
                    "Move the file away to vote anew, or name another one."
                )
            votes.append(vote)
        return votes


def _digest(*texts: str) -> str:
    return hashlib.sha256(json.dumps(texts).encode()).hexdigest()[:16]


def read_pairs(path: str | Path) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """The replies before and after, out of the file that lesson 05 saved.

    Args:
        path: `evaluation.json` of a run.

    Raises:
        VoteError: there is no such file, or it is another one.
    """
    try:
        replies = evaluation.Comparison.load(path).replies
        return list(zip(replies["before"], replies["after"], strict=True))
    except (evaluation.EvaluationError, ValueError, KeyError, TypeError) as error:
        raise VoteError(
            f"{path} holds no replies to vote on; `python -m course_utils evaluate` writes them."
        ) from error


def main() -> None:
    """Vote in the terminal on the replies of lesson 05; an empty line ends it, and the next call goes on there."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from course_utils import setup
    from course_utils.cli import ask

    run_dir = setup(["evaluation"]).run_dir
    ballot = Ballot(read_pairs(run_dir / "evaluation.json"), run_dir / "votes.jsonl")
    keys = {str(number): choice for number, choice in enumerate(CHOICES, 1)}
    asked = ", ".join(f"{key} {choice}" for key, choice in keys.items())
    for question in ballot.open():
        replies = Table("left", "right", title=Text(question.prompt), title_justify="left")
        replies.add_row(Text(question.left), Text(question.right))
        Console().print(replies)
        while (answer := ask(f"{asked}> ")) and answer not in keys:
            print(f"{answer!r} is none of {', '.join(keys)}.")
        if not answer:
            break
        ballot.vote(question, keys[answer])
    print(ballot.tally().words)


if __name__ == "__main__":
    try:
        main()
    except CourseError as error:
        sys.exit(f"error: {error}")
