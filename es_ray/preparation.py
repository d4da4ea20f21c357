"""From the configuration as requested to the one that runs: `auto` resolved, paths made absolute."""

import logging
import math
import sys
from pathlib import Path

from es_ray.config import BUNDLED, Config
from es_ray.engines.cores import physical_cores
from es_ray.engines.registry import ANYWHERE, AUTO, ENGINES, Machine, automatic, engine_spec, is_installed
from es_ray.engines.spec import EngineSpec
from es_ray.errors import UserError
from es_ray.imports import absolute, forget_changed
from es_ray.models import ModelSource
from es_ray.runs.run_dir import RunDir
from es_ray.tasks.data import absolute_data

log = logging.getLogger(__name__)


def resolve_config(config: Config, resume: bool = False) -> Config:
    """The configuration with `auto` resolved and paths made absolute; raises UserError if it cannot run.

    resume: it is that of a run which goes on, perhaps on another machine; what was recorded counts there.
    """
    forget_changed()
    kind, spec = _engine(config)
    workers = config.cluster.workers
    if workers == 0 and not spec.in_process:
        raise UserError(
            f"engine.kind: {spec.name} runs in Ray workers, as a failed engine ends its process; "
            f"leave out --local, or use {_in_process()}"
        )
    spec.check(config, config.cluster.address in (None, "local"))
    values: dict[str, object] = {"engine__kind": kind}
    if config.engine.rows == "auto":
        values["engine__rows"] = spec.rows
    if config.engine.threads == "auto":
        values["engine__threads"] = _recorded_threads(config, resume) or _threads(config, spec)
    if config.evaluation.kl_every is not None and not spec.log_probs:
        log.info("engine.kind: %s gives no log-probabilities, so no KL is measured", spec.name)
        values["evaluation__kl_every"] = None
    if workers == "auto" and config.cluster.address is None:
        values["cluster__workers"] = _workers_here(config, spec)
    elif workers == 0 and config.cluster.address is not None:
        raise UserError(
            f"cluster.address: {config.cluster.address} is for Ray workers; "
            "cluster.workers 0 runs without Ray"
        )
    if config.model.path != BUNDLED:
        values["model__path"] = ModelSource.of(config.model).path
    for key in ("train", "test", "validation"):
        data = getattr(config.task, key)
        if data is not None:
            values[f"task__{key}"] = absolute_data(data)
    values["task__name"] = absolute(config.task.name)
    values["evolution__optimizer"] = absolute(config.evolution.optimizer)
    if isinstance(config.tracking.tensorboard, str):  # a resumed run may be started elsewhere
        values["tracking__tensorboard"] = str(Path(config.tracking.tensorboard).expanduser().resolve())
    resolved = config.replace(**values)
    return resolved.replace(engine__processes=_processes(resolved, spec))


def _engine(config: Config) -> tuple[str, EngineSpec]:
    """The engine's kind as recorded, with `auto` resolved and a file's path absolute, and its spec."""
    engine, cluster = config.engine, config.cluster
    if engine.kind != AUTO:
        kind = absolute(engine.kind)
        return kind, engine_spec(kind)
    if cluster.workers != 0 and cluster.address not in (None, "local"):
        from es_ray.doctor.nodes import cluster_engine  # importing Ray is slow

        spec = cluster_engine(config)
    else:
        spec = automatic(engine, [Machine(_gpus(), is_installed)], in_process=cluster.workers == 0)
    return spec.name, spec


def _workers_here(config: Config, spec: EngineSpec) -> int:
    """The number of workers that this machine has GPUs for; 0, this process, for an engine without GPUs."""
    gpus = _gpus()
    each = spec.gpus(config.engine, gpus > 0)
    if gpus < each:
        raise UserError(
            f"engine.kind: {spec.name} needs {_counted(each, 'GPU')}, this machine has {gpus or 'none'}; "
            f"use {ANYWHERE.name}, or --address for a cluster that has"
        )
    return gpus // each if each else int(not spec.in_process)


def _threads(config: Config, spec: EngineSpec) -> int:
    """The cores of this machine; 1 where a GPU computes, or where another machine may."""
    elsewhere = config.cluster.workers != 0 and config.cluster.address not in (None, "local")
    if elsewhere or spec.gpus(config.engine, _gpus() > 0):
        return 1
    return physical_cores()


def _processes(config: Config, spec: EngineSpec) -> int:
    """In how many processes a run generates: as many as it has shards, where there are cores for it."""
    wanted = config.engine.processes
    here = spec.processes and config.cluster.workers == 0 and not _gpus() and sys.platform == "linux"
    if not here or config.lora.form == "merged" or config.engine.threads != 1:
        if wanted not in ("auto", 1):
            log.info(
                "engine.processes: 1 instead of %s, which is for transformers on a CPU under Linux without "
                "Ray, with engine.threads 1 and in other forms than merged",
                wanted,
            )
        return 1
    if wanted != "auto":
        return wanted
    shards = math.ceil((config.evolution.population + 1) / config.engine.shard)
    return min(physical_cores(), shards)


def _recorded_threads(config: Config, resume: bool) -> int | None:
    """The threads of the run to resume, as other ones may give other bytes; None if there is no such run."""
    folder = Path(config.output.dir).expanduser() if resume and config.output.dir is not None else None
    if folder is None or not RunDir(folder).config_file.is_file():
        return None
    threads = RunDir(folder).config().engine.threads
    return None if threads == "auto" else threads


def _in_process() -> str:
    return " or ".join(name for name, spec in ENGINES.items() if spec.in_process)


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'s' if count != 1 else ''}"


def _gpus() -> int:
    import torch

    return torch.cuda.device_count()
