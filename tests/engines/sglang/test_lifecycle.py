"""Failures, their causes, and what is killed; SGLang itself needs a GPU, and is tested in tests/gpu."""

import os
import subprocess
import sys
from types import ModuleType, SimpleNamespace

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
import subprocess, sys, time
from es_ray.engines.sglang.lifecycle import ProcessWatchdog
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep({lives})"])
watch = ProcessWatchdog([child.pid], {log!r})
if {stopped}: watch.stop()
time.sleep(8)
"""


@pytest.mark.parametrize("stopped", [False, True])
def test_a_dead_engine_ends_its_process_before_it_would_end_itself(tmp_path, stopped):
    pytest.importorskip("psutil")
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


def sleeper() -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])


@pytest.fixture
def sglang(monkeypatch):
    """`sglang.srt.entrypoints.engine` with SGLang's way of ending: each child of this process is killed."""
    psutil = pytest.importorskip("psutil")
    module = ModuleType("sglang.srt.entrypoints.engine")

    def kill_process_tree(pid, include_parent=True, wait_timeout=None):
        for child in psutil.Process(pid).children(recursive=True):
            child.kill()

    class Engine:
        def __init__(self, fails: bool = False, custom_sigquit_handler=None) -> None:
            self.process = sleeper()
            module.started.append(self.process)
            if fails:
                raise RuntimeError("no room")
            self._scheduler_init_result = SimpleNamespace(all_child_pids=[self.process.pid])

        def get_all_child_pids(self):
            return self._scheduler_init_result.all_child_pids

        def shutdown(self):
            module.kill_process_tree(os.getpid(), include_parent=False, wait_timeout=60)

    module.started = []
    module.kill_process_tree, module.Engine = kill_process_tree, Engine
    for name in ("sglang", "sglang.srt", "sglang.srt.entrypoints"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(sys.modules["sglang.srt.entrypoints"], "engine", module, raising=False)
    yield module
    for process in module.started:
        process.kill()


def test_an_engine_ends_its_own_processes_alone(sglang, tmp_path):
    options = SimpleNamespace(log_file=str(tmp_path / "log"))
    users = sleeper()
    first, second = lifecycle.start({}, options), lifecycle.start({}, options)
    try:
        first.shutdown()
        assert first.process.poll() is not None
        assert second.process.poll() is None and users.poll() is None
        with pytest.raises(RunError, match="SGLang did not start: RuntimeError: no room"):
            lifecycle.start({"fails": True}, options)
        assert sglang.started[-1].poll() is not None
        assert second.process.poll() is None and users.poll() is None
        second.shutdown()
        assert second.process.poll() is not None and users.poll() is None
    finally:
        users.kill()
