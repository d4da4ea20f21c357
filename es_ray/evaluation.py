"""What is asked of a worker, and what comes back."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from es_ray.engines.base import BASE, CENTRE, candidate_name


@dataclass(frozen=True)
class Candidate:
    """Who is to answer (a member's index, CENTRE or BASE), and the splits whose prompts it answers."""

    index: int
    splits: tuple[str, ...] = ("train",)


@dataclass(frozen=True)
class Shard:
    """Candidates that one worker evaluates in one batch: always the same ones, whoever does it."""

    generation: int
    candidates: tuple[Candidate, ...]

    def __str__(self) -> str:
        members = [c.index for c in self.candidates if c.index >= 0]
        names = [f"members {members[0]}-{members[-1]}"] if members else []
        names += [
            {CENTRE: "the centre", BASE: "the base model"}[c.index] for c in self.candidates if c.index < 0
        ]
        return f"{' and '.join(names)} of generation {self.generation}"


@dataclass(frozen=True)
class Answer:
    """One completion with its score; tokens counts what was generated, the stop token included."""

    prompt: str
    target: str
    completion: str
    reward: float
    correct: bool
    exact: bool
    tokens: int
    finish: str


@dataclass(frozen=True)
class Outcome:
    """All answers of one candidate, by split, and the worker that produced them."""

    index: int
    answers: dict[str, list[Answer]]
    worker: str

    def reward(self, split: str = "train") -> float:
        """Mean reward over the split's examples."""
        return float(np.mean([answer.reward for answer in self.answers[split]]))

    def share(self, what: str, split: str) -> float:
        """Share of the split's answers that are `correct`, or `exact`."""
        return float(np.mean([getattr(answer, what) for answer in self.answers[split]]))

    def summary(self, split: str) -> dict[str, Any]:
        """Reward, correct and exact over a split."""
        return {
            "reward": self.reward(split),
            "correct": self.share("correct", split),
            "exact": self.share("exact", split),
        }


__all__ = ["BASE", "CENTRE", "Answer", "Candidate", "Outcome", "Shard", "candidate_name"]
