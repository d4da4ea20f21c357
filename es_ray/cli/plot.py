"""`es-ray plot`."""

import typer

from es_ray.cli.options import Debug, RunDirectory
from es_ray.errors import UserError
from es_ray.runs.run_dir import RunDir


def plot(run_dir: RunDirectory, debug: Debug = False) -> None:
    """Draw the plot of a run again, up to its last whole generation."""
    from es_ray.callbacks.plots import draw

    run = RunDir.open(run_dir)
    last = run.last_complete()
    if last < 0:
        raise UserError(f"{run.path}: has no finished generation to plot")
    typer.echo(f"wrote {draw(run, last)}")
