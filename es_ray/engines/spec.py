"""What the rest of es-ray knows about an engine without loading it: an EngineSpec for each kind."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from es_ray.config import Config, EngineConfig

if TYPE_CHECKING:  # a spec is read by commands that load no model
    from es_ray.engines.base import Engine
    from es_ray.experiment import Experiment


def parsed(version: str) -> tuple[int, ...]:
    """The leading numbers of a version: (0, 5, 17) for 0.5.17.post1."""
    found = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(int(part) for part in found.group().split(".")) if found else ()


@dataclass(frozen=True)
class Package:
    """A package that an engine needs besides es-ray's own dependencies.

    name: of the distribution; title: display name; oldest: the first supported version; supported: the
    supported ones, as a phrase for messages; install: how to get it.
    """

    name: str
    title: str
    oldest: tuple[int, ...]
    supported: str
    install: str


def accept(config: Config, hosted: bool) -> None:
    """The check of an engine that accepts every configuration."""


@dataclass(frozen=True)
class EngineSpec:
    """A kind of engine. `engine.kind` is a name in es_ray.engines.registry, or an import path.

    load: makes the engine for an experiment, with the weights loaded; heavy imports belong inside it.
    gpus(engine, available): GPUs that one engine takes; available: whether there are any where it could run.
    packages: what must be installed on each machine that hosts engines, besides es-ray's own dependencies.
    check(config, hosted): raises UserError for what the engine would reject, before anything is written;
    hosted: whether this machine would host engines; if not, its packages may be missing here.
    in_process: whether it may run in the driver's process; False if its failures can end the process.
    rows: completions that it makes at once unless engine.rows is given.
    slice_size: most entries of a noise sum that one call computes; no result depends on it.
    weights_in_memory: whether the weights take the host's memory, not a GPU's alone.
    needs_shm: whether it fails where /dev/shm is small.
    exact_replay: whether its noise sums have the bits of `Perturbation.noise_sum`, so that a pruned state can
    be computed again to the byte; where not, states are never pruned.
    log_probs: whether it gives log-probabilities; without them evaluation.kl_every measures nothing.
    processes: whether it generates in `engine.processes` at a time, on a CPU and without Ray.
    """

    name: str
    load: "Callable[[Experiment], Engine]"
    gpus: Callable[[EngineConfig, bool], int]
    packages: tuple[Package, ...] = ()
    check: Callable[[Config, bool], None] = accept
    in_process: bool = True
    rows: int = 256
    slice_size: int = 1 << 16
    weights_in_memory: bool = True
    needs_shm: bool = False
    exact_replay: bool = True
    log_probs: bool = True
    processes: bool = False
