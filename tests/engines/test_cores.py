"""What `engine.threads: auto` stands for."""

import os

import pytest

from es_ray.engines.cores import physical_cores


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Two packages of two cores of two hyper-threads; gives the path of the quota, a file not there yet."""
    for cpu in range(8):
        topology = tmp_path / f"cpu{cpu}" / "topology"
        topology.mkdir(parents=True)
        (topology / "physical_package_id").write_text(f"{cpu % 4 // 2}\n")
        (topology / "core_id").write_text(f"{cpu % 2}\n")
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)))
    return tmp_path


def test_hyper_threads_of_a_core_count_once(machine, monkeypatch):
    assert physical_cores(machine, machine / "none") == 4
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 4, 1})
    assert physical_cores(machine, machine / "none") == 2


def test_cpus_of_unknown_topology_are_cores(machine, tmp_path):
    assert physical_cores(tmp_path / "elsewhere", machine / "none") == 8


@pytest.mark.parametrize(
    ("quota", "cores"), [("max 100000", 4), ("250000 100000", 3), ("50000 100000", 1), ("9900000 100000", 4)]
)
def test_no_more_than_a_containers_quota(machine, quota, cores):
    (machine / "cpu.max").write_text(quota + "\n")
    assert physical_cores(machine, machine / "cpu.max") == cores
