"""Results of calls of which a part is still computed in the background while the next call is made."""

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator
from typing import Any

MOST_PENDING = 4
"""Results of a worker that are waited for beside its next call."""


class Pending(ABC):
    """A result that is still computed in the background."""

    @property
    @abstractmethod
    def ready(self) -> bool:
        """Whether `result` returns at once."""

    @abstractmethod
    def result(self) -> Any:
        """The result, once it is there."""


class PendingResults:
    """The results of a worker's calls, in order: `Pending` ones, and plain ones, which are there at once."""

    def __init__(self) -> None:
        self._results: deque[tuple[int, Any]] = deque()

    def add(self, number: int, result: Any) -> None:
        """Note what a call returned; number: of the call."""
        self._results.append((number, result))

    @property
    def oldest(self) -> int | None:
        """The number of the call whose result is the next to be collected; None if there is none."""
        return self._results[0][0] if self._results else None

    def collect(self, most: int = MOST_PENDING) -> Iterator[tuple[int, Any]]:
        """Numbers and results that are there, in order; waits until no more than `most` are pending.

        Raises what the oldest one ended with.
        """
        while self._results:
            number, result = self._results[0]
            if isinstance(result, Pending):
                if len(self._results) <= most and not result.ready:
                    return
                result = result.result()
            self._results.popleft()
            yield number, result

    def clear(self) -> None:
        """Forget all of them."""
        self._results.clear()
