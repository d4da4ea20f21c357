"""What is measured of a rung, against independent figures."""

import numpy as np
import pytest

from es_ray.evaluation.degenerate import AnswerCounts
from es_ray.judge.ladder import broken_share, signal_to_noise


def test_signal_to_noise_is_large_for_a_slope_and_one_for_chance():
    slope = np.array([1.0, -1.1, 2.0, -1.9, 0.5, -0.4])
    half, mean = (slope[::2] - slope[1::2]) / 2, (slope[::2] + slope[1::2]) / 2
    assert signal_to_noise(slope) == pytest.approx(np.sqrt(np.mean(half**2)) / np.std(mean, ddof=1))
    assert signal_to_noise(slope) > 10
    chance = np.random.default_rng(0).normal(size=20_000)
    assert signal_to_noise(chance) == pytest.approx(1.0, abs=0.05)


def test_without_a_difference_between_pairs_there_is_none():
    assert signal_to_noise(np.ones(8)) is None
    assert signal_to_noise(np.array([1.0, -1.0])) is None  # one pair has no spread


def test_an_answer_is_broken_once():
    counts = [AnswerCounts(4, empty=2, looping=0, same=2, truncated=4), AnswerCounts(4, 0, 1, 0, 0)]
    assert broken_share(counts) == 3 / 8
