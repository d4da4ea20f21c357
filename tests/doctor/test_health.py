"""Findings about nodes, from their reports."""

from dataclasses import replace
from pathlib import Path

import pytest

from es_ray.config import EngineConfig
from es_ray.doctor import health, probe
from es_ray.engines.registry import ENGINES
from tests.doctor.reports import GIB, GPU, head, node

NONE = {"found": [], "cuda": None, "problem": "nvidia-smi is not installed"}


def said(findings):
    return [(f.level, f.where, f.what) for f in findings]


def everything(*nodes, kind="sglang", tensor_parallel=1, driver=None):
    driver, engine = driver or head(), ENGINES[kind]
    needed = engine.gpus(EngineConfig(tensor_parallel=tensor_parallel), True)
    return said(
        [
            *health.reachable(nodes),
            *health.gpus(nodes, needed),
            *health.resources([driver, *nodes], engine),
            *health.security(nodes),
            *health.data(driver, nodes),
        ]
    )


def test_a_healthy_cluster_has_no_findings():
    cpu = node("cpu", offers=0, engines=False, gpus=NONE, versions__torch="2.9.1+cpu", cuda=None)
    assert everything(node("n1"), node("n2"), cpu) == []


def test_a_node_that_does_not_answer_is_named():
    silent = replace(node("lost"), facts={}, failure="it does not answer within 30 s")
    (only,) = everything(node(), silent)
    assert only[:2] == ("error", "lost")
    assert "30 s" in only[2]


def shm(mebibytes):
    return {"total": mebibytes << 20, "free": mebibytes << 20}


@pytest.mark.parametrize(("kind", "level"), [("sglang", "error"), ("transformers", "warning")])
def test_dockers_shm_is_too_small(kind, level):
    assert everything(node(shm=shm(64)), kind=kind) == [
        (level, "n1", "/dev/shm holds 64 MiB, at least 1 GiB is needed")
    ]
    assert everything(node(shm=shm(1024)), kind=kind) == []


def test_no_shm_at_all():
    assert "no /dev/shm" in everything(node(shm=None))[0][2]


def server(**changes):
    return {
        "what": "dashboard", "address": "0.0.0.0", "port": 8265, "loopback": False, "token": False,
    } | changes  # fmt: skip


def test_an_open_dashboard_is_an_error_one_with_a_token_a_warning_and_one_on_loopback_fine():
    (only,) = everything(node(servers=[server()]))
    assert only[:2] == ("error", "n1")
    assert "0.0.0.0:8265" in only[2]
    assert "CVE-2023-48022" in only[2]
    assert everything(node(servers=[server(token=True)]))[0][0] == "warning"
    assert everything(node(servers=[server(address="127.0.0.1", loopback=True)])) == []


def test_only_a_job_agent_without_token_is_reported():
    agent = server(what="job agent", address="10.0.0.5", port=52365)
    assert everything(node(servers=[agent]))[0][0] == "error"
    assert everything(node(servers=[agent | {"token": True}])) == []


def test_a_cluster_without_token_is_an_error():
    ((level, where, what),) = everything(node(auth={"mode": "disabled", "setting": None}))
    assert (level, where) == ("error", "n1")
    assert "token" in what


def gpus(**changes):
    return {"found": [GPU | changes], "cuda": "12.8", "problem": None}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"gpus": NONE}, ("Ray offers 1 GPUs", "nvidia-smi is not installed")),
        ({"cuda": None, "versions__torch": "2.9.1+cpu"}, ("torch 2.9.1+cpu", "without CUDA")),
        ({"cuda": "13.0"}, ("CUDA up to 12.8", "needs 13.0")),
    ],
)
def test_gpus_that_cannot_be_used_are_an_error(changes, words):
    (only,) = everything(node(**changes))
    assert only[:2] == ("error", "n1")
    for word in words:
        assert word in only[2]


