"""A run without Ray whose engine generates in several processes."""

import json
import threading

import pytest

from es_ray.config import load
from es_ray.engines.hf.engine import TransformersEngine
from es_ray.errors import RunError
from es_ray.evaluation import CENTRE, Candidate
from es_ray.experiment import Experiment
from es_ray.preparation import resolve_config
from es_ray.workers import open_pool
from tests.processes import Command
from tests.short_runs import command, es_ray, evolved, json_lines

SHORT = (
    "run", "--population", 6, "--generations", 3, "--set", "engine.shard=3",
    "--set", "task.max_new_tokens=12", "--set", "output.plots_every=null",
)  # fmt: skip


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> dict[str, object]:
    """What one process makes."""
    folder = tmp_path_factory.mktemp("alone") / "run"
    done = es_ray(*SHORT, "--output", folder, "--set", "engine.processes=1")
    assert done.returncode == 0, done.stderr
    assert "batches in" not in done.stdout
    return evolved(folder)


def test_two_processes_give_the_bytes_of_one(alone, tmp_path):
    done = es_ray(*SHORT, "--output", tmp_path / "run", "--set", "engine.processes=2")
    assert done.returncode == 0, done.stderr
    assert "in this process, batches in 2" in done.stdout
    assert evolved(tmp_path / "run") == alone
    assert {line["workers"] for line in json_lines(tmp_path / "run" / "metrics.jsonl")} == {1}


@pytest.mark.parametrize(("processes", "here"), [(1, 6), (2, 3), (3, 2), (6, 1)])
def test_each_process_generates_its_share_of_the_shards(processes, here, monkeypatch, tmp_path):
    generate, calls = TransformersEngine._generate, []

    def counted(*arguments, **named):
        calls.append(arguments)  # of this process: the copies have lists of their own
        return generate(*arguments, **named)

    monkeypatch.setattr(TransformersEngine, "_generate", counted)
    monkeypatch.setattr(threading, "active_count", lambda: 1)  # of a test runner
    sets = ["engine.shard=1", "task.max_new_tokens=4", "cluster.workers=0", f"engine.processes={processes}"]
    experiment = Experiment(resolve_config(load(sets=sets)).replace(output__dir=str(tmp_path / "run")))
    with open_pool(experiment.config, experiment.workload) as pool:
        info = pool.start()
        strategy = experiment.strategy(info.mean_abs, info.frobenius)
        members = [Candidate(index) for index in range(6)]
        theta, batch = strategy.initial_theta(), experiment.batch(0)
        for _ in range(2):
            pool.evaluate(theta, strategy.perturbation, 0, members, batch)
    assert len(calls) == 2 * here


def test_an_error_of_a_shard_that_begins_beside_another_names_its_own_members(monkeypatch, tmp_path):
    monkeypatch.setattr(threading, "active_count", lambda: 1)  # of a test runner
    (tmp_path / "test.jsonl").write_text(json.dumps({"prompt": "why " * 5000, "target": "so"}))
    sets = ["engine.shard=1", "cluster.workers=0", "engine.processes=2", f"task.test={tmp_path}/test.jsonl"]
    experiment = Experiment(resolve_config(load(sets=sets)).replace(output__dir=str(tmp_path / "run")))
    with open_pool(experiment.config, experiment.workload) as pool:
        info = pool.start()
        strategy = experiment.strategy(info.mean_abs, info.frobenius)
        asked = [Candidate(0), Candidate(CENTRE, ("test",))]
        with pytest.raises(RunError, match=r"^the centre of generation 0: .*\d tokens"):
            pool.evaluate(strategy.initial_theta(), strategy.perturbation, 0, asked, experiment.batch(0))


@pytest.mark.parametrize("how", ["ctrl_c", "terminate", "kill"])
def test_no_process_is_left_by_a_run_that_is_ended_and_it_resumes_to_the_same_bytes(alone, how, tmp_path):
    folder = tmp_path / "run"
    words = command(*SHORT, "--output", folder, "--set", "engine.processes=2")
    with Command(words, tmp_path) as run:
        run.wait_for(lambda: (folder / "generations" / "0000" / "DONE").exists())
        getattr(run, how)()
        assert run.end().code == {"ctrl_c": 130, "terminate": 143, "kill": -9}[how]
        run.assert_none_left(5)
    again = es_ray("run", "--resume", "--output", folder, "--local")
    assert again.returncode == 0, again.stderr
    assert evolved(folder) == alone
