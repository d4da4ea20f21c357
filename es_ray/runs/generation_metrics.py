"""The metrics of a generation: what metrics.jsonl says of its members, its centre and its update."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from es_ray.evaluation import CENTRE, Outcomes


def population_metrics(rewards: NDArray[np.float64], outcomes: Outcomes) -> dict[str, Any]:
    """What a generation's members did on the training prompts. rewards: theirs, shape [N]."""
    members = outcomes.members
    answers = int(members["answers"].sum())
    return {
        "reward_mean": float(rewards.mean()),
        "reward_std": float(rewards.std()),
        "reward_best": float(rewards.max()),
        "reward_worst": float(rewards.min()),
        "best_index": int(rewards.argmax()),  # the lowest index on ties
        "completion_length": int(members["characters"].sum()) / answers,
        "truncated": int(members["truncated"].sum()) / answers,
        **{f"members_{name}": float(values.mean()) for name, values in outcomes.member_metrics().items()},
    }


def centre_metrics(outcomes: Outcomes, splits: Sequence[str], tested: bool) -> dict[str, Any]:
    """What the centre did on each split. splits: `train` first; tested: whether it answered the others."""
    train = outcomes.summary(CENTRE, "train")
    metrics: dict[str, Any] = {f"centre_{key}": value for key, value in train.items()}
    for split in splits[1:]:
        summary = outcomes.summary(CENTRE, split) if tested else dict.fromkeys(train)
        metrics |= {f"{split}_{key}": value for key, value in summary.items()}
    return metrics


def best_above_mean(rewards: NDArray[np.float64], by_pairs: bool) -> float:
    """How far the best member is above the mean of those that were asked the same.

    rewards: shape [N]; by_pairs: whether members 2i and 2i+1 were asked the same, and others something else.
    """
    best = int(rewards.argmax())
    same = rewards[best - best % 2 : best - best % 2 + 2] if by_pairs else rewards
    return float(rewards[best] - same.mean())
