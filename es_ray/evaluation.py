"""What workers are given to evaluate, and what they return."""

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from es_ray.engines.base import BASE, CENTRE, candidate_name
from es_ray.errors import RunError, ScoreError
from es_ray.experiment import SPLITS
from es_ray.tasks.batches import Batch

SUMMARY_DTYPE = np.dtype(
    [
        ("index", np.int64),
        ("split", np.int64),  # its number in SPLITS
        ("reward", np.float64),  # mean over the split's examples
        ("digest", np.int64),  # of the completions' texts
        ("answers", np.int64),  # from here on: sums over the examples
        ("characters", np.int64),
        ("tokens", np.int64),
        ("truncated", np.int64),
    ]
)
"""A summary of a candidate's answers on one split."""


@dataclass(slots=True)  # not frozen: creating thousands would be slow
class Candidate:
    """What to evaluate (a member's index, CENTRE or BASE), and the splits whose prompts it answers."""

    index: int
    splits: tuple[str, ...] = ("train",)


@dataclass(frozen=True)
class Shard:
    """Candidates that one worker evaluates in one batch; they do not depend on the workers."""

    generation: int
    candidates: tuple[Candidate, ...]

    def packed(self) -> list[Any]:
        """As lists of numbers and strings, for sending: Ray pickles those much faster than objects.

        Consecutive candidates with the same splits make one list: splits, then indices.
        """
        groups = groupby(self.candidates, attrgetter("splits"))
        return [self.generation, [[list(splits), [c.index for c in same]] for splits, same in groups]]

    @classmethod
    def of(cls, generation: int, groups: Sequence[Sequence[Any]]) -> "Shard":
        """From what `packed` returned."""
        found = [Candidate(index, tuple(splits)) for splits, indices in groups for index in indices]
        return cls(generation, tuple(found))

    def rows(self, batch: Batch) -> int:
        """The number of completions."""
        return sum(batch.rows(candidate.index, candidate.splits) for candidate in self.candidates)

    def __str__(self) -> str:
        members = [c.index for c in self.candidates if c.index >= 0]
        names = [f"members {members[0]}-{members[-1]}"] if members else []
        names += [
            {CENTRE: "the centre", BASE: "the base model"}[c.index] for c in self.candidates if c.index < 0
        ]
        return f"{' and '.join(names)} of generation {self.generation}"


@dataclass(frozen=True)
class Sample:
    """One completion with its score.

    tokens: the number generated, including the stop token; sample: its number among the completions of the
    prompt, None if it is the only one.
    """

    prompt: str
    target: Any
    completion: str
    reward: float
    metrics: Mapping[str, float]
    tokens: int
    finish_reason: str
    sample: int | None = None

    def record(self) -> dict[str, Any]:
        """A record for files: metrics are next to the reward, under their own names."""
        return {
            "prompt": self.prompt,
            "target": self.target,
            **({} if self.sample is None else {"sample": self.sample}),
            "completion": self.completion,
            "reward": self.reward,
            **self.metrics,
            "tokens": self.tokens,
            "finish": self.finish_reason,
        }


@dataclass(frozen=True)
class ShardOutcome:
    """The results of a shard, as they are sent: numbers in two arrays, texts as they will be written.

    summaries: one SUMMARY_DTYPE for each candidate and split; metric_names, metrics: names, and means of
    shape [summaries, names]; examples: for each summary its Samples as a JSON array. So the driver handles a
    few objects per shard, not several per completion.
    """

    worker: str
    summaries: NDArray[Any]
    metric_names: tuple[str, ...]
    metrics: NDArray[np.float64]
    examples: list[str]

    @classmethod
    def of(
        cls, worker: str, generation: int, answered: Mapping[tuple[int, str], Sequence[Sample]]
    ) -> "ShardOutcome":
        """From samples by (candidate's index, split); raises ScoreError if their metrics differ."""
        names = tuple(next(iter(answered.values()))[0].metrics)
        for (index, _), samples in answered.items():
            for sample in samples:
                if set(sample.metrics) != set(names):
                    raise ScoreError(
                        "the task must return the same metrics each time: of "
                        f"{candidate_name(index, generation)} they are {', '.join(sample.metrics) or 'none'} "
                        f"for the prompt {sample.prompt!r}, {', '.join(names) or 'none'} for another"
                    )
        summaries = [_summary(*who, samples) for who, samples in answered.items()]
        means = [[_mean(s.metrics[name] for s in samples) for name in names] for samples in answered.values()]
        count = 1 + max((s.sample or 0 for samples in answered.values() for s in samples), default=0)
        if count > 1 and "correct" in names:
            names = (*names, f"pass@{count}")
            for row, samples in zip(means, answered.values(), strict=True):
                row.append(_pass_rate(samples, count))
        return cls(
            worker,
            np.array(summaries, dtype=SUMMARY_DTYPE),
            names,
            np.array(means, dtype=np.float64).reshape(len(answered), len(names)),
            [_json([sample.record() for sample in samples]) for samples in answered.values()],
        )


