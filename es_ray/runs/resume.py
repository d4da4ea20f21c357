"""Where a run that was stopped, killed or damaged goes on."""

import logging
from dataclasses import dataclass

from es_ray.errors import RunError, UserError
from es_ray.evolution.strategy import State
from es_ray.experiment import Experiment
from es_ray.runs import version_0_1_0
from es_ray.runs.replay import state_after
from es_ray.runs.run_dir import RunDir

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Start:
    """The generation to go on after, its state, and mean|W| of the weights that were evolved."""

    generation: int
    state: State
    mean_abs: tuple[float, ...]


def last_intact(run: RunDir, experiment: Experiment) -> Start | None:
    """The last generation that is whole and as it was written; None if none was ever finished.

    Damaged ones after it are told in a warning. Raises RunError if all are, or if metrics.jsonl lacks a line
    before it; UserError if the examples are not those that the run began with. Removes nothing.
    """
    whole = run.complete_generations()
    damaged: list[RunError] = []
    for generation in reversed(whole):
        try:
            run.check(generation)
            mean_abs = run.recorded(generation).mean_abs
            state = state_after(run, experiment.strategy(mean_abs), generation)
        except RunError as error:
            damaged.append(error)
            continue
        run.check_upto(generation)
        _check_examples(run, generation, experiment)
        if damaged:
            log.warning("%s; going on after generation %d", _told(damaged), generation)
        return Start(generation, state, mean_abs)
    if damaged:
        raise RunError(f"{_told(damaged)}; no generation of {run.path} is intact, and nothing was removed")
    return None


def _told(damaged: list[RunError]) -> str:
    """Each file once, the newest first: a torn metrics.jsonl spoils several generations."""
    texts = list(dict.fromkeys(map(str, damaged)))
    more = f" (and {len(texts) - 3} more)" if len(texts) > 3 else ""
    return "; ".join(texts[:3]) + more


def _check_examples(run: RunDir, generation: int, experiment: Experiment) -> None:
    recorded = run.recorded(generation)
    same = experiment.fingerprints if recorded.format > 2 else version_0_1_0.fingerprints(experiment)
    for split, fingerprint in same.items():
        if recorded.fingerprints.get(split) != fingerprint:
            raise UserError(f"task.{split}: not the examples that {run.path} was started with")
