"""A few real generations on the rungs that work best, to choose the learning rate."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from es_ray.engines.base import EngineInfo
from es_ray.evaluation import CENTRE, Candidate
from es_ray.evolution.strategy import THETA, State, Strategy
from es_ray.experiment import Experiment
from es_ray.judge.ladder import Ladder, OnProgress, few_prompts, with_noise
from es_ray.judge.rung_rules import Rung, is_kept
from es_ray.judge.table import formatted
from es_ray.tasks.batches import Batch
from es_ray.workers.pool import Pool

RATES: Final = (0.5, 1.0, 2.0)
"""Learning rates in units of sigma."""
ROWS, FEWEST_GENERATIONS, MOST_GENERATIONS = 4096, 4, 12
"""Completions of all trials that there should be, by more generations where prompts are few."""
POPULATION: Final = 16
MOST_RUNGS: Final = 2
CLEARLY: Final = 0.5
"""By which part of the members' spread a centre's reward must have risen."""


@dataclass(frozen=True)
class Trial:
    """What some generations with one noise and learning rate came to.

    generations: how many; reward, metric: of the last centre on the prompts that it evolved on; kept: whether
    the metric is; start: the first centre's reward; spread: standard deviation of the members' rewards in
    generation 0.
    """

    relative: float
    learning_rate: float
    generations: int
    reward: float
    metric: float | None
    start: float
    spread: float
    kept: bool


def try_rates(
    pool: Pool,
    experiment: Experiment,
    info: EngineInfo,
    ladder: Ladder,
    rungs: Sequence[Rung],
    on_progress: OnProgress,
) -> list[Trial]:
    """Trials on the largest of these rungs, each with all RATES; the largest rung first.

    A population of at most POPULATION evolves on the ladder's prompts, always the same. Its learning rate is
    shorter by the root of its share of the run's population, so that steps are as long as the run's would be:
    the length of a mean of N independent directions falls with the root of N.
    """
    chosen = list(reversed(rungs))[:MOST_RUNGS]
    population = min(experiment.config.evolution.population, POPULATION)
    batch = few_prompts(experiment)
    rows = population * batch.rows(0, ("train",)) * len(RATES) * len(chosen)
    generations = min(max(ROWS // rows, FEWEST_GENERATIONS), MOST_GENERATIONS)
    each = 1 + len(RATES) * generations
    found: list[Trial] = []
    for number, rung in enumerate(chosen):
        race = _Race(pool, experiment, info, rung.relative, population, generations, batch)

        def report(done: int, before: int = number * each) -> None:
            on_progress("trials", before + done, len(chosen) * each)

        found += race.run(ladder, report)
    return found


class _Race:
    """All learning rates on one rung. They share generation 0: its members start from the same centre."""

    def __init__(
        self,
        pool: Pool,
        experiment: Experiment,
        info: EngineInfo,
        relative: float,
        population: int,
        generations: int,
        batch: Batch,
    ) -> None:
        self._pool, self._relative, self._generations, self._batch = pool, relative, generations, batch
        shorter = math.sqrt(population / experiment.config.evolution.population)
        self._strategies: dict[float, Strategy] = {
            rate: with_noise(
                experiment,
                relative,
                evolution__population=population,
                evolution__learning_rate=rate * shorter,
                evolution__learning_rate_schedule="constant",
                evolution__update_scale="sigma",
            ).strategy(info.mean_abs, info.frobenius)
            for rate in RATES
        }

    def run(self, ladder: Ladder, on_done: Callable[[int], None]) -> list[Trial]:
        """A trial for each rate."""
        any_strategy = self._strategies[RATES[0]]
        start = any_strategy.initial()
        advantages, spread = self._evaluate(any_strategy, start, 0)
        on_done(1)
        states: dict[float, State] = {
            rate: self._next(strategy, start, 0, advantages) for rate, strategy in self._strategies.items()
        }
        done = 1
        for generation in range(1, self._generations):
            for rate, strategy in self._strategies.items():
                advantages, _ = self._evaluate(strategy, states[rate], generation)
                states[rate] = self._next(strategy, states[rate], generation, advantages)
                on_done(done := done + 1)
        trials = []
        for rate, strategy in self._strategies.items():
            centre = self._pool.evaluate(
                states[rate][THETA],
                strategy.perturbation,
                self._generations,
                [Candidate(CENTRE)],
                self._batch,
            ).summary(CENTRE, "train")
            on_done(done := done + 1)
            metric = None if ladder.metric is None else float(centre[ladder.metric])
            trials.append(
                Trial(
                    relative=self._relative,
                    learning_rate=rate,
                    generations=self._generations,
                    reward=float(centre["reward"]),
                    metric=metric,
                    start=ladder.centre.reward,
                    spread=spread,
                    kept=is_kept(metric, ladder.base),
                )
            )
        return trials

    def _evaluate(
        self, strategy: Strategy, state: State, generation: int
    ) -> tuple[NDArray[np.float64], float]:
        """The members' advantages, and the standard deviation of their rewards."""
        candidates = [Candidate(index) for index in strategy.ask(generation)]
        outcomes = self._pool.evaluate(
            state[THETA], strategy.perturbation, generation, candidates, self._batch
        )
        rewards = outcomes.members["reward"].copy()
        return strategy.advantages(rewards, outcomes.prompt_rewards()), float(rewards.std())

    def _next(
        self, strategy: Strategy, state: State, generation: int, advantages: NDArray[np.float64]
    ) -> State:
        if not advantages.any():
            return state
        noise_sum = self._pool.noise_sum(strategy.perturbation, generation, advantages)
        return strategy.step(state, generation, noise_sum)


def best(trials: Sequence[Trial]) -> Trial | None:
    """The trial to follow: the largest noise on which a rate learns, and there the smallest rate that does.

    It learns if the reward rises by more than CLEARLY times the members' spread, and the metric is kept. The
    smallest, because longer steps always look better within a few generations and forget sooner: on the
    bundled model 2 sigma ended a trial with the best reward, and after 50 generations had no test answer
    right, where 1 and 0.5 sigma had all. None if nothing learns.
    """
    learns = [t for t in trials if t.kept and t.reward - t.start > CLEARLY * t.spread]
    return min(learns, key=lambda trial: (-trial.relative, trial.learning_rate), default=None)


def outcome(trial: Trial) -> str:
    """What a trial came to, in a few words."""
    before, after = formatted("reward", trial.start), formatted("reward", trial.reward)
    return (
        f"learning rate {trial.learning_rate:g} sigma took the reward from {before} to {after} "
        f"in {trial.generations} generations"
    )
