"""Workers as Ray actors. Recovery is up to the driver: Ray restarts and retries nothing.

A call gives the same result with any worker, however often it is made. So a call whose worker is lost is made
by another one, without any effect on the run.
"""

import logging
import math
import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Sequence
from typing import Any

import ray

from es_ray.config import Config
from es_ray.doctor.nodes import check_nodes
from es_ray.engines.base import EngineInfo, same_weights
from es_ray.errors import RunError, UserError
from es_ray.ray_cluster import connect, disconnect
from es_ray.tasks.batches import Workload
from es_ray.workers.actor import Failure, WorkerActor
from es_ray.workers.actor_handle import CallResult, WorkerLost
from es_ray.workers.actor_manager import ActorManager
from es_ray.workers.pace import Pace
from es_ray.workers.placement import free_resources, placement
from es_ray.workers.pool import Call, Pool, idle_workers
from es_ray.workers.raylet_watch import RayletWatch, loss_message
from es_ray.workers.user_code import user_code

log = logging.getLogger(__name__)

GRACE = 60.0
"""Seconds that the first generation waits for the other workers once one is ready."""
REPORT_EVERY = 30.0
"""Seconds between two warnings about the workers that are waited for."""
OWNER_DIED, OWNER_SECONDS = "its owner has died", 5.0
"""What Ray says of actors whose driver it considers dead, and seconds within which the raylet then ends."""
POLL = 1.0
"""Seconds between two checks of the deadlines while no event arrives."""


