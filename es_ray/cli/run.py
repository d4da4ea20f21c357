"""`es-ray run`."""

from pathlib import Path
from typing import Annotated

import typer

from es_ray.cli.notes import run_notes
from es_ray.cli.options import (
    Address,
    ConfigFile,
    Debug,
    Engine,
    Generations,
    Local,
    Model,
    Population,
    Preset,
    Seed,
    Sets,
    TaskName,
    Test,
    Train,
    Workers,
    run_folder,
)
from es_ray.cli.requested import requested
from es_ray.config import Config
from es_ray.errors import UserError


def run(
    config: ConfigFile = None,
    preset: Preset = None,
    workers: Workers = None,
    local: Local = False,
    address: Address = None,
    engine: Engine = None,
    model: Model = None,
    task: TaskName = None,
    train: Train = None,
    test: Test = None,
    generations: Generations = None,
    population: Population = None,
    seed: Seed = None,
    output: Annotated[
        str | None,
        typer.Option(help="The run directory, or a URL (s3://...); default: a new one in runs/."),
    ] = None,
    set_: Sets = None,
    resume: Annotated[bool, typer.Option("--resume", help="Resume the run in --output.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check and print the configuration, then stop.")
    ] = False,
    debug: Debug = False,
) -> None:
    """Evolve a model. Without options: the bundled model, on this machine."""
    flags = {
        "cluster.workers": workers,
        "cluster.address": address,
        "engine.kind": engine,
        "model.path": model,
        "task.name": task,
        "task.train": train,
        "task.test": test,
        "evolution.generations": generations,
        "evolution.population": population,
        "evolution.seed": seed,
        "output.dir": output,
    }
    if resume:
        if preset is not None:
            raise UserError("--preset: a resumed run keeps its configuration; leave it out")
        folder = _folder_to_resume(config, output, set_ or [])
        flags["output.dir"] = str(folder)
        config = config or folder / "config.yaml"
    resolved = requested(config, preset, set_ or [], flags, local)
    if dry_run:
        _dry_run(resolved, resume)
        return

    from es_ray.callbacks.console import TerminalConsole
    from es_ray.driver import run as evolve

    notes = [] if resume else run_notes(resolved, config, preset, set_ or [], flags)
    evolve(resolved, resume=resume, callbacks=[TerminalConsole(notes, bars=not debug)])


def _folder_to_resume(config: Path | None, output: str | None, sets: list[str]) -> Path:
    """--output, or the folder that contains the given config.yaml; a URL's run is fetched."""
    given = output or (str(config.parent) if config is not None else None)
    for item in sets:
        if output is None and item.startswith("output.dir="):
            given = item.partition("=")[2]
    if given is None:
        raise UserError("--resume: which run? Give its folder with --output")
    folder = run_folder(given, resume=True)
    if not (folder / "config.yaml").is_file():
        raise UserError(f"--resume: {folder} is not a run directory (it has no config.yaml)")
    return folder


def _dry_run(config: Config, resume: bool) -> None:
    """Check everything that does not need the weights, and print what would run."""
    from es_ray.callbacks.trackers import trackers
    from es_ray.experiment import Experiment
    from es_ray.preparation import resolve_config
    from es_ray.runs.opening import new_run_dir, open_for_resume
    from es_ray.runs.remote_fetch import with_local_folder

    config, _store = with_local_folder(config, resume)
    experiment = Experiment(resolve_config(config, resume)).with_batch_size()
    resolved = experiment.config
    _ = open_for_resume(resolved) if resume else new_run_dir(resolved)
    _ = experiment.task, experiment.optimizer, trackers(resolved)
    prompts, cached = experiment.prompts, experiment.source.is_cached
    if cached:
        experiment.check()
    typer.echo(resolved.to_yaml(), nl=False)
    typer.echo(f"# {prompts['train']} training and {prompts['test']} test prompts")
    if cached:
        typer.echo(f"# {experiment.layout.size:,} LoRA entries in layers {experiment.layout.layers}")
    else:
        typer.echo(
            f"# {experiment.source.path} is not on this machine: its layers and modules were not checked"
        )
