"""The SGLang engine's spec: it needs GPUs, its package, Ray workers, and shared memory for its processes."""

from typing import TYPE_CHECKING

from es_ray.config import Config, EngineConfig
from es_ray.engines.sglang import arguments, compat
from es_ray.engines.spec import EngineSpec, Package

if TYPE_CHECKING:
    from es_ray.engines.base import Engine
    from es_ray.experiment import Experiment

PACKAGE = Package("sglang", "SGLang", compat.OLDEST, compat.SUPPORTED, "pip install 'es-ray[sglang]'")


def load(experiment: "Experiment") -> "Engine":
    """The engine; imports SGLang, and starts its processes."""
    from es_ray.engines.sglang.engine import SGLangEngine

    return SGLangEngine(experiment)


def gpus(engine: EngineConfig, available: bool) -> int:
    """As many as the model is split over."""
    return engine.tensor_parallel


def check(config: Config, hosted: bool) -> None:
    """Raise UserError for an SGLang that is missing or unsupported, and for what it does not have."""
    if not hosted and compat.installed() is None:
        return  # each worker checks its own node
    root = compat.package()
    compat.check(root)
    arguments.check_passed_through(config.engine.sglang, compat.argument_names(root))


SPEC = EngineSpec(
    "sglang",
    load,
    gpus,
    packages=(PACKAGE,),
    check=check,
    in_process=False,
    rows=1 << 16,  # SGLang queues those that do not fit
    slice_size=1 << 22,  # a call costs milliseconds, and so do its 16 MB
    weights_in_memory=False,
    needs_shm=True,
    exact_replay=False,  # the GPU's logarithm, sine and cosine round differently from NumPy's
)
