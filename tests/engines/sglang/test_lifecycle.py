"""Failures, their causes, and what is killed; SGLang itself needs a GPU, and is tested in tests/gpu."""

import multiprocessing
import os
import subprocess
import sys
import time
from types import ModuleType, SimpleNamespace

import psutil
import pytest

from es_ray.engines.sglang import lifecycle
from es_ray.engines.sglang.failures import reason, tail
from es_ray.engines.sglang.lifecycle import DIED
from es_ray.errors import RunError

OUT_OF_MEMORY = """Traceback (most recent call last):
  File "model_runner.py", line 1, in load
torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 130.00 MiB. GPU 0 has ...
"""


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (OUT_OF_MEMORY, "lower engine.sglang.mem_fraction_static or engine.shard"),
        (
            "RuntimeError: Not enough memory. Please try to increase --mem-fraction-static.",
            "raise engine.sglang",
        ),
        (
            "ValueError: Loaded weights leave no GPU memory for the KV cache under the fraction.",
            "raise engine.sglang",
        ),
        ("RuntimeError: No CUDA GPUs are available", "no CUDA GPU"),
        ("Traceback:\n  x\nValueError: head size 17 is odd\nbye\n", "ValueError: head size 17 is odd"),
        ("just a line\n", "just a line"),
        ("", ""),
    ],
)
def test_the_cause_is_one_line(text, words):
    assert words in reason(text)
    assert "\n" not in reason(text)


def test_the_tail_of_a_long_log(tmp_path):
    file = tmp_path / "log"
    file.write_text("x" * 200_000 + "\nValueError: the end")
    assert reason(tail(file)) == "ValueError: the end"
    assert tail(tmp_path / "none") == ""


WATCHED = """
import psutil, subprocess, sys, time
from es_ray.engines.sglang.lifecycle import ProcessWatchdog
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep({lives})"])
watch = ProcessWatchdog([psutil.Process(child.pid)], {log!r})
if {stopped}: watch.stop()
time.sleep(8)
"""


@pytest.mark.parametrize("stopped", [False, True])
def test_a_dead_engine_ends_its_process_before_it_would_end_itself(tmp_path, stopped):
    log = tmp_path / "log"
    log.write_text(OUT_OF_MEMORY)
    code = WATCHED.format(lives=0.5, log=str(log), stopped=stopped)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    if stopped:
        assert done.returncode == 0
    else:
        assert done.returncode == DIED
        assert "died: out of GPU memory" in done.stdout


class Started:
    """A process of SGLang's, as multiprocessing starts them, with one that it started itself."""

    def __init__(self) -> None:
        reads, writes = multiprocessing.Pipe(duplex=False)
        self.process = multiprocessing.get_context("fork").Process(target=self.work, args=(writes,))
        self.process.start()
        self.child = psutil.Process(reads.recv())

    @staticmethod
    def work(writes) -> None:
        writes.send(sleeper().pid)
        time.sleep(60)

    def running(self) -> list[bool]:
        return [self.process.is_alive(), lifecycle.running(self.child)]


def sleeper() -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])


@pytest.fixture
def sglang(monkeypatch):
    """`sglang.srt.entrypoints.engine` with SGLang's way of ending: each child of this process is killed."""
    module = ModuleType("sglang.srt.entrypoints.engine")

    def kill_process_tree(pid, include_parent=True, wait_timeout=None):
        for child in psutil.Process(pid).children(recursive=True):
            child.kill()

    class Engine:
        def __init__(self, fails=None, custom_sigquit_handler=None) -> None:
            self.started = Started()
            module.started.append(self.started)
            if fails is not None:
                raise fails

        def get_all_child_pids(self):
            return [self.started.process.pid]

        def shutdown(self):
            module.kill_process_tree(os.getpid(), include_parent=False, wait_timeout=60)

    module.started = []
    module.kill_process_tree, module.Engine = kill_process_tree, Engine
    for name in ("sglang", "sglang.srt", "sglang.srt.entrypoints"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(sys.modules["sglang.srt.entrypoints"], "engine", module, raising=False)
    yield module
    assert module.kill_process_tree is kill_process_tree
    for started in module.started:
        started.process.kill()
        started.child.kill()


@pytest.fixture
def users():
    """A process of a user's script."""
    process = sleeper()
    yield process
    process.kill()


@pytest.fixture
def options(tmp_path):
    return SimpleNamespace(log_file=str(tmp_path / "log"))


def test_an_engine_ends_its_own_processes_alone(sglang, users, options):
    first, second = lifecycle.start({}, options), lifecycle.start({}, options)
    first.shutdown()
    assert first.started.running() == [False, False]
    assert second.started.running() == [True, True] and users.poll() is None
    second.shutdown()
    assert second.started.running() == [False, False] and users.poll() is None


def test_an_engine_that_ends_twice_kills_nobody_else(sglang, users, options):
    """SGLang ends it again when Python exits, when its processes' numbers may be those of others."""
    engine = lifecycle.start({}, options)
    engine.shutdown()
    engine.started.process = SimpleNamespace(pid=users.pid, kill=lambda: None)
    engine.shutdown()
    assert users.poll() is None


@pytest.mark.parametrize("error", [RuntimeError("no room"), SystemExit(1), KeyboardInterrupt()])
def test_a_failed_or_interrupted_start_leaves_none_of_its_processes_and_those_of_others(
    sglang, users, options, error
):
    other = lifecycle.start({}, options)
    expected = KeyboardInterrupt if isinstance(error, KeyboardInterrupt) else RunError
    with pytest.raises(expected) as caught:
        lifecycle.start({"fails": error}, options)
    if expected is RunError:
        assert str(caught.value).startswith(f"SGLang did not start: {type(error).__name__}: {error} (its log")
    assert sglang.started[-1].running() == [False, False]
    assert other.started.running() == [True, True] and users.poll() is None
    other.shutdown()


def test_processes_that_do_not_end_are_not_waited_for_without_end(monkeypatch, caplog):
    class Stuck:
        """A process that the kernel keeps, as it does while a driver holds it."""

        pid = 7

        def children(self, recursive):
            return []

        def kill(self):
            pass

        def is_running(self):
            return True

        def status(self):
            return "disk-sleep"

    monkeypatch.setattr(lifecycle, "GONE_SECONDS", 0.1)
    lifecycle.kill([Stuck()])
    assert caplog.messages == ["SGLang's processes [7] did not end within 0 s"]
