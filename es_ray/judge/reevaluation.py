"""A recorded run, judged where and by which engine one likes: a cluster's run on a laptop, say."""

from typing import Any

import torch

from es_ray.config import Config
from es_ray.engines.registry import ANYWHERE, AUTO, engine_spec
from es_ray.errors import UserError
from es_ray.imports import absolute
from es_ray.interrupts import interrupts_once
from es_ray.judge.evaluate import compare
from es_ray.preparation import resolve_config
from es_ray.runs.past_run import PastRun
from es_ray.workers import open_pool


def reevaluation_config(
    recorded: Config, engine: str | None = None, workers: int | None = None, address: str | None = None
) -> Config:
    """A run's configuration with another engine, if one is given, and with the workers that judge it.

    engine: as engine.kind; workers, address: as in the section cluster, of which nothing that was recorded is
    taken. Without both: this process for an engine that may run in it, else one Ray worker on this machine.
    An address alone: as many workers as the cluster there has GPUs for. Raises UserError for what cannot be.
    """
    config = recorded.replace(cluster={"workers": "auto" if workers is None else workers, "address": address})
    if engine == AUTO:
        engine = resolve_config(_by(config, AUTO)).engine.kind
    if engine is not None and absolute(engine) != recorded.engine.kind:
        config = _by(config, engine)
    if address in (None, "local"):
        _check_gpus(config)
    config = resolve_config(config)
    if workers is None and address is None:
        config = config.replace(cluster__workers=int(not engine_spec(config.engine.kind).in_process))
    return config


def _by(config: Config, engine: str) -> Config:
    """With another engine, which takes none of the recorded one's own settings."""
    return config.replace(engine__kind=engine, engine__tensor_parallel=1, engine__sglang={})


def _check_gpus(config: Config) -> None:
    """Raise UserError where this machine lacks the GPUs of one engine, before anything else it may lack."""
    spec, here = engine_spec(config.engine.kind), torch.cuda.device_count()
    needed = spec.gpus(config.engine, here > 0)
    if here < needed:
        raise UserError(
            f"engine.kind: {spec.name} needs {needed} GPU{'s' if needed > 1 else ''}, this machine has "
            f"{here or 'none'}; judge the run with --engine {ANYWHERE.name}, or on a cluster with --address"
        )


@interrupts_once()
def reevaluate(past: PastRun, config: Config, split: str) -> dict[str, Any]:
    """`compare` for a run as it was recorded, by the workers of `reevaluation_config`; writes nothing.

    Raises UserError for workers that cannot be had, RunError for a model with other weights than the one that
    was evolved.
    """
    with open_pool(config) as pool:
        past.check_weights(pool.start().mean_abs)
        return compare(pool, past.run, past.strategy, past.experiment.prompts, past.generation, split)
