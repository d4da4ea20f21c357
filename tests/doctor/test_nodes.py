"""Queries to nodes of a real Ray cluster: a healthy one, and one without es-ray and with another torch."""

import logging
import os
import signal
from pathlib import Path

import pytest

from es_ray.config import Config
from es_ray.doctor import probe
from es_ray.errors import UserError
from tests.small_models import small_model

HIDE_ES_RAY = """
import importlib.machinery
found = importlib.machinery.PathFinder.find_spec
def find_spec(cls, name, path=None, target=None):
    return None if name.partition(".")[0] == "es_ray" else found(name, path, target)
importlib.machinery.PathFinder.find_spec = classmethod(find_spec)
"""
"""A sitecustomize.py for a machine that has everything but es-ray."""


def cached_model(home: Path) -> Path:
    """A model called someone/tiny in a Hugging Face cache; gives the cache."""
    folder = home / "hub" / "models--someone--tiny"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("0" * 40)
    small_model(folder / "snapshots" / ("0" * 40))
    return home / "hub"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """Two nodes on this machine, by what they are; one of them has a model in its Hugging Face cache."""
    import ray
    from ray.cluster_utils import Cluster

    here = tmp_path_factory.mktemp("cluster")
    package = here / "other" / "torch-9.9.9.dist-info"
    package.mkdir(parents=True)
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: torch\nVersion: 9.9.9\n")
    (here / "other" / "sitecustomize.py").write_text(HIDE_ES_RAY)
    cached_model(here / "well" / "hf")

    def machine(name):
        paths = [str(here / name), *filter(None, [os.environ.get("PYTHONPATH")])]
        return {"PYTHONPATH": os.pathsep.join(paths), "HF_HOME": str(here / name / "hf")}

    from ray._private.authentication_test_utils import reset_auth_token_state

    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("RAY_AUTH_MODE", "disabled")  # an earlier Ray of this process sets it to token
        running = Cluster()
        nodes = {
            name: running.add_node(wait=False, num_cpus=cpus, include_dashboard=False, env_vars=machine(name))
            for name, cpus in (("well", 2), ("other", 1))
        }
        running.wait_for_nodes()
        ray.init(address=running.address, log_to_driver=False, logging_level="ERROR")
        yield nodes
        ray.shutdown()
        running.shutdown()
    reset_auth_token_state()  # Ray keeps the mode that it saw; later tests start Rays of their own here


def test_a_node_with_other_software_is_an_error_in_one_line(cluster):
    from es_ray.doctor.nodes import check_nodes

    with pytest.raises(UserError) as raised:
        check_nodes(Config())
    assert "es-ray is missing" in str(raised.value)
    assert cluster["other"].node_id[:6] in str(raised.value)
    assert cluster["well"].node_id[:6] not in str(raised.value)
    assert "(and 1 more)" in str(raised.value)  # torch
    assert "\n" not in str(raised.value)
    ids = {node.node_id for node in cluster.values()}
    assert check_nodes(Config(), known=[cluster["other"].node_id]) == ids  # a node that was checked before


def test_nodes_that_would_host_no_engine_do_not_matter(cluster):
    from es_ray.doctor.nodes import check_nodes

    assert check_nodes(Config().replace(engine__threads=2)) == {cluster["well"].node_id}


def test_a_node_that_does_not_answer_is_named_and_does_not_stop_a_run(cluster, caplog, monkeypatch):
    from es_ray.doctor.nodes import alive_nodes, check_nodes

    monkeypatch.setattr(logging.getLogger("es_ray"), "propagate", True)  # a console may have taken it
    stopped = cluster["other"]
    (report,) = [node for node in alive_nodes(Config()) if node.node_id == stopped.node_id]
    raylet = stopped.all_processes["raylet"][0].process
    raylet.send_signal(signal.SIGSTOP)
    try:
        with caplog.at_level(logging.WARNING, logger="es_ray"):
            known = check_nodes(Config(), 3.0)
    finally:
        raylet.send_signal(signal.SIGCONT)
    assert known == {cluster["well"].node_id}
    assert f"{report.name} ({report.reached}): it does not answer within 3 s" in caplog.text


def test_a_probe_that_fails_is_reported(cluster):
    from es_ray.doctor.nodes import alive_nodes, query_nodes

    reports = query_nodes(alive_nodes(Config())[:1], probe.examine, ({},), 30)
    assert "KeyError" in reports[0].failure
    assert reports[0].facts == {}


def test_doctor_reports_everything(cluster, cli, tmp_path, monkeypatch):
    """Token authentication is off here; the model lies in the driver's cache and in that of one node."""
    import ray

    address = ray.get_runtime_context().gcs_address
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cached_model(tmp_path)))
    ended = cli("doctor", "--address", address, "--model", "someone/tiny")
    assert ended.code == 1
    assert ended.err == ""
    errors = [line for line in ended.out.splitlines() if line.startswith("error: ")]

    def where(text):
        (line,) = [line for line in errors if text in line]
        assert "the driver," not in line.partition(text)[0]
        return {name for name in cluster if cluster[name].node_id[:6] in line}

    assert where("es-ray is missing") == {"other"}
    assert where("torch 9.9.9") == {"other"}
    assert where("without token authentication") == {"well", "other"}
    assert where("model someone/tiny: not in the cache") == {"other"}
    for words in ("the driver", "answered in", "Ray 2.", "token off", "in the hub's cache", "/dev/shm"):
        assert words in ended.out


@pytest.mark.slow
@pytest.mark.parametrize(("gpus", "kind"), [(1, "sglang"), (0, "transformers")])
def test_auto_is_resolved_by_what_the_clusters_nodes_have(tmp_path, gpus, kind):
    """A driver without GPU and SGLang, a node that declares a GPU and has SGLang's package."""
    import ray
    from ray.cluster_utils import Cluster

    from es_ray.preparation import resolve_config

    package = tmp_path / "sglang-0.5.17.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: sglang\nVersion: 0.5.17\n")
    paths = [str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])]
    ray.shutdown()
    running = Cluster()
    try:
        machine = {"PYTHONPATH": os.pathsep.join(paths)}
        running.add_node(num_cpus=1, num_gpus=gpus, include_dashboard=False, env_vars=machine)
        config = Config().replace(cluster__address=running.address, cluster__workers=1)
        assert resolve_config(config).engine.kind == kind
        assert not ray.is_initialized()
    finally:
        ray.shutdown()
        running.shutdown()
