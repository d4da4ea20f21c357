"""Completions that are broken whatever the task: empty, looping, or the same wrong one to everything.

Reward hacking and too much noise end in these. The numbers mean something beside the base model's alone: a
task may want short answers, equal ones, or long ones that are cut.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

LONGEST_UNIT: Final = 32
"""Characters of the longest unit whose repetition counts as a loop."""
SHORTEST_LOOP: Final = 24
"""Characters that a loop has at least: `ha ha ha` is an answer."""
FEWEST_REPEATS: Final = 4
FEWEST_WORDS, WORDS_FOR_EACH = 24, 8
"""A text of so many words loops too if at most one word in so many is a new one."""


class AnswerCounts(NamedTuple):
    """Of a candidate's answers: how many there are, and how many are empty, looping, the same, or cut.

    empty: nothing but white space, and not right; looping: see `loops`, unless the text is the target; same:
    the most of those that are not right and equal one another, 0 for a single prompt;
    truncated: ended by task.max_new_tokens. Right is what the task calls `correct`, and the target itself.
    """

    answers: int
    empty: int
    looping: int
    same: int
    truncated: int


class Answer(NamedTuple):
    """What is counted of a completion."""

    prompt: str
    target: Any
    completion: str
    metrics: Mapping[str, float]
    truncated: bool


def count_answers(answers: Sequence[Answer]) -> AnswerCounts:
    """The counts of a candidate's answers."""
    empty = looping = 0
    wrong: Counter[str] = Counter()
    for answer in answers:
        text = answer.completion.strip().casefold()
        is_target = answer.target is not None and text == str(answer.target).strip().casefold()
        if not is_target and not answer.metrics.get("correct"):
            wrong[text] += 1
            empty += not text
        looping += not is_target and loops(text)
    same = max(wrong.values(), default=0)
    several = len({answer.prompt for answer in answers}) > 1
    return AnswerCounts(
        answers=len(answers),
        empty=empty,
        looping=looping,
        same=same if several and same > 1 else 0,
        truncated=sum(answer.truncated for answer in answers),
    )


def loops(text: str) -> bool:
    """Whether half of a text or more is one unit again and again, or its words are hardly ever new ones.

    The unit has at most LONGEST_UNIT characters and comes at least FEWEST_REPEATS times in a row, in the last
    half of the text or in its middle half.

    >>> loops("he" * 20), loops("The answer is 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1"), loops("ha ha ha")
    (True, True, False)
    """
    half = max(len(text) // 2, SHORTEST_LOOP)
    if len(text) < half:
        return False
    quarter = (len(text) - half) // 2
    if any(_is_periodic(part) for part in (text[-half:], text[quarter : quarter + half])):
        return True
    words = text.split()
    return len(words) >= FEWEST_WORDS and len(set(words)) * WORDS_FOR_EACH <= len(words)


def _is_periodic(text: str) -> bool:
    longest = min(LONGEST_UNIT, len(text) // FEWEST_REPEATS)
    return any(text[unit:] == text[:-unit] for unit in range(1, longest + 1))
