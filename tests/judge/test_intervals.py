"""Bootstrap intervals, against SciPy-free formulas and known coverage."""

import math
import time

import numpy as np
import pytest

from es_ray.judge.intervals import (
    FEW,
    Interval,
    bootstrap_columns,
    bootstrap_ratio,
    caution,
)


def bootstrap(values, seed: int = 0) -> Interval:
    """The interval of a single column."""
    return bootstrap_columns(np.array(values, dtype=np.float64)[:, None], seed)[0]


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
    assert bootstrap([0.1] * 7) == (0.1, 0.1, 0.1)  # whose sum is not 0.7
    assert bootstrap([0.0, 1.0, 1.0], 4) == bootstrap([0.0, 1.0, 1.0], 4)


def test_one_value_has_no_interval():
    found = bootstrap([1.0])
    assert found.mean == 1.0
    assert math.isnan(found.low) and math.isnan(found.high)
    assert found.record() == {"mean": 1.0}
    assert bootstrap_ratio(np.array([[1.0, 4.0], [0.0, 0.0]])).record() == {"mean": 0.25}
    assert bootstrap([0.0, 1.0]).record().keys() == {"mean", "low", "high"}


def test_few_values_cover_as_rarely_as_is_said_of_them():
    """All outcomes of 8 prompts, each right with 90 %, by their chances."""
    chances = {right: math.comb(8, right) * 0.9**right * 0.1 ** (8 - right) for right in range(9)}
    found = {right: bootstrap([1.0] * right + [0.0] * (8 - right)) for right in chances}
    covered = sum(chance for right, chance in chances.items() if found[right].low <= 0.9 <= found[right].high)
    assert covered == pytest.approx(0.53, abs=0.01)
    assert chances[8] == pytest.approx(0.43, abs=0.005)


def test_columns_have_the_intervals_that_each_has_alone():
    values = np.random.default_rng(5).normal(size=(37, 4)) * [1, 10, 1e-3, 0] + [0, 3, 1e4, 0.1]
    together = bootstrap_columns(values)
    for column, interval in zip(values.T, together, strict=True):
        assert interval == pytest.approx(bootstrap(column))
    assert together[3].low == together[3].high == 0.1


def test_a_ratio_of_sums_is_resampled_with_both_of_a_prompt():
    """With a prompt of few tokens and one of many, all 4 samples of two."""
    found = bootstrap_ratio(np.array([[1.0, 2.0], [1.0, 100.0]]))
    assert found == pytest.approx((2 / 102, 2 / 200, 2 / 4))
    even = np.random.default_rng(0).exponential(size=300)
    assert bootstrap_ratio(np.column_stack([even, np.full(300, 4.0)])) == pytest.approx(bootstrap(even / 4))


def test_ten_thousand_prompts_take_seconds():
    values = np.random.default_rng(0).random((10_000, 60))
    start = time.process_time()
    found = bootstrap_columns(values)
    assert time.process_time() - start < 60
    assert found[0].high - found[0].low == pytest.approx(2 * 1.96 * math.sqrt(1 / 12 / 10_000), rel=0.1)


@pytest.mark.parametrize(
    ("examples", "equal", "words"),
    [(FEW, False, ""), (FEW - 1, False, "fewer than 20"), (FEW, True, "all values are equal"),
     (2, True, "fewer than 20 prompts and where all values are equal"),
     (1, True, "one prompt has no interval")],
)  # fmt: skip
def test_what_is_said_of_narrow_intervals(examples, equal, words):
    assert words in caution(examples, equal)
    assert bool(caution(examples, equal)) == bool(words)
