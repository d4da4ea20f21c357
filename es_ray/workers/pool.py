"""What the driver sees of the workers: calls that are split, handed out, and come back complete."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from es_ray.config import Config
from es_ray.engines.base import EngineInfo
from es_ray.evaluation import Candidate, Outcomes, Shard
from es_ray.evolution.perturbation import Perturbation, Vector

SLICE = {"transformers": 1 << 16, "sglang": 1 << 20}
"""Entries that one call to `noise_sum` computes, by engine. No result depends on it."""

OnDone = Callable[[int, int], None]
"""Called with the number of candidates evaluated so far, and of all."""


@dataclass(frozen=True)
class Call:
    """A call of a worker's method: any worker may make it, and make it again, with the same result.

    arguments: those after what all calls share, plain values; about: what to call it in messages, by its
    str(); members: how many candidates it evaluates.
    """

    method: str
    arguments: list[Any]
    about: object
    members: int = 0


class Pool(ABC):
    """Workers behind one interface. A pool is a context manager; `start` waits for its engines."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.redispatched = 0
        """Members evaluated again so far, because the worker that had them was lost."""

    @property
    @abstractmethod
    def workers(self) -> int:
        """Workers that live."""

    @property
    @abstractmethod
    def where(self) -> str:
        """Where the workers are, for people."""

    @abstractmethod
    def start(self) -> EngineInfo:
        """Start the workers, wait for their engines, and tell what they say."""

    @abstractmethod
    def close(self) -> None:
        """Stop the workers."""

    @abstractmethod
    def _map(
        self, shared: tuple[Any, ...], calls: Sequence[Call], on_done: Callable[[Call], None]
    ) -> list[Any]:
        """The results of the calls, in order. A worker's method gets what is shared, then the arguments."""

    def __enter__(self) -> "Pool":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def evaluate(
        self,
        theta: Vector,
        perturbation: Perturbation,
        generation: int,
        candidates: Sequence[Candidate],
        on_done: OnDone = lambda done, total: None,
    ) -> Outcomes:
        """Outcomes of all candidates. Raises RunError if one cannot be had."""
        size = self.config.engine.shard
        shards = [
            Shard(generation, tuple(candidates[at : at + size])) for at in range(0, len(candidates), size)
        ]
        done = 0

        def count(call: Call) -> None:
            nonlocal done
            done += call.members
            on_done(done, len(candidates))

        calls = [Call("evaluate", shard.packed(), shard, len(shard.candidates)) for shard in shards]
        return Outcomes(self._map((theta, perturbation), calls, count))

    def noise_sum(
        self, perturbation: Perturbation, generation: int, advantages: NDArray[np.float64]
    ) -> Vector:
        """Sum_i Z_i noise_i over a generation's members, float32, shape [P], put together from slices.

        advantages: Z, shape [N].
        """
        size = SLICE.get(self.config.engine.kind, SLICE["transformers"])
        about = f"the update of generation {generation}"
        calls = [
            Call("noise_sum", [generation, start, min(start + size, perturbation.size)], about)
            for start in range(0, perturbation.size, size)
        ]
        return np.concatenate(self._map((perturbation, advantages), calls, lambda call: None))
