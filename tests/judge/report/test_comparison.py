import numpy as np
import pytest

from es_ray.judge.report.comparison import Comparison
from es_ray.judge.report.comparison import comparison as compared

LAST = 9


def comparison(results: dict) -> Comparison:
    return compared(results, LAST)


def answers(rewards, correct, samples=1, **more) -> dict:
    examples = [
        {
            "prompt": f"p{at // samples}",
            "target": None,
            "completion": f"c{at}",
            "reward": reward,
            "correct": right,
        }
        | ({"sample": at % samples} if samples > 1 else {})
        | {"words": 3.0, "tokens": 1, "finish": "stop"}
        for at, (reward, right) in enumerate(zip(rewards, correct, strict=True))
    ]
    means = {"reward": float(np.mean(rewards)), "correct": float(np.mean(correct)), "words": 3.0}
    return {**means, **more, "examples": examples}


def results(base: dict, centre: dict) -> dict:
    return {"base": base, "centre": centre, "best": {**centre, "generation": 3, "index": 5}}


def cells(found, name: str):
    return dict(found.rows)[name]


def test_differences_have_the_paired_interval_over_prompts():
    rng = np.random.default_rng(0)
    before, after = rng.normal(size=200), rng.normal(loc=0.5, size=200)
    found = comparison(results(answers(before, [1] * 200), answers(after, [1] * 100 + [0] * 100)))
    base, centre, best = cells(found, "reward")
    assert base.change == ""
    assert (centre.change, centre.verdict, centre.kind) == (best.change, "▲ better", "right")
    mean, low, high = (
        float(part.strip("()").replace("−", "-")) for part in centre.change.replace("to ", "").split()
    )
    error = np.std(after - before) / np.sqrt(200)
    assert mean == pytest.approx(np.mean(after - before), abs=1e-3)
    assert low == pytest.approx(mean - 1.96 * error, abs=0.03)
    assert high == pytest.approx(mean + 1.96 * error, abs=0.03)
    share = cells(found, "correct")[1]
    assert share.value == "50%"
    assert share.change.startswith("−50 points (−")
    assert (share.verdict, share.kind) == ("▼ worse", "wrong")
    assert cells(found, "words")[1].verdict == "= the same"


def test_a_difference_that_may_be_chance_is_not_called_better():
    found = comparison(results(answers([0, 1, 0, 1], [0] * 4), answers([1, 0, 1, 0.5], [0, 0, 0, 1])))
    assert cells(found, "reward")[1].verdict == "≈ no clear difference"


def test_of_metrics_that_nobody_knows_more_is_higher_not_better():
    base, centre = answers([1, 1], [1, 1]), answers([1, 1], [1, 1], words=4.0)
    for example in centre["examples"]:
        example["words"] = 4.0
    cell = cells(comparison(results(base, centre)), "words")[1]
    assert (cell.verdict, cell.kind) == ("▲ higher", "plain")


def test_samples_of_a_prompt_count_as_one():
    base = answers([0, 2, 4, 6], [0, 1, 1, 1], samples=2, **{"pass@2": 1.0})
    centre = answers([1, 3, 5, 7], [0, 1, 1, 1], samples=2, **{"pass@2": 0.5})
    found = comparison(results(base, centre))
    assert (found.prompts, found.samples) == (2, 2)
    assert cells(found, "reward")[1].change == "+1.000 (+1.000 to +1.000)"
    assert cells(found, "pass@2")[1].change == "−0.5000"
    assert found.questions[1].answers[0].note == "the first of 2 samples"
    assert found.questions[1].answers[0].text == "c2"


def test_one_prompt_has_no_interval():
    found = comparison(results(answers([0], [0]), answers([2], [1])))
    assert cells(found, "reward")[1].change == "+2.000"
    assert cells(found, "reward")[1].verdict == ""


def test_right_and_wrong_are_words_and_signs_not_colours_alone():
    found = comparison(results(answers([0, 0], [1, 0]), answers([0, 0], [1, 0])))
    assert [one.answers[0].chips[0] for one in found.questions] == [
        ("✓ correct", "right"),
        ("✗ not correct", "wrong"),
    ]


def test_of_many_prompts_those_from_the_largest_loss_to_the_largest_gain_are_shown():
    gains = np.random.default_rng(1).permutation(500) - 250.0
    found = comparison(results(answers([0.0] * 500, [1] * 500), answers(gains, [1] * 500)))
    shown = [float(one.answers[1].reward.replace("−", "-")) for one in found.questions]
    assert shown == sorted(shown)
    assert (shown[0], shown[-1]) == (-250, 249)
    assert len(shown) == 24
    assert found.left_out == 476


BEST = "best member, 5 of generation 3"


def test_the_selected_centre_has_a_column_only_if_it_is_another():
    base, centre = answers([0, 0], [1, 1]), answers([1, 1], [1, 1])
    same = results(base, centre) | {"selected": {**centre, "generation": LAST}}
    assert comparison(same).names == ["base model", "last centre, as the selected one", BEST]
    alike = results(base, centre) | {"selected": {**centre, "generation": 4}}
    assert comparison(alike).names == [
        "base model",
        "last centre",
        "selected centre, after generation 4",
        BEST,
    ]
    other = results(base, centre) | {"selected": {**base, "generation": 4}}
    assert comparison(other).names[2] == "selected centre, after generation 4"
    start = results(base, centre) | {"selected": {**base, "generation": -1}}
    assert comparison(start).names[2] == "selected one: the start"
