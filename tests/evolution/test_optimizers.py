"""Each update rule of the registry against its formula in float64, over several steps."""

from collections.abc import Callable

import numpy as np
import pytest

from es_ray.evolution.noise import STREAM_INITIAL, Noise
from es_ray.evolution.optimizers import OPTIMIZERS, Adam, Momentum
from es_ray.evolution.perturbation import Perturbation, PiecewiseConstant
from es_ray.evolution.strategy import THETA, Strategy
from tests import philox

SIZE, POPULATION, STEPS, SEED, ALPHA = 203, 6, 12, 99, 0.05
SIGMA = PiecewiseConstant((50, 120, SIZE), (0.5, 0.01, 2.0))
DENSE = np.repeat([0.5, 0.01, 2.0], [50, 70, 83])


def sgd(gradients: np.ndarray) -> list[np.ndarray]:
    return list(gradients)


def momentum(gradients: np.ndarray, beta: float = 0.9) -> list[np.ndarray]:
    """Each step is the whole weighted history, not a recursion."""
    return [sum(beta ** (t - s) * gradients[s] for s in range(t + 1)) for t in range(len(gradients))]


def adam(
    gradients: np.ndarray, beta1: float = 0.9, beta2: float = 0.999, eps: float = 1e-8
) -> list[np.ndarray]:
    """Weighted means of the history: weights that sum to 1 are what bias correction makes of the averages."""
    found = []
    for t in range(1, len(gradients) + 1):
        ages = np.arange(t)[::-1]
        first, second = (beta**ages / (beta**ages).sum() for beta in (beta1, beta2))
        mean = np.tensordot(first, gradients[:t], axes=1)
        square = np.tensordot(second, gradients[:t] ** 2, axes=1)
        found.append(mean / (np.sqrt(square) + eps))
    return found


REFERENCES: dict[str, Callable[..., list[np.ndarray]]] = {"sgd": sgd, "momentum": momentum, "adam": adam}
OPTIONS = [
    ("sgd", {}),
    ("momentum", {}),
    ("momentum", {"momentum": 0.0}),
    ("momentum", {"momentum": 0.5}),
    ("adam", {}),
    ("adam", {"beta1": 0.0, "beta2": 0.9}),
    ("adam", {"beta1": 0.5, "beta2": 0.99, "eps": 0.1}),
]


def test_each_rule_of_the_registry_has_a_reference():
    assert set(OPTIMIZERS) == set(REFERENCES) == {name for name, _ in OPTIONS}


def noise_sums() -> np.ndarray:
    """Sums as a run makes them, of very different size from entry to entry, shape [STEPS, SIZE]."""
    rng = np.random.default_rng(8)
    sums = rng.normal(size=(STEPS, SIZE)) * np.geomspace(1e-4, 1e3, SIZE) + 0.3
    return sums.astype(np.float32)


def reference(name: str, options: dict[str, float]) -> list[np.ndarray]:
    renamed = {"beta" if key == "momentum" else key: value for key, value in options.items()}
    return REFERENCES[name](noise_sums().astype(np.float64) / POPULATION, **renamed)


@pytest.mark.parametrize(("name", "options"), OPTIONS)
def test_a_rule_is_its_formula(name, options):
    rule = OPTIMIZERS[name](**options)
    assert set(options) <= set(rule.options)
    arrays = rule.initial(SIZE)
    for total, wanted in zip(noise_sums(), reference(name, options), strict=True):
        before = {key: array.copy() for key, array in arrays.items()}
        kept, given = total.copy(), arrays
        direction, arrays = rule.direction(total, POPULATION, arrays)
        assert np.array_equal(total, kept), "changed in place"
        assert all(np.array_equal(given[key], before[key]) for key in before), "changed in place"
        assert direction.vector.dtype == np.float32
        u = direction.vector.astype(np.float64) / direction.divisor
        assert np.allclose(u, wanted, rtol=2e-5, atol=1e-6 * np.abs(wanted).max())


@pytest.mark.parametrize("update_scale", ["absolute", "sigma"])
@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize(("name", "options"), OPTIONS)
def test_the_centre_moves_by_the_formula(name, options, decay, update_scale):
    """theta <- theta_init + (1 - lambda) (theta - theta_init) + alpha s u, from the initial values."""
    s = Strategy(
        Perturbation(Noise(SEED), SIGMA),
        POPULATION,
        initial_std=PiecewiseConstant((SIZE,), (0.02,)),
        learning_rate=ALPHA,
        update_scale=update_scale,
        optimizer=OPTIMIZERS[name](**options),
        weight_decay=decay,
    )
    start = 0.02 * np.array(philox.normals(SEED, 0, 0, STREAM_INITIAL, SIZE))
    scale = DENSE if update_scale == "sigma" else 1.0
    state, theta = s.initial(), start
    for generation, (total, u) in enumerate(zip(noise_sums(), reference(name, options), strict=True)):
        state = s.step(state, generation, total)
        theta = start + (1 - decay) * (theta - start) + ALPHA * scale * u
        assert np.allclose(state[THETA], theta, rtol=2e-5, atol=1e-6 * np.abs(theta).max())
    assert np.abs(theta - start).max() > ALPHA


def test_decay_alone_goes_back_to_the_initial_values():
    """Also with form-like fixed entries: what has not left its start stays there, to the bit."""
    s = Strategy(
        Perturbation(Noise(SEED), SIGMA), POPULATION, PiecewiseConstant((SIZE,), (0.02,)), ALPHA,
        weight_decay=0.25,
    )  # fmt: skip
    start = s.initial()[THETA]
    moved = start.copy()
    moved[::2] += np.float32(1.0)
    state = {THETA: moved}
    for generation in range(4):
        state = s.step(state, generation, np.zeros(SIZE, dtype=np.float32))
    assert np.allclose((state[THETA] - start)[::2], 0.75**4, atol=1e-6)
    assert state[THETA][1::2].tobytes() == start[1::2].tobytes()


def test_adams_first_step_is_the_sign_whatever_the_gradients_size():
    for size in (1e-6, 1.0, 1e6):
        total = np.array([size, -size, 3 * size], dtype=np.float32)
        rule = Adam(eps=1e-12)
        direction, _ = rule.direction(total, POPULATION, rule.initial(3))
        assert np.allclose(direction.vector / direction.divisor, [1, -1, 1], rtol=1e-4)


def test_momentum_gathers_where_gradients_agree():
    rule, total = Momentum(0.75), np.ones(3, dtype=np.float32)
    arrays = rule.initial(3)
    for _ in range(60):
        direction, arrays = rule.direction(total, 1, arrays)
    assert np.allclose(direction.vector, 1 / (1 - 0.75), rtol=1e-5)
