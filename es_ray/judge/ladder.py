"""The ladder of a calibration: a few mirrored pairs at each relative size of noise, evaluated together."""

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
from es_ray.judge.rung_rules import Answers, Rung, judged
from es_ray.tasks.batches import Batch
from es_ray.workers.pool import Pool

RUNGS: Final = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
"""Half decades: models differ by a factor of ten, and what works spans a factor of two to four."""
GENERATION: Final = 1
"""Whose noise the members have: generation 0 may have sigma of its own (`init.mode: population`)."""
MOST_PROMPTS: Final = 16
ANSWERS, FEWEST_PAIRS, MOST_PAIRS = 128, 4, 16
"""Answers on each rung that there should be, by more pairs where prompts are few."""
KL_MEMBERS, KL_PROMPTS = 3, 2
"""Members of a rung whose KL is measured, of different pairs, and on how many prompts."""

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
    """Evaluate all rungs. Raises RunError, and UserError for an engine without the norms of its weights."""
    batch = few_prompts(experiment)
    prompts = len(batch.numbers["train"])
    pairs = min(max(ANSWERS // (2 * prompts * batch.samples), FEWEST_PAIRS), MOST_PAIRS)
    theta, groups = _groups(experiment, info)
    members = {r: range(2 * pairs * at, 2 * pairs * (at + 1)) for at, r in enumerate(RUNGS)}
    total = (len(RUNGS) * 2 * pairs + 2) * prompts * batch.samples
    with_kl = engine_spec(experiment.config.engine.kind).log_probs
    asked = batch.numbers["train"][:KL_PROMPTS]
    of: dict[float, Outcomes] = {}
    kl: dict[float, float] = {}
    reference: Outcomes | None = None
    done = 0
    for perturbation, factors in groups:
        candidates = [
            Candidate(index, ("train",), factor) for r, factor in factors.items() for index in members[r]
        ]
        if reference is None:
            candidates += [Candidate(CENTRE), Candidate(BASE)]
        outcomes = pool.evaluate(
            theta,
            perturbation,
            GENERATION,
            candidates,
            batch,
            lambda rows, _, before=done: on_progress("ladder", before + rows, total),  # type: ignore[misc]
        )
        done += batch.rows(0, ("train",)) * len(candidates)
        reference = reference or outcomes
        of |= dict.fromkeys(factors, outcomes)
        if with_kl:
            wanted = [
                KlPrompts("train", asked, index, factor)
                for r, factor in factors.items()
                for index in members[r][: 2 * KL_MEMBERS : 2]
            ]
            sums = pool.kl(theta, perturbation, GENERATION, wanted, batch)
            measured = np.reshape([kl_of(each) for each in sums], (len(factors), -1))
            kl |= zip(factors, np.median(measured, axis=1).tolist(), strict=True)
    assert reference is not None
    metric = _kept_metric(experiment, reference)
    base, centre = (_answers(reference, who, metric) for who in (BASE, CENTRE))
    texts = _texts(reference, CENTRE) if experiment.config.task.temperature == 0 else None
    rungs = [_rung(r, of[r], members[r], metric, texts, kl.get(r)) for r in RUNGS]
    return Ladder(
        judged(rungs, base, centre, metric, experiment.config.evolution.population),
        base,
        centre,
        metric,
        prompts,
    )


def with_noise(experiment: Experiment, relative: float, **values: Any) -> Experiment:
    """The experiment with constant relative noise; values: other keys, as for Config.replace."""
    noise = {"kind": "relative", "relative": relative, "schedule": "constant"}
    return experiment.with_config(experiment.config.replace(evolution__noise=noise, **values))


def _groups(
    experiment: Experiment, info: EngineInfo
) -> tuple[Vector, list[tuple[Perturbation, dict[float, float]]]]:
    """The centre, and perturbations with the factor that makes each rung of them.

    In forms `b` and `merged` sigma is proportional to the relative size: one perturbation serves all. In form
    `both` it is not, and by another curve for each matrix: each rung has its own.
    """
    antithetic = {"evolution__antithetic": True, "evolution__population": 2}
    if experiment.config.lora.form != "both":
        strategy = with_noise(experiment, 1.0, **antithetic).strategy(info.mean_abs, info.frobenius)
        return strategy.initial_theta(), [(strategy.perturbation, {r: r for r in RUNGS})]
    strategies = {
        r: with_noise(experiment, r, **antithetic).strategy(info.mean_abs, info.frobenius) for r in RUNGS
    }
    theta = strategies[RUNGS[0]].initial()[THETA]
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
