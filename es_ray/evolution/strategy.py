"""The Evolution Strategy: the population to evaluate, and the step from its advantages.

Salimans et al. 2017 (arXiv 1703.03864) in the form of arXiv 2509.24372. The state is a dict of named arrays:
`theta`, the centre, float32, shape [P], the optimizer's arrays, as `optimizer.<name>`, and after a rollback
`learning_rate_factor`.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from es_ray.errors import RunError, UserError
from es_ray.evolution.fitness import SHAPINGS, prompt_zscores, spread_factor, tie_correction
from es_ray.evolution.noise import STREAM_INITIAL, normals
from es_ray.evolution.optimizers import Optimizer, Sgd
from es_ray.evolution.perturbation import Perturbation, PiecewiseConstant, Vector
from es_ray.evolution.pieces import in_pieces
from es_ray.evolution.schedules import CONSTANT, Schedule

State = Mapping[str, NDArray[Any]]

THETA: Final = "theta"
LEARNING_RATE_FACTOR: Final = "learning_rate_factor"
"""By which the learning rate is multiplied, float64; not in the state before the first rollback."""
_OPTIMIZER: Final = "optimizer."
STORABLE: Final = ("float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "bool")
"""Dtypes of arrays that an optimizer may keep."""


@dataclass(frozen=True)
class Strategy:
    """How a run evolves. It stays in the driver; only the perturbation is sent to workers.

    initial_std: the initial values' standard deviation for each entry; learning_rate: alpha, which
    learning_rate_schedule multiplies; update_scale: the factor s of a step's entries, 1 (`absolute`) or sigma
    (`sigma`); weight_decay: lambda. prompt_normalization, tie_correction and min_spread: see
    `es_ray.evolution.fitness`. unit_rows: pieces [start, stop) of the initial values that are scaled to rows
    of length 1, with the entries of a row.
    """

    perturbation: Perturbation
    population: int
    initial_std: PiecewiseConstant
    learning_rate: float
    shaping: str = "zscore"
    update_scale: str = "absolute"
    optimizer: Optimizer = field(default_factory=Sgd)
    learning_rate_schedule: Schedule = CONSTANT
    weight_decay: float = 0.0
    prompt_normalization: str = "none"
    tie_correction: bool = False
    min_spread: float = 0.0
    unit_rows: tuple[tuple[int, int, int], ...] = ()

    def initial(self) -> dict[str, NDArray[Any]]:
        """The state before the first generation, from the seed alone.

        Raises UserError for an optimizer that keeps anything but arrays.
        """
        arrays = self.optimizer.initial(self.perturbation.size)
        return self._state(self.initial_theta(), arrays, UserError)

    def initial_theta(self) -> Vector:
        """The initial values, shape [P], from the seed alone."""
        size = self.perturbation.size
        drawn = normals(self.perturbation.noise.seed, 0, 0, STREAM_INITIAL, 0, size)
        theta = self.initial_std.dense(0, size) * drawn
        for start, stop, row in self.unit_rows:
            rows = theta[start:stop].astype(np.float64).reshape(-1, row)
            theta[start:stop] = (rows / np.sqrt(np.square(rows).sum(axis=1, keepdims=True))).ravel()
        if self.unit_rows:
            theta += np.float32(0)  # 0 x a negative normal is -0
        return theta

    def learning_rate_at(self, generation: int, state: State) -> float:
        """Alpha in a generation; state: before its step, which knows of rollbacks."""
        rate = self.learning_rate * self.learning_rate_schedule.factor(generation)
        factor = state.get(LEARNING_RATE_FACTOR)
        return rate if factor is None else rate * float(factor)

    def sigma_at(self, generation: int) -> float:
        """Sigma in a generation as one number: the geometric mean over the matrices that have noise."""
        return self.perturbation.scale(generation).geometric_mean()

    def ask(self, generation: int) -> list[int]:
        """The indices of the members to evaluate: with their generation, all that is sent to workers."""
        return list(range(self.population))

    def advantages(
        self, rewards: NDArray[np.float64], by_prompt: NDArray[np.float64] | None = None
    ) -> NDArray[np.float64]:
        """Z for each member, shape [N]; all zeros if all rewards are equal: then there is no step.

        rewards: the members', shape [N]; by_prompt: those of each prompt, shape [N, prompts], which
        `prompt_normalization` needs. Raises ValueError for a reward that is not finite.
        """
        if not np.isfinite(rewards).all():
            raise ValueError(f"member {int(np.argmin(np.isfinite(rewards)))} has a reward that is not finite")
        fitness = rewards
        if self.prompt_normalization == "zscore":
            if by_prompt is None:
                raise ValueError("prompt_normalization needs the rewards of each prompt")
            fitness = prompt_zscores(by_prompt)
        if fitness.max() == fitness.min():
            return np.zeros_like(fitness)
        shaped = SHAPINGS[self.shaping](fitness)
        if self.shaping == "none":  # which keeps the rewards' scale, so that a small spread is a small step
            return shaped
        factor = spread_factor(rewards, self.min_spread)
        if self.tie_correction and self.shaping == "zscore":
            factor *= math.sqrt(tie_correction(fitness))
        return shaped * factor

    def updated(
        self,
        state: State,
        generation: int,
        advantages: NDArray[np.float64],
        noise_sum: Callable[[], Vector],
    ) -> State:
        """The state after a generation; unchanged if all its advantages are 0.

        advantages: Z, shape [N]; noise_sum: computes what `step` needs.
        """
        return self.step(state, generation, noise_sum()) if advantages.any() else state

    def update_norm(self, before: NDArray[Any], after: NDArray[Any]) -> float:
        """Length of an update, in float64. before, after: the centre, shape [P]."""
        return distance(before, after)

    def step(self, state: State, generation: int, noise_sum: Vector) -> dict[str, NDArray[Any]]:
        """The state after a generation: theta_init + (1 - lambda) (theta - theta_init) + alpha * s * u.

        u is the optimizer's direction; alpha and s are the generation's. noise_sum: sum_i Z_i noise_i over
        its members, float32, shape [P]. Entry by entry, in float32, so that its bits depend on nothing else.
        Changes neither argument. Raises RunError if the optimizer returns a direction of another shape, or an
        array that cannot be stored.
        """
        theta = state[THETA]
        arrays = {
            name.removeprefix(_OPTIMIZER): array
            for name, array in state.items()
            if name.startswith(_OPTIMIZER)
        }
        direction, arrays = self.optimizer.direction(noise_sum, self.population, arrays)
        if direction.vector.shape != theta.shape:
            shapes = f"{direction.vector.shape} for theta of {theta.shape}"
            raise RunError(f"{self._rule}: its direction has the shape {shapes}")
        step = np.float32(self.learning_rate_at(generation, state) / direction.divisor)
        decay = np.float32(self.weight_decay)
        sigma = self.perturbation.scale(generation)
        scale = sigma if self.update_scale == "sigma" else None
        if scale is None and 0.0 in sigma.values:  # what no member perturbs stays, whatever the rule says
            scale = PiecewiseConstant(sigma.ends, tuple(float(value != 0) for value in sigma.values))
        theta_init = self._theta_init if decay else None
        after = np.empty_like(theta)

        def move(start: int, stop: int) -> None:
            moved = direction.vector[start:stop]
            if scale is not None:
                moved = moved * scale.dense(start, stop)
            moved = step * moved
            if theta_init is not None:
                # as a pull: theta_init + (1 - lambda) (theta - theta_init) would round at each step
                moved -= decay * (theta[start:stop] - theta_init[start:stop])
            np.add(theta[start:stop], moved, out=after[start:stop])

        in_pieces(len(theta), move)
        return self._state(after, arrays, RunError) | _kept(state.get(LEARNING_RATE_FACTOR))

    def rolled_back(self, state: State, theta: Vector) -> dict[str, NDArray[Any]]:
        """The state of a run that goes on from an earlier centre, with half the learning rate.

        state: before the rollback, of which only the learning rate's factor matters; theta: that centre,
        shape [P]. The optimizer starts anew.
        """
        factor = float(state.get(LEARNING_RATE_FACTOR, np.float64(1.0))) / 2
        return self._state(theta, self.optimizer.initial(len(theta)), RunError) | _kept(np.float64(factor))

    @cached_property
    def _theta_init(self) -> Vector:
        return self.initial_theta()

    @property
    def _rule(self) -> str:
        return f"evolution.optimizer: {type(self.optimizer).__name__}"

    def _state(
        self, theta: NDArray[Any], arrays: Mapping[str, Any], error: type[Exception]
    ) -> dict[str, NDArray[Any]]:
        """The state: its arrays contiguous, as files store them, and read-only, as it is shared."""
        state = {THETA: theta}
        for name, value in arrays.items():
            if not isinstance(value, (np.ndarray, np.generic)):
                raise error(f"{self._rule}: {name!r} must be a NumPy array, not {type(value).__name__}")
            array = _copied(value)
            if array.dtype.name not in STORABLE:
                raise error(f"{self._rule}: {name!r} has the dtype {array.dtype}, which no file can store")
            state[f"{_OPTIMIZER}{name}"] = array
        for name, array in state.items():
            if not _is_finite(array):
                raise error(f"{self._rule}: {name.removeprefix(_OPTIMIZER)!r} is not finite after a step")
            array.setflags(write=False)
        return state


def _kept(factor: Any) -> dict[str, NDArray[Any]]:
    """The learning rate's factor in a state; none before the first rollback."""
    return {} if factor is None else {LEARNING_RATE_FACTOR: np.asarray(factor, dtype=np.float64)}


def distance(one: Vector, other: Vector) -> float:
    """Length of the difference of two vectors, in float64."""

    def square(start: int, stop: int) -> float:
        return float(np.square(other[start:stop].astype(np.float64) - one[start:stop]).sum())

    # not np.linalg.norm: its sum depends on the number of BLAS threads
    return math.sqrt(math.fsum(in_pieces(len(one), square)))


def _copied(value: Any) -> NDArray[Any]:
    """A contiguous copy: an optimizer may go on using its own array."""
    if value.ndim != 1:
        return np.array(value, order="C")
    copy = np.empty(value.shape, value.dtype)

    def fill(start: int, stop: int) -> None:
        copy[start:stop] = value[start:stop]

    in_pieces(len(copy), fill)
    return copy


def _is_finite(array: NDArray[Any]) -> bool:
    flat = array.reshape(-1)
    return all(in_pieces(len(flat), lambda start, stop: bool(np.isfinite(flat[start:stop]).all())))
