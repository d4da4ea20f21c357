"""The base model's samples by which a run of form `merged` measures `kl_forward`: made once, then read."""

import logging
from collections.abc import Sequence
from dataclasses import replace

from es_ray.errors import RunError
from es_ray.evaluation import CENTRE
from es_ray.evaluation.base_samples import BaseSample
from es_ray.evaluation.kl import MOST_PROMPTS, KlPrompts
from es_ray.evolution.perturbation import Perturbation
from es_ray.experiment import Experiment
from es_ray.runs.run_dir import RunDir
from es_ray.workers.pool import Pool

log = logging.getLogger(__name__)


class BaseSamples:
    """Of the prompts of generation 0, in whose folder they are kept."""

    def __init__(self, experiment: Experiment, split: str, made: Sequence[BaseSample] | None = None) -> None:
        self._experiment, self._split, self.made = experiment, split, made

    @classmethod
    def of(cls, run: RunDir, experiment: Experiment, split: str, resumed: bool) -> "BaseSamples":
        """Of a run that goes on (resumed) those that it has; damaged ones, with a warning, are made again."""
        try:
            made = run.generation_folder(0).base_samples() if resumed else None
        except RunError as error:
            log.warning("%s; the base model is sampled again", error)
            made = None
        return cls(experiment, split, made)

    def prompts(self, pool: Pool, perturbation: Perturbation) -> KlPrompts:
        """What a measurement asks, with the samples, which are made the first time."""
        batch = self._experiment.batch(0)
        asked = KlPrompts(self._split, batch.asked(CENTRE, self._split)[:MOST_PROMPTS])
        if self.made is None:
            self.made = pool.base_samples(asked, perturbation, batch)
        return replace(asked, samples=self.made)
