"""Options that several commands share."""

from pathlib import Path
from typing import Annotated, Literal

import typer

RunDirectory = Annotated[
    Path, typer.Argument(metavar="RUN_DIR", help="The folder of a run.", show_default=False)
]
Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks.")]
Split = Literal["train", "test"]
