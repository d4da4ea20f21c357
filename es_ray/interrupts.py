"""Ctrl-C and SIGTERM: handled once, and not in the middle of what must be completed."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Final

Handler = Callable[[int, FrameType | None], Any]

SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)
_set_handler = signal.signal  # `keep_handlers` replaces the attribute


class Terminated(KeyboardInterrupt):
    """SIGTERM, sent by spot machines, Slurm and Kubernetes: ends a run like Ctrl-C."""


@contextmanager
def sigterm_as_interrupt() -> Iterator[None]:
    """In this context SIGTERM raises Terminated in the main thread, unless this process ignores it."""
    if not _may_change() or signal.getsignal(signal.SIGTERM) is signal.SIG_IGN:
        yield
        return
    before = signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def interrupts_once() -> Iterator[None]:
    """In this context these signals do what they did before until one raises; later ones are ignored.

    So ending a run is not interrupted itself, however often somebody presses Ctrl-C.
    """
    before = _handlers()

    def first(number: int, frame: FrameType | None) -> None:
        try:
            before[number](number, frame)
        except BaseException:
            for other in before:
                _set_handler(other, lambda *_: None)
            raise

    with _handled(before, first):
        yield


@contextmanager
def defer_interrupts(notice: str) -> Iterator[None]:
    """Signals in this context are handled at its end, even if that is an error.

    notice: a line for standard error at the first one, so that it does not seem ignored.
    """
    before = _handlers()
    received: list[int] = []

    def later(number: int, frame: FrameType | None) -> None:
        if not received:
            os.write(2, f"{notice}\n".encode())
        received.append(number)

    try:
        with _handled(before, later):
            yield
    finally:
        if received:
            before[received[0]](received[0], None)


@contextmanager
def keep_handlers() -> Iterator[None]:
    """In this context nothing but this module changes the handlers of these signals.

    A call of `signal.signal` for them has no effect; what is set from C is set back at the end.
    """
    if not _may_change():
        yield
        return

    def set_others(number: Any, handler: Any) -> Any:
        return signal.getsignal(number) if number in SIGNALS else _set_handler(number, handler)

    signal.signal = set_others  # type: ignore[assignment]
    try:
        yield
    finally:
        signal.signal = _set_handler
        for number in SIGNALS:
            if (handler := signal.getsignal(number)) is not None:  # None: not set by Python
                _set_handler(number, handler)


@contextmanager
def _handled(before: dict[int, Handler], handler: Handler) -> Iterator[None]:
    for number in before:
        signal.signal(number, handler)
    try:
        yield
    finally:
        for number, handler_before in before.items():
            signal.signal(number, handler_before)


def _handlers() -> dict[int, Handler]:
    """The Python functions that handle the signals; none if this thread may not change them."""
    found = {int(number): signal.getsignal(number) for number in SIGNALS} if _may_change() else {}
    return {number: handler for number, handler in found.items() if callable(handler)}


def _may_change() -> bool:
    return threading.current_thread() is threading.main_thread()


def _terminate(number: int, frame: FrameType | None) -> None:
    raise Terminated
