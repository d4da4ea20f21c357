"""Ctrl-C: heard once, and not in the middle of what must be whole."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

Handler = Callable[[int, FrameType | None], Any]


@contextmanager
def sigint_once() -> Iterator[None]:
    """Within, the first Ctrl-C does what it did before; once that raised, later ones do nothing.

    So what ends a run on Ctrl-C comes to its own end, however often somebody presses.
    """
    before = _handler()
    if before is None:
        yield
        return

    def first(number: int, frame: FrameType | None) -> None:
        try:
            before(number, frame)
        except BaseException:
            signal.signal(signal.SIGINT, lambda *_: None)
            raise

    signal.signal(signal.SIGINT, first)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def defer_sigint() -> Iterator[None]:
    """A Ctrl-C within is heard as its end is reached, whether that is an error or not."""
    before = _handler()
    if before is None:
        yield
        return
    pressed: list[int] = []
    signal.signal(signal.SIGINT, lambda number, _: pressed.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if pressed:
            before(signal.SIGINT, None)


def _handler() -> Handler | None:
    """The Python function that takes Ctrl-C; None where none does, or this thread may not change it."""
    handler = signal.getsignal(signal.SIGINT)
    return handler if callable(handler) and threading.current_thread() is threading.main_thread() else None
