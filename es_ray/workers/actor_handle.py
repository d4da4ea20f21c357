"""One actor as the driver knows it: what it is doing, what came of that, and whether it is lost."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ray.exceptions import RayActorError, RayError

from es_ray.config import ClusterConfig
from es_ray.engines.base import EngineInfo
from es_ray.errors import last_line
from es_ray.workers.actor import Failure

NODE = re.compile("its node has died|actor's node|never ran", re.IGNORECASE)
"""What Ray says of an actor whose machine was lost with it, or that never had one."""


@dataclass(frozen=True)
class WorkerLost(Failure):
    """A worker that died or was dropped; text says how. node: whether its machine was lost with it."""

    node: bool = False

    @classmethod
    def of(cls, error: RayError) -> "WorkerLost":
        """From Ray's error about a start or a call.

        Whatever the error is: the node may have died before the result was fetched.
        """
        what = "the process died" if isinstance(error, RayActorError) else "Ray failed"
        return cls("internal", f"{what} ({last_line(error)})", node=bool(NODE.search(str(error))))


@dataclass(eq=False)
class ActorHandle:
    """One actor.

    owed: numbers of the calls whose results are still to come; making: of those that it is making, none while
    it waits for what is pending of earlier ones, None while it is idle; since: when it began that, or its
    start, monotonic seconds, None while its process does not run yet; batch: how many times it was given
    calls; oldest: the first call that is pending, and since when.
    """

    key: int
    handle: Any
    info: EngineInfo | None = None
    owed: tuple[int, ...] = ()
    making: tuple[int, ...] | None = None
    since: float | None = None
    batch: int = 0
    oldest: tuple[int, float] | None = None

    @property
    def idle(self) -> bool:
        """Whether it can take a call."""
        return self.info is not None and self.making is None

    def overdue(self, limits: ClusterConfig, silent: float, now: float) -> str | None:
        """Why the actor counts as lost; None while it does not.

        silent: seconds since its last heartbeat; now: monotonic seconds.
        """
        if silent > limits.heartbeat:
            return f"no heartbeat for {silent:.0f} s (cluster.heartbeat)"
        busy = 0.0 if self.since is None or self.idle else now - self.since
        starts = self.info is None
        if busy > (limits.start_timeout if starts else limits.shard_timeout * max(1, len(self.making or ()))):
            return f"not done after {busy:.0f} s (cluster.{'start' if starts else 'shard'}_timeout)"
        waited = 0.0 if self.oldest is None else now - self.oldest[1]
        if waited > 2 * limits.shard_timeout:  # reported only when the call in progress ends
            return f"scores not done after {waited:.0f} s (cluster.shard_timeout)"
        return None


@dataclass(frozen=True)
class CallResult:
    """What came of an actor's start, or of calls.

    start: an EngineInfo or a Failure, None for calls; results: those that are there, by the calls' numbers;
    failure: what ended the calls, and undone: then all whose results are still to come, the one that failed
    first; made: the calls that were made in these seconds.
    """

    start: EngineInfo | Failure | None = None
    results: Mapping[int, Any] = field(default_factory=dict)
    failure: Failure | None = None
    undone: tuple[int, ...] = ()
    made: tuple[int, ...] = ()
    seconds: float = 0.0
