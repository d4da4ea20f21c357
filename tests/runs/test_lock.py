"""One driver for a run directory: refused with host and pid, taken over from the dead, kept by no child."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from es_ray.errors import UserError
from es_ray.runs import lock
from es_ray.runs.lock import LOCK, RunLock, flock_reaches_other_hosts, holder
from tests.listeners import listening

HOLD = """
import sys, time
from pathlib import Path
from es_ray.runs.lock import RunLock
lock = RunLock(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(60)
"""


@pytest.fixture
def other(tmp_path):
    """A process that holds the lock."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def test_a_second_driver_is_refused_with_host_and_pid(tmp_path, other):
    with pytest.raises(UserError) as refused:
        RunLock(tmp_path)
    assert str(tmp_path) in str(refused.value)
    assert f"pid {other.pid} on host {socket.gethostname()}" in str(refused.value)
    assert holder(tmp_path) == str(refused.value)


def test_the_lock_of_a_killed_driver_is_taken_over(tmp_path, other):
    other.kill()
    other.wait()
    assert json.loads((tmp_path / LOCK).read_text())["pid"] == other.pid
    assert holder(tmp_path) is None
    lock = RunLock(tmp_path)
    assert json.loads((tmp_path / LOCK).read_text())["pid"] == os.getpid()
    lock.release()
    assert not list(tmp_path.iterdir())


def test_a_stopped_driver_keeps_its_lock(tmp_path, other):
    other.send_signal(signal.SIGSTOP)
    with pytest.raises(UserError, match=str(other.pid)):
        RunLock(tmp_path)
    other.send_signal(signal.SIGCONT)


def test_one_process_is_refused_twice_as_well(tmp_path):
    lock = RunLock(tmp_path)
    with pytest.raises(UserError, match=f"pid {os.getpid()}"):
        RunLock(tmp_path)
    lock.release()
    RunLock(tmp_path).release()


@pytest.mark.parametrize("how", ["a program", "a fork"])
def test_a_child_that_outlives_the_driver_keeps_no_lock(tmp_path, how):
    child = "import os; os.fork() or os.execlp('sleep', 'sleep', '30')"
    if how == "a fork":
        child = "import os; os.fork() or time.sleep(30)"
    code = HOLD.replace('print("held"', f"{child}\nprint('held'")
    driver = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, start_new_session=True
    )
    try:
        assert driver.stdout.readline() == b"held\n"
        os.kill(driver.pid, signal.SIGKILL)
        driver.wait()
        assert os.killpg(driver.pid, 0) is None, "the child lives"
        deadline = time.monotonic() + 10  # the child may not have closed it yet
        while holder(tmp_path):
            assert time.monotonic() < deadline, holder(tmp_path)
        RunLock(tmp_path).release()
    finally:
        os.killpg(driver.pid, signal.SIGKILL)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"host": 1}'])
def test_a_lock_file_that_was_torn_is_taken_over(tmp_path, content):
    (tmp_path / LOCK).write_text(content)
    RunLock(tmp_path).release()
    assert not list(tmp_path.iterdir())


def test_another_hosts_lock_is_taken_over_where_it_would_be_seen(tmp_path, monkeypatch):
    """And only there: elsewhere a person must confirm that its driver is dead."""
    (tmp_path / LOCK).write_text('{"host": "elsewhere", "pid": 7}')
    monkeypatch.setattr(lock, "flock_reaches_other_hosts", lambda folder: False)
    with pytest.raises(UserError, match=f"pid 7 on host elsewhere.*remove {tmp_path / LOCK}"):
        RunLock(tmp_path)
    assert json.loads((tmp_path / LOCK).read_text())["pid"] == 7
    monkeypatch.setattr(lock, "flock_reaches_other_hosts", lambda folder: True)
    RunLock(tmp_path).release()


@pytest.mark.parametrize(
    ("kind", "reaches"),
    [
        ("ext4 /dev/sda1 rw", True),
        ("nfs4 server:/runs rw,vers=4.2,local_lock=none", True),
        ("nfs server:/runs rw,vers=3,nolock", False),
        ("nfs server:/runs rw,vers=3,local_lock=all", False),
        ("lustre server:/runs rw,flock", True),
        ("lustre server:/runs rw,localflock", False),
        ("fuse.gcsfuse bucket rw", False),
        ("virtiofs tag rw", False),
        ("cifs //server/runs rw", False),
    ],
)
def test_file_systems_that_carry_locks_between_hosts(tmp_path, kind, reaches):
    device = tmp_path.stat().st_dev
    mounts = tmp_path / "mountinfo"
    mounts.write_text(
        "22 1 0:999 / /elsewhere rw - fuse.sshfs x rw\n"
        f"23 1 {os.major(device)}:{os.minor(device)} / /runs rw,relatime shared:1 - {kind}\n"
    )
    assert flock_reaches_other_hosts(tmp_path, mounts) is reaches


def test_this_machines_own_disk_is_recognised(tmp_path):
    assert isinstance(flock_reaches_other_hosts(tmp_path), bool)
    assert flock_reaches_other_hosts(tmp_path, Path("/no/such/file"))


def test_a_folder_that_cannot_hold_a_lock_is_reported(tmp_path):
    with pytest.raises(UserError, match="cannot be written"):
        RunLock(tmp_path / "missing")


def refused(ended, pid: int, run: Path) -> None:
    assert ended.code == 2
    assert len(ended.err.splitlines()) == 1
    assert f"{run} is in use by another run: pid {pid} on host {socket.gethostname()}" in ended.err


def test_the_command_refuses_a_run_in_use_and_takes_it_over_from_the_dead(copied, cli):
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(copied)], stdout=subprocess.PIPE)
    assert holder.stdout.readline() == b"held\n"
    before = {p: p.stat().st_mtime_ns for p in copied.rglob("*")}
    try:
        for options in (("--resume",), ("--local",)):
            refused(cli("run", *options, "--output", copied), holder.pid, copied)
    finally:
        holder.kill()
        holder.wait()
    assert {p: p.stat().st_mtime_ns for p in copied.rglob("*")} == before
    ended = cli("run", "--resume", "--output", copied)
    assert ended.code == 0, ended.err
    assert not (copied / LOCK).exists()


def test_the_lock_is_held_from_the_start_to_the_end_of_a_run(finished, tmp_path, monkeypatch, cli):
    """The folder of a new run is locked as it is made."""
    import es_ray
    from es_ray.config import load

    run, seen = tmp_path / "run", []
    listener = listening(
        on_run_start=lambda run_info: seen.append(cli("run", "--resume", "--output", run)),
        on_final_evaluation=lambda: seen.append(cli("run", "--local", "--output", run)),
    )
    config = load(finished.path / "config.yaml").replace(
        output__dir=str(run), evolution__generations=1, evolution__population=2
    )
    es_ray.run(config, callbacks=[listener])
    assert len(seen) == 2
    for ended in seen:
        refused(ended, os.getpid(), run)
    assert not (run / LOCK).exists()
