"""A user's code for processes on other machines: packed by the driver, unpacked and imported from there.

It travels with the arguments of an actor. (Ray's runtime environments take folders for a whole job only, and
an actor's `py_modules` would replace those that the job was submitted with.)
"""

import atexit
import fcntl
import functools
import importlib.util
import io
import json
import os
import shutil
import sys
import sysconfig
import tempfile
import time
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from es_ray.errors import UserError
from es_ray.imports.user_files import beside, modules_in

LIMIT = 20_000_000
"""Bytes of code that are shipped at most."""
VARIABLE = "ES_RAY_SHIPPED_CODE"
"""The environment variable that names the unpacked code, for this process and those that it starts."""
_PREFIX, _MANIFEST, _LOCK = "es-ray-code-", "manifest.json", "lock"
_STARTING_SECONDS = 60.0
"""How old an unlocked copy must be before it counts as one whose process has ended."""


@dataclass(frozen=True)
class Code:
    """A user's code, packed. Empty for a run that uses none.

    archive: a zip; folders: by the name of a folder in it, the one that it was here; paths: those from which
    modules are imported by name; entry_points: import paths by the names of entry points.
    """

    archive: bytes = b""
    folders: Mapping[str, str] = field(default_factory=dict)
    paths: Sequence[str] = ()
    entry_points: Mapping[str, str] = field(default_factory=dict)


def pack(names: Iterable[tuple[str, str]], entry_points: Mapping[str, str] | None = None) -> Code:
    """The code behind import paths, as far as it is not installed.

    names: pairs of a configuration's key, for messages, and an import path. Raises UserError for more than
    LIMIT bytes.
    """
    contents: dict[str, bytes] = {}
    folders: dict[str, str] = {}
    paths: list[str] = []
    size = 0
    for key, name in names:
        place = name.rpartition(":")[0]
        folder, files = _of_file(Path(place)) if place.endswith(".py") else _of_module(place)
        if not files:
            continue
        inside = next((name for name, where in folders.items() if where == str(folder)), str(len(folders)))
        folders[inside] = str(folder)
        if not place.endswith(".py") and inside not in paths:
            paths.append(inside)
        for file in files:
            try:
                size += file.stat().st_size
                if size > LIMIT:
                    raise UserError(
                        f"{key}: {name}: its code, which every worker gets, is more than "
                        f"{LIMIT // 1_000_000} MB with {file}; keep data out of the packages that it imports"
                    )
                contents[f"{inside}/{file.relative_to(folder).as_posix()}"] = file.read_bytes()
            except OSError as error:
                raise UserError(f"{key}: {name}: {file} cannot be read: {error.strerror}") from error
    return Code(_zipped(contents) if contents else b"", folders, paths, dict(entry_points or {}))


def _of_file(file: Path) -> tuple[Path, list[Path]]:
    if _is_installed(file):
        return file.parent, []
    return file.parent, beside(file)


def _of_module(name: str) -> tuple[Path, list[Path]]:
    """The folder that a module's top-level package lies in, and its files; none if it is installed."""
    top = name.partition(".")[0]
    spec = importlib.util.find_spec(top)
    if top == "es_ray" or spec is None:
        return Path(), []
    module = importlib.util.find_spec(name)
    origin = module.origin if module is not None else None
    if origin is None or not Path(origin).is_file() or _is_installed(Path(origin)):
        return Path(), []
    places = map(Path, spec.submodule_search_locations or ())
    package = next((place for place in places if place in Path(origin).parents), None)
    folder = Path(origin).parent if package is None else package.parent
    return folder, modules_in(folder, {top})


def _is_installed(file: Path) -> bool:
    """Whether a file belongs to Python or to what pip installed, which each machine has of its own."""
    library = {Path(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib")}
    return bool({"site-packages", "dist-packages"} & set(file.parts) or library & set(file.parents))


def _zipped(contents: Mapping[str, bytes]) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in sorted(contents):  # the same bytes for the same code
            archive.writestr(zipfile.ZipInfo(name), contents[name], zipfile.ZIP_DEFLATED)
    return made.getvalue()


class UnpackedCode:
    """Code in a folder of this process's own, found by `resolve` here and in processes started from here."""

    def __init__(self, code: Code) -> None:
        _remove_abandoned(Path(tempfile.gettempdir()))
        self.folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
        self._lock = _locked(self.folder)
        self._folders = {str(self.folder / name): where for name, where in code.folders.items()}
        if code.archive:
            with zipfile.ZipFile(io.BytesIO(code.archive)) as archive:
                archive.extractall(self.folder)
        manifest = {"folders": self._folders, "entry_points": dict(code.entry_points)}
        (self.folder / _MANIFEST).write_text(json.dumps(manifest))
        sys.path[:0] = [str(self.folder / name) for name in code.paths]
        os.environ[VARIABLE] = str(self.folder)
        atexit.register(self.remove)

    def here_to_there(self, text: str) -> str:
        """A text with the paths that the user knows, in place of those of the copies."""
        for here, there in self._folders.items():
            text = text.replace(f"{here}{os.sep}", f"{there.rstrip(os.sep)}{os.sep}")
        return text

    def remove(self) -> None:
        """Remove the folder; does nothing the second time."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self._lock.close()


def shipped_copy(place: str) -> Path | None:
    """The copy here of a file that the driver knows by that path; None for a file that has none."""
    for here, there in _manifest().get("folders", {}).items():
        copy = Path(here, Path(place).name)
        if Path(place).parent == Path(there) and copy.is_file():
            return copy
    return None


def shipped_entry_point(name: str) -> str | None:
    """The import path of an entry point of the driver's machine; None if it was not shipped."""
    found: str | None = _manifest().get("entry_points", {}).get(name)
    return found


def _manifest() -> Mapping[str, Mapping[str, str]]:
    folder = os.environ.get(VARIABLE)
    return _read_manifest(folder) if folder else {}


@functools.cache
def _read_manifest(folder: str) -> Mapping[str, Mapping[str, str]]:
    found: Mapping[str, Mapping[str, str]] = json.loads(Path(folder, _MANIFEST).read_text())
    return found


def _locked(folder: Path) -> IO[str]:
    """The lock of a copy, which ends with this process."""
    lock = (folder / _LOCK).open("w")
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return lock


def _remove_abandoned(folder: Path) -> None:
    """Remove copies of this user's whose processes were killed."""
    for copy in folder.glob(f"{_PREFIX}*"):
        try:
            lock = copy / _LOCK
            if copy.stat().st_uid != os.getuid() or time.time() - lock.stat().st_mtime < _STARTING_SECONDS:
                continue
            with lock.open() as held:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(copy, ignore_errors=True)
        except OSError:  # it is in use, or gone meanwhile
            continue
