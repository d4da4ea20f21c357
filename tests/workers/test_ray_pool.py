"""The Ray path: the bytes of the local one for any number of workers, killed workers included."""

import os
import signal
from pathlib import Path

import pytest

import es_ray
from es_ray.config import Config, load
from tests.listeners import listening
from tests.processes import Command
from tests.short_runs import GENERATIONS, POPULATION, SETTINGS, command, evolved, json_lines
from tests.short_runs import es_ray as run_es_ray
from tests.small_models import small_model


def workers(run: Path) -> set[str]:
    """The processes that answered in a run."""
    files = run.glob("generations/*/population.jsonl")
    return {line["worker"] for file in files for line in json_lines(file)}


def engine_line(out: str) -> str:
    """The line of a run's first ones that names its engine and workers."""
    return next(line for line in out.splitlines() if line.startswith("engine: "))


def config_of(run: Path, output: Path, **values) -> Config:
    return load(run / "config.yaml").replace(output__dir=str(output), **values)


def test_two_workers_give_the_bytes_of_none(finished, cluster, tmp_path, cli):
    run = tmp_path / "run"
    ended = cli("run", "--workers", 2, *SETTINGS, "--output", run)
    assert ended.code == 0, ended.err
    assert evolved(run) == evolved(finished.path)
    assert len(workers(run)) == 2
    assert not any(worker.endswith(f"/{os.getpid()}") for worker in workers(run))
    assert {line["workers"] for line in json_lines(run / "metrics.jsonl")} == {2}
    first = engine_line(ended.out)
    assert "2 Ray workers" in first
    assert "None" not in first


def test_a_killed_worker_is_replaced_and_changes_no_number(finished, cluster, tmp_path):
    """kill -9 of a real actor's process, after the first shard of generation 2."""
    run, killed = tmp_path / "run", []

    def kill(done: int, total: int) -> None:
        recorded = (run / "generations/0001/population.jsonl").is_file()
        if recorded and not killed and done < total:
            worker = json_lines(run / "generations/0000/population.jsonl")[0]["worker"]
            killed.append(worker)
            os.kill(int(worker.partition("/")[2]), signal.SIGKILL)

    es_ray.run(config_of(finished.path, run, cluster__workers=2), callbacks=[listening(on_progress=kill)])
    assert killed
    assert evolved(run) == evolved(finished.path)
    lines = json_lines(run / "metrics.jsonl")
    assert sum(line["redispatched"] for line in lines) >= 1
    assert lines[0]["redispatched"] == 0
    last = json_lines(run / f"generations/{GENERATIONS - 1:04d}/population.jsonl")
    assert killed[0] not in {line["worker"] for line in last}


def test_the_update_by_slices_has_the_same_bytes_everywhere(cluster, tmp_path):
    """More entries than one slice, antithetic pairs, centred ranks and steps in units of sigma."""
    config = load().replace(
        lora__rank=8,
        lora__alpha=16.0,
        evolution__population=POPULATION,
        evolution__generations=2,
        evolution__antithetic=True,
        evolution__shaping="centered-rank",
        evolution__update_scale="sigma",
        evolution__learning_rate=1.0,
        evolution__noise__multiplier=40.0,
        engine__shard=3,
        task__max_new_tokens=24,
        output__plots_every=50,
    )
    local, run = config.replace(cluster__workers=0, output__dir=str(tmp_path / "local")), tmp_path / "run"
    es_ray.run(local)
    shared = local.replace(cluster__workers=2, output__dir=str(run))
    es_ray.run(shared.replace(evolution__generations=1))
    es_ray.run(shared.replace(cluster__workers=0), resume=True)  # and a run may resume elsewhere
    assert evolved(run) == evolved(tmp_path / "local")
    assert json_lines(run / "metrics.jsonl")[0]["update_norm"] > 0
    assert [line["workers"] for line in json_lines(run / "metrics.jsonl")] == [2, 1]


def test_an_engine_that_fails_in_a_worker_is_an_error_with_the_members_name(cluster, tmp_path, cli):
    from safetensors.numpy import load_file, save_file

    folder = small_model(tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"][:] = float("nan")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    ended = cli("run", "--workers", 1, "--model", folder, "--population", 2, "--output", tmp_path / "run")
    assert ended.code == 1
    assert len(ended.err.splitlines()) == 1
    assert "member 0 of generation 0" in ended.err
    assert "not finite" in ended.err


def test_sglang_on_a_cluster_without_gpus_is_an_error_that_says_what_it_has(cluster, tmp_path, cli):
    """The driver needs no SGLang for that."""
    arguments = ("--engine", "sglang", "--workers", 2, "--address", "auto", "--output", tmp_path / "run")
    ended = cli("run", *arguments)
    assert ended.code == 2
    assert len(ended.err.splitlines()) == 1
    assert "2 with 1 GPU each are wanted" in ended.err
    assert "the cluster has no GPUs and 8 CPUs on 1 node" in ended.err
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_model_that_cannot_be_loaded_in_a_worker_is_bad_input(cluster, tmp_path, cli):
    folder = small_model(tmp_path / "model")
    (folder / "model.safetensors").unlink()
    ended = cli("run", "--workers", 1, "--model", folder, "--population", 2, "--output", tmp_path / "run")
    assert ended.code == 2
    assert len(ended.err.splitlines()) == 1
    assert "model.path" in ended.err
    assert not (tmp_path / "run").exists()


def test_the_command_starts_its_own_ray_and_stops_it(finished, tmp_path):
    words = command("run", "--workers", 1, *SETTINGS, "--output", tmp_path / "run")
    with Command(words, tmp_path) as run:
        run.wait_for(lambda: run.runs("raylet"))
        ended = run.end(300)
        run.assert_none_left()
    assert ended.code == 0, ended.err
    assert ended.err == ""
    assert "1 Ray worker on this machine" in engine_line(ended.out)
    assert evolved(tmp_path / "run") == evolved(finished.path)


@pytest.mark.slow
def test_four_workers_give_the_bytes_of_none(finished, cluster, tmp_path, cli):
    ended = cli("run", "--workers", 4, *SETTINGS, "--output", tmp_path / "run")
    assert ended.code == 0, ended.err
    assert evolved(tmp_path / "run") == evolved(finished.path)
    assert {line["workers"] for line in json_lines(tmp_path / "run" / "metrics.jsonl")} == {4}
    assert len(workers(tmp_path / "run")) > 2


@pytest.mark.slow
def test_all_workers_may_die_at_once(finished, cluster, tmp_path):
    run, killed = tmp_path / "run", []

    def kill(done: int, total: int) -> None:
        if (run / "generations/0001/population.jsonl").is_file() and not killed:
            killed.extend(workers(run))
            for worker in killed:
                os.kill(int(worker.partition("/")[2]), signal.SIGKILL)

    es_ray.run(config_of(finished.path, run, cluster__workers=2), callbacks=[listening(on_progress=kill)])
    assert len(killed) == 2
    assert evolved(run) == evolved(finished.path)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["host:port", "auto"])
def test_a_running_cluster_is_joined_and_left_running(finished, cluster, tmp_path, kind):
    import ray

    address = ray.get_runtime_context().gcs_address if kind == "host:port" else "auto"
    run = tmp_path / "run"
    done = run_es_ray("run", "--workers", 2, "--address", address, *SETTINGS, "--output", run)
    assert done.returncode == 0, done.stderr
    assert address in engine_line(done.stdout)
    assert evolved(run) == evolved(finished.path)
    assert ray.cluster_resources()["CPU"] == 8
