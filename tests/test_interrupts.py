"""Ctrl-C, as this process hears it: a real SIGINT."""

import os
import signal
import threading

import pytest

from es_ray.interrupts import defer_sigint, sigint_once


@pytest.fixture(autouse=True)
def heard():
    """A process in the background ignores SIGINT: hear it here, and leave all as it was."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    signal.signal(signal.SIGINT, before)


def press() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def test_only_the_first_ctrl_c_interrupts():
    cleaned = []
    with pytest.raises(KeyboardInterrupt), sigint_once():
        try:
            press()
        finally:
            press()
            cleaned.append(True)
    assert cleaned
    with pytest.raises(KeyboardInterrupt):  # and afterwards all is as it was
        press()


def test_ctrl_c_is_put_off_to_the_end():
    done = []
    with pytest.raises(KeyboardInterrupt), sigint_once(), defer_sigint():
        press()
        press()
        done.append(True)
    assert done


def test_without_ctrl_c_nothing_happens():
    with sigint_once(), defer_sigint():
        pass


def test_a_handler_that_does_not_raise_hears_each():
    heard = []
    signal.signal(signal.SIGINT, lambda *_: heard.append(True))
    with sigint_once():
        press()
        press()
    assert len(heard) == 2
    signal.signal(signal.SIGINT, signal.default_int_handler)


def test_a_process_that_ignores_ctrl_c_goes_on_ignoring_it():
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with sigint_once(), defer_sigint():
        press()
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    signal.signal(signal.SIGINT, signal.default_int_handler)


def test_elsewhere_than_in_the_main_thread_they_do_nothing():
    done = []

    def work() -> None:
        with sigint_once(), defer_sigint():
            done.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done
