"""Form `merged` (EGGROLL, arXiv 2511.16652): the centre is the base weights after updates.

A member is W + sigma / sqrt(r) * B_i A_i, A_i and B_i of fresh standard normal noise, where mirrored pairs
negate B alone. The update goes into W itself: W <- W_0 + (1 - lambda) (W - W_0) + sum_i c_i times the change
of member i, c_i = alpha Z_i / N. So a centre is all coefficients c so far, an array of float64, shape
[generations, N + 1], with each generation's 1 - lambda last: from it, the base weights and the seed follow
the weights of any generation.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from es_ray.errors import RunError
from es_ray.evolution.perturbation import Perturbation, Vector
from es_ray.evolution.strategy import THETA, State, Strategy

History = NDArray[np.float64]


class Update(NamedTuple):
    """What a generation did: its members' coefficients c, shape [N]; kept: 1 - lambda, applied before."""

    generation: int
    coefficients: NDArray[np.float64]
    kept: float


@dataclass(frozen=True)
class MergedStrategy(Strategy):
    """A strategy whose steps go into the model's weights; its state's `theta` is a History.

    change_norm: the length of a member's change of all adapted matrices together at the schedule's start, in
    the root mean square over its noise.
    """

    change_norm: float = math.nan

    def initial_theta(self) -> History:  # type: ignore[override]
        """No updates."""
        return np.zeros((0, self.population + 1))

    def updated(
        self,
        state: State,
        generation: int,
        advantages: NDArray[np.float64],
        noise_sum: Callable[[], Vector],
    ) -> State:
        """The state after a generation, from its advantages alone; unchanged if they are all 0."""
        if not advantages.any():
            return state
        rate = self.learning_rate_at(generation, state) / self.population
        row = np.append(advantages * rate, 1 - self.weight_decay)
        history = np.concatenate([padded(state[THETA], generation), row[None]])
        return {**state, **self._state(history, {}, RunError)}

    def update_norm(self, before: NDArray[Any], after: NDArray[Any]) -> float:
        """Length of an update of all adapted matrices, in the root mean square over noise.

        Members' changes are orthogonal in expectation. After a rollback that of what it took back.
        """
        shorter, longer = sorted((before, after), key=len)
        same = next((g for g in range(len(shorter)) if (shorter[g] != longer[g]).any()), len(shorter))
        square = math.fsum(
            float(np.square(by_direction(update.coefficients, self.perturbation.noise.antithetic)).sum())
            * self.perturbation.schedule.factor(update.generation) ** 2
            for history in (before, after)
            for update in updates(history, same)
        )
        return self.change_norm * math.sqrt(square)


def padded(history: History, generations: int) -> History:
    """A history of so many generations: those that are missing moved nothing."""
    missing = generations - len(history)
    rows = np.zeros((missing, history.shape[1]))
    rows[:, -1] = 1.0
    return np.concatenate([history, rows])


def updates(history: History, first: int = 0) -> Iterator[Update]:
    """The updates of a history from that generation on that moved anything."""
    for generation in range(first, len(history)):
        *_, kept = history[generation]
        if kept != 1.0 or history[generation, :-1].any():
            yield Update(generation, history[generation, :-1], float(kept))


def begins_with(history: History, other: History) -> bool:
    """Whether the weights of `history` are those of `other` after more updates."""
    return len(other) <= len(history) and bool((history[: len(other)] == other).all())


def directions(
    perturbation: Perturbation, update: Update, start: int, stop: int
) -> tuple[Vector, NDArray[np.float32]]:
    """Entries [start, stop) of what an update adds up, and its weight of each: [D, stop - start] and [D].

    With mirrored pairs one for each pair, whose second member has the opposite change.
    """
    antithetic = perturbation.noise.antithetic
    members = range(0, len(update.coefficients), 2 if antithetic else 1)
    weights = by_direction(update.coefficients, antithetic).astype(np.float32)
    return perturbation.fresh_members(update.generation, members, start, stop), weights


def by_direction(coefficients: NDArray[np.float64], antithetic: bool) -> NDArray[np.float64]:
    """The coefficients of the directions: with mirrored pairs, shape [N / 2], the pairs' differences."""
    return coefficients[0::2] - coefficients[1::2] if antithetic else coefficients
