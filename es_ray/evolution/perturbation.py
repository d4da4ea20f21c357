"""Members, the centre plus scaled noise from two integers, and sums over members' noise."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

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

    def constants(self, starts: Sequence[int], stops: Sequence[int]) -> Vector:
        """The value of all entries of each range [start, stop), NaN where they have different ones."""
        values = np.asarray(self.values, dtype=np.float32)
        changes = np.cumsum(np.diff(values, prepend=values[:1]) != 0)
        ends = np.asarray(self.ends)
        first = np.searchsorted(ends, starts, side="right")
        last = np.searchsorted(ends, np.asarray(stops) - 1, side="right")
        return np.where(changes[first] == changes[last], values[first], np.float32(np.nan))

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

    def nonzero(self, start: int, stop: int) -> list[tuple[int, int]]:
        """The ranges of [start, stop) in which values are not 0, adjacent ones joined."""
        found: list[tuple[int, int]] = []
        first = 0
        for end, value in zip(self.ends, self.values, strict=True):
            low, high = max(first, start), min(end, stop)
            if value != 0 and low < high:
                joined = bool(found) and found[-1][1] == low
                found[-1:] = [(found[-1][0], high)] if joined else [*found[-1:], (low, high)]
            first = end
        return found


@dataclass(frozen=True)
class Perturbation:
    """Everything that defines a member besides the centre: small enough to send with every call.

    sigma: the noise's scale for each entry; first_sigma: that of generation 0, if it differs
    (`init.mode: population`); schedule: what multiplies sigma in each generation. fresh: what form `merged`
    needs: no centre is added, and where sigma is 0 (A), a member has its plain noise, of which neither the
    sign of a pair's second member nor a factor is taken: B alone is negated and scaled.
    """

    noise: Noise
    sigma: PiecewiseConstant
    first_sigma: PiecewiseConstant | None = None
    schedule: Schedule = CONSTANT
    fresh: bool = False

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
        if self.fresh:
            return self.fresh_members(generation, indices, 0, self.size, factors)
        scale = self.scale(generation)
        ranges = _batches(scale.nonzero(0, self.size))
        if 0.0 not in scale.values or ranges == [(0, self.size)]:
            return self._moved(theta, generation, indices, factors, 0, self.size)
        members = np.empty((len(indices), self.size), dtype=np.float32)
        members[:] = theta
        for start, stop in ranges:
            members[:, start:stop] = self._moved(theta, generation, indices, factors, start, stop)
        return members

    def fresh_members(
        self,
        generation: int,
        indices: Sequence[int],
        start: int,
        stop: int,
        factors: Sequence[float] = (),
    ) -> Vector:
        """Entries [start, stop) of members that are noise alone, shape [N, stop - start]; see `fresh`."""
        found = self.noise.members(generation, indices, start, stop)
        scale = self.scale(generation).dense(start, stop)
        plain = scale == 0
        odd = np.array([self.noise.antithetic and index % 2 == 1 for index in indices])
        found[np.ix_(odd, plain)] *= -1  # as the pair's first member has it
        scale[plain] = 1
        found *= scale
        for row, factor in enumerate(factors):
            if factor != 1.0:
                found[row, ~plain] *= np.float32(factor)
        return found

    def _moved(
        self,
        theta: Vector,
        generation: int,
        indices: Sequence[int],
        factors: Sequence[float],
        start: int,
        stop: int,
    ) -> Vector:
        """Entries [start, stop) of members, shape [N, stop - start]."""
        moved = self.noise.members(generation, indices, start, stop)
        for row, factor in enumerate(factors):
            if factor != 1.0:
                moved[row] *= np.float32(factor)
        moved *= self.scale(generation).dense(start, stop)
        moved += theta[start:stop]
        return moved

    def noise_sum(self, generation: int, advantages: NDArray[np.float64], start: int, stop: int) -> Vector:
        """Entries [start, stop) of sum_i Z_i noise_i over all members, float32, shape [stop - start].

        advantages: Z, shape [N]. Summed in member order for each entry, so that the bits do not depend on how
        the entries are sliced. 0 where sigma is 0: no member differs there.
        """
        total = np.zeros(stop - start, dtype=np.float32)
        scale = self.scale(generation)
        fixed = 0.0 in scale.values
        for low, high in _batches(scale.nonzero(start, stop)) if fixed else [(start, stop)]:
            part = total[low - start : high - start]
            for some in member_slices(len(advantages), high - low):
                noise = self.noise.members(generation, range(some.start, some.stop), low, high)
                for advantage, row in zip(advantages[some], noise, strict=True):
                    part += np.float32(advantage) * row
            if fixed:
                part[scale.dense(low, high) == 0] = 0
        return total


_GAP: Final = 4096
"""Entries between two ranges that take no longer to draw than another call; never changes a result."""


def _batches(ranges: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """The ranges to draw noise for at once: those that are close as one."""
    found: list[tuple[int, int]] = []
    for low, high in ranges:
        close = bool(found) and low - found[-1][1] < _GAP
        found[-1:] = [(found[-1][0], high)] if close else [*found[-1:], (low, high)]
    return found
