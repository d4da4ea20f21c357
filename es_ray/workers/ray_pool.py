"""Ray actors with an engine each. Recovery is the driver's: Ray restarts and retries nothing.

Any worker may make any call, and again, with the same result. So a call whose worker is lost is handed to
another, and nothing else in the run notices.
"""

import logging
import time
import traceback
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError

from es_ray.config import Config
from es_ray.engines.base import EngineInfo, same_weights
from es_ray.errors import EvaluationError, RunError, UserError
from es_ray.evolution.strategy import Vector
from es_ray.workers.pool import Call, Pool
from es_ray.workers.ray_cluster import connect
from es_ray.workers.worker import Worker

log = logging.getLogger(__name__)

GRACE = 60.0
"""Seconds that the first generation waits for the other workers once one is ready."""
TOLD_EVERY = 30.0
CLOSE_SECONDS = 30.0
"""How long engines may take to give their memory back before their actors are killed."""


@dataclass(frozen=True)
class Failure:
    """An exception as plain text: classes of another process may not exist here."""

    kind: str
    text: str


class WorkerActor:
    """A Worker in an actor. Exceptions return as Failure, their tracebacks stay in the worker's log."""

    def start(self, config: Config) -> "EngineInfo | Failure":
        """Load the engine."""
        logging.basicConfig(format="%(asctime)s %(name)s: %(message)s")
        logging.getLogger("es_ray").setLevel(logging.INFO)  # into the worker's log, which Ray keeps
        try:
            self._worker = Worker(config)
        except Exception as error:
            return _failure(error)
        return self._worker.info

    def close(self) -> None:
        """Close the engine."""
        self._worker.close()

    def alive(self) -> bool:
        """Answer at once."""
        return True

    def call(self, method: str, theta: Vector, *arguments: Any) -> Any:
        """Call one of the worker's methods."""
        try:
            return getattr(self._worker, method)(theta, *arguments)
        except Exception as error:
            return _failure(error)


def _failure(error: Exception) -> Failure:
    traceback.print_exc()
    expected = {EvaluationError: "evaluation", UserError: "user", RunError: "run"}
    kind = next((kind for cls, kind in expected.items() if isinstance(error, cls)), "internal")
    return Failure(kind, str(error) if kind != "internal" else f"{type(error).__name__}: {error}")


def _last_line(error: Exception) -> str:
    """The last line of an exception that may carry a whole traceback of another process."""
    return next((line for line in reversed(str(error).splitlines()) if line.strip()), "").strip()[:200]


@dataclass
class _Member:
    """An actor of the pool, and the call that it has in hand."""

    actor: Any
    starting: Any
    ready: bool = False
    call: int | None = None


