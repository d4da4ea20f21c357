"""Files that survive a crash complete or not at all: written to a temporary name, synced, renamed."""

import errno
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from es_ray.errors import RunError


def write_text(path: Path, text: str) -> None:
    """Write a text as `write_bytes` does."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write a temporary file, sync it and rename it, so that neither a reader nor a crash sees half of it.

    An error leaves nothing behind: half a file would take the space that a full disk lacks.
    """
    tmp = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with tmp.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        tmp.replace(path)
    except OSError:
        tmp.unlink(missing_ok=True)
        raise
    sync(path.parent)  # the new name is part of the folder's content


def replace_file(tmp: Path, path: Path) -> None:
    """Give a file its name, also where that is on another file system, or on another mount of the same one.

    A rename ends at a mount: there it is copied beside its name first, so that nobody sees half of it.
    """
    try:
        os.replace(tmp, path)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        beside = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            shutil.copyfile(tmp, beside)
            sync(beside)
            os.replace(beside, path)
        finally:
            beside.unlink(missing_ok=True)
        sync(path.parent)
        tmp.unlink()


def write_json(path: Path, value: object) -> None:
    """Write a value as indented JSON, atomically."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def append_json_line(path: Path, value: object) -> str:
    """Append one JSON line, sync it to disk, and return it without its line break."""
    new = not path.exists()
    line = json.dumps(value, ensure_ascii=False, allow_nan=False)
    with path.open("a", encoding="utf-8") as file:
        file.write(f"{line}\n")
        file.flush()
        os.fsync(file.fileno())
    if new:
        sync(path.parent)
    return line


def sync(path: Path) -> None:
    """Flush a file's content, or a folder's list of names, to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_tree(folder: Path) -> None:
    """`sync` everything in a folder, and the folder itself."""
    for path in [*folder.rglob("*"), folder]:
        sync(path)


@contextmanager
def writing(where: Path) -> Iterator[None]:
    """Turn errors of the file system into a RunError of one line.

    where: what the message names if the error names no file.
    """
    try:
        yield
    except OSError as error:
        raise RunError(f"{error.filename or where}: cannot be written: {error.strerror}") from error
    except SafetensorError as error:  # how a full disk shows while tensors are written
        raise RunError(f"{where}: cannot be written: {error}") from error
