"""From what was asked for to what will run: `auto` settled, the folder claimed, a resumed run compared."""

import itertools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from es_ray.config import BUNDLED, Config, differences
from es_ray.engines.sglang import arguments, compat
from es_ray.errors import UserError
from es_ray.models import ModelSource
from es_ray.runs.lock import holder
from es_ray.runs.run_dir import RunDir


def resolve_config(config: Config) -> Config:
    """The configuration with `auto` settled and paths made absolute; raises UserError for what cannot be."""
    gpus, kind = _gpus(), config.engine.kind
    workers = config.cluster.workers
    if kind == "auto" and workers != 0 and config.cluster.address not in (None, "local"):
        from es_ray.doctor.nodes import engine_kind  # Ray takes its time to import

        kind = engine_kind(config)
    elif kind == "auto":
        kind = "sglang" if gpus and workers != 0 and compat.installed() else "transformers"
    values: dict[str, object] = {"engine__kind": kind}
    if kind == "sglang":
        _check_sglang(config)
    elif config.engine.tensor_parallel > 1:
        raise UserError(
            f"engine.tensor_parallel: {config.engine.tensor_parallel} is for sglang; transformers takes 1"
        )
    if workers == "auto" and config.cluster.address is None:
        if kind == "sglang" and gpus < config.engine.tensor_parallel:
            raise UserError(
                f"engine.kind: sglang needs {_counted(config.engine.tensor_parallel, 'GPU')}, this machine "
                f"has {gpus or 'none'}; use transformers, or --address for a cluster that has"
            )
        values["cluster__workers"] = gpus // _gpus_each(config, kind)  # none: this process
    elif workers == 0 and config.cluster.address is not None:
        raise UserError(
            f"cluster.address: {config.cluster.address} is for Ray workers; "
            "cluster.workers 0 runs without Ray"
        )
    if config.model.path != BUNDLED:
        values["model__path"] = ModelSource.of(config.model).path
    for key in ("train", "test"):
        file = getattr(config.task, key)
        if file is not None:
            values[f"task__{key}"] = str(Path(file).expanduser().resolve())
    return config.replace(**values)


@contextmanager
def locked_run_dir(config: Config, resume: bool) -> Iterator[RunDir]:
    """The run directory to write, no other driver's until the end; raises UserError if it cannot be had.

    That of a new run is locked when it is made (`RunDir.create`): until then nothing is written.
    """
    run = open_for_resume(config) if resume else new_run_dir(config)
    try:
        if resume:
            run.lock()
            open_for_resume(
                config
            )  # once more: another driver may have gone on with it before the lock was ours
        yield run
    finally:
        run.release()


def new_run_dir(config: Config) -> RunDir:
    """The run directory for a new run; raises UserError if it holds anything. Writes nothing."""
    if config.output.dir is None:
        name = Path(config.model.path).name if config.model.path != BUNDLED else "tiny-chat"
        stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
        plain = Path("runs") / f"{name}-{config.task.name}-{stamp}"
        others = (plain.with_name(f"{plain.name}-{number}") for number in itertools.count(2))
        path = next(path for path in itertools.chain([plain], others) if not path.exists())
    else:
        path = Path(config.output.dir).expanduser()
    run = RunDir(path)
    try:
        if path.exists() and not path.is_dir():
            raise UserError(f"output.dir: {path} is not a folder")
        if not run.is_empty():
            raise UserError(
                holder(path)
                or f"output.dir: {path} is not empty; give another folder, or --resume to go on with its run"
            )
        there = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
        if there.is_dir() and not os.access(there, os.W_OK | os.X_OK):
            raise UserError(f"output.dir: {path} cannot be written: {there} is read-only for this user")
    except OSError as error:
        raise UserError(f"output.dir: {str(path)[:200]} cannot be used: {error.strerror}") from error
    return run


def open_for_resume(config: Config) -> RunDir:
    """The run directory to resume; raises UserError if the configuration is not the run's. Writes nothing."""
    if config.output.dir is None:
        raise UserError("--resume: which run? Give its folder with --output")
    run = RunDir.open(Path(config.output.dir).expanduser())
    changed = differences(run.config(), config)
    if changed:
        raise UserError(
            f"--resume: {run.path} was started with another {changed[0]}"
            + (f", and {len(changed) - 1} more" if len(changed) > 1 else "")
            + "; only evolution.generations, cluster.*, output.* and tracking.* may change"
        )
    whole = run.last_complete()
    if whole >= config.evolution.generations:
        raise UserError(
            f"evolution.generations: {config.evolution.generations} is less than the {whole + 1} generations "
            f"that {run.path} already has"
        )
    return run


def _check_sglang(config: Config) -> None:
    """Raise UserError for what the SGLang engine would refuse, before anything is written."""
    if config.cluster.workers == 0:
        raise UserError(
            "engine.kind: sglang runs in Ray workers, as a failed engine ends its process; "
            "leave out --local, or use transformers"
        )
    if config.cluster.address is not None and compat.installed() is None:
        return  # the driver hosts no engine: each worker checks what its node has
    root = compat.package()
    compat.check(root)
    arguments.check_handed_through(config.engine.sglang, compat.argument_names(root))


def _gpus_each(config: Config, kind: str) -> int:
    return config.engine.tensor_parallel if kind == "sglang" else 1


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'s' if count != 1 else ''}"


def _gpus() -> int:
    import torch

    return torch.cuda.device_count()