class RayPool(Pool):
    """N actors; those that are lost are replaced."""

    actor_class: type[WorkerActor] = WorkerActor

    def __init__(self, config: Config, workload: Workload) -> None:
        super().__init__(config, workload)
        self._actors: ActorManager | None = None
        self._raylet: RayletWatch | None = None
        self._info: EngineInfo | None = None
        self._started_ray = self._joined_ray = False
        self._failed_starts = 0
        self._reported_ready = 0
        self._shared: list[tuple[Any, Any]] = []
        self._pace = Pace()
        self._reported = self._alive = time.monotonic()

    @property
    def workers(self) -> int:
        """Actors whose engine is ready."""
        return self._actors.ready if self._actors is not None else 0

    @property
    def where(self) -> str:
        """The number of actors and the cluster."""
        actors = f"{self.workers} Ray worker{'s' if self.workers != 1 else ''}"
        cluster = "this machine" if self._started_ray else self.config.cluster.address or "the connected Ray"
        return f"{actors} on {cluster}"

    def start(self) -> EngineInfo:
        """Connect to Ray, start the actors, and wait for their engines."""
        wanted, threads = self.config.cluster.workers, self.config.engine.threads
        assert threads != "auto"  # resolve_config has settled it
        code = user_code(self.config)  # as it is now, whatever happens to the files during the run
        address = self.config.cluster.address
        if not ray.is_initialized():
            here = address in (None, "local")
            log.info("starting Ray on this machine" if here else f"joining Ray at {address}")
        self._started_ray, self._joined_ray = connect(
            self.config.cluster, cpus=threads * (wanted if wanted != "auto" else 1)
        )
        wanted, gpus = placement(self.config, own=self._started_ray)
        if not self._started_ray:
            check_nodes(self.config)
        if (idle := idle_workers(self.config, wanted)) is not None:
            log.warning(idle)
        log.info("starting %d engine%s", wanted, "s" if wanted != 1 else "")
        actors = self._actors = ActorManager(
            self.config, self._workload, wanted, gpus, self.actor_class, code
        )
        self._raylet = RayletWatch(actors.wake, lambda: loss_message(self.config.output.dir))
        first_ready = None
        self._reported = self._alive = time.monotonic()
        while actors.ready < wanted:
            self._next(actors)
            if actors.ready and first_ready is None:
                first_ready = time.monotonic()
            if first_ready is not None and time.monotonic() - first_ready > GRACE:
                log.warning("starting with %d of %d workers; later ones join", actors.ready, wanted)
                break
        assert self._info is not None
        return self._info

    def replace(self, workers: Collection[str]) -> None:
        """Kill the actors of these names; the next calls wait until others have their places."""
        assert self._actors is not None
        self._actors.drop_named(workers)

    def close(self) -> None:
        """Have the idle engines close, kill the actors; stop Ray if it was started here."""
        actors, self._actors = self._actors, None
        raylet, self._raylet = self._raylet, None
        try:
            if raylet is not None:
                raylet.close()
            if actors is not None:
                actors.close(wait=raylet is None or not raylet.gone)
        finally:
            try:
                if self._started_ray or self._joined_ray:  # one that was connected before stays so
                    disconnect()
                self._started_ray = self._joined_ray = False
            finally:
                if raylet is not None:
                    raylet.release()

    def _check_raylet(self) -> None:
        """Raise RunError once the local raylet is gone: whatever needs Ray then would end this process."""
        if self._raylet is not None and self._raylet.gone:
            raise RunError(loss_message(self.config.output.dir), reported=True)

    def _map(
        self,
        shared: tuple[Any, ...],
        calls: Sequence[Call],
        on_done: Callable[[Call], None],
        on_rows: Callable[[int], None],
    ) -> list[Any]:
        assert self._actors is not None
        self._check_raylet()
        actors, refs = self._actors, self._put(shared)
        actors.on_rows = on_rows
        results: dict[int, Any] = {}
        failed: Counter[int] = Counter()
        waiting = deque(range(len(calls)))
        self._reported = self._alive = time.monotonic()
        while len(results) < len(calls):
            for actor in actors.idle:
                numbers: tuple[int, ...] = ()
                if waiting:
                    fair = math.ceil(len(calls) / actors.ready)
                    method = calls[waiting[0]].method
                    taken = self._pace.next_chunk(waiting, failed, method, actors.ready, fair)
                    numbers = tuple(n for n in taken if calls[n].method == method)
                    waiting.extendleft(reversed(taken[len(numbers) :]))
                if numbers or actor.owed:
                    each = [(number, calls[number].arguments) for number in numbers]
                    complete = not waiting or any(number in failed for number in numbers)
                    method = calls[(numbers or actor.owed)[0]].method
                    actors.submit(actor, method, each, complete, *refs)
            for ended in self._next(actors):
                if ended.made:
                    self._pace.note(calls[ended.made[0]].method, ended.seconds / len(ended.made))
                for number, result in ended.results.items():
                    results[number] = result
                    on_done(calls[number])
                if ended.failure is not None:
                    first = ended.undone[0]
                    failed[first] += 1
                    failed.update({number: 0 for number in ended.undone})  # each goes alone from now on
                    waiting.extendleft(reversed(ended.undone))
                    self._retry_or_raise(calls[first], ended.failure, failed[first])
                    self.redispatched += sum(calls[number].members for number in ended.undone)
        actors.on_rows = lambda rows: None
        return [results[number] for number in range(len(calls))]

    def _put(self, shared: tuple[Any, ...]) -> list[Any]:
        """References to the shared arguments; values that the previous map has sent are not sent again."""
        known = [(value, ref) for value, ref in self._shared]
        self._shared = [
            (value, next((ref for other, ref in known if other is value), None) or ray.put(value))
            for value in shared
        ]
        return [ref for _, ref in self._shared]

    def _retry_or_raise(self, call: Call, failure: Failure, times: int) -> None:
        """A call failed for the nth time: return if another worker may try, raise RunError if not."""
        if failure.kind == "score":  # it names its candidate
            raise RunError(failure.text) from failure.cause
        if failure.kind != "internal":  # it would fail with another worker too
            raise RunError(f"{call.about}: {failure.text}") from failure.cause
        how = "lost" if isinstance(failure, WorkerLost) else "failed"
        if times >= self.config.cluster.max_attempts:
            text = f"{call.about}: {how} with {times} workers, one after the other: {failure.text}"
            raise RunError(text) from failure.cause
        if OWNER_DIED in failure.text:
            self._await_loss_of_raylet()
        log.warning("a worker %s with %s, which another takes over: %s", how, call.about, failure.text)
        if self._actors is not None:
            self._actors.drop_dead()

    def _await_loss_of_raylet(self) -> None:
        """Ray considers this process dead, as it does shortly before the raylet ends."""
        deadline = time.monotonic() + OWNER_SECONDS
        while time.monotonic() < deadline:
            self._check_raylet()
            time.sleep(0.1)

    def _next(self, actors: ActorManager) -> list[CallResult]:
        """Calls that ended within POLL seconds; meanwhile missing workers are started, and new ones join."""
        self._check_raylet()
        actors.fill()
        ended = actors.wait(POLL)
        self._check_raylet()  # before another worker is said to take over
        for start in ended:
            if start.start is not None:
                self._on_started(start.start)
        if actors.ready != self._reported_ready:
            self._reported_ready = actors.ready
            self.on_workers(actors.ready)
        self._check_timeout(actors)
        return [calls for calls in ended if calls.start is None]

    def _on_started(self, info: EngineInfo | Failure) -> None:
        if isinstance(info, Failure):
            if info.kind == "user" and self._info is None:
                raise UserError(info.text) from info.cause
            if info.kind == "evaluation":  # the start-up probe: it would fail with another worker too
                raise RunError(info.text) from info.cause
            # a lost machine is no failed attempt: until Ray notices, it still places actors there
            self._failed_starts += not (isinstance(info, WorkerLost) and info.node)
            if self._failed_starts >= self.config.cluster.max_attempts:
                text = f"{self._failed_starts} workers in a row failed to start: {info.text}"
                raise RunError(text) from info.cause
            log.warning("a worker failed to start: %s", info.text)
            return
        self._failed_starts = 0
        if self._info is not None and not same_weights(info.mean_abs, self._info.mean_abs):
            raise RunError("two workers have different weights for the same model: mean|W| differs")
        if self._info is not None and info.dtype != self._info.dtype:
            both = " and ".join(sorted({info.dtype, self._info.dtype}))
            raise RunError(f"two workers compute in different dtypes, {both}: set model.dtype")
        self._info = self._info or info

    def _check_timeout(self, actors: ActorManager) -> None:
        """While there is no worker, report what is waited for; raise RunError after wait_timeout."""
        now, limit = time.monotonic(), self.config.cluster.wait_timeout
        if actors.ready:
            self._alive = now
        if now - self._alive > limit and not actors.starting:
            raise RunError(f"no worker for {limit:g} s (cluster.wait_timeout): {self._room(actors)}")
        needed = actors.wanted if self._info is None else 1
        if actors.ready < needed and now - self._reported > REPORT_EVERY:
            self._reported = now
            log.warning("waiting for workers: %s", self._room(actors))

    def _room(self, actors: ActorManager) -> str:
        return f"{actors.ready} of {actors.wanted} ready, {actors.starting} starting; {free_resources()}"
