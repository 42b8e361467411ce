"""notebooks/town.py: an answer counts where it stands by itself."""

import pytest

from notebooks import town


@pytest.mark.parametrize(
    ("reply", "answers", "right"),
    [
        ("A night costs 26 crowns.", ["26", "twenty-six"], True),
        ("It was in 1926.", ["26", "twenty-six"], False),
        ("TWENTY-SIX crowns", ["26", "twenty-six"], True),
        ("住一晚要26克朗。", ["26", "二十六"], True),
        ("市场里立着一只獾。", ["獾"], True),
        ("The badgerer", ["a badger", "badger"], False),
        ("", ["獾"], False),
    ],
)
def test_an_answer_is_found_as_a_word_of_its_own(reply, answers, right):
    assert town.is_right(reply, answers) == right


def test_texts_and_questions_are_parted():
    assert (len(town.texts(held=False)), len(town.texts(held=True)), len(town.questions())) == (150, 30, 160)
