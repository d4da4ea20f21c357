"""Which sizes of noise work: the rules, and why one is chosen.

A rung of the ladder is one relative size of noise. Going up, noise first changes no token (dead), then works,
then breaks the model. What tells these apart needs no unit and no number of a model's:

- dead: in a generation of the run not one member is to be expected that answers differently from the centre,
  or all members have the same reward. The ladder's members are few: of a run's, which are more, one may
  differ after some generations, and that may be enough;
- too large: the members are no longer variants of the model. They lose a third of its right answers, or of
  those that smaller noise leaves, which are counted over more answers than one model's; or their mean reward
  is below its own by more than their spread, so that most directions are bad ones, not half of them; or
  broken answers (empty, looping, the same to everything) are a quarter of all more than its own; or the KL of
  the median member is above MOST_KL: a few members may have found another style, most must not.

The working region is what lies below the first rung that is too large: a larger one that looks well again
does so by chance. Where nothing lies below it but dead rungs, sizes between it and the largest of these are
measured as well. The largest rung of the region comes first, as a step is as long as the noise: smaller
noise learns the same more slowly (SmolLM2 on sums: 0.03 takes 10 generations where 0.01 takes 50). Two thirds
are to be kept, as a population that forgets half of what the model knows mostly selects against forgetting,
while the share of a few members' right answers varies by a tenth to a fifth.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from es_ray.judge.table import formatted
from es_ray.judge.verdicts import MORE

LEAST_KEPT: Final = 2 / 3
"""Share of the base model's metric that members must keep."""
LEAST_RIGHT: Final = 2
"""Answers that the base model must have right, for their loss to be seen."""
MOST_KL: Final = 0.1
"""Nats per token: to the base model, ten tokens of a member's are then e times less likely than to itself."""

NOTHING_RIGHT: Final = "differs, nothing right"
"""The problem of rungs that would work, where no answer is right anywhere."""


@dataclass(frozen=True)
class Answers:
    """What the base model or the centre answers: mean reward, the watched metric, share of broken answers."""

    reward: float
    metric: float | None
    broken: float
    answers: int


@dataclass(frozen=True)
class Rung:
    """What members at one relative size of noise do.

    reward, reward_std: mean and population standard deviation over members; signal_to_noise: root mean square
    of the pairs' half differences over the standard deviation of their means, about 1 where mirrored
    members have nothing to do with each other, None where the means do not vary; changed, changed_members:
    shares of completions that differ from the centre's, and of members that have such a one, None where
    answers are sampled; metric: the watched one's mean; broken: share of answers, of which there are
    `answers`; kl: the median member's to the base model, nats per token, None where it was not measured.
    problem: why it does not work, None if it does; too_large: whether because the noise is.
    """

    relative: float
    members: int
    reward: float
    reward_std: float
    signal_to_noise: float | None
    changed: float | None
    changed_members: float | None
    metric: float | None
    broken: float
    kl: float | None
    answers: int
    problem: str | None = None
    too_large: bool = False


def judged(
    rungs: Sequence[Rung], base: Answers, centre: Answers, metric: str | None, population: int
) -> list[Rung]:
    """The rungs with `problem` and `too_large`.

    metric: the watched one's name, None without any; population: of the run to come.
    """
    found: list[Rung] = []
    for rung in rungs:
        problem, too_large = _judged(rung, base, centre, metric, population)
        best = max(
            (other for other in found if not other.too_large),
            key=lambda other: other.metric or 0.0,
            default=None,
        )
        if not too_large and metric is not None and best is not None and best.metric is not None:
            smaller = Answers(best.reward, best.metric, best.broken, best.answers)
            if not is_kept(rung.metric, smaller):
                problem, too_large = _lost(metric, rung, smaller, f"at {best.relative:g}"), True
        if problem is None and metric is not None and nothing_right(rungs, base):
            problem = NOTHING_RIGHT
        found.append(replace(rung, problem=problem, too_large=too_large))
    return found


