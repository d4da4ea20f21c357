"""When a centre gets a verdict: the rules, each by comparison with the base model or the run's own past.

A verdict is a text whose first word says which rule: `correct` (or another metric), `kl`, `empty`, `loops`,
`same` or `cut`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from es_ray.evaluation.degenerate import AnswerCounts
from es_ray.judge.table import formatted

MORE: Final = 0.25
"""By how much the share of broken answers must be above the base model's."""
MORE_SAME: Final = 0.4
"""Likewise for one wrong answer to several prompts: a few equal ones are common where answers are short."""
FEWEST: Final = 2
"""Broken answers, or right ones lost, unless it is all of them: one of two says nothing of other prompts."""
FEWEST_SAME: Final = 4
ERRORS: Final = 2.0
"""Standard errors that a drop must exceed besides, where the two values are of different prompts."""
MOSTLY: Final = 0.5
"""By how much the share of broken answers of all members must be above the base model's to be called junk."""
LEAST_LOST: Final = 0.1
"""Of a metric, for members to be called junk that have lost half of it."""
BASE: Final = "the base model's"


@dataclass(frozen=True)
class Estimate:
    """A metric's mean; prompts: over how many that were drawn, None where always the same are asked."""

    value: float
    prompts: int | None = None

    @property
    def variance(self) -> float:
        """Of the mean, for a share of prompts; 0 for the same prompts, and for what is no share."""
        if self.prompts is None or not 0 <= self.value <= 1:
            return 0.0
        # as if one more were right and one more wrong: 0 of 8 right does not mean never
        share = (self.value * self.prompts + 1) / (self.prompts + 2)
        return share * (1 - share) / self.prompts


def dropped(
    name: str, now: Estimate, base: Estimate | None, past: Sequence[Estimate], most: float, prompts: int
) -> str | None:
    """The verdict on a metric that is more than `most` below the base model's, or its own best.

    prompts: how many are asked; of a share at least FEWEST of them must be lost.
    """
    found = []
    for whose, other in [(BASE, base), *(("its own best,", one) for one in past)]:
        if other is not None:
            allowed = most + ERRORS * math.sqrt(now.variance + other.variance)
            lost = other.value - now.value
            few = 0 <= other.value <= 1 and lost * prompts < min(FEWEST, prompts) - 1e-6
            if lost > allowed + 1e-9 and not few:  # 0.7 - 0.55 > 0.15 in binary
                found.append((whose, other.value))
    if not found:
        return None
    whose, value = found[0] if found[0][0] == BASE else max(found, key=lambda one: one[1])
    shown, before = formatted(name, now.value), formatted(name, value)
    return f"{name}: {shown}, more than {most:g} below {whose} {before}"


def too_far(kl: float, most: float) -> str | None:
    """The verdict on a KL to the base model above `most`."""
    return f"kl: {kl:.3g} to the base model, above {most:g}" if kl > most else None


def broken(now: AnswerCounts, base: AnswerCounts) -> list[str]:
    """The verdicts on answers that are empty, loop, are the same, or are cut, more often than the base's."""
    rules = (
        ("empty", now.empty, base.empty, MORE, FEWEST, "of the answers"),
        ("loops", now.looping, base.looping, MORE, FEWEST, "of the answers repeat themselves"),
        ("same", now.same, base.same, MORE_SAME, FEWEST_SAME, "of the prompts get the same wrong answer"),
        ("cut", now.truncated, base.truncated, MORE, FEWEST, "of the answers end at task.max_new_tokens"),
    )  # fmt: skip
    found = []
    for word, count, usual, more, fewest, what in rules:
        share, usual_share = count / now.answers, usual / base.answers
        if share > usual_share + more and count >= min(fewest, now.answers):
            found.append(f"{word}: {share:.0%} {what} (base model: {usual_share:.0%})")
    return found


def junk(
    members: AnswerCounts,
    base: AnswerCounts,
    metric: str | None,
    values: tuple[float, float] | None,
) -> list[str]:
    """Why most members of a generation count as broken; empty if they do not.

    metric, values: the one that is watched, and its mean over the members and the base model's. Lost is at
    least half of it, and at least 0.1.
    """
    found = []
    if metric is not None and values is not None:
        mean, before = values
        if mean <= before / 2 and before - mean >= LEAST_LOST:
            found.append(f"{metric} {formatted(metric, mean)} (base model: {formatted(metric, before)})")
    for name in ("empty", "looping", "same"):
        share, usual = (getattr(counts, name) / counts.answers for counts in (members, base))
        if share > usual + MOSTLY:
            what = {"same": "the same wrong answer to everything"}.get(name, name)
            found.append(f"{share:.0%} of the answers {what} (base model: {usual:.0%})")
    return found
