"""Scores computed in processes: what their parent does. `score_process.py` is what runs in them."""

import contextlib
import json
import os
import pickle
import queue
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from multiprocessing.connection import Pipe
from traceback import FrameSummary
from typing import Any

from es_ray.errors import RemoteTraceback, ScoreError
from es_ray.tasks.base import Score, example_name
from es_ray.workers.score_jobs import Background, Job, Outcome, Overdue, ProcessDied

_PROGRAM = """\
import json, sys
sys.path[:] = json.loads(sys.argv[3])
from es_ray.workers.score_process import main
main(int(sys.argv[1]), int(sys.argv[2]))
"""
_STACK_LINE = re.compile(r'  File "(?P<file>.*)", line (?P<line>\d+) in (?P<name>.*)')
_ONE_THREAD = dict.fromkeys(
    ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS",
     "NUMEXPR_NUM_THREADS", "TOKENIZERS_PARALLELISM"), "1",
) | {"TOKENIZERS_PARALLELISM": "false"}  # fmt: skip
STACK_SECONDS = 1.0
"""How long to wait for the stack of a process that takes too long."""


class ProcessBackground(Background):
    """Jobs in so many processes, one at a time in each.

    name, options: the task's, as in the configuration; timeout: seconds for each job, after which its process
    is ended.
    """

    def __init__(self, name: str, options: Mapping[str, Any], processes: int, timeout: float) -> None:
        self._task, self._timeout = (name, dict(options)), timeout
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._stopped, self._lock = False, threading.Lock()
        self._processes: list[ScoreProcess] = []
        self._threads = [
            threading.Thread(target=self._serve, name="es-ray-scores", daemon=True) for _ in range(processes)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, job: Job) -> None:
        """Compute it in the next process that is free."""
        self._jobs.put(job)

    def stop(self) -> None:
        """End all processes."""
        with self._lock:
            self._stopped = True
        for _ in self._threads:
            self._jobs.put(None)
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.wait()
        deadline = time.monotonic() + STACK_SECONDS
        for thread in self._threads:  # they see the end of their processes at once
            thread.join(max(deadline - time.monotonic(), 0))

    def _serve(self) -> None:
        """Start a process and hand jobs to it: in one thread, with which Linux ends the process."""
        with self._lock:  # after `stop` none may be started
            if self._stopped:
                return
            process = ScoreProcess()
            self._processes.append(process)
        loaded = False
        while (job := self._jobs.get()) is not None and not self._stopped:
            outcome: Outcome
            try:
                if not loaded:
                    process.load(*self._task)
                    loaded = True
                outcome = process.perform(job, self._timeout)
            except Exception as error:  # raised again by the thread that waits
                outcome = error
            job.ledger.record(job, outcome)
        process.kill()


class ScoreProcess:
    """A process that computes scores."""

    def __init__(self) -> None:
        self._connection, its_end = Pipe()
        self._stacks = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
        pipe, stacks = its_end.fileno(), self._stacks.fileno()
        self._process = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM, str(pipe), str(stacks), json.dumps(sys.path)],
            stdin=subprocess.DEVNULL,
            pass_fds=(pipe, stacks),
            env=os.environ | _ONE_THREAD,
            start_new_session=True,  # so that what a score starts can be ended with it
        )
        its_end.close()

    def load(self, name: str, options: Mapping[str, Any]) -> None:
        """Load the task there; raises ScoreError, and ProcessDied."""
        self._connection.send((name, options))
        kind, text, trace = self._receive()
        if kind == "failed":
            message = f"task.processes: {name} cannot be loaded in a process of its own: {text}"
            raise ScoreError(message) from RemoteTraceback(trace)

    def perform(self, job: Job, timeout: float) -> list[Score]:
        """Scores of a job's rows; raises ScoreError, ProcessDied, and Overdue after so many seconds."""
        first = job.rows[0]
        about = f"for {example_name(first.example)} ({first.who})"
        try:
            data = pickle.dumps((job.rows, job.batch))
        except Exception as error:
            said = f"{type(error).__name__}: {error}"
            raise ScoreError(
                f"task.processes: the example cannot be sent to a process: {said}, {about}"
            ) from error
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # _receive says how it died
            self._connection.send_bytes(data)
        kind, content, trace = self._receive(timeout)
        if kind == "unread":
            content = f"task.processes: the example cannot be read in a process: {content}, {about}"
        if kind != "scores":
            raise ScoreError(content) from RemoteTraceback(trace)
        scores: list[Score] = content
        return scores

    def kill(self) -> None:
        """End it, and what it has started."""
        if self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)

    def wait(self) -> int:
        """Wait for its end; its exit code, or minus the signal's number."""
        return self._process.wait()

    def _receive(self, timeout: float | None = None) -> tuple[str, Any, str]:
        try:
            if not self._connection.poll(timeout):
                frames = self._frames()
                self.kill()
                raise Overdue(frames)
            reply: tuple[str, Any, str] = self._connection.recv()
        except (EOFError, ConnectionResetError):
            code = self.wait()
            how = f"by signal {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
            raise ProcessDied(f"ended its process {how}") from None
        return reply

    def _frames(self) -> list[FrameSummary]:
        """Where it is, the outermost first, as faulthandler writes it."""
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGUSR1)
        deadline = time.monotonic() + STACK_SECONDS
        text = ""
        while "File" not in text and time.monotonic() < deadline:
            time.sleep(0.02)
            self._stacks.seek(0)
            text = self._stacks.read().decode(errors="replace")
        found = [_STACK_LINE.match(line) for line in text.splitlines()]
        return [FrameSummary(m["file"], int(m["line"]), m["name"]) for m in reversed(found) if m]
