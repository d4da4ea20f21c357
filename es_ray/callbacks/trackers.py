"""The trackers that a configuration asks for."""

from es_ray.callbacks.base import Callback
from es_ray.config import Config
from es_ray.engines.registry import is_installed
from es_ray.errors import UserError


def trackers(config: Config) -> list[Callback]:
    """One callback for each; raises UserError for one whose package is not installed.

    cluster.workers as resolved: with Ray, its metrics are set, too.
    """
    found: list[Callback] = []
    if config.tracking.tensorboard:
        _check("tracking.tensorboard", "tensorboard")
        from es_ray.callbacks.tensorboard import TensorBoard

        found.append(TensorBoard())
    if config.tracking.wandb.project is not None:
        _check("tracking.wandb", "wandb")
        from es_ray.callbacks.wandb import WeightsAndBiases

        found.append(WeightsAndBiases())
    if config.cluster.workers != 0:
        from es_ray.callbacks.ray_metrics import RayMetrics

        found.append(RayMetrics())
    return found


def _check(key: str, package: str) -> None:
    """Raise UserError unless a package is installed; package: also the name of es-ray's extra."""
    if not is_installed(package):
        raise UserError(f"{key}: needs the package {package}: pip install 'es-ray[{package}]'")
