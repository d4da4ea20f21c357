"""Means over prompts, their intervals and differences, and pass@k, against plain NumPy and enumeration."""

from itertools import combinations

import numpy as np
import pytest

from es_ray.judge.statistics import has_equal_values, pass_at, statistics
from es_ray.tasks.conciseness import Conciseness
from es_ray.tasks.functions import FunctionTask

REWARDS = np.array([[-10.0, -30.0], [0.0, 0.0], [-3000.0, -1.0]])
BASE_REWARDS = np.array([[-40.0, -40.0], [-10.0, -10.0], [-7.0, -9.0]])


def answers(rewards: np.ndarray) -> dict:
    examples = [
        {
            "prompt": f"p{prompt}", "target": "t", "sample": sample, "completion": "x" * (prompt + sample),
            "reward": value, "correct": value > -5, "tokens": 1 + prompt,
            "finish": "length" if prompt else "stop",
        }
        for prompt, row in enumerate(rewards.tolist())
        for sample, value in enumerate(row)
    ]  # fmt: skip
    return {"reward": rewards.mean(), "examples": examples}


def found(kl: dict[str, np.ndarray] | None = None) -> dict:
    both = {"base": answers(BASE_REWARDS), "centre": answers(REWARDS)}
    return statistics(both, 2, Conciseness(), kl or {})


def of_each(values: np.ndarray) -> np.ndarray:
    """The values in all 27 equally likely samples of three prompts, not drawn ones, shape [3, 27]."""
    return values[np.array(np.meshgrid(*[range(3)] * 3)).reshape(3, -1)]


def bounds(drawn: np.ndarray) -> tuple[float, float]:
    return tuple(np.quantile(np.sort(drawn), [0.025, 0.975], method="inverted_cdf").tolist())


def resampled(values: np.ndarray) -> tuple[float, float]:
    return bounds(of_each(values).mean(axis=0))


def test_samples_of_a_prompt_are_averaged_before_anything_else():
    centre = found()["centre"]["reward"]
    assert centre["mean"] == pytest.approx(REWARDS.mean())
    assert (centre["low"], centre["high"]) == pytest.approx(resampled(REWARDS.mean(axis=1)))
    # of two samples the unbiased variance is half the square of their difference
    assert centre["spread"] == pytest.approx(np.mean([20.0, 0.0, 2999.0]) / 2**0.5)


def test_differences_to_the_base_model_are_of_the_same_prompts():
    both = found()
    difference = (REWARDS - BASE_REWARDS).mean(axis=1)
    centre = both["centre"]["reward"]["difference"]
    assert centre["mean"] == pytest.approx(difference.mean())
    assert (centre["low"], centre["high"]) == pytest.approx(resampled(difference))
    assert "difference" not in both["base"]["reward"]


def test_lengths_cuts_and_kl_are_there():
    sums = np.array([[0.5, 4], [3.0, 6], [0.0, 2]])
    both = found({"centre": sums})
    assert both["centre"]["completion_length"]["mean"] == pytest.approx(np.mean([0, 1, 1, 2, 2, 3]))
    assert both["centre"]["completion_tokens"]["mean"] == pytest.approx(2.0)
    assert both["centre"]["truncated"]["mean"] == pytest.approx(2 / 3)
    assert both["base"]["kl"] == {"mean": 0.0}
    kl = both["centre"]["kl"]
    assert kl["mean"] == pytest.approx(3.5 / 12)
    over, under = (of_each(column).sum(axis=0) for column in sums.T)
    assert (kl["low"], kl["high"]) == pytest.approx(bounds(over / under))
    assert "kl" not in found()["centre"]


def test_the_papers_reward_is_within_0_and_1():
    """0 for -2000 in the original reward, 1 for the best possible, 0 (arXiv 2509.24372, appendix A.2)."""
    each = [[1 - 10 / 2000, 1 - 30 / 2000], [1, 1], [0, 1 - 1 / 2000]]
    assert found()["centre"]["normalized_reward"]["mean"] == pytest.approx(np.mean(each))
    assert [Conciseness().normalized_reward(r) for r in (0.0, -1000.0, -2000.0, -2001.0)] == [1, 0.5, 0, 0]


def test_a_task_without_such_a_scale_has_no_such_reward():
    both = {"base": answers(BASE_REWARDS), "centre": answers(REWARDS)}
    assert "normalized_reward" not in statistics(both, 2, FunctionTask(len), {})["centre"]


def test_one_prompt_has_means_and_differences_without_bounds():
    both = {"base": answers(BASE_REWARDS[:1]), "centre": answers(REWARDS[:1])}
    found = statistics(both, 2, Conciseness(), {"centre": np.array([[1.0, 4]])})
    assert found["centre"]["kl"] == {"mean": 0.25}
    reward = found["centre"]["reward"]
    assert (reward["mean"], reward["difference"]) == (-20.0, {"mean": 20.0})
    assert "low" not in reward and "high" not in reward
    assert not has_equal_values(found)


def test_equal_values_of_any_quantity_are_noticed():
    both = {"base": answers(BASE_REWARDS), "centre": answers(BASE_REWARDS + 1.0)}
    assert has_equal_values(statistics(both, 2, FunctionTask(len), {}))
    del both["centre"]
    for number, example in enumerate(both["base"]["examples"]):
        example |= {"correct": number >= 3, "completion": "x" * number, "tokens": number}
    assert not has_equal_values(statistics(both, 2, FunctionTask(len), {}))


@pytest.mark.parametrize("k", [1, 2, 3, 5])
def test_pass_at_k_is_the_share_of_subsets_with_a_right_sample(k):
    correct = np.random.default_rng(k).random((20, 5)) < 0.3
    expected = [np.mean([any(row[list(some)]) for some in combinations(range(5), k)]) for row in correct]
    np.testing.assert_allclose(pass_at(correct, k)[:, 0], expected, atol=1e-12)


def test_pass_at_the_number_of_samples_is_any_right_one():
    centre = found()["centre"]
    assert centre["pass@2"]["mean"] == pytest.approx(np.mean([False, True, True]))
    assert centre["pass@1"]["mean"] == centre["correct"]["mean"] == pytest.approx(np.mean([0, 1, 0.5]))