def test_gpus_that_can_be_used_with_care_are_a_warning():
    assert everything(node(gpus=gpus(free=20 * GIB))) == [
        ("warning", "n1", "GPU 0 has 20.0 of 80.0 GiB free")
    ]
    assert everything(node(gpus=gpus(free=None, total=None))) == []
    assert everything(node(offers=4)) == [("warning", "n1", "Ray offers 4 GPUs, the machine has 1")]
    other = everything(node("n1"), node("n2", gpus=gpus(name="NVIDIA H200", driver="550.2")))
    assert other == [
        ("warning", "n2", "NVIDIA driver 550.2, n1 has 570.1"),
        ("warning", "n2", "has NVIDIA H200, n1 has NVIDIA H100"),
    ]


def test_a_newer_cuda_in_torch_of_the_same_major_version_is_fine():
    assert everything(node(cuda="12.9")) == []


def test_an_engine_larger_than_any_node_is_an_error():
    ((level, _, what),) = everything(node(), tensor_parallel=2)
    assert (level, what) == ("error", "has 1 GPUs, no node has more, and an engine needs 2")


def test_full_disks_and_memory():
    full = {"total": 100 * GIB, "free": GIB // 2}
    assert everything(node(disk={"/tmp": full})) == [
        ("error", "n1", "0.5 of 100 GiB are free on the disk of /tmp")
    ]
    assert everything(node(disk={"/tmp": full | {"free": 4 * GIB}}))[0][0] == "warning"
    little = {"total": 8 * GIB, "free": 5 * GIB // 2}
    assert everything(node(memory=little)) == []
    assert everything(node(memory=little), kind="transformers") == [
        ("warning", "n1", "2.5 GiB of memory are free, an engine needs about 3.0")
    ]


def test_the_run_directorys_disk_is_the_drivers():
    assert everything(node(), driver=head(disk={"/runs": {"total": GIB, "free": 0}}))[0][:2] == (
        "error",
        "the driver",
    )


def missing(problem="no such folder"):
    return {"found": None, "path": "/m", "size": None, "hash": None, "problem": problem}


def test_a_model_on_one_node_only():
    (only,) = everything(node("n1"), node("n2", model=missing()))
    assert only == ("error", "n2", "model /m: no such folder")
    assert everything(node("n1"), node("cpu", offers=0, engines=False, gpus=NONE, model=missing())) == []
    assert [where for _, where, _ in everything(node("n1"), driver=head(model=missing()))] == ["the driver"]


def test_the_driver_needs_no_weights_but_engines_do():
    empty = {"found": "folder", "path": "/m", "size": 0, "hash": "cccc", "problem": "it has no weights"}
    assert everything(node(), driver=head(model=empty)) == []
    assert everything(node(model=empty)) == [("error", "n1", "model /m: it has no weights")]


def test_a_damaged_model_in_the_hubs_cache_is_to_be_downloaded_again():
    torn = {"found": "cache", "path": "/hub/m", "size": 9, "hash": "cccc", "problem": "it is cut short"}
    (only,) = health.data(head(), [node(model=torn)])
    assert (only.level, only.what) == ("error", "model /hub/m: it is cut short")
    assert "hf download" in only.advice


def test_a_model_that_the_first_engine_downloads_is_a_warning():
    hub = {"found": "hub", "path": "o/m", "size": None, "hash": None, "problem": None}
    ((level, where, what),) = everything(node(model=hub), driver=head(model=hub))
    assert (level, where) == ("warning", "n1")
    assert "downloads" in what


def test_another_model_under_the_same_path():
    ((level, where, what),) = everything(node("n1"), node("n2", model__hash="eeee"))
    assert (level, where) == ("error", "n2")
    assert "config.json differs" in what


@pytest.mark.parametrize(("name", "problem"), [("", "is a folder"), ("no.jsonl", "no such file")])
def test_examples_are_looked_for_where_the_driver_runs(tmp_path, name, problem):
    file = str(tmp_path / name)
    driver = head(files={file: probe.examples_problem(Path(file))})
    assert everything(node(files={}), driver=driver) == [("error", "the driver", f"{file}: {problem}")]


def test_a_file_of_examples_is_no_problem(tmp_path):
    (tmp_path / "t.jsonl").touch()
    assert probe.examples_problem(tmp_path / "t.jsonl") is None
