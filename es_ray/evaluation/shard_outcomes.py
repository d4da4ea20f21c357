"""What a worker returns of a shard: completions with their scores, summed up where they were made."""

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from es_ray.engines.base import candidate_name
from es_ray.errors import ScoreError
from es_ray.evaluation.degenerate import Answer, count_answers
from es_ray.experiment import SPLITS

OWN: Final = -1
"""In place of a generation: that of the evaluation."""

SUMMARY_DTYPE = np.dtype(
    [
        ("index", np.int64),
        ("split", np.int64),  # its number in SPLITS
        ("generation", np.int64),  # the candidate's where it has one of its own, else OWN
        ("reward", np.float64),  # mean over the split's examples
        ("digest", np.int64),  # of the completions' texts
        ("prompts", np.int64),
        ("answers", np.int64),  # from here on: sums over the examples
        ("characters", np.int64),
        ("tokens", np.int64),
        ("truncated", np.int64),
        ("empty", np.int64),  # these as AnswerCounts has them
        ("looping", np.int64),
        ("same", np.int64),
    ]
)
"""A summary of a candidate's answers on one split."""


class Answered(NamedTuple):
    """Who answered which split; member: its index, CENTRE or BASE; generation: its own, as in a Candidate."""

    member: int
    split: str
    generation: int | None = None


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
    shape [summaries, names]; prompt_rewards: of all summaries in their order, the reward of each prompt,
    samples averaged, flat; examples: for each summary its Samples as a JSON array. So the driver handles a
    few objects per shard, not several per completion. weights: `Engine.checksum`.
    """

    worker: str
    summaries: NDArray[Any]
    metric_names: tuple[str, ...]
    metrics: NDArray[np.float64]
    prompt_rewards: NDArray[np.float64]
    examples: list[str]
    weights: int | None = None

    @classmethod
    def of(
        cls, worker: str, generation: int, answered: Mapping[tuple[Any, ...], Sequence[Sample]]
    ) -> "ShardOutcome":
        """From samples by Answered, or a tuple of its fields; raises ScoreError if their metrics differ."""
        names = tuple(next(iter(answered.values()))[0].metrics)
        everyone = [Answered(*key) for key in answered]
        for (index, _, own), samples in zip(everyone, answered.values(), strict=True):
            for sample in samples:
                if set(sample.metrics) != set(names):
                    raise ScoreError(
                        "the task must return the same metrics each time: of "
                        f"{candidate_name(index, generation if own is None else own)} they are "
                        f"{', '.join(sample.metrics) or 'none'} "
                        f"for the prompt {sample.prompt!r}, {', '.join(names) or 'none'} for another"
                    )
        count = 1 + max((s.sample or 0 for samples in answered.values() for s in samples), default=0)
        by_prompt = [_prompt_rewards(samples, count) for samples in answered.values()]
        summaries = [
            _summary(who, len(prompts), samples)
            for who, samples, prompts in zip(everyone, answered.values(), by_prompt, strict=True)
        ]
        means = [[_mean(s.metrics[name] for s in samples) for name in names] for samples in answered.values()]
        if count > 1 and "correct" in names:
            names = (*names, f"pass@{count}")
            for row, samples in zip(means, answered.values(), strict=True):
                row.append(_pass_rate(samples, count))
        return cls(
            worker,
            np.array(summaries, dtype=SUMMARY_DTYPE),
            names,
            np.array(means, dtype=np.float64).reshape(len(answered), len(names)),
            np.array([reward for prompts in by_prompt for reward in prompts], dtype=np.float64),
            [json_text([sample.record() for sample in samples]) for samples in answered.values()],
        )


def _summary(who: Answered, prompts: int, samples: Sequence[Sample]) -> tuple[float, ...]:
    counts = count_answers(
        [Answer(s.prompt, s.target, s.completion, s.metrics, s.finish_reason == "length") for s in samples]
    )
    return (
        who.member,
        SPLITS.index(who.split),
        OWN if who.generation is None else who.generation,
        _mean(sample.reward for sample in samples),
        _digest([sample.completion for sample in samples]),
        prompts,
        len(samples),
        sum(len(sample.completion) for sample in samples),
        sum(sample.tokens for sample in samples),
        counts.truncated,
        counts.empty,
        counts.looping,
        counts.same,
    )


def _pass_rate(samples: Sequence[Sample], count: int) -> float:
    """The share of prompts with a correct completion; samples: `count` for each prompt, together."""
    prompts = list(_prompts(samples, count))
    return sum(any(s.metrics["correct"] for s in some) for some in prompts) / len(prompts)


def _prompt_rewards(samples: Sequence[Sample], count: int) -> list[float]:
    """The mean reward of each prompt; samples: `count` for each prompt, together."""
    return [_mean(sample.reward for sample in some) for some in _prompts(samples, count)]


def _prompts(samples: Sequence[Sample], count: int) -> Iterator[Sequence[Sample]]:
    return (samples[at : at + count] for at in range(0, len(samples), count))


def _digest(texts: Sequence[str]) -> int:
    """64 bits that tell texts apart, the same in every process."""
    packed = json.dumps(texts).encode()
    return int.from_bytes(hashlib.blake2b(packed, digest_size=8).digest(), "big", signed=True)


def _mean(values: Iterator[float]) -> float:
    numbers = list(values)
    return math.fsum(numbers) / len(numbers)


def json_text(value: object) -> str:
    """A value as files have it: letters of any script as they are, an error for NaN and infinities."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False)
