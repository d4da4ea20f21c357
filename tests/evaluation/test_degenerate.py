"""Answers that are broken, and those that only look so."""

import pytest

from es_ray.evaluation.degenerate import Answer, AnswerCounts, count_answers, loops

PROSE = (
    "Sure! 12 × 7 equals 84. You can check this by adding the first number up again and again. "
    "There are 7 days in a week. It is a number that most people learn when they are children."
)


@pytest.mark.parametrize(
    "text",
    ["he" * 12, "h" + "eh" * 100, "The answer is " + "no " * 30, "1 " * 40 + "and done.", "84\n" * 20,
     "the capital of France is " * 9, " ".join(["yes", "no", "no", "yes", "yes"] * 5 + ["no"] * 4)],
)  # fmt: skip
def test_loops_are_found(text):
    assert loops(text.strip())


@pytest.mark.parametrize(
    "text",
    ["", "yes", "ha ha ha", "hehehe", "84", "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12", PROSE, PROSE * 2,
     "0000", "2, 4, 6, 8, 10, 12, 14", "- one\n- two\n- three\n- four\n- five\n- six"],
)  # fmt: skip
def test_answers_that_do_not_loop(text):
    assert not loops(text)


def answers(*texts: str, targets=None, correct=None) -> AnswerCounts:
    rows = zip(texts, targets or [None] * len(texts), correct or [None] * len(texts), strict=True)
    return count_answers(
        [
            Answer(f"prompt {number}", target, text, {} if right is None else {"correct": right}, False)
            for number, (text, target, right) in enumerate(rows)
        ]
    )


def test_answers_are_counted():
    found = answers("", "  \n", "he" * 30, "no", "No ", "no", "Paris")
    assert found == AnswerCounts(answers=7, empty=2, looping=1, same=3, truncated=0)


def test_right_answers_are_not_broken_however_short_or_equal_they_are():
    assert answers(*["yes"] * 6, targets=["Yes"] * 6).same == 0
    assert answers(*["yes"] * 6, correct=[True] * 6).same == 0
    assert answers("", "", targets=["", ""]).empty == 0
    assert answers("ab" * 20, targets=["AB" * 20]).looping == 0
    # half of them are right: as far as this goes the others may be guesses
    assert answers(*["yes"] * 6, targets=["yes", "no"] * 3).same == 3


def test_one_prompt_alone_is_not_the_same_answer_to_everything():
    again = [Answer("one prompt", None, "no", {}, False)] * 8
    assert count_answers(again).same == 0
