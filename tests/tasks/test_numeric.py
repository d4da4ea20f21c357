from decimal import Decimal

import pytest

from es_ray.errors import UserError
from es_ray.tasks import Example
from es_ray.tasks.numeric import Numeric, last_number

LAST = {
    "42": "42",
    "The answer is 42.": "42",
    "#### 42": "42",
    "3 apples, no, 4": "4",
    "1,234.50": "1234.50",
    "$1,234.50": "1234.50",
    "-$5": "-5",
    "$-5": "-5",
    "−7": "-7",
    "it fell to -7.25.": "-7.25",
    "10-4": "4",  # a difference, no negative number
    "10 - 4": "4",
    "(3)-4": "4",
    "15%": "15",
    ".5": "0.5",
    "0.5": "0.5",
    "3.1.4": "4",
    "7.": "7",
    "2.5e3": "2500",
    "1e-07": "0.0000001",
    "3,5": "5",
    "12,345,678": "12345678",
    "1,2345": "2345",
    "\\boxed{42}": "42",
    "007": "7",
    "42 euros or 43 euros": "43",
    "9" * 5000: "9" * 5000,
}


@pytest.mark.parametrize(("text", "number"), LAST.items())
def test_the_last_number_is_found_as_it_is_written(text, number):
    assert last_number(text) == Decimal(number)


@pytest.mark.parametrize("text", ["", "None", "no number", "٤٢", "½", "-", "$", ",", ".", "NaN", "inf", "🙂"])
def test_a_text_without_a_number_has_none(text):
    assert last_number(text) is None
    score = Numeric().score(Example("?", 42), text)
    assert (score.reward, score.metrics) == (0.0, {"correct": False, "exact": False, "format": False})


@pytest.mark.parametrize("target", [42, 42.0, "42", "42.0", "So she has 42.\n#### 42", "$42", "1 + 41 = 42."])
def test_targets_are_numbers_or_texts_that_end_with_one(target):
    for completion, reward in {
        "42": 1.1,
        "42.": 1.1,
        "$42.00": 1.1,
        "It is 42": 1.0,
        "41": 0.1,
        "no": 0.0,
    }.items():
        assert Numeric().score(Example("?", target), completion).reward == pytest.approx(reward), completion


@pytest.mark.parametrize("target", [None, "", "none", True, [1], {"a": 1}])
def test_a_target_without_a_number_is_an_error_that_shows_it(target):
    with pytest.raises(ValueError, match="target must be a number"):
        Numeric().score(Example("?", target), "42")


@pytest.mark.parametrize(
    ("target", "answer", "tolerance", "right"),
    [
        (0.1, "0.1", 0, True),
        (0.3, "0.30000000000000004", 0, False),
        (3.14, "3.14159", 0.01, True),
        (3.14, "3.2", 0.01, False),
        (100, "101", 1, True),
        (1, "1e999", 1000, False),
        (1, "9" * 100_000, 1000, False),
    ],
)
def test_the_tolerance_is_absolute(target, answer, tolerance, right):
    assert Numeric(tolerance=tolerance).score(Example("?", target), answer).metrics["correct"] is right


def test_a_number_anywhere_may_earn_something_too():
    task = Numeric(only_number=0.2, any_number=0.05)
    rewards = [task.score(Example("?", 40), text).reward for text in ("none", "maybe 41", "41", "40")]
    assert rewards == pytest.approx([0.0, 0.05, 0.25, 1.25])


@pytest.mark.parametrize("options", [{"tolerance": -1}, {"only_number": "much"}, {"any_number": 2}])
def test_a_bad_option_is_named(options):
    with pytest.raises(UserError, match=f"task.options.{next(iter(options))}"):
        Numeric(**options)
