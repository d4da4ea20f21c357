"""One engine with the run's task: what happens in this process, or in a Ray actor."""

import os
import socket
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from es_ray.config import Config
from es_ray.engines import create_engine
from es_ray.engines.base import Completion, Row, Variant
from es_ray.evaluation import Sample, Shard, ShardOutcome
from es_ray.evolution.perturbation import Perturbation, Vector
from es_ray.experiment import Experiment
from es_ray.tasks.base import Example
from es_ray.workers.scoring import score_of


class Worker:
    """Evaluates shards and computes slices of noise sums. Holds no state of the evolution."""

    def __init__(self, config: Config) -> None:
        self._experiment = Experiment(config)
        self._task = self._experiment.task
        self._engine = create_engine(self._experiment)
        self.info = self._engine.info
        self.name = f"{socket.gethostname()}/{os.getpid()}"
        self.on_rows: Callable[[int], None] = lambda rows: None
        """Called with the number of completions made so far in the current shard."""

    def evaluate(
        self, theta: Vector, perturbation: Perturbation, generation: int, candidates: list[list[Any]]
    ) -> ShardOutcome:
        """Generate and score the candidates of a shard, in one batch; raises EvaluationError.

        theta: the centre that the generation starts from, shape [P]; generation, candidates: a packed Shard.
        """
        shard = Shard.of(generation, candidates)
        prompts, examples = self._experiment.prompt_ids, self._experiment.examples
        places = [
            (Variant(candidate.index, generation), split, number)
            for candidate in shard.candidates
            for split in candidate.splits
            for number in range(len(examples[split]))
        ]
        samples: list[Sample | None] = [None] * len(places)
        made: list[int] = []

        def score(number: int, completion: Completion) -> None:
            variant, split, at = places[number]
            samples[number] = self._sample(variant, examples[split][at], completion)
            made.append(number)
            self.on_rows(len(made))

        rows = [Row(variant, prompts[split][number]) for variant, split, number in places]
        completions = self._engine.generate([theta], perturbation, rows, on_completion=score)
        for number, completion in enumerate(completions):
            if samples[number] is None:  # an engine may leave it to its end
                score(number, completion)
        answered: dict[tuple[int, str], list[Sample]] = {}
        for (variant, split, _), sample in zip(places, samples, strict=True):
            assert sample is not None  # as the engine returned a completion for each row
            answered.setdefault((variant.member, split), []).append(sample)
        return ShardOutcome.of(self.name, generation, answered)

    def noise_sum(
        self,
        perturbation: Perturbation,
        advantages: NDArray[np.float64],
        generation: int,
        start: int,
        stop: int,
    ) -> Vector:
        """Entries [start, stop) of the generation's noise sum."""
        return self._engine.noise_sum(perturbation, generation, advantages, start, stop)

    def close(self) -> None:
        """Close the engine."""
        self._engine.close()

    def _sample(self, variant: Variant, example: Example, completion: Completion) -> Sample:
        text = self._experiment.source.text(completion.token_ids)
        score = score_of(self._task, str(variant), example, text)
        return Sample(
            prompt=example.prompt,
            target=example.target,
            completion=text,
            reward=float(score.reward),
            metrics={name: _plain(value) for name, value in score.metrics.items()},
            tokens=len(completion.token_ids),
            finish_reason=completion.finish_reason,
        )


def _plain(value: Any) -> bool | int | float:
    """A number of a type that JSON knows."""
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    return int(value) if isinstance(value, (int, np.integer)) else float(value)
