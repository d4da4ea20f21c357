"""The transformers engine's spec: it needs only es-ray's own dependencies, and uses a GPU if there is one."""

from typing import TYPE_CHECKING

from es_ray.config import Config, EngineConfig
from es_ray.engines.spec import EngineSpec
from es_ray.errors import UserError

if TYPE_CHECKING:
    from es_ray.engines.base import Engine
    from es_ray.experiment import Experiment


def load(experiment: "Experiment") -> "Engine":
    """The engine; imports torch and transformers."""
    from es_ray.engines.hf.engine import TransformersEngine

    return TransformersEngine(experiment)


def gpus(engine: EngineConfig, available: bool) -> int:
    """One if available: it runs on a CPU as well."""
    return int(available)


def check(config: Config, hosted: bool) -> None:
    """Raise UserError for a model that would have to be split over GPUs."""
    if config.engine.tensor_parallel > 1:
        raise UserError(
            f"engine.tensor_parallel: {config.engine.tensor_parallel} is for sglang; transformers needs 1"
        )


SPEC = EngineSpec("transformers", load, gpus, check=check, processes=True)
