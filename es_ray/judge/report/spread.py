"""How the members' rewards are distributed, generation by generation."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from es_ray.errors import RunError
from es_ray.runs.generation_folder import GenerationFolder
from es_ray.runs.run_dir import RunDir

MOST_READ: Final = 100
"""Most generations whose members are read, evenly spread: a run of 10,000 takes as long as one of 100."""
MOST_BYTES: Final = 48 << 20
"""Of their files together, about: generations of many members and prompts are fewer."""
QUANTILES: Final = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
_HEAD: Final = re.compile(rb'"reward": (-?[0-9.eE+-]+)')
"""Of a member's line: its own reward, which precedes its metrics and its examples."""


@dataclass(frozen=True)
class RewardSpread:
    """Quantiles of the members' rewards; generations: shape [G], values: shape [G, len(QUANTILES)].

    problems: what could not be read, a line each.
    """

    generations: NDArray[np.float64]
    values: NDArray[np.float64]
    problems: Sequence[str] = field(default=())


def reward_spread(run: RunDir, complete: Sequence[int]) -> RewardSpread:
    """Of generations that were written completely, in ascending order, at most MOST_READ of them."""
    found, problems = dict[int, NDArray[np.float64]](), []
    for generation in evenly(complete, _affordable(run, complete)):
        try:
            found[generation] = np.quantile(member_rewards(run.generation_folder(generation)), QUANTILES)
        except RunError as error:  # shown on the page: the rest of a damaged run is worth a report
            problems.append(str(error))
    values = np.array(list(found.values())).reshape(-1, len(QUANTILES))
    return RewardSpread(np.array(list(found), dtype=np.float64), values, problems)


def member_rewards(folder: GenerationFolder) -> NDArray[np.float64]:
    """The members' rewards, shape [N], without parsing their completions; raises RunError."""
    rewards = []
    for line in folder.population_lines():
        match = _HEAD.search(line)
        if match is None:
            raise RunError(f"{folder.path}: a line of population.jsonl has no reward")
        rewards.append(float(match[1]))
    if not rewards:
        raise RunError(f"{folder.path}: population.jsonl has no member")
    return np.array(rewards)


def evenly(items: Sequence[int], most: int) -> list[int]:
    """At most so many of the items, evenly spread, the first and the last among them.

    >>> evenly(range(10), 4), evenly(range(3), 4), evenly(range(10), 1)
    ([0, 3, 6, 9], [0, 1, 2], [9])
    """
    if len(items) <= most:
        return list(items)
    if most == 1:
        return [items[-1]]
    return [items[round(at)] for at in np.linspace(0, len(items) - 1, most)]


def _affordable(run: RunDir, complete: Sequence[int]) -> int:
    """How many generations to read, from the size of a few of their files."""
    sizes = [run.generation_folder(generation).population_size() for generation in evenly(complete, 8)]
    return min(MOST_READ, max(MOST_BYTES // max([*sizes, 1]), 2))


def from_metrics(metrics: Sequence[Mapping[str, Any]]) -> dict[str, NDArray[np.float64]]:
    """What metrics.jsonl says of the members' rewards by name, each of shape [G]."""
    keys = ("best", "mean", "std", "worst")
    return {key: np.array([line[f"reward_{key}"] for line in metrics], dtype=np.float64) for key in keys}
