"""OpenAI-ES as a whole (centred ranks, mirrored pairs, Adam) against float64, and evosax if it is installed.

Both optimize from the same noise, so that they must take the same steps.
"""

from collections.abc import Iterator

import numpy as np
import pytest

from es_ray.evolution.noise import STREAM_NOISE, Noise
from es_ray.evolution.optimizers import Adam
from es_ray.evolution.perturbation import Perturbation, PiecewiseConstant
from es_ray.evolution.strategy import THETA, Strategy
from tests import philox

SIZE, POPULATION, GENERATIONS, SEED, SIGMA, ALPHA = 40, 16, 25, 2**33 + 5, 0.1, 0.05
BETA1, BETA2, EPS = 0.9, 0.99, 1e-6
TARGET = np.linspace(-1, 1, SIZE)


def rewards_of(members: np.ndarray, coarse: bool) -> np.ndarray:
    """A quadratic; coarse: rounded so that many members tie, far from float32's rounding."""
    found = -((members.astype(np.float64) - TARGET) ** 2).sum(axis=1)
    return np.floor(found / 2.5) if coarse else found


def ours(coarse: bool) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Of each generation the centre before it, the members' rewards, and the centre after it."""
    s = Strategy(
        Perturbation(Noise(SEED, antithetic=True), PiecewiseConstant((SIZE,), (SIGMA,))),
        POPULATION,
        initial_std=PiecewiseConstant((SIZE,), (0.02,)),
        learning_rate=ALPHA,
        shaping="centered-rank",
        optimizer=Adam(BETA1, BETA2, EPS),
    )
    state = s.initial()
    for generation in range(GENERATIONS):
        members = s.perturbation.members(state[THETA], generation, s.ask(generation))
        rewards = rewards_of(members, coarse)
        total = s.perturbation.noise_sum(generation, s.advantages(rewards), 0, SIZE)
        after = s.step(state, generation, total)
        yield state[THETA], rewards, after[THETA]
        state = after


def mirrored(generation: int) -> np.ndarray:
    """The members' noise in float64, by the second form of Philox: each pair once up, once down."""
    pairs = [philox.normals(SEED, generation, pair, STREAM_NOISE, SIZE) for pair in range(POPULATION // 2)]
    return np.stack([sign * np.array(noise) for noise in pairs for sign in (1, -1)])


def centred_ranks(rewards: np.ndarray) -> np.ndarray:
    """By counting: half of the members that tie count as lower."""
    lower = (rewards[:, None] > rewards).sum(axis=1) + 0.5 * ((rewards[:, None] == rewards).sum(axis=1) - 1)
    return lower / (len(rewards) - 1) - 0.5


@pytest.mark.parametrize("coarse", [False, True])
def test_it_takes_the_steps_of_the_paper(coarse):
    m = v = np.zeros(SIZE)
    start = theta = None
    for generation, (before, rewards, after) in enumerate(ours(coarse)):
        theta = before.astype(np.float64) if theta is None else theta
        start = theta if start is None else start
        noise = mirrored(generation)
        wanted = rewards_of(theta + SIGMA * noise, coarse)
        if coarse:
            assert len(np.unique(rewards)) < POPULATION  # there are ties to share ranks
            assert np.array_equal(rewards, wanted)
        gradient = centred_ranks(wanted) @ noise / POPULATION
        m, v = BETA1 * m + (1 - BETA1) * gradient, BETA2 * v + (1 - BETA2) * gradient**2
        correction = 1 - BETA1 ** (generation + 1), 1 - BETA2 ** (generation + 1)
        theta = theta + ALPHA * (m / correction[0]) / (np.sqrt(v / correction[1]) + EPS)
        assert np.allclose(after, theta, rtol=0, atol=1e-4)
    assert ((theta - TARGET) ** 2).sum() < 0.3 * ((start - TARGET) ** 2).sum()


@pytest.mark.parametrize("coarse", [False, True])
def test_it_takes_the_steps_of_evosax(coarse):
    """Open_ES gets our members and rewards; it minimises, so rewards are negated."""
    algorithms = pytest.importorskip("evosax.algorithms")
    import jax
    import jax.numpy as jnp
    import optax

    steps = list(ours(coarse))
    es = algorithms.Open_ES(
        POPULATION,
        jnp.zeros(SIZE),
        # evosax's gradient is divided by sigma once more, which Adam undoes but for eps
        optimizer=optax.adam(ALPHA, BETA1, BETA2, EPS / SIGMA),
        std_schedule=optax.constant_schedule(SIGMA),
    )
    params, key = es.default_params, jax.random.key(0)
    state = es.init(key, jnp.asarray(steps[0][0]), params)
    for generation, (before, rewards, after) in enumerate(steps):
        members = np.asarray(state.mean) + np.float32(SIGMA) * mirrored(generation).astype(np.float32)
        state, _ = es.tell(key, jnp.asarray(members), jnp.asarray(-rewards), state, params)
        assert np.allclose(np.asarray(state.mean), after, rtol=0, atol=2e-4)
        assert np.abs(after - before).max() > 0.2 * ALPHA
