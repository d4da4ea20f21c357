"""Scores to be computed beside generation: what is asked, what came of it, and who computes it."""

import threading
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from traceback import FrameSummary
from typing import NamedTuple

from es_ray.tasks.base import Example, Score


class Row(NamedTuple):
    """A completion to score; key: the caller's name for it; who: the candidate, for messages."""

    key: int
    who: str
    example: Example
    completion: str


class Overdue(Exception):  # noqa: N818 - becomes an EvaluationError once it has words
    """A score that takes longer than allowed; frames: where it is, the outermost first."""

    def __init__(self, frames: Sequence[FrameSummary]) -> None:
        super().__init__()
        self.frames = frames


class ProcessDied(Exception):  # noqa: N818 - becomes an EvaluationError once it has words
    """A process that ended while it scored; its text says how."""


Outcome = list[Score] | BaseException


class Ledger:
    """The outcomes of a batch of rows; filled from other threads, waited for in the main one."""

    def __init__(self) -> None:
        self._keys: list[int] = []
        self._scores: dict[int, Score] = {}
        self._failures: dict[Job, BaseException] = {}
        self._changed = threading.Condition()

    def expect(self, key: int) -> None:
        """A row with this key will be scored."""
        self._keys.append(key)

    @property
    def open(self) -> bool:
        """Whether rows are still to be scored."""
        return len(self._scores) < len(self._keys)

    @property
    def scored(self) -> int:
        """How many rows are scored."""
        return len(self._scores)

    @property
    def scores(self) -> dict[int, Score]:
        """The scores by the rows' keys, in the order of submission, once all are there."""
        return {key: self._scores[key] for key in self._keys}

    def record(self, job: "Job", outcome: Outcome) -> None:
        """What came of a job: its rows' scores, or the exception that it ended with."""
        with self._changed:
            if isinstance(outcome, BaseException):
                self._failures[job] = outcome
            else:
                self._scores.update(zip((row.key for row in job.rows), outcome, strict=True))
            if self._failures or not self.open:
                self._changed.notify_all()

    def first_failure(self) -> "tuple[Job, BaseException] | None":
        """Of the failures so far the one that was submitted first."""
        if not self._failures:
            return None
        with self._changed:
            return min(self._failures.items(), key=lambda item: item[0].number)

    def wait(self, seconds: float) -> None:
        """Until every row is scored or one has failed, but no longer than that."""
        with self._changed:
            self._changed.wait_for(lambda: self._failures or not self.open, seconds)


@dataclass(frozen=True, eq=False)
class Job:
    """Rows that are scored in one call; number: in the order of submission.

    batch: whether the call is one of `score_batch`; of `score` otherwise, and there is one row.
    """

    number: int
    rows: tuple[Row, ...]
    batch: bool
    ledger: Ledger


class Background(ABC):
    """Computes jobs beside the main thread, and records what comes of them in their ledgers."""

    @abstractmethod
    def submit(self, job: Job) -> None:
        """Compute it; returns at once."""

    def overdue(self) -> "tuple[Job, Overdue] | None":
        """A job that takes longer than allowed, if it is the waiting thread that has to notice."""
        return None

    @abstractmethod
    def stop(self) -> None:
        """End what runs, without waiting for it; nothing can be submitted any more."""
