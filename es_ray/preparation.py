"""From the configuration that was asked for to the one that runs: `auto` resolved, paths made absolute."""

from pathlib import Path

from es_ray.config import BUNDLED, Config
from es_ray.engines.sglang import arguments, compat
from es_ray.errors import UserError
from es_ray.models import ModelSource


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
