"""The metrics of a generation against the same numbers computed plainly."""

import math

import numpy as np
import pytest

from es_ray.evaluation import CENTRE, Outcomes, Sample, ShardOutcome
from es_ray.evolution.strategy import distance
from es_ray.runs.generation_metrics import best_above_mean, centre_metrics, population_metrics


def answered(index: int, split: str, *rewards: float) -> ShardOutcome:
    """Answers of 7 characters, of which those without a reward were cut."""
    samples = [
        Sample("Why?", "So.", "Because", r, {"correct": r > 0}, 3, "stop" if r else "length") for r in rewards
    ]
    return ShardOutcome.of("host/1", 4, {(index, split): samples})


def test_members_are_summed_up_and_the_first_of_the_best_is_named():
    outcomes = Outcomes(
        [answered(2, "train", 1.0, 3.0), answered(0, "train", 0.0, 0.0), answered(1, "train", 2.0, 2.0)]
    )
    assert population_metrics(np.array([0.0, 2.0, 2.0]), outcomes) == {
        "reward_mean": pytest.approx(4 / 3),
        "reward_std": pytest.approx(math.sqrt(8) / 3),
        "reward_best": 2.0,
        "reward_worst": 0.0,
        "best_index": 1,
        "completion_length": 7.0,
        "truncated": pytest.approx(1 / 3),
        "members_correct": pytest.approx(2 / 3),
    }


def test_a_centre_that_was_not_tested_has_no_numbers_under_the_same_names():
    outcomes = Outcomes([answered(CENTRE, "train", 1.0, 0.0), answered(CENTRE, "test", 4.0)])
    train = {"centre_reward": 0.5, "centre_correct": 0.5}
    splits = ("train", "test")
    assert centre_metrics(outcomes, splits, True) == train | {"test_reward": 4.0, "test_correct": 1.0}
    assert centre_metrics(outcomes, splits, False) == train | {"test_reward": None, "test_correct": None}
    assert centre_metrics(outcomes, splits[:1], True) == train


@pytest.mark.parametrize(("by_pairs", "above"), [(False, 9.0 - 17 / 6), (True, 9.0 - 6.0)])
@pytest.mark.parametrize("rewards", [[1.0, 0.0, 3.0, 9.0, 2.0, 2.0], [2.0, 2.0, 9.0, 3.0, 0.0, 1.0]])
def test_the_best_is_compared_with_those_that_were_asked_the_same(rewards, by_pairs, above):
    assert best_above_mean(np.array(rewards), by_pairs) == pytest.approx(above)


@pytest.mark.parametrize("size", [1, 65_536, 200_001])
def test_an_updates_length_is_that_in_float64(size):
    rng = np.random.default_rng(size)
    before, after = rng.normal(size=(2, size)).astype(np.float32)
    wanted = math.sqrt(math.fsum((float(b) - float(a)) ** 2 for a, b in zip(before, after, strict=True)))
    assert distance(before, after) == pytest.approx(wanted, rel=1e-13)
