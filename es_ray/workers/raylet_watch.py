"""Watches the local raylet: once it is gone, Ray ends this process in C++, sooner or later and silently."""

import contextlib
import os
import select
import socket
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import ray

POLL_MILLISECONDS = 1000
EXIT_SECONDS = 60.0
"""How long the main thread has to end the run by itself before the process is ended here."""


def loss_message(output: str | None) -> str:
    """What to say when the raylet is gone. output: the run directory, if there is one."""
    lost = "Ray's raylet on this machine died, and the run cannot continue without it"
    if output is None or not (Path(output).expanduser() / "config.yaml").is_file():
        return f"{lost}; nothing was written"
    return f"{lost}; its finished generations are complete; resume with es-ray run --resume --output {output}"


class Silence:
    """What this process writes to standard output and standard error is discarded between begin and end."""

    def __init__(self) -> None:
        self._kept: dict[int, int] = {}

    def begin(self) -> None:
        """From now on; descriptors, as C++ writes too. What Python has buffered is written first."""
        _flush()
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for number in (1, 2):
            with contextlib.suppress(OSError):  # it is closed
                self._kept[number] = os.dup(number)
                os.dup2(nowhere, number)
        os.close(nowhere)

    def end(self) -> None:
        """Until now; does nothing where it has not begun."""
        if self._kept:
            _flush()
        while self._kept:
            number, kept = self._kept.popitem()
            os.dup2(kept, number)
            os.close(kept)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):  # full, closed or missing
            stream.flush()


class RayletWatch:
    """Holds connections to the raylet and to its object store, which the kernel closes when they end.

    message: the line to print. It is printed from a thread and at once, as Ray may end the process at any
    moment from then on; and it is the last that this process writes to its terminal or files until `release`,
    as Ray has much to say then, of which nothing helps. on_gone: called in that thread, to have the main
    thread end the run; if it does not close the watch in time, because it is busy elsewhere or stuck in Ray,
    the process is ended.
    """

    def __init__(self, on_gone: Callable[[], None], message: Callable[[], str]) -> None:
        self._on_gone, self._message = on_gone, message
        self._gone = False
        self._closed = threading.Event()
        self._silence = Silence()
        node_id = ray.get_runtime_context().get_node_id()
        node = next(found for found in ray.nodes() if found["NodeID"] == node_id)
        self._sockets = [socket.socket(socket.AF_UNIX) for _ in range(2)]
        for connection, name in zip(
            self._sockets, ("RayletSocketName", "ObjectStoreSocketName"), strict=True
        ):
            connection.connect(node[name])
        self._waker, self._wake = socket.socketpair()
        self._thread = threading.Thread(target=self._watch, name="es-ray-raylet-watch", daemon=True)
        self._thread.start()

    @property
    def gone(self) -> bool:
        """Whether the raylet has ended, as of now: no call of Ray's is needed to know."""
        if not self._gone and not self._closed.is_set():
            self._gone = any(map(_is_closed, self._sockets))
        return self._gone

    def close(self) -> None:
        """Stop watching; the process is not ended any more."""
        _ = self.gone  # so that it is still known afterwards
        self._closed.set()
        self._wake.close()
        self._thread.join()
        for connection in (*self._sockets, self._waker):
            connection.close()

    def release(self) -> None:
        """Let this process write again; after Ray has ended."""
        self._silence.end()

    def _watch(self) -> None:
        poll = select.poll()  # not select.select, which cannot take descriptors above 1023
        for connection in (*self._sockets, self._waker):
            poll.register(connection, select.POLLIN)
        while not self.gone and not self._closed.is_set():
            poll.poll(POLL_MILLISECONDS)
        if not self._gone:
            return
        start = "\n" if os.isatty(2) else ""  # a bar may be there
        os.write(2, f"{start}es-ray: {self._message()}\n".encode())
        self._silence.begin()
        self._on_gone()
        if not self._closed.wait(EXIT_SECONDS):
            os._exit(1)


def _is_closed(connection: socket.socket) -> bool:
    """Whether the other side has closed a connection on which it sends nothing."""
    with contextlib.suppress(BlockingIOError):
        try:
            return not connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except ConnectionError:
            return True
    return False
