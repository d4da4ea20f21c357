"""Batches that a forked copy of the process generates."""

import array
import errno
import fcntl
import multiprocessing
import os
import signal
import termios
import threading
import time
from multiprocessing import util

import numpy as np
import pytest

from es_ray.config import Config
from es_ray.engines.base import Completion, Row, Variant
from es_ray.engines.hf.forked import ForkedCopy, forked_copies
from es_ray.errors import EvaluationError, RemoteTraceback, RunError
from tests.engines.hf_setting import GENERATION, Setting, prompt_of, rows, setting
from tests.processes import assert_all_end, offspring
from tests.small_models import small_model


@pytest.fixture(scope="module")
def here(tmp_path_factory) -> Setting:
    """An engine in this process alone; with one thread, as a copy would wait for others."""
    return setting(small_model(tmp_path_factory.mktemp("models") / "model"), {"rank": 1}, engine__threads=1)


@pytest.fixture
def copy(here):
    made = ForkedCopy(here.engine.generate)
    yield made
    made.close()


def some_rows(seed: int) -> list[Row]:
    """Prompts of their own for three members."""
    rng = np.random.default_rng(seed)
    return [Row(Variant(member, GENERATION), prompt_of(rng, 9)) for member in range(3)]


def test_a_copy_answers_as_the_process_does_while_that_generates_something_else(here, copy):
    centres, asked, received = [here.theta], rows(), {}
    assert copy.begin(centres, here.perturbation, asked)
    other = here.generate(some_rows(1))
    found = copy.collect(received.__setitem__)
    assert found == here.generate(asked)
    assert received == dict(enumerate(found))
    assert other == here.generate(some_rows(1))


def test_a_batch_is_kept_until_it_is_collected(here, copy):
    centres = [here.theta]
    first, second = some_rows(1), some_rows(2)
    assert copy.begin(centres, here.perturbation, first)
    assert not copy.begin(centres, here.perturbation, second)
    assert copy.has_begun([here.theta], here.perturbation, some_rows(1))
    assert not copy.has_begun(centres, here.perturbation, second)
    assert copy.collect(None) == here.generate(first)
    assert not copy.has_begun(centres, here.perturbation, first)
    assert copy.begin(centres, here.perturbation, second)
    assert copy.collect(None) == here.generate(second)


def test_a_batch_of_a_call_that_failed_makes_way_for_those_of_another_centre(here, copy):
    moved = here.theta + np.float32(0.5)
    assert copy.begin([here.theta], here.perturbation, some_rows(1))
    assert not copy.has_begun([moved], here.perturbation, some_rows(1))
    assert copy.begin([moved], here.perturbation, some_rows(1))
    assert copy.collect(None) == here.engine.generate([moved], here.perturbation, some_rows(1))


def test_an_error_there_is_raised_here_and_the_next_batch_is_generated(here, copy):
    broken = np.full_like(here.theta, np.nan)
    assert copy.begin([broken], here.perturbation, some_rows(1))
    with pytest.raises(
        EvaluationError, match=rf"member \d of generation {GENERATION}: .*not finite"
    ) as error:
        copy.collect(None)
    assert isinstance(error.value.__cause__, RemoteTraceback)
    assert copy.begin([here.theta], here.perturbation, some_rows(1))
    assert copy.collect(None) == here.generate(some_rows(1))


def test_an_error_of_a_call_that_failed_is_not_raised_by_another(here, copy):
    broken = np.full_like(here.theta, np.nan)
    assert copy.begin([broken], here.perturbation, some_rows(1))
    assert copy.begin([here.theta], here.perturbation, some_rows(1))
    assert copy.collect(None) == here.generate(some_rows(1))


def test_an_error_that_is_none_of_es_rays_is_named(here, copy):
    assert copy.begin([], here.perturbation, some_rows(1))  # no centre to start from
    with pytest.raises(RuntimeError, match="IndexError"):
        copy.collect(None)


