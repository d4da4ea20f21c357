import numpy as np
import pytest

from es_ray.judge.report import charts
from es_ray.judge.report.marks import Chart, Edge
from es_ray.judge.report.spread import QUANTILES, RewardSpread

GENERATIONS, DOWN, UP, FAR = 12, 5, 8, 1e6


def members(population: int) -> np.ndarray:
    """Rewards, shape [G, N], with one member far below the others in one generation, and above in another."""
    values = np.linspace(-60, -40, GENERATIONS)[:, None] + np.linspace(-10, 10, population)
    values[DOWN, 0], values[UP, -1] = -FAR, FAR
    return values


def lines(values: np.ndarray) -> list[dict]:
    return [
        {
            "generation": at,
            "reward_mean": row.mean(),
            "reward_std": row.std(),
            "reward_best": row.max(),
            "reward_worst": row.min(),
            "test_reward": -52.0 + at,
        }
        for at, row in enumerate(values)
    ]


def edges(chart: Chart) -> dict[str, list[float]]:
    return {mark.label: list(mark.at) for mark in chart.marks if isinstance(mark, Edge)}


@pytest.mark.parametrize("population", [2, 8, 30])
def test_members_far_from_the_others_are_marked_at_the_edges(population):
    values = members(population)
    every = np.arange(GENERATIONS, dtype=float)
    read = RewardSpread(every, np.quantile(values, QUANTILES, axis=1).T)
    unread = RewardSpread(np.zeros(0), np.zeros((0, len(QUANTILES))))
    for chart in (
        charts.progress(lines(values), None, population),
        charts.distribution(lines(values), read, population),
        charts.distribution(lines(values), unread, population),
    ):
        low, high = chart.limits
        assert -200 < low < -70 and -30 < high < 150
        assert edges(chart) == {"worse than shown": [DOWN], "better than shown": [UP]}


def test_usual_rewards_have_no_marks_at_the_edges():
    values = members(8)
    values[[DOWN, UP]] = values[[DOWN - 1, UP - 1]]
    chart = charts.progress(lines(values), None, 8)
    assert edges(chart) == {}
    assert chart.limits[0] < values.min() and chart.limits[1] > values.max()
