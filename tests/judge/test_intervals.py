"""Bootstrap intervals, against SciPy-free formulas and known coverage."""

import math

import numpy as np
import pytest

from es_ray.judge.intervals import bootstrap


def test_the_interval_is_that_of_the_normal_distribution_for_many_values():
    values = np.random.default_rng(3).normal(2.0, 5.0, size=2_000)
    found = bootstrap(values)
    half = 1.96 * values.std(ddof=1) / math.sqrt(len(values))
    assert found.mean == pytest.approx(values.mean())
    assert found.low == pytest.approx(values.mean() - half, abs=0.05 * half)
    assert found.high == pytest.approx(values.mean() + half, abs=0.05 * half)


def test_it_covers_the_true_share_about_as_often_as_it_says():
    rng = np.random.default_rng(1)
    covered = sum(
        found.low <= 0.3 <= found.high
        for found in (bootstrap(rng.random(60) < 0.3, seed) for seed in range(200))
    )
    assert 180 <= covered <= 199


def test_equal_values_have_no_spread_and_the_same_seed_gives_the_same():
    assert bootstrap([0.5, 0.5]) == (0.5, 0.5, 0.5)
    assert bootstrap([1.0]) == (1.0, 1.0, 1.0)
    assert bootstrap([0.0, 1.0, 1.0], 4) == bootstrap([0.0, 1.0, 1.0], 4)
    with pytest.raises(ValueError, match="one number for each example"):
        bootstrap([])
