import os

import numpy as np
import pytest

from es_ray.evolution.noise import Noise
from es_ray.evolution.optimizers import Adam, Momentum, Sgd
from es_ray.evolution.perturbation import Perturbation, PiecewiseConstant
from es_ray.evolution.pieces import PIECE, THREADS, in_pieces, joined
from es_ray.evolution.strategy import THETA, Strategy, distance

LARGE = 9 * THREADS * PIECE + 77
"""Enough for all threads, and a last piece that is not full."""


@pytest.mark.parametrize("size", [0, 1, PIECE, PIECE + 1, LARGE])
def test_pieces_follow_each_other_and_cover_all(size):
    found = in_pieces(size, lambda start, stop: (start, stop))
    assert [start for start, _ in found] == [0, *(stop for _, stop in found)][: len(found)]
    assert (found[-1][1] if found else 0) == size
    assert all(0 < stop - start <= PIECE for start, stop in found)


@pytest.mark.parametrize(
    "sizes", [[5], [1, 2, 3], [PIECE, PIECE], [1, PIECE - 1, 3 * PIECE + 1, 0, 7], [LARGE // 3] * 3]
)
@pytest.mark.parametrize("cores", [1, 64])
def test_parts_are_joined_in_their_order(sizes, cores, monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    parts = [np.random.default_rng(n).normal(size=size).astype(np.float32) for n, size in enumerate(sizes)]
    assert joined(parts).tobytes() == np.concatenate(parts).tobytes()


def test_an_error_in_a_piece_is_the_callers():
    def work(start: int, stop: int) -> None:
        if stop == LARGE:
            raise FloatingPointError("the last piece")

    with pytest.raises(FloatingPointError, match="the last piece"):
        in_pieces(LARGE, work)


def plain_step(name: str, theta, noise_sum, arrays):
    """Of one step with the defaults, as the docstrings of the rules say, whole arrays at a time."""
    g = noise_sum / np.float32(10)
    if name == "sgd":
        return theta + np.float32(0.5 / 10) * noise_sum
    if name == "momentum":
        return theta + np.float32(0.5) * (np.float32(0.9) * arrays["optimizer.m"] + g)
    m = np.float32(0.9) * arrays["optimizer.m"] + np.float32(1 - 0.9) * g
    v = np.float32(0.999) * arrays["optimizer.v"] + np.float32(1 - 0.999) * np.square(g)
    root = np.sqrt(v / np.float32(1 - 0.999**2)) + np.float32(1e-8)
    return theta + np.float32(0.5 / (1 - 0.9**2)) * (m / root)


@pytest.mark.parametrize("rule", [Sgd(), Momentum(), Adam()])
@pytest.mark.parametrize("cores", [1, 2, 64])
def test_steps_of_long_vectors_have_the_same_bits_however_many_threads(rule, cores, monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    everywhere = PiecewiseConstant((LARGE,), (1.0,))
    strategy = Strategy(
        Perturbation(Noise(3), sigma=everywhere), population=10, initial_std=everywhere, learning_rate=0.5,
        optimizer=rule,
    )  # fmt: skip
    first, second = (np.random.default_rng(n).normal(size=LARGE).astype(np.float32) for n in (1, 2))
    state = strategy.step(strategy.initial(), 0, first)
    after = strategy.step(state, 1, second)
    wanted = plain_step(type(rule).__name__.lower(), state[THETA], second, state)
    assert after[THETA].tobytes() == wanted.tobytes()
    length = np.sqrt(np.square(after[THETA].astype(np.float64) - state[THETA]).sum())
    assert strategy.update_norm(state[THETA], after[THETA]) == pytest.approx(length, rel=1e-12)


def test_what_is_not_finite_is_found_in_the_last_piece():
    everywhere = PiecewiseConstant((LARGE,), (1.0,))
    strategy = Strategy(
        Perturbation(Noise(3), sigma=everywhere), population=10, initial_std=everywhere, learning_rate=0.5
    )
    sum_of_noise = np.zeros(LARGE, dtype=np.float32)
    sum_of_noise[-1] = np.inf
    with pytest.raises(Exception, match="theta.*not finite"):
        strategy.step(strategy.initial(), 0, sum_of_noise)
    assert distance(np.zeros(LARGE), np.ones(LARGE)) == pytest.approx(np.sqrt(LARGE))
