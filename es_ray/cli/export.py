"""`es-ray export`."""

import json
from pathlib import Path
from typing import Annotated

import typer

from es_ray.cli.options import AsJson, Debug, RunDirectory


def export(
    run_dir: RunDirectory,
    output: Annotated[Path, typer.Option(help="The folder to write; must be new or empty.")],
    merged: Annotated[
        bool, typer.Option("--merged", help="The whole model, with the adapter in its weights.")
    ] = False,
    rank: Annotated[
        int | None, typer.Option(help="Of a run of form merged: the nearest adapter of this rank.")
    ] = None,
    generation: Annotated[
        int | None, typer.Option(help="The centre after this generation; default: the selected centre.")
    ] = None,
    index: Annotated[int | None, typer.Option(help="With --generation: a member instead.")] = None,
    best: Annotated[bool, typer.Option("--best", help="The best member of the run.")] = False,
    last: Annotated[bool, typer.Option("--last", help="The last centre.")] = False,
    base: Annotated[
        str | None, typer.Option(help="The base model's name on the hub, if the run's was a folder.")
    ] = None,
    push_to_hub: Annotated[
        str | None, typer.Option(metavar="NAME", help="Upload the folder to the Hugging Face hub.")
    ] = None,
    private: Annotated[bool, typer.Option("--private", help="If that makes a repository.")] = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Write a run's adapter, or the whole model, with a card; and push it to the hub."""
    from es_ray.exporting.export import export as write

    done = write(
        run_dir,
        output,
        generation=generation,
        index=index,
        best=best,
        last=last,
        merged=merged,
        rank=rank,
        base=base,
        push_to_hub=push_to_hub,
        private=private,
    )
    if as_json:
        typer.echo(json.dumps(done.as_json()))
        return
    what = "a PEFT adapter of" if done.agreement is None else "merged into"
    typer.echo(f"wrote {done.output}: {done.name}, {what} {done.base}")
    if done.share is not None:
        typer.echo(f"of rank {rank}: {done.share:.1%} of the norm of the run's updates")
    if done.generation < 0:
        typer.echo("note: the run selected its start: no update has changed this adapter (--last, --best)")
    if done.agreement is not None:
        typer.echo(f"checked: {done.agreement}")
        if done.agreement.is_lost:
            typer.echo(
                "warning: the adapter changes the answers by no more than rounding its sum with the weights "
                "may; export it without --merged"
            )
    if done.url is not None:
        typer.echo(f"pushed to {done.url}")