def test_a_copy_that_is_killed_is_an_error_with_the_remedy(here):
    before = {process.pid for process in offspring()}
    copy = ForkedCopy(here.engine.generate)
    (pid,) = {process.pid for process in offspring()} - before
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(EvaluationError, match=r"ended by signal SIGKILL.*engine\.processes=1"):
        assert copy.begin([here.theta], here.perturbation, some_rows(1))
        copy.collect(None)
    copy.close()


def test_a_copy_outlives_ctrl_c_and_ends_with_close(here):
    before = {process.pid for process in offspring()}
    copy = ForkedCopy(here.engine.generate)
    (pid,) = {process.pid for process in offspring()} - before
    assert copy.begin([here.theta], here.perturbation, some_rows(1))
    first = copy.collect(None)  # by now it ignores signals
    for number in (signal.SIGINT, signal.SIGTERM):
        os.kill(pid, number)
    assert copy.begin([here.theta], here.perturbation, some_rows(1))
    assert copy.collect(None) == first
    copy.close()
    assert_all_end(lambda: [process for process in offspring() if process.pid == pid], 5)


def waiting_bytes(copy: ForkedCopy) -> int:
    """Bytes that it has sent, and that nobody has read."""
    size = array.array("i", [0])
    fcntl.ioctl(copy._connection.fileno(), termios.FIONREAD, size)
    return size[0]


def test_a_copy_that_is_killed_while_it_answers_is_the_same_error(here):
    long = Completion([7] * 5_000_000, "length")  # more than a pipe holds
    before = {process.pid for process in offspring()}
    copy = ForkedCopy(lambda *_, **__: [long])
    (pid,) = {process.pid for process in offspring()} - before
    assert copy.begin([here.theta], here.perturbation, some_rows(1))
    deadline = time.monotonic() + 60
    while waiting_bytes(copy) < 1000:  # of the answer itself, behind its length
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(EvaluationError, match=r"ended by signal SIGKILL.*engine\.processes=1"):
        copy.collect(None)
    copy.close()


def test_ctrl_c_while_a_copy_starts_does_not_end_it(here):
    class Starting:
        """Alive as long as copies are to be interrupted."""

    starting = Starting()
    util.register_after_fork(starting, lambda _: os.kill(os.getpid(), signal.SIGINT))
    copy = ForkedCopy(here.engine.generate)
    assert copy.begin([here.theta], here.perturbation, some_rows(1))
    assert copy.collect(None) == here.generate(some_rows(1))
    copy.close()
    del starting


def test_a_fork_of_a_users_own_does_not_end_the_copy(here, copy):
    """It calls the exit functions of the process that it was."""
    pid = os.fork()
    if pid == 0:
        copy.close()
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    assert copy.begin([here.theta], here.perturbation, some_rows(1))
    assert copy.collect(None) == here.generate(some_rows(1))


def asking_for(processes: int) -> Config:
    """The configuration of a run that may have copies."""
    return Config().replace(cluster__workers=0, engine__threads=1, engine__processes=processes)


@pytest.mark.parametrize(("daemon", "copies"), [(False, 2), (True, 0)])
def test_a_worker_of_a_pool_has_none_as_it_may_have_no_children(daemon, copies):
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()

    def count() -> None:
        found = forked_copies(asking_for(3), lambda *_, **__: [])
        theirs.send(len(found))
        for each in found:
            each.close()

    process = context.Process(target=count, daemon=daemon)
    process.start()
    theirs.close()
    assert ours.recv() == copies
    process.join()


def test_a_system_that_refuses_a_process_is_named_and_none_is_left(monkeypatch):
    before = {process.pid for process in offspring()}
    forks = iter([os.fork])

    def fork() -> int:
        if (real := next(forks, None)) is not None:
            return real()
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    monkeypatch.setattr(os, "fork", fork)
    monkeypatch.setattr(threading, "active_count", lambda: 1)  # of a test runner
    with pytest.raises(RunError, match=r"^engine\.processes: 3, but the system refuses another process: Res"):
        forked_copies(asking_for(3), lambda *_, **__: [])
    assert_all_end(lambda: [process for process in offspring() if process.pid not in before], 5)
