"""es-ray: Evolution Strategies fine-tuning of language models through LoRA.

    import es_ray

    result = es_ray.run(es_ray.Config())

`run` and `Config` are loaded when they are first used, so that `import es_ray` stays cheap.
"""

from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from es_ray.config import Config, load
    from es_ray.driver import RunResult, run

try:
    __version__ = version("es-ray")
except PackageNotFoundError:  # run from a checkout that is not installed
    __version__ = "0+unknown"

__all__ = ["Config", "RunResult", "__version__", "load", "run"]


def __getattr__(name: str) -> Any:
    if name in ("Config", "load"):
        from es_ray import config

        return getattr(config, name)
    if name in ("RunResult", "run"):
        from es_ray import driver

        return getattr(driver, name)
    raise AttributeError(f"module 'es_ray' has no attribute {name!r}")
