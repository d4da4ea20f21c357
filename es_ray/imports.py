"""Objects by import path, `package.module:attribute` or `path/to/file.py:attribute`: a user's own code."""

import importlib
import importlib.util
import sys
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from es_ray.errors import UserError


def is_import_path(name: str) -> bool:
    """Whether a name can only be an import path."""
    return ":" in name


def resolve(key: str, name: str, known: Mapping[str, Any]) -> Any:
    """What a configuration's name stands for: an entry of `known`, or what an import path names.

    key: the configuration's, for messages. Raises UserError for a name that is neither, a module that cannot
    be imported, and an attribute that is not there.
    """
    if not is_import_path(name):
        if name not in known:
            raise UserError(
                f"{key}: {name!r} is not allowed: must be one of {', '.join(known)}, "
                "or package.module:name, or path/to/file.py:name"
            )
        return known[name]
    place, _, attribute = name.rpartition(":")
    module = _file_module(key, place) if place.endswith(".py") else _module(key, place)
    try:
        return getattr(module, attribute)
    except AttributeError:
        there = [n for n in vars(module) if not n.startswith("_")]
        raise UserError(f"{key}: {place} has no {attribute!r}; it has {', '.join(there[:20])}") from None


def absolute(name: str) -> str:
    """An import path of a file with the file's path made absolute; any other name as it is."""
    place, colon, attribute = name.rpartition(":")
    if not colon or not place.endswith(".py"):
        return name
    return f"{Path(place).expanduser().resolve()}:{attribute}"


def short_name(name: str) -> str:
    """What an import path names, without the path; any other name as it is."""
    return name.rpartition(":")[2]


def _module(key: str, name: str) -> Any:
    try:
        return importlib.import_module(name)
    except (Exception, SystemExit) as error:  # whatever the user's module raises while it is imported
        raise UserError(f"{key}: {name} cannot be imported: {type(error).__name__}: {error}") from error


def _file_module(key: str, place: str) -> Any:
    file = Path(place).expanduser().resolve()
    if not file.is_file():
        raise UserError(f"{key}: {place}: no such file")
    name = f"es_ray_user_{file.stem}_{zlib.crc32(str(file).encode()):08x}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None and spec.loader is not None  # it ends in .py
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickle look their module up there
    try:
        spec.loader.exec_module(module)
    except BaseException as error:
        del sys.modules[name]  # half of it must not be what the next one finds
        if not isinstance(error, (Exception, SystemExit)):
            raise
        raise UserError(f"{key}: {file} cannot be imported: {type(error).__name__}: {error}") from error
    return module


Made = TypeVar("Made")


def instance_of(kind: type[Made], key: str, name: str, found: Any, arguments: Mapping[str, Any]) -> Made:
    """An instance of a class that a configuration names; raises UserError unless it is one of that kind.

    key: the configuration's, for messages; found: what the name stands for.
    """
    wanted = f"a class derived from {kind.__module__}.{kind.__name__} is wanted there"
    if not (isinstance(found, type) and issubclass(found, kind)):
        raise UserError(f"{key}: {name} is of type {type(found).__name__}; {wanted}")
    try:
        return found(**arguments)
    except UserError:  # it says already which option is wrong
        raise
    except Exception as error:  # whatever the user's class raises
        raise UserError(f"{key}: {name} cannot be made: {type(error).__name__}: {error}") from error
