"""The Evolution Strategy: what a member is, and how advantages move the centre.

Salimans et al. 2017 (arXiv 1703.03864) in the form of arXiv 2509.24372: plain steps along the
advantage-weighted mean of the noise. The state is one flat float32 vector theta, shape [P].
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from es_ray.evolution.fitness import SHAPINGS
from es_ray.evolution.noise import STREAM_INITIAL, Noise, at_once, normals

Vector = NDArray[np.float32]


@dataclass(frozen=True)
class PiecewiseConstant:
    """A float32 value for each entry of a flat vector, constant between boundaries.

    ends: where each segment ends (ascending; the last one is P); values: one for each segment.
    """

    ends: tuple[int, ...]
    values: tuple[float, ...]

    @property
    def size(self) -> int:
        """Entries of the vector, P."""
        return self.ends[-1]

    def dense(self, start: int, stop: int) -> Vector:
        """The values of entries [start, stop), shape [stop - start]."""
        edges = np.clip(np.concatenate([[0], self.ends]), start, stop)
        return np.repeat(np.asarray(self.values, dtype=np.float32), np.diff(edges))


@dataclass(frozen=True)
class Strategy:
    """All that decides a member and a step, small enough to travel with every call.

    sigma: the noise's scale for each entry; first_sigma: the one of generation 0, where it differs
    (`init.mode: population`); initial_std: the initial values' standard deviation for each entry.
    """

    noise: Noise
    population: int
    sigma: PiecewiseConstant
    first_sigma: PiecewiseConstant | None
    initial_std: PiecewiseConstant
    learning_rate: float
    shaping: str = "zscore"
    update_scale: str = "absolute"

    @property
    def size(self) -> int:
        """Entries of theta, P."""
        return self.sigma.size

    def initial(self) -> Vector:
        """Theta before the first generation, shape [P], from the seed alone."""
        drawn = normals(self.noise.seed, 0, 0, STREAM_INITIAL, 0, self.size)
        return self.initial_std.dense(0, self.size) * drawn

    def scale(self, generation: int) -> PiecewiseConstant:
        """Sigma in that generation."""
        return self.first_sigma if generation == 0 and self.first_sigma is not None else self.sigma

    def ask(self, generation: int) -> list[int]:
        """The members to evaluate: with their generation, these numbers are all that travels."""
        return list(range(self.population))

    def member(self, theta: Vector, generation: int, index: int) -> Vector:
        """Theta + sigma * noise of one member, shape [P]."""
        return self.members(theta, generation, [index])[0]

    def members(self, theta: Vector, generation: int, indices: Sequence[int]) -> Vector:
        """Several members, shape [N, P]."""
        members = self.noise.members(generation, indices, 0, self.size)
        members *= self.scale(generation).dense(0, self.size)
        members += theta
        return members

    def advantages(self, rewards: NDArray[np.float64]) -> NDArray[np.float64]:
        """Z for each member, shape [N]; all zeros where the rewards are equal: nothing can be learnt there.

        Raises ValueError for a reward that is not finite.
        """
        if not np.isfinite(rewards).all():
            raise ValueError(f"member {int(np.argmin(np.isfinite(rewards)))} has a reward that is not finite")
        if rewards.max() == rewards.min():
            return np.zeros_like(rewards)
        return SHAPINGS[self.shaping](rewards)

    def tell(
        self, theta: Vector, generation: int, advantages: NDArray[np.float64], start: int, stop: int
    ) -> Vector:
        """Entries [start, stop) of the next theta: theta + lr / N * sum_i Z_i noise_i * s.

        theta: the whole vector, shape [P]. s is 1 (`absolute`) or sigma (`sigma`). The sum runs in float32
        and in member order for each entry, so that its bits do not depend on how entries are split.
        """
        total = np.zeros(stop - start, dtype=np.float32)
        for some in at_once(len(advantages), stop - start):
            noise = self.noise.members(generation, range(some.start, some.stop), start, stop)
            for advantage, row in zip(advantages[some], noise, strict=True):
                total += np.float32(advantage) * row
        if self.update_scale == "sigma":
            total *= self.scale(generation).dense(start, stop)
        return theta[start:stop] + np.float32(self.learning_rate / len(advantages)) * total
