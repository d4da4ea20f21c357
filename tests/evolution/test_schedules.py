"""Schedules by their definition: from 1 to f over so many generations, then held."""

import numpy as np
import pytest

from es_ray.evolution.noise import Noise
from es_ray.evolution.perturbation import Perturbation, PiecewiseConstant
from es_ray.evolution.schedules import CONSTANT, SCHEDULES, Schedule
from es_ray.evolution.strategy import THETA, Strategy

SIGMA = PiecewiseConstant((3, 8), (0.5, 0.125))
FIRST = PiecewiseConstant((8,), (2.0,))


def test_the_registry_has_the_kinds_of_the_configuration():
    from es_ray.config import ScheduleConfig

    assert set(SCHEDULES) == set(ScheduleConfig.model_fields["kind"].annotation.__args__)


@pytest.mark.parametrize("kind", ["linear", "cosine"])
@pytest.mark.parametrize("to", [0.0, 0.1, 1.0, 3.0])
def test_it_starts_at_1_ends_at_f_and_stays_there(kind, to):
    schedule = Schedule(kind, to, over=7)
    factors = [schedule.factor(generation) for generation in range(30)]
    assert factors[0] == 1.0
    assert factors[7:] == [to] * 23
    differences = np.diff(factors[:8])
    assert (differences * np.sign(to - 1) > 0).all() if to != 1.0 else not differences.any()


def test_linear_is_a_line_and_cosine_half_a_wave():
    for generation in range(11):
        linear, cosine = (Schedule(kind, 0.2, over=10).factor(generation) for kind in ("linear", "cosine"))
        assert linear == pytest.approx(np.interp(generation, [0, 10], [1, 0.2]))
        assert cosine == pytest.approx(0.6 + 0.4 * np.cos(np.pi * generation / 10))


def test_a_constant_value_is_not_touched():
    assert [CONSTANT.factor(generation) for generation in (0, 1, 10**6)] == [1.0] * 3
    perturbation = Perturbation(Noise(1), SIGMA)
    assert perturbation.scale(5) is SIGMA


def perturbation(first: PiecewiseConstant | None = None) -> Perturbation:
    return Perturbation(Noise(7, antithetic=True), SIGMA, first, Schedule("linear", 0.5, over=4))


def test_members_have_the_noise_of_their_generation():
    theta = np.linspace(-1, 1, 8, dtype=np.float32)
    for generation, factor in [(0, 1.0), (1, 0.875), (2, 0.75), (4, 0.5), (9, 0.5)]:
        p = perturbation()
        noise = p.noise.member(generation, 3, 0, 8).astype(np.float64)
        wanted = theta + factor * np.repeat([0.5, 0.125], [3, 5]) * noise
        assert np.allclose(p.member(theta, generation, 3), wanted, atol=1e-6)
        halved = theta + 0.5 * factor * np.repeat([0.5, 0.125], [3, 5]) * noise
        assert np.allclose(p.member(theta, generation, 3, factor=0.5), halved, atol=1e-6)


def test_generation_0s_own_sigma_is_not_scheduled():
    assert perturbation(FIRST).scale(0) is FIRST
    assert perturbation(FIRST).scale(2).values == (0.375, 0.09375)


@pytest.mark.parametrize("update_scale", ["absolute", "sigma"])
def test_a_step_takes_the_learning_rate_and_the_sigma_of_its_generation(update_scale):
    alpha = Schedule("cosine", 0.25, over=8)
    s = Strategy(
        perturbation(), 2, SIGMA, learning_rate=0.5, update_scale=update_scale, learning_rate_schedule=alpha
    )
    total = np.arange(8, dtype=np.float32)
    theta = s.initial()[THETA]
    for generation in range(12):
        scale = np.repeat([0.5, 0.125], [3, 5]) * max(1 - generation / 8, 0.5)
        wanted = theta + 0.5 * alpha.factor(generation) * total / 2 * (
            scale if update_scale == "sigma" else 1
        )
        assert np.allclose(s.step({THETA: theta}, generation, total)[THETA], wanted, atol=1e-6)
        assert s.learning_rate_at(generation, {}) == 0.5 * alpha.factor(generation)


def test_sigma_as_one_number_is_the_geometric_mean_of_what_is_perturbed():
    s = Strategy(perturbation(), 2, SIGMA, learning_rate=0.5)
    assert s.sigma_at(0) == pytest.approx(0.25)
    assert s.sigma_at(4) == pytest.approx(0.125)
    fixed = PiecewiseConstant((2, 5, 6, 8), (0.0, 0.5, 0.0, 0.125))  # as where A does not move
    assert fixed.geometric_mean() == pytest.approx(0.25)
    assert PiecewiseConstant((8,), (0.003,)).geometric_mean() == 0.003
    assert PiecewiseConstant((8,), (0.0,)).geometric_mean() == 0.0
