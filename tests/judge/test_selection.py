"""Which centre of a run is selected."""

import pytest

from es_ray.judge.selection import JudgedCentre, select, selected_record

CENTRES = [
    JudgedCentre(-1, -9.0),
    JudgedCentre(0, -3.0),
    JudgedCentre(1, None),
    JudgedCentre(2, -1.0, ("empty: all",)),
    JudgedCentre(3, -3.0),
    JudgedCentre(4, -5.0),
]


def test_the_highest_reward_without_a_verdict_the_earliest_on_ties():
    assert select(CENTRES, by_reward=True).generation == 0
    assert select(CENTRES[:1], by_reward=True).generation == -1


def test_where_rewards_cannot_be_compared_the_last_without_a_verdict():
    assert select(CENTRES, by_reward=False).generation == 4
    assert select(CENTRES[:4], by_reward=False).generation == 1


@pytest.mark.parametrize("by_reward", [True, False])
def test_without_a_free_centre_one_is_named_with_its_verdicts(by_reward):
    found = selected_record([JudgedCentre(-1, -2.0, ("kl: far",))], "train", by_reward)
    assert found["generation"] == -1 and found["verdicts"] == ["kl: far"]
    assert "every centre has a verdict" in found["why"]
    assert select([JudgedCentre(-1, -2.0, ("kl: far",))], by_reward) is None
