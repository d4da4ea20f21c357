"""From the requested configuration to the one that runs."""

import sys
from pathlib import Path

import pytest

from es_ray.config import Config
from es_ray.errors import UserError
from es_ray.experiment import Experiment
from es_ray.preparation import resolve_config
from es_ray.runs.opening import new_run_dir

OWN = """
from es_ray.engines.spec import EngineSpec
def spec(gpus=0, **more):
    return EngineSpec("own", None, lambda engine, available: gpus, **more)
def refuse(config, hosted):
    from es_ray.errors import UserError
    raise UserError(f"hosted here: {hosted}")
PLAIN, LARGE, APART = spec(), spec(64), spec(in_process=False)
REFUSED = spec(check=refuse)
"""


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """The working directory, with own.py in it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text(OWN)
    return tmp_path


def test_files_of_import_paths_are_recorded_with_absolute_paths(here):
    config = resolve_config(
        Config().replace(
            engine__kind="own.py:PLAIN", task__name="sub/task.py:Mine", evolution__optimizer="~/rule.py:Rule"
        )
    )
    assert config.engine.kind == f"{here}/own.py:PLAIN"
    assert config.task.name == f"{here}/sub/task.py:Mine"
    assert config.evolution.optimizer == f"{Path.home().resolve()}/rule.py:Rule"
    assert resolve_config(config) == config


def test_the_folder_of_event_files_is_recorded_with_an_absolute_path(here):
    for given, wanted in (("logs", f"{here}/logs"), ("~/logs", f"{Path.home().resolve()}/logs")):
        config = resolve_config(Config().replace(tracking__tensorboard=given))
        assert config.tracking.tensorboard == wanted
        assert resolve_config(config) == config
    for switch in (True, False):
        assert resolve_config(Config().replace(tracking__tensorboard=switch)).tracking.tensorboard is switch


def test_names_and_modules_stay_as_they_are():
    config = resolve_config(Config().replace(task__name="my.module:Task"))
    assert (config.task.name, config.evolution.optimizer) == ("my.module:Task", "sgd")


def test_a_run_directorys_name_has_no_path_of_a_task_in_it(here):
    config = Config().replace(task__name="own.py:Mine")
    assert new_run_dir(resolve_config(config)).path.parent == Path("runs")
    assert "-Mine-" in new_run_dir(resolve_config(config)).path.name


def resolved(kind: str, workers: object = "auto", address: str | None = None) -> Config:
    return resolve_config(
        Config().replace(engine__kind=kind, cluster__workers=workers, cluster__address=address)
    )


def test_an_engine_without_gpus_runs_in_this_process_unless_it_may_end_it(here):
    assert resolved("own.py:PLAIN").cluster.workers == 0
    assert resolved("own.py:APART").cluster.workers == 1
    assert resolved("own.py:PLAIN", 3).cluster.workers == 3


@pytest.mark.parametrize(
    ("kind", "workers", "address", "words"),
    [
        ("own.py:APART", 0, None, ["engine.kind: own runs in Ray workers", "--local", "use transformers"]),
        ("sglang", 0, None, ["engine.kind: sglang runs in Ray workers", "--local", "use transformers"]),
        ("own.py:LARGE", "auto", None, ["engine.kind: own needs 64 GPUs, this machine has", "--address"]),
        ("own.py:REFUSED", 1, None, ["hosted here: True"]),
        ("own.py:REFUSED", 1, "local", ["hosted here: True"]),
        ("own.py:REFUSED", 1, "head:6379", ["hosted here: False"]),
        ("vllm", "auto", None, ["engine.kind: 'vllm'", "sglang", "transformers"]),
    ],
)
def test_what_an_engine_would_refuse_is_refused(kind, workers, address, words, here):
    with pytest.raises(UserError) as error:
        resolved(kind, workers, address)
    assert "\n" not in str(error.value)
    for word in words:
        assert word in str(error.value)


def test_an_unknown_task_is_named_with_those_there_are():
    with pytest.raises(UserError, match=r"task\.name: 'poetry'.*conciseness"):
        _ = Experiment(resolve_config(Config().replace(task__name="poetry"))).task


def test_auto_threads_are_this_machines_cores_for_any_number_of_workers(monkeypatch):
    monkeypatch.setattr("es_ray.preparation.physical_cores", lambda: 6)
    monkeypatch.setattr("es_ray.preparation._gpus", lambda: 0)
    assert [resolved("transformers", workers).engine.threads for workers in (0, 1, 4)] == [6, 6, 6]
    assert resolve_config(Config().replace(engine__threads=3)).engine.threads == 3


def test_auto_threads_are_one_beside_a_gpu_and_on_another_machine(monkeypatch):
    monkeypatch.setattr("es_ray.preparation.physical_cores", lambda: 6)
    assert resolved("transformers", 2, "head.example:6379").engine.threads == 1
    monkeypatch.setattr("es_ray.preparation._gpus", lambda: 1)
    assert resolved("transformers").engine.threads == 1


@pytest.mark.parametrize(
    ("given", "processes"),
    [
        ({}, 2),  # 31 candidates are two shards
        ({"engine__shard": 8}, 4),
        ({"engine__shard": 2}, 6),
        ({"engine__threads": 3, "engine__shard": 2}, 1),  # OpenMP's threads are not copied by a fork
        ({"engine__threads": 3, "engine__processes": 2}, 1),
        ({"engine__threads": "auto"}, 1),
        ({"cluster__workers": 2}, 1),
        ({"lora": {"form": "merged"}}, 1),
    ],
)
def test_auto_processes_are_as_many_as_there_are_cores_and_shards_for(given, processes, monkeypatch):
    monkeypatch.setattr("es_ray.preparation.physical_cores", lambda: 6)
    monkeypatch.setattr("es_ray.preparation._gpus", lambda: 0)
    monkeypatch.setattr(sys, "platform", "linux")
    config = Config().replace(
        **{"engine__kind": "transformers", "engine__threads": 1, "engine__processes": "auto"} | given
    )
    assert resolve_config(config).engine.processes == processes
    monkeypatch.setattr(sys, "platform", "darwin")
    assert resolve_config(config).engine.processes == 1


def test_processes_are_one_beside_a_gpu_and_for_an_engine_that_has_no_others(here, monkeypatch, caplog):
    caplog.set_level("INFO")
    config = Config().replace(engine__kind="own.py:PLAIN", engine__threads=1, engine__processes="auto")
    assert resolve_config(config).engine.processes == 1
    monkeypatch.setattr("es_ray.preparation._gpus", lambda: 1)
    config = config.replace(engine__kind="transformers", cluster__workers=0)
    assert resolve_config(config).engine.processes == 1
    assert "engine.processes" not in caplog.text
    assert resolve_config(config.replace(engine__processes=3)).engine.processes == 1
    assert "engine.processes: 1 instead of 3" in caplog.text


def test_a_resumed_run_keeps_the_threads_that_were_recorded(tmp_path, monkeypatch):
    monkeypatch.setattr("es_ray.preparation.physical_cores", lambda: 6)
    (tmp_path / "config.yaml").write_text(Config().replace(engine__threads=4).to_yaml())
    again = Config().replace(output__dir=str(tmp_path))
    assert again.engine.threads == "auto"
    assert resolve_config(again, resume=True).engine.threads == 4
    assert resolve_config(again).engine.threads == 6
