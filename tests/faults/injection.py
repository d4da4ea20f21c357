"""Faults in a driver's own process: a signal before the n-th step on its files, or as a stage begins.

For processes that end after it: nothing here is undone.
"""

import itertools
import os
import sys
from collections.abc import Callable
from pathlib import Path

CHANGING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


def signal_before_step(folder: Path, step: int | None, number: int, trace: Path | None) -> None:
    """Send this process a signal before its step-th step (from 0) that changes the folder or syncs it.

    A step is an open for writing, rename, mkdir, remove, rmdir or fsync. trace: a file to list them in.
    """
    counter, inside = itertools.count(), f"{folder}{os.sep}"

    def before(what: str, path: str) -> None:
        if trace is not None:
            with os.fdopen(os.open(trace, os.O_WRONLY | os.O_CREAT | os.O_APPEND), "a") as file:
                file.write(f"{what} {path.removeprefix(inside)}\n")
        if next(counter) == step:
            os.kill(os.getpid(), number)

    def hook(event: str, arguments: tuple) -> None:
        if event == "open":
            path, _, flags = arguments
            if isinstance(path, (str, os.PathLike)) and flags & CHANGING and _inside(path):
                before("open", os.fspath(path))
        elif event in ("os.rename", "os.mkdir", "os.remove", "os.rmdir") and (
            _inside(arguments[0]) or arguments[-1] != -1  # a removed tree's names are relative to a folder
        ):
            before(event, os.fspath(arguments[0]))

    def _inside(path: str | os.PathLike) -> bool:
        return os.fspath(path).startswith(inside) or os.fspath(path) == str(folder)

    plain = os.fsync

    def fsync(handle: int) -> None:
        path = os.readlink(f"/proc/self/fd/{handle}")
        if _inside(path):
            before("fsync", path)
        plain(handle)

    os.fsync = fsync
    sys.addaudithook(hook)


def signal_at_stage(stage: str, number: int) -> None:
    """Send this process a signal as a stage begins; in its last generation, if it has several."""
    from es_ray import driver
    from es_ray.judge import evaluate
    from es_ray.runs.recorder import Recorder
    from es_ray.workers.local import LocalPool
    from es_ray.workers.worker import Worker

    places: dict[str, tuple[object, str]] = {
        "engine start": (LocalPool, "start"),
        "evaluating": (Worker, "evaluate"),
        "updating": (Worker, "noise_sum"),
        "recording": (Recorder, "_write"),
        "the final comparison": (evaluate, "side_by_side"),
    }
    place, name = places[stage]
    plain: Callable = getattr(place, name)
    calls = itertools.count()

    def then(*arguments, **options):
        # the second generation, the first shard of it: the base model makes generation 0's calls more
        if (
            name in ("start", "side_by_side")
            or next(calls) == {"evaluate": 4, "noise_sum": 1, "_write": 1}[name]
        ):
            os.kill(os.getpid(), number)
        return plain(*arguments, **options)

    setattr(place, name, then)
    if name == "side_by_side":
        driver.side_by_side = then
