"""The engines by name, and how `auto` is resolved. A new one is a folder with a spec, and an entry here."""

import importlib.util
from collections.abc import Callable, Iterable
from typing import Any, Final, NamedTuple

from es_ray.config import EngineConfig
from es_ray.engines.hf.spec import SPEC as TRANSFORMERS
from es_ray.engines.sglang.spec import SPEC as SGLANG
from es_ray.engines.spec import EngineSpec, Package
from es_ray.errors import UserError
from es_ray.imports import resolve

AUTO: Final = "auto"
ENGINES: Final[dict[str, EngineSpec]] = {spec.name: spec for spec in (SGLANG, TRANSFORMERS)}
"""The registered engines, by name."""
PREFERENCE: Final = (SGLANG, TRANSFORMERS)
"""What `auto` tries, in this order: an engine that is not named here must be chosen by `engine.kind`."""
ANYWHERE: Final = PREFERENCE[-1]
"""The last of these: it needs no GPU, no extra package and no separate process."""


class Machine(NamedTuple):
    """What `auto` needs to know of a machine: its GPUs, and whether a package, by name, is installed."""

    gpus: float
    installed: Callable[[str], bool]


def engine_spec(kind: str) -> EngineSpec:
    """The engine that `engine.kind` names; ANYWHERE for an `auto` that is not resolved yet.

    Raises UserError for a name that is not registered, and for an import path that is not an EngineSpec.
    """
    spec: Any = resolve("engine.kind", kind, {AUTO: ANYWHERE, **ENGINES})
    if not isinstance(spec, EngineSpec):
        raise UserError(
            f"engine.kind: {kind} must be an EngineSpec (es_ray.engines.spec), not {type(spec).__name__}"
        )
    return spec


def automatic(engine: EngineConfig, machines: Iterable[Machine], in_process: bool) -> EngineSpec:
    """What `auto` stands for: the first of PREFERENCE whose needs one of the machines meets.

    in_process: whether it would run in the driver's process. If GPUs are needed, any number is enough here:
    too few of them are reported elsewhere.
    """
    machines = list(machines)
    for spec in PREFERENCE:
        packages = [package.name for package in spec.packages]
        needs_gpus = spec.gpus(engine, False) > 0
        if in_process and not spec.in_process:
            continue
        if any(all(map(m.installed, packages)) and (m.gpus or not needs_gpus) for m in machines):
            return spec
    return ANYWHERE


def is_installed(package: str) -> bool:
    """Whether this process could import a package; imports nothing."""
    return importlib.util.find_spec(package.replace("-", "_")) is not None


def engine_packages(kind: str = AUTO) -> tuple[Package, ...]:
    """The packages of the registered engines and of the configured one, without duplicates."""
    specs = (*ENGINES.values(), engine_spec(kind))
    return tuple(dict.fromkeys(package for spec in specs for package in spec.packages))
