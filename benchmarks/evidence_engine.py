"""One engine for many runs in one process: starting SGLang takes longer than many a run.

`engine.kind: evidence_engine:SGLANG` (or TRANSFORMERS) is an EngineSpec whose engine is started by the first
run and lent to those that follow. An engine depends on the model, the adapters' layout, its slots and its
arguments alone, not on whether they are both or b, nor on noise, update rule, task or seed: those come
with each call. A run that needs another one (model, rank, layers, engine.sglang, ...) has it started anew.

In the driver's process a failed SGLang ends the whole process, which is fine for a benchmark: what was
measured is on disk by then.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from es_ray.engines.base import Completion, Engine, OnCompletion, Row
from es_ray.engines.hf.spec import SPEC as OF_TRANSFORMERS
from es_ray.engines.sglang.spec import SPEC as OF_SGLANG
from es_ray.engines.spec import EngineSpec
from es_ray.evolution.perturbation import Perturbation, Vector
from es_ray.experiment import Experiment
from es_ray.interrupts import keep_handlers


@dataclass
class Started:
    """The engine that runs, what it was started for, and its size."""

    engine: Engine
    key: dict[str, Any]
    slots: int
    population: int


@dataclass
class Capacity:
    """What an engine is made for, at least: candidates at once, members of a population, rows at once."""

    slots: int = 1
    population: int = 2
    rows: int = 1


CAPACITY = Capacity()
"""Set it to the largest of all runs that are to follow, so that no engine is started twice."""
_started: Started | None = None


class LentEngine(Engine):
    """The engine that is shared, for one run: whose `close` leaves it running."""

    def __init__(self, engine: Engine) -> None:
        self._engine, self.info = engine, engine.info

    def generate(
        self,
        centres: Sequence[Vector],
        perturbation: Perturbation,
        rows: Sequence[Row],
        *,
        log_probs: bool = False,
        on_completion: OnCompletion | None = None,
    ) -> list[Completion]:
        """As the engine's."""
        return self._engine.generate(
            centres, perturbation, rows, log_probs=log_probs, on_completion=on_completion
        )

    def log_probs(
        self,
        centres: Sequence[Vector],
        perturbation: Perturbation,
        rows: Sequence[Row],
        continuations: Sequence[Sequence[int]],
    ) -> list[NDArray[np.float32]]:
        """As the engine's."""
        return self._engine.log_probs(centres, perturbation, rows, continuations)

    def noise_sum(
        self,
        perturbation: Perturbation,
        generation: int,
        advantages: NDArray[np.float64],
        start: int,
        stop: int,
    ) -> Vector:
        """As the engine's."""
        return self._engine.noise_sum(perturbation, generation, advantages, start, stop)

    def drift(self, centre: NDArray[np.float64], perturbation: Perturbation) -> float:
        """As the engine's."""
        return self._engine.drift(centre, perturbation)

    def checksum(self) -> int | None:
        """As the engine's."""
        return self._engine.checksum()

    def close(self) -> None:
        """The next run takes the engine as it is; `close_engine` ends it."""


def lend(spec: EngineSpec, experiment: Experiment) -> Engine:
    """The engine for a run: the one that runs, or a new one of that spec."""
    global _started
    config = experiment.config
    key = _key(spec, experiment)
    fits = (
        _started is not None
        and _started.key == key
        and _started.slots >= config.engine.shard
        and _started.population >= config.evolution.population
    )
    if not fits:
        close_engine()
        slots = max(config.engine.shard, CAPACITY.slots)
        population = max(config.evolution.population, CAPACITY.population)
        population += population % 2  # antithetic pairs
        larger = config.replace(engine__shard=slots, evolution__population=population)
        workload = experiment.workload
        workload = replace(workload, rows=max(workload.rows, CAPACITY.rows))
        with keep_handlers():
            engine = spec.load(Experiment(larger, workload))
        _started = Started(engine, key, slots, population)
    assert _started is not None
    if hasattr(_started.engine, "max_new_tokens"):  # of SGLang's requests; elsewhere part of the key
        _started.engine.max_new_tokens = config.task.max_new_tokens
    return LentEngine(_started.engine)


def close_engine() -> None:
    """End the engine that runs, if there is one."""
    global _started
    started, _started = _started, None
    if started is not None:
        started.engine.close()


def _key(spec: EngineSpec, experiment: Experiment) -> dict[str, Any]:
    """All of a configuration that an engine depends on, but for its size."""
    config = experiment.config
    # of the forms of adapters no engine depends
    lora = {**config.lora.model_dump(), "form": config.lora.form == "merged"}
    engine = {k: v for k, v in config.engine.model_dump().items() if k not in ("kind", "shard", "rows")}
    found = {"engine": spec.name, "model": config.model.model_dump(), "lora": lora, **engine}
    if spec is not OF_SGLANG:
        found["max_new_tokens"] = config.task.max_new_tokens
    return found


def _shared(spec: EngineSpec) -> EngineSpec:
    return replace(spec, name=f"{spec.name}, shared", load=partial(lend, spec), in_process=True)


SGLANG: Final = _shared(OF_SGLANG)
TRANSFORMERS: Final = _shared(OF_TRANSFORMERS)
