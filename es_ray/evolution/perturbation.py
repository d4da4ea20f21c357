"""Members, the centre plus scaled noise from two integers, and sums over members' noise."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from es_ray.evolution.noise import Noise, member_slices
from es_ray.evolution.schedules import CONSTANT, Schedule

Vector = NDArray[np.float32]


@dataclass(frozen=True)
class PiecewiseConstant:
    """A float32 value for each entry of a flat vector, constant between boundaries.

    ends: where each piece ends (ascending; the last one is P); values: one for each piece.
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

    def times(self, factor: float) -> "PiecewiseConstant":
        """Each value multiplied by a factor."""
        if factor == 1.0:
            return self
        return replace(self, values=tuple(value * factor for value in self.values))

    def geometric_mean(self) -> float:
        """Of the pieces' values above 0, each counted once; 0 if there is none."""
        positive = [value for value in self.values if value > 0]
        if len(set(positive)) < 2:  # where exp(log) would round
            return positive[0] if positive else 0.0
        return math.exp(math.fsum(map(math.log, positive)) / len(positive))


@dataclass(frozen=True)
class Perturbation:
    """Everything that defines a member besides the centre: small enough to send with every call.

    sigma: the noise's scale for each entry; first_sigma: that of generation 0, if it differs
    (`init.mode: population`); schedule: what multiplies sigma in each generation.
    """

    noise: Noise
    sigma: PiecewiseConstant
    first_sigma: PiecewiseConstant | None = None
    schedule: Schedule = CONSTANT

    @property
    def size(self) -> int:
        """Entries of theta, P."""
        return self.sigma.size

    def scale(self, generation: int) -> PiecewiseConstant:
        """Sigma in a generation."""
        if generation == 0 and self.first_sigma is not None:
            return self.first_sigma
        return self.sigma.times(self.schedule.factor(generation))

    def member(self, theta: Vector, generation: int, index: int, factor: float = 1.0) -> Vector:
        """Theta + factor * sigma * noise of one member, shape [P]."""
        return self.members(theta, generation, [index], [factor])[0]

    def members(
        self, theta: Vector, generation: int, indices: Sequence[int], factors: Sequence[float] = ()
    ) -> Vector:
        """Several members, shape [N, P]; factors: multiply each sigma, 1 by default."""
        members = self.noise.members(generation, indices, 0, self.size)
        for row, factor in enumerate(factors):
            if factor != 1.0:
                members[row] *= np.float32(factor)
        members *= self.scale(generation).dense(0, self.size)
        members += theta
        return members

    def noise_sum(self, generation: int, advantages: NDArray[np.float64], start: int, stop: int) -> Vector:
        """Entries [start, stop) of sum_i Z_i noise_i over all members, float32, shape [stop - start].

        advantages: Z, shape [N]. Summed in member order for each entry, so that the bits do not depend on how
        the entries are sliced.
        """
        total = np.zeros(stop - start, dtype=np.float32)
        for some in member_slices(len(advantages), stop - start):
            noise = self.noise.members(generation, range(some.start, some.stop), start, stop)
            for advantage, row in zip(advantages[some], noise, strict=True):
                total += np.float32(advantage) * row
        return total
