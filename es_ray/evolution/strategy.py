"""The Evolution Strategy: the population to evaluate, and the step from its advantages.

Salimans et al. 2017 (arXiv 1703.03864) in the form of arXiv 2509.24372. The state is a dict of named arrays:
`theta`, the centre, float32, shape [P], the optimizer's arrays, as `optimizer.<name>`, and after a rollback
`learning_rate_factor`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from es_ray.errors import RunError, UserError
from es_ray.evolution.fitness import SHAPINGS
from es_ray.evolution.noise import STREAM_INITIAL, normals
from es_ray.evolution.optimizers import Optimizer, Sgd
from es_ray.evolution.perturbation import Perturbation, PiecewiseConstant, Vector

State = Mapping[str, NDArray[Any]]

THETA: Final = "theta"
LEARNING_RATE_FACTOR: Final = "learning_rate_factor"
"""By which the learning rate is multiplied, float64; not in the state before the first rollback."""
_OPTIMIZER: Final = "optimizer."
STORABLE: Final = ("float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "bool")
"""Dtypes of arrays that an optimizer may keep."""
_CHUNK: Final = 1 << 16
"""Entries updated at once, to fit a core's cache; never changes a result."""


@dataclass(frozen=True)
class Strategy:
    """How a run evolves. It stays in the driver; only the perturbation is sent to workers.

    initial_std: the initial values' standard deviation for each entry; learning_rate: alpha; update_scale:
    the factor s of a step's entries, 1 (`absolute`) or sigma (`sigma`).
    """

    perturbation: Perturbation
    population: int
    initial_std: PiecewiseConstant
    learning_rate: float
    shaping: str = "zscore"
    update_scale: str = "absolute"
    optimizer: Optimizer = field(default_factory=Sgd)

    def initial(self) -> dict[str, NDArray[Any]]:
        """The state before the first generation, from the seed alone.

        Raises UserError for an optimizer that keeps anything but arrays.
        """
        size = self.perturbation.size
        drawn = normals(self.perturbation.noise.seed, 0, 0, STREAM_INITIAL, 0, size)
        return self._state(self.initial_std.dense(0, size) * drawn, self.optimizer.initial(size), UserError)

    def ask(self, generation: int) -> list[int]:
        """The indices of the members to evaluate: with their generation, all that is sent to workers."""
        return list(range(self.population))

    def advantages(self, rewards: NDArray[np.float64]) -> NDArray[np.float64]:
        """Z for each member, shape [N]; all zeros if all rewards are equal: then there is no step.

        Raises ValueError for a reward that is not finite.
        """
        if not np.isfinite(rewards).all():
            raise ValueError(f"member {int(np.argmin(np.isfinite(rewards)))} has a reward that is not finite")
        if rewards.max() == rewards.min():
            return np.zeros_like(rewards)
        return SHAPINGS[self.shaping](rewards)

    def step(self, state: State, generation: int, noise_sum: Vector) -> dict[str, NDArray[Any]]:
        """The state after a generation: theta + learning_rate * s * u, u being the optimizer's direction.

        noise_sum: sum_i Z_i noise_i over the generation's members, float32, shape [P]. Entry by entry, in
        float32, so that its bits depend on nothing else. Changes neither argument. Raises RunError if the
        optimizer returns a direction of another shape, or an array that cannot be stored.
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
        factor = state.get(LEARNING_RATE_FACTOR)
        rate = self.learning_rate if factor is None else self.learning_rate * float(factor)
        step = np.float32(rate / direction.divisor)
        scale = self.perturbation.scale(generation) if self.update_scale == "sigma" else None
        after = np.empty_like(theta)
        for start in range(0, len(theta), _CHUNK):
            stop = min(start + _CHUNK, len(theta))
            moved = direction.vector[start:stop]
            if scale is not None:
                moved = moved * scale.dense(start, stop)
            after[start:stop] = theta[start:stop] + step * moved
        return self._state(after, arrays, RunError) | _kept(factor)

    def rolled_back(self, state: State, theta: Vector) -> dict[str, NDArray[Any]]:
        """The state of a run that goes on from an earlier centre, with half the learning rate.

        state: before the rollback, of which only the learning rate's factor matters; theta: that centre,
        shape [P]. The optimizer starts anew.
        """
        factor = float(state.get(LEARNING_RATE_FACTOR, np.float64(1.0))) / 2
        return self._state(theta, self.optimizer.initial(len(theta)), RunError) | _kept(np.float64(factor))

    @property
    def _rule(self) -> str:
        return f"evolution.optimizer: {type(self.optimizer).__name__}"

    def _state(
        self, theta: Vector, arrays: Mapping[str, Any], error: type[Exception]
    ) -> dict[str, NDArray[Any]]:
        """The state: its arrays contiguous, as files store them, and read-only, as it is shared."""
        state = {THETA: theta}
        for name, value in arrays.items():
            if not isinstance(value, (np.ndarray, np.generic)):
                raise error(f"{self._rule}: {name!r} must be a NumPy array, not {type(value).__name__}")
            array = np.array(value, order="C")
            if array.dtype.name not in STORABLE:
                raise error(f"{self._rule}: {name!r} has the dtype {array.dtype}, which no file can store")
            state[f"{_OPTIMIZER}{name}"] = array
        for name, array in state.items():
            if not np.isfinite(array).all():
                raise error(f"{self._rule}: {name.removeprefix(_OPTIMIZER)!r} is not finite after a step")
            array.setflags(write=False)
        return state


def _kept(factor: Any) -> dict[str, NDArray[Any]]:
    """The learning rate's factor in a state; none before the first rollback."""
    return {} if factor is None else {LEARNING_RATE_FACTOR: np.asarray(factor, dtype=np.float64)}
