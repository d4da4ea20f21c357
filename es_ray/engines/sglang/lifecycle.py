"""Starting an `sglang.Engine`, and noticing its end."""

from __future__ import annotations

import contextlib
import functools
import logging
import multiprocessing
import os
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from es_ray.engines.sglang.failures import reason, tail
from es_ray.engines.sglang.ipc import scheduler_process
from es_ray.engines.sglang.ipc.scheduler_host import Options
from es_ray.errors import RunError

if TYPE_CHECKING:
    import psutil

log = logging.getLogger(__name__)

POLL_SECONDS = 0.5
DIED = 70
"""Exit code of a worker's process after its engine has died."""
GONE_SECONDS = 60.0
"""Seconds within which killed processes should be gone."""
_SHUTDOWN = threading.Lock()
"""Held while one engine ends: what is changed for it is SGLang's module."""


def ignore_sigquit(signum: int, frame: Any) -> None:
    """SGLang's processes send SIGQUIT when they fail to start, which would kill their parent without this.

    The start then raises an exception, as the failed process's pipe is closed.
    """
    log.error("an SGLang process failed")


def start(arguments: dict[str, Any], options: Options) -> Any:
    """Start an `sglang.Engine` whose scheduler has our hooks; raises RunError with the cause.

    Its `shutdown` ends its own processes alone. Call this from the main thread only.
    """
    import psutil
    from sglang.srt.entrypoints.engine import Engine

    class PopulationEngine(Engine):
        run_scheduler_process_func = staticmethod(functools.partial(scheduler_process.run, options=options))
        processes: list[psutil.Process] = []

        def shutdown(self) -> None:
            # once: SGLang calls it again when Python exits, and by then the pids may be others'
            processes, self.processes = self.processes, []
            with killing_only(processes):
                super().shutdown()

    before = set(multiprocessing.active_children())
    try:
        engine = PopulationEngine(**arguments, custom_sigquit_handler=ignore_sigquit)
        engine.processes = [psutil.Process(pid) for pid in engine.get_all_child_pids()]
    except BaseException as error:
        # an interrupt as well: multiprocessing waits at Python's exit for what is left of these
        started = {child.pid for child in multiprocessing.active_children() if child not in before}
        kill([child for child in psutil.Process().children() if child.pid in started])
        if not isinstance(error, (Exception, SystemExit)):
            raise
        cause = reason(tail(Path(options.log_file))) or f"{type(error).__name__}: {error}"
        raise RunError(f"SGLang did not start: {cause} (its log: {options.log_file})") from error
    return engine


def gpu_memory() -> int | None:
    """Bytes of the first GPU that this process sees, None without one; others are taken to be like it."""
    import torch

    if not torch.cuda.is_available():
        return None
    return int(torch.cuda.get_device_properties(0).total_memory)


def log_file() -> str:
    """A new file for the output of an engine's scheduler."""
    folder = Path(tempfile.gettempdir()) / f"es-ray-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    return str(folder / f"sglang-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.log")


@contextlib.contextmanager
def killing_only(processes: Sequence[psutil.Process]) -> Iterator[None]:
    """Within it `Engine.shutdown` kills these processes and what they started.

    SGLang's kills every child of this process: those of another engine, or of a user's script.
    """
    from sglang.srt.entrypoints import engine

    with _SHUTDOWN:
        original = engine.kill_process_tree
        engine.kill_process_tree = lambda *args, **kwargs: kill(processes)
        try:
            yield
        finally:
            engine.kill_process_tree = original


def kill(processes: Sequence[psutil.Process]) -> None:
    """Kill processes and what they started, and wait for them, so that the GPU's memory is free.

    It reaps none of them, which is left to multiprocessing.
    """
    import psutil

    killed = []
    for process in processes:
        with contextlib.suppress(psutil.Error):
            killed += [*process.children(recursive=True), process]
    for process in killed:
        with contextlib.suppress(psutil.Error):  # gone, or another by now
            process.kill()
    deadline = time.monotonic() + GONE_SECONDS
    while left := [process.pid for process in killed if running(process)]:
        if time.monotonic() > deadline:
            log.warning("SGLang's processes %s did not end within %d s", left, GONE_SECONDS)
            return
        time.sleep(0.02)


class ProcessWatchdog:
    """Ends this process when one of the engine's dies: a call to it would wait forever.

    To the pool a Ray actor that ends this way is a lost worker, noticed at once and replaced.
    """

    def __init__(self, processes: Sequence[psutil.Process], log_file: str) -> None:
        self._processes = processes
        self._log_file = log_file
        self._stopped = threading.Event()
        threading.Thread(target=self._poll, name="es-ray-process-watchdog", daemon=True).start()

    def stop(self) -> None:
        """Stop watching: the engine is about to be shut down."""
        self._stopped.set()

    def _poll(self) -> None:
        while not self._stopped.wait(POLL_SECONDS):
            dead = [process.pid for process in self._processes if not running(process)]
            if dead and not self._stopped.is_set():
                cause = reason(tail(Path(self._log_file)))
                print(
                    f"es-ray: SGLang's process {dead[0]} died: {cause} (its log: {self._log_file})",
                    flush=True,
                )
                os._exit(DIED)


def running(process: psutil.Process) -> bool:
    """Whether a process is alive; a zombie is not."""
    import psutil

    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False
