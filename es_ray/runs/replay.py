"""Any state of a run, from what is on disk: a stored one, or a replay of recorded advantages."""

from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from es_ray.evolution.perturbation import Vector
from es_ray.evolution.strategy import THETA, Strategy
from es_ray.runs.run_dir import RunDir


def state_after(run: RunDir, strategy: Strategy, generation: int) -> Mapping[str, NDArray[Any]]:
    """The evolution's state after that generation's update; -1: the initial one.

    Where it was pruned, the updates since the last one that is stored are computed again. Raises RunError for
    what cannot be read.
    """
    start = next((g for g in range(generation, -1, -1) if run.generation_folder(g).has_state), -1)
    state: Mapping[str, NDArray[Any]] = (
        run.generation_folder(start).state() if start >= 0 else strategy.initial()
    )
    size = strategy.perturbation.size
    for replayed in range(start + 1, generation + 1):
        advantages = run.generation_folder(replayed).advantages()
        if advantages.any():
            noise_sum = strategy.perturbation.noise_sum(replayed, advantages, 0, size)
            state = strategy.step(state, replayed, noise_sum)
    return state


def centre_after(run: RunDir, strategy: Strategy, generation: int) -> Vector:
    """The centre after that generation's update, shape [P]; see `state_after`."""
    return state_after(run, strategy, generation)[THETA]
