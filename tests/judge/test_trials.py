"""Which trial is followed."""

from es_ray.judge.trials import Trial, best


def trial(relative: float, rate: float, reward: float, kept: bool = True) -> Trial:
    return Trial(relative, rate, 4, reward, None, start=0.0, spread=1.0, kept=kept)


def test_the_usual_rate_stays_unless_it_is_beaten_clearly():
    near = [trial(0.1, 0.5, 2.1), trial(0.1, 1.0, 2.0), trial(0.1, 2.0, 2.4)]
    assert best(near) == near[1]
    far = [trial(0.1, 0.5, 2.1), trial(0.1, 1.0, 2.0), trial(0.1, 2.0, 3.0)]
    assert best(far) == far[2]


def test_the_larger_noise_stays_unless_it_is_beaten_clearly():
    trials = [trial(0.1, 1.0, 2.0), trial(0.03, 1.0, 2.4)]
    assert best(trials) == trials[0]
    assert best([trials[0], trial(0.03, 1.0, 2.6)]).relative == 0.03


def test_what_gets_worse_or_forgets_is_not_followed():
    assert best([trial(0.1, 1.0, -1.0), trial(0.1, 2.0, 9.0, kept=False), trial(0.1, 0.5, 0.0)]) is None
    assert best([]) is None
