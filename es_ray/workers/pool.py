"""The driver's interface to the workers: splits work into calls, distributes them, combines the results."""

import logging
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from es_ray.config import Config
from es_ray.engines.base import EngineInfo
from es_ray.engines.registry import engine_spec
from es_ray.errors import RunError
from es_ray.evaluation import Candidate, Outcomes, Shard
from es_ray.evaluation.base_samples import BaseSample
from es_ray.evaluation.kl import KlPrompts, kl_of
from es_ray.evolution.perturbation import Perturbation, Vector
from es_ray.evolution.pieces import joined
from es_ray.tasks.batches import Batch, Workload

log = logging.getLogger(__name__)

OnProgress = Callable[[int, int], None]
"""Called with the number of completions made so far, and the total; the first never falls."""

SMALLEST_SLICE: Final = 1 << 16
"""Entries of a noise sum for which a worker is worth asking."""
NO_OTHERS: Final[Mapping[int, Vector]] = MappingProxyType({})


@dataclass(frozen=True)
class Call:
    """A call of a worker's method: any worker may make it, and make it again, with the same result.

    arguments: those that follow the arguments shared by all calls, plain values; about: its str() names the
    call in messages; members, rows: how many candidates it evaluates, with how many completions.
    """

    method: str
    arguments: list[Any]
    about: object
    members: int = 0
    rows: int = 0


def idle_workers(config: Config, workers: int) -> str | None:
    """A warning about workers left without a shard, with the setting to change; None if there are none."""
    size, candidates = config.engine.shard, config.evolution.population + 1
    shards = math.ceil(candidates / size)
    if shards >= workers:
        return None
    better = math.ceil(candidates / workers)
    advice = f"engine.shard={better} would share it" if better < size else f"{shards} do as well"
    return (
        f"{workers - shards} of {workers} workers have nothing to evaluate: the {candidates} candidates of a "
        f"generation (members and centre) make {shards} shard{'s' if shards > 1 else ''} of up to {size} "
        f"(engine.shard); {advice}"
    )


