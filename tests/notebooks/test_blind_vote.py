"""notebooks.extras.blind_vote: blind, fair, resumable, and no more certain than the votes allow."""

import json
import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from course_utils import evaluation
from course_utils.evals.statistics import LEVEL, sign_test
from notebooks.extras import blind_vote
from notebooks.extras.blind_vote import CHOICES, Ballot, Tally, VoteError, read_pairs


def pairs(number=40):
    return [({"prompt": f"p{k}", "reply": f"old {k}"}, {"prompt": f"p{k}", "reply": f"new {k}"}) for k in range(number)]


def run(ballot, choose):
    for question in ballot.open():
        ballot.vote(question, choose(question))
    return ballot.tally()


def test_a_voter_who_reads_is_heard_wherever_the_reply_stands(tmp_path):
    tally = run(Ballot(pairs(), tmp_path / "v"), lambda q: "left" if q.left.startswith("new") else "right")
    assert (tally.after, tally.before, tally.open) == (40, 0, 0) and tally.p < 1e-9
    assert 8 < tally.left < 32
    assert "tuned preferred 40 times, base 0 times" in tally.words and "Tuned is preferred" in tally.words
    worse = run(Ballot(pairs(), tmp_path / "w"), lambda q: "left" if q.left.startswith("old") else "right")
    assert "Base is preferred" in worse.words


def test_a_voter_of_places_decides_nothing(tmp_path):
    for seed in range(10):
        tally = run(Ballot(pairs(), tmp_path / f"v{seed}", seed=seed), lambda _: "left")
        assert tally.left == 40 and tally.p > 0.01
    tally = run(Ballot(pairs(), tmp_path / "same"), lambda q: "same" if q.prompt < "p2" else "both bad")
    assert (tally.same + tally.both_bad, tally.p) == (40, 1.0)
    assert "Not told apart" in tally.words


def test_it_goes_on_where_it_ended_in_the_same_order(tmp_path):
    path = tmp_path / "runs" / "votes.jsonl"
    first = Ballot(pairs(), path)
    asked = first.open()
    assert [q.prompt for q in asked] != [f"p{k}" for k in range(40)], "the order is by chance"
    for question in asked[:5]:
        first.vote(question, "left")
    second = Ballot(pairs(), path)
    assert second.open() == asked[5:]
    assert second.tally() == first.tally() and second.tally().open == 35
    lines = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    assert [line["question"] for line in lines] == [question.key for question in asked[:5]]
    assert set(lines[0]) == {"ballot", "question", "left", "choice", "time"}
    for question, line in zip(asked, lines, strict=False):
        assert line["left"] == ("tuned" if question.left.startswith("new") else "base")
    assert {line["left"] for line in lines} <= {"base", "tuned"}
    with pytest.raises(VoteError, match="has a vote"):
        second.vote(asked[0], "left")


def test_a_write_that_fails_leaves_the_votes(tmp_path, monkeypatch):
    ballot = Ballot(pairs(), tmp_path / "v")
    one, two, *_ = ballot.open()
    ballot.vote(one, "left")
    before = (tmp_path / "v").read_bytes()
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(OSError, match="full"):
        ballot.vote(two, "left")
    assert (tmp_path / "v").read_bytes() == before and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    "other",
    [
        lambda path: Ballot(pairs(39), path),
        lambda path: Ballot(pairs(), path, seed=1),
        lambda path: Ballot(pairs(), path, names=("before", "after")),
        lambda path: path.write_text("good, bad\n", "utf-8") and Ballot(pairs(), path),
        lambda path: path.write_text("[1]\n", "utf-8") and Ballot(pairs(), path),
    ],
)
def test_a_file_of_another_ballot_is_refused(other, tmp_path):
    ballot = Ballot(pairs(), tmp_path / "v")
    ballot.vote(ballot.open()[0], "left")
    with pytest.raises(VoteError, match="v, line 1: no vote on this ballot"):
        other(tmp_path / "v")


