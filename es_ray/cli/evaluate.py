"""`es-ray evaluate`."""

import json
from typing import Annotated

import typer

from es_ray.cli.options import AsJson, Debug, Engine, RunDirectory, Split
from es_ray.errors import UserError


def evaluate(
    run_dir: RunDirectory,
    generation: Annotated[
        int | None, typer.Option(help="The centre after this generation; default: the last.")
    ] = None,
    split: Annotated[Split | None, typer.Option(help="The examples to answer; default: test.")] = None,
    data: Annotated[
        str | None, typer.Option(help="Other examples: a file, or hf:NAME:SPLIT, with the run's columns.")
    ] = None,
    task: Annotated[
        str | None, typer.Option(help="Another task on the same adapters: what was forgotten?")
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="task.KEY=VALUE", help="May be repeated.")
    ] = None,
    samples: Annotated[int | None, typer.Option(help="Completions of each prompt.")] = None,
    temperature: Annotated[float | None, typer.Option(help="Of the samples.")] = None,
    greedy: Annotated[
        bool, typer.Option("--greedy", help="The likeliest tokens, of a run that sampled.")
    ] = False,
    member: Annotated[
        list[str] | None, typer.Option(metavar="GENERATION:INDEX", help="A member too; may be repeated.")
    ] = None,
    workers: Annotated[int | None, typer.Option(help="Ray workers, one engine each.")] = None,
    local: Annotated[bool, typer.Option("--local", help="No Ray: everything in this process.")] = False,
    address: Annotated[
        str | None,
        typer.Option(help="Ray to use: local (start one), auto (join the running one), host:port."),
    ] = None,
    engine: Engine = None,
    as_json: AsJson = False,
    as_csv: Annotated[
        bool, typer.Option("--csv", help="Every completion as CSV on standard output.")
    ] = False,
    debug: Debug = False,
) -> None:
    """Show base model, centre, best member and selected centre of a run side by side.

    Uses the run's engine unless --engine names another, on this machine unless --address names a cluster.
    """
    from rich.console import Console

    from es_ray.judge.evaluation import evaluate
    from es_ray.judge.evaluation_table import evaluation_table, footnote

    if as_json and as_csv:
        raise UserError("--json, --csv: one of the two")
    if local and (workers or address):
        raise UserError(f"--local: runs without Ray; leave out {'--workers' if workers else '--address'}")
    found = evaluate(
        run_dir,
        generation=generation,
        split=split,
        data=data,
        task=task,
        sets=set_ or [],
        samples=samples,
        temperature=temperature,
        greedy=greedy,
        members=member or [],
        engine=engine,
        workers=0 if local else workers,
        address=address,
    )
    if as_json:
        typer.echo(json.dumps(found.as_json(), indent=2, ensure_ascii=False))
    elif as_csv:
        typer.echo(found.as_csv(), nl=False)
    else:
        console = Console(highlight=False)
        console.print(evaluation_table(found))
        console.print(footnote(found.settings, found.statistics), markup=False)
