"""A reward reaches a worker whose node cannot see its file: a second raylet, where the folder is hidden."""

import json
import os
import shlex
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.cluster.onprem import until
from tests.short_runs import SETTINGS, es_ray, json_lines

pytestmark = pytest.mark.cluster

REWARD = """\
from pathlib import Path

import helpers
from es_ray import Score


def reward(example, completion, folder):
    if completion and len(list(Path(folder).iterdir())) == 0:
        return Score(helpers.length(completion), {"hidden": True})
    return Score(helpers.length(completion), {"hidden": False})
"""
RAY = [sys.executable, "-m", "ray.scripts.scripts"]


def missing() -> str | None:
    """Why a folder cannot be hidden here, or None."""
    if os.geteuid() != 0:
        return "needs root"
    tried = subprocess.run(
        ["unshare", "--mount", "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True
    )
    return "mounts are refused" if tried.returncode else None


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@contextmanager
def raylet(*arguments: object, hidden: Path | None = None) -> Iterator[None]:
    """`ray start`, ended with the block; hidden: a folder that is empty for all that it starts."""
    command = [*RAY, "start", "--block", "--disable-usage-stats", *map(str, arguments)]
    if hidden is not None:
        script = f"mount -t tmpfs none {shlex.quote(str(hidden))} && exec {shlex.join(command)}"
        command = ["unshare", "--mount", "--", "sh", "-c", script]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.terminate()
        process.wait(timeout=60)


@pytest.fixture
def ray_files() -> Iterator[str]:
    """A head's own folder: in /tmp/ray it would leave its address to whoever asks for any cluster here."""
    # a short path, for sockets
    with TemporaryDirectory(prefix="ray", dir="/tmp", ignore_cleanup_errors=True) as folder:
        yield folder


def test_a_reward_reaches_a_node_that_cannot_see_its_file(tmp_path, ray_files):
    if reason := missing():
        pytest.skip(reason)
    folder, run = tmp_path / "mine", tmp_path / "run"
    folder.mkdir()
    (folder / "reward.py").write_text(REWARD)
    (folder / "helpers.py").write_text("def length(text):\n    return -len(text) / 100\n")
    row = json.dumps({"prompt": "How many days are in a week?", "target": "7"})
    (folder / "data.jsonl").write_text(f"{row}\n")
    data = folder / "data.jsonl"
    address = f"127.0.0.1:{free_port()}"
    port = address.rpartition(":")[2]
    head = (
        "--head",
        f"--port={port}",
        "--num-cpus=0",
        "--include-dashboard=false",
        f"--temp-dir={ray_files}",
    )
    with raylet(*head):
        until(lambda: alive(address) == 1, 60)
        with raylet(f"--address={address}", "--num-cpus=2", hidden=folder):
            until(lambda: alive(address) == 2, 60)
            ended = es_ray(
                "run", "--address", address, "--workers", 1, "--task", f"{folder}/reward.py:reward",
                "--train", data, "--test", data, "--set", f"task.options.folder={folder}",
                *SETTINGS, "--generations", 2, "--output", run,
            )  # fmt: skip
            (folder / "reward.py").write_text(REWARD.replace("helpers.length(", "helpers.long("))
            broken = es_ray(
                "run", "--address", address, "--workers", 1, "--task", f"{folder}/reward.py:reward",
                "--train", data, "--test", data, "--set", f"task.options.folder={folder}",
                *SETTINGS, "--output", tmp_path / "broken",
            )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert [line["members_hidden"] for line in json_lines(run / "metrics.jsonl")] == [1.0, 1.0]
    assert broken.returncode == 1, broken.stderr
    assert len(broken.stderr.splitlines()) == 1
    assert broken.stderr.startswith(f"es-ray: {folder}/reward.py:9: the task raised AttributeError")
    assert f", for {data}, line 1 (member 0 of generation 0)" in broken.stderr


def alive(address: str) -> int:
    """How many nodes a cluster has."""
    done = subprocess.run([*RAY, "status", "--address", address], capture_output=True, text=True)
    return done.stdout.partition("Pending:")[0].count("node_")
