"""Workers: processes with one engine each, and the pools that the driver hands work to."""

from es_ray.config import Config
from es_ray.workers.pool import Pool


def open_pool(config: Config) -> Pool:
    """The pool that the configuration asks for, not yet started: this process, or Ray."""
    if config.cluster.workers == 0:
        from es_ray.workers.local import LocalPool

        return LocalPool(config)
    from es_ray.workers.ray_pool import RayPool

    return RayPool(config)
