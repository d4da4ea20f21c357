"""Scores computed in this process: one after the other in a thread, or as coroutines in an event loop.

No thread can watch its own time, so the thread that waits for the scores asks `overdue`.
"""

import asyncio
import bdb
import contextlib
import ctypes
import queue
import sys
import threading
import time
import traceback
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from traceback import FrameSummary
from types import FrameType
from typing import Any

from es_ray.tasks.base import Score
from es_ray.workers.score_jobs import Background, Job, Outcome, Overdue

AT_ONCE = 1024
"""Coroutines that wait at once; a task that may do less, by its judge's limits, has its own semaphore."""
STOP_SECONDS = 0.5
"""How long a thread may take to end before it is left to itself."""


@dataclass
class Running:
    """A job under way: since when, and its coroutine if it is one."""

    since: float
    coroutine: Any = None


class ThreadBackground(Background):
    """Jobs one after the other, in the order of submission.

    perform: computes a job's scores; timeout: seconds for each job.
    """

    def __init__(self, perform: Callable[[Job], list[Score]], timeout: float) -> None:
        self._perform, self._timeout = perform, timeout
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._running: dict[Job, Running] = {}
        self._stopped = False
        self._thread = threading.Thread(target=self._serve, name="es-ray-scores", daemon=True)
        self._thread.start()

    def submit(self, job: Job) -> None:
        """Compute it after those before it."""
        self._jobs.put(job)

    def overdue(self) -> tuple[Job, Overdue] | None:
        """The running job, if its time is over and nobody debugs it."""
        return _overdue(self._running, self._timeout, self._thread)

    def stop(self) -> None:
        """Drop what waits, and interrupt what runs at its next line of Python."""
        self._stopped = True
        self._jobs.put(None)
        if self._running:
            _interrupt(self._thread)
        self._thread.join(STOP_SECONDS)

    def _serve(self) -> None:
        while (job := self._jobs.get()) is not None and not self._stopped:
            self._running[job] = Running(time.monotonic())
            outcome: Outcome
            try:
                outcome = self._perform(job)
            except BaseException as error:  # noqa: B036 - raised again by the thread that waits
                outcome = error
            self._running.pop(job, None)
            job.ledger.record(job, outcome)


