"""Objects by import path, `package.module:attribute` or `path/to/file.py:attribute`: a user's own code."""

import importlib
import inspect
import os
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from es_ray.errors import UserError
from es_ray.imports.shipping import shipped_copy
from es_ray.imports.user_files import import_file

WANTED = "package.module:name, or path/to/file.py:name"


def is_import_path(name: str) -> bool:
    """Whether a name can only be an import path."""
    return ":" in name or name.endswith(".py")


def resolve(key: str, name: str, known: Mapping[str, Any]) -> Any:
    """What a configuration's name stands for: an entry of `known`, or what an import path names.

    key: the configuration's, for messages. Raises UserError for a name that is neither, a module that cannot
    be imported, and an attribute that is not there.
    """
    if not is_import_path(name):
        if name not in known:
            raise UserError(f"{key}: {name!r} is not allowed: must be one of {', '.join(known)}, or {WANTED}")
        return known[name]
    place, _, attribute = (name if ":" in name else f"{name}:").rpartition(":")
    module = _module_of(key, name, place)
    if not attribute:
        raise UserError(f"{key}: which of {place}? It has {_offers(module)}; say {place}:NAME")
    try:
        return getattr(module, attribute)
    except AttributeError:
        raise UserError(f"{key}: {place} has no {attribute!r}; it has {_offers(module)}") from None
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a module may have a __getattr__ of its own
        raise UserError(f"{key}: {name} cannot be had: {type(error).__name__}: {error}") from error


def absolute(name: str) -> str:
    """An import path of a file with the file's path made absolute; any other name as it is."""
    place, colon, attribute = name.rpartition(":")
    if not colon or not place.endswith(".py"):
        return name
    return f"{Path(place).expanduser().resolve()}:{attribute}"


def short_name(name: str) -> str:
    """What an import path names, without the path; any other name as it is."""
    return name.rpartition(":")[2]


def _module_of(key: str, name: str, place: str) -> ModuleType:
    if not place.endswith(".py"):
        if not all(part.isidentifier() for part in place.split(".")):
            what = f"{place} is a folder; " if place and Path(place).expanduser().is_dir() else ""
            raise UserError(f"{key}: {name!r} is not allowed: {what}must be {WANTED}")
        return _module(key, place)
    copy = shipped_copy(place)
    file = copy or Path(place).expanduser().resolve()
    if not file.is_file():
        what = "is a folder" if file.is_dir() else "no such file"
        raise UserError(f"{key}: {place}: {what}")
    try:
        return import_file(file, known_as=Path(place) if copy else file)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # whatever the user's module raises
        raise UserError(f"{key}: {place} cannot be imported: {_said(error, file)}") from error


def _module(key: str, name: str) -> ModuleType:
    here = os.getcwd()
    if here not in sys.path and "" not in sys.path:
        sys.path.append(here)  # an installed command does not look there; at the end, to hide nothing
    try:
        return importlib.import_module(name)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # whatever the user's module raises while it is imported
        raise UserError(f"{key}: {name} cannot be imported: {_said(error, None)}") from error


def _said(error: BaseException, file: Path | None) -> str:
    """An exception with the line of the user's file that it came from, if it came from one."""
    if isinstance(error, SyntaxError) and error.filename and error.lineno:
        return f"SyntaxError: {error.msg} ({error.filename}:{error.lineno})"
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == str(file)]
    said = f"{type(error).__name__}: {error}".removesuffix(": ")
    return f"{said} ({file}:{lines[-1]})" if lines else said


def _offers(module: ModuleType) -> str:
    """The functions and classes that a module defines, or whatever else it holds."""
    public = {name: value for name, value in vars(module).items() if not name.startswith("_")}
    own = [
        name
        for name, value in public.items()
        if inspect.isroutine(value) or inspect.isclass(value)
        if getattr(value, "__module__", None) == module.__name__
    ]
    return ", ".join((own or list(public))[:20]) or "nothing"


Made = TypeVar("Made")


def instance_of(kind: type[Made], key: str, name: str, found: Any, arguments: Mapping[str, Any]) -> Made:
    """An instance of a class that a configuration names; raises UserError unless it is one of that kind.

    A UserError of its constructor, such as those about an option, stays as it is.

    key: the configuration's, for messages; found: what the name stands for.
    """
    wanted = f"a class derived from {kind.__module__}.{kind.__name__} is wanted there"
    if not (isinstance(found, type) and issubclass(found, kind)):
        raise UserError(f"{key}: {name} is of type {type(found).__name__}; {wanted}")
    try:
        return found(**arguments)
    except (UserError, KeyboardInterrupt):
        raise
    except BaseException as error:  # whatever the user's class raises
        raise UserError(f"{key}: {name} cannot be made: {type(error).__name__}: {error}") from error
