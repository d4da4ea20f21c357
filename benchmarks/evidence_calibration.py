"""What `es-ray calibrate` recommends for a task, once for all runs of a plan."""

import contextlib
import io
import json
import shutil
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from unittest.mock import patch

from es_ray.cli import main as command_line
from es_ray.config import Config

COMMAND = "calibrate"


def is_available() -> bool:
    """Whether this version of es-ray has the command."""
    commands = command_line.app.registered_commands
    return COMMAND in [command.name or getattr(command.callback, "__name__", "") for command in commands]


def calibrate(config: Config, folder: Path) -> dict[str, Any]:
    """{settings, seconds, report}: the command's own --json, of a run with that configuration.

    Raises RuntimeError with what it said if it fails, or recommends nothing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if config.output.dir is not None:  # of an earlier call on this machine
        shutil.rmtree(config.output.dir, ignore_errors=True)
    file = folder / "calibrate.yaml"
    file.write_text(config.to_yaml(), encoding="utf-8")
    arguments = ["es-ray", COMMAND, "--config", str(file), "--local", "--json"]
    out, errors, started = io.StringIO(), io.StringIO(), time.perf_counter()
    code: Any = 0
    with (
        patch.object(sys, "argv", arguments),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(errors),
    ):
        try:
            command_line.main()
        except SystemExit as ended:
            code = ended.code or 0
    if code:
        raise RuntimeError(f"{' '.join(arguments)}: {errors.getvalue().strip()}")
    report = json.loads(out.getvalue())
    return {
        "settings": settings_of(report),
        "seconds": time.perf_counter() - started,
        "report": report,
    }


def settings_of(report: Mapping[str, Any]) -> dict[str, Any]:
    """The settings to add, by dotted key, in a report of the command."""
    found = report.get("settings")
    if not isinstance(found, Mapping) or not found:
        raise RuntimeError(f"es-ray calibrate recommends no settings: {json.dumps(report)[:300]}")
    return dict(found)
