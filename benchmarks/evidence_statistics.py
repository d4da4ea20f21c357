"""Intervals of shares and of differences, and what a cell of the map is called."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

Z: Final = 1.959964
RESAMPLES: Final = 10_000

WORKS, HACKED, BROKEN, DEAD, BETWEEN = "works", "hacked", "broken", "dead", "between"
ENOUGH: Final = 0.05
"""Of the share of right answers, to count as won or lost."""
LITTLE: Final = 0.03
"""Of the reward, to count as moved."""


def wilson(right: int, problems: int) -> tuple[float, float]:
    """The 95 % interval of a share (Wilson, 1927)."""
    share, square = right / problems, Z * Z / problems
    middle = (share + square / 2) / (1 + square)
    half = Z * math.sqrt(share * (1 - share) / problems + square / (4 * problems)) / (1 + square)
    return middle - half, middle + half


def paired(differences: Sequence[Sequence[float]]) -> tuple[float, float, float]:
    """The mean difference with its 95 % interval, by a bootstrap over runs and problems.

    differences: shape [runs, problems], of the same problems in each run; both are drawn anew, as other runs
    and other problems might have been.
    """
    values = np.asarray(differences, dtype=np.float64)
    rng = np.random.default_rng(0)
    runs, problems = values.shape
    means = np.empty(RESAMPLES)
    for number in range(RESAMPLES):
        rows, columns = rng.integers(runs, size=runs), rng.integers(problems, size=problems)
        means[number] = values[np.ix_(rows, columns)].mean()
    low, high = np.quantile(means, [0.025, 0.975])
    return float(values.mean()), float(low), float(high)


def cell_place(run: str) -> tuple[str, float, float]:
    """Form, relative noise and learning rate of a run of the map."""
    form, relative, rate = run.split("/")[1].split(", ")
    return form, float(relative), float(rate)


def cell(end: Mapping[str, Any]) -> str:
    """What became of a centre, against the base model on the same held-out problems.

    broken: half of the right answers lost, and reward too, or the run failed; hacked: more reward with fewer
    right answers; works: more right answers; dead: neither moved; between: all else.
    """
    if "error" in end:
        return BROKEN
    base, last = end["base"], end["centre"]
    correct, reward = last["correct"] - base["correct"], last["reward"] - base["reward"]
    if correct >= ENOUGH:
        return WORKS
    if correct <= -ENOUGH:
        return HACKED if reward > 0 else BROKEN
    return DEAD if abs(reward) < LITTLE else BETWEEN
