"""What is asked of a worker, and what comes back."""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from operator import attrgetter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from es_ray.engines.base import BASE, CENTRE, candidate_name

SPLITS = ("train", "test")

SUMMARY_DTYPE = np.dtype(
    [
        ("index", np.int64),
        ("split", np.int64),  # its number in SPLITS
        ("reward", np.float64),  # this and the next two: means over the split's examples
        ("correct", np.float64),
        ("exact", np.float64),
        ("answers", np.int64),  # this and the rest: sums over them
        ("characters", np.int64),
        ("tokens", np.int64),
        ("truncated", np.int64),
    ]
)
"""A candidate's answers on one split, in numbers."""
MEANS = ("reward", "correct", "exact")


@dataclass(slots=True)  # not frozen: that is slow to make, thousands of times
class Candidate:
    """Who is to answer (a member's index, CENTRE or BASE), and the splits whose prompts it answers."""

    index: int
    splits: tuple[str, ...] = ("train",)


@dataclass(frozen=True)
class Shard:
    """Candidates that one worker evaluates in one batch: always the same ones, whoever does it."""

    generation: int
    candidates: tuple[Candidate, ...]

    def packed(self) -> list[Any]:
        """Numbers and words in lists, as it travels: Ray packs those much faster than objects.

        Candidates that follow each other and answer the same splits make one list: splits, then indices.
        """
        groups = groupby(self.candidates, attrgetter("splits"))
        return [self.generation, [[list(splits), [c.index for c in same]] for splits, same in groups]]

    @classmethod
    def of(cls, generation: int, groups: Sequence[Sequence[Any]]) -> "Shard":
        """From what `packed` returned."""
        found = [Candidate(index, tuple(splits)) for splits, indices in groups for index in indices]
        return cls(generation, tuple(found))

    def __str__(self) -> str:
        members = [c.index for c in self.candidates if c.index >= 0]
        names = [f"members {members[0]}-{members[-1]}"] if members else []
        names += [
            {CENTRE: "the centre", BASE: "the base model"}[c.index] for c in self.candidates if c.index < 0
        ]
        return f"{' and '.join(names)} of generation {self.generation}"


@dataclass(frozen=True)
class Sample:
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
class ShardOutcome:
    """What one worker made of a shard, as it travels: numbers in one array, texts as they will be written.

    tallies: one SUMMARY_DTYPE for each candidate and split; examples: for each of those its Samples as a
    JSON array.
    So the driver handles a few objects for a shard, and not several for each completion.
    """

    worker: str
    tallies: NDArray[Any]
    examples: list[str]

    @classmethod
    def of(cls, worker: str, answered: dict[tuple[int, str], list[Sample]]) -> "ShardOutcome":
        """From answers by (candidate's index, split)."""
        tallies = np.array([_tally(*who, answers) for who, answers in answered.items()], dtype=SUMMARY_DTYPE)
        return cls(worker, tallies, [_json([asdict(a) for a in answers]) for answers in answered.values()])


def _tally(index: int, split: str, answers: list[Sample]) -> tuple[float, ...]:
    return (
        index,
        SPLITS.index(split),
        *(math.fsum(getattr(answer, what) for answer in answers) / len(answers) for what in MEANS),
        len(answers),
        sum(len(answer.completion) for answer in answers),
        sum(answer.tokens for answer in answers),
        sum(answer.finish == "length" for answer in answers),
    )


class Outcomes:
    """All that came back of an evaluation."""

    def __init__(self, parts: Sequence[ShardOutcome]) -> None:
        # np.concatenate takes its time to find that all have the same fields
        self._tallies = np.frombuffer(b"".join(part.tallies.tobytes() for part in parts), dtype=SUMMARY_DTYPE)
        self._examples = [text for part in parts for text in part.examples]
        self._workers = [part.worker for part in parts for _ in part.examples]
        indices, splits = self._tallies["index"], self._tallies["split"]
        members = np.flatnonzero((indices >= 0) & (splits == SPLITS.index("train")))
        self._members = members[np.argsort(indices[members], kind="stable")]

    @property
    def members(self) -> NDArray[Any]:
        """The members' TALLYs on the training split by index, shape [N]."""
        return self._tallies[self._members]

    @property
    def tokens(self) -> int:
        """Tokens that were generated for all of them."""
        return int(self._tallies["tokens"].sum())

    def summary(self, index: int, split: str) -> dict[str, Any]:
        """A candidate's mean reward, and shares of correct and exact answers, on a split."""
        tally = self._tallies[self._row(index, split)]
        return {what: float(tally[what]) for what in MEANS}

    def examples(self, index: int, split: str) -> list[dict[str, Any]]:
        """A candidate's Sample on a split, as records."""
        return json.loads(self._examples[self._row(index, split)])

    def splits(self, index: int) -> list[str]:
        """The splits that a candidate answered; none if it was not asked."""
        return [SPLITS[number] for number in self._tallies["split"][self._tallies["index"] == index]]

    def lines(self, advantages: NDArray[np.float64]) -> Iterator[str]:
        """population.jsonl, line by line: a member's index, reward, advantage (Z), worker and examples."""
        rewards = self.members["reward"].tolist()
        for row, reward, advantage in zip(self._members.tolist(), rewards, advantages.tolist(), strict=True):
            start = {"index": int(self._tallies["index"][row]), "reward": reward, "advantage": advantage}
            head = _json(start | {"worker": self._workers[row]})
            yield f'{head[:-1]}, "examples": {self._examples[row]}}}\n'  # they are JSON already

    def _row(self, index: int, split: str) -> int:
        same = (self._tallies["index"] == index) & (self._tallies["split"] == SPLITS.index(split))
        return int(np.flatnonzero(same)[0])


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


__all__ = ["BASE", "CENTRE", "Candidate", "Outcomes", "Sample", "Shard", "ShardOutcome", "candidate_name"]
