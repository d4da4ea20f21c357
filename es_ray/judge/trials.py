"""A few real generations on the rungs that work best, to choose the learning rate.

What a trial has learnt is judged on other prompts than it evolved on, where there are some: those of
validation, or of training. There longer steps look better only if they are. A learning rate learns if the
reward rises by more than ERRORS standard errors, over prompts; of those that do, the smallest is taken whose
reward is within one standard error of the highest (Breiman et al. 1984, section 3.4.3: of settings that
cannot be told apart, the more cautious one).

Where all prompts are in use, longer steps always look better within a few generations, and forget sooner: on
the bundled model 2 sigma ended a trial with the best reward, and after 50 generations had no test answer
right, where 1 and 0.5 sigma had all. So there it is the smallest rate that learns: by more than CLEARLY times
the members' spread.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from es_ray.engines.base import EngineInfo
from es_ray.evaluation import CENTRE, Candidate, Outcomes
from es_ray.evolution.perturbation import Vector
from es_ray.evolution.strategy import THETA, State, Strategy
from es_ray.experiment import Experiment
from es_ray.judge.ladder import Ladder, OnProgress, few_prompts, with_noise
from es_ray.judge.rung_rules import Rung, is_kept
from es_ray.judge.table import formatted
from es_ray.tasks.batches import Batch
from es_ray.workers.pool import Pool

RATES: Final = (0.5, 1.0, 2.0)
"""Learning rates in units of sigma."""
ROWS, FEWEST_GENERATIONS, MOST_GENERATIONS = 6144, 4, 12
"""Completions of a rung's trials that there should be, by more generations where prompts are few."""
POPULATION: Final = 16
MOST_RUNGS: Final = 2
OTHERS, FEWEST_OTHERS = 128, 16
"""Other prompts on which a trial is judged, at most; of fewer than the second it is not."""
ERRORS: Final = 2.0
CLEARLY: Final = 0.5


@dataclass(frozen=True)
class Trial:
    """What some generations with one noise and learning rate came to.

    generations: how many; reward, metric: of the last centre; kept: whether the metric is; start: the first
    centre's reward; spread: standard deviation of the members' rewards in generation 0. gains: by how much
    each other prompt's reward rose, of which reward, metric and start are then means; None where they are of
    the prompts that it evolved on.
    """

    relative: float
    learning_rate: float
    generations: int
    reward: float
    metric: float | None
    start: float
    spread: float
    kept: bool
    gains: tuple[float, ...] | None = None

    @property
    def learns(self) -> bool:
        """Whether the reward has risen clearly, with the metric kept."""
        needed = CLEARLY * self.spread if self.gains is None else ERRORS * _standard_error(self.gains)
        return self.kept and self.reward - self.start > needed


def _standard_error(values: Sequence[float]) -> float:
    """Of the mean of values, one for each prompt."""
    return float(np.std(values, ddof=1)) / math.sqrt(len(values))


