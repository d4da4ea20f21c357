"""The actors of a pool: started where there is room, watched, given up when they fail or fall silent."""

import itertools
import logging
import queue
import re
import time
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import wait as wait_for
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from es_ray.config import Config
from es_ray.engines.base import EngineInfo
from es_ray.errors import last_line
from es_ray.workers.actor import BEATS, Failure, HeartbeatMonitor, WorkerActor

log = logging.getLogger(__name__)

CLOSE_SECONDS = 30.0
"""How long engines may take to give their memory back before their actors are killed."""
PING_SECONDS = 5.0


NODE = re.compile("its node has died|actor's node|never ran", re.IGNORECASE)


@dataclass(frozen=True)
class WorkerLost(Failure):
    """A worker that is gone, or was given up; text says how. node: it went with its machine."""

    node: bool = False


@dataclass(eq=False)
class ActorHandle:
    """One actor.

    numbers: of the calls that it has in hand; since: when it began those, or its start, monotonic seconds,
    None while its process is still to come.
    """

    key: int
    handle: Any
    info: EngineInfo | None = None
    numbers: tuple[int, ...] = ()
    since: float | None = None

    @property
    def idle(self) -> bool:
        """Whether it can take a call."""
        return self.info is not None and not self.numbers


@dataclass(frozen=True)
class CallResult:
    """A start (no numbers) or calls that came to an end.

    result: an EngineInfo, or the calls' results, as far as there are any; else why there are none. seconds:
    what they took.
    """

    numbers: tuple[int, ...]
    result: Any
    seconds: float


@dataclass
class _Seen:
    """What the heartbeats said last: seconds of silence by actor, and when that was asked."""

    ages: dict[int, float] = field(default_factory=dict)
    asked: float = 0.0


class ActorManager:
    """N actors. Ray neither restarts them nor repeats their calls: what ends is told, once, by `wait`.

    Futures are waited for and not `ray.wait`, which scans every reference at each call.
    """

    def __init__(self, config: Config, wanted: int, gpus: int, actor_class: type[WorkerActor]) -> None:
        self.wanted = wanted
        self._actor_class = actor_class
        self._config = config
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
        self._seen = _Seen()
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
        # this one may restart: all it holds is how long ago a worker was heard
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
        """Actors whose process runs, and whose engine is not ready yet."""
        return sum(actor.info is None and actor.since is not None for actor in self._actors.values())

    def fill(self) -> None:
        """Ask for as many actors as are missing; Ray starts each as soon as there is room."""
        while len(self._actors) < self.wanted:
            key = next(self._keys)
            made = (
                ray.remote(self._actor_class)
                .options(**self._options)
                .remote(self._config, self._heartbeats, key)
            )
            actor = self._actors[key] = ActorHandle(key, made)
            self._follow(actor, made.start.remote())

    def submit(
        self, actor: ActorHandle, numbers: tuple[int, ...], method: str, each: list[Any], *shared: Any
    ) -> None:
        """Have an idle actor make calls, known by their numbers; see WorkerActor.calls."""
        actor.numbers, actor.since = numbers, time.monotonic()
        self._follow(actor, actor.handle.calls.remote(method, each, *shared))

    def wait(self, seconds: float) -> list[CallResult]:
        """What has ended, as soon as something has; nothing if nothing did for so long."""
        self._ask_for_heartbeats()
        ended: list[CallResult] = []
        try:
            ended += self._taken(self._events.get(timeout=seconds))
            while True:
                ended += self._taken(self._events.get_nowait())
        except queue.Empty:
            pass
        return ended + self._overdue()

    def drop(self, actor: ActorHandle) -> None:
        """Kill an actor. What it still says is ignored."""
        if self._actors.pop(actor.key, None) is not None:
            ray.kill(actor.handle)

    def drop_dead(self) -> None:
        """Where one worker was lost others may be too: drop idle ones that do not answer at once."""
        pings = {actor.handle.alive.remote().future(): actor for actor in self.idle}
        wait_for(pings, timeout=PING_SECONDS)
        for ping, actor in pings.items():
            if not ping.done() or ping.exception() is not None:
                self.drop(actor)

    def close(self) -> None:
        """Have the idle engines close, and kill all actors."""
        closing = [actor.handle.close.remote().future() for actor in self.idle]
        try:
            wait_for(closing, timeout=CLOSE_SECONDS)
        finally:
            for actor in list(self._actors.values()):
                self.drop(actor)
            ray.kill(self._heartbeats)

    def _follow(self, actor: ActorHandle, ref: Any) -> None:
        def end(future: "Future[Any]") -> None:
            self._events.put(lambda: self._end(actor, future))

        ref.future().add_done_callback(end)

    def _taken(self, event: Callable[[], CallResult | None]) -> list[CallResult]:
        ended = event()
        return [] if ended is None else [ended]

    def _end(self, actor: ActorHandle, future: "Future[Any]") -> CallResult | None:
        if actor.key not in self._actors:
            return None
        error = future.exception()
        if error is not None and not isinstance(error, RayError):
            raise error
        if error is not None:
            what = "the process died" if isinstance(error, RayActorError) else "Ray failed"
            # the second too is a lost worker: for one, its node went before the result was fetched
            result: Any = WorkerLost(
                "internal", f"{what} ({last_line(error)})", bool(NODE.search(str(error)))
            )
        else:
            result = future.result()
        return self._ended(actor, result)

    def _ended(self, actor: ActorHandle, result: Any) -> CallResult:
        now = time.monotonic()
        ended = CallResult(actor.numbers, result, now - (actor.since or now))
        actor.numbers, actor.since = (), now
        last = result[-1] if ended.numbers and isinstance(result, list) else result
        if isinstance(last, Failure) and (not ended.numbers or last.kind == "internal"):
            self.drop(actor)
        elif not ended.numbers:
            actor.info = result
        return ended

    def _ask_for_heartbeats(self) -> None:
        now = time.monotonic()
        if now - self._seen.asked < self._limits.heartbeat / BEATS:
            return
        self._seen.asked = now

        def answered(future: "Future[Any]") -> None:
            self._events.put(lambda: self._hear(future))

        self._heartbeats.ages.remote().future().add_done_callback(answered)

    def _hear(self, future: "Future[Any]") -> None:
        if future.exception() is None:  # else it restarts: nobody is given up for that
            self._seen.ages = future.result()
            for key in self._seen.ages.keys() & self._actors.keys():
                actor = self._actors[key]
                if actor.since is None:
                    actor.since = time.monotonic()  # its process is there: now the start's time runs

    def _overdue(self) -> list[CallResult]:
        now, ended = time.monotonic(), []
        for actor in list(self._actors.values()):
            silent = self._seen.ages.get(actor.key, 0.0)
            busy = 0.0 if actor.since is None or actor.idle else now - actor.since
            allowed = (
                self._limits.start_timeout
                if actor.info is None
                else self._limits.shard_timeout * len(actor.numbers)
            )
            if silent > self._limits.heartbeat:
                cause = f"not heard of for {silent:.0f} s (cluster.heartbeat)"
            elif busy > allowed:
                key = "start" if actor.info is None else "shard"
                cause = f"not done after {busy:.0f} s (cluster.{key}_timeout)"
            else:
                continue
            if actor.idle:
                log.warning("an idle worker is given up: %s", cause)
                self.drop(actor)
            else:
                ended.append(self._ended(actor, WorkerLost("internal", cause)))
        return ended
