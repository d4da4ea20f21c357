"""`es-ray report`."""

import json
from pathlib import Path
from typing import Annotated

import typer

from es_ray.cli.options import AsJson, Debug, RunDirectory
from es_ray.errors import UserError


def report(
    run_dir: RunDirectory,
    output: Annotated[
        Path | None, typer.Option(help="The file to write; default: report.html in the run directory.")
    ] = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Write a report of a run, also one that is still running: one HTML file that needs no network."""
    from es_ray.judge.report.page import write_report
    from es_ray.runs.run_dir import RunDir

    run = RunDir.open(run_dir)
    if output is not None and (output.is_dir() or not output.parent.is_dir()):
        what = "is a folder" if output.is_dir() else f"is in {output.parent}, which is no folder"
        raise UserError(f"--output: {output} {what}; name a file in a folder that exists")
    path = write_report(run, output)
    typer.echo(json.dumps({"report": str(path)}) if as_json else f"wrote {path}")
