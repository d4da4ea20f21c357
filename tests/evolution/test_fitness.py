import numpy as np
import pytest

from es_ray.evolution.fitness import SHAPINGS


def test_the_registry_has_three_shapings():
    assert set(SHAPINGS) == {"zscore", "centered-rank", "none"}


@pytest.mark.parametrize("scale", [1e-9, 1.0, 1e6])
def test_zscore_divides_by_the_population_deviation_plus_1e_8(scale):
    rewards = np.array([-3.0, 1.0, 4.0, 4.0, -90.0]) * scale
    mean = sum(rewards) / 5
    deviation = (sum((r - mean) ** 2 for r in rewards) / 5) ** 0.5
    wanted = [(r - mean) / (deviation + 1e-8) for r in rewards]
    assert np.allclose(SHAPINGS["zscore"](rewards), wanted, rtol=1e-12, atol=0)


def test_centered_ranks_run_from_minus_to_plus_a_half():
    assert SHAPINGS["centered-rank"](np.array([5.0, -1.0, 100.0])).tolist() == [0.0, -0.5, 0.5]


def test_equal_rewards_share_their_mean_rank():
    ranks = SHAPINGS["centered-rank"](np.array([2.0, 1.0, 2.0, 9.0, 1.0]))
    assert np.allclose(ranks, [0.125, -0.375, 0.125, 0.5, -0.375])


def test_centered_ranks_see_order_alone():
    rewards = np.array([3.0, -7.0, 0.5, 11.0])
    shaped = SHAPINGS["centered-rank"]
    assert np.array_equal(shaped(rewards), shaped(np.exp(rewards)))


def test_none_leaves_the_rewards():
    rewards = np.array([-3.0, 1.0])
    shaped = SHAPINGS["none"](rewards)
    assert shaped.tolist() == [-3.0, 1.0]
    shaped[0] = 9
    assert rewards[0] == -3.0


@pytest.mark.parametrize("name", ["zscore", "centered-rank"])
def test_shaped_rewards_are_centred_keep_their_order_and_ignore_a_shift(name):
    rewards = np.random.default_rng(0).normal(size=31)
    shaped = SHAPINGS[name](rewards)
    assert shaped.dtype == np.float64
    assert abs(shaped.sum()) < 1e-9
    assert np.array_equal(np.argsort(shaped), np.argsort(rewards))
    assert np.allclose(SHAPINGS[name](rewards + 16.0), shaped)
