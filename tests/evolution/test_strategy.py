import pickle
import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from es_ray.errors import RunError
from es_ray.evolution.noise import STREAM_INITIAL, STREAM_NOISE, Noise
from es_ray.evolution.optimizers import Direction, Optimizer
from es_ray.evolution.perturbation import Perturbation, PiecewiseConstant
from es_ray.evolution.strategy import THETA, Strategy
from tests import philox

SIZE = 203
SIGMA = PiecewiseConstant((50, 120, SIZE), (0.5, 0.01, 2.0))
DENSE = np.repeat([0.5, 0.01, 2.0], [50, 70, 83])


def strategy(**changes) -> Strategy:
    of_members = {"noise": Noise(2**35 + 17), "sigma": SIGMA, "first_sigma": None}
    of_steps = {"population": 6, "initial_std": PiecewiseConstant((SIZE,), (0.02,)), "learning_rate": 0.05}
    perturbation = Perturbation(**{key: changes.pop(key, value) for key, value in of_members.items()})
    return Strategy(perturbation, **(of_steps | changes))


def stepped(s: Strategy, theta: np.ndarray, generation: int, advantages: np.ndarray) -> np.ndarray:
    """Theta after a step, with the noise summed in one piece."""
    noise_sum = s.perturbation.noise_sum(generation, advantages, 0, SIZE)
    return s.step({THETA: theta}, generation, noise_sum)[THETA]


