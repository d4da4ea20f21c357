"""Which sizes of noise work: on figures of two models a factor of ten apart, and on made-up rungs."""

from dataclasses import replace

import pytest

from es_ray.judge.rung_rules import (
    NOTHING_RIGHT,
    Answers,
    Rung,
    judged,
    nothing_right,
    size_between,
    why,
    why_none,
    working,
)

POPULATION = 30
WORKS = Rung(0.1, 8, 1.0, 0.2, 1.5, 0.5, 0.9, 0.9, 0.0, 0.05, 64)
BASE = Answers(1.0, 1.0, 0.0, 16)


def ladder(base: Answers, metric: str | None, rows: dict[float, dict]) -> list[Rung]:
    """Judged rungs: WORKS with what is given."""
    rungs = [replace(WORKS, relative=relative, **given) for relative, given in rows.items()]
    return judged(rungs, base, base, metric, POPULATION)


def judged_alone(rung: Rung, base: Answers, metric: str | None) -> tuple[str | None, bool]:
    (found,) = judged([rung], base, base, metric, POPULATION)
    return found.problem, found.too_large


def test_the_bundled_models_region_is_found():
    dead = {
        "reward": -103.0,
        "reward_std": 0.0,
        "signal_to_noise": None,
        "changed_members": 0.0,
        "metric": 1.0,
    }
    rungs = ladder(
        Answers(-103.0, 1.0, 0.0, 2),
        "correct",
        {
            0.01: dead,
            0.03: dead,
            0.1: dead | {"members": 32, "changed_members": 1 / 32, "reward": -102.0, "reward_std": 9.0},
            0.3: {"reward": -92.4, "reward_std": 20.0, "changed": 0.12, "metric": 1.0, "kl": 1e-4},
            1.0: {
                "reward": -76.0,
                "reward_std": 53.0,
                "changed": 1.0,
                "metric": 0.36,
                "broken": 0.09,
                "kl": 4.0,
            },
        },
    )
    assert [rung.relative for rung in working(rungs)] == [0.3]
    assert rungs[2].problem == "dead: 1 of 32 members answers differently"
    assert "12% of the completions change" in why(rungs[3], rungs, Answers(-103.0, 1.0, 0.0, 2), "correct")
    assert "at 1 too large (loses correct: 36% (base model: 100%))" in why(
        rungs[3], rungs, Answers(-103.0, 1.0, 0.0, 2), "correct"
    )


def test_smollm2s_region_is_found():
    """FINDINGS on sums: members keep 0.24 to 0.26 of 0.27 at 0.03, and 0.09 to 0.12 at 0.1."""
    rungs = ladder(
        Answers(0.29, 0.27, 0.0, 32),
        "correct",
        {
            0.01: {"reward": 0.29, "reward_std": 0.04, "changed": 0.4, "metric": 0.27},
            0.03: {"reward": 0.27, "reward_std": 0.08, "changed": 0.7, "metric": 0.25},
            0.1: {"reward": 0.12, "reward_std": 0.08, "changed": 0.98, "metric": 0.1},
            0.3: {"reward": 0.3, "reward_std": 0.1, "changed": 1.0, "metric": 0.3},  # by chance
        },
    )
    assert [rung.relative for rung in working(rungs)] == [0.01, 0.03]


def test_what_smaller_noise_leaves_is_lost_too():
    """SmolLM2 on 8 sums, of which the base model has one right: 8 members, without the KL."""
    rungs = ladder(
        Answers(0.125, 1 / 8, 0.0, 8),
        "correct",
        {
            0.01: {"reward": 0.14, "reward_std": 0.04, "changed": 0.17, "metric": 0.14},
            0.03: {"reward": 0.17, "reward_std": 0.087, "changed": 0.42, "metric": 0.17},
            0.1: {"reward": 0.06, "reward_std": 0.088, "changed": 0.95, "metric": 0.06},
        },
    )
    assert [rung.relative for rung in working(rungs)] == [0.01, 0.03]
    assert rungs[2].problem == "loses correct: 6% (at 0.03: 17%)"


