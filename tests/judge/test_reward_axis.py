import numpy as np
import pytest

from es_ray.judge.reward_axis import reward_limits

GENERATIONS, WRECK = 20, 1e5


def rewards(members: int, seed: int = 0) -> np.ndarray:
    """Members' rewards, shape [G, N], that rise from about -90 to -40."""
    rng = np.random.default_rng(seed)
    return np.linspace(-90, -40, GENERATIONS)[:, None] + 8 * rng.normal(size=(GENERATIONS, members))


def limits(values: np.ndarray, others=(-95.0, -92.0)) -> tuple[float, float]:
    best, mean, worst = values.max(axis=1), values.mean(axis=1), values.min(axis=1)
    return reward_limits(best, mean, values.std(axis=1), worst, np.array([*others, np.nan]), values.shape[1])


@pytest.mark.parametrize("members", [2, 3, 4, 8, 10, 11, 30, 300])
@pytest.mark.parametrize("sign", [-1, 1], ids=["down", "up"])
@pytest.mark.parametrize("at", [(7,), (0,), (GENERATIONS - 1,), (4, 12)])
def test_one_member_far_away_is_cut_and_no_other(members, sign, at):
    usual = rewards(members)
    values = usual.copy()
    for generation in at:
        values[generation, 1] = sign * WRECK
    low, high = limits(values)
    cut = (values < low) | (values > high)
    assert sorted(np.nonzero(cut.any(axis=1))[0]) == list(at)
    assert cut.sum() == len(at)
    shown = [max(low, values.min()), min(high, values.max())]
    assert np.ptp(shown) < 6 * np.ptp(usual), "the others are flattened"


@pytest.mark.parametrize("members", [2, 8, 30])
def test_members_far_away_at_both_ends_are_cut(members):
    values = rewards(members)
    values[5, 0], values[9, 1] = -WRECK, WRECK
    low, high = limits(values)
    assert -500 < low < high < 500


@pytest.mark.parametrize("members", [2, 3, 4, 8, 30])
@pytest.mark.parametrize("seed", range(5))
def test_a_usual_run_is_shown_as_a_whole(members, seed):
    values = rewards(members, seed)
    low, high = limits(values)
    assert low < values.min()
    assert high > values.max()


@pytest.mark.parametrize("members", [4, 8, 10])
def test_a_wreck_in_most_generations_of_a_small_population_is_cut(members):
    values = rewards(members)
    values[2:, 0] = -WRECK
    assert limits(values)[0] > -1000


@pytest.mark.parametrize("members", [8, 30])
def test_a_wreck_in_the_only_generation_is_cut(members):
    values = rewards(members)[:1].copy()
    values[0, 3] = -WRECK
    assert -1000 < limits(values)[0] < values[0, [0, 1, 2, 4]].min()


@pytest.mark.parametrize("members", [2, 4, 8, 30])
def test_of_rewards_that_are_right_or_wrong_none_is_cut(members):
    values = np.ones((GENERATIONS, members))
    values[:, 0] = 0.0
    low, high = limits(values, others=(1.0, 1.0))
    assert low <= 0
    assert high >= 1


@pytest.mark.parametrize("members", [2, 3, 8, 30])
@pytest.mark.parametrize("start", [0.0, 0.02])
def test_success_late_in_a_run_is_not_cut(members, start):
    """First of a single member in an eighth of the generations, then of all in the last one alone."""
    values = np.zeros((GENERATIONS, members))
    values[-3:, 0] = 1.0
    assert limits(values, others=(start, 0.0))[1] >= 1
    values[-3:] = 0.0
    values[-1] = 1.0
    assert limits(values, others=(start, 0.0, 1.0))[1] >= 1


def test_all_the_same_is_not_cut():
    for value in (0.0, -3.0, 5.0):
        low, high = limits(np.full((4, 6), value), others=(value,))
        assert low <= value <= high
