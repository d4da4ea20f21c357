"""Failures and their causes; SGLang itself needs a GPU, and is tested in tests/gpu."""

import subprocess
import sys

import pytest

from es_ray.engines.sglang.failures import reason, tail
from es_ray.engines.sglang.lifecycle import DIED

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