class RayPool(Pool):
    """N actors, replaced when they are lost."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._actors: list[_Member] = []
        self._info: EngineInfo | None = None
        self._started_ray = self._joined_ray = False
        self._failed_starts = 0
        self._shared: tuple[Vector, Any] | None = None

    @property
    def workers(self) -> int:
        """Actors whose engine is ready."""
        return sum(member.ready for member in self._actors)

    @property
    def where(self) -> str:
        """The number of actors and the cluster."""
        actors = f"{self.workers} Ray worker{'s' if self.workers != 1 else ''}"
        cluster = "this machine" if self._started_ray else self.config.cluster.address or "the Ray at hand"
        return f"{actors} on {cluster}"

    def start(self) -> EngineInfo:
        """Connect to Ray, start the actors, and wait for their engines."""
        wanted = self.config.cluster.workers
        threads = self.config.engine.threads
        self._started_ray, self._joined_ray = connect(
            self.config.cluster, cpus=threads * (wanted if wanted != "auto" else 1)
        )
        gpus = int(ray.cluster_resources().get("GPU", 0))
        engine = self.config.engine
        needs = engine.tensor_parallel if engine.kind == "sglang" else 0
        self._gpus_each = needs or (1 if gpus else 0)
        self._wanted = wanted if wanted != "auto" else max(gpus // max(self._gpus_each, 1), 1)
        if (gpus or needs) and gpus < self._wanted * self._gpus_each:
            each = f"{self._gpus_each} GPU{'s' if self._gpus_each > 1 else ''}"
            raise UserError(
                f"cluster.workers: {self._wanted} with {each} each are wanted, the cluster has {gpus} in all"
            )
        self._fill()
        deadline = time.monotonic() + self.config.cluster.wait_timeout
        first_ready, told = None, time.monotonic()
        while self.workers < self._wanted:
            self._fill()
            self._wait([], deadline)
            now = time.monotonic()
            if first_ready is None and self.workers:
                first_ready = now
            if first_ready is not None and now - first_ready > GRACE:
                log.warning("going on with %d of %d workers", self.workers, self._wanted)
                break
            if now - told > TOLD_EVERY:
                told = now
                self._tell_waiting()
        assert self._info is not None
        return self._info

    def close(self) -> None:
        """Have the idle engines close, kill the actors; stop Ray if it was started here."""
        closing = [
            member.actor.close.remote() for member in self._actors if member.ready and member.call is None
        ]
        if closing:
            ray.wait(closing, num_returns=len(closing), timeout=CLOSE_SECONDS)
        for member in self._actors:
            ray.kill(member.actor)
        self._actors.clear()
        if self._started_ray or self._joined_ray:  # one that was there before us stays
            ray.shutdown()
        self._started_ray = self._joined_ray = False

    def _map(self, theta: Vector, calls: Sequence[Call], on_done: Callable[[Call], None]) -> list[Any]:
        if self._shared is None or self._shared[0] is not theta:  # evaluate and tell get the same centre
            self._shared = theta, ray.put(theta)
        waiting = deque(range(len(calls)))
        running: dict[Any, _Member] = {}
        lost: Counter[int] = Counter()
        results: dict[int, Any] = {}
        idle_since, told = time.monotonic(), time.monotonic()
        while len(results) < len(calls):
            self._fill()
            for member in self._actors:
                if waiting and member.ready and member.call is None:
                    member.call = waiting.popleft()
                    call = calls[member.call]
                    running[member.actor.call.remote(call.method, self._shared[1], *call.arguments)] = member
            if self.workers:
                idle_since = time.monotonic()
            elif time.monotonic() - told > TOLD_EVERY:
                told = time.monotonic()
                self._tell_waiting()
            for done in self._wait(list(running), idle_since + self.config.cluster.wait_timeout):
                member = running.pop(done)
                assert member.call is not None
                number, member.call = member.call, None
                call = calls[number]
                try:
                    result = ray.get(done)
                except RayActorError:
                    self._drop(member)
                    self._drop_dead()
                    lost[number] += 1
                    self.redispatched += call.members
                    waiting.appendleft(number)
                    log.warning("a worker was lost with %s; they go to another", call.name)
                    if lost[number] >= self.config.cluster.max_attempts:
                        raise RunError(
                            f"{call.name}: lost with {lost[number]} workers, one after the other"
                        ) from None
                    continue
                except RayError as error:
                    raise RunError(f"{call.name}: Ray: {_last_line(error)}") from error
                if isinstance(result, Failure):
                    raise RunError(f"{call.name}: {result.text}")
                results[number] = result
                on_done(call)
        return [results[number] for number in range(len(calls))]

    def _fill(self) -> None:
        """Start as many actors as are missing."""
        while len(self._actors) < self._wanted:
            options = {
                "num_cpus": self.config.engine.threads,
                "num_gpus": self._gpus_each,
                "max_restarts": 0,
                "max_task_retries": 0,
            }
            actor = ray.remote(WorkerActor).options(**options).remote()
            self._actors.append(_Member(actor, actor.start.remote(self.config)))

    def _wait(self, running: list[Any], deadline: float) -> list[Any]:
        """The running calls that came to an end; new workers that are ready are taken in on the way."""
        starting = {member.starting: member for member in self._actors if not member.ready}
        if not self.workers and time.monotonic() > deadline:
            raise RunError(f"no worker became ready within {self.config.cluster.wait_timeout:.0f} s")
        ready, _ = ray.wait([*running, *starting], num_returns=1, timeout=1.0)
        ended = []
        for ref in ready:
            if ref in starting:
                self._take_in(starting[ref])
            else:
                ended.append(ref)
        return ended

    def _take_in(self, member: _Member) -> None:
        try:
            info = ray.get(member.starting)
        except RayError as error:
            info = Failure("internal", f"the process died or could not start ({_last_line(error)})")
        if isinstance(info, Failure):
            self._drop(member)
            if info.kind == "user" and self._info is None:
                raise UserError(info.text)
            if info.kind == "evaluation":  # the start-up probe: another worker would find the same
                raise RunError(info.text)
            self._failed_starts += 1
            if self._failed_starts >= self.config.cluster.max_attempts:
                raise RunError(f"{self._failed_starts} workers in a row failed to start: {info.text}")
            log.warning("a worker failed to start: %s", info.text)
            return
        self._failed_starts = 0
        if self._info is not None and not same_weights(info.mean_abs, self._info.mean_abs):
            raise RunError("two workers have different weights for the same model: mean|W| differs")
        self._info = self._info or info
        member.ready = True

    def _drop(self, member: _Member) -> None:
        self._actors.remove(member)
        ray.kill(member.actor)

    def _drop_dead(self) -> None:
        """Where one worker was lost others may be too: drop idle ones that do not answer at once."""
        idle = {m.actor.alive.remote(): m for m in self._actors if m.ready and m.call is None}
        answered, _ = ray.wait(list(idle), num_returns=len(idle), timeout=5.0) if idle else ([], [])
        for ref in answered:
            try:
                ray.get(ref)
            except RayError:
                self._drop(idle[ref])

    def _tell_waiting(self) -> None:
        free = ray.available_resources()
        log.warning(
            "waiting for workers: %d of %d ready; the cluster has %g CPU and %g GPU free",
            self.workers,
            self._wanted,
            free.get("CPU", 0),
            free.get("GPU", 0),
        )
