"""What runs in a process that computes scores: it loads the task once, then answers one job after the other.

A program of its own, started by `score_processes.py`: it inherits neither torch, nor threads, nor the
caller's `__main__`. It ends when the pipe to its parent does.
"""

import faulthandler
import os
import pickle
import queue
import signal
import sys
import threading
import traceback
from multiprocessing.connection import Connection
from typing import Any

from es_ray.errors import EvaluationError
from es_ray.tasks.loading import load_task
from es_ray.workers.score_jobs import Job, Ledger
from es_ray.workers.scoring import perform, raised

NICE = 5
"""How much lower the process's priority is: the engine's processes come first where cores are short."""
_PR_SET_PDEATHSIG = 1

Reply = tuple[str, Any, str]
"""Kind, content, and a traceback or "": "loaded", "scores" with a list of them, "failed" or "unread" with a
text."""


def main(pipe: int, stacks: int) -> None:
    """Serve jobs; pipe: file descriptor of the connection; stacks: of the file for the stack at SIGUSR1."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    faulthandler.register(signal.SIGUSR1, file=stacks, all_threads=False)  # works while a call in C hangs
    _end_with_parent()
    os.nice(NICE)
    connection = Connection(pipe)
    received: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_receive, args=(connection, received), daemon=True).start()
    name, options = pickle.loads(received.get())
    try:
        task = load_task(name, options)
    except BaseException as error:
        connection.send(("failed", str(error) or type(error).__name__, traceback.format_exc()))
        os._exit(1)
    connection.send(("loaded", None, ""))
    while True:
        connection.send(_reply(task, received.get()))


def _receive(connection: Connection, received: "queue.SimpleQueue[bytes]") -> None:
    """Receive in a thread, which notices the parent's end while a score is computed."""
    while True:
        try:
            received.put(connection.recv_bytes())
        except (EOFError, OSError):
            os.killpg(0, signal.SIGKILL)  # with what a score has started


def _reply(task: Any, data: bytes) -> Reply:
    try:
        rows, batch = pickle.loads(data)
    except Exception as error:
        return "unread", f"{type(error).__name__}: {error}", traceback.format_exc()
    job = Job(0, rows, batch, Ledger())
    try:
        return "scores", perform(task, job), ""
    except EvaluationError as error:
        return "failed", str(error), traceback.format_exc()
    except BaseException as error:
        first, count = rows[0], len(rows) if batch else None
        return "failed", str(raised(task, error, first.who, first.example, count)), traceback.format_exc()


def _end_with_parent() -> None:
    """Ask Linux to end this process with the thread that started it, whatever a score is doing then."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
