"""Schedules of the learning rate and of sigma: a factor for each generation.

A schedule counts generations from the start of the run and knows nothing of its end: a run that is extended
keeps its past.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": lambda progress: 0.0,
    "linear": lambda progress: progress,
    "cosine": lambda progress: (1 - math.cos(math.pi * progress)) / 2,
}
"""How far a value has gone from its start (0) to its end (1), by progress through the schedule, 0 to 1."""


@dataclass(frozen=True)
class Schedule:
    """From 1 to `to` over so many generations, then held: `to` is reached in generation `over`.

    kind: a name in SCHEDULES; cosine is half a period, slow at both ends (arXiv 1608.03983, equation 5,
    without restarts).
    """

    kind: str = "constant"
    to: float = 1.0
    over: int = 1

    def factor(self, generation: int) -> float:
        """What the start value is multiplied by in a generation; exactly 1 in generation 0."""
        gone = SCHEDULES[self.kind](min(generation / self.over, 1.0))
        return (1 - gone) + self.to * gone


CONSTANT = Schedule()
