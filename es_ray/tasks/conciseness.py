"""Conciseness (arXiv 2509.24372, section 4.2): answer in as many characters as the target has.

Example: prompt "What is the capital of France?", target "Paris". The completion "Paris" earns 0,
"The capital of France is Paris." earns -(31 - 5) = -26, and so does any other text of 31 characters:
the reward sees only the length. That is why `correct` and `exact` are recorded beside it.
"""

import re
from typing import Final

from es_ray.errors import UserError
from es_ray.paths import data_dir
from es_ray.tasks.base import Example, Score, Task, example_name, no_target

WORST: Final = -2000.0
"""The reward that is 0 where the paper reports rewards."""


class Conciseness(Task):
    """Reward -|len(completion) - len(target)|, in characters."""

    train = data_dir() / "conciseness" / "train.jsonl"
    test = data_dir() / "conciseness" / "test.jsonl"

    def check_example(self, example: Example) -> None:
        """A target must be text."""
        if not isinstance(example.target, str):
            raise UserError(f"{example_name(example)}: {no_target(example, 'text')}")

    def score(self, example: Example, completion: str) -> Score:
        """Reward by length; correct: the target as a whole word; exact: nothing but the target."""
        text, target = completion.strip(), example.target.strip()
        word = rf"(?<!\w){re.escape(target)}(?!\w)"
        return Score(
            reward=-float(abs(len(text) - len(target))),
            metrics={
                "correct": re.search(word, text, re.IGNORECASE) is not None,
                "exact": text.removesuffix(".").rstrip().casefold() == target.removesuffix(".").casefold(),
            },
        )

    def normalized_reward(self, reward: float) -> float:
        """As the paper reports it (arXiv 2509.24372, appendix A.2): 0 for -2000, 1 for the best possible, 0.

        Within [0, 1]: below -2000 it is 0.

        >>> Conciseness().normalized_reward(-97.75)
        0.951125
        """
        return max(1 - reward / WORST, 0.0)


class ValidatedConciseness(Conciseness):
    """Conciseness with validation questions for the bundled model, whose corpus has their facts.

    Of its two training questions many centres have the best reward before any test answer has changed. The
    paper's task has no validation, so this is another one.
    """

    validation = data_dir() / "conciseness" / "validation.jsonl"
