"""Ray workers import what the driver has shipped, and go on when the user's files are gone."""

import os
import signal
from pathlib import Path

import pytest

import es_ray
from es_ray.config import load
from es_ray.tasks.conciseness import Conciseness
from es_ray.workers.user_code import user_code
from tests.listeners import listening
from tests.short_runs import SETTINGS, json_lines

REWARD = """\
import helpers
from es_ray import Score


def reward(example, completion, away):
    files = [__file__, helpers.__file__]
    shipped = not any(file.startswith(away) for file in files)
    return Score(helpers.length(completion), {"shipped": shipped, "version": helpers.VERSION})
"""
HELPERS = "VERSION = {version}\ndef length(text):\n    return -len(text) / 100\n"


def configured(folder: Path, output: Path, workers: int, generations: int) -> es_ray.Config:
    name = f"task.name={folder}/reward.py:reward"
    sets = [value for flag, value in zip(SETTINGS, SETTINGS[1:], strict=False) if flag == "--set"]
    sets += [name, f"task.options.away={folder}", f"cluster.workers={workers}", f"output.dir={output}"]
    sets += [f"task.train={Conciseness.train}", f"task.test={Conciseness.test}"]
    return load(sets=[*sets, "evolution.population=6", f"evolution.generations={generations}"])


def versions(run: Path, key: str) -> list[float]:
    return [line[f"members_{key}"] for line in json_lines(run / "metrics.jsonl")]


def written(folder: Path, version: int) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "reward.py").write_text(REWARD)
    (folder / "helpers.py").write_text(HELPERS.format(version=version))
    return folder


def test_a_replaced_worker_imports_the_copy_when_the_files_are_gone(cluster, tmp_path):
    folder, run, killed = written(tmp_path / "mine", 1), tmp_path / "run", []

    def take_away(info) -> None:
        folder.rename(tmp_path / "gone")

    def kill(done: int, total: int) -> None:
        if (run / "generations/0001/population.jsonl").is_file() and not killed and done < total:
            killed.append(json_lines(run / "generations/0000/population.jsonl")[0]["worker"])
            os.kill(int(killed[0].partition("/")[2]), signal.SIGKILL)

    listener = listening(on_run_start=take_away, on_progress=kill)
    es_ray.run(configured(folder, run, workers=1, generations=4), callbacks=[listener])
    assert killed and not folder.exists()
    assert versions(run, "shipped") == [1.0] * 4
    assert versions(run, "version") == [1.0] * 4


@pytest.mark.slow
def test_two_runs_with_a_changed_file_do_not_mix(cluster, tmp_path):
    for version in (1, 2):
        folder = written(tmp_path / "mine", version)
        for workers in (0, 1):
            run = tmp_path / f"run-{version}-{workers}"
            es_ray.run(configured(folder, run, workers, generations=1))
            assert versions(run, "version") == [version]
            assert versions(run, "shipped") == [float(workers)]


def test_a_task_that_comes_with_es_ray_ships_nothing():
    assert user_code(es_ray.Config()) is None
