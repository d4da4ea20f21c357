"""What runs in Ray's processes: a worker in an actor, and the actor that receives heartbeats."""

import logging
import threading
import time
import traceback
import uuid
from dataclasses import dataclass
from typing import Any

from es_ray.config import Config
from es_ray.engines.base import EngineInfo
from es_ray.errors import EvaluationError, RemoteTraceback, RunError, ScoreError, UserError
from es_ray.garbage import collector_rests, work_begins
from es_ray.imports.shipping import Code, UnpackedCode
from es_ray.tasks.batches import Workload
from es_ray.workers.heartbeats import Beat, Report
from es_ray.workers.pending import PendingResults

BEATS = 4
"""Heartbeats within cluster.heartbeat, after which a silent worker is dropped."""


class HeartbeatMonitor:
    """Receives the workers' heartbeats. A separate actor, so that it answers while all workers compute."""

    def __init__(self) -> None:
        self._id = uuid.uuid4().hex
        self._beats: dict[int, tuple[float, int, int]] = {}

    def beat(self, key: int, batch: int, rows: int) -> None:
        """Note that a worker is alive: on its nth batch of calls, with so many completions made in it."""
        self._beats[key] = (time.monotonic(), batch, rows)

    def report(self) -> Report:
        """The last beat of each worker that has sent any."""
        now = time.monotonic()
        beats = {key: Beat(now - at, batch, rows) for key, (at, batch, rows) in self._beats.items()}
        return Report(self._id, beats)


@dataclass(frozen=True)
class Failure:
    """An exception as plain text: classes of another process may not exist here.

    kind: user, run, score, evaluation, or internal for any other exception; trace: its traceback there, if
    any.
    """

    kind: str
    text: str
    trace: str = ""

    @property
    def cause(self) -> RemoteTraceback | None:
        """The traceback, to raise an error from."""
        return RemoteTraceback(self.trace) if self.trace else None


class WorkerActor:
    """A Worker in an actor. Exceptions are returned as Failure, and logged in the worker's log.

    Its methods run in the process's main thread, as SGLang requires, one at a time; heartbeats are sent from
    a second thread. workload: what the engine is to prepare for; code: the user's. This machine may have
    neither the data's files nor the code's.
    """

    def __init__(
        self, config: Config, workload: Workload, heartbeats: Any, key: int, code: Code | None = None
    ) -> None:
        logging.basicConfig(format="%(asctime)s %(name)s: %(message)s")
        logging.getLogger("es_ray").setLevel(logging.INFO)  # into the worker's log, which Ray keeps
        self._config, self._workload = config, workload
        self._code = code
        self._unpacked: UnpackedCode | None = None
        self._pending = PendingResults()
        self._over = threading.Event()
        self._batch = 0
        self._progress = (0, 0)  # the batch of calls and its completions: one object, so read together
        every = config.cluster.heartbeat / BEATS

        def beat() -> None:
            while not self._over.is_set():
                heartbeats.beat.remote(key, *self._progress)
                self._over.wait(every)

        threading.Thread(target=beat, name="es-ray-heartbeat", daemon=True).start()

    def start(self) -> "EngineInfo | Failure":
        """Load the engine."""
        try:
            if self._code is not None:
                self._unpacked = UnpackedCode(self._code)
            with collector_rests():
                self._worker = self.load(self._config, self._workload)
                work_begins()
        except Exception as error:
            return self._failure(error)
        return self._worker.info

    def load(self, config: Config, workload: Workload) -> Any:
        """The worker, with its engine loaded."""
        # imported here: torch may be slow to load, and by now heartbeats are sent
        from es_ray.workers.worker import Worker

        return Worker(config, workload)

    def close(self) -> None:
        """Close the engine."""
        self._worker.close()
        if self._unpacked is not None:
            self._unpacked.remove()
        self._over.set()

    def name(self) -> str:
        """The name of the worker, once it is loaded."""
        found: str = self._worker.name
        return found

    def alive(self) -> bool:
        """Answer at once."""
        return True

    def calls(
        self, method: str, each: list[tuple[int, list[Any]]], complete: bool, *shared: Any
    ) -> list[tuple[int, Any]]:
        """Results that are there after calls of a worker's method, by their numbers, oldest first.

        each: number and arguments of each call; complete: whether to wait for every result: otherwise some
        may still be pending, which a later call returns. A Failure is the last one, and all that are
        pending are then dropped. shared: the arguments before those of each call; not in a list, so that
        Ray puts objects for references.
        """
        results: list[tuple[int, Any]] = []
        self._batch += 1
        self._worker.on_rows = self._count
        self._count(0)
        made = -1 if self._pending.oldest is None else self._pending.oldest
        try:
            for made, arguments in each:
                self._pending.add(made, getattr(self._worker, method)(*shared, *arguments))
                results.extend(self._pending.collect())
            if complete:
                results.extend(self._pending.collect(0))
        except Exception as error:
            self._pending.clear()
            return [*results, (made, self._failure(error))]
        return results

    def _count(self, rows: int) -> None:
        self._progress = (self._batch, rows)

    def _failure(self, error: Exception) -> Failure:
        traceback.print_exc()
        expected = {ScoreError: "score", EvaluationError: "evaluation", UserError: "user", RunError: "run"}
        kind = next((kind for cls, kind in expected.items() if isinstance(error, cls)), "internal")
        text = str(error) if kind != "internal" else f"{type(error).__name__}: {error}"
        trace = traceback.format_exc()
        if self._unpacked is not None:
            text, trace = self._unpacked.here_to_there(text), self._unpacked.here_to_there(trace)
        return Failure(kind, text, trace)
