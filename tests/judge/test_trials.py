"""Which trial is followed."""

from es_ray.judge.trials import Trial, best, safest


def trial(relative: float, rate: float, reward: float, kept: bool = True) -> Trial:
    return Trial(relative, rate, 4, reward, None, start=0.0, spread=1.0, kept=kept)


def test_the_smallest_rate_that_learns_is_taken():
    trials = [trial(0.3, 0.5, 0.1), trial(0.3, 1.0, 2.0), trial(0.3, 2.0, 5.0)]
    assert best(trials) == trials[1]


def test_the_larger_noise_is_taken_if_anything_learns_there():
    trials = [trial(0.1, 2.0, 1.0), trial(0.03, 0.5, 9.0)]
    assert best(trials) == trials[0]
    assert best([trial(0.1, 2.0, 9.0, kept=False), trials[1]]) == trials[1]


def test_what_hardly_moves_or_forgets_is_not_followed():
    assert best([trial(0.1, 1.0, -1.0), trial(0.1, 2.0, 9.0, kept=False), trial(0.1, 0.5, 0.4)]) is None
    assert best([]) is None


def judged(relative: float, rate: float, gains: list[float]) -> Trial:
    """A trial on other prompts, each of which rose from 0."""
    reward = sum(gains) / len(gains)
    return Trial(relative, rate, 4, reward, None, start=0.0, spread=1.0, kept=True, gains=tuple(gains))


def test_on_other_prompts_the_smallest_rate_that_cannot_be_told_from_the_best_is_taken():
    slow, good, better = [0.2] * 48 + [0.3] * 16, [0.9] * 32 + [1.0] * 32, [0.8] * 31 + [1.1] * 33
    trials = [judged(0.03, 0.5, slow), judged(0.03, 1.0, good), judged(0.03, 2.0, better)]
    assert trials[2].reward > trials[1].reward
    assert best(trials) == trials[1]
    clearly_better = judged(0.03, 2.0, [value + 0.2 for value in good])
    assert best([*trials[:2], clearly_better]) == clearly_better


def test_on_other_prompts_a_gain_within_two_standard_errors_is_none():
    # a mean of 0.06 with a standard error of 0.13; below, 0.38 and 0.12
    gains = [1.0] * 34 + [-1.0] * 30
    assert best([judged(0.03, 1.0, gains)]) is None
    assert best([judged(0.03, 1.0, [1.0] * 44 + [-1.0] * 20)]) is not None


def test_where_nothing_learns_the_noise_is_that_whose_trials_forget_nothing():
    lost = [trial(0.3, 0.5, 0.1), trial(0.3, 1.0, -1.0, kept=False)]
    assert safest([*lost, trial(0.1, 0.5, 0.0), trial(0.1, 1.0, 0.0)]) == 0.1
    assert safest([trial(0.3, 1.0, 0.1), trial(0.1, 1.0, 0.0)]) == 0.3
    assert safest([*lost, trial(0.1, 1.0, -1.0, kept=False)]) == 0.1