class Pool(ABC):
    """Workers behind one interface. A pool is a context manager; `start` waits for its engines."""

    def __init__(self, config: Config, workload: Workload) -> None:
        self.config, self._workload = config, workload
        self.redispatched = 0
        """Members evaluated again so far, because their worker was lost."""
        self.on_workers: Callable[[int], None] = lambda ready: None
        """Called with `workers` when that has changed."""

    @property
    @abstractmethod
    def workers(self) -> int:
        """Workers that are ready."""

    @property
    @abstractmethod
    def where(self) -> str:
        """How many workers run where, for display."""

    @abstractmethod
    def start(self) -> EngineInfo:
        """Start the workers, wait for their engines, and return what these report of themselves."""

    @abstractmethod
    def close(self) -> None:
        """Stop the workers."""

    def replace(self, workers: Collection[str]) -> None:
        """Stop workers of these names, none of which is at work; others take their places.

        Raises RunError where there are no others: in this process, whose only worker differs from itself.
        """
        raise RunError(
            f"the weights of {', '.join(workers)} changed within a generation: its memory may be damaged, "
            "and the run has no other worker; resume on another machine"
        )

    @abstractmethod
    def _map(
        self,
        shared: tuple[Any, ...],
        calls: Sequence[Call],
        on_done: Callable[[Call], None],
        on_rows: Callable[[int], None],
    ) -> list[Any]:
        """The results of the calls, in order. A worker's method gets the shared arguments, then the call's.

        Calls of one method follow each other.

        on_done: called as a call ends; on_rows: with how many completions the calls under way have made.
        """

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
        batch: Batch,
        on_progress: OnProgress = lambda done, total: None,
        kl: KlPrompts | None = None,
        others: Mapping[int, Vector] = NO_OTHERS,
        shard: int | None = None,
    ) -> Outcomes:
        """Outcomes of all candidates. Raises RunError if one cannot be evaluated.

        theta: the centre that the generation starts from, shape [P]; others: those of other generations, for
        candidates of these; batch: what the candidates are asked; kl: the prompts for which the centre's KL
        to the base model is measured besides, by one of the workers: in batches of its own, so that it
        changes nothing else; shard: candidates in one batch, by default engine.shard.
        """
        size = self.config.engine.shard if shard is None else shard
        shards = [
            Shard(generation, tuple(candidates[at : at + size])) for at in range(0, len(candidates), size)
        ]
        calls = [
            Call("evaluate", shard.packed(), shard, len(shard.candidates), shard.rows(batch))
            for shard in shards
        ]
        if kl is not None:
            (kl,) = self._with_samples([kl], perturbation, batch)
            # last: an engine that fails for it fails for the candidates too, which say whose
            calls.append(_kl_call(kl, generation))
        done, shown, total = 0, 0, sum(call.rows for call in calls)

        def show(rows: int) -> None:
            nonlocal shown
            shown = max(shown, done + rows)  # reports come late, and a lost worker's rows are made again
            on_progress(shown, total)

        def count(call: Call) -> None:
            nonlocal done
            done += call.rows
            show(0)

        show(0)
        centres = {generation: theta, **others}
        results = self._map((centres, perturbation, batch), calls, count, show)
        if kl is None:
            return Outcomes(results)
        return Outcomes(results[:-1], kl_of(results[-1]))

    def kl(
        self,
        theta: Vector,
        perturbation: Perturbation,
        generation: int,
        asked: Sequence[KlPrompts],
        batch: Batch,
        others: Mapping[int, Vector] = NO_OTHERS,
    ) -> list[NDArray[np.float64]]:
        """Sums by prompt of each candidate that is asked for; `kl_of` them is its KL to the base model.

        Each of shape [prompts, 2]: a prompt's terms, and its tokens. batch: has their prompts; theta, others:
        as for `evaluate`.
        """
        asked = self._with_samples(asked, perturbation, batch)
        calls = [_kl_call(prompts, generation) for prompts in asked]
        shared = ({generation: theta, **others}, perturbation, batch)
        return self._map(shared, calls, lambda call: None, lambda rows: None)

    def base_samples(self, prompts: KlPrompts, perturbation: Perturbation, batch: Batch) -> list[BaseSample]:
        """What the base model answers to prompts of a batch, from one of the workers: always the same."""
        calls = [Call("base_samples", [prompts.split, list(prompts.numbers)], "the base model's samples")]
        found: list[BaseSample]
        (found,) = self._map((perturbation, batch), calls, lambda call: None, lambda rows: None)
        return found

    def _with_samples(
        self, asked: Sequence[KlPrompts], perturbation: Perturbation, batch: Batch
    ) -> list[KlPrompts]:
        """What is asked, in form `merged` with the base model's samples, which are made once for all."""
        if not perturbation.fresh:
            return list(asked)
        made: dict[tuple[str, tuple[int, ...]], list[BaseSample]] = {}
        found = []
        for prompts in asked:
            key = (prompts.split, tuple(prompts.numbers))
            if prompts.samples is None and key not in made:
                made[key] = self.base_samples(prompts, perturbation, batch)
            found.append(prompts if prompts.samples is not None else replace(prompts, samples=made[key]))
        return found

    def drifts(self, centre: NDArray[np.float64], perturbation: Perturbation) -> dict[str, float]:
        """Of a merged centre: `Engine.drift` of each worker, by its name."""
        return dict(
            self._from_all("drift", [], "the drift of the centre", (centre, perturbation), self.workers)
        )

    def change(
        self, centre: NDArray[np.float64], perturbation: Perturbation, number: int
    ) -> NDArray[np.float32] | None:
        """Of a merged centre: see `Engine.change`; None if two workers, where there are two, differ."""
        found = self._from_all(
            "change", [number], "a checkpoint", (centre, perturbation), min(self.workers, 2)
        )
        matrices = [matrix for _, matrix in found]
        same = all(matrix.tobytes() == matrices[0].tobytes() for matrix in matrices)
        return matrices[0] if same else None

    def _from_all(
        self, method: str, arguments: list[Any], about: str, shared: tuple[Any, ...], workers: int
    ) -> list[Any]:
        """What that many workers return, none of which is at work: each is asked once."""
        calls = [Call(method, arguments, about)] * max(workers, 1)
        return self._map(shared, calls, lambda call: None, lambda rows: None)

    def noise_sum(
        self, perturbation: Perturbation, generation: int, advantages: NDArray[np.float64]
    ) -> Vector:
        """Sum_i Z_i noise_i over a generation's members, float32, shape [P], assembled from slices.

        advantages: Z, shape [N].
        """
        share = math.ceil(perturbation.size / max(self.workers, 1) / SMALLEST_SLICE) * SMALLEST_SLICE
        size = min(engine_spec(self.config.engine.kind).slice_size, share)
        about = f"the update of generation {generation}"
        calls = [
            Call("noise_sum", [generation, start, min(start + size, perturbation.size)], about)
            for start in range(0, perturbation.size, size)
        ]
        return joined(self._map((perturbation, advantages), calls, lambda call: None, lambda rows: None))


def _kl_call(prompts: KlPrompts, generation: int) -> Call:
    own = generation if prompts.generation is None else prompts.generation
    about = f"{prompts} of generation {own}"
    return Call("kl", prompts.packed(generation), about, rows=len(prompts.numbers))
