"""The driver, killed before each step on its files, and resumed to the bytes of an undisturbed run."""

import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

import pytest

from tests.drivers import Drivers
from tests.faults.conftest import Reference, undisturbed


def finish(drivers: Drivers, run: Path, start: Sequence[object]) -> None:
    """Resume the run, or start it again if it was killed before there was one."""
    resume = ("run", "--resume", "--output", run)
    ended = drivers(*(resume if (run / "config.yaml").exists() else start))
    assert ended.code == 0, ended.err
    assert ended.err == ""
    assert "warning" not in ended.out, "a killed driver leaves nothing damaged"


def each_kill_is_survived(
    drivers: Drivers, reference: Reference, steps: Iterable[int], tmp_path: Path, *options: object
) -> None:
    for step in steps:
        run = tmp_path / f"before-step-{step}"
        start = ("run", *options, "--output", run)
        killed = drivers(*start, folder=run, step=step)
        what = f"killed before step {step}, {reference.steps[step]}"
        assert killed.code == -9, f"{what}: {killed}"
        try:
            finish(drivers, run, start)
            reference.assert_equal(run)
        except AssertionError as error:
            raise AssertionError(f"{what}: {error}") from error
        shutil.rmtree(run)


def last(steps: list[str], what: str) -> int:
    return max(number for number, step in enumerate(steps) if step.startswith(what))


def test_a_kill_at_some_steps_of_recording_is_survived(drivers, settings, reference, tmp_path):
    steps = [
        last(reference.steps, what)
        for what in (
            "open generations/.0001/.state.json",
            "os.rename generations/.0002",  # its line in metrics.jsonl is there
            "os.rename generations/0001/.DONE",
            "os.rename .test_results.json",
        )
    ]
    each_kill_is_survived(drivers, reference, steps, tmp_path, *settings)


def test_kills_of_a_run_with_adam_and_batches_are_survived(drivers, settings, tmp_path):
    """Its moments come from the stored state or, where that was pruned, from the recorded advantages."""
    adam = (
        *settings,
        "--set", "evolution.optimizer=adam",
        "--set", "evolution.weight_decay=0.1",
        "--set", "evolution.learning_rate_schedule={kind: linear, to: 0.5, over: 2}",
        "--set", "evolution.noise.schedule={kind: cosine, to: 0.5, over: 2}",
        "--set", "evolution.prompt_normalization=zscore",
        "--set", "task.batch=1",
        "--set", "output.keep=1",
        "--set", "output.populations_every=2",
    )  # fmt: skip
    whole = undisturbed(drivers, tmp_path / "whole", *adam)
    steps = [
        last(whole.steps, what)
        for what in ("open generations/.0001/.state.json", "os.rename generations/.0002")
    ]
    each_kill_is_survived(drivers, whole, steps, tmp_path, *adam)


@pytest.mark.slow
def test_kills_of_a_merged_run_with_checkpoints_are_survived(drivers, settings, tmp_path):
    """While the base model's samples and a checkpoint are written, and with one in an unfinished folder."""
    merged = (
        *settings,
        "--set", "lora.form=merged",
        "--set", "output.checkpoint_every=1",
    )  # fmt: skip
    whole = undisturbed(drivers, tmp_path / "whole", *merged)
    assert (whole.path / "generations/0002/changes.safetensors").is_file()
    steps = [
        last(whole.steps, what)
        for what in (
            "open generations/.0000/base_samples.jsonl",
            "open generations/.0002/changes.safetensors",
            "os.rename generations/.0002",
        )
    ]
    each_kill_is_survived(drivers, whole, steps, tmp_path, *merged)


def test_a_kill_while_pruning_is_survived(drivers, settings, pruned, tmp_path):
    steps = [last(pruned.steps, "os.rmdir")]
    each_kill_is_survived(drivers, pruned, steps, tmp_path, *settings, "--set", "output.keep=1")


@pytest.mark.faults
def test_a_kill_at_each_step_is_survived(drivers, settings, reference, tmp_path):
    assert len(reference.steps) > 100
    each_kill_is_survived(drivers, reference, range(len(reference.steps)), tmp_path, *settings)


@pytest.mark.faults
def test_a_kill_at_each_step_of_a_pruned_run_is_survived(drivers, settings, pruned, tmp_path):
    steps = range(len(pruned.steps))
    each_kill_is_survived(drivers, pruned, steps, tmp_path, *settings, "--set", "output.keep=1")


@pytest.mark.faults
def test_a_kill_at_each_step_of_resuming_is_survived(drivers, reference, tmp_path):
    """One generation is intact, one damaged, one torn: resuming has much to remove before it continues."""

    def broken(run: Path) -> Path:
        reference.copy(run)
        (run / "generations/0001/state.safetensors").write_bytes(b"torn")
        (run / "generations/0002/DONE").unlink()
        (run / "generations/0002").rename(run / "generations/.0002")
        (run / ".metrics.jsonl.12345").write_text("torn")
        return run

    first = broken(tmp_path / "first")
    trace = tmp_path / "trace"
    assert drivers("run", "--resume", "--output", first, folder=first, trace=trace).code == 0
    reference.assert_equal(first)
    steps = trace.read_text().splitlines()
    assert any(step.startswith("os.rmdir") for step in steps)
    for number, step in enumerate(steps):
        run = broken(tmp_path / f"before-step-{number}")
        killed = drivers("run", "--resume", "--output", run, folder=run, step=number)
        assert killed.code == -9, f"{step}: {killed}"
        ended = drivers("run", "--resume", "--output", run)
        assert ended.code == 0, f"killed before {step}: {ended.err}"
        reference.assert_equal(run)
        shutil.rmtree(run)


@pytest.mark.faults
def test_kills_in_a_row_are_survived(drivers, settings, reference, tmp_path):
    """Every driver gets a little further and is killed again."""
    run = tmp_path / "run"
    start = ("run", *settings, "--output", run)
    kills = 0
    for step in range(20, 40):
        again = ("run", "--resume", "--output", run) if (run / "config.yaml").exists() else start
        kills += drivers(*again, folder=run, step=step).code == -9
    assert kills > 3
    finish(drivers, run, start)
    reference.assert_equal(run)
