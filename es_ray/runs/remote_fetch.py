"""Brings a run from a store onto this machine, to resume it or to look at it."""

import fcntl
import logging
import shutil
from collections.abc import Iterator, Set
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from es_ray.config import Config
from es_ray.errors import UserError
from es_ray.runs.atomic_io import replace_file, sync_tree
from es_ray.runs.generation_folder import DONE
from es_ray.runs.lock import RunLock, holder
from es_ray.runs.remote_names import (
    CONFIG,
    ENVIRONMENT,
    METRICS,
    OF_AN_END,
    OWNER,
    complete,
    generation_of,
    last_of,
    may_vanish,
    number,
)
from es_ray.runs.remote_sides import check_not_behind, check_same_run, complete_in, differing
from es_ray.runs.remote_store import RemoteStore, is_remote, local_folder, reaching, remember, remote_of

log = logging.getLogger(__name__)

PARTS: Final = ".fetched"
FETCHING: Final = ".fetching"
"""Locked while a run is fetched: a second command waits."""


def fetch(url: str, resume: bool = False) -> Path:
    """The local folder of a URL's run, with every complete generation of the store; raises UserError.

    A folder that is there already is the same run's: what it has stays unless the store has gone on with
    other generations. One that a driver is writing is returned as it is; with resume it is refused.
    """
    store, folder = RemoteStore(url), local_folder(url)
    with reaching(store):
        if not folder.is_dir():
            _check_is_run(store)  # before anything is written
        with _one_at_a_time(folder):
            driver = holder(folder)
            if driver is not None:
                if resume:
                    raise UserError(driver)
                return folder
            _check_is_run(store)
            check_same_run(store, folder)
            lock = RunLock(folder)
            try:
                _bring(store, folder)
            finally:
                lock.release()
    return folder


def with_local_folder(config: Config, resume: bool) -> tuple[Config, RemoteStore | None]:
    """The configuration with a folder of this machine in place of a URL, and the store to copy to, if any.

    resume: brings the run here, but not into a local folder that was given: that one must have all that the
    store has. Without, there must be nothing at the URL. Raises UserError.
    """
    given = config.output.dir
    if given is None:
        return config, None
    if not is_remote(given):
        return config, _store_of(Path(given).expanduser()) if resume else None
    store = RemoteStore(given)
    if resume:
        return config.replace(output__dir=str(fetch(given, resume=True))), store
    with reaching(store):
        if store.list().keys() - {OWNER}:  # which a start that failed leaves behind
            raise UserError(
                f"output.dir: {given} is not empty; give another folder, or --resume to continue its run"
            )
    return config.replace(output__dir=str(local_folder(given))), store


def _store_of(folder: Path) -> RemoteStore | None:
    """The store that a local folder's run is copied to; raises UserError if the run went on from there."""
    url = remote_of(folder)
    if url is None:
        return None
    store = RemoteStore(url)
    with reaching(store):
        check_same_run(store, folder)
        check_not_behind(url, store.list(), folder)
    return store


@dataclass(frozen=True)
class Plan:
    """What to do to a local folder.

    wanted: files to fetch; replaced: generations to remove before, as they are not complete or not the
    store's; dropped: other files to remove, which the store has no longer.
    """

    wanted: list[str]
    replaced: list[str]
    dropped: list[str]


def plan(there: dict[str, int], folder: Path, other: Set[str]) -> Plan:
    """What brings the folder up to the store; other: the generations that differ.

    Whoever has more generations is ahead. From a store that is behind come only generations that are missing
    here; else the store's files replace those here.
    """
    here, marked = complete_in(folder), complete(there)
    is_ahead = last_of(here) > last_of(marked) and (folder / METRICS).is_file()
    is_behind = bool(other) or last_of(here) < last_of(marked)
    brought = (marked - here) | (set() if is_ahead else other)
    wanted = []
    for name in there:
        generation = generation_of(name)
        if generation is not None:
            is_wanted = generation in brought
        elif name == OWNER:
            is_wanted = False
        else:
            is_wanted = not is_ahead or (name in (CONFIG, ENVIRONMENT) and not (folder / name).exists())
        if is_wanted:
            wanted.append(name)
    stale = is_behind and not is_ahead
    dropped = [name for name in OF_AN_END if stale and name not in there and (folder / name).exists()]
    return Plan(wanted, [name for name in brought if (folder / name).exists()], dropped)


def _bring(store: RemoteStore, folder: Path) -> None:
    """Fetch into the folder. Stopped anywhere, it is a run, and the next call goes on."""
    there = store.list()
    todo = plan(there, folder, differing(store, there, folder))
    if todo.wanted:
        log.info("fetching %d files of %s", len(todo.wanted), store.url)
    parts = folder / PARTS
    shutil.rmtree(parts, ignore_errors=True)
    vanished = store.get(todo.wanted, parts)
    for name in vanished:
        if not (may_vanish(name) or name in OF_AN_END):
            raise UserError(f"output.dir: {store.url}: {name} was removed meanwhile; try again")
    if parts.exists():
        sync_tree(parts)
    for name in sorted(todo.replaced, key=number, reverse=True):
        log.info("%s in %s is not that of %s, which replaces it", name, folder, store.url)
        (folder / name / DONE).unlink(missing_ok=True)
        shutil.rmtree(folder / name)
    for name in todo.dropped:
        (folder / name).unlink()
    # config.yaml first, and each generation's DONE after all its other files
    for name in sorted(todo.wanted, key=lambda name: (name != CONFIG, name.endswith(f"/{DONE}"))):
        if name not in vanished:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            replace_file(parts / name, folder / name)
    shutil.rmtree(parts, ignore_errors=True)
    remember(folder, store.url)


def _check_is_run(store: RemoteStore) -> None:
    if store.read(CONFIG) is None:
        raise UserError(f"output.dir: {store.url}: not a run directory (it has no config.yaml)")


@contextmanager
def _one_at_a_time(folder: Path) -> Iterator[None]:
    """Wait for another command that fetches into the folder: what holds its lock is then a driver."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / FETCHING).open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
