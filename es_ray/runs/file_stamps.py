"""Which files of a run have changed, by size and time, and which of those that only grow are copied again."""

import os
from pathlib import Path
from typing import Final

from es_ray.runs.generation_folder import DONE
from es_ray.runs.lock import LOCK

Stamp = tuple[int, int]
"""Size and time of change of a file, in nanoseconds."""
GROWTH: Final = 1.25
PAUSE: Final = 300.0


def is_worth_copying(sent: Stamp, now: Stamp, seconds: float) -> bool:
    """Whether a file that only grows is copied again: a quarter larger, or smaller, or after PAUSE.

    sent: what was copied, so many seconds ago. A file is copied whole, and this one changes with each
    generation: so all its copies are five times its size at most, and once more for each PAUSE.
    """
    return not sent[0] <= now[0] < GROWTH * sent[0] or seconds >= PAUSE


def stamps_in(folder: Path) -> dict[str, Stamp]:
    """All files of a run by name; not its lock, nor what is not yet complete. Raises OSError.

    A generation's DONE is looked for before its other files: what it marks is then in the list. What is
    renamed or pruned meanwhile is left out.
    """
    found: dict[str, Stamp] = {}
    for at, folders, files in os.walk(folder, onerror=_raise_unless_gone):
        folders[:] = [name for name in folders if not name.startswith(".")]
        base = Path(at)
        for name in sorted(files, key=lambda name: name != DONE):
            if name.startswith(".") or (name == LOCK and base == folder):
                continue
            changed = stamp_of(base / name)
            if changed is not None:
                found[(base / name).relative_to(folder).as_posix()] = changed
    return found


def _raise_unless_gone(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise error


def stamp_of(path: Path) -> Stamp | None:
    """None for a file that is not there; raises OSError."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_size, status.st_mtime_ns
