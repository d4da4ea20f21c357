"""Importing a user's file, with what lies beside it, as Python does for a script."""

import ast
import hashlib
import importlib
import importlib.util
import os
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType

SKIPPED = ("__pycache__", "venv", "runs", "node_modules", "site-packages")
"""Folders that are no part of a package, besides hidden ones."""
_imported: dict[str, dict[Path, str]] = {}
"""The files of each imported user's file, with their digests then, by the module's name."""
_folders: set[Path] = set()


def import_file(file: Path, known_as: Path) -> ModuleType:
    """The module of a file, imported once in a process; raises whatever the file raises.

    known_as: the path that names it, if the file is a copy. What lies beside the file can be imported by it:
    its folder comes first while it is imported, as a script's does, and last afterwards, where it hides
    nothing.
    """
    name = f"es_ray_user_{file.stem}_{zlib.crc32(str(known_as).encode()):08x}"
    if name in sys.modules:
        return sys.modules[name]
    files = beside(file)
    _drop_namesakes(file.parent)
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None and spec.loader is not None  # it ends in .py
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickle look their module up there
    try:
        with _first_on_path(file.parent):
            spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]  # half of it must not be what the next one finds
        raise
    _imported[name] = {path: _digest(path) for path in files if path.suffix == ".py"}
    return module


def forget_changed() -> None:
    """Have user's files that have changed since they were imported, or what they import, imported again.

    For the start of a run in a process that has seen another one: within a run the code stays the same.
    """
    for name, digests in list(_imported.items()):
        if any(_digest(path) != digest for path, digest in digests.items()):
            del _imported[name]
            sys.modules.pop(name, None)
            for other, module in list(sys.modules.items()):
                if other != "__main__" and _file_of(module) in digests:
                    del sys.modules[other]
    importlib.invalidate_caches()


def beside(file: Path) -> list[Path]:
    """A file and what it imports from its own folder, and so on: modules, and packages as a whole."""
    return [file, *modules_in(file.parent, imported_names(file))]


def modules_in(folder: Path, names: set[str]) -> list[Path]:
    """The files of the named modules and packages in a folder, and of what they import from there."""
    found: dict[Path, None] = {}
    waiting, done = sorted(names), {"es_ray"} | set(sys.stdlib_module_names)
    while waiting:
        name = waiting.pop()
        if name in done:
            continue
        done.add(name)
        files = _files_of(folder, name)
        found.update(dict.fromkeys(files))
        for path in files:
            if path.suffix == ".py":
                waiting += sorted(imported_names(path))
    return list(found)


def imported_names(file: Path) -> set[str]:
    """The top-level names that a file's import statements name, also those inside of functions."""
    try:
        tree = ast.parse(file.read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError):
        return set()  # importing it says what is wrong
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.partition(".")[0])
    return names


def _files_of(folder: Path, name: str) -> list[Path]:
    """The files of a module or package of that name in a folder; none if an installed one is imported."""
    loaded = sys.modules.get(name)
    where = None if loaded is None else _file_of(loaded)
    if where is not None and folder not in where.parents and not _folders.intersection(where.parents):
        return []
    package, module = folder / name, folder / f"{name}.py"
    if package.is_dir() and ((package / "__init__.py").is_file() or not module.is_file()):
        files = files_below(package)
        regular = (package / "__init__.py").is_file()
        return [path for path in files if regular or path.suffix == ".py"]
    return [module] if module.is_file() else []


def files_below(folder: Path) -> Iterator[Path]:
    """All files of a package's folder, in a fixed order, without what is no part of it."""
    for here, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name not in SKIPPED)
        paths = (Path(here, name) for name in sorted(files) if not name.endswith((".pyc", ".pyo")))
        yield from filter(Path.is_file, paths)  # no pipes, no broken links


def _drop_namesakes(folder: Path) -> None:
    """Forget modules of another user's folder whose names this folder has, too: each has its `helpers`."""
    for name, module in list(sys.modules.items()):
        file, top = _file_of(module), name.partition(".")[0]
        if file is None or folder in file.parents or not _folders.intersection(file.parents):
            continue
        if (folder / f"{top}.py").is_file() or (folder / top).is_dir():
            del sys.modules[name]
    _folders.add(folder)


def _file_of(module: ModuleType) -> Path | None:
    file = getattr(module, "__file__", None)
    return Path(file) if isinstance(file, str) else None


@contextmanager
def _first_on_path(folder: Path) -> Iterator[None]:
    before = sys.dont_write_bytecode
    sys.path.insert(0, str(folder))
    sys.dont_write_bytecode = True  # nothing is written into a user's folder
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.dont_write_bytecode = before
        with suppress(ValueError):  # the file may have changed the path itself
            sys.path.remove(str(folder))
        if str(folder) not in sys.path:  # the latest of the users' folders is the first of them
            others = (number for number, place in enumerate(sys.path) if Path(place) in _folders)
            sys.path.insert(next(others, len(sys.path)), str(folder))


def _digest(file: Path) -> str:
    try:
        return hashlib.sha256(file.read_bytes()).hexdigest()
    except OSError:
        return "gone"
