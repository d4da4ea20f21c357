"""How many workers a cluster can have, with how many GPUs each, and what it has free."""

import ray

from es_ray.config import Config
from es_ray.engines.registry import engine_spec
from es_ray.errors import UserError


def placement(config: Config, own: bool) -> tuple[int, int]:
    """How many workers, and how many GPUs each; raises UserError where the cluster cannot have them.

    own: whether the connected Ray was started for this run, so that no machine will join it.
    """
    engine, wanted = config.engine, config.cluster.workers
    resources = ray.cluster_resources()
    gpus = int(resources.get("GPU", 0))
    each = engine_spec(engine.kind).gpus(engine, gpus > 0)
    count = wanted if wanted != "auto" else max(gpus // max(each, 1), 1)
    # another machine may join a cluster later; but one GPU must be there, and what is started here stays
    if each and gpus < (count * each if own else each):
        nodes = sum(node["Alive"] for node in ray.nodes())
        raise UserError(
            f"cluster.workers: {count} with {each} GPU{'s' if each > 1 else ''} each are wanted; the "
            f"cluster has {gpus or 'no'} GPU{'s' if gpus != 1 else ''} and {resources.get('CPU', 0):g} "
            f"CPUs on {nodes} node{'s' if nodes != 1 else ''}"
        )
    return count, each


def free_resources() -> str:
    """The cluster's free GPUs and CPUs, for display."""
    have, free = ray.cluster_resources(), ray.available_resources()
    parts = [f"{free.get(what, 0):g} of {have.get(what, 0):g} {what}s free" for what in ("GPU", "CPU")]
    return " and ".join(parts)
