"""`es-ray run`."""

from pathlib import Path
from typing import Annotated

import typer

from es_ray.cli.options import ConfigFile, Debug, Engine, Model, Preset, Sets
from es_ray.config import BUNDLED, Config, load
from es_ray.config.loading import as_tree
from es_ray.errors import UserError


def run(
    config: ConfigFile = None,
    preset: Preset = None,
    workers: Annotated[int | None, typer.Option(help="Ray workers, one engine each.")] = None,
    local: Annotated[bool, typer.Option("--local", help="Without Ray, in this process.")] = False,
    address: Annotated[
        str | None,
        typer.Option(help="Ray to use: local (start one), auto (join the running one), host:port."),
    ] = None,
    engine: Engine = None,
    model: Model = None,
    task: Annotated[
        str | None, typer.Option(help="A task's name, or the import path of a function or a Task.")
    ] = None,
    train: Annotated[str | None, typer.Option(help="Training examples: a file, or hf:NAME:SPLIT.")] = None,
    test: Annotated[str | None, typer.Option(help="Test examples, likewise.")] = None,
    generations: Annotated[int | None, typer.Option(help="Total number of generations.")] = None,
    population: Annotated[int | None, typer.Option(help="Members per generation.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of everything random.")] = None,
    output: Annotated[
        Path | None, typer.Option(help="The run directory; default: a new one in runs/.")
    ] = None,
    set_: Sets = None,
    resume: Annotated[bool, typer.Option("--resume", help="Resume the run in --output.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check and print the configuration, then stop.")
    ] = False,
    debug: Debug = False,
) -> None:
    """Evolve a model. Without options: the bundled model, on this machine."""
    if local:
        _refuse_beside_local(workers, address, set_ or [])
    flags = {
        "cluster.workers": 0 if local else workers,
        "cluster.address": address,
        "engine.kind": engine,
        "model.path": model,
        "task.name": task,
        "task.train": train,
        "task.test": test,
        "evolution.generations": generations,
        "evolution.population": population,
        "evolution.seed": seed,
        "output.dir": None if output is None else str(output),
    }
    if resume:
        if preset is not None:
            raise UserError("--preset: a resumed run keeps its configuration; leave it out")
        folder = _folder_to_resume(config, output, set_ or [])
        flags["output.dir"] = str(folder)
        config = config or folder / "config.yaml"
    sets = [*(set_ or []), "cluster.address=null"] if local else set_ or []
    resolved = load(config, preset, sets, flags)
    if address is not None and workers is None and resolved.cluster.workers == 0:
        resolved = resolved.replace(cluster__workers="auto")  # an address implies Ray
    if dry_run:
        _dry_run(resolved, resume)
        return

    from es_ray.callbacks.console import TerminalConsole
    from es_ray.driver import run as evolve

    notes = [] if resume else _notes(resolved, chosen=preset is not None or config is not None)
    evolve(resolved, resume=resume, callbacks=[TerminalConsole(notes, bars=not debug)])


def _refuse_beside_local(workers: int | None, address: str | None, sets: list[str]) -> None:
    """Raise UserError for another place on the same command line; a configuration file may name one."""
    cluster = as_tree(sets).get("cluster")
    given = Config.parse({} if cluster is None else {"cluster": cluster}).cluster
    wanted = {
        "--workers": workers,
        "--address": address,
        "--set cluster.workers": given.workers not in (0, "auto"),
        "--set cluster.address": given.address is not None,
    }
    for name, value in wanted.items():
        if value:
            raise UserError(f"--local: runs without Ray; leave out {name}")


def _notes(config: Config, chosen: bool) -> list[str]:
    """Lines about defaults that might surprise."""
    notes = []
    if not chosen and config.model.path != BUNDLED:
        notes.append(
            "no preset or file was given: noise and step are general defaults, not tuned for this model "
            "(choose others with --preset, or --set evolution.noise.relative=...)"
        )
    if config.task.train is not None and config.task.test is None:
        notes.append(
            f"task.test is not set: the test prompts are the ones that come with the task {config.task.name}"
        )
    return notes


def _folder_to_resume(config: Path | None, output: Path | None, sets: list[str]) -> Path:
    """--output, or the folder that contains the given config.yaml."""
    folder = output or (config.parent if config is not None else None)
    for item in sets:
        if output is None and item.startswith("output.dir="):
            folder = Path(item.partition("=")[2])
    if folder is None:
        raise UserError("--resume: which run? Give its folder with --output")
    if not (folder / "config.yaml").is_file():
        raise UserError(f"--resume: {folder} is not a run directory (it has no config.yaml)")
    return folder


def _dry_run(config: Config, resume: bool) -> None:
    """Check everything that does not need the weights, and print what would run."""
    from es_ray.experiment import Experiment
    from es_ray.preparation import resolve_config
    from es_ray.runs.opening import new_run_dir, open_for_resume

    experiment = Experiment(resolve_config(config, resume)).with_batch_size()
    resolved = experiment.config
    _ = open_for_resume(resolved) if resume else new_run_dir(resolved)
    typer.echo(resolved.to_yaml(), nl=False)
    _ = experiment.task, experiment.optimizer
    prompts = experiment.prompts
    typer.echo(f"# {prompts['train']} training and {prompts['test']} test prompts")
    if experiment.source.is_cached:
        experiment.check()
        typer.echo(f"# {experiment.layout.size:,} LoRA entries in layers {experiment.layout.layers}")
    else:
        typer.echo(
            f"# {experiment.source.path} is not on this machine: its layers and modules were not checked"
        )
