"""`es-ray compare`."""

import json
from pathlib import Path
from typing import Annotated

import typer

from es_ray.cli.options import AsJson, Debug


def compare(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN_DIR RUN_DIR ...", help="Runs.", show_default=False)
    ],
    output: Annotated[
        Path, typer.Option(help="The folder of compare.png, compare.md and compare.json.")
    ] = Path("compare"),
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Compare runs: curves with bands over seeds, final results, and the configuration keys that differ.

    Runs that differ in evolution.seed alone are one group. Runs may still be running.
    """
    from rich.console import Console

    from es_ray.judge.compare import FILES, compare
    from es_ray.judge.comparison_table import comparison_tables, notes

    found = compare(runs, output)
    if as_json:
        typer.echo(json.dumps(found.as_json(), indent=2, ensure_ascii=False))
        return
    console = Console(highlight=False)
    for table in comparison_tables(found):
        console.print(table)
    console.print(notes(found), markup=False)
    for name in FILES:
        typer.echo(f"wrote {output / name}")
