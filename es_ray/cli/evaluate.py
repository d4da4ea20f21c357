"""`es-ray evaluate`."""

import json
from typing import Annotated

import typer

from es_ray.cli.options import AsJson, Debug, RunDirectory, Split
from es_ray.runs.run_dir import RunDir


def evaluate(
    run_dir: RunDirectory,
    generation: Annotated[
        int | None, typer.Option(help="The centre after this generation; default: the last.")
    ] = None,
    split: Annotated[Split, typer.Option(help="Which examples.")] = "test",
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Show base model, centre and best member of a run side by side."""
    from rich.console import Console

    from es_ray.judge.evaluate import compare
    from es_ray.judge.table import comparison_table
    from es_ray.runs.past_run import open_past_run
    from es_ray.workers.local import LocalPool

    past = open_past_run(RunDir.open(run_dir), generation)
    with LocalPool(past.config) as pool:
        past.check_weights(pool.start().mean_abs)
        results = compare(pool, past.run, past.strategy, past.experiment.prompts, past.generation, split)
    if as_json:
        typer.echo(json.dumps(results, indent=2, ensure_ascii=False))
    else:
        title = f"{split} split, after generation {past.generation}"
        Console(highlight=False).print(comparison_table(results, title))
