"""Copies a run's folder to a store behind the loop, so that the run outlives its machine.

A pass copies what is new or has changed, and removes there what the run has removed here. What a run is
resumed from is ordered: the files of generations first, then metrics.jsonl and its like, then each
generation's DONE. So whatever moment a machine is lost at, the store has a run that can be resumed.
"""

import json
import logging
import math
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Final

from es_ray.errors import RunError
from es_ray.runs import metrics_file
from es_ray.runs.file_stamps import Stamp, is_worth_copying, stamp_of, stamps_in
from es_ray.runs.generation_folder import DONE
from es_ray.runs.remote_names import (
    APPENDED,
    CONFIG,
    METRICS,
    OWNER,
    complete,
    generation_of,
    in_order,
    number,
    removable,
)
from es_ray.runs.remote_sides import check_not_behind, complete_in, differing
from es_ray.runs.remote_store import RemoteStore, at_once, reaching, reason, remember

log = logging.getLogger(__name__)

LOOK_EVERY: Final = 0.5
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 30.0
"""Seconds between attempts while the store fails, doubled each time."""
REPORT_EVERY: Final = 60.0
LAST_ATTEMPTS: Final = 20.0
"""Seconds without progress after which a run that failed or was stopped gives up copying what it has."""


class RemoteCopy:
    """Copies while it is entered; on leaving it waits until everything is there.

    Raises UserError on entering if the store has generations that the folder lacks.
    """

    def __init__(self, store: RemoteStore, folder: Path) -> None:
        self.store, self._folder = store, folder
        self._sent: dict[str, Stamp | None] = {}
        """What the store has: None where it differs, or may, from what is here, and where that is gone."""
        self._sent_at: dict[str, float] = {}
        """When a tracker's file was last copied."""
        self._token = uuid.uuid4().hex
        self._stop, self._taken_over, self._is_complete = threading.Event(), "", False
        self._is_over = threading.Event()
        """Nobody waits for the copy any more."""
        self._failing_since: float | None = None
        self._error: Exception | None = None
        self._told, self._next_pause = 0.0, FIRST_PAUSE
        self._deadline: float | None = None
        self._moved = 0.0
        """When something was last copied."""
        self._thread = threading.Thread(target=self._copy_behind, name="remote copy", daemon=True)

    def __enter__(self) -> "RemoteCopy":
        with reaching(self.store, RunError):
            there = self.store.list()
            check_not_behind(self.store.url, there, self._folder)
            self._claim()
            self._take_stock(there)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self._moved = time.monotonic()
        if kind is not None:
            self._deadline = self._moved + LAST_ATTEMPTS
        self._stop.set()
        try:
            # not without end for a run that has failed: a store may take a connection and never answer
            while self._thread.is_alive() and (
                kind is None or time.monotonic() < self._moved + LAST_ATTEMPTS
            ):
                self._thread.join(0.1)
        finally:
            self._is_over.set()
            if not self._is_complete and not self._taken_over:
                log.warning(
                    "%s lacks the last generations: they are in %s alone", self.store.url, self._folder
                )
        if kind is None:
            self.check()
            if not self._is_complete:
                raise RunError(f"output.dir: {self._error}")

    def check(self) -> None:
        """Raise RunError if another driver has taken over the run in the store."""
        if self._taken_over:
            raise RunError(f"output.dir: another driver goes on with {self.store.url}: {self._taken_over}")

    def _claim(self) -> None:
        host = {"host": socket.gethostname(), "pid": os.getpid(), "token": self._token}
        self.store.write(OWNER, json.dumps(host).encode())

    def _take_stock(self, there: dict[str, int]) -> None:
        """Note what need not be copied: of generations that are the same here, files of the same size.

        Other files change, and may do so without another size.
        """
        same = complete(there) & complete_in(self._folder) - differing(self.store, there, self._folder)
        here = stamps_in(self._folder)
        self._sent = {}
        for name, size in there.items():
            stamp = here.get(name)
            is_there = stamp is not None and generation_of(name) in same and stamp[0] == size
            if name != OWNER:
                self._sent[name] = stamp if is_there else None

    def _copy_behind(self) -> None:
        seen: object = None
        while not self._stop.is_set() and not self._taken_over:
            now = self._watched()
            if now != seen or self._failing_since is not None:
                seen = now if self._attempt() else None
            self._stop.wait(LOOK_EVERY if self._failing_since is None else self._pause())
        while not self._taken_over and not self._attempt():
            if self._deadline is None and isinstance(self._error, RunError):  # of this machine, not the store
                self._deadline = time.monotonic() + LAST_ATTEMPTS
            left = None if self._deadline is None else self._deadline - time.monotonic()
            if self._is_over.is_set() or (left is not None and left <= 0):
                return
            self._is_over.wait(self._pause() if left is None else min(self._pause(), left))
        self._is_complete = not self._taken_over

    def _watched(self) -> object:
        """Changes whenever there is something new: cheaper than to look at every file."""
        generations = self._folder / "generations"
        try:
            newest = max((path.name for path in generations.glob("[0-9]*")), key=number, default="")
            names = (".", "generations", f"generations/{newest}", "plots", METRICS)
            return [stamp_of(self._folder / name) for name in names]
        except OSError:
            return object()  # so that a pass says what is wrong

    def _attempt(self) -> bool:
        """A pass; whether it succeeded. A failure is reported now and then, and tried again."""
        try:
            self._pass()
        except Exception as error:  # its packages raise errors of many libraries
            now, self._error = time.monotonic(), error
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
        here = self._here()
        if CONFIG not in here:  # nothing is written yet
            return
        remember(self._folder, self.store.url)
        self._remove(removable(self._sent.keys() - here.keys(), here, self._lines()))
        new = [name for name, stamp in here.items() if self._is_due(name, stamp)]
        # a generation that was made again is not complete there until all of its files are
        self._remove([name for name in new if name.endswith(f"/{DONE}") and name in self._sent])
        for group in in_order(new):
            for names in at_once(group):
                self.store.put(self._folder, names)
                self._sent |= {name: here[name] for name in names}
                self._moved = time.monotonic()
                self._sent_at |= {name: self._moved for name in names if name.startswith(APPENDED)}

    def _is_due(self, name: str, now: Stamp) -> bool:
        """Whether a file is copied now: it has changed, and a tracker's is worth it or the run has ended."""
        sent = self._sent.get(name)
        if sent is None or sent == now or self._stop.is_set() or not name.startswith(APPENDED):
            return sent != now
        return is_worth_copying(sent, now, time.monotonic() - self._sent_at.get(name, -math.inf))

    def _remove(self, names: list[str]) -> None:
        for some in at_once(names):
            self.store.remove(some)
            self._moved = time.monotonic()
            for name in some:
                del self._sent[name]

    def _here(self) -> dict[str, Stamp]:
        """The folder's files; raises RunError if they cannot be listed, or the folder was lost."""
        try:
            here = stamps_in(self._folder)
        except OSError as error:
            raise RunError(f"{error.filename or self._folder}: cannot be read: {error.strerror}") from error
        if CONFIG not in here and any(self._sent.values()):
            raise RunError(f"{self._folder / CONFIG} is gone: nothing is copied, and nothing removed there")
        return here

    def _lines(self) -> int | None:
        file = self._folder / METRICS
        return len(metrics_file.lines(file)) if file.is_file() else None

    def _is_ours(self) -> bool:
        found = self.store.read(OWNER)
        if found is None:  # removed by hand, or by a rule of the store, and perhaps not alone
            self._claim()
            self._take_stock(self.store.list())
            return True
        owner = json.loads(found)
        if owner.get("token") == self._token:
            return True
        self._taken_over = f"host {owner.get('host')}, pid {owner.get('pid')}"
        return False


@contextmanager
def copying(store: RemoteStore | None, folder: Path) -> Iterator[Callable[[], None]]:
    """Copy a run's folder to a store meanwhile; yields what raises RunError once another driver does."""
    if store is None:
        yield lambda: None
        return
    with RemoteCopy(store, folder) as copy:
        log.info("copying %s to %s", folder, store.url)
        yield copy.check
    log.info("%s has everything", store.url)
