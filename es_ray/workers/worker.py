"""One engine with the run's task: what happens in this process, or in a Ray actor."""

import os
import socket
from typing import Any

import numpy as np
from numpy.typing import NDArray

from es_ray.config import Config
from es_ray.engines import create_engine
from es_ray.engines.base import Row
from es_ray.evaluation import Sample, Shard, ShardOutcome, candidate_name
from es_ray.evolution.strategy import Strategy, Vector
from es_ray.experiment import Experiment
from es_ray.tasks.base import checked


class Worker:
    """Evaluates shards and computes slices of the update. Holds no state of the evolution."""

    def __init__(self, config: Config) -> None:
        self._experiment = Experiment(config)
        self._engine = create_engine(self._experiment)
        self.info = self._engine.info
        self.name = f"{socket.gethostname()}/{os.getpid()}"

    def evaluate(
        self, theta: Vector, strategy: Strategy, generation: int, candidates: list[list[Any]]
    ) -> ShardOutcome:
        """Generate and score the candidates of a shard, in one batch; raises EvaluationError.

        generation, candidates: a packed Shard.
        """
        shard = Shard.of(generation, candidates)
        prompts, examples = self._experiment.prompt_ids, self._experiment.examples
        places = [
            (candidate, split, number)
            for candidate in shard.candidates
            for split in candidate.splits
            for number in range(len(examples[split]))
        ]
        rows = [Row(candidate.index, prompts[split][number]) for candidate, split, number in places]
        completions = self._engine.generate(theta, strategy, shard.generation, rows)
        answered: dict[tuple[int, str], list[Sample]] = {}
        for (candidate, split, number), completion in zip(places, completions, strict=True):
            example = examples[split][number]
            text = self._experiment.source.text(completion.token_ids)
            who = candidate_name(candidate.index, shard.generation)
            score = checked(self._experiment.task.score(example, text), who, example)
            answered.setdefault((candidate.index, split), []).append(
                Sample(
                    prompt=example.prompt,
                    target=example.target,
                    completion=text,
                    reward=score.reward,
                    correct=score.correct,
                    exact=score.exact,
                    tokens=len(completion.token_ids),
                    finish=completion.finish,
                )
            )
        return ShardOutcome.of(self.name, answered)

    def tell(
        self,
        theta: Vector,
        strategy: Strategy,
        advantages: NDArray[np.float64],
        generation: int,
        start: int,
        stop: int,
    ) -> Vector:
        """Entries [start, stop) of the next centre."""
        return self._engine.tell(theta, strategy, generation, advantages, start, stop)

    def close(self) -> None:
        """Close the engine."""
        self._engine.close()