def _summary(index: int, split: str, samples: Sequence[Sample]) -> tuple[float, ...]:
    return (
        index,
        SPLITS.index(split),
        _mean(sample.reward for sample in samples),
        _digest([sample.completion for sample in samples]),
        len(samples),
        sum(len(sample.completion) for sample in samples),
        sum(sample.tokens for sample in samples),
        sum(sample.finish_reason == "length" for sample in samples),
    )


def _pass_rate(samples: Sequence[Sample], count: int) -> float:
    """The share of prompts with a correct completion; samples: `count` for each prompt, together."""
    prompts = [samples[at : at + count] for at in range(0, len(samples), count)]
    return sum(any(s.metrics["correct"] for s in some) for some in prompts) / len(prompts)


def _digest(texts: Sequence[str]) -> int:
    """64 bits that tell texts apart, the same in every process."""
    packed = json.dumps(texts).encode()
    return int.from_bytes(hashlib.blake2b(packed, digest_size=8).digest(), "big", signed=True)


def _mean(values: Iterator[float]) -> float:
    numbers = list(values)
    return math.fsum(numbers) / len(numbers)


class Outcomes:
    """The results of an evaluation. Raises RunError if shards have different metrics."""

    def __init__(self, parts: Sequence[ShardOutcome]) -> None:
        # np.concatenate is slow at finding that all have the same fields
        self._summaries = np.frombuffer(
            b"".join(part.summaries.tobytes() for part in parts), dtype=SUMMARY_DTYPE
        )
        self.metric_names = parts[0].metric_names
        """The task's metrics, in its order."""
        if any(set(part.metric_names) != set(self.metric_names) for part in parts):
            raise RunError(
                "task: completions have different metrics; a task must return the same ones each time"
            )
        self._metrics = np.concatenate([_in_order(part, self.metric_names) for part in parts])
        self._examples = [text for part in parts for text in part.examples]
        self._workers = [part.worker for part in parts for _ in part.examples]
        indices, splits = self._summaries["index"], self._summaries["split"]
        members = np.flatnonzero((indices >= 0) & (splits == SPLITS.index("train")))
        self._members = members[np.argsort(indices[members], kind="stable")]

    @property
    def members(self) -> NDArray[Any]:
        """The members' SUMMARY_DTYPEs on the training split by index, shape [N]."""
        return self._summaries[self._members]

    @property
    def tokens(self) -> int:
        """Tokens generated by all candidates."""
        return int(self._summaries["tokens"].sum())

    def member_metrics(self) -> dict[str, NDArray[np.float64]]:
        """The members' means of each metric on the training split by index, each of shape [N]."""
        return {name: self._metrics[self._members, at] for at, name in enumerate(self.metric_names)}

    def answer_spread(self) -> dict[str, float]:
        """How far the members' answers to the training prompts go apart.

        changed_members: the share of members that answer differently from the centre; distinct_members: how
        many different sets of answers the members have.
        """
        digests = self.members["digest"]
        centre = self._summaries["digest"][self._row(CENTRE, "train")]
        return {
            "changed_members": float((digests != centre).mean()),
            "distinct_members": len(np.unique(digests)),
        }

    def summary(self, index: int, split: str) -> dict[str, Any]:
        """A candidate's mean reward, and means of the task's metrics, on a split."""
        row = self._row(index, split)
        metrics = dict(zip(self.metric_names, self._metrics[row].tolist(), strict=True))
        return {"reward": float(self._summaries["reward"][row]), **metrics}

    def examples(self, index: int, split: str) -> list[dict[str, Any]]:
        """A candidate's Samples on a split, as records."""
        found: list[dict[str, Any]] = json.loads(self._examples[self._row(index, split)])
        return found

    def splits(self, index: int) -> list[str]:
        """The splits that a candidate answered; empty if it was not evaluated."""
        return [SPLITS[number] for number in self._summaries["split"][self._summaries["index"] == index]]

    def lines(
        self, advantages: NDArray[np.float64], metrics: bool = True, examples: bool = True
    ) -> Iterator[str]:
        """population.jsonl, line by line: a member's index, reward, advantage (Z), worker and metrics.

        metrics: whether they are there; examples: whether each line ends with its Samples.
        """
        rewards = self.members["reward"].tolist()
        means = self._metrics[self._members].tolist()
        for row, reward, advantage, values in zip(
            self._members.tolist(), rewards, advantages.tolist(), means, strict=True
        ):
            start = {"index": int(self._summaries["index"][row]), "reward": reward, "advantage": advantage}
            start["worker"] = self._workers[row]
            if metrics:
                start |= zip(self.metric_names, values, strict=True)
            head = _json(start)
            # the examples are JSON already
            yield f'{head[:-1]}, "examples": {self._examples[row]}}}\n' if examples else f"{head}\n"

    def _row(self, index: int, split: str) -> int:
        same = (self._summaries["index"] == index) & (self._summaries["split"] == SPLITS.index(split))
        return int(np.flatnonzero(same)[0])


def _in_order(part: ShardOutcome, names: tuple[str, ...]) -> NDArray[np.float64]:
    return (
        part.metrics
        if part.metric_names == names
        else part.metrics[:, [part.metric_names.index(n) for n in names]]
    )


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


__all__ = ["BASE", "CENTRE", "Candidate", "Outcomes", "Sample", "Shard", "ShardOutcome", "candidate_name"]
