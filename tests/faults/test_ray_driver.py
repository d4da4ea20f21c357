"""A driver that started its own Ray: Ctrl-C at each stage and kill -9, what is left of it, and resuming."""

import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.faults.conftest import GENERATIONS
from tests.processes import AGENTS, Command, ray_elsewhere
from tests.short_runs import command as es_ray_command

pytestmark = pytest.mark.faults
COMPLETE = {
    "evaluating": 1,
    "updating": 1,
    "recording": 2,
    "the final comparison": GENERATIONS,
    "closing": GENERATIONS,
}
"""Complete generations in the end, by the stage of Ctrl-C: one that is being recorded is finished."""

WAITING = "es-ray: stopping, as soon as Ray has started and can be stopped"
FIRST_LINES = "checking model, task and examples\nstarting Ray on this machine\n"

Start = Callable[..., Command]


@pytest.fixture
def start(settings, tmp_path) -> Iterator[Start]:
    """`start(stage)`: the command with two workers, once it is paused there. See paused.py."""
    options = [*map(str, settings[1:]), "--workers", "2", "--output", str(tmp_path / "run")]

    def at(stage: str) -> Command:
        paused = [sys.executable, "-m", "tests.faults.paused", stage, str(tmp_path / "here")]
        return running.enter_context(Command([*paused, "run", *options], tmp_path))

    with ExitStack() as running:
        yield at


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[str]:
    """The address of a Ray that another process has started."""
    with ray_elsewhere() as (_, address):
        yield address


@pytest.fixture
def run(tmp_path) -> Path:
    return tmp_path / "run"


@pytest.fixture
def here(tmp_path) -> Path:
    """The file that is there while a stage is paused."""
    return tmp_path / "here"


def complete(run: Path) -> list[int]:
    return sorted(int(done.parent.name) for done in run.glob("generations/*/DONE"))


def resumed(drivers, reference, run: Path) -> None:
    """The run resumes, to the bytes of the undisturbed one."""
    ended = drivers("run", "--resume", "--local", "--output", run)
    assert ended.code == 0, ended.err
    assert "warning" not in ended.out
    reference.assert_equal(run)


@pytest.mark.parametrize("process", ["gcs_server", "raylet"])
def test_ctrl_c_while_ray_starts_waits_until_it_can_be_stopped(start, run, process):
    command = start("none")
    command.wait_for(lambda: command.runs(process))
    command.ctrl_c()
    ended = command.end()
    assert ended.code == 130
    assert ended.err.splitlines() == [
        WAITING,
        "es-ray: interrupted before anything was written",
    ]
    assert ended.out == FIRST_LINES
    assert not run.exists()
    command.assert_none_left()


@pytest.mark.parametrize("seconds", [0, 0.5, 1, 1.5, 2, 3, 5])
def test_sigterm_while_ray_starts_ends_a_run_as_ctrl_c_does(start, run, seconds):
    """Also in the second in which C++ runs and would take the signal for a crash."""
    command = start("engine start")
    command.wait_for(lambda: command.out == FIRST_LINES)
    time.sleep(seconds)
    command.terminate()
    ended = command.end()
    assert_terminated(ended, "es-ray: terminated before anything was written")
    if seconds == 0:
        assert ended.err.splitlines()[0] == WAITING
    assert not run.exists()
    command.assert_none_left()


@pytest.mark.parametrize("seconds", [0.5, 2, 3, 4])
def test_sigterm_while_ray_is_joined(settings, tmp_path, run, elsewhere, seconds):
    words = ["run", *settings[1:], "--engine", "transformers", "--workers", 2, "--address", elsewhere]
    with Command(es_ray_command(*words, "--output", run), tmp_path, RAY_AUTH_MODE="token") as command:
        command.wait_for(lambda: f"joining Ray at {elsewhere}\n" in command.out)
        time.sleep(seconds)
        command.terminate()
        ended = command.end()
        assert_terminated(ended, "es-ray: terminated before anything was written")
        assert not run.exists()
        command.assert_none_left()


@pytest.mark.parametrize("seconds", [0, 1, 2])
def test_sigterm_while_the_ray_of_evaluate_starts(reference, tmp_path, seconds):
    words = es_ray_command("evaluate", reference.path, "--workers", 2, "--json")
    with Command(words, tmp_path) as command:
        command.wait_for(lambda: command.runs("gcs_server"))
        time.sleep(seconds)
        command.terminate()
        ended = command.end()
        assert_terminated(ended, "es-ray: terminated")
        assert ended.out == ""
        command.assert_none_left()


def assert_terminated(ended, last: str) -> None:
    assert ended.code == 143, ended
    assert ended.err in (f"{last}\n", f"{WAITING}\n{last}\n")  # the second where it had to wait for Ray


def test_a_ray_that_cannot_start_is_reported_in_one_line(settings, run, tmp_path):
    words = es_ray_command("run", *settings[1:], "--workers", 2, "--output", run)
    with Command(words, tmp_path, RAY_TMPDIR="/dev/null") as failing:
        ended = failing.end()
        failing.assert_none_left()
    assert ended.code == 1
    assert len(ended.err.splitlines()) == 1
    assert ended.err.startswith("es-ray: Ray could not be started on this machine: ")
    assert "/dev/null" in ended.err
    assert not run.exists()


def test_ctrl_c_while_the_engines_start(start, run, here):
    command = start("engine start")
    command.wait_for(here.exists)
    command.ctrl_c()
    ended = command.end()
    assert (ended.code, ended.err) == (130, "es-ray: interrupted before anything was written\n")
    assert not run.exists()
    command.assert_none_left()


@pytest.mark.parametrize("stage", COMPLETE)
def test_ctrl_c_at_a_stage(start, drivers, reference, run, here, stage):
    command = start(stage)
    command.wait_for(here.exists)
    command.ctrl_c()
    if stage == "recording":
        time.sleep(0.5)
        here.unlink()
    began = time.monotonic()
    ended = command.end()
    assert_interrupted(ended, run, COMPLETE[stage])
    assert time.monotonic() - began < 15, "it waits for no worker"
    command.assert_none_left()
    resumed(drivers, reference, run)


def test_pressing_ctrl_c_again_changes_nothing(start, drivers, reference, run, here):
    command = start("recording")
    command.wait_for(here.exists)
    for press in range(200):
        if not command.ctrl_c():
            break
        time.sleep(0.1)
        if press == 5:
            here.unlink()
    assert press > 5
    assert_interrupted(command.end(), run, COMPLETE["recording"])
    command.assert_none_left()
    resumed(drivers, reference, run)


def assert_interrupted(ended, run: Path, generations: int) -> None:
    are = "generation is" if generations == 1 else "generations are"
    assert ended.err == (
        f"es-ray: interrupted; {generations} {are} complete; resume with es-ray run --resume --output {run}\n"
    )
    assert ended.code == 130
    assert "Traceback" not in ended.out
    assert complete(run) == list(range(generations))


@pytest.mark.parametrize("stage", ["evaluating", "recording"])
def test_what_a_killed_driver_started_ends_by_itself(start, drivers, reference, run, here, stage):
    command = start(stage)
    command.wait_for(here.exists)
    assert all(map(command.runs, ["gcs_server", "raylet", "ray::WorkerActor", *AGENTS]))
    command.wait_for((run / "generations/0000/DONE").exists)
    command.kill()
    assert command.end().code == -signal.SIGKILL
    assert complete(run) == [0]
    command.assert_none_left(but=AGENTS)
    resumed(drivers, reference, run)
    if stage == "evaluating":
        command.assert_none_left(seconds=75)
