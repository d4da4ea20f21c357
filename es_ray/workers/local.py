"""One worker in this process: no Ray, so a breakpoint anywhere in it works."""

from collections.abc import Callable, Sequence
from typing import Any

from es_ray.engines.base import EngineInfo
from es_ray.errors import EvaluationError, RunError, ScoreError, UserError
from es_ray.workers.pending import MOST_PENDING, PendingResults
from es_ray.workers.pool import Call, Pool
from es_ray.workers.worker import Worker


class LocalPool(Pool):
    """Calls run one after the other, here; scores beside the next call."""

    _worker: Worker | None = None

    @property
    def workers(self) -> int:
        """Always one."""
        return 1

    @property
    def where(self) -> str:
        """In the driver's process, and in how many the engine generates."""
        beside = 0 if self._worker is None else self._worker.beside
        return f"in this process, batches in {beside + 1}" if beside else "in this process"

    def start(self) -> EngineInfo:
        """Load the engine."""
        try:
            self._worker = Worker(self.config, self._workload)
        except EvaluationError as error:  # a start-up check of the engine's
            raise RunError(str(error)) from error
        return self._worker.info

    def close(self) -> None:
        """Close the engine."""
        if self._worker is not None:
            self._worker.close()
            self._worker = None

    def _map(
        self,
        shared: tuple[Any, ...],
        calls: Sequence[Call],
        on_done: Callable[[Call], None],
        on_rows: Callable[[int], None],
    ) -> list[Any]:
        assert self._worker is not None
        self._worker.on_rows = on_rows
        results: list[Any] = []
        pending = PendingResults()

        def collect(most: int) -> None:
            for number, result in pending.collect(most):
                results.append(result)
                on_done(calls[number])

        for number, call in enumerate(calls):
            last = number == len(calls) - 1
            try:
                self._begin(shared, calls, number)
                pending.add(number, getattr(self._worker, call.method)(*shared, *call.arguments))
                collect(0 if last else MOST_PENDING)
            except ScoreError as error:  # it names its candidate
                raise RunError(str(error)) from error
            except (EvaluationError, UserError) as error:  # bad input, but a run has begun
                raise RunError(f"{call.about}: {error}") from error
        return results

    def _begin(self, shared: tuple[Any, ...], calls: Sequence[Call], number: int) -> None:
        """Have the engine begin with calls that follow the number-th, beside it.

        One in so many is left for this process, which would else only wait for the others.
        """
        assert self._worker is not None
        beside = self._worker.beside
        for later in range(number + 1, min(number + 1 + beside, len(calls))):
            call = calls[later]
            if later % (beside + 1) and call.method == calls[number].method == "evaluate":
                try:
                    self._worker.begin(*shared, *call.arguments)
                except (EvaluationError, UserError) as error:
                    raise RunError(f"{call.about}: {error}") from error