def test_what_nobody_can_cast(tmp_path):
    ballot = Ballot(pairs(), tmp_path / "v")
    with pytest.raises(VoteError, match="'tuned' is no choice; a vote is one of left, right, same, both bad"):
        ballot.vote(ballot.open()[0], "tuned")
    with pytest.raises(VoteError, match="never asked"):
        ballot.vote(blind_vote.Question("x", "p", "a", "b"), "left")
    assert not (tmp_path / "v").exists()


def test_equal_replies_are_not_asked(tmp_path):
    ballot = Ballot([*pairs(2), ({"prompt": "p", "reply": "a "}, {"prompt": "p", "reply": "a"})], tmp_path / "v")
    assert len(ballot.questions) == 2 and ballot.tally().equal == 1


def test_nothing_that_a_voter_sees_names_a_side(tmp_path):
    ballot = Ballot(pairs(), tmp_path / "v")
    sides = [question.left.split()[0] for question in ballot.questions]
    assert 8 < sides.count("new") < 32
    assert sides != [q.left.split()[0] for q in Ballot(pairs(), tmp_path / "w", seed=7).questions]
    alone = {q.prompt: q.left for q in Ballot(pairs(3), tmp_path / "x").questions}
    whole = {q.prompt: q.left for q in ballot.questions}
    assert all(whole[prompt] == left for prompt, left in alone.items()), "a side hangs on its question alone"


@given(st.integers(0, 60), st.integers(0, 60))
def test_the_sign_test_against_every_way_that_coins_can_fall(one, other):
    ways = [math.comb(one + other, heads) for heads in range(one + other + 1)]
    expected = sum(each for heads, each in enumerate(ways) if each <= ways[one]) / 2 ** (one + other)
    assert math.isclose(sign_test(one, other), expected, rel_tol=1e-9)


def test_coins_are_rarely_taken_for_a_difference():
    rng = random.Random(0)
    heads = [sum(rng.random() < 0.5 for _ in range(30)) for _ in range(2000)]
    assert sum(sign_test(count, 30 - count) < 1 - LEVEL for count in heads) / 2000 <= 0.06


def test_five_of_five_are_not_enough():
    counts = {"same": 0, "both_bad": 0, "left": 2, "open": 0, "equal": 0}
    assert sign_test(5, 0) == 0.0625
    assert "Not told apart" in Tally(("base", "tuned"), 0, 5, p=sign_test(0, 5), **counts).words


UNEVEN = '{"table": [], "worse": [], "perplexities": {}, "figures": {}, "replies": {"before": [1], "after": []}}'


@pytest.mark.parametrize("content", [None, "{", "{}", UNEVEN, "[]"])
def test_no_evaluation_no_votes(content, tmp_path):
    if content:
        (tmp_path / "evaluation.json").write_text(content, "utf-8")
    with pytest.raises(VoteError, match="`python -m course_utils evaluate`"):
        read_pairs(tmp_path / "evaluation.json")


def test_in_the_terminal(tmp_path, monkeypatch, capsys):
    both = {"before": [old for old, _ in pairs(5)], "after": [new for _, new in pairs(5)]}
    evaluation.Comparison([], [], {}, {}, both).save(tmp_path / "evaluation.json")
    ready = type("Ready", (), {"run_dir": tmp_path})()
    monkeypatch.setattr("course_utils.lessons.setup.setup", lambda needs: ready)

    def typed(text):
        lines = iter(text.split("\n"))
        monkeypatch.setattr("builtins.input", lambda prompt: next(lines))
        blind_vote.main()
        return capsys.readouterr().out

    first = typed("1\n9\n4\n\n")
    assert "'9' is none of 1, 2, 3, 4." in first
    assert "3 not voted on" in first and "both bad 1" in first
    choices = [json.loads(line)["choice"] for line in (tmp_path / "votes.jsonl").read_text("utf-8").splitlines()]
    assert choices == ["left", "both bad"] and set(choices) < set(CHOICES)
    assert "base" not in first.split("preferred")[0].replace("tuned", "")
    second = typed("2\n2\n2\n")
    assert "0 not voted on" in second and second.count("left ") >= 3
