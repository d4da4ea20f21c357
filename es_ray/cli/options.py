"""Options that several commands share."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from es_ray.config import preset_names
from es_ray.engines.registry import ENGINES


def run_folder(given: str, resume: bool = False) -> Path:
    """A run's folder on this machine; that of a URL is fetched, as `fetch` says. Raises UserError."""
    from es_ray.runs.remote_store import is_remote

    if not is_remote(given):
        return Path(given)
    from es_ray.runs.remote_fetch import fetch

    return fetch(given, resume)


RunDirectory = Annotated[
    Path,
    typer.Argument(
        metavar="RUN_DIR",
        help="The run directory, or a URL (s3://...).",
        show_default=False,
        parser=run_folder,
    ),
]
ConfigFile = Annotated[Path | None, typer.Option("--config", help="A YAML configuration file.")]


def _presets(incomplete: str) -> list[str]:
    """For the shell's completion: typer leaves the choice to it."""
    return [name for name in preset_names() if name.startswith(incomplete)]


Preset = Annotated[
    str | None, typer.Option(help=f"One of: {', '.join(preset_names())}.", autocompletion=_presets)
]
Engine = Annotated[
    str | None, typer.Option(help=f"auto, {', '.join(ENGINES)}, or the import path of an EngineSpec.")
]
Model = Annotated[str | None, typer.Option(help="bundled, a folder, or a Hugging Face name.")]
Sets = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Any key; may be repeated."),
]
Workers = Annotated[int | None, typer.Option(help="Ray workers, one engine each.")]
Local = Annotated[bool, typer.Option("--local", help="Without Ray, in this process.")]
Address = Annotated[
    str | None,
    typer.Option(help="Ray to use: local (start one), auto (join the running one), host:port."),
]
TaskName = Annotated[
    str | None, typer.Option(help="A task's name, or the import path of a function or a Task.")
]
Train = Annotated[str | None, typer.Option(help="Training examples: a file, or hf:NAME:SPLIT.")]
Test = Annotated[str | None, typer.Option(help="Test examples, likewise.")]
Generations = Annotated[int | None, typer.Option(help="Total number of generations.")]
Population = Annotated[int | None, typer.Option(help="Members per generation.")]
Seed = Annotated[int | None, typer.Option(help="Seed of everything random.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks.")]
AsJson = Annotated[bool, typer.Option("--json", help="JSON on standard output.")]
Split = Literal["train", "test", "validation"]
