"""The guard's rules, one by one."""

import numpy as np
import pytest

from es_ray.evaluation.degenerate import AnswerCounts
from es_ray.judge.verdicts import Estimate, broken, dropped, junk, too_far

PROMPTS = 32


def test_a_metric_may_fall_by_max_drop_and_no_further():
    base, best = Estimate(0.7), [Estimate(0.5), Estimate(0.9), Estimate(0.7)]
    assert dropped("correct", Estimate(0.55), base, [], 0.15, PROMPTS) is None
    assert dropped("correct", Estimate(0.75), base, best, 0.15, PROMPTS) is None
    assert dropped("correct", Estimate(0.54), base, [], 0.15, PROMPTS) == (
        "correct: 54%, more than 0.15 below the base model's 70%"
    )
    assert dropped("correct", Estimate(0.7), base, best, 0.15, PROMPTS) == (
        "correct: 70%, more than 0.15 below its own best, 90%"
    )
    assert dropped("correct", Estimate(0.7), None, [], 0.15, PROMPTS) is None


def test_one_answer_of_a_few_prompts_is_no_drop_but_all_of_them_are():
    base = Estimate(1.0)
    assert dropped("correct", Estimate(0.5), base, [], 0.15, 2) is None
    assert dropped("correct", Estimate(0.0), base, [], 0.15, 2)
    assert dropped("correct", Estimate(0.0), base, [], 0.15, 1)
    assert dropped("correct", Estimate(0.75), base, [], 0.15, 4) is None
    assert dropped("correct", Estimate(0.75), base, [], 0.15, 8)
    assert dropped("stars", Estimate(4.0), Estimate(5.0), [], 0.15, 1)  # no share


def test_other_prompts_each_generation_are_no_false_alarm():
    """100 generations of 32 drawn prompts each, of a model whose share of right answers stays the same."""
    rng, alarms = np.random.default_rng(0), 0
    for _ in range(50):
        values = rng.binomial(32, 0.5, size=100) / 32
        base = Estimate(float(values[0]), 32)
        windows = [values[max(0, at - 4) : at + 1] for at in range(100)]
        estimates = [Estimate(float(window.mean()), 32 * len(window)) for window in windows]
        alarms += any(
            dropped("correct", now, base, estimates[:at], 0.15, PROMPTS)
            for at, now in enumerate(estimates)
            if at
        )
    assert alarms <= 1
    fallen = Estimate(0.1, 160)
    assert dropped("correct", fallen, Estimate(0.5, 32), [], 0.15, PROMPTS)
    assert dropped("correct", fallen, None, [Estimate(0.5, 160)], 0.15, PROMPTS)


def test_kl_above_its_limit():
    assert too_far(0.5, 0.5) is None
    assert too_far(0.51, 0.5) == "kl: 0.51 to the base model, above 0.5"


FINE = AnswerCounts(answers=20, empty=0, looping=0, same=1, truncated=2)


@pytest.mark.parametrize(
    ("name", "count", "word"),
    [("empty", 6, "empty"), ("looping", 6, "loops"), ("truncated", 8, "cut"), ("same", 10, "same")],
)
def test_broken_answers_get_a_verdict_when_there_are_clearly_more_than_the_base_models(name, count, word):
    now = FINE._replace(**{name: count})
    assert [verdict.partition(":")[0] for verdict in broken(now, FINE)] == [word]
    assert broken(now, now) == []  # as the base model itself
    assert broken(FINE._replace(**{name: count - 1}), FINE) == []


def test_one_broken_answer_of_a_few_is_no_verdict():
    few = AnswerCounts(3, 0, 0, 0, 0)
    assert broken(few._replace(empty=1, looping=1, truncated=1), few) == []
    assert len(broken(few._replace(empty=2), few)) == 1
    assert len(broken(AnswerCounts(1, 1, 0, 0, 0), AnswerCounts(1, 0, 0, 0, 0))) == 1


def test_members_that_lost_half_of_what_the_base_model_knows_are_junk():
    good, base = AnswerCounts(640, 3, 9, 40, 64), AnswerCounts(32, 0, 0, 2, 3)
    assert junk(good, base, "correct", (0.24, 0.27)) == []  # noise that works, as measured
    assert junk(good, base, "correct", (0.10, 0.27)) == ["correct 10% (base model: 27%)"]
    assert junk(good, base, "correct", (0.02, 0.08)) == []  # too few to tell
    looping = junk(good._replace(looping=500), base, None, None)
    assert looping == ["78% of the answers looping (base model: 0%)"]
