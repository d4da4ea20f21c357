"""Ctrl-C at each stage: 130, one line, no process left, and a run that resumes to the same bytes."""

import signal
import time
from pathlib import Path

import pytest

from tests.faults.conftest import GENERATIONS

COMPLETE = {"evaluating": (1, 2), "updating": (1,), "recording": (2,), "the final comparison": (GENERATIONS,)}
"""Complete generations after it: one that is being recorded is written to its end."""


def processes_of(run: Path) -> list[str]:
    """Command lines that name the run; the plots' process does."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().decode().split("\0")
        except OSError:  # it has ended
            continue
        if any(str(run) in word for word in words):
            found.append(" ".join(words))
    return found


@pytest.mark.parametrize("stage", ["engine start", *COMPLETE])
def test_ctrl_c_at_a_stage(drivers, settings, reference, tmp_path, stage):
    run = tmp_path / "run"
    plots = stage in ("recording", "the final comparison")
    ended = drivers("run", *settings, "--output", run, stage=stage, number=signal.SIGINT, plots=plots)
    assert ended.code == 130, ended.err
    assert len(ended.err.splitlines()) == 1, ended.err
    assert "Traceback" not in ended.out
    assert not processes_of(run)
    if stage == "engine start":
        assert ended.err == "es-ray: interrupted before anything was written\n"
        assert not run.exists()
        assert drivers("run", *settings, "--output", run).code == 0
    else:
        expected = [
            f"interrupted; {n} generation{' is' if n == 1 else 's are'} complete; " for n in COMPLETE[stage]
        ]
        assert any(words in ended.err for words in expected), ended.err
        assert ended.err.endswith(f"resume with es-ray run --resume --output {run}\n")
        resumed = drivers("run", "--resume", "--output", run)
        assert resumed.code == 0, resumed.err
    reference.assert_equal(run)


def test_ctrl_c_while_a_resumed_run_starts_its_engine(drivers, settings, reference, tmp_path):
    run = reference.copy(tmp_path / "run")
    (run / "generations/0002/DONE").unlink()
    options = ("run", "--resume", "--output", run)
    ended = drivers(*options, stage="engine start", number=signal.SIGINT)
    assert ended.code == 130
    assert "interrupted; 2 generations are complete; " in ended.err
    assert drivers(*options).code == 0
    reference.assert_equal(run)


def test_the_plots_process_of_a_killed_driver_ends_and_the_plots_are_drawn_later(drivers, settings, tmp_path):
    run = tmp_path / "run"
    at = {"stage": "recording", "number": signal.SIGKILL, "plots": True}
    assert drivers("run", *settings, "--output", run, **at).code == -9
    deadline = time.monotonic() + 30
    while processes_of(run):
        assert time.monotonic() < deadline, processes_of(run)
        time.sleep(0.05)
    assert drivers("run", "--resume", "--output", run, plots=True).code == 0
    names = {file.name for file in (run / "plots").iterdir()}
    plots = [f"evolution_progress_gen{generation}.png" for generation in range(GENERATIONS)]
    assert {"latest.png", plots[-1]} <= names <= {"latest.png", *plots}  # some are too soon after another


@pytest.mark.parametrize("stage", ["evaluating", "updating", "recording", "the final comparison"])
def test_sigterm_ends_a_run_as_ctrl_c_does_with_143(drivers, settings, reference, tmp_path, stage):
    """As a spot machine, Slurm or Kubernetes sends it: no process stays."""
    run = tmp_path / "run"
    ended = drivers("run", *settings, "--output", run, stage=stage, number=signal.SIGTERM)
    assert ended.code == 143
    assert len(ended.err.splitlines()) == 1
    assert not processes_of(run)
    expected = [
        f"terminated; {n} generation{' is' if n == 1 else 's are'} complete; " for n in COMPLETE[stage]
    ]
    assert any(words in ended.err for words in expected), ended.err
    assert ended.err.endswith(f"resume with es-ray run --resume --output {run}\n")
    resumed = drivers("run", "--resume", "--output", run)
    assert resumed.code == 0, resumed.err
    reference.assert_equal(run)
