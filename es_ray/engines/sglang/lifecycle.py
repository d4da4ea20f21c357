"""Starting an `sglang.Engine`, and noticing its end."""

from __future__ import annotations

import contextlib
import functools
import logging
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


def ignore_sigquit(signum: int, frame: Any) -> None:
    """SGLang's processes send SIGQUIT when they fail to start, which would kill their parent without this.

    The start then raises an exception, as the failed process's pipe is closed.
    """
    log.error("an SGLang process failed")


def start(arguments: dict[str, Any], options: Options) -> Any:
    """Start an `sglang.Engine` whose scheduler has our hooks; raises RunError with the cause.

    Call it from the main thread only.
    """
    import psutil
    from sglang.srt.entrypoints.engine import Engine

    class PopulationEngine(Engine):
        run_scheduler_process_func = staticmethod(functools.partial(scheduler_process.run, options=options))

        def shutdown(self) -> None:
            started = getattr(self, "_scheduler_init_result", None)
            with killing_only([] if started is None else self.get_all_child_pids()):
                super().shutdown()

    before = psutil.Process().children(recursive=True)
    try:
        return PopulationEngine(**arguments, custom_sigquit_handler=ignore_sigquit)
    except (Exception, SystemExit) as error:
        kill([child for child in psutil.Process().children(recursive=True) if child not in before])
        cause = reason(tail(Path(options.log_file))) or f"{type(error).__name__}: {error}"
        raise RunError(f"SGLang did not start: {cause} (its log: {options.log_file})") from error


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
def killing_only(pids: Sequence[int]) -> Iterator[None]:
    """Within it `Engine.shutdown` kills these processes and what they started.

    SGLang's kills every child of this process: those of another engine, or of a user's script.
    """
    import psutil
    from sglang.srt.entrypoints import engine

    def kill_these(*args: Any, **kwargs: Any) -> None:
        found: list[psutil.Process] = []
        for pid in pids:
            with contextlib.suppress(psutil.NoSuchProcess):
                process = psutil.Process(pid)
                found += [*process.children(recursive=True), process]
        kill(found)

    original, engine.kill_process_tree = engine.kill_process_tree, kill_these
    try:
        yield
    finally:
        engine.kill_process_tree = original


def kill(processes: Sequence[psutil.Process]) -> None:
    """Kill processes, and wait for them, so that the GPU's memory is free."""
    import psutil

    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(processes, timeout=30)


class ProcessWatchdog:
    """Ends this process when one of the engine's dies: a call to it would wait forever.

    To the pool a Ray actor that ends this way is a lost worker, noticed at once and replaced.
    """

    def __init__(self, pids: list[int], log_file: str) -> None:
        self._pids = pids
        self._log_file = log_file
        self._stopped = threading.Event()
        threading.Thread(target=self._poll, name="es-ray-process-watchdog", daemon=True).start()

    def stop(self) -> None:
        """Stop watching: the engine is about to be shut down."""
        self._stopped.set()

    def _poll(self) -> None:
        while not self._stopped.wait(POLL_SECONDS):
            dead = [pid for pid in self._pids if not running(pid)]
            if dead and not self._stopped.is_set():
                cause = reason(tail(Path(self._log_file)))
                print(
                    f"es-ray: SGLang's process {dead[0]} died: {cause} (its log: {self._log_file})",
                    flush=True,
                )
                os._exit(DIED)


def running(pid: int) -> bool:
    """Whether a process is alive; a zombie is not."""
    import psutil

    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