@pytest.mark.parametrize(
    ("given", "word", "too_large"),
    [
        ({"broken": 0.3}, "broken", True),
        ({"metric": 0.6}, "loses correct", True),
        ({"kl": 0.2}, "another model", True),
        ({"changed_members": 0.0}, "dead: 0 of 8 members answer", False),
        ({"reward_std": 0.0}, "no spread: all 8 members", False),
        ({"reward": 0.7}, "worse", True),
    ],
)
def test_each_rule_names_its_reason(given, word, too_large):
    problem, large = judged_alone(replace(WORKS, **given), BASE, "correct")
    assert problem is not None and problem.startswith(word)
    assert large is too_large
    assert judged_alone(WORKS, BASE, "correct") == (None, False)


def test_what_was_not_measured_is_no_reason():
    unknown = replace(WORKS, changed=None, changed_members=None, kl=None, metric=None, signal_to_noise=None)
    assert judged_alone(unknown, replace(BASE, metric=None), None) == (None, False)


def test_one_right_answer_of_the_base_model_cannot_be_lost():
    base = Answers(1.0, 1 / 16, 0.0, 16)
    rungs = ladder(base, "correct", {0.1: {"metric": 0.0}, 1.0: {"metric": 0.01}})
    assert [rung.problem for rung in rungs] == [None, None]


def test_without_a_right_answer_anywhere_nothing_is_recommended():
    base = Answers(-50.0, 0.0, 0.0, 16)
    rungs = ladder(base, "correct", {0.1: {"reward": -50.0, "reward_std": 5.0, "metric": 0.0}})
    assert not working(rungs)
    assert rungs[0].problem == NOTHING_RIGHT
    assert nothing_right(rungs, base)
    assert not nothing_right([replace(rungs[0], metric=0.1)], base)
    assert not nothing_right([replace(rungs[0], metric=None)], replace(base, metric=None))
    assert why_none(rungs, base, "correct").startswith("no answer is right")


def test_why_nothing_works_is_said():
    dead = {"changed_members": 0.0}
    assert "no size of noise changes" in why_none(ladder(BASE, None, {0.1: dead, 1.0: dead}), BASE, None)
    broken = ladder(BASE, None, {0.1: {"broken": 1.0}, 1.0: {"broken": 1.0}})
    assert "the smallest noise already breaks the model" in why_none(broken, BASE, None)
    either = ladder(BASE, None, {0.1: dead, 1.0: {"broken": 1.0}})
    found = why_none(either, BASE, None)
    assert "no difference up to 0.1 (dead: 0 of 8 members answer differently)" in found
    assert "too large from 1 (broken: 100% of the answers" in found
    assert found.endswith("were tried: over more members or generations a run may still learn at 0.1")


DEAD, NO_SPREAD, BROKEN = {"changed_members": 0.0}, {"reward_std": 0.0}, {"broken": 1.0}


@pytest.mark.parametrize(
    ("rows", "size"),
    [
        ({0.1: DEAD, 1.0: BROKEN}, 0.3),
        ({0.3: NO_SPREAD, 1.0: BROKEN}, 0.5),
        ({0.3: DEAD, 0.5: DEAD, 1.0: BROKEN}, 0.7),
        ({0.3: DEAD, 0.5: BROKEN, 1.0: BROKEN}, 0.4),
        ({0.1: DEAD, 0.2: DEAD, 0.3: BROKEN}, 0.24),
        ({0.1: DEAD, 0.3: {}, 1.0: BROKEN}, None),  # one works
        ({0.1: {}, 0.3: DEAD, 1.0: BROKEN}, None),
        ({0.1: BROKEN, 0.3: DEAD, 1.0: BROKEN}, None),
        ({0.1: DEAD, 1.0: DEAD}, None),
    ],
)
def test_a_size_between_no_difference_and_too_large_is_measured(rows, size):
    assert size_between(ladder(BASE, "correct", rows), BASE, "correct") == size


def test_no_size_is_measured_between_where_nothing_is_right():
    base = replace(BASE, metric=0.0)
    rungs = ladder(base, "correct", {0.1: DEAD | {"metric": 0.0}, 1.0: BROKEN | {"metric": 0.0}})
    assert size_between(rungs, base, "correct") is None
