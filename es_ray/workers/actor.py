"""What runs in Ray's processes: a worker in an actor, and the actor that the workers' heartbeats go to."""

import logging
import threading
import time
import traceback
from dataclasses import dataclass
from typing import Any

from es_ray.config import Config
from es_ray.engines.base import EngineInfo
from es_ray.errors import EvaluationError, RunError, UserError

BEATS = 4
"""Heartbeats within the time after which a silent worker is given up."""


class HeartbeatMonitor:
    """When each worker was last heard of. Light, and apart: it answers while every worker computes."""

    def __init__(self) -> None:
        self._heard: dict[int, float] = {}

    def beat(self, key: int) -> None:
        """The worker lives."""
        self._heard[key] = time.monotonic()

    def ages(self) -> dict[int, float]:
        """Seconds since each worker's last beat, for those that were heard at all."""
        now = time.monotonic()
        return {key: now - heard for key, heard in self._heard.items()}


@dataclass(frozen=True)
class Failure:
    """An exception as plain text: classes of another process may not exist here.

    kind: user, run, evaluation, or internal for what nobody foresaw.
    """

    kind: str
    text: str


class WorkerActor:
    """A Worker in an actor. Exceptions return as Failure, their tracebacks stay in the worker's log.

    Its methods run in the process's main thread, as SGLang needs it, one at a time; so what tells that it
    lives is a thread of its own.
    """

    def __init__(self, config: Config, heartbeats: Any, key: int) -> None:
        logging.basicConfig(format="%(asctime)s %(name)s: %(message)s")
        logging.getLogger("es_ray").setLevel(logging.INFO)  # into the worker's log, which Ray keeps
        self._config = config
        self._over = threading.Event()
        every = config.cluster.heartbeat / BEATS

        def beat() -> None:
            while not self._over.is_set():
                heartbeats.beat.remote(key)
                self._over.wait(every)

        threading.Thread(target=beat, name="es-ray-heartbeat", daemon=True).start()

    def start(self) -> "EngineInfo | Failure":
        """Load the engine."""
        try:
            self._worker = self.load(self._config)
        except Exception as error:
            return _failure(error)
        return self._worker.info

    def load(self, config: Config) -> Any:
        """The worker, with its engine loaded."""
        # here, not above: where torch is slow to load, the heartbeat has begun
        from es_ray.workers.worker import Worker

        return Worker(config)

    def close(self) -> None:
        """Close the engine."""
        self._worker.close()
        self._over.set()

    def alive(self) -> bool:
        """Answer at once."""
        return True

    def calls(self, method: str, each: list[list[Any]], *shared: Any) -> list[Any]:
        """Results of a worker's method for each list of arguments, up to the first that is a Failure.

        shared: the arguments before those; not in a list, so that Ray puts objects for references.
        """
        results: list[Any] = []
        for arguments in each:
            try:
                results.append(getattr(self._worker, method)(*shared, *arguments))
            except Exception as error:
                return [*results, _failure(error)]
        return results


def _failure(error: Exception) -> Failure:
    traceback.print_exc()
    expected = {EvaluationError: "evaluation", UserError: "user", RunError: "run"}
    kind = next((kind for cls, kind in expected.items() if isinstance(error, cls)), "internal")
    return Failure(kind, str(error) if kind != "internal" else f"{type(error).__name__}: {error}")
