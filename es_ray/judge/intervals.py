"""Intervals of means over examples, by the bootstrap."""

import math
from collections.abc import Iterator
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

RESAMPLES: Final = 10_000
LEVEL: Final = 0.95
CHUNK: Final = 1 << 22
"""Most numbers that are drawn at once."""
FEW: Final = 20
"""With fewer examples the percentile interval covers clearly less than LEVEL: 53 % for 8 examples of which
90 % are right on the whole, chiefly because all 8 are right in 43 % of all cases, which gives no width."""


class Interval(NamedTuple):
    """A mean, and the bounds between which it lies with LEVEL confidence; nan for one example."""

    mean: float
    low: float
    high: float

    def record(self) -> dict[str, float]:
        """{mean, low, high}, of one example {mean}: JSON has no nan."""
        return {name: value for name, value in self._asdict().items() if not math.isnan(value)}


def bootstrap_columns(values: NDArray[np.float64], seed: int = 0) -> list[Interval]:
    """The mean of each column with a percentile bootstrap interval, the examples drawn once for all columns.

    values: shape [examples, columns], at least one example. Examples are what is resampled: of samples of one
    example give their mean; of two answers to the same examples, their difference. The same for the same
    seed. Efron and Tibshirani 1993, section 13.3.
    """
    # by the distance to the first example: equal values stay equal to the last bit
    first, count = values[0], len(values)
    apart = np.ascontiguousarray(values - first)
    means = first + apart.mean(axis=0)
    if count == 1:
        return [Interval(mean, math.nan, math.nan) for mean in means.tolist()]
    drawn = np.concatenate([times @ apart for times in _resamples(count, seed)]) / count
    low, high = first + _bounds(drawn)
    return [Interval(*each) for each in zip(means.tolist(), low.tolist(), high.tolist(), strict=True)]


def bootstrap_ratio(sums: NDArray[np.float64], seed: int = 0) -> Interval:
    """The sum of one quantity over that of another, such as of terms over tokens, resampled by examples.

    sums: of each example both, shape [examples, 2]; examples whose second is 0 say nothing. Raises
    ZeroDivisionError if all are like that.
    """
    there = np.ascontiguousarray(sums[sums[:, 1] != 0], dtype=np.float64)
    over, under = (math.fsum(column) for column in there.T.tolist())
    ratio = over / under
    if len(there) == 1:
        return Interval(ratio, math.nan, math.nan)
    drawn = np.concatenate([times @ there for times in _resamples(len(there), seed)])
    low, high = _bounds(drawn[:, 0] / drawn[:, 1])
    return Interval(ratio, float(low), float(high))


def caution(examples: int, equal: bool) -> str:
    """Why intervals over so many examples are narrower than they say; empty where they are not.

    equal: whether one of them is of values that are all equal.

    >>> caution(8, equal=False)
    'over fewer than 20 prompts intervals are narrower than 95%'
    """
    if examples == 1:
        return "one prompt has no interval"
    reasons = [f"over fewer than {FEW} prompts"] if examples < FEW else []
    reasons += ["where all values are equal"] if equal else []
    return f"{' and '.join(reasons)} intervals are narrower than {LEVEL:.0%}" if reasons else ""


def _resamples(count: int, seed: int) -> Iterator[NDArray[np.float64]]:
    """How often each of so many examples is drawn, in parts of shape [resamples, count]: RESAMPLES in all."""
    rng, each = np.random.default_rng(seed), max(CHUNK // count, 1)
    for start in range(0, RESAMPLES, each):
        size = min(each, RESAMPLES - start)
        drawn = rng.integers(0, count, size=(size, count))
        drawn += np.arange(size)[:, None] * count
        times = np.bincount(drawn.ravel(), minlength=size * count)
        yield times.reshape(size, count).astype(np.float64)


def _bounds(drawn: NDArray[np.float64]) -> NDArray[np.float64]:
    bounds: NDArray[np.float64] = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    return bounds
