"""The local raylet dies: the run ends with a line that says so, and resumes to the same bytes."""

import os
import re
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from tests.processes import AGENTS, Command, ray_elsewhere
from tests.short_runs import SETTINGS, command, evolved
from tests.short_runs import es_ray as run_es_ray
from tests.terminals import on_terminal

pytestmark = pytest.mark.faults
RAY_LOG = re.compile(r"\[\d{4}-\d\d-\d\d .* core_worker.cc")
"""What Ray itself logs when a node's death is announced before its process ends."""
LOST = "es-ray: Ray's raylet on this machine died"


def raylet(parent: int) -> psutil.Process | None:
    """The raylet that a process has started, or Ray's `start` as its child."""
    for process in psutil.Process(parent).children(recursive=True):
        if process.name() == "raylet":
            return process
    return None


def assert_told(ended, run: Path) -> None:
    assert ended.code == 1, ended
    lines = [line for line in ended.err.splitlines() if not RAY_LOG.match(line)]
    assert len(lines) == 1, ended.err
    assert lines[0].startswith(LOST)
    assert f"resume with es-ray run --resume --output {run}" in lines[0]
    assert ended.err.splitlines()[-1] == lines[0], "nothing of Ray's follows it"
    assert "Raylet is terminated" not in ended.out  # Ray's dump of its log
    assert "takes over" not in ended.out
    assert "failed to start" not in ended.out


def assert_resumes(finished, run: Path) -> None:
    again = run_es_ray("run", "--resume", "--local", "--output", run)
    assert again.returncode == 0, again.stderr
    assert evolved(run) == evolved(finished.path)


@pytest.mark.parametrize("delay", [0.0, 0.1, 0.25])
def test_a_run_whose_own_raylet_is_killed_says_how_to_resume(finished, tmp_path, delay):
    run = tmp_path / "run"
    words = command("run", "--workers", 2, *SETTINGS, "--output", run)
    with Command(words, tmp_path) as running:
        running.wait_for((run / "generations/0000/DONE").exists)
        time.sleep(delay)
        raylet(running.pid).kill()
        ended = running.end(60)
        running.assert_none_left(but=AGENTS)
    assert_told(ended, run)
    assert_resumes(finished, run)


def test_an_agent_of_ray_that_dies_takes_the_raylet_along(finished, tmp_path):
    run = tmp_path / "run"
    words = command("run", "--workers", 2, *SETTINGS, "--generations", 2000, "--output", run)
    with Command(words, tmp_path) as running:
        running.wait_for((run / "generations/0000/DONE").exists)
        agents = [
            p for p in raylet(running.pid).children() if any(a in " ".join(p.cmdline()) for a in AGENTS)
        ]
        assert agents
        agents[0].kill()
        ended = running.end(120)
        running.assert_none_left(but=AGENTS)
    assert_told(ended, run)


def test_the_raylet_of_a_cluster_that_was_joined(finished, tmp_path):
    run = tmp_path / "run"
    with ray_elsewhere() as (head, address):
        words = command("run", "--workers", 2, "--address", address, *SETTINGS, "--output", run)
        with Command(words, tmp_path, RAY_AUTH_MODE="token") as running:
            running.wait_for((run / "generations/0000/DONE").exists)
            raylet(head).kill()
            ended = running.end(60)
            running.assert_none_left()
    assert_told(ended, run)
    assert_resumes(finished, run)


def test_on_a_terminal_the_line_is_the_last_one_and_whole(tmp_path):
    run = tmp_path / "run"

    def kill() -> None:
        while not (run / "generations/0000/DONE").exists():
            time.sleep(0.03)
        raylet(os.getpid()).kill()

    threading.Thread(target=kill, daemon=True).start()
    words = command("run", "--workers", 2, *SETTINGS, "--generations", 2000, "--output", run)
    code, text, _ = on_terminal(words, 80)
    assert code == 1
    assert "completions" in text, "there were bars"
    last = text.rstrip().rpartition("\x1b[2K")[2]  # what follows the erasing of the bars
    assert last.startswith(LOST)
    assert last.endswith(f"resume with es-ray run --resume --output {run}")
    assert "Raylet is terminated" not in text


BUSY = """\
import sys, time
import es_ray
from es_ray.config import load
from es_ray.workers import raylet_watch
from tests.listeners import listening

raylet_watch.EXIT_SECONDS = 2.0


def busy(metrics):
    open(sys.argv[3], "w").close()
    time.sleep(600)


config = load(sys.argv[1]).replace(output__dir=sys.argv[2], cluster__workers=2)
es_ray.run(config, callbacks=[listening(on_generation_end=busy)])
"""


def test_a_driver_that_is_busy_elsewhere_is_ended_with_the_line(finished, tmp_path):
    run, busy = tmp_path / "run", tmp_path / "busy"
    words = [sys.executable, "-c", BUSY, str(finished.path / "config.yaml"), str(run), str(busy)]
    with Command(words, tmp_path) as running:
        running.wait_for(busy.exists)
        running.wait_for((run / "generations/0000/DONE").exists)
        raylet(running.pid).kill()
        ended = running.end(30)
        running.assert_none_left(but=AGENTS)
    assert_told(ended, run)
    assert_resumes(finished, run)
