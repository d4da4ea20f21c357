"""Rewards of the benchmark that es-ray has in no task of its own."""

import re
from decimal import Decimal, InvalidOperation

from es_ray.tasks import Example, Score, Task
from es_ray.tasks.conciseness import Conciseness


class ChainSum(Task):
    """The score of reasoning-gym's chain_sum, for machines without that package.

    1 for a number that equals the target, for text that contains the target its share of the characters, else
    0: as `compute_decimal_reward` of reasoning-gym 0.1, which the tests compare it with. Data made by
    `evidence_data.write_chain_sum`. Metrics: correct (1); contains (the target as a number of its own).
    """

    def score(self, example: Example, completion: str) -> Score:
        """Score as the package does, of the text in the last <answer> tags, where there are any."""
        text, target = completion, str(example.target)
        if "<answer>" in text and "</answer>" in text:
            text = text.rpartition("</answer>")[0].rpartition("<answer>")[2]
        reward = compute_decimal_reward(text.strip(), target)
        found = re.search(rf"(?<![\d-]){re.escape(target)}(?!\d)", completion) is not None
        return Score(reward, {"correct": reward >= 1, "contains": found})


def compute_decimal_reward(answer: str, target: str) -> float:
    """Reasoning-gym's function of that name, with commas left out."""
    if not answer:
        return 0.0
    answer, target = answer.replace(",", ""), target.replace(",", "")
    try:
        if Decimal(answer) == Decimal(target):
            return 1.0
    except InvalidOperation:
        pass
    return len(target) / len(answer) if target in answer else 0.0


class Brevity(Conciseness):
    """The task `conciseness` with `wrong` taken off for an answer without the target."""

    def __init__(self, wrong: float = 50.0) -> None:
        self._wrong = wrong

    def score(self, example: Example, completion: str) -> Score:
        """Reward -|len(completion) - len(target)|, less `wrong` unless it is correct."""
        score = super().score(example, completion)
        return Score(score.reward - self._wrong * (not score.metrics["correct"]), score.metrics)