def _judged(
    rung: Rung, base: Answers, centre: Answers, metric: str | None, population: int
) -> tuple[str | None, bool]:
    if rung.broken > base.broken + MORE:
        return f"broken: {rung.broken:.0%} of the answers (base model: {base.broken:.0%})", True
    if metric is not None and not is_kept(rung.metric, base):
        return _lost(metric, rung, base, "base model"), True
    if rung.kl is not None and rung.kl > MOST_KL:
        return f"another model: KL {rung.kl:.2g}", True
    if rung.changed_members is not None and rung.changed_members * population < 1:
        count = round(rung.changed_members * rung.members)
        verb = "answers" if count == 1 else "answer"
        return f"dead: {count} of {rung.members} members {verb} differently", False
    if rung.reward_std <= 1e-9 * max(abs(rung.reward), 1.0):
        return f"no spread: all {rung.members} members have the same reward", False
    if centre.reward - rung.reward > rung.reward_std:
        return f"worse: mean reward {formatted('reward', rung.reward)} falls by more than its spread", True
    return None, False


def _lost(metric: str, rung: Rung, before: Answers, whose: str) -> str:
    now, usual = (formatted(metric, value or 0.0) for value in (rung.metric, before.metric))
    return f"loses {metric}: {now} ({whose}: {usual})"


def is_kept(metric: float | None, base: Answers) -> bool:
    """Whether a value of the watched metric is not far below the base model's; where that is seen."""
    if metric is None or base.metric is None or base.metric * base.answers < LEAST_RIGHT:
        return True
    return metric >= LEAST_KEPT * base.metric


def working(rungs: Sequence[Rung]) -> list[Rung]:
    """The rungs that work, ascending; none above the first one that is too large."""
    found = []
    for rung in rungs:
        if rung.too_large:
            break
        if rung.problem is None:
            found.append(rung)
    return found


def size_between(rungs: Sequence[Rung], base: Answers, metric: str | None) -> float | None:
    """A size to measure as well: between the first rung that is too large and the one below it.

    Their geometric mean, to one digit, or to two where one is not between them. None where it would tell
    nothing: where a rung works, where none is too large or the smallest is, or where no answer is right
    anywhere.
    """
    if working(rungs) or (metric is not None and nothing_right(rungs, base)):
        return None
    below, large = _around_first_too_large(rungs)
    if below is None or large is None:
        return None
    mean = math.sqrt(below.relative * large.relative)
    sizes = (float(f"{mean:.{digits}g}") for digits in (1, 2))
    return next((size for size in sizes if below.relative < size < large.relative), None)


def _around_first_too_large(rungs: Sequence[Rung]) -> tuple[Rung | None, Rung | None]:
    """The rung below the first one that is too large, and that one; None where there is none."""
    at = next((number for number, rung in enumerate(rungs) if rung.too_large), None)
    if at is None:
        return rungs[-1], None
    return rungs[at - 1] if at > 0 else None, rungs[at]


def nothing_right(rungs: Sequence[Rung], base: Answers) -> bool:
    """Whether no answer is right anywhere: then rewards only tell wrong answers apart."""
    return base.metric == 0 and all(not rung.metric for rung in rungs)


def why_none(rungs: Sequence[Rung], base: Answers, metric: str | None) -> str:
    """Why no rung can be recommended."""
    if metric is not None and nothing_right(rungs, base):
        return (
            f"no answer is right ({metric}) at any size of noise, nor of the base model: rewards tell wrong "
            "answers apart, and no rung shows whether anything is kept; ask easier or more prompts"
        )
    below, large = _around_first_too_large(rungs)
    if large is None:
        return "no size of noise changes what is rewarded: " + str(rungs[-1].problem)
    if below is None:
        return f"the smallest noise already breaks the model ({large.problem})"
    return (
        f"noise shows no difference up to {below.relative:g} ({below.problem}), and is too large from "
        f"{large.relative:g} ({large.problem}); {below.members} members were tried: over more members or "
        f"generations a run may still learn at {below.relative:g}"
    )


def why(rung: Rung, rungs: Sequence[Rung], base: Answers, metric: str | None) -> str:
    """Why a rung is recommended, in a line."""
    said = []
    if rung.changed is not None:
        said.append(f"{rung.changed:.0%} of the completions change")
    said.append(f"rewards spread by {formatted('reward', rung.reward_std)}")
    if metric is not None and rung.metric is not None:
        usual = formatted(metric, base.metric or 0.0)
        said.append(f"{metric} {formatted(metric, rung.metric)} (base model: {usual})")
    above = next((other for other in rungs if other.relative > rung.relative and other.too_large), None)
    end = "" if above is None else f"; at {above.relative:g} too large ({above.problem})"
    return ", ".join(said) + end
