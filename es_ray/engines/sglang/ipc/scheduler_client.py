"""Calls from this process into the scheduler's."""

import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from es_ray.engines.sglang.ipc.shm_channel import Message, ReplyChannel, ShmChannel
from es_ray.engines.sglang.ipc.shm_vector import ShmVector
from es_ray.engines.sglang.slots import AdapterGroup
from es_ray.errors import RunError
from es_ray.evolution.perturbation import Perturbation, PiecewiseConstant, Vector

_MEMBER_BYTES = 8 + 4 + 8
"""Bytes of a call for each member: number, factor and slot; an advantage is smaller."""
IDLE_SECONDS = 10.0
"""Seconds that the scheduler may take to become idle after a batch."""


class SchedulerClient:
    """The channels of one engine, and the calls through them.

    size: entries of theta; members, segments: the most members or advantages, and pieces of sigma, in a
    call; reply: the most entries in a reply; updates: the most updates of form `merged` in a call.
    """

    def __init__(
        self, ranks: int, size: int, members: int, segments: int, reply: int, updates: int = 1
    ) -> None:
        self._ranks, self.reply, self.updates = ranks, reply, updates
        self._theta = ShmVector.create(size)
        members_bytes = _MEMBER_BYTES * members + 16 * segments
        updates_bytes = updates * (8 * members + 16 * segments + 64)
        self._request = ShmChannel.create(max(members_bytes, updates_bytes) + 4096)
        self._reply = ReplyChannel.create(ranks, 4 * reply + 8 * members + 16 * size_of_layout(segments))
        self._number = 0
        self.engine: Any = None
        """The `sglang.Engine`, once it is running."""

    def call(self, what: str, message: Message | None = None) -> list[Message]:
        """Make a call on every rank; returns their answers by rank. Raises RunError with the cause."""
        deadline = time.monotonic() + IDLE_SECONDS
        checksum = self._request.write(message or Message())
        while True:
            self._number += 1
            self.engine.collective_rpc(
                "es_ray_call",
                what=what,
                number=self._number,
                request=self._request.name,
                checksum=checksum,
                reply=self._reply.name,
            )
            answers = [self._reply.read(rank, self._number) for rank in range(self._ranks)]
            errors = [answer.values["error"] for answer in answers if "error" in answer.values]
            if not errors:
                return answers
            if set(errors) != {"busy"} or time.monotonic() > deadline:
                raise RunError(f"SGLang's scheduler: {what}: {errors[0]}")
            time.sleep(0.001)

    def centre_values(self, theta: Vector) -> dict[str, Any]:
        """A call's values for the centre; theta itself is written to shared memory if it changed."""
        checksum = self._theta.write(theta)
        return {
            "theta": self._theta.name,
            "theta_checksum": checksum,
            "theta_version": self._theta.version,
        }

    def close(self) -> None:
        """Free the shared memory."""
        for memory in (self._theta, self._request, self._reply):
            memory.close()


def size_of_layout(segments: int) -> int:
    """Space for what is reported of each adapted module: three numbers of its four, and a margin."""
    return segments + 64


def seed_values(perturbation: Perturbation) -> dict[str, Any]:
    """A call's values for the noise of any generation."""
    return {
        "seed": str(perturbation.noise.seed),  # JSON numbers are exact only up to 53 bits
        "antithetic": perturbation.noise.antithetic,
    }


def noise_values(perturbation: Perturbation, generation: int) -> dict[str, Any]:
    """A call's values for a generation's noise."""
    return {**seed_values(perturbation), "generation": generation, "fresh": perturbation.fresh}


def sigma_arrays(sigma: PiecewiseConstant) -> dict[str, NDArray[Any]]:
    """Sigma as arrays of a message."""
    return {
        "sigma_ends": np.asarray(sigma.ends, dtype=np.int64),
        "sigma_values": np.asarray(sigma.values, dtype=np.float32),
    }


def group_arrays(group: AdapterGroup, sigma: PiecewiseConstant) -> dict[str, NDArray[Any]]:
    """The adapters to write, with their slots, and sigma, as arrays of a message."""
    adapters: dict[str, NDArray[Any]] = {
        "members": np.array([adapter.member for adapter in group.adapters], dtype=np.int64),
        "factors": np.array([adapter.sigma_factor for adapter in group.adapters], dtype=np.float32),
        "slots": np.array(group.slots, dtype=np.int64),
    }
    return adapters | sigma_arrays(sigma)
