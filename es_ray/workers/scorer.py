"""Scores rows while others are generated: in a thread, an event loop, or processes."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

from es_ray.config.task import TaskConfig
from es_ray.errors import EvaluationError
from es_ray.tasks.base import Example, Score, Task
from es_ray.workers.score_jobs import Background, Job, Ledger, Overdue, ProcessDied, Row
from es_ray.workers.score_processes import ProcessBackground
from es_ray.workers.score_threads import LoopBackground, ThreadBackground
from es_ray.workers.scoring import (
    definition,
    failed,
    is_coroutine_function,
    overrides_score_batch,
    perform,
    perform_async,
    place,
    raised,
)

POLL_SECONDS = 0.2
"""How often the waiting thread looks whether a score takes too long."""


class Scorer:
    """Scores rows as they are completed; the scores do not depend on the order in which they end.

    Coroutines (`async def`) wait many at once in an event loop; with `task.processes` scores are computed in
    so many processes, which load the task by its name; others one after the other, in a thread. A task that
    overrides `score_batch` gets the rows of the engine's batch at `flush`. A score that takes longer than
    `task.timeout` is an error, unless a debugger holds it. For use from one thread; after an error, and after
    Ctrl-C in one of its methods, nothing of it runs, and it may be used again.

    Rows are scored in batches: from `begin` to `results`, or to `pending`, which leaves the scores for later.
    """

    def __init__(self, task: Task, config: TaskConfig) -> None:
        self._task, self._config = task, config
        self._batched = overrides_score_batch(task)
        self._background: Background | None = None
        self._pending: list[Ledger] = []
        self._jobs = 0
        self._new_batch()

    def begin(self) -> None:
        """Start a new batch of rows; what an earlier one has left unscored is dropped."""
        if self._ledger.open:
            self.close()
        self._new_batch()

    def submit(self, key: int, who: str, example: Example, completion: str) -> None:
        """Have a completion scored; returns at once. Raises EvaluationError if an earlier score has failed.

        key: its number in `results`; who: the candidate, for messages.
        """
        with self._closed_on_error():
            self._check()
            self._ledger.expect(key)
            row = Row(key, who, example, completion)
            if self._batched:
                self._waiting.append(row)
            else:
                self._start((row,))

    def flush(self) -> None:
        """The engine's batch is complete: a task with `score_batch` scores it now, beside the next one."""
        with self._closed_on_error():
            self._check()
            if self._waiting:
                rows = tuple(self._waiting)
                self._waiting.clear()
                self._start(rows)

    @property
    def scored(self) -> int:
        """How many rows are scored, of this batch and of those that are pending."""
        return sum(ledger.scored for ledger in (*self._pending, self._ledger))

    def results(self, on_scored: Callable[[int], None] = lambda scored: None) -> dict[int, Score]:
        """The scores of all rows since `begin` by their keys, in the order of submission; waits for them.

        on_scored: called with how many there are, a few times a second. Raises EvaluationError: of the
        failures known by then, the one that was submitted first.
        """
        return self.pending().results(on_scored)

    def pending(self) -> "PendingScores":
        """The scores of all rows since `begin`, to be collected later, beside the next batch."""
        self.flush()
        self._pending.append(self._ledger)
        self._new_batch()
        return PendingScores(self, self._pending[-1])

    def collect(self, ledger: Ledger, on_scored: Callable[[int], None]) -> dict[int, Score]:
        """The scores of a pending batch, once all are there; see `results`."""
        with self._closed_on_error():
            if ledger not in self._pending:
                raise RuntimeError("these scores were dropped")
            while ledger.open:
                ledger.wait(POLL_SECONDS)
                on_scored(self.scored)
                self._check()
            self._pending.remove(ledger)
        return ledger.scores

    def close(self) -> None:
        """End all threads and processes; what is still unscored is dropped."""
        background, self._background = self._background, None
        self._pending.clear()
        self._new_batch()
        if background is not None:
            background.stop()

    def _new_batch(self) -> None:
        self._ledger = Ledger()
        self._waiting: list[Row] = []

    def _start(self, rows: tuple[Row, ...]) -> None:
        if self._background is None:
            self._background = self._new_background()
        self._jobs += 1
        self._background.submit(Job(self._jobs, rows, self._batched, self._ledger))

    def _new_background(self) -> Background:
        config, task = self._config, self._task
        if is_coroutine_function(task.score_batch if self._batched else task.score):
            return LoopBackground(partial(perform_async, task), config.timeout)
        if config.processes:
            return ProcessBackground(config.name, config.options, config.processes, config.timeout)
        return ThreadBackground(partial(perform, task), config.timeout)

    def _check(self) -> None:
        """Raise EvaluationError for the first known failure."""
        found = [ledger.first_failure() for ledger in (*self._pending, self._ledger)]
        known = [failure for failure in found if failure is not None]
        failure = min(known, key=lambda each: each[0].number) if known else None
        if failure is None and self._background is not None:
            failure = self._background.overdue()
        if failure is not None:
            raise self._in_words(*failure)

    def _in_words(self, job: Job, error: BaseException) -> EvaluationError:
        first, rows = job.rows[0], len(job.rows) if job.batch else None
        if isinstance(error, EvaluationError):
            return error
        if isinstance(error, Overdue):
            where = place(self._task, error.frames, job.batch)
            said = f"took longer than {self._config.timeout:g} s (task.timeout)"
            return failed(said, where, first.who, first.example, rows)
        if isinstance(error, ProcessDied):
            return failed(str(error), definition(self._task, job.batch), first.who, first.example, rows)
        found = raised(self._task, error, first.who, first.example, rows)
        found.__cause__ = error
        return found

    @contextmanager
    def _closed_on_error(self) -> Iterator[None]:
        try:
            yield
        except BaseException:  # Ctrl-C too
            self.close()
            raise


@dataclass(frozen=True)
class PendingScores:
    """A scorer's scores of a batch, while the next one is made."""

    scorer: Scorer
    ledger: Ledger

    @property
    def ready(self) -> bool:
        """Whether all are there, or one has failed."""
        return not self.ledger.open or self.ledger.first_failure() is not None

    def results(self, on_scored: Callable[[int], None] = lambda scored: None) -> dict[int, Score]:
        """As `Scorer.results`."""
        return self.scorer.collect(self.ledger, on_scored)