def epsilon(s: Strategy, generation: int, index: int) -> np.ndarray:
    """Noise of a member in float64, by the second form of Philox."""
    noise = s.perturbation.noise
    number, sign = (index // 2, -1 if index % 2 else 1) if noise.antithetic else (index, 1)
    return sign * np.array(philox.normals(noise.seed, generation, number, STREAM_NOISE, SIZE))


def test_dense_segments_equal_their_parts():
    assert np.array_equal(SIGMA.dense(0, SIZE), DENSE.astype(np.float32))
    for start, stop in [(0, 1), (49, 51), (50, 120), (3, 203), (120, 121), (60, 60)]:
        assert np.array_equal(SIGMA.dense(start, stop), DENSE.astype(np.float32)[start:stop])


def test_a_range_has_one_value_or_none():
    sigma = PiecewiseConstant((50, 80, 120, SIZE), (0.5, 0.01, 0.01, 0.5))
    starts, stops = zip(*((a, b) for a in range(0, SIZE, 7) for b in range(a + 1, SIZE + 1, 6)), strict=True)
    found = sigma.constants(starts, stops)
    for start, stop, value in zip(starts, stops, found, strict=True):
        there = sigma.dense(start, stop)
        assert value == there[0] if len(set(there)) == 1 else np.isnan(value)


def test_initial_values_are_those_of_the_seed():
    wanted = 0.02 * np.array(philox.normals(2**35 + 17, 0, 0, STREAM_INITIAL, SIZE))
    initial = strategy().initial()[THETA]
    assert initial.dtype == np.float32
    assert np.allclose(initial, wanted, rtol=1e-6, atol=1e-9)


def test_a_population_is_requested_by_numbers():
    assert strategy().ask(0) == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("antithetic", [False, True])
def test_a_member_is_theta_plus_sigma_times_noise(antithetic):
    s = strategy(noise=Noise(2**35 + 17, antithetic))
    theta = np.random.default_rng(1).normal(size=SIZE).astype(np.float32)
    for index in range(6):
        wanted = theta.astype(np.float64) + DENSE * epsilon(s, 4, index)
        assert np.allclose(s.perturbation.member(theta, 4, index), wanted, rtol=1e-6, atol=1e-6)


def test_generation_0_has_its_own_sigma_where_there_is_one():
    s = strategy(first_sigma=PiecewiseConstant((SIZE,), (0.4,)))
    theta = np.zeros(SIZE, dtype=np.float32)
    assert np.allclose(s.perturbation.member(theta, 0, 2), 0.4 * epsilon(s, 0, 2), atol=1e-6)
    assert np.allclose(s.perturbation.member(theta, 1, 2), DENSE * epsilon(s, 1, 2), atol=1e-6)


@pytest.mark.parametrize("update_scale", ["absolute", "sigma"])
@pytest.mark.parametrize("antithetic", [False, True])
@pytest.mark.parametrize("first", [None, PiecewiseConstant((SIZE,), (0.4,))])
@pytest.mark.parametrize("generation", [0, 3])
def test_the_step_equals_float64(update_scale, antithetic, first, generation):
    s = strategy(update_scale=update_scale, noise=Noise(99, antithetic), first_sigma=first)
    rng = np.random.default_rng(2)
    theta, advantages = rng.normal(size=SIZE).astype(np.float32), rng.normal(size=6)
    scale = np.full(SIZE, 0.4) if first is not None and generation == 0 else DENSE
    total = sum(z * epsilon(s, generation, i) for i, z in enumerate(advantages))
    wanted = theta + 0.05 / 6 * total * (scale if update_scale == "sigma" else 1.0)
    after = stepped(s, theta, generation, advantages)
    assert after.dtype == np.float32
    assert np.allclose(after, wanted, rtol=0, atol=5e-7)
    assert np.abs(after - theta).max() > 1e-3


@pytest.mark.parametrize("cuts", [(1,), (3, 4, 50), (51, 119, 121), tuple(range(1, SIZE))])
def test_the_noise_sum_has_the_same_bits_however_it_is_sliced(cuts):
    perturbation = strategy().perturbation
    advantages = np.random.default_rng(3).normal(size=6)
    edges = (0, *cuts, SIZE)
    parts = [perturbation.noise_sum(2, advantages, a, b) for a, b in zip(edges, edges[1:], strict=False)]
    assert np.concatenate(parts).tobytes() == perturbation.noise_sum(2, advantages, 0, SIZE).tobytes()


@pytest.mark.parametrize("size", [1, 1 << 16, (1 << 16) + 3])
@pytest.mark.parametrize("update_scale", ["absolute", "sigma"])
def test_a_plain_step_is_rounded_as_version_0_1_0_rounded_it(size, update_scale):
    """Its formula, entry by entry: the learning rate over the population, rounded once, times the sum."""
    rng = np.random.default_rng(4)
    sigma = PiecewiseConstant((size,), (0.3,))
    s = strategy(sigma=sigma, initial_std=sigma, update_scale=update_scale, population=30)
    theta, total = rng.normal(size=size).astype(np.float32), rng.normal(size=size).astype(np.float32)
    scaled = total * np.full(size, 0.3, dtype=np.float32) if update_scale == "sigma" else total
    wanted = theta + np.float32(0.05 / 30) * scaled
    assert wanted.dtype == np.float32
    assert s.step({THETA: theta}, 3, total)[THETA].tobytes() == wanted.tobytes()


def test_a_factor_scales_the_noise_of_one_member_alone():
    s = strategy()
    theta = np.random.default_rng(5).normal(size=SIZE).astype(np.float32)
    members = s.perturbation.members(theta, 4, [2, 3, 2], [1.0, 0.5, 3.0])
    for member, index, factor in zip(members, [2, 3, 2], [1.0, 0.5, 3.0], strict=True):
        assert np.allclose(member, theta + factor * DENSE * epsilon(s, 4, index), rtol=1e-6, atol=1e-6)
    assert members[0].tobytes() == s.perturbation.member(theta, 4, 2).tobytes()


class Momentum(Optimizer):
    """A rule with state: m <- 0.9 m + g, u = m."""

    def initial(self, size):
        return {"m": np.zeros(size, dtype=np.float32)}

    def direction(self, noise_sum, population, arrays):
        m = np.float32(0.9) * arrays["m"] + noise_sum / np.float32(population)
        return Direction(m), {"m": m}


def test_an_optimizers_arrays_go_through_the_state():
    s = strategy(optimizer=Momentum())
    state, theta, m = s.initial(), s.initial()[THETA].astype(np.float64), np.zeros(SIZE)
    assert set(state) == {THETA, "optimizer.m"}
    for generation in range(4):
        advantages = np.random.default_rng(generation).normal(size=6)
        before = {name: array.copy() for name, array in state.items()}
        after = s.step(state, generation, s.perturbation.noise_sum(generation, advantages, 0, SIZE))
        assert all(np.array_equal(state[name], before[name]) for name in state), "changed in place"
        state = after
        m = 0.9 * m + sum(z * epsilon(s, generation, i) for i, z in enumerate(advantages)) / 6
        theta = theta + 0.05 * m
    assert np.allclose(state[THETA], theta, atol=1e-6)
    assert np.allclose(state["optimizer.m"], m, atol=1e-6)


def test_theta_is_not_changed_in_place():
    s = strategy()
    theta = s.initial()[THETA]
    before = theta.copy()
    s.perturbation.member(theta, 0, 0)
    stepped(s, theta, 0, np.arange(6.0))
    assert np.array_equal(theta, before)


@pytest.mark.parametrize("shaping", ["zscore", "centered-rank", "none"])
@pytest.mark.parametrize("reward", [0.0, -90.0, 0.1])
def test_rewards_without_spread_give_no_advantages(shaping, reward):
    assert strategy(shaping=shaping).advantages(np.full(6, reward)).tolist() == [0.0] * 6


def test_advantages_use_the_chosen_shaping():
    rewards = np.array([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    assert strategy(shaping="none").advantages(rewards).tolist() == rewards.tolist()
    assert np.allclose(strategy(shaping="centered-rank").advantages(rewards), np.linspace(-0.5, 0.5, 6))
    assert np.allclose(strategy().advantages(rewards), (rewards - 3.5) / np.sqrt(35 / 12), atol=1e-7)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_reward_that_is_not_finite_is_an_error_with_the_members_name(bad):
    with pytest.raises(ValueError, match="member 4"):
        strategy().advantages(np.array([1.0, 2.0, 3.0, 4.0, bad, 6.0]))


def test_a_perturbation_is_small_enough_to_send():
    many = PiecewiseConstant(tuple(range(1000, 197_000, 1000)), (0.1,) * 196)
    assert len(pickle.dumps(strategy(sigma=many).perturbation)) < 10_000


def test_steps_climb():
    """On a quadratic, the loop of ask, evaluate and step goes up: the sign of the update is right."""
    target = np.linspace(-1, 1, SIZE)
    s = strategy(population=40, sigma=PiecewiseConstant((SIZE,), (0.05,)), learning_rate=0.05)
    theta = s.initial()[THETA]
    losses = []
    for generation in range(60):
        losses.append(float(((theta - target) ** 2).sum()))
        members = [s.perturbation.member(theta, generation, index) for index in s.ask(generation)]
        rewards = np.array([-((m - target) ** 2).sum() for m in members], dtype=np.float64)
        theta = stepped(s, theta, generation, s.advantages(rewards))
    assert losses[-1] < 0.5 * losses[0]


def test_evolution_is_numpy_alone():
    """A module of evolution that imports Ray, torch or transformers would fail here."""
    code = (
        "import sys; from es_ray.evolution import configured, fitness, noise, optimizers, perturbation;"
        "from es_ray.evolution import schedules, strategy;"
        "sys.exit(bool({'ray', 'torch', 'transformers', 'peft'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


class Keeps(Optimizer):
    """Keeps what it was made with."""

    def __init__(self, kept, direction=None):
        self._kept, self._direction = kept, direction

    def initial(self, size):
        return {"kept": self._kept}

    def direction(self, noise_sum, population, arrays):
        return Direction(noise_sum if self._direction is None else self._direction), {"kept": self._kept}


BASE_ARRAY = np.arange(12, dtype=np.float32).reshape(3, 4)


@pytest.mark.parametrize(
    "kept",
    [BASE_ARRAY.T, BASE_ARRAY[::-1], BASE_ARRAY[:, ::2], np.float64(3.5), np.array(7), np.int64(4)],
)
def test_any_array_is_stored_and_read_back_as_it_is(kept, tmp_path):
    s = strategy(optimizer=Keeps(kept))
    state = s.step(s.initial(), 0, np.ones(SIZE, dtype=np.float32))
    save_file(state, tmp_path / "state.safetensors")
    read = load_file(tmp_path / "state.safetensors")["optimizer.kept"]
    assert read.dtype == np.asarray(kept).dtype and read.shape == np.asarray(kept).shape
    assert np.array_equal(read, kept)


def test_a_state_is_read_only():
    s = strategy(optimizer=Keeps(np.ones(3)))
    for array in s.initial().values():
        with pytest.raises(ValueError, match="read-only"):
            array += 1


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        (Keeps(np.array([np.nan])), "'kept' is not finite"),
        (Keeps(np.ones(2), np.full(SIZE, np.inf)), "'theta' is not finite"),
        (Keeps(np.array(["a"])), "'kept' has the dtype"),
        (Keeps([1.0]), "'kept' must be a NumPy array, not list"),
        (Keeps(np.ones(2), np.ones(3)), "direction has the shape"),
    ],
)
def test_what_no_state_can_hold_is_an_error_with_the_rules_name(rule, words):
    s = strategy(optimizer=rule)
    state = strategy().initial()
    with pytest.raises(RunError, match=f"evolution.optimizer: Keeps.*{words}"):
        s.step(state, 0, np.ones(SIZE, dtype=np.float32))
