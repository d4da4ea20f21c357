"""Any state of a run, from what is on disk: a stored one, or a replay of recorded advantages."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from es_ray.engines.registry import engine_spec
from es_ray.errors import UserError
from es_ray.evolution.perturbation import Perturbation, Vector
from es_ray.evolution.strategy import THETA, Strategy
from es_ray.runs.run_dir import RunDir

log = logging.getLogger(__name__)


def state_after(run: RunDir, strategy: Strategy, generation: int) -> Mapping[str, NDArray[Any]]:
    """The evolution's state after that generation's update; -1: the initial one.

    A pruned state is computed again from the last stored one before it: to the byte, unless the run's engine
    rounds differently from NumPy, which is logged as a warning. Raises RunError for what cannot be read.
    """
    start, updates = missing_updates(run, generation)
    state: Mapping[str, NDArray[Any]] = (
        run.generation_folder(start).state() if start >= 0 else strategy.initial()
    )
    if updates and not strategy.perturbation.fresh:  # a merged centre is its advantages
        _warn_unless_exact(run.path)
    for update in updates:
        if update.rollback is not None:
            state = strategy.rolled_back(state, centre_after(run, strategy, update.rollback))
            continue
        state = strategy.updated(
            state, update.generation, update.advantages, partial(_noise_sum, strategy.perturbation, update)
        )
    return state


def _noise_sum(perturbation: Perturbation, update: "Update") -> Vector:
    return perturbation.noise_sum(update.generation, update.advantages, 0, perturbation.size)


def centre_after(run: RunDir, strategy: Strategy, generation: int) -> Vector:
    """The centre after that generation's update, shape [P], or a History; see `state_after`."""
    return state_after(run, strategy, generation)[THETA]


@dataclass(frozen=True)
class Update:
    """What a generation did to the state: a step from its advantages, shape [N], or a rollback instead.

    rollback: the generation to whose centre it went back, None for a step.
    """

    generation: int
    advantages: NDArray[np.float64]
    rollback: int | None = None


def missing_updates(run: RunDir, generation: int) -> tuple[int, list[Update]]:
    """The last generation up to that one whose state is stored (-1: none is), and the updates since.

    Those that moved nothing are left out.
    """
    start = next((g for g in range(generation, -1, -1) if run.generation_folder(g).has_state), -1)
    folders = {g: run.generation_folder(g) for g in range(start + 1, generation + 1)}
    updates = [Update(g, folder.advantages(), folder.rollback) for g, folder in folders.items()]
    return start, [each for each in updates if each.rollback is not None or each.advantages.any()]


def has_exact_replay(run: RunDir) -> bool:
    """Whether the run's engine computes noise with NumPy's bits (`EngineSpec.exact_replay`)."""
    kind = run.config().engine.kind
    try:
        return engine_spec(kind).exact_replay
    except UserError:  # a user's own engine, whose file is not on this machine
        return False


@cache
def _warn_unless_exact(path: Path) -> None:
    """Warn once for each run whose replay is close, not equal."""
    if not has_exact_replay(RunDir(path)):
        log.warning(
            "%s: states that were pruned are computed again by NumPy, which rounds differently from the "
            "run's engine: the result is close to the recorded one, not equal to the byte",
            path,
        )
