"""Ctrl-C as a real SIGINT to this process."""

import ctypes
import os
import signal
import threading

import pytest

from es_ray.interrupts import (
    Terminated,
    defer_interrupts,
    interrupts_once,
    keep_handlers,
    sigterm_as_interrupt,
)


@pytest.fixture(autouse=True)
def received():
    """A process in the background ignores SIGINT: receive it here, and restore everything afterwards."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    signal.signal(signal.SIGINT, before)


def press() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def test_only_the_first_ctrl_c_interrupts():
    cleaned = []
    with pytest.raises(KeyboardInterrupt), interrupts_once():
        try:
            press()
        finally:
            press()
            cleaned.append(True)
    assert cleaned
    with pytest.raises(KeyboardInterrupt):  # and afterwards everything is restored
        press()


def test_ctrl_c_is_deferred_to_the_end():
    done = []
    with pytest.raises(KeyboardInterrupt), interrupts_once(), defer_interrupts("later"):
        press()
        press()
        done.append(True)
    assert done


def test_without_ctrl_c_nothing_happens():
    with interrupts_once(), defer_interrupts("later"):
        pass


def test_a_handler_that_does_not_raise_receives_each_signal():
    received = []
    signal.signal(signal.SIGINT, lambda *_: received.append(True))
    with interrupts_once():
        press()
        press()
    assert len(received) == 2
    signal.signal(signal.SIGINT, signal.default_int_handler)


def test_a_process_that_ignores_ctrl_c_keeps_ignoring_it():
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with interrupts_once(), defer_interrupts("later"):
        press()
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    signal.signal(signal.SIGINT, signal.default_int_handler)


def test_outside_the_main_thread_they_do_nothing():
    done = []

    def work() -> None:
        with interrupts_once(), defer_interrupts("later"):
            done.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done


def test_a_signal_that_is_deferred_is_answered_at_once(capfd):
    with pytest.raises(KeyboardInterrupt), interrupts_once(), defer_interrupts("later"):
        press()
        press()
        assert capfd.readouterr().err == "later\n"


def test_a_deferred_signal_is_taken_after_an_error_too():
    with pytest.raises(KeyboardInterrupt), defer_interrupts("later"):
        press()
        raise ValueError


def test_sigterm_interrupts_once_and_is_as_before_afterwards():
    before = signal.getsignal(signal.SIGTERM)
    ended = []
    with pytest.raises(Terminated), sigterm_as_interrupt(), interrupts_once():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)
            press()
            ended.append(True)
    assert ended
    assert signal.getsignal(signal.SIGTERM) is before


def test_kept_handlers_are_those_of_before_whoever_sets_others():
    """What runs in the context sets some of Python's, and C's."""
    libc, own = ctypes.CDLL(None), signal.getsignal(signal.SIGTERM)
    ignored = ctypes.c_void_p(1)  # SIG_IGN
    with pytest.raises(Terminated), sigterm_as_interrupt(), interrupts_once():
        with keep_handlers():
            signal.signal(signal.SIGTERM, lambda *_: pytest.fail("a handler that should not be there"))
            libc.signal(int(signal.SIGTERM), ignored)
        os.kill(os.getpid(), signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is own


def test_while_handlers_are_kept_only_the_first_signal_interrupts():
    ended = []
    with pytest.raises(KeyboardInterrupt), interrupts_once(), keep_handlers():
        try:
            press()
        finally:
            press()
            ended.append(True)
    assert ended


def test_other_signals_are_free_while_handlers_are_kept():
    with keep_handlers():
        assert signal.signal(signal.SIGUSR1, signal.SIG_IGN) is signal.SIG_DFL
    assert signal.signal(signal.SIGUSR1, signal.SIG_DFL) is signal.SIG_IGN
