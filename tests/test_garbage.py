"""The garbage collector rests while a command starts, and works again when the run does."""

import gc
import subprocess
import sys

import pytest

from es_ray.garbage import collector_rests, work_begins
from tests.short_runs import SETTINGS, es_ray

TASK = """
import gc
from pathlib import Path

SEEN = Path(__file__).with_name("seen")

def note(when):
    with SEEN.open("a") as file:
        file.write(f"{when} {gc.isenabled()} {gc.get_freeze_count() > 100_000}\\n")

note("imported")

def reward(example, completion):
    note("scored")
    return -len(completion)
"""


def test_it_rests_until_work_begins():
    with collector_rests():
        assert not gc.isenabled()
        work_begins()
        assert gc.isenabled()
    assert gc.isenabled()


def test_it_works_again_after_a_failure():
    with pytest.raises(ZeroDivisionError), collector_rests():
        _ = 1 / 0
    assert gc.isenabled()


def test_whoever_has_turned_it_off_keeps_it_so():
    gc.disable()
    try:
        with collector_rests():
            work_begins()
            assert not gc.isenabled()
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_what_there_is_at_the_first_start_is_never_looked_at_and_later_garbage_is_collected():
    script = """
import gc
from es_ray.garbage import collector_rests, work_begins
frozen = []
def collected():
    with collector_rests():
        for _ in range(100):
            ring = []
            ring.append(ring)
        work_begins()
        frozen.append(gc.get_freeze_count())
    return gc.collect()
assert collected() < 10
assert collected() > 90
assert frozen[0] >= frozen[1] > 1000
"""
    subprocess.run([sys.executable, "-c", script], check=True)


def test_a_run_begins_without_it_and_runs_with_it(tmp_path):
    (tmp_path / "task.py").write_text(TASK)
    (tmp_path / "rows.jsonl").write_text('{"prompt": "Hello", "target": "Hi"}\n')
    ended = es_ray(
        "run", "--local", *SETTINGS, "--generations", 1, "--task", f"{tmp_path}/task.py:reward",
        "--output", tmp_path / "run", "--train", tmp_path / "rows.jsonl", "--test", tmp_path / "rows.jsonl",
    )  # fmt: skip
    assert (ended.returncode, ended.stderr) == (0, "")  # nor is anything reported as leaked at the end
    lines = (tmp_path / "seen").read_text().splitlines()
    assert lines[0] == "imported False False"
    assert set(lines[1:]) == {"scored True True"}
