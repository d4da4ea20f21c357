"""docs/reference/commands.md: each command with its arguments and options, as `--help` has them."""

from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import typer
from page_text import page, prose, table, visible

from es_ray.cli.main import app

INTRODUCTION = """\
`es-ray COMMAND --help` prints the same, `es-ray --version` the version; `es-ray --install-completion` lets
the Tab key of your shell (bash, zsh, fish) complete commands, options and presets. Exit codes: 0; 1 for a
run that failed; 2 for bad input, before anything is written; 130 after Ctrl-C and 143 after SIGTERM. A flag
overrides `--set`, which overrides the file, which overrides the preset. Runs of version 0.1.0 resume,
evaluate, plot, report and export; a run of a newer format is refused."""
KINDS = {int: "INTEGER", float: "NUMBER", Path: "PATH", str: "TEXT"}


def commands_page() -> str:
    """The page."""
    group: Any = typer.main.get_command(app)
    sections = [_section(f"es-ray {name}", command) for name, command in group.commands.items()]
    return page("Commands", INTRODUCTION, *sections)


def _section(name: str, command: Any) -> str:
    hints = get_type_hints(command.callback)
    parameters = [(p, _kind(hints[p.name])) for p in command.params if p.name in hints]
    values = [_value(p, kind) for p, kind in parameters if p.param_type_name == "argument"]
    usage = " ".join([name, *values, "[OPTIONS]"])
    rows = [[_names(p, kind), _default(p), _help(p)] for p, kind in parameters]
    return "\n\n".join(
        [f"## {name}", f"`{usage}`", prose(command.help), table(["option", "default", "meaning"], rows)]
    )


def _kind(hint: Any) -> Any:
    """What one value is: of an optional one, and of a list, the kind inside."""
    if get_origin(hint) in (Union, UnionType, list):
        return _kind(next(kind for kind in get_args(hint) if kind is not type(None)))
    return hint


def _names(parameter: Any, kind: Any) -> str:
    if parameter.param_type_name == "argument":
        return f"`{_value(parameter, kind)}`"
    value = "" if kind is bool else f" {_value(parameter, kind)}"
    return ", ".join(f"`{name}{value}`" for name in (*parameter.opts, *parameter.secondary_opts))


def _value(parameter: Any, kind: Any) -> str:
    if parameter.metavar:
        return str(parameter.metavar)
    if parameter.param_type_name == "argument":
        return str(parameter.name).upper() + ("..." if parameter.nargs == -1 else "")
    return "|".join(get_args(kind)) if get_origin(kind) is Literal else KINDS[kind]


def _default(parameter: Any) -> str:
    if parameter.required:
        return "required"
    value = parameter.default
    shown = isinstance(value, (str, int, float)) and not isinstance(value, bool)
    return f"`{value}`" if shown else ""


def _help(parameter: Any) -> str:
    text = visible(parameter.help or "")
    return f"{text} May be repeated." if parameter.multiple and "repeated" not in text else text
