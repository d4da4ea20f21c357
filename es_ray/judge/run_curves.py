"""Curves of runs of one setting: on common points, their mean and range."""

import math
import warnings
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from es_ray.judge.run_groups import ComparedRun, Group
from es_ray.judge.thinning import extreme_points

MOST_POINTS: Final = 600
"""Points of a curve: a run of thousands of generations is thinned to fewer."""
GROUPS: Final = 100
"""Groups of points that it is thinned to, of each its extremes: lowest, highest, and those of the mean."""

Column = NDArray[np.float64]


@dataclass(frozen=True)
class Curve:
    """Mean, lowest and highest run at each point; complete: whether all runs got so far.

    runs: of each run, shape [runs, points], nan where it did not get so far, or had not begun.
    """

    x: Column
    mean: Column
    low: Column
    high: Column
    complete: NDArray[np.bool_]
    runs: Column


def group_curve(group: Group, key: str, unit: str) -> Curve:
    """A key of metrics.jsonl over what was spent before each generation; unit: of `ComparedRun.before`.

    Runs are interpolated between the generations in which they measured it, never beyond. Of a long curve
    only points are left out that are no extreme of those around them.
    """
    measured = []
    for run in group.runs:
        values = run.column(key)
        there = ~np.isnan(values)
        if there.any():
            measured.append((run.before(unit)[there], values[there]))
    points = np.unique(np.concatenate([x for x, _ in measured])) if measured else np.array([])
    rows = [np.interp(points, x, y, left=np.nan, right=np.nan) for x, y in measured]
    values = np.array(rows).reshape(len(rows), len(points))
    covered = (~np.isnan(values)).sum(axis=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a point between two runs that no run covers
        mean, low, high = np.nanmean(values, axis=0), np.nanmin(values, axis=0), np.nanmax(values, axis=0)
    kept = np.flatnonzero(covered > 0)
    complete = covered == len(group.runs)
    if len(kept) > MOST_POINTS:
        ends = np.flatnonzero(np.diff(complete[kept]))  # where a run begins or ends
        chosen = extreme_points([each[kept] for each in (low, high, mean)], GROUPS)
        kept = kept[np.union1d(chosen, np.concatenate([ends, ends + 1]))]
    return Curve(points[kept], mean[kept], low[kept], high[kept], complete[kept], values[:, kept])


def wrecked(run: ComparedRun) -> NDArray[np.bool_]:
    """Generations whose mean reward is made by a tenth of the members or by one, far below the others."""
    mean, spread = run.column("reward_mean"), run.column("reward_std")
    best, worst = run.column("reward_best"), run.column("reward_worst")
    members = run.config.evolution.population
    # one outlier among equals is sqrt(N - 1) standard deviations below the mean, which is the most there is
    single = mean - worst > 0.95 * math.sqrt(members - 1) * spread
    found: NDArray[np.bool_] = (spread > 0) & ((spread > 3 * (best - mean)) | (single & (members > 3)))
    return found
