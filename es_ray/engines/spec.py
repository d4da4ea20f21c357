"""What the rest of es-ray knows of an engine before any of it is loaded: an EngineSpec for each kind."""

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
    """A package that an engine needs beside es-ray's own dependencies.

    name: as it is installed; title: for people; oldest: the first version that will do; supported: which ones
    do, as a phrase for messages; install: how to get it.
    """

    name: str
    title: str
    oldest: tuple[int, ...]
    supported: str
    install: str


def accept(config: Config, hosted: bool) -> None:
    """The check of an engine that takes every configuration."""


@dataclass(frozen=True)
class EngineSpec:
    """A kind of engine. `engine.kind` names one of es_ray.engines.registry, or one's own by import path.

    load: the engine with the model's weights, for an experiment; the heavy imports belong inside it.
    gpus(engine, available): GPUs that one engine takes; available: whether there are any where it may run.
    packages: what must be installed on each machine that hosts engines, beside es-ray's own dependencies.
    check(config, hosted): raises UserError for what the engine would refuse, before anything is written;
    hosted: whether this machine would host engines; where not, its packages may be missing here.
    in_process: whether it may run in the driver's process, and a failed one leaves that alive.
    slice_size: entries of a noise sum that one call computes; no result depends on it.
    weights_in_memory: whether the weights take the host's memory, not a GPU's alone.
    needs_shm: whether it fails where /dev/shm is small.
    exact_replay: whether its noise sums have the bits of `Perturbation.noise_sum`, so that a pruned state can
    be computed again to the byte; where not, states are never pruned.
    """

    name: str
    load: "Callable[[Experiment], Engine]"
    gpus: Callable[[EngineConfig, bool], int]
    packages: tuple[Package, ...] = ()
    check: Callable[[Config, bool], None] = accept
    in_process: bool = True
    slice_size: int = 1 << 16
    weights_in_memory: bool = True
    needs_shm: bool = False
    exact_replay: bool = True
