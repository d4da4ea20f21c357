"""Which trial is followed."""

from es_ray.judge.trials import Trial, best


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
