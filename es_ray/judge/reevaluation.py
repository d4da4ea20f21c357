"""Past runs on other workers or another engine, such as a cluster's run on a laptop."""

from dataclasses import replace
from typing import Any

import torch

from es_ray.config import Config
from es_ray.engines.registry import ANYWHERE, AUTO, engine_spec
from es_ray.errors import UserError
from es_ray.evaluation import Candidate
from es_ray.imports import absolute
from es_ray.interrupts import interrupts_once
from es_ray.preparation import resolve_config
from es_ray.runs.past_run import PastRun
from es_ray.workers import open_pool


def reevaluation_config(
    recorded: Config, engine: str | None = None, workers: int | None = None, address: str | None = None
) -> Config:
    """A run's configuration with other workers and, if one is given, another engine.

    engine: as engine.kind; workers, address: as in the section cluster, whose recorded values are not used.
    Without both: this process for an engine that may run in it, else one Ray worker on this machine. An
    address alone: as many workers as that cluster has GPUs for. Raises UserError for what cannot run.
    """
    config = recorded.replace(cluster={"workers": "auto" if workers is None else workers, "address": address})
    if engine == AUTO:
        engine = resolve_config(by_engine(config, AUTO)).engine.kind
    if engine is not None and absolute(engine) != recorded.engine.kind:
        config = by_engine(config, engine)
    if address in (None, "local"):
        _check_gpus(config)
    config = resolve_config(config)
    if workers is None and address is None:
        config = config.replace(cluster__workers=int(not engine_spec(config.engine.kind).in_process))
    return config


def by_engine(config: Config, engine: str) -> Config:
    """With another engine, without the settings that are specific to the configured one."""
    return config.replace(
        engine__kind=engine, engine__rows="auto", engine__tensor_parallel=1, engine__sglang={}
    )


def _check_gpus(config: Config) -> None:
    """Raise UserError where this machine lacks the GPUs of one engine, before anything else it may lack."""
    spec, here = engine_spec(config.engine.kind), torch.cuda.device_count()
    needed = spec.gpus(config.engine, here > 0)
    if here < needed:
        raise UserError(
            f"engine.kind: {spec.name} needs {needed} GPU{'s' if needed > 1 else ''}, this machine has "
            f"{here or 'none'}; evaluate with --engine {ANYWHERE.name}, or on a cluster with --address"
        )


@interrupts_once()
def member_answers(past: PastRun, config: Config, index: int) -> dict[str, Any]:
    """What a member answers to the training prompts of its generation: {reward, metrics by name, examples}.

    config: of `reevaluation_config`. Raises UserError for workers that cannot start, RunError if the model's
    weights are not those that were evolved.
    """
    batch = past.experiment.batch(past.generation)
    rows = batch.rows(index, ("train",))
    workload = replace(
        past.experiment.workload_of(config.engine, rows), generations=str(past.run.generations)
    )
    with open_pool(config, workload) as pool:
        past.check_weights(pool.start())
        outcomes = pool.evaluate(
            past.centre_before(),
            past.strategy.perturbation,
            past.generation,
            [Candidate(index)],
            batch,
        )
    return outcomes.summary(index, "train") | {"examples": outcomes.examples(index, "train")}
