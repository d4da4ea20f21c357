"""Disks that are full or read-only: one line, earlier generations complete, resumable once there is room."""

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.faults.conftest import GENERATIONS
from tests.short_runs import json_lines

Mount = Callable[..., None]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[tuple[Path, Mount]]:
    """A small file system of its own, and `mount("remount,size=1m")`."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(options: str) -> None:
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], capture_output=True, text=True
        )
        if done.returncode:
            pytest.skip(f"a file system of its own cannot be mounted here: {done.stderr.strip()}")

    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    mount("size=4m")
    yield folder, mount
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def complete(run: Path) -> list[int]:
    return sorted(int(done.parent.name) for done in run.glob("generations/*/DONE"))


def full(drivers, settings, reference, disk, kilobytes: int, **faults) -> int:
    """A run on a disk of that size; returns how many generations were completed."""
    folder, mount = disk
    mount(f"remount,size={kilobytes}k")
    run = folder / "run"
    start = ("run", *settings, "--output", run)
    ended = drivers(*start, **faults)
    assert len(ended.err.splitlines()) == (1 if ended.code else 0), ended.err
    done = complete(run)
    assert done == list(range(len(done)))
    if ended.code == 0:
        assert len(done) == GENERATIONS
    else:
        assert "No space left on device" in ended.err
        assert str(run) in ended.err
        started = (run / "environment.json").exists()
        assert ended.code == (1 if started else 2), ended.err
        again = ("run", "--resume", "--output", run) if (run / "config.yaml").exists() else start
        ended = drivers(*again)  # still full: reported again, and nothing is lost
        assert ended.code in (0, 1, 2)
        assert len(ended.err.splitlines()) == (1 if ended.code else 0), ended.err
        assert complete(run)[: len(done)] == done
        mount("remount,size=8m")
        again = ("run", "--resume", "--output", run) if (run / "config.yaml").exists() else start
        ended = drivers(*again)
        assert ended.code == 0, ended.err
        assert "warning" not in ended.out
    reference.assert_equal(run)
    return len(done)


@pytest.mark.parametrize("kilobytes", [8, 150])
def test_a_full_disk_ends_the_run_in_one_line(drivers, settings, reference, disk, kilobytes):
    generations = full(drivers, settings, reference, disk, kilobytes)
    assert generations == 0 if kilobytes == 8 else 0 < generations < GENERATIONS


@pytest.mark.faults
@pytest.mark.parametrize("kilobytes", range(4, 240, 4))
def test_a_full_disk_of_any_size(drivers, settings, reference, disk, kilobytes):
    full(drivers, settings, reference, disk, kilobytes)


@pytest.mark.faults
@pytest.mark.parametrize("kilobytes", range(60, 400, 40))
def test_a_full_disk_of_any_size_with_plots(drivers, settings, reference, disk, kilobytes):
    full(drivers, settings, reference, disk, kilobytes, plots=True)


def test_a_read_only_folder_is_refused_before_anything_starts(drivers, settings, disk):
    folder, mount = disk
    mount("remount,ro")
    ended = drivers("run", *settings, "--output", folder / "run")
    assert ended.code == 2
    assert len(ended.err.splitlines()) == 1
    assert f"output.dir: {folder / 'run'} cannot be written" in ended.err
    assert ended.out == ""


def test_a_run_that_became_read_only_is_refused(drivers, reference, disk):
    folder, mount = disk
    run = reference.copy(folder / "run")
    mount("remount,ro")
    ended = drivers("run", "--resume", "--output", run, "--generations", GENERATIONS + 1)
    assert ended.code == 2
    assert len(ended.err.splitlines()) == 1
    assert f"output.dir: {run} cannot be written: Read-only file system" in ended.err
    assert len(json_lines(run / "metrics.jsonl")) == GENERATIONS
