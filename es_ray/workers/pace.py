"""How many calls a worker is given at once, by how long such calls took before."""

import math
from collections import deque
from collections.abc import Container

LEAST, MOST = 0.1, 0.5
"""Seconds of work that a worker gets at once: calls that are shorter are sent several at a time."""


class Pace:
    """The seconds that one call of each method took last."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}

    def note(self, method: str, seconds: float) -> None:
        """Remember how long a call took."""
        self._seconds[method] = seconds

    def next_chunk(
        self, waiting: "deque[int]", failed: Container[int], method: str, ready: int, fair: int
    ) -> tuple[int, ...]:
        """Take the next calls for one worker: several where they are so short that Ray's overhead counts.

        Towards the end they become fewer, so that all workers finish within LEAST seconds. waiting, failed:
        the calls' numbers; ready: how many workers there are; fair: a worker's share of all calls, the most
        it gets. A call that was lost is sent alone, to see if it is the cause.
        """
        pace = self._seconds.get(method, math.inf)
        count = max(math.ceil(len(waiting) / (2 * ready)), int(LEAST / pace))
        count = min(count, int(MOST / pace), fair)
        numbers = [waiting.popleft()]
        while waiting and len(numbers) < count and numbers[0] not in failed and waiting[0] not in failed:
            numbers.append(waiting.popleft())
        return tuple(numbers)
