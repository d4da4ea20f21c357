"""One engine with the run's task: what happens in this process, or in a Ray actor."""

import os
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from es_ray.config import Config
from es_ray.engines import create_engine
from es_ray.engines.base import BASE, CENTRE, Completion, Row, Sampling, Variant
from es_ray.evaluation import Answered, Sample, Shard, ShardOutcome
from es_ray.evaluation.base_samples import BaseSample
from es_ray.evolution.draws import sample_seeds
from es_ray.evolution.noise import Noise
from es_ray.evolution.perturbation import Perturbation, Vector
from es_ray.experiment import Experiment
from es_ray.tasks.base import Example, Score
from es_ray.tasks.batches import Batch, Workload
from es_ray.workers.kl import base_samples, forward_kl_sums, kl_sums
from es_ray.workers.pending import Pending
from es_ray.workers.scorer import PendingScores, Scorer

MOST_PROMPTS = 100_000
"""Prompts whose token ids a worker keeps."""


class _Place(NamedTuple):
    """A completion that is wanted: who makes it, and for which example."""

    variant: Variant
    who: Answered
    number: int
    example: Example
    sampling: Sampling | None
    sample: int


class Worker:
    """Evaluates shards and computes slices of noise sums. Holds no state of the evolution."""

    def __init__(self, config: Config, workload: Workload) -> None:
        self._experiment = Experiment(config, workload)
        self._scorer = Scorer(self._experiment.task, config.task)
        self._engine = create_engine(self._experiment)
        self.info = self._engine.info
        self.name = f"{socket.gethostname()}/{os.getpid()}"
        self.on_rows: Callable[[int], None] = lambda rows: None
        """Called with how many completions are scored, of the current shard and of those still unscored."""
        self._prompt_ids: dict[tuple[str, int], tuple[int, ...]] = {}

    def evaluate(
        self,
        centres: Mapping[int, Vector],
        perturbation: Perturbation,
        batch: Batch,
        generation: int,
        candidates: list[list[Any]],
    ) -> "UnscoredShard":
        """Generate the completions of a shard's candidates; their scores may come later.

        Raises EvaluationError, also for a score of an earlier shard.

        centres: what each generation that candidates are of starts from, shape [P]; batch: what the
        candidates are asked; generation, candidates: a packed Shard. The engine gets `engine.rows` of its
        completions at a time.
        """
        starts = tuple(centres)
        places = self._places(Shard.of(generation, candidates), starts, batch, perturbation.noise)
        texts: dict[int, str] = {}
        made: dict[int, Completion] = {}
        self._scorer.begin()

        def score(number: int, completion: Completion) -> None:
            place, text = places[number], self._experiment.source.text(completion.token_ids)
            made[number], texts[number] = completion, text
            self._scorer.submit(number, str(place.variant), place.example, text)
            self.on_rows(self._scorer.scored)

        size = self._rows_at_once
        for low in range(0, len(places), size):
            rows = [self._row(place) for place in places[low : low + size]]

            def score_row(row: int, completion: Completion, low: int = low) -> None:
                score(low + row, completion)

            completions = self._engine.generate(
                [centres[start] for start in starts], perturbation, rows, on_completion=score_row
            )
            for number, completion in enumerate(completions, start=low):
                if number not in made:  # an engine may leave it to its end
                    score(number, completion)
            self._scorer.flush()

        weights = self._engine.checksum()

        def outcome(scores: Mapping[int, Score]) -> ShardOutcome:
            answered: dict[tuple[Any, ...], list[Sample]] = {}
            for number, place in enumerate(places):
                sample = self._sample(place, made[number], texts[number], scores[number])
                answered.setdefault(place.who, []).append(sample)
            return replace(ShardOutcome.of(self.name, generation, answered), weights=weights)

        return UnscoredShard(self, self._scorer.pending(), outcome)

    @property
    def beside(self) -> int:
        """Shards that may begin beside the one that is evaluated."""
        return self._engine.beside

    def begin(
        self,
        centres: Mapping[int, Vector],
        perturbation: Perturbation,
        batch: Batch,
        generation: int,
        candidates: list[list[Any]],
    ) -> None:
        """Begin, if the engine can, with a shard that `evaluate` is given later: arguments as there."""
        starts = tuple(centres)
        places = self._places(Shard.of(generation, candidates), starts, batch, perturbation.noise)
        rows = [self._row(place) for place in places[: self._rows_at_once]]
        self._engine.begin([centres[start] for start in starts], perturbation, rows)

    def kl(
        self,
        centres: Mapping[int, Vector],
        perturbation: Perturbation,
        batch: Batch,
        generation: int,
        split: str,
        numbers: list[int],
        index: int = CENTRE,
        sigma_factor: float = 1.0,
        samples: Sequence[BaseSample] | None = None,
    ) -> NDArray[np.float64]:
        """`kl_sums` of a candidate for prompts of a split, or `forward_kl_sums` on the base model's samples.

        Arguments as for `evaluate` and in KlPrompts.
        """
        theta, size = centres[generation], self._rows_at_once
        variant = Variant(index, generation, sigma_factor=sigma_factor)
        if samples is not None:
            return forward_kl_sums(self._engine, theta, perturbation, variant, samples, size, self.on_rows)
        rows = self._sampled_rows(perturbation, batch, variant, split, numbers)
        return kl_sums(
            self._engine, theta, perturbation, rows, size, self._experiment.usable_context, self.on_rows
        )

    def base_samples(
        self, perturbation: Perturbation, batch: Batch, split: str, numbers: list[int]
    ) -> list[BaseSample]:
        """The base model's samples of prompts, always the same."""
        rows = self._sampled_rows(perturbation, batch, Variant(BASE), split, numbers)
        return base_samples(
            self._engine, perturbation, rows, self._rows_at_once, self._experiment.usable_context
        )

    def _sampled_rows(
        self, perturbation: Perturbation, batch: Batch, variant: Variant, split: str, numbers: list[int]
    ) -> list[Row]:
        """A sampled row for each prompt, with its seed; batch: has the prompts."""
        drawn = (variant.generation, variant.member)
        seeds = sample_seeds(perturbation.noise, *drawn, numbers, 1)[:, 0].tolist()
        return [
            Row(variant, self._token_ids(split, number, batch.examples[split][number]), Sampling(seed))
            for number, seed in zip(numbers, seeds, strict=True)
        ]

    def drift(self, centre: NDArray[np.float64], perturbation: Perturbation) -> tuple[str, float]:
        """The worker's name, and `Engine.drift`."""
        return self.name, self._engine.drift(centre, perturbation)

    def change(
        self, centre: NDArray[np.float64], perturbation: Perturbation, number: int
    ) -> tuple[str, NDArray[np.float32]]:
        """The worker's name, and `Engine.change`."""
        return self.name, self._engine.change(centre, perturbation, number)

    @property
    def _rows_at_once(self) -> int:
        size = self._experiment.config.engine.rows
        assert size != "auto"  # resolve_config has settled it
        return size

    def _places(self, shard: Shard, starts: Sequence[int], batch: Batch, noise: Noise) -> list[_Place]:
        """The completions that a shard consists of; starts: the generations whose centres there are."""
        places = []
        for candidate in shard.candidates:
            index, own = candidate.index, candidate.generation
            generation = shard.generation if own is None else own
            variant = Variant(index, generation, starts.index(generation), candidate.sigma_factor)
            for split in candidate.splits:
                numbers = batch.asked(index, split)
                samplings = self._samplings(noise, generation, index, numbers, batch.samples)
                for number, of_prompt in zip(numbers, samplings, strict=True):
                    example = batch.examples[split][number]
                    places += [
                        _Place(variant, Answered(index, split, own), number, example, sampling, sample)
                        for sample, sampling in enumerate(of_prompt)
                    ]
        return places

    def _samplings(
        self, noise: Noise, generation: int, index: int, numbers: Sequence[int], samples: int
    ) -> list[list[Sampling | None]]:
        """How the completions of each prompt are sampled, shape [prompts, samples]."""
        task = self._experiment.config.task
        if task.temperature == 0:
            return [[None] for _ in numbers]
        seeds = sample_seeds(noise, generation, index, numbers, samples).tolist()
        return [[Sampling(seed, task.temperature, task.top_p) for seed in row] for row in seeds]

    def _row(self, place: _Place) -> Row:
        ids = self._token_ids(place.who.split, place.number, place.example)
        return Row(place.variant, ids, place.sampling)

    def _token_ids(self, split: str, number: int, example: Example) -> tuple[int, ...]:
        """Token ids of a prompt, the number-th of its split."""
        key = (split, number)
        if key not in self._prompt_ids:
            ids = self._experiment.token_ids(example)
            self._experiment.check_length(len(ids), example, "a prompt")
            if len(self._prompt_ids) >= MOST_PROMPTS:
                self._prompt_ids.clear()
            self._prompt_ids[key] = ids
        return self._prompt_ids[key]

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
        """Close the scorer and the engine."""
        self._scorer.close()
        self._engine.close()

    def _sample(self, place: _Place, completion: Completion, text: str, score: Score) -> Sample:
        return Sample(
            prompt=place.example.prompt,
            target=place.example.target,
            completion=text,
            reward=score.reward,
            metrics=score.metrics,
            tokens=len(completion.token_ids),
            finish_reason=completion.finish_reason,
            sample=place.sample if self._experiment.config.task.samples > 1 else None,
        )


@dataclass(frozen=True)
class UnscoredShard(Pending):
    """A shard's outcome once its completions are scored.

    outcome: makes it, from the scores by the completions' numbers.
    """

    worker: Worker
    scores: PendingScores
    outcome: Callable[[Mapping[int, Score]], ShardOutcome]

    @property
    def ready(self) -> bool:
        """Whether all completions are scored, or one has failed."""
        return self.scores.ready

    def result(self) -> ShardOutcome:
        """The outcome; waits for the scores. Raises EvaluationError."""
        return self.outcome(self.scores.results(self.worker.on_rows))
