"""Watches the local raylet: once it is gone, Ray ends this process in C++, sooner or later and silently."""

import contextlib
import os
import select
import socket
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


class RayletWatch:
    """Holds connections to the raylet and to its object store, which the kernel closes when they end.

    message: the line to print. It is printed from a thread and at once, as Ray may end the process at any
    moment from then on. on_gone: called in that thread, to have the main thread end the run; if it does not
    close the watch in time, because it is busy elsewhere or stuck in Ray, the process is ended.
    """

    def __init__(self, on_gone: Callable[[], None], message: Callable[[], str]) -> None:
        self._on_gone, self._message = on_gone, message
        self._gone = False
        self._closed = threading.Event()
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

    def _watch(self) -> None:
        poll = select.poll()  # not select.select, which cannot take descriptors above 1023
        for connection in (*self._sockets, self._waker):
            poll.register(connection, select.POLLIN)
        while not self.gone and not self._closed.is_set():
            poll.poll(POLL_MILLISECONDS)
        if not self._gone:
            return
        os.write(2, f"es-ray: {self._message()}\n".encode())
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
