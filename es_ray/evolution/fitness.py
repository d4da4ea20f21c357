"""Fitness shaping: rewards of a population, shape [N], to advantages Z, shape [N], in float64.

A shaping may assume that the rewards are finite and not all equal; `Strategy.advantages` ensures both.

Near ties. `zscore` and `centered-rank` ignore the scale of rewards, which is what they are for: one learning
rate fits rewards of any unit. But so the step has its full length also where 29 of 30 members tie and the
last is 0.001 off: it then follows the noise of one member, and where a task is solved such steps are a random
walk. What can be done about it:

- `evolution.tie_correction` needs no unit. For two different rewards with shares p and 1 - p, the z-scores
  times its square root are sqrt(3) (R - mean) / (their difference): not divided by the standard deviation, as
  in Dr. GRPO (arXiv 2503.20783), so that the step falls with the share of members that differ. Centred ranks
  have the same built in, as ties share their mean rank. Without ties nothing changes, to the bit. Off by
  default: where successes are still rare, the few members that differ are all there is to learn from.
- `evolution.min_spread` is for rewards that hardly differ without being equal: only who knows their unit can
  say what counts as a difference. Below it, the step shrinks with the rewards' standard deviation.
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


def prompt_zscores(rewards: Rewards) -> Rewards:
    """R of each member, shape [N]: the mean of its z-scores on the prompts; one without spread gives 0.

    rewards: by member and prompt, samples averaged, shape [N, prompts]. So prompts whose rewards vary more
    do not drown the others.
    """
    scores = (rewards - rewards.mean(axis=0)) / (rewards.std(axis=0) + 1e-8)
    scores[:, rewards.max(axis=0) == rewards.min(axis=0)] = 0.0  # a mean of equal rewards may be rounded
    means: Rewards = scores.mean(axis=1)
    return means


def tie_correction(rewards: Rewards) -> float:
    """C = 1 - sum(t^3 - t) / (N^3 - N) over groups of t equal rewards: 1 without ties, 0 if all are equal.

    The variance of ranks that ties share, as a fraction of that without ties (Kruskal and Wallis 1952).
    """
    _, counts = np.unique(rewards, return_counts=True)
    ties, members = counts.astype(np.float64), float(len(rewards))
    return 1.0 - float((ties**3 - ties).sum()) / (members**3 - members)


def spread_factor(rewards: Rewards, min_spread: float) -> float:
    """1 where the population standard deviation is at least min_spread; below, their ratio."""
    spread = float(rewards.std())
    return 1.0 if spread >= min_spread else spread / min_spread