def try_rates(
    pool: Pool,
    experiment: Experiment,
    info: EngineInfo,
    ladder: Ladder,
    rungs: Sequence[Rung],
    on_progress: OnProgress,
) -> list[Trial]:
    """Trials of all RATES on the largest of these rungs; if none learns there, on the next one as well.

    A population of at most POPULATION evolves on the ladder's prompts, always the same. Its learning rate is
    shorter by the root of its share of the run's population, so that steps are as long as the run's would be:
    the length of a mean of N independent directions falls with the root of N.
    """
    chosen = list(reversed(rungs))[:MOST_RUNGS]
    population = min(experiment.config.evolution.population, POPULATION)
    batch = few_prompts(experiment)
    rows = population * batch.rows(0, ("train",)) * len(RATES)
    generations = min(max(ROWS // rows, FEWEST_GENERATIONS), MOST_GENERATIONS)
    others = other_prompts(experiment, batch)
    each = 1 + len(RATES) * generations
    found: list[Trial] = []
    for number, rung in enumerate(chosen):
        race = _Race(pool, experiment, info, rung.relative, population, generations, batch, others)

        def report(done: int, before: int = number * each) -> None:
            on_progress("trials", before + done, len(chosen) * each)

        found += race.run(ladder, report)
        if any(trial.learns for trial in found):
            break
    return found


def other_prompts(experiment: Experiment, used: Batch) -> Batch | None:
    """Prompts of validation, else training prompts that are not in use; None if there are too few."""
    if "validation" in experiment.prompts:
        found = experiment.first_of("validation", OTHERS)
    else:
        found = experiment.first_of("train", OTHERS + len(used.numbers["train"]))
        unused = [number for number in found.numbers["train"] if number not in used.numbers["train"]]
        found = replace(found, numbers={"train": unused[:OTHERS]})
    (numbers,) = found.numbers.values()
    return found if len(numbers) >= FEWEST_OTHERS else None


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
        others: Batch | None,
    ) -> None:
        self._pool, self._relative, self._generations = pool, relative, generations
        self._batch, self._others = batch, others
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
        before = None if self._others is None else self._centre(any_strategy, start, 0)
        trials = []
        for rate, strategy in self._strategies.items():
            after = self._centre(strategy, states[rate], self._generations)
            on_done(done := done + 1)
            trials.append(self._trial(rate, ladder, spread, before, after))
        return trials

    def _trial(
        self, rate: float, ladder: Ladder, spread: float, before: Outcomes | None, after: Outcomes
    ) -> Trial:
        """Before: what the first centre answers to other prompts; None where the ladder has its answers."""
        split = after.splits(CENTRE)[0]
        last = after.summary(CENTRE, split)
        base, start, gains = ladder.base, ladder.centre.reward, None
        if before is not None:
            first = before.summary(CENTRE, split)
            start = float(first["reward"])
            rewards = [[row["reward"] for row in one.examples(CENTRE, split)] for one in (before, after)]
            gains = tuple(np.subtract(rewards[1], rewards[0]).tolist())
            if ladder.metric is not None:  # the first centre's, which is the base model in form b
                base = replace(base, metric=float(first[ladder.metric]), answers=len(gains))
        metric = None if ladder.metric is None else float(last[ladder.metric])
        return Trial(
            relative=self._relative,
            learning_rate=rate,
            generations=self._generations,
            reward=float(last["reward"]),
            metric=metric,
            start=start,
            spread=spread,
            kept=is_kept(metric, base),
            gains=gains,
        )

    def _centre(self, strategy: Strategy, state: State, generation: int) -> Outcomes:
        """The centre's answers to the other prompts, or to those in use where there are none."""
        batch = self._others or self._batch
        (split,) = batch.numbers
        wanted = [Candidate(CENTRE, (split,))]
        return self._pool.evaluate(state[THETA], strategy.perturbation, generation, wanted, batch)

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
        def noise_sum() -> Vector:
            return self._pool.noise_sum(strategy.perturbation, generation, advantages)

        return strategy.updated(state, generation, advantages, noise_sum)


def best(trials: Sequence[Trial]) -> Trial | None:
    """The trial to follow: on the largest noise where a rate learns; None if nothing does."""
    learns = [trial for trial in trials if trial.learns]
    if not learns:
        return None
    largest = max(trial.relative for trial in learns)
    there = sorted((t for t in learns if t.relative == largest), key=lambda trial: trial.learning_rate)
    top = max(there, key=lambda trial: trial.reward)
    return next(trial for trial in there if _is_as_good(trial, top))


def safest(trials: Sequence[Trial]) -> float:
    """The noise to take where nothing learns: the largest whose trials keep the metric, or the smallest."""
    tried = {trial.relative for trial in trials}
    lost = {trial.relative for trial in trials if not trial.kept}
    return max(tried - lost, default=min(tried))


def _is_as_good(trial: Trial, top: Trial) -> bool:
    """Whether a trial cannot be told from the one with the highest reward, or nothing is known of that."""
    if trial.gains is None or top.gains is None:
        return True
    return top.reward - trial.reward <= _standard_error(np.subtract(top.gains, trial.gains).tolist())


def outcome(trial: Trial) -> str:
    """What a trial came to, in a few words."""
    before, after = formatted("reward", trial.start), formatted("reward", trial.reward)
    where = "" if trial.gains is None else f"on {len(trial.gains)} other prompts "
    return (
        f"learning rate {trial.learning_rate:g} sigma took the reward {where}from {before} to {after} "
        f"in {trial.generations} generations"
    )
