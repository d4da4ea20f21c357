"""`es-ray plot`."""

import json

import typer

from es_ray.cli.options import AsJson, Debug, RunDirectory
from es_ray.errors import UserError


def plot(run_dir: RunDirectory, as_json: AsJson = False, debug: Debug = False) -> None:
    """Draw the plot of a run again, up to its last complete generation."""
    from es_ray.callbacks.plots import draw
    from es_ray.runs.run_dir import RunDir

    run = RunDir.open(run_dir)
    last = run.last_complete()
    if last < 0:
        raise UserError(f"{run.path}: has no finished generation to plot")
    path = draw(run, last)
    typer.echo(json.dumps({"plot": str(path), "generation": last}) if as_json else f"wrote {path}")
