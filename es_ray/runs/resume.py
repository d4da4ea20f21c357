"""Where a run that was stopped, killed or damaged resumes."""

import logging
from dataclasses import dataclass
from typing import Any

from es_ray.errors import RunError, UserError
from es_ray.evolution.strategy import State
from es_ray.experiment import Experiment
from es_ray.runs import version_0_1_0
from es_ray.runs.replay import state_after
from es_ray.runs.run_dir import RunDir

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Start:
    """The generation to resume after, its state, and mean|W| and ||W||_F of the weights that were evolved."""

    generation: int
    state: State
    mean_abs: tuple[float, ...]
    frobenius: tuple[float, ...]


def last_intact(run: RunDir, experiment: Experiment) -> Start | None:
    """The last generation that is complete and undamaged; None if none was ever finished.

    Damaged ones after it are logged as a warning. Raises RunError if all are damaged, or if metrics.jsonl
    lacks a line before it; UserError if the examples have changed since the run began. Removes nothing.
    """
    complete = run.complete_generations()
    damaged: list[RunError] = []
    for generation in reversed(complete):
        try:
            run.check(generation)
            folder = run.generation_folder(generation)
            mean_abs, frobenius = folder.mean_abs, folder.frobenius
            state = state_after(run, experiment.strategy(mean_abs, frobenius), generation)
        except RunError as error:
            damaged.append(error)
            continue
        run.check_upto(generation)
        _check_examples(run, generation, experiment)
        if damaged:
            log.warning("%s; resuming after generation %d", _summary(damaged), generation)
        return Start(generation, state, mean_abs, frobenius)
    if damaged:
        raise RunError(f"{_summary(damaged)}; no generation of {run.path} is intact, and nothing was removed")
    return None


def _summary(damaged: list[RunError]) -> str:
    """Each message once, the newest first: a torn metrics.jsonl damages several generations."""
    texts = list(dict.fromkeys(map(str, damaged)))
    more = f" (and {len(texts) - 3} more)" if len(texts) > 3 else ""
    return "; ".join(texts[:3]) + more


def _check_examples(run: RunDir, generation: int, experiment: Experiment) -> None:
    folder = run.generation_folder(generation)
    same = experiment.fingerprints if folder.format > 2 else version_0_1_0.fingerprints(experiment)
    for split, fingerprint in same.items():
        if folder.fingerprints.get(split) != fingerprint:
            data, count = getattr(experiment.config.task, split), experiment.prompts[split]
            where = data if isinstance(data, str) else f"the task {experiment.config.task.name}"
            raise UserError(
                f"task.{split}: {where} ({count:,} examples) is not what {run.path} was started with; "
                "restore that to go on, or start a new run"
            )


def recorded_base(run: RunDir) -> dict[str, Any] | None:
    """The base model's rewards of a run to resume: a damaged generation 0 must not stop it."""
    try:
        return run.base()
    except RunError as error:
        log.warning("%s; the base model's rewards are not shown", error)
        return None
