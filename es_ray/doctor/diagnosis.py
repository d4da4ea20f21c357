"""`es-ray doctor`: the state of the nodes that a run would use, and what is wrong with them."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from es_ray.config import BUNDLED, Config
from es_ray.doctor import health, probe
from es_ray.doctor.report import Finding, NodeReport
from es_ray.doctor.versions import chosen_engine, mismatches, old_ray
from es_ray.engines.registry import engine_packages
from es_ray.engines.spec import Package
from es_ray.models import looks_local
from es_ray.tasks.arrow import HF


@dataclass(frozen=True)
class Diagnosis:
    """The driver's process, the nodes of the cluster (none without one), and findings, errors first.

    packages: of engines, whose versions are reported.
    """

    driver: NodeReport
    nodes: list[NodeReport]
    findings: list[Finding]
    packages: tuple[Package, ...]

    @property
    def healthy(self) -> bool:
        """Whether there is no error; there may be warnings."""
        return all(finding.level != "error" for finding in self.findings)

    def as_dict(self) -> dict[str, Any]:
        """Everything as plain values; sizes in bytes, times in seconds."""
        return {
            "healthy": self.healthy,
            "driver": self.driver.as_dict(),
            "nodes": [node.as_dict() for node in self.nodes],
            "findings": [vars(finding) for finding in self.findings],
        }


def diagnose(config: Config, seconds: float) -> Diagnosis:
    """Examine this process and, where cluster.address names a running cluster, each of its nodes.

    seconds: the nodes' time limit. Raises UserError if no cluster answers. Without an address Ray is neither
    started nor imported.
    """
    packages = engine_packages(config.engine.kind)
    if _alone(config):
        driver = _this_process(config, {})
        gpus, cpus = len(driver.facts["gpus"]["found"]), len(os.sched_getaffinity(0))
        driver = replace(driver, engines=True, gpus=gpus, cpus=cpus)
        return Diagnosis(driver, [], _findings(config, driver, []), packages)

    from es_ray.doctor import nodes
    from es_ray.ray_cluster import connected

    with connected(config.cluster):
        ports = nodes.server_ports()
        reports = nodes.query_nodes(
            nodes.alive_nodes(config), probe.examine, (_wanted(config, ports),), seconds
        )
        driver = _this_process(config, ports)
    return Diagnosis(driver, reports, _findings(config, driver, reports), packages)


def _this_process(config: Config, ports: dict[int, str]) -> NodeReport:
    splits = (config.task.train, config.task.test, config.task.validation)
    files = [split for split in splits if split is not None and not split.startswith(HF)]
    facts = probe.examine(_wanted(config, ports, files))
    folder = str(Path(config.output.dir or "runs").expanduser().absolute())
    facts["disk"][folder] = probe.space(folder)
    return NodeReport("this machine" if _alone(config) else "the driver", "this process", facts=facts)


def _alone(config: Config) -> bool:
    """Whether there is no cluster yet: a run would use none, or start one."""
    return (config.cluster.address or "local") == "local"


def _wanted(config: Config, ports: dict[int, str], files: Sequence[str] = ()) -> dict[str, Any]:
    """What a probe looks at; files: of examples, which only the driver reads and sends to the workers."""
    path = config.model.path
    if path == BUNDLED:
        kind = "bundled"
    elif looks_local(path) or Path(path).expanduser().exists():
        kind, path = "folder", str(Path(path).expanduser().resolve())
    else:
        kind = "hub"
    return {
        "model": {"kind": kind, "path": path, "revision": config.model.revision},
        "files": [str(Path(file).expanduser().resolve()) for file in files],
        "ports": ports,
        "packages": [package.name for package in engine_packages(config.engine.kind)],
        # a run on this machine alone starts a Ray that offers no others
        "visible_gpus": os.environ.get("CUDA_VISIBLE_DEVICES") if _alone(config) else None,
    }


def _findings(config: Config, driver: NodeReport, nodes: list[NodeReport]) -> list[Finding]:
    places = nodes or [driver]
    engine = chosen_engine(config, places)
    needed = engine.gpus(config.engine, any(node.gpus for node in places))
    found = [
        *health.reachable(nodes),
        *old_ray([driver, *nodes]),
        *mismatches(driver, places, engine.packages),
        *health.gpus(places, needed),
        *health.resources([driver, *nodes], engine),
        *health.security(places),
        *health.data(driver, nodes),
    ]
    return sorted(dict.fromkeys(found), key=lambda finding: finding.level != "error")
