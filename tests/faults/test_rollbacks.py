"""A run that its guard sends back, killed before steps on its files, resumes to the same bytes."""

import shutil

import pytest

from es_ray.runs.run_dir import RunDir
from tests.faults.conftest import undisturbed
from tests.short_runs import json_lines

ROLLBACKS = (
    "--generations", 5,
    # the start is the base model, as of every run with form b: its KL is 0
    "--set", "evaluation.kl_every=1",
    "--set", "guard.max_kl=1e-12",
    "--set", "guard.action=rollback",
    "--set", "output.keep=1",
)  # fmt: skip


@pytest.mark.faults
def test_a_kill_around_a_rollback_is_survived(drivers, settings, tmp_path):
    options = (*settings, *ROLLBACKS)
    (tmp_path / "undisturbed").mkdir()
    reference = undisturbed(drivers, tmp_path / "undisturbed" / "run", *options)
    lines = json_lines(reference.path / "metrics.jsonl")
    back = [line["generation"] for line in lines if "rollback" in line]
    assert back and all(line["kl"] >= 0 for line in lines)
    wanted = (reference.path / "selected.json").read_text()
    steps = [
        number
        for number, step in enumerate(reference.steps)
        if any(
            f"generations/{what}" in step
            for g in back
            for what in (f".{g:04d}/.state.json", f"{g:04d}/.DONE")
        )
        or ".selected.json" in step
    ]
    assert len(steps) >= 4
    for step in steps:
        run = tmp_path / f"before-step-{step}"
        killed = drivers("run", *options, "--output", run, folder=run, step=step)
        assert killed.code == -9, killed
        ended = drivers("run", "--resume", "--output", run)
        assert ended.code == 0, ended.err
        reference.assert_equal(run)
        assert (run / "selected.json").read_text() == wanted
        assert RunDir.open(run).selected() is not None
        shutil.rmtree(run)
