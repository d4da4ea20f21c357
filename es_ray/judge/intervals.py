"""Intervals of means over examples, by the bootstrap."""

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

RESAMPLES: Final = 10_000
LEVEL: Final = 0.95
CHUNK: Final = 1 << 22
"""Most numbers that are drawn at once."""


class Interval(NamedTuple):
    """A mean, and the bounds between which it lies with LEVEL confidence."""

    mean: float
    low: float
    high: float


def bootstrap(values: Sequence[float] | NDArray[np.float64], seed: int = 0) -> Interval:
    """The mean of values, one for each example, with a percentile bootstrap interval.

    Examples are what is resampled: of samples of one example give their mean; of two answers to the same
    examples, their difference. The same for the same seed. Efron and Tibshirani 1993, section 13.3. Raises
    ValueError without values.
    """
    found = np.asarray(values, dtype=np.float64)
    if found.ndim != 1 or not len(found):
        raise ValueError(f"values: one number for each example is needed, not shape {found.shape}")
    rng, count = np.random.default_rng(seed), len(found)
    each = max(CHUNK // count, 1)
    means: list[NDArray[np.float64]] = []
    for start in range(0, RESAMPLES, each):
        drawn = rng.integers(0, count, size=(min(each, RESAMPLES - start), count))
        means.append(found[drawn].mean(axis=1))
    low, high = np.quantile(np.concatenate(means), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(found.mean()), float(low), float(high))
