"""One worker in this process: no Ray, so a breakpoint anywhere in it works."""

from collections.abc import Callable, Sequence
from typing import Any

from es_ray.engines.base import EngineInfo
from es_ray.errors import EvaluationError, RunError, ScoreError, UserError
from es_ray.workers.pool import Call, Pool
from es_ray.workers.worker import Worker


class LocalPool(Pool):
    """Calls run one after the other, here."""

    _worker: Worker | None = None

    @property
    def workers(self) -> int:
        """Always one."""
        return 1

    @property
    def where(self) -> str:
        """In the driver's process."""
        return "in this process"

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
        results = []
        for call in calls:
            try:
                results.append(getattr(self._worker, call.method)(*shared, *call.arguments))
            except ScoreError as error:
                raise RunError(str(error)) from error
            except (EvaluationError, UserError) as error:  # bad input, but a run has begun
                raise RunError(f"{call.about}: {error}") from error
            on_done(call)
        return results