class LoopBackground(Background):
    """Jobs whose scores are coroutines, many at once, in one event loop that lives as long as this object.

    perform: a coroutine function that computes a job's scores; timeout: seconds for each job.
    """

    def __init__(self, perform: Callable[[Job], Coroutine[Any, Any, list[Score]]], timeout: float) -> None:
        self._perform, self._timeout = perform, timeout
        self._running: dict[Job, Running] = {}
        self._stopped = self._interrupted = False
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="es-ray-scores", daemon=True)
        self._thread.start()
        self._ready.wait()

    def submit(self, job: Job) -> None:
        """Compute it as soon as fewer than AT_ONCE others run."""
        self._loop.call_soon_threadsafe(self._begin, job)

    def overdue(self) -> tuple[Job, Overdue] | None:
        """The running job that began first, if its time is over and nobody debugs one."""
        return _overdue(self._running, self._timeout, self._thread)

    def stop(self) -> None:
        """Cancel all jobs, and end the loop."""
        self._stopped = True
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join(STOP_SECONDS)
        if self._thread.is_alive():  # a job that blocks the loop, or does not let itself be cancelled
            self._interrupted = True
            _interrupt(self._thread)
            self._thread.join(STOP_SECONDS)

    def _serve(self) -> None:
        """Run the loop to its end, also beyond what would end that of `asyncio.run`.

        A KeyboardInterrupt or SystemExit in a task that a reward started leaves the loop at once; whoever
        waits for that task receives it as well, but only if the loop goes on.
        """
        self._loop = asyncio.new_event_loop()
        main = self._loop.create_task(self._main())
        while not main.done():
            try:
                self._loop.run_until_complete(main)
            except (KeyboardInterrupt, SystemExit):
                if self._interrupted:  # the next job might block the loop like this one
                    break
        self._cancel_rest()
        self._loop.close()

    async def _main(self) -> None:
        self._over = asyncio.Event()
        self._slots, self._tasks = asyncio.Semaphore(AT_ONCE), set[Awaitable[None]]()
        self._ready.set()
        await self._over.wait()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await self._loop.shutdown_asyncgens()
        await self._loop.shutdown_default_executor()

    def _cancel_rest(self) -> None:
        """End what an interrupt has left; a task that does not let itself be cancelled is given up."""
        rest = asyncio.all_tasks(self._loop)
        for task in rest:
            task.cancel()  # before the loop goes on, so that none begins that has not begun
        if rest:
            with contextlib.suppress(KeyboardInterrupt, SystemExit):
                self._loop.run_until_complete(asyncio.wait(rest, timeout=STOP_SECONDS))

    def _begin(self, job: Job) -> None:
        if self._stopped:  # submitted while another blocked the loop; it might block it again
            return
        task = self._loop.create_task(self._run(job))
        self._tasks.add(task)  # the loop alone would not keep it alive
        task.add_done_callback(self._forget)

    def _forget(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # asyncio complains of one that nobody looks at

    async def _run(self, job: Job) -> None:
        async with self._slots:
            coroutine = self._perform(job)
            self._running[job] = Running(time.monotonic(), coroutine)
            outcome: Outcome
            try:
                outcome = await coroutine
            except BaseException as error:  # noqa: B036 - raised again by the thread that waits
                outcome = error
            self._running.pop(job, None)
            job.ledger.record(job, outcome)
        if self._interrupted and isinstance(getattr(outcome, "__cause__", None), SystemExit):
            raise SystemExit  # of `stop`, which is to end the loop and not this job alone


def _overdue(
    running: dict[Job, Running], timeout: float, thread: threading.Thread
) -> tuple[Job, Overdue] | None:
    """The first of the running jobs, if its time is over; a debugger holding the thread stops their time."""
    now = time.monotonic()
    jobs = list(running.items())  # a copy: the thread changes it meanwhile
    if not jobs or now - jobs[0][1].since < timeout:
        return None
    job, coroutine = jobs[0][0], jobs[0][1].coroutine
    frame = sys._current_frames().get(thread.ident or 0)
    if frame is not None and _debugged(frame):
        for _, other in jobs:
            other.since = now
        return None
    if coroutine is not None and not coroutine.cr_running:
        frames = _suspended(coroutine)
    else:
        frames = list(traceback.extract_stack(frame))
    return (job, Overdue(frames)) if job in running else None


def _debugged(frame: FrameType) -> bool:
    """Whether a debugger holds the thread, at its prompt or from line to line."""
    at: FrameType | None = frame
    while at is not None:
        file = at.f_code.co_filename
        if Path(file).name in ("bdb.py", "pdb.py") or "pydevd" in file:
            return True
        if isinstance(getattr(at.f_trace, "__self__", None), bdb.Bdb):
            return True
        at = at.f_back
    return False


def _suspended(coroutine: Any) -> list[FrameSummary]:
    """Where a coroutine waits, through all that it awaits."""
    frames = []
    while coroutine is not None:
        prefix = next((p for p in ("cr", "gi", "ag") if hasattr(coroutine, f"{p}_frame")), None)
        if prefix is None:  # a future
            break
        frame = getattr(coroutine, f"{prefix}_frame")
        if frame is not None:
            frames.append(FrameSummary(frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name))
        coroutine = getattr(coroutine, "gi_yieldfrom" if prefix == "gi" else f"{prefix}_await")
    return frames


def _interrupt(thread: threading.Thread) -> None:
    """Raise SystemExit in a thread once it runs Python: a loop without end would keep a core busy."""
    ident, error = ctypes.c_ulong(thread.ident or 0), ctypes.py_object(SystemExit)
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ident, error)
