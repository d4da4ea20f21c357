"""The ladder of a calibration: a few mirrored pairs at each relative size of noise, evaluated together."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np

from es_ray.engines.base import EngineInfo
from es_ray.engines.registry import engine_spec
from es_ray.evaluation import BASE, CENTRE, Candidate, Outcomes
from es_ray.evaluation.degenerate import AnswerCounts
from es_ray.evaluation.kl import KlPrompts, kl_of
from es_ray.evolution.perturbation import Perturbation, Vector
from es_ray.evolution.strategy import THETA
from es_ray.experiment import Experiment
from es_ray.judge.rung_rules import Answers, Rung, judged, size_between
from es_ray.tasks.batches import Batch
from es_ray.workers.pool import Pool

RUNGS: Final = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
"""Half decades: models differ by a factor of ten, and what works spans a factor of two to four."""
MOST_BETWEEN: Final = 2
"""Sizes between two rungs that are measured as well, where the lower is dead and the upper is too large."""
GENERATION: Final = 1
"""Whose noise the members have: generation 0 may have sigma of its own (`init.mode: population`)."""
MOST_PROMPTS: Final = 16
ANSWERS, FEWEST_PAIRS, MOST_PAIRS = 128, 4, 16
"""Answers on each rung that there should be, by more pairs where prompts are few."""
KL_MEMBERS, KL_PROMPTS = 3, 2
"""Members of a rung whose KL is measured, of different pairs, and on how many prompts."""

log = logging.getLogger(__name__)

OnProgress = Callable[[str, int, int], None]
"""Called with what is being done, and how many of how many completions, or generations, are made."""


@dataclass(frozen=True)
class Ladder:
    """What was found: the rungs ascending, judged; metric: the one that is watched, None without any."""

    rungs: list[Rung]
    base: Answers
    centre: Answers
    metric: str | None
    prompts: int


def few_prompts(experiment: Experiment) -> Batch:
    """The first prompts of generation 0, for all members alike."""
    batch = experiment.batch(0)
    numbers = list(batch.numbers["train"])[:MOST_PROMPTS]
    return replace(batch, numbers={"train": numbers}, pairs=None)


def climb(pool: Pool, experiment: Experiment, info: EngineInfo, on_progress: OnProgress) -> Ladder:
    """Evaluate all rungs, and sizes between two of them where nothing works (`size_between`).

    Raises RunError, and UserError for an engine without the norms of its weights.
    """
    ascent = _Ascent(pool, experiment, info, on_progress)
    ladder = ascent.judged(ascent.measured(RUNGS))
    for _ in range(MOST_BETWEEN):
        size = size_between(ladder.rungs, ladder.base, ladder.metric)
        if size is None:
            break
        below = max(rung.relative for rung in ladder.rungs if rung.relative < size)
        above = min(rung.relative for rung in ladder.rungs if rung.relative > size)
        log.info(
            "noise %g shows no difference, and %g is too large: measuring %g as well", below, above, size
        )
        ladder = ascent.judged([*ladder.rungs, *ascent.measured([size])])
    return ladder


class _Ascent:
    """Measures rungs on the same few prompts; each has members of its own."""

    def __init__(self, pool: Pool, experiment: Experiment, info: EngineInfo, on_progress: OnProgress) -> None:
        self._pool, self._experiment, self._info = pool, experiment, info
        self._on_progress = on_progress
        self._batch = few_prompts(experiment)
        prompts = len(self._batch.numbers["train"])
        self._pairs = min(max(ANSWERS // (2 * prompts * self._batch.samples), FEWEST_PAIRS), MOST_PAIRS)
        self._with_kl = engine_spec(experiment.config.engine.kind).log_probs
        self._reference: Outcomes | None = None
        self._used = 0

    def measured(self, sizes: Sequence[float]) -> list[Rung]:
        """The rungs of these sizes, not judged yet; with the first ones centre and base model answer."""
        batch, each = self._batch, 2 * self._pairs
        starts = {size: self._used + each * at for at, size in enumerate(sizes)}
        members = {size: range(start, start + each) for size, start in starts.items()}
        self._used += each * len(sizes)
        asked = batch.numbers["train"][:KL_PROMPTS]
        of: dict[float, Outcomes] = {}
        kl: dict[float, float] = {}
        total = (len(sizes) * each + (2 if self._reference is None else 0)) * batch.rows(0, ("train",))
        done = 0
        theta, groups = _groups(self._experiment, self._info, sizes)
        for perturbation, factors in groups:
            candidates = [
                Candidate(index, ("train",), factor) for r, factor in factors.items() for index in members[r]
            ]
            if self._reference is None:
                candidates += [Candidate(CENTRE), Candidate(BASE)]
            outcomes = self._pool.evaluate(
                theta,
                perturbation,
                GENERATION,
                candidates,
                batch,
                lambda rows, _, before=done: self._on_progress(  # type: ignore[misc]
                    "ladder", before + rows, total
                ),
            )
            done += batch.rows(0, ("train",)) * len(candidates)
            self._reference = self._reference or outcomes
            of |= dict.fromkeys(factors, outcomes)
            if self._with_kl:
                wanted = [
                    KlPrompts("train", asked, index, factor)
                    for r, factor in factors.items()
                    for index in members[r][: 2 * KL_MEMBERS : 2]
                ]
                sums = self._pool.kl(theta, perturbation, GENERATION, wanted, batch)
                measured = np.reshape([kl_of(each) for each in sums], (len(factors), -1))
                kl |= zip(factors, np.median(measured, axis=1).tolist(), strict=True)
        reference, metric = self._answered, self._metric
        texts = _texts(reference, CENTRE) if self._experiment.config.task.temperature == 0 else None
        return [_rung(r, of[r], members[r], metric, texts, kl.get(r)) for r in sizes]

    def judged(self, rungs: Sequence[Rung]) -> Ladder:
        """The ladder of measured rungs, ascending."""
        metric, population = self._metric, self._experiment.config.evolution.population
        base, centre = (_answers(self._answered, who, metric) for who in (BASE, CENTRE))
        ascending = sorted(rungs, key=lambda rung: rung.relative)
        prompts = len(self._batch.numbers["train"])
        return Ladder(judged(ascending, base, centre, metric, population), base, centre, metric, prompts)

    @property
    def _answered(self) -> Outcomes:
        """What centre and base model answered."""
        assert self._reference is not None
        return self._reference

    @property
    def _metric(self) -> str | None:
        return _kept_metric(self._experiment, self._answered)


def with_noise(experiment: Experiment, relative: float, **values: Any) -> Experiment:
    """The experiment with constant relative noise; values: other keys, as for Config.replace."""
    noise = {"kind": "relative", "relative": relative, "schedule": "constant"}
    return experiment.with_config(experiment.config.replace(evolution__noise=noise, **values))


def _groups(
    experiment: Experiment, info: EngineInfo, sizes: Sequence[float]
) -> tuple[Vector, list[tuple[Perturbation, dict[float, float]]]]:
    """The centre, and perturbations with the factor that makes each size of them.

    In forms `b` and `merged` sigma is proportional to the relative size: one perturbation serves all. In form
    `both` it is not, and by another curve for each matrix: each rung has its own.
    """
    antithetic = {"evolution__antithetic": True, "evolution__population": 2}
    if experiment.config.lora.form != "both":
        strategy = with_noise(experiment, 1.0, **antithetic).strategy(info.mean_abs, info.frobenius)
        return strategy.initial_theta(), [(strategy.perturbation, {r: r for r in sizes})]
    strategies = {
        r: with_noise(experiment, r, **antithetic).strategy(info.mean_abs, info.frobenius) for r in sizes
    }
    theta = strategies[sizes[0]].initial()[THETA]
    return theta, [(strategy.perturbation, {r: 1.0}) for r, strategy in strategies.items()]


def _rung(
    relative: float,
    outcomes: Outcomes,
    members: Sequence[int],
    metric: str | None,
    centre: list[str] | None,
    kl: float | None,
) -> Rung:
    """Not judged yet; centre: its completions, None where they cannot be compared."""
    summaries = [outcomes.summary(index, "train") for index in members]
    rewards = np.array([summary["reward"] for summary in summaries])
    changed = changed_members = None
    if centre is not None:
        differs = np.array([np.not_equal(_texts(outcomes, index), centre) for index in members])
        changed, changed_members = float(differs.mean()), float(differs.any(axis=1).mean())
    return Rung(
        relative=relative,
        members=len(members),
        reward=float(rewards.mean()),
        reward_std=float(rewards.std()),
        signal_to_noise=signal_to_noise(rewards),
        changed=changed,
        changed_members=changed_members,
        metric=None if metric is None else float(np.mean([summary[metric] for summary in summaries])),
        broken=broken_share([outcomes.answer_counts(index, "train") for index in members]),
        kl=kl,
        answers=sum(outcomes.answer_counts(index, "train").answers for index in members),
    )


def signal_to_noise(rewards: np.ndarray) -> float | None:
    """Root mean square of half the difference within pairs, over the standard deviation of their means.

    rewards: shape [2 pairs], mirrored members beside each other. The first is what a step learns from, the
    second what both members of a pair have in common. Of independent rewards both are the same.
    """
    pairs = rewards.reshape(-1, 2)
    half, means = (pairs[:, 0] - pairs[:, 1]) / 2, pairs.mean(axis=1)
    spread = float(means.std(ddof=1)) if len(means) > 1 else 0.0
    return float(np.sqrt(np.square(half).mean())) / spread if spread > 0 else None


def broken_share(counts: Sequence[AnswerCounts]) -> float:
    """The share of answers that are empty, loop, or are the same wrong one.

    At least so many: an empty answer may also be the same as others, and counts once.
    """
    broken = sum(max(each.empty + each.looping, each.same) for each in counts)
    return min(broken / sum(each.answers for each in counts), 1.0)


def _kept_metric(experiment: Experiment, outcomes: Outcomes) -> str | None:
    """The metric to keep, as the guard chooses it: guard.metric, or `correct` where the task has it."""
    wanted = experiment.config.guard.metric or "correct"
    return wanted if wanted in outcomes.metric_names else None


def _answers(outcomes: Outcomes, who: int, metric: str | None) -> Answers:
    summary, counts = outcomes.summary(who, "train"), outcomes.answer_counts(who, "train")
    value = None if metric is None else float(summary[metric])
    return Answers(summary["reward"], value, broken_share([counts]), counts.answers)


def _texts(outcomes: Outcomes, index: int) -> list[str]:
    return [example["completion"] for example in outcomes.examples(index, "train")]
