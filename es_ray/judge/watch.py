"""What is watched beside the reward while a run runs: KL, drift, and the guard's verdicts."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from es_ray.evaluation import CENTRE, Candidate, Outcomes
from es_ray.evaluation.kl import MOST_PROMPTS, KlPrompts, kl_key
from es_ray.evolution.perturbation import Vector
from es_ray.evolution.strategy import State, Strategy
from es_ray.experiment import Experiment
from es_ray.judge.base_samples import BaseSamples
from es_ray.judge.calibrate_command import calibrate_command
from es_ray.judge.guard import Guard
from es_ray.lora.drift import relative_drift
from es_ray.runs.atomic_io import writing
from es_ray.runs.replay import centre_after
from es_ray.runs.run_dir import RunDir
from es_ray.tasks.batches import Batch
from es_ray.workers.pool import Pool

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Watch:
    """Of one run. norms: ||W||_F of the adapted weights, none from an engine that does not know them."""

    run: RunDir
    experiment: Experiment
    strategy: Strategy
    norms: Sequence[float]
    guard: Guard
    base_samples: BaseSamples

    @classmethod
    def of(
        cls,
        run: RunDir,
        experiment: Experiment,
        strategy: Strategy,
        norms: Sequence[float],
        resumed: int | None,
    ) -> "Watch":
        """For a new run, or one that goes on after the generation `resumed`."""
        lines = [] if resumed is None else run.metrics(resumed)
        reference = None if resumed is None else run.generation_folder(resumed).guard_reference
        guard = Guard(experiment.config, tuple(experiment.prompts), lines, reference)
        merged = experiment.config.lora.form == "merged"
        samples = BaseSamples.of(run, experiment, guard.split, merged and resumed is not None)
        return cls(run, experiment, strategy, norms, guard, samples)

    def kl_prompts(self, pool: Pool, generation: int, batch: Batch) -> KlPrompts | None:
        """The prompts for which the KL of the generation's centre is measured; None if it is not due.

        pool: samples the base model, if that is needed.
        """
        every = self.experiment.config.evaluation.kl_every
        return None if every is None or generation % every else self._kl_prompts(pool, batch)

    def adapter_drift(self, theta: Vector) -> float | None:
        """How far a centre's adapter moves the model; None in form `merged`, and where it is not known."""
        if self.strategy.perturbation.fresh or not self.norms:
            return None
        return relative_drift(self.experiment.layout, theta, self.norms)

    def observe(self, outcomes: Outcomes, metrics: Mapping[str, Any], drift: float | None) -> dict[str, Any]:
        """What the generation's line says besides: kl, drift, verdicts.

        metrics: its line so far; drift: of the centre that it starts from.
        """
        key = kl_key(self.experiment.config.lora.form)
        found: dict[str, Any] = {} if outcomes.kl is None else {key: outcomes.kl}
        if drift is not None:
            found["drift"] = drift
        return found | {"verdicts": self.guard.judge({**metrics, **found}, outcomes)}

    def rollback(self, state: State) -> tuple[int, State] | None:
        """The generation to whose centre the run goes back now, and the state there; None for a step."""
        target = self.guard.rollback_target
        if target is None:
            return None
        self.guard.rolled_back()
        return target, self.strategy.rolled_back(state, centre_after(self.run, self.strategy, target))

    def warn_of_junk(self, outcomes: Outcomes) -> None:
        """Say so if the members of generation 0 are mostly broken: the noise is too large."""
        found = self.guard.junk(outcomes)
        if found:
            log.warning("most members are broken, the noise is too large: %s", "; ".join(found))
            log.warning("find noise that fits: %s", calibrate_command(self.experiment.config))

    def write_selected(self) -> None:
        """Write selected.json; raises RunError."""
        with writing(self.run.selected_file):
            self.run.write_selected(self.guard.selected)

    def warn_of_stop(self) -> None:
        """Say so if the guard ends the run, and how to go on."""
        if self.guard.stops:
            log.warning(
                "the guard ends the run (guard.action stop); to go on: es-ray run --resume --output %s "
                "--set guard.action=warn",
                self.run.path,
            )

    def judge_final(self, pool: Pool, generation: int, theta: Vector) -> dict[str, Any]:
        """Judge the centre after the last generation as all others were; returns and writes selected.json."""
        batch, following = self.experiment.batch(generation + 1), generation + 1
        measured = self.experiment.config.evaluation.kl_every is not None
        outcomes = pool.evaluate(
            theta,
            self.strategy.perturbation,
            following,
            [Candidate(CENTRE, (self.guard.split,))],
            batch,
            kl=self._kl_prompts(pool, batch) if measured else None,
        )
        for verdict in self.guard.judge_final(following, outcomes):
            log.warning("the last centre has a verdict: %s", verdict)
        self.write_selected()
        return self.guard.selected

    def _kl_prompts(self, pool: Pool, batch: Batch) -> KlPrompts:
        if self.strategy.perturbation.fresh:
            return self.base_samples.prompts(pool, self.strategy.perturbation)
        return KlPrompts(self.guard.split, batch.asked(CENTRE, self.guard.split)[:MOST_PROMPTS])
