"""From what was asked for to what will run: `auto` settled, the folder claimed, a resumed run compared."""

import importlib.util
from datetime import datetime
from pathlib import Path

from es_ray.config import BUNDLED, Config, differences
from es_ray.errors import UserError
from es_ray.models import ModelSource
from es_ray.run_dir import RunDir


def settle(config: Config) -> Config:
    """The configuration with `auto` settled and paths made absolute; raises UserError for what cannot be."""
    values: dict[str, object] = {"engine__kind": _engine(config)}
    workers = config.cluster.workers
    if workers == "auto" and config.cluster.address is None:
        values["cluster__workers"] = _gpus()  # none: this process
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


def claim(config: Config) -> RunDir:
    """The run directory for a new run; raises UserError if it holds anything. Writes nothing."""
    if config.output.dir is None:
        name = Path(config.model.path).name if config.model.path != BUNDLED else "tiny-chat"
        stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
        path = Path("runs") / f"{name}-{config.task.name}-{stamp}"
    else:
        path = Path(config.output.dir).expanduser()
    if path.exists() and not path.is_dir():
        raise UserError(f"output.dir: {path} is not a folder")
    if path.exists() and any(path.iterdir()):
        raise UserError(
            f"output.dir: {path} is not empty; give another folder, or --resume to go on with its run"
        )
    return RunDir(path)


def reopen(config: Config) -> RunDir:
    """The run directory to resume; raises UserError if the configuration is not the run's. Writes nothing."""
    if config.output.dir is None:
        raise UserError("--resume: which run? Give its folder with --output")
    run = RunDir.open(Path(config.output.dir).expanduser())
    changed = differences(run.config(), config)
    if changed:
        raise UserError(
            f"--resume: {run.path} was started with another {changed[0]}"
            + (f", and {len(changed) - 1} more" if len(changed) > 1 else "")
            + "; only evolution.generations, cluster.* and output.* may change"
        )
    whole = run.last_whole()
    if whole >= config.evolution.generations:
        raise UserError(
            f"evolution.generations: {config.evolution.generations} is less than the {whole + 1} generations "
            f"that {run.path} already has"
        )
    return run


def _engine(config: Config) -> str:
    kind = config.engine.kind
    if kind == "sglang":
        if importlib.util.find_spec("sglang") is None:
            raise UserError(
                "engine.kind: sglang is not installed; pip install 'es-ray[sglang]', or use transformers"
            )
        raise UserError("engine.kind: this version of es-ray has no SGLang engine; use transformers")
    return "transformers" if kind == "auto" else kind


def _gpus() -> int:
    import torch

    return torch.cuda.device_count()
