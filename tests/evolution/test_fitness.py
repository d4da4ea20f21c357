import numpy as np
import pytest

from es_ray.evolution.fitness import SHAPINGS, prompt_zscores, spread_factor, tie_correction
from es_ray.evolution.noise import Noise
from es_ray.evolution.perturbation import Perturbation, PiecewiseConstant
from es_ray.evolution.strategy import Strategy


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


def strategy(**values) -> Strategy:
    one = PiecewiseConstant((1,), (1.0,))
    return Strategy(Perturbation(Noise(1), one), 4, one, learning_rate=1.0, **values)


def test_each_prompts_rewards_are_zscored_over_the_population_and_then_averaged():
    rng = np.random.default_rng(3)
    rewards = rng.normal(size=(7, 5)) * [1.0, 1e3, 1e-3, 5.0, 0.0] + [0.0, 50.0, 1.0, -3.0, 0.1]
    wanted = []
    for member in range(7):
        scores = []
        for prompt in range(4):  # the last prompt has no spread
            column = [rewards[other, prompt] for other in range(7)]
            mean = sum(column) / 7
            deviation = (sum((r - mean) ** 2 for r in column) / 7) ** 0.5
            scores.append((rewards[member, prompt] - mean) / (deviation + 1e-8))
        wanted.append(sum(scores) / 5)
    assert np.allclose(prompt_zscores(rewards), wanted, rtol=1e-12)
    assert np.isfinite(prompt_zscores(rewards)).all()


def test_prompt_normalization_gives_a_quiet_prompt_the_weight_of_a_loud_one():
    """The member that is best on the loud prompt alone no longer wins over the best on two quiet ones."""
    by_prompt = np.array([[100.0, 0.0, 0.0], [0.0, 0.1, 0.1], [10.0, 0.05, 0.0], [20.0, 0.0, 0.05]])
    rewards = by_prompt.mean(axis=1)
    assert strategy().advantages(rewards, by_prompt).argmax() == 0
    normalized = strategy(prompt_normalization="zscore").advantages(rewards, by_prompt)
    assert normalized.argmax() == 1
    assert np.allclose(normalized, SHAPINGS["zscore"](prompt_zscores(by_prompt)))


def test_prompts_may_have_a_spread_where_their_means_have_none_and_the_other_way_round():
    s = strategy(prompt_normalization="zscore")
    exchanged = np.array([[0.0, 1.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    assert exchanged.mean(axis=1).tolist() == [0.5] * 4
    assert not s.advantages(np.full(4, 0.5), exchanged).any()  # z-scores of two values are symmetric
    uneven = np.array([[0.0, 1.0], [1.0, 0.5], [0.5, 0.0], [0.5, 1.0]])
    assert s.advantages(uneven.mean(axis=1), uneven).any()
    assert s.advantages(np.full(4, 0.5), np.full((4, 2), 0.5)).tolist() == [0.0] * 4


def test_prompt_normalization_needs_the_rewards_of_prompts():
    with pytest.raises(ValueError, match="rewards of each prompt"):
        strategy(prompt_normalization="zscore").advantages(np.arange(4.0))


@pytest.mark.parametrize("members", [4, 30, 31, 256])
def test_the_tie_correction_is_the_variance_of_ranks_with_ties_over_that_without(members):
    rng = np.random.default_rng(members)
    ranked = SHAPINGS["centered-rank"]
    without = ranked(np.arange(members, dtype=np.float64)).var()
    for values in (2, 3, members // 2, 10**9):
        rewards = rng.integers(0, values, members).astype(np.float64)
        assert tie_correction(rewards) == pytest.approx(ranked(rewards).var() / without, abs=1e-12)
    assert tie_correction(np.ones(members)) == 0.0


@pytest.mark.parametrize("differing", [1, 2, 15, 29])
@pytest.mark.parametrize("gap", [1e-3, 1.0])
def test_of_two_rewards_the_corrected_zscores_are_undivided_differences(differing, gap):
    """Up to N / sqrt(N^2 - 1); so a step falls with the share of members that differ, whatever the gap."""
    rewards = np.repeat([0.5, 0.5 + gap], [30 - differing, differing])
    ours = strategy(tie_correction=True).advantages(rewards)
    wanted = 3**0.5 * (rewards - rewards.mean()) / gap
    assert np.allclose(ours, wanted, rtol=1e-3)


def length(advantages: np.ndarray) -> float:
    """That of a step, up to a factor which does not depend on the rewards: sqrt(sum Z^2)."""
    return float(np.linalg.norm(advantages))


def test_a_difference_of_1e_3_is_no_full_step_when_nearly_all_members_tie():
    spread = np.random.default_rng(5).normal(size=64)
    near = np.ones(64)
    near[17] -= 1e-3
    plain, corrected = strategy(), strategy(tie_correction=True)
    assert length(plain.advantages(near)) == pytest.approx(length(plain.advantages(spread)), rel=1e-4)
    assert length(corrected.advantages(near)) < 0.25 * length(corrected.advantages(spread))
    assert corrected.advantages(near).argmin() == 17
    assert np.argsort(corrected.advantages(near)).tolist() == np.argsort(plain.advantages(near)).tolist()
    ranks = strategy(shaping="centered-rank")  # which do so by themselves, as ties share their rank
    assert length(ranks.advantages(near)) < 0.25 * length(ranks.advantages(spread))


def test_without_ties_the_correction_changes_no_bit():
    rewards = np.random.default_rng(6).normal(size=31)
    assert tie_correction(rewards) == 1.0
    plain, corrected = (strategy(tie_correction=on).advantages(rewards) for on in (False, True))
    assert plain.tobytes() == corrected.tobytes() == SHAPINGS["zscore"](rewards).tobytes()


@pytest.mark.parametrize("shaping", ["zscore", "centered-rank"])
def test_below_min_spread_a_step_shrinks_with_the_spread(shaping):
    rewards = np.random.default_rng(7).normal(size=31)
    rewards /= rewards.std()
    plain, floored = strategy(shaping=shaping), strategy(shaping=shaping, min_spread=0.02)
    for deviation in (1.0, 0.021):  # enough: not a bit differs
        assert (
            floored.advantages(rewards * deviation).tobytes()
            == plain.advantages(rewards * deviation).tobytes()
        )
    for deviation in (0.01, 0.001):
        wanted = deviation / 0.02 * plain.advantages(rewards * deviation)
        assert np.allclose(floored.advantages(rewards * deviation), wanted, rtol=1e-9)
    assert spread_factor(rewards * 0.0, 0.02) == 0.0


def test_rewards_that_keep_their_scale_need_no_remedy():
    rewards = np.array([1.0, 1.0, 1.0, 1.001])
    s = strategy(shaping="none", tie_correction=True, min_spread=1.0)
    assert s.advantages(rewards).tolist() == rewards.tolist()
