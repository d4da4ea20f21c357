"""`es-ray check-task`."""

import json
from typing import Annotated

import typer

from es_ray.cli.options import AsJson, Debug, Sets
from es_ray.config import load


def check_task(
    task: Annotated[
        str,
        typer.Argument(metavar="TASK", help="A task's name, or file.py:reward.", show_default=False),
    ],
    data: Annotated[str | None, typer.Option(help="Examples: a file; default: the task's own.")] = None,
    model: Annotated[
        str | None,
        typer.Option(help="Score this model's answers (bundled, a folder, a name), not made-up ones."),
    ] = None,
    set_: Sets = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Score some completions, and say what is wrong with the reward. Exits with 1 if a run would break."""
    from rich.console import Console

    from es_ray.engines.registry import ANYWHERE
    from es_ray.judge.check_table import check_lines, check_table
    from es_ray.judge.check_task import check_task as check
    from es_ray.judge.reevaluation import by_engine
    from es_ray.preparation import resolve_config

    flags = {"task.name": task, "task.train": data, "model.path": model}
    here = ["cluster.workers=0", "cluster.address=null"]
    config = load(sets=[*(set_ or []), *here], flags=flags)
    config = resolve_config(by_engine(config, ANYWHERE.name))  # a run's options may be for another one
    found = check(config, ask_model=model is not None)
    if as_json:
        typer.echo(json.dumps(found.as_dict(), indent=2, ensure_ascii=False))
    else:
        console = Console(highlight=False)
        console.print(check_table(found))
        for line in check_lines(found):
            console.print(line, soft_wrap=True, markup=False)
    if found.broken:
        raise typer.Exit(1)
