"""Batches generated in forked copies of this process, beside the one that is generated here.

Threads would not do: between two products a step is Python, and while one thread holds the interpreter the
other waits (benchmarks/NOTES.md).
"""

import atexit
import gc
import multiprocessing
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any, Final

from es_ray.config import Config
from es_ray.engines.base import Completion, OnCompletion, Row
from es_ray.errors import EvaluationError, RemoteTraceback, RunError
from es_ray.evolution.perturbation import Perturbation, Vector

Generate = Callable[..., list[Completion]]
"""As `Engine.generate`."""
_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)
"""A terminal sends them to all processes: a copy ignores them, and the parent decides."""


class ForkedCopy:
    """A copy of this process, with the model in memory that both share; it generates one batch at a time.

    generate: what makes a batch there. The copy ends with `close`, or when this process ends, however.
    """

    def __init__(self, generate: Generate) -> None:
        context = multiprocessing.get_context("fork")
        self._connection, its_end = context.Pipe()
        self._process = context.Process(
            target=_serve, args=(its_end, self._connection, generate), name="es-ray-batches", daemon=True
        )
        self._owner = os.getpid()
        with _signals_blocked():  # in the copy too: it ignores them from its first moment
            self._process.start()
            its_end.close()
            atexit.register(self.close)  # it ignores the signal by which multiprocessing would end it
        self._asked: tuple[list[Vector], Perturbation, list[Row]] | None = None

    def begin(self, centres: Sequence[Vector], perturbation: Perturbation, rows: Sequence[Row]) -> bool:
        """Begin with a batch; False if another one of the same centres is not collected yet."""
        if self._asked is not None:
            if self._same_centres(centres, perturbation):
                return False
            self._drop()
        self._asked = list(centres), perturbation, list(rows)
        self._send(self._asked)
        return True

    def has_begun(self, centres: Sequence[Vector], perturbation: Perturbation, rows: Sequence[Row]) -> bool:
        """Whether this is the batch that is to be collected."""
        return (
            self._asked is not None
            and self._same_centres(centres, perturbation)
            and self._asked[2] == list(rows)
        )

    def collect(self, on_completion: OnCompletion | None) -> list[Completion]:
        """The completions of the batch that was begun, as `Engine.generate` returns them."""
        return self._receive(on_completion)

    def close(self) -> None:
        """End the copy. Does nothing in another fork of this process: that does not own it."""
        if os.getpid() != self._owner:
            return
        self._connection.close()
        self._process.kill()
        self._process.join()
        atexit.unregister(self.close)
        self._process.close()

    def _same_centres(self, centres: Sequence[Vector], perturbation: Perturbation) -> bool:
        assert self._asked is not None
        before, its_perturbation, _ = self._asked
        return (
            its_perturbation is perturbation
            and len(before) == len(centres)
            and all(one is other for one, other in zip(before, centres, strict=True))
        )

    def _send(self, asked: tuple[list[Vector], Perturbation, list[Row]]) -> None:
        try:
            self._connection.send(asked)
        except (BrokenPipeError, ConnectionResetError):
            raise self._death() from None

    def _receive(self, on_completion: OnCompletion | None) -> list[Completion]:
        kind, *content = self._message()
        while kind == "completion":
            if on_completion is not None:
                on_completion(*content)
            kind, *content = self._message()
        self._asked = None
        if kind == "batch":
            found: list[Completion] = content[0]
            return found
        error, trace = content
        raise error from RemoteTraceback(trace)

    def _drop(self) -> None:
        """Leave what a call that has failed had begun, its error too: nobody will collect it."""
        while self._message()[0] == "completion":
            pass
        self._asked = None

    def _message(self) -> tuple[Any, ...]:
        try:
            message: tuple[Any, ...] = self._connection.recv()
        except (EOFError, OSError):  # the latter if it ended within a message
            raise self._death() from None
        return message

    def _death(self) -> EvaluationError:
        self._process.join()
        code = self._process.exitcode or 0
        how = f"by signal {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
        return EvaluationError(f"the process beside this one ended {how}; engine.processes=1 does without")


def forked_copies(config: Config, generate: Generate) -> list[ForkedCopy]:
    """The copies that `engine.processes` asks for beside this process.

    None in a Ray worker, where workers are the processes; in form `merged`, where an engine changes the
    weights; where threads run here, whose locks a copy would find locked for ever; with several threads of
    an engine, as those of OpenMP are not copied and it would wait for them; in a worker of a
    `multiprocessing.Pool`, which may have no children; and elsewhere than under Linux, where not all
    libraries bear a fork. Raises RunError if the system refuses another process. config: resolved.
    """
    wanted = config.engine.processes
    if wanted == "auto" or config.cluster.workers != 0 or config.lora.form == "merged":
        return []
    if config.engine.threads != 1 or threading.active_count() > 1 or sys.platform != "linux":
        return []
    if multiprocessing.current_process().daemon:
        return []
    copies: list[ForkedCopy] = []
    try:
        while len(copies) < wanted - 1:
            copies.append(ForkedCopy(generate))
    except BaseException as error:
        for copy in copies:
            copy.close()
        if isinstance(error, OSError):
            said = f"engine.processes: {wanted}, but the system refuses another process: {error.strerror}"
            raise RunError(said) from error
        raise
    return copies


@contextmanager
def _signals_blocked() -> Iterator[None]:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _serve(connection: Connection, parents_end: Connection, generate: Generate) -> None:
    """Generate what is asked, until the parent ends."""
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    gc.freeze()
    gc.enable()  # which may have rested while the parent started
    parents_end.close()  # else this process would keep it open, and never see its end
    try:
        while True:
            _answer(connection, generate, connection.recv())
    except (EOFError, OSError):  # the parent has ended, perhaps within a message
        return


def _answer(connection: Connection, generate: Generate, asked: tuple[Any, ...]) -> None:
    def report(row: int, completion: Completion) -> None:
        connection.send(("completion", row, completion))

    try:
        connection.send(("batch", generate(*asked, on_completion=report)))
    except (BrokenPipeError, ConnectionResetError):
        raise
    except EvaluationError as error:
        connection.send(("error", error, traceback.format_exc()))
    except Exception as error:  # of many libraries: not all can be sent
        said = RuntimeError(f"{type(error).__name__}: {error}")
        connection.send(("error", said, traceback.format_exc()))
