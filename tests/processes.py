"""Processes that are left behind: by a command that leads a session, or by a run in this process."""

import contextlib
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import psutil

from tests.short_runs import receive_sigint

MARK = "ES_RAY_TESTS_COMMAND"
AGENTS = ("ray::DashboardAgent", "ray::RuntimeEnvAgent")
"""Where raylet and GCS were killed, their agents try for 60 s to report it to them: Ray's own limit."""


HEAD = """\
import ray, time
ray.init("local", num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
print(ray.get_runtime_context().gcs_address, flush=True)
time.sleep(600)
"""


@contextlib.contextmanager
def ray_elsewhere() -> Iterator[tuple[int, str]]:
    """The pid of a process with a Ray of its own, for others to join, and that Ray's address."""
    head = subprocess.Popen(
        [sys.executable, "-c", HEAD], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        assert head.stdout is not None
        yield head.pid, head.stdout.readline().strip()
    finally:
        lose_machine_of(head)


def lose_machine_of(command: subprocess.Popen[str]) -> None:
    """SIGKILL to a command and to all that it started, which has ended on return and writes nothing more."""
    command.send_signal(signal.SIGSTOP)  # or it starts one more, unseen
    left = psutil.Process(command.pid).children(recursive=True)
    command.kill()
    command.wait()
    for process in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    _, alive = psutil.wait_procs(left, timeout=60)
    assert not alive, [_command_line(process) for process in alive]


def ray_here() -> Iterator[None]:
    """A Ray of this process, which runs in it join; all that it started ends with it."""
    import ray

    before = set(offspring())  # of other tests
    ray.init("local", num_cpus=8, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield
    started = set(offspring()) - before
    ray.shutdown()
    assert_all_end(lambda: [*started])


def offspring(*titles: str) -> list[psutil.Process]:
    """What descends from this process and lives; titles: only those whose command lines hold one of them."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            line = " ".join(process.cmdline())
            if line and any(title in line for title in titles or ("",)):  # a zombie has none
                found.append(process)
    return found


def assert_all_end(processes: Callable[[], list[psutil.Process]], seconds: float = 15) -> None:
    """Fail, with their command lines, if some of these processes still live after some seconds."""
    deadline = time.monotonic() + seconds
    while left := [line for line in map(_command_line, processes()) if line]:
        assert time.monotonic() < deadline, f"left behind after {seconds:g} s: {left}"
        time.sleep(0.1)


def _command_line(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline()).strip() if process.is_running() else ""
    except psutil.NoSuchProcess:
        return ""


class Exited(NamedTuple):
    """How a command ended: its exit code, -9 for kill -9, and its output."""

    code: int
    out: str
    err: str


class Command:
    """A command that runs. Ctrl-C reaches it as from a terminal: its process group receives it.

    What it starts is known by its session, or by a mark in the environment. Neither finds all of it: the
    process for plots begins a session, and Ray's agents write their titles over their environment.
    """

    def __init__(self, words: Iterable[str], scratch: Path, **environment: str) -> None:
        self._mark = f"{MARK}={uuid.uuid4().hex}"
        name, _, value = self._mark.partition("=")
        self._out, self._err = (scratch / f"{value}.{kind}" for kind in ("out", "err"))
        with self._out.open("w") as out, self._err.open("w") as err:  # no pipes: survivors would hold them
            self._process = subprocess.Popen(
                [*words],
                env=os.environ | environment | {name: value},
                stdout=out,
                stderr=err,
                start_new_session=True,
                preexec_fn=receive_sigint,
            )

    def wait_for(self, condition: Callable[[], object], seconds: float = 120) -> None:
        """Until something is true; fails once it has ended, or that took too long."""
        deadline = time.monotonic() + seconds
        while not condition():
            assert self._process.poll() is None, self.end()
            assert time.monotonic() < deadline, f"still waiting after {seconds} s: {self.processes()}"
            time.sleep(0.03)

    def ctrl_c(self) -> bool:
        """False once it has ended."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGINT)
        return self._process.returncode is None

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def out(self) -> str:
        """Its standard output so far."""
        return self._out.read_text()

    def terminate(self) -> None:
        """SIGTERM to it alone, as Slurm and Kubernetes send it."""
        self._process.terminate()

    def kill(self) -> None:
        self._process.kill()

    def end(self, seconds: float = 120) -> Exited:
        """Wait for its end."""
        code = self._process.wait(seconds)
        return Exited(code, self._out.read_text(), self._err.read_text())

    def processes(self) -> dict[int, str]:
        """It and what it started, as far as they live: command lines by pid."""
        return {
            process.pid: " ".join(process.info["cmdline"]).strip()
            for process in psutil.process_iter(["cmdline", "environ", "status"])
            if self._is_mine(process)
        }

    def runs(self, program: str) -> bool:
        """Whether a process with this in its title, or in the path of its program, is among them."""
        return any(program in line.split(" ")[0] for line in self.processes().values())

    def assert_none_left(self, seconds: float = 15, but: tuple[str, ...] = ()) -> None:
        """Fail if a process is left after some seconds, but for those with certain titles."""
        deadline = time.monotonic() + seconds
        while left := [line for line in self.processes().values() if not line.startswith(but or "\0")]:
            assert time.monotonic() < deadline, f"left behind after {seconds:g} s: {left}"
            time.sleep(0.1)

    def _clear(self) -> None:
        """Kill all that is left, after a test that failed."""
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def __enter__(self) -> "Command":
        return self

    def __exit__(self, *_: object) -> None:
        self._clear()

    def _is_mine(self, process: psutil.Process) -> bool:
        if process.info["status"] == psutil.STATUS_ZOMBIE:
            return False
        try:
            in_session = os.getsid(process.pid) == self._process.pid
        except ProcessLookupError:
            return False
        name, _, value = self._mark.partition("=")
        return in_session or (process.info["environ"] or {}).get(name) == value
