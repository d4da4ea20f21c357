"""`es-ray doctor`."""

import json
import sys
from typing import Annotated

import typer

from es_ray.cli.options import ConfigFile, Debug, Engine, Model, Preset, Sets
from es_ray.config import load
from es_ray.errors import UserError


def doctor(
    config: ConfigFile = None,
    preset: Preset = None,
    local: Annotated[bool, typer.Option("--local", help="Only this machine, without Ray.")] = False,
    address: Annotated[
        str | None,
        typer.Option(help="The cluster: auto (the running one) or host:port; default: this machine."),
    ] = None,
    engine: Engine = None,
    model: Model = None,
    set_: Sets = None,
    timeout: Annotated[float, typer.Option(help="Seconds within which nodes must answer.", min=1)] = 30,
    as_json: Annotated[bool, typer.Option("--json", help="JSON on standard output.")] = False,
    debug: Debug = False,
) -> None:
    """Check the nodes of a run, and report what is wrong with them. Exits with 1 if anything is."""
    if local and address:
        raise UserError("--local: checks only this machine; leave out --address")
    flags = {"cluster.address": address, "engine.kind": engine, "model.path": model}
    sets = [*(set_ or []), "cluster.address=null"] if local else set_ or []
    resolved = load(config, preset, sets, flags)

    from rich.console import Console

    from es_ray.doctor.diagnosis import diagnose
    from es_ray.doctor.table import finding_lines, health_table

    diagnosis = diagnose(resolved, timeout)
    if as_json:
        typer.echo(json.dumps(diagnosis.as_dict(), indent=2, ensure_ascii=False))
    else:
        console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)
        console.print(health_table(diagnosis.driver, diagnosis.nodes, diagnosis.packages, console.width))
        for line in finding_lines(diagnosis.findings):
            console.print(line, soft_wrap=True)
    if not diagnosis.healthy:
        raise typer.Exit(1)
