"""Where the axis of a run's rewards ends: one wrecked member must not flatten the curves of the others."""

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

Column = NDArray[np.float64]
SPANS: Final = 3.0
"""How many times the usual span of rewards the axis may go on beyond it."""
FEWEST: Final = 4
"""Members that tell one that is far from the others: of three, two may be equal by chance."""


def reward_limits(
    best: Column, mean: Column, spread: Column, worst: Column, others: Column, members: int
) -> tuple[float, float]:
    """The rewards below and above which values are cut, as they would flatten the curves.

    best, mean, spread, worst: of a generation's members, a number for each generation; others: more rewards
    that are drawn, of any number, nan where not measured; members: the population. Upwards only single
    members of few generations are cut: rewards that rise late in a run are what it was made for.
    """
    others = others[~np.isnan(others)]
    floor = _floor(best, mean, spread, worst, others, members)
    ceiling = -_floor(-worst, -mean, spread, -best, -others, members)
    alone = _pulled(mean - worst, spread, members)
    together = mean[~alone] if members >= FEWEST else np.zeros(0)
    risen = np.concatenate([[np.quantile(best, 0.9, method="lower")], together, others])
    return floor, max(ceiling, float(risen.max()))


def _floor(best: Column, mean: Column, spread: Column, worst: Column, others: Column, members: int) -> float:
    pulled = _pulled(best - mean, spread, members)
    usual = np.concatenate([best, mean[~pulled], others])
    bottom, top = np.quantile(usual, [0.1, 0.9])
    below = (top - worst)[~pulled]
    # where each generation has one that is far away, none says how far the worst one usually is
    reach = float(np.median(below)) if below.size else abs(top) / 2
    span = max(top - bottom, reach, 1e-3 * abs(top))
    return float(bottom - SPANS * span) if span > 0 else -math.inf


def _pulled(distance: Column, spread: Column, members: int) -> NDArray[np.bool_]:
    """Generations whose mean says little, as few members far away pull it from the others.

    distance: of the mean from the member at the other end. One member that is far from equal ones makes the
    standard deviation sqrt(N - 1) times that; a tenth of them makes it 3 times.
    """
    if members < FEWEST:
        return np.zeros(len(spread), dtype=np.bool_)
    found: NDArray[np.bool_] = spread > min(3.0, 0.9 * math.sqrt(members - 1)) * distance
    return found
