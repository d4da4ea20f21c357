"""Real processes, interrupted in the middle, and resumed to the bytes of an undisturbed run."""

import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.short_runs import GENERATIONS, SETTINGS, command, evolved, receive_sigint


def interrupted(output: Path, number: int, once: str) -> subprocess.CompletedProcess[str]:
    """A run that gets the signal as soon as a file of its output is there."""
    process = subprocess.Popen(
        command("run", "--local", *SETTINGS, "--output", output),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=receive_sigint,
    )
    while not (output / once).exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.send_signal(number)
    out, err = process.communicate(timeout=120)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def complete_generations(run: Path) -> list[int]:
    return sorted(int(done.parent.name) for done in run.glob("generations/*/DONE"))


OUTSIDE = """\
import os, signal, sys
import es_ray.cli.main as main

def send(**_): os.kill(os.getpid(), signal.{number})

main.app = send
main.main()
"""


@pytest.mark.parametrize(
    ("number", "code", "said"), [("SIGINT", 130, "interrupted"), ("SIGTERM", 143, "terminated")]
)
def test_a_signal_outside_a_command_is_no_internal_error(number, code, said):
    """Around click, which turns the ones within it into its own exceptions."""
    source = OUTSIDE.format(number=number)
    ended = subprocess.run(
        [sys.executable, "-c", source, "doctor"],
        capture_output=True,
        text=True,
        timeout=60,
        preexec_fn=receive_sigint,
    )
    assert ended.returncode == code, ended.stderr
    assert ended.stderr.strip() == f"es-ray: {said}"


def test_ctrl_c_leaves_complete_generations_and_says_how_to_resume(finished, tmp_path, cli, monkeypatch):
    ended = interrupted(tmp_path / "run", signal.SIGINT, "generations/0000/DONE")
    assert ended.returncode == 130
    assert len(ended.stderr.splitlines()) == 1
    assert "Traceback" not in ended.stderr
    complete = complete_generations(tmp_path / "run")
    assert complete
    assert complete == list(range(len(complete)))
    assert len(complete) < GENERATIONS
    done = evolved_generations(tmp_path / "run", complete)
    assert done == evolved_generations(finished.path, complete)
    advice = re.search(r"es-ray (run --resume --output \S+)", ended.stderr)
    assert advice, ended.stderr
    monkeypatch.chdir(tmp_path)
    resumed = cli(*shlex.split(advice[1]))
    assert resumed.code == 0, resumed.err
    assert f"generations {len(complete)}-{GENERATIONS - 1}" in resumed.out
    assert evolved(tmp_path / "run") == evolved(finished.path)


def evolved_generations(run: Path, generations: list[int]) -> dict[str, bytes]:
    """The states and adapters of some generations."""
    return {
        f"{generation}/{file.relative_to(folder)}": file.read_bytes()
        for generation in generations
        for folder in [run / f"generations/{generation:04d}"]
        for file in folder.rglob("*.safetensors")
    }


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
@pytest.mark.parametrize(
    "once",
    [
        "config.yaml",
        "generations/.0000",
        "metrics.jsonl",
        "generations/0000",
        "generations/0001/DONE",
        "generations/.0002",
        "generations/0003/DONE",
    ],
)
def test_any_moment_of_interruption_is_safe(finished, tmp_path, cli, number, once):
    ended = interrupted(tmp_path / "run", number, once)
    if number == signal.SIGINT:
        assert ended.returncode == 130
        assert "--resume --output" in ended.stderr
        assert len(ended.stderr.splitlines()) == 1
    assert cli("run", "--resume", "--output", tmp_path / "run").code == 0
    assert evolved(tmp_path / "run") == evolved(finished.path)
