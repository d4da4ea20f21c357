"""Workers: processes with one engine each, and the pools that the driver hands work to."""

from es_ray.config import Config
from es_ray.garbage import work_begins
from es_ray.tasks.batches import Workload
from es_ray.workers.pool import Pool


def open_pool(config: Config, workload: Workload) -> Pool:
    """The pool that the configuration asks for, not yet started: this process, or Ray.

    workload: what its engines are to prepare for.
    """
    pool: Pool
    if config.cluster.workers == 0:
        from es_ray.workers.local import LocalPool

        pool = LocalPool(config, workload)
    else:
        from es_ray.workers.ray_pool import RayPool

        pool = RayPool(config, workload)
    work_begins()  # by now nearly all is imported
    return pool
