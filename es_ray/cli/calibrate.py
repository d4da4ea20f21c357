"""`es-ray calibrate`."""

import json
from typing import Annotated

import typer

from es_ray.cli.notes import task_notes
from es_ray.cli.options import (
    Address,
    AsJson,
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
)
from es_ray.cli.requested import requested
from es_ray.errors import UserError
from es_ray.runs.remote_store import is_remote


def calibrate(
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
        str | None, typer.Option(help="Where to write; default: a new folder in runs/.")
    ] = None,
    set_: Sets = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Find noise and a learning rate that fit a model and a task. Takes the options of the run to come."""
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
    resolved = requested(config, preset, set_ or [], flags, local)
    if is_remote(resolved.output.dir):
        raise UserError(f"--output: es-ray calibrate writes into a folder, not to {resolved.output.dir}")

    from es_ray.callbacks.calibration_progress import CalibrationProgress
    from es_ray.judge.calibrate import calibrate as find
    from es_ray.judge.calibration_table import calibration_lines, calibration_tables

    with CalibrationProgress(quiet=as_json) as progress:
        for note in task_notes(resolved, config, preset, set_ or [], flags):
            progress.out.print(f"note: {note}", soft_wrap=True, markup=False)
        found = find(resolved, progress.report)
    if as_json:
        typer.echo(json.dumps(found.as_json(), indent=2, ensure_ascii=False))
        return
    for table in calibration_tables(found):
        progress.out.print(table)
    for line in calibration_lines(found):
        progress.out.print(line, soft_wrap=True, markup=False)
