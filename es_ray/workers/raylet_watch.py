"""Watches the local raylet: once it is gone, Ray ends this process in C++, sooner or later and silently."""

import contextlib
import os
import socket
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import ray

REPORT_SECONDS = 5.0
"""How long the main thread has to end the run by itself before the loss is printed here."""
EXIT_SECONDS = 60.0
"""How long it has after that, before the process is ended."""


def loss_message(output: str | None) -> str:
    """What to say when the raylet is gone. output: the run directory, if there is one."""
    lost = "Ray's raylet on this machine died, and the run cannot go on without it"
    if output is None or not (Path(output).expanduser() / "config.yaml").is_file():
        return f"{lost}; nothing was written"
    return f"{lost}; its finished generations are complete: es-ray run --resume --output {output} goes on"


class RayletWatch:
    """Holds a connection to the raylet's socket, which the kernel closes when that process ends.

    on_gone: called once, in a thread, when the raylet is gone. message: the line for standard error if the
    main thread does not close the watch in time, because it is busy elsewhere or stuck in Ray.
    """

    def __init__(self, on_gone: Callable[[], None], message: Callable[[], str]) -> None:
        self._on_gone, self._message = on_gone, message
        self._closed = threading.Event()
        self._gone = False
        node = ray.get_runtime_context().get_node_id()
        path = next(found["RayletSocketName"] for found in ray.nodes() if found["NodeID"] == node)
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(path)
        self._thread = threading.Thread(target=self._watch, name="es-ray-raylet-watch", daemon=True)
        self._thread.start()

    @property
    def gone(self) -> bool:
        """Whether the raylet has ended, as of now: no call of Ray's is needed to know."""
        if not self._gone and not self._closed.is_set():
            try:
                self._gone = not self._socket.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
            except BlockingIOError:
                return False
            except OSError:
                self._gone = True
        return self._gone

    def close(self) -> None:
        """Stop watching; from here on nothing is printed, and the process is not ended."""
        _ = self.gone  # so that it is still known afterwards
        self._closed.set()
        with contextlib.suppress(OSError):  # the raylet is gone, and the thread awake
            self._socket.shutdown(socket.SHUT_RDWR)  # wakes the thread
        self._thread.join()
        self._socket.close()

    def _watch(self) -> None:
        with contextlib.suppress(OSError):
            while self._socket.recv(1):
                pass
        if self._closed.is_set():
            return
        self._gone = True
        self._on_gone()
        if self._closed.wait(REPORT_SECONDS):
            return
        sys.stdout.flush()
        os.write(2, f"es-ray: {self._message()}\n".encode())
        if not self._closed.wait(EXIT_SECONDS):
            os._exit(1)
