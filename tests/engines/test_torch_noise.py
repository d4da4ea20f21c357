"""The torch form of the noise against the NumPy form."""

import numpy as np
import pytest
import torch

from es_ray.engines import torch_noise
from es_ray.evolution.noise import Noise, normals
from es_ray.evolution.perturbation import Perturbation, PiecewiseConstant
from tests.evolution.test_noise import KNOWN

WHERE = [(0, 0), (7, 3), (2**40 + 5, 1000), (2**64 - 1, 2**32 - 1), (12345678901, 1)]
SLICES = [(0, 1), (1, 2), (3, 4), (1, 7), (2, 1001), (997, 1003), (4, 8), (10, 10), (2**20 - 3, 2**20 + 5)]


@pytest.mark.parametrize(("counter", "key", "answer"), KNOWN)
def test_philox_gives_the_known_answers(counter, key, answer):
    words = torch_noise.philox4x32(tuple(torch.tensor([word]) for word in counter), key)
    assert [int(word) for word in words] == [int(word, 16) for word in answer.split()]


@pytest.mark.parametrize(("seed", "generation"), WHERE)
@pytest.mark.parametrize(("start", "stop"), SLICES)
def test_normals_agree_with_numpy(seed, generation, start, stop):
    members = [0, 1, 29, 2**31 + 7, 2**32 - 1]
    for stream in range(5):
        ours = torch_noise.normals(seed, generation, torch.tensor(members), start, stop, stream)
        assert ours.dtype == torch.float32
        assert ours.shape == (len(members), stop - start)
        wanted = [normals(seed, generation, member, stream, start, stop) for member in members]
        assert np.abs(ours.numpy() - np.stack(wanted)).max(initial=0) < 1e-6


def test_normals_agree_at_random_places():
    rng = np.random.default_rng(3)
    for _ in range(100):
        seed, generation = int(rng.integers(0, 2**64, dtype=np.uint64)), int(rng.integers(0, 2**32))
        member, start = int(rng.integers(0, 2**32)), int(rng.integers(0, 2**34))
        stop = start + int(rng.integers(1, 50))
        ours = torch_noise.normals(seed, generation, torch.tensor([member]), start, stop)
        assert np.abs(ours[0].numpy() - normals(seed, generation, member, 0, start, stop)).max() < 1e-6


@pytest.mark.parametrize("antithetic", [False, True])
@pytest.mark.parametrize("generation", [0, 2])
def test_members_are_the_perturbations(antithetic, generation):
    perturbation = _perturbation(antithetic)
    theta = np.random.default_rng(0).normal(size=50).astype(np.float32)
    sigma = torch.from_numpy(perturbation.scale(generation).dense(0, 50))
    ours = torch_noise.members(
        torch.from_numpy(theta), sigma, perturbation.noise, generation, [0, 1, -1, 5], 3, 50
    )
    wanted = [perturbation.member(theta, generation, index)[3:] for index in (0, 1)] + [theta[3:]]
    wanted.append(perturbation.member(theta, generation, 5)[3:])
    assert np.abs(ours.numpy() - np.stack(wanted)).max() < 1e-6
    assert np.array_equal(ours[2], theta[3:])


@pytest.mark.parametrize("antithetic", [False, True])
def test_factors_scale_sigma(antithetic):
    perturbation, theta = (
        _perturbation(antithetic),
        np.random.default_rng(0).normal(size=50).astype(np.float32),
    )
    sigma = torch.from_numpy(perturbation.scale(2).dense(0, 50))
    indices, factors = [0, 1, -1, 5, 5], [0.5, 3.0, 2.0, 1.0, 0.0]
    given = torch.from_numpy(theta), sigma, perturbation.noise, 2
    ours = torch_noise.members(*given, indices, 0, 50, factors)
    wanted = perturbation.members(theta, 2, [0, 1, 0, 5, 5], [0.5, 3.0, 0.0, 1.0, 0.0])
    assert np.abs(ours.numpy() - wanted).max() < 1e-6
    assert np.array_equal(ours[2], theta)
    assert torch.equal(
        torch_noise.members(*given, indices, 0, 50, [1.0] * 5), torch_noise.members(*given, indices, 0, 50)
    )


@pytest.mark.parametrize("antithetic", [False, True])
def test_the_sum_over_members_is_the_perturbations_and_does_not_depend_on_slices(antithetic):
    perturbation = _perturbation(antithetic)
    advantages = np.random.default_rng(1).normal(size=6)
    weights = torch.from_numpy(advantages.astype(np.float32))
    total = torch_noise.weighted_sum(perturbation.noise, 4, weights, 0, 50, chunk=7)
    wanted = perturbation.noise_sum(4, advantages, 0, 50)
    assert np.abs(total.numpy() - wanted).max() < 5e-6
    part = torch_noise.weighted_sum(perturbation.noise, 4, weights, 9, 33)
    assert part.numpy().tobytes() == total[9:33].numpy().tobytes()


def _perturbation(antithetic: bool) -> Perturbation:
    return Perturbation(
        noise=Noise(2**40 + 9, antithetic),
        sigma=PiecewiseConstant((20, 50), (0.5, 0.25)),
        first_sigma=PiecewiseConstant((50,), (2.0,)),
    )
