"""`es-ray evaluate`."""

import json
from typing import Annotated

import typer

from es_ray.cli.options import AsJson, Debug, Engine, RunDirectory, Split
from es_ray.errors import UserError
from es_ray.runs.run_dir import RunDir


def evaluate(
    run_dir: RunDirectory,
    generation: Annotated[
        int | None, typer.Option(help="The centre after this generation; default: the last.")
    ] = None,
    split: Annotated[Split, typer.Option(help="The examples to answer.")] = "test",
    workers: Annotated[int | None, typer.Option(help="Ray workers, one engine each.")] = None,
    local: Annotated[bool, typer.Option("--local", help="No Ray: everything in this process.")] = False,
    address: Annotated[
        str | None,
        typer.Option(help="Ray to use: local (start one), auto (join the running one), host:port."),
    ] = None,
    engine: Engine = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Show base model, centre and best member of a run side by side.

    Uses the run's engine unless --engine names another, on this machine unless --address names a cluster.
    """
    from rich.console import Console

    from es_ray.imports import short_name
    from es_ray.judge.reevaluation import reevaluate, reevaluation_config
    from es_ray.judge.table import comparison_table
    from es_ray.runs.past_run import open_past_run

    if local and (workers or address):
        raise UserError(f"--local: runs without Ray; leave out {'--workers' if workers else '--address'}")
    past = open_past_run(RunDir.open(run_dir), generation)
    config = reevaluation_config(past.config, engine, 0 if local else workers, address)
    results = reevaluate(past, config, split)
    if as_json:
        typer.echo(json.dumps(results, indent=2, ensure_ascii=False))
        return
    title = f"{split} split, after generation {past.generation}"
    if config.engine.kind != past.config.engine.kind:
        title += f", answered by {short_name(config.engine.kind)}"
    Console(highlight=False).print(comparison_table(results, title))
