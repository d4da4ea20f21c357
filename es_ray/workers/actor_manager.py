"""The actors of a pool: started where there is room, monitored, dropped when they fail or go silent."""

import itertools
import logging
import queue
import time
from collections.abc import Callable, Collection
from concurrent.futures import Future
from concurrent.futures import wait as wait_for
from dataclasses import replace
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from es_ray.config import Config
from es_ray.imports.shipping import Code
from es_ray.tasks.batches import Workload
from es_ray.workers.actor import BEATS, Failure, HeartbeatMonitor, WorkerActor
from es_ray.workers.actor_handle import ActorHandle, CallResult, WorkerLost
from es_ray.workers.heartbeats import Heartbeats

log = logging.getLogger(__name__)

CLOSE_SECONDS = 30.0
"""How long engines may take to free their memory before their actors are killed."""
PING_SECONDS = 5.0


class ActorManager:
    """N actors. Ray neither restarts them nor retries their calls: `wait` returns whatever ended, once.

    It waits for futures, as `ray.wait` scans every reference at each call. on_rows: called with the
    completions made so far by all calls under way, when a report of the heartbeats comes in. code: the
    user's, also for actors that replace lost ones.
    """

    def __init__(
        self,
        config: Config,
        workload: Workload,
        wanted: int,
        gpus: int,
        actor_class: type[WorkerActor],
        code: Code | None = None,
    ) -> None:
        self.wanted = wanted
        self._actor_class = actor_class
        self._config, self._workload = config, workload
        self._code = [] if code is None else [ray.put(code)]
        self._limits = config.cluster
        spread = {"spread": "SPREAD", "pack": "DEFAULT"}[config.cluster.placement]
        self._options = {
            "num_cpus": config.engine.threads,
            "num_gpus": gpus,
            "max_restarts": 0,
            "max_task_retries": 0,
            "scheduling_strategy": spread,
        }
        self._actors: dict[int, ActorHandle] = {}
        self._keys = itertools.count()
        self._events: queue.SimpleQueue[Callable[[], CallResult | None]] = queue.SimpleQueue()
        self.on_rows: Callable[[int], None] = lambda rows: None
        self._seen = Heartbeats()
        self._asked = 0.0
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
        # this one may restart: all that it holds comes again with the next heartbeats
        options = {"num_cpus": 0, "max_restarts": -1, "scheduling_strategy": here}
        self._heartbeats = ray.remote(HeartbeatMonitor).options(**options).remote()

    @property
    def ready(self) -> int:
        """Actors whose engine is ready."""
        return sum(actor.info is not None for actor in self._actors.values())

    @property
    def idle(self) -> list[ActorHandle]:
        """Actors that can take a call, the oldest first."""
        return [actor for actor in self._actors.values() if actor.idle]

    @property
    def starting(self) -> int:
        """Actors whose process runs but whose engine is not ready yet."""
        return sum(actor.info is None and actor.since is not None for actor in self._actors.values())

    def fill(self) -> None:
        """Ask for as many actors as are missing; Ray starts each as soon as there is room."""
        while len(self._actors) < self.wanted:
            key = next(self._keys)
            made = (
                ray.remote(self._actor_class)
                .options(**self._options)
                .remote(self._config, self._workload, self._heartbeats, key, *self._code)
            )
            actor = self._actors[key] = ActorHandle(key, made)
            self._watch(actor, made.start.remote())

    def submit(
        self,
        actor: ActorHandle,
        method: str,
        each: list[tuple[int, list[Any]]],
        complete: bool,
        *shared: Any,
    ) -> None:
        """Have an idle actor make calls, or none and wait for what is pending; see WorkerActor.calls."""
        numbers = tuple(number for number, _ in each)
        actor.owed, actor.making, actor.since = (*actor.owed, *numbers), numbers, time.monotonic()
        actor.batch += 1
        self._watch(actor, actor.handle.calls.remote(method, each, complete, *shared))

    def wait(self, seconds: float) -> list[CallResult]:
        """Starts and calls that have ended, as soon as there is one; empty after `seconds` without any."""
        self._request_heartbeats()
        ended: list[CallResult] = []
        try:
            ended += self._handle(self._events.get(timeout=seconds))
            while True:
                ended += self._handle(self._events.get_nowait())
        except queue.Empty:
            pass
        return ended + self._overdue()

    def wake(self) -> None:
        """Have `wait` return at once; may be called from any thread."""
        self._events.put(lambda: None)

    def drop(self, actor: ActorHandle) -> None:
        """Kill an actor. Results that still arrive from it are ignored."""
        if self._actors.pop(actor.key, None) is not None:
            self._seen.forget(actor.key)
            ray.kill(actor.handle)

    def drop_dead(self) -> None:
        """Drop idle actors that do not answer at once: they may have been lost with another one."""
        pings = {actor.handle.alive.remote().future(): actor for actor in self.idle}
        wait_for(pings, timeout=PING_SECONDS)
        for ping, actor in pings.items():
            if not ping.done() or ping.exception() is not None:
                self.drop(actor)

    def drop_named(self, names: Collection[str]) -> None:
        """Drop idle actors whose workers have these names, and those that do not say theirs at once."""
        asked = {actor.handle.name.remote().future(): actor for actor in self.idle}
        wait_for(asked, timeout=PING_SECONDS)
        for answer, actor in asked.items():
            if not answer.done() or answer.exception() is not None or answer.result() in names:
                self.drop(actor)

    def close(self, wait: bool = True) -> None:
        """Kill all actors; wait: for the idle ones to close their engines first."""
        try:
            if wait:
                closing = [actor.handle.close.remote().future() for actor in self.idle]
                wait_for(closing, timeout=CLOSE_SECONDS)
        finally:
            for actor in list(self._actors.values()):
                self.drop(actor)
            ray.kill(self._heartbeats)

    def _watch(self, actor: ActorHandle, ref: Any) -> None:
        def done(future: "Future[Any]") -> None:
            self._events.put(lambda: self._on_done(actor, future))

        ref.future().add_done_callback(done)

    def _handle(self, event: Callable[[], CallResult | None]) -> list[CallResult]:
        ended = event()
        return [] if ended is None else [ended]

    def _on_done(self, actor: ActorHandle, future: "Future[Any]") -> CallResult | None:
        if actor.key not in self._actors:
            return None
        error = future.exception()
        if error is not None and not isinstance(error, RayError):
            raise error
        result: Any = future.result() if error is None else WorkerLost.of(error)
        return self._call_result(actor, result)

    def _call_result(self, actor: ActorHandle, result: Any) -> CallResult:
        """What came of an actor's start, or of the calls that it was making."""
        now = time.monotonic()
        seconds, actor.since = now - (actor.since or now), now
        if actor.info is None:
            if isinstance(result, Failure):
                self.drop(actor)
            else:
                actor.info = result
            return CallResult(start=result, seconds=seconds)
        making, actor.making = actor.making or (), None
        # of a lost worker, the first of the calls that it was making is the likeliest cause
        pairs = result if isinstance(result, list) else [((*making, *actor.owed)[0], result)]
        results = {number: value for number, value in pairs if not isinstance(value, Failure)}
        actor.owed = tuple(number for number in actor.owed if number not in results)
        failed, failure = pairs[-1] if pairs else (-1, None)
        if not isinstance(failure, Failure):
            if not actor.owed:
                actor.oldest = None
            elif actor.oldest is None or actor.oldest[0] != actor.owed[0]:
                actor.oldest = actor.owed[0], now
            return CallResult(results=results, made=making, seconds=seconds)
        undone = (failed, *(number for number in actor.owed if number != failed))
        actor.owed, actor.oldest = (), None
        if failure.kind == "internal":
            self.drop(actor)
        return CallResult(results=results, failure=failure, undone=undone, seconds=seconds)

    def _request_heartbeats(self) -> None:
        now = time.monotonic()
        if now - self._asked < self._limits.heartbeat / BEATS:
            return
        self._asked = now

        def answered(future: "Future[Any]") -> None:
            self._events.put(lambda: self._on_report(future))

        self._heartbeats.report.remote().future().add_done_callback(answered)

    def _on_report(self, future: "Future[Any]") -> None:
        if future.exception() is not None:
            return  # the monitor is restarting, which is no fault of the workers
        report, now = future.result(), time.monotonic()
        report = replace(report, beats={k: b for k, b in report.beats.items() if k in self._actors})
        self._seen.update(report, now)
        for key in report.beats:
            actor = self._actors[key]
            if actor.since is None:
                actor.since = now  # its process runs: start_timeout counts from here
        busy = [actor for actor in self._actors.values() if actor.making is not None]
        self.on_rows(sum(self._seen.rows(actor.key, actor.batch) for actor in busy))

    def _overdue(self) -> list[CallResult]:
        now, ended = time.monotonic(), []
        for actor in list(self._actors.values()):
            cause = actor.overdue(self._limits, self._seen.silence(actor.key), now)
            if cause is None:
                continue
            if actor.idle:
                log.warning("an idle worker is dropped: %s", cause)
                self.drop(actor)
            else:
                ended.append(self._call_result(actor, WorkerLost("internal", cause)))
        return ended
