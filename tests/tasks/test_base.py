import math
from decimal import Decimal

import numpy as np
import pytest
import torch

from es_ray.errors import EvaluationError
from es_ray.tasks.base import Example, Score, checked


@pytest.mark.parametrize("reward", [math.nan, math.inf, -math.inf])
def test_a_reward_that_is_not_finite_is_an_error_with_the_candidates_name(reward):
    with pytest.raises(EvaluationError, match="Why.*member 7 of generation 2"):
        checked(Score(reward, {"correct": True}), "member 7 of generation 2", Example("Why?", "So."))


def test_a_finite_reward_passes():
    score = Score(-3.0, {"correct": True, "exact": False})
    assert checked(score, "member 7", Example("Why?", "So.")) is score


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_metric_that_is_not_finite_is_named(value):
    with pytest.raises(EvaluationError, match="brevity.*member 7"):
        checked(Score(1.0, {"brevity": value}), "member 7", Example("Why?", "So."))


@pytest.mark.parametrize(
    "value", [True, 3, -0.5, np.float32(0.5), np.float16(1), np.int64(4), np.uint8(2), np.bool_(False)]
)
def test_numbers_of_any_kind_pass_as_reward_and_as_metric(value):
    score = Score(value, {"brevity": value})
    assert checked(score, "member 7", Example("Why?", "So.")) is score


NO_NUMBERS = ["0.5", None, 1j, np.zeros(1), np.array(1.0), [1.0], torch.tensor(1.0), Decimal(1)]


@pytest.mark.parametrize("value", NO_NUMBERS, ids=repr)
def test_what_is_no_number_is_named_with_its_type(value):
    example = Example("Why?", "So.", where="train.jsonl, line 3")
    for name, score in {"reward": Score(value), "brevity": Score(1.0, {"brevity": value})}.items():
        with pytest.raises(EvaluationError) as error:
            checked(score, "member 7 of generation 2", example)
        message = str(error.value)
        assert message.startswith(f"{name} must be a number, not {type(value).__name__}")
        assert message.endswith("for train.jsonl, line 3 (member 7 of generation 2)")
        assert "\n" not in message


@pytest.mark.parametrize("value", ["0.5", None, (1.0, {})], ids=repr)
def test_a_return_value_that_is_no_score_is_named(value):
    with pytest.raises(
        EvaluationError, match=f"a Score or a number, not {type(value).__name__}.*Why.*member 7"
    ):
        checked(value, "member 7", Example("Why?", "So."))


def test_metrics_that_are_no_mapping_or_have_other_names_are_errors():
    with pytest.raises(EvaluationError, match="mapping.*not list.*member 7"):
        checked(Score(1.0, [1.0]), "member 7", Example("Why?", "So."))
    with pytest.raises(EvaluationError, match="name must be a string, not int 5.*member 7"):
        checked(Score(1.0, {5: 1.0}), "member 7", Example("Why?", "So."))


def test_an_integer_beyond_the_floats_is_not_finite():
    with pytest.raises(EvaluationError, match="not finite.*member 7"):
        checked(Score(10**5000), "member 7", Example("Why?", "So."))


def test_a_long_prompt_is_shortened_in_messages():
    with pytest.raises(EvaluationError) as error:
        checked(Score(math.nan), "member 7", Example("Why? " * 100, "So."))
    assert "Why? Why?" in str(error.value)
    assert len(str(error.value)) < 200


@pytest.mark.parametrize(
    "name",
    [
        "reward",
        "completion",
        "finish",
        "tokens",
        "answers",
        "candidate",
        "characters",
        "example",
        "kl",
        "pass@2",
    ],
)
def test_a_metric_may_not_have_a_name_that_files_use(name):
    with pytest.raises(EvaluationError, match=f"{name}.*member 7"):
        checked(Score(1.0, {name: 1.0}), "member 7", Example("Why?", "So."))
