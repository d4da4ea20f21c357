"""Fitness shaping: rewards of a population, shape [N], to advantages Z, shape [N], in float64.

A shaping may assume that the rewards are finite and not all equal; `Strategy.advantages` ensures both.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Rewards = NDArray[np.float64]


def zscore(rewards: Rewards) -> Rewards:
    """Z = (R - mean) / (population standard deviation + 1e-8) (arXiv 2509.24372, section 3)."""
    return (rewards - rewards.mean()) / (rewards.std() + 1e-8)


def centered_rank(rewards: Rewards) -> Rewards:
    """Ranks spread evenly over [-0.5, 0.5], ties sharing their mean rank (arXiv 1703.03864)."""
    _, inverse, counts = np.unique(rewards, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    mean_rank = last - (counts + 1) / 2
    return mean_rank[inverse] / (len(rewards) - 1) - 0.5


def none(rewards: Rewards) -> Rewards:
    """The rewards unchanged."""
    return rewards.copy()


SHAPINGS: dict[str, Callable[[Rewards], Rewards]] = {
    "zscore": zscore,
    "centered-rank": centered_rank,
    "none": none,
}
