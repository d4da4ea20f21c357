"""metrics.jsonl: a line for each generation, and what its readers may rely on."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from es_ray.errors import RunError

NUMBERS = ("reward_mean", "reward_std", "reward_best", "reward_worst", "best_index")
"""What each line holds, and readers need, besides its generation and the task's metrics."""


def lines(file: Path) -> list[bytes]:
    """The lines as they are, none if there is no file; raises RunError if it cannot be read."""
    try:
        return file.read_bytes().splitlines()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise RunError(f"{file}: cannot be read: {error.strerror}") from error


def read(file: Path, upto: int | None = None) -> list[dict[str, Any]]:
    """The lines, one for each generation, up to one of them.

    Raises RunError with the number of a line that is missing or torn.
    """
    found = lines(file)
    if upto is not None and len(found) <= upto:
        raise RunError(
            f"{file}: cut short or missing: {len(found)} lines for {upto + 1} finished generations"
        )
    metrics = []
    for generation, line in enumerate(found[: None if upto is None else upto + 1]):
        values = parsed(line, generation)
        if values is None:
            raise RunError(
                f"{file}, line {generation + 1}: torn or edited: not that of generation {generation}"
            )
        metrics.append(values)
    return metrics


def parsed(line: bytes, generation: int) -> dict[str, Any] | None:
    """A line; None unless it is that generation's, with all that readers need."""
    try:
        found = json.loads(line)
    except ValueError:
        return None
    if not isinstance(found, dict) or found.get("generation") != generation:
        return None
    if not all(isinstance(found.get(key), (int, float)) for key in NUMBERS):
        return None
    return found if {"zero_variance", "test_reward"} <= found.keys() else None


def column(metrics: Sequence[Mapping[str, Any]], key: str) -> NDArray[np.float64]:
    """A number of each line, shape [G]; nan where it was not measured, or the task had no such metric yet."""
    values = [line.get(key) for line in metrics]
    return np.array([np.nan if value is None else value for value in values], dtype=np.float64)


def best_of(metrics: Iterable[Mapping[str, Any]]) -> tuple[int, int]:
    """(generation, index) of the best member of a run: highest training reward, the earliest on ties.

    Where prompts are drawn: the one highest above the mean of those that had the same prompts.
    """
    line = min(
        metrics, key=lambda line: (-line.get("best_above_mean", line["reward_best"]), line["generation"])
    )
    return line["generation"], line["best_index"]
