"""The Slurm script on one node. What stands in for `srun` starts its command here; Ray and the run are real.

Several nodes: tests/cluster/test_onprem.py. Slurm's own part is not tested.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.pages import ROOT
from tests.short_runs import SETTINGS, evolved, json_lines

SCRIPT = ROOT / "examples" / "slurm.sh"
SRUN = 'while [ "${1#--}" != "$1" ]; do shift; done\nexec "$@"'


def test_bash_can_read_it():
    done = subprocess.run(["bash", "-n", SCRIPT], capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stderr) == (0, "")


def batch(folder: Path, *options: str, **variables: str) -> str:
    """The script as the job 7 on one node, to its end; gives what it printed."""
    programs = {"srun": SRUN, "es-ray": f'exec "{sys.executable}" -m es_ray.cli.main "$@"'}
    (folder / "programs").mkdir(exist_ok=True)
    for name, text in programs.items():
        (folder / "programs" / name).write_text(f"#!/bin/sh\n{text}\n")
        (folder / "programs" / name).chmod(0o755)
    paths = os.pathsep.join([str(folder / "programs"), os.environ["PATH"]])
    job = {"SLURM_JOB_ID": "7", "SLURM_NNODES": "1", "HOME": str(folder), "PATH": paths}
    done = subprocess.run(
        ["bash", SCRIPT, *options], env=os.environ | job | variables, text=True, timeout=300,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.mark.slow
def test_a_job_runs_on_workers_and_goes_on_when_it_is_submitted_again(finished, tmp_path):
    batch(tmp_path, *SETTINGS, "--set", "output.plots_every=null")
    run = tmp_path / "runs" / "7"
    lines = json_lines(run / "metrics.jsonl")
    assert [line["workers"] for line in lines] == [1] * 4
    assert evolved(run) == evolved(finished.path)

    (run / "test_results.json").unlink()
    shutil.rmtree(run / "generations/0003")
    (run / "metrics.jsonl").write_text("".join((run / "metrics.jsonl").read_text().splitlines(True)[:3]))
    output = batch(tmp_path, "--generations", "99", SLURM_JOB_ID="8", OUTPUT=str(run), WORKERS="2")
    assert evolved(run) == evolved(finished.path), output
    assert [line["workers"] for line in json_lines(run / "metrics.jsonl")] == [1, 1, 1, 2]
    assert not (tmp_path / "runs" / "8").exists()
