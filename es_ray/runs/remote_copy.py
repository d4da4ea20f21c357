"""Copies a run's folder to a store behind the loop, so that the run outlives its machine.

A pass copies what is new or has changed, and removes there what was removed here. What a run is resumed from
is ordered: the files of generations first, then metrics.jsonl and its like, then each generation's DONE. So
whatever moment a machine is lost at, the store has a run that can be resumed.
"""

import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Final

from es_ray.errors import RunError
from es_ray.runs.generation_folder import DONE
from es_ray.runs.lock import LOCK
from es_ray.runs.remote_store import RemoteStore, reaching, reason, remember, sizes

log = logging.getLogger(__name__)

OWNER: Final = "owner.json"
"""Says in the store which driver copies there: a later one takes over, and the earlier one stops."""
LOOK_EVERY: Final = 0.5
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 30.0
"""Seconds between attempts while the store fails, doubled each time."""
REPORT_EVERY: Final = 60.0
LAST_ATTEMPTS: Final = 20.0
"""Seconds in which a run that failed or was stopped still tries to copy what it has."""

Stamp = tuple[int, int]
"""Size and time of change of a file, in nanoseconds."""


class RemoteCopy:
    """Copies while it is entered; on leaving it waits until everything is there.

    known: names in the store with their sizes, of which those that are the same here are not copied again.
    """

    def __init__(self, store: RemoteStore, folder: Path, known: Mapping[str, int] | None = None) -> None:
        self.store, self._folder = store, folder
        same = sizes(folder, known or {})
        stamps = _stamps(folder)
        self._sent: dict[str, Stamp | None] = {
            name: stamps[name] if name in same and name in stamps else None for name in known or {}
        }
        """What the store has: None where it differs from what is here, or is not here."""
        self._sent.pop(OWNER, None)
        self._token = uuid.uuid4().hex
        self._stop, self._taken_over = threading.Event(), ""
        self._failing_since: float | None = None
        self._told, self._next_pause = 0.0, FIRST_PAUSE
        self._thread = threading.Thread(target=self._copy_behind, name="remote copy", daemon=True)

    def __enter__(self) -> "RemoteCopy":
        host = {"host": socket.gethostname(), "pid": os.getpid(), "token": self._token}
        with reaching(self.store, RunError):
            self.store.write(OWNER, json.dumps(host).encode())
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        if self._taken_over:
            return
        deadline = None if kind is None else time.monotonic() + LAST_ATTEMPTS
        while not self._attempt() and not self._taken_over:
            if deadline is not None and time.monotonic() > deadline:
                log.warning(
                    "%s lacks the last generations: they are in %s alone", self.store.url, self._folder
                )
                return
            time.sleep(self._pause())
        if kind is None:
            self.check()

    def check(self) -> None:
        """Raise RunError if another driver has taken over the run in the store."""
        if self._taken_over:
            raise RunError(f"output.dir: another driver goes on with {self.store.url}: {self._taken_over}")

    def _copy_behind(self) -> None:
        seen: object = None
        while not self._stop.is_set() and not self._taken_over:
            now = self._watched()
            if now != seen or self._failing_since is not None:
                seen = now if self._attempt() else None
            self._stop.wait(LOOK_EVERY if self._failing_since is None else self._pause())

    def _watched(self) -> object:
        """Changes whenever there is something new: cheaper than to look at every file."""
        generations = self._folder / "generations"
        newest = max((path.name for path in generations.glob("[0-9]*")), key=_number, default="")
        names = (".", "generations", f"generations/{newest}", "plots", "metrics.jsonl")
        return [_stamp(self._folder / name) for name in names]

    def _attempt(self) -> bool:
        """A pass; whether it succeeded. A failure is reported now and then, and tried again."""
        try:
            self._pass()
        except Exception as error:  # its packages raise errors of many libraries
            now = time.monotonic()
            if self._failing_since is None:
                self._failing_since, self._told = now, now - REPORT_EVERY
                self._next_pause = FIRST_PAUSE
            if now - self._told >= REPORT_EVERY:
                self._told = now
                log.warning(
                    "%s cannot be written (%s); the run goes on in %s, and the copy is tried again",
                    self.store.url,
                    reason(error),
                    self._folder,
                )
            return False
        if self._failing_since is not None:
            log.warning("%s can be written again, and has everything", self.store.url)
            self._failing_since = None
        return True

    def _pause(self) -> float:
        found, self._next_pause = self._next_pause, min(2 * self._next_pause, LONGEST_PAUSE)
        return found

    def _pass(self) -> None:
        if not self._is_ours():
            return
        if self._folder.is_dir():
            remember(self._folder, self.store.url)
        stamps = _stamps(self._folder)
        gone = sorted(self._sent.keys() - stamps.keys(), key=lambda name: not name.endswith(f"/{DONE}"))
        if gone:
            self.store.remove(gone)
            for name in gone:
                del self._sent[name]
        new = [name for name, stamp in stamps.items() if self._sent.get(name) != stamp]
        for names in in_order(new):
            self.store.put(self._folder, names)
            self._sent |= {name: stamps[name] for name in names}

    def _is_ours(self) -> bool:
        found = self.store.read(OWNER)
        owner = {} if found is None else json.loads(found)
        if owner.get("token") == self._token:
            return True
        self._taken_over = f"host {owner.get('host')}, pid {owner.get('pid')}"
        return False


def in_order(names: list[str]) -> list[list[str]]:
    """Files of generations, then all others, then what marks generations as complete."""
    marks = [name for name in names if name.endswith(f"/{DONE}")]
    parts = [name for name in names if name.startswith("generations/") and name not in marks]
    others = [name for name in names if name not in marks and name not in parts]
    return [group for group in (parts, others, marks) if group]


def _stamps(folder: Path) -> dict[str, Stamp]:
    """All files of a run by name; not its lock, nor what is not yet complete.

    A generation's DONE is looked for before its other files: what it marks is then in the list.
    """
    found: dict[str, Stamp] = {}
    for at, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        base = Path(at)
        for name in sorted(files, key=lambda name: name != DONE):
            if name.startswith(".") or (name == LOCK and base == folder):
                continue
            stamp = _stamp(base / name)
            if stamp is not None:
                found[(base / name).relative_to(folder).as_posix()] = stamp
    return found


def _number(name: str) -> int:
    return int(name) if name.isdecimal() else -1


def _stamp(path: Path) -> Stamp | None:
    try:
        status = path.stat()
    except OSError:  # it was renamed or pruned meanwhile
        return None
    return status.st_size, status.st_mtime_ns


@contextmanager
def copying(store: RemoteStore | None, folder: Path) -> Iterator[Callable[[], None]]:
    """Copy a run's folder to a store meanwhile; yields what raises RunError once another driver does."""
    if store is None:
        yield lambda: None
        return
    with reaching(store, RunError):
        known = store.list()
    with RemoteCopy(store, folder, known) as copy:
        log.info("copying %s to %s", folder, store.url)
        yield copy.check
    log.info("%s has everything", store.url)
