"""Long runs on a figure: as many points as can be told apart, without losing a peak."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Column = NDArray[np.float64]


def thinned_curve(x: Column, y: Column, most: int) -> tuple[Column, Column]:
    """At most 2 × `most` + 2 of the points: the lowest and the highest of each group, the first and the last.

    So no peak is lost, and a curve through them covers the same pixels. nan is left out.
    """
    there = ~np.isnan(y)
    x, y = x[there], y[there]
    if len(x) <= 2 * most:
        return x, y
    keep = {0, len(x) - 1}
    for group in np.array_split(np.arange(len(x)), most):
        keep |= {int(group[y[group].argmin()]), int(group[y[group].argmax()])}
    chosen = np.array(sorted(keep))
    return x[chosen], y[chosen]


def thinned_band(x: Column, low: Column, high: Column, most: int) -> tuple[Column, Column, Column]:
    """x, low and high at `most` places at most: of each group the lowest low and the highest high."""
    if len(x) > most:
        groups = np.array_split(np.arange(len(x)), most)
        low = np.array([low[group].min() for group in groups])
        high = np.array([high[group].max() for group in groups])
        middle = [x[group].mean() for group in groups]
        x = np.array([x[0], *middle[1:-1], x[-1]])
    return x, low, high


def extreme_points(columns: Sequence[Column], most: int) -> NDArray[np.intp]:
    """Which points to keep, ascending: of each of `most` groups the lowest and highest of each column.

    columns: as long as each other, without nan; the first and the last point are kept too.
    """
    count = len(columns[0])
    keep = {0, count - 1}
    for group in np.array_split(np.arange(count), min(most, count)):
        for column in columns:
            keep |= {int(group[column[group].argmin()]), int(group[column[group].argmax()])}
    return np.array(sorted(keep))


def thinned_places(at: Sequence[float], x: tuple[float, float], most: int) -> list[float]:
    """One of all places that would lie on the same of `most` parts of the axis."""
    width = (x[1] - x[0] or 1.0) / most
    return list({int((place - x[0]) / width): place for place in at}.values())


def consecutive(generations: Sequence[int], gap: int = 1) -> list[tuple[int, int]]:
    """Stretches of generations as (first, last): thousands of verdicts are few shaded areas.

    gap: how far apart two of one stretch may be; more than 1 where they would share a pixel.

    >>> consecutive([3, 4, 5, 9]), consecutive([3, 5, 9], gap=2)
    ([(3, 5), (9, 9)], [(3, 5), (9, 9)])
    """
    found: list[tuple[int, int]] = []
    for generation in generations:
        if found and generation - found[-1][1] <= gap:
            found[-1] = (found[-1][0], generation)
        else:
            found.append((generation, generation))
    return found
