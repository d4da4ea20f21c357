import numpy as np
import pytest

from es_ray.engines.sglang.probe import TOLERANCE, check_scores
from es_ray.errors import EvaluationError

BASE = np.array([-1.0, -2.0, -0.5])


def members(count: int = 3):
    return [BASE + 0.01 * (number + 1) for number in range(count)]


def test_adapters_that_act_pass():
    check_scores(BASE, BASE + TOLERANCE / 2, members())


@pytest.mark.parametrize(
    ("zero", "found", "words"),
    [
        (BASE + 2 * TOLERANCE, members(), "zero adapter is not the base model"),
        (BASE * np.nan, members(), "zero adapter is not the base model"),
        (BASE, [*members(2), BASE.copy()], "slot 2's member answers as the base model"),
        (BASE, [*members(2), members(2)[0]], "slots 0 and 2 must differ"),
        (BASE, [*members(2), BASE * np.inf], "slot 2's member has log-probabilities that are not finite"),
    ],
)
def test_each_check_says_what_failed(zero, found, words):
    with pytest.raises(EvaluationError, match=words) as error:
        check_scores(BASE, zero, found)
    assert str(error.value).startswith("start-up probe: ")
    assert "\n" not in str(error.value)
