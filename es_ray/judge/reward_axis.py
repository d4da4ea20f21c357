"""Where the axis of a run's rewards ends: one wrecked member must not flatten the curves of the others."""

import numpy as np
from numpy.typing import NDArray

Column = NDArray[np.float64]


def reward_floor(best: Column, mean: Column, spread: Column, worst: Column, others: Column) -> float:
    """The reward below which values are cut, as they would flatten the curves.

    best, mean, spread, worst: of a generation's members, a number for each generation; others: more rewards
    that are drawn, of any number, nan where not measured.
    """
    # where fewer than a tenth of the members are far below the others, the mean says little
    pulled = spread > 3 * (best - mean)
    usual = np.concatenate([best, mean[~pulled], others])
    usual = usual[~np.isnan(usual)]
    bottom, top = np.quantile(usual, [0.1, 0.9])
    below = (usual.max() - worst)[~pulled]
    span = max(top - bottom, float(np.median(below)) if below.size else 0.0, 1e-3 * abs(top))
    return float(bottom - 3 * span)
