"""Queries the nodes of a Ray cluster, with a deadline, and checks what a run needs of them."""

import contextlib
import logging
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import Future, TimeoutError, as_completed
from dataclasses import replace
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from es_ray.config import Config
from es_ray.doctor import model_files, ports, probe
from es_ray.doctor.report import NodeReport, answered, listed
from es_ray.doctor.versions import chosen_engine, mismatches, old_ray
from es_ray.engines.registry import engine_packages, engine_spec
from es_ray.engines.spec import EngineSpec
from es_ray.errors import UserError, last_line
from es_ray.ray_cluster import connected

log = logging.getLogger(__name__)

ANSWER_SECONDS = 30.0
"""Seconds that a node may take: a new process must start there, perhaps from a cold disk."""


def check_nodes(
    config: Config, seconds: float = ANSWER_SECONDS, known: Collection[str] = ()
) -> frozenset[str]:
    """Check, before a run, that the nodes which would host its engines run the driver's software.

    config: resolved, including engine.kind. seconds: the deadline for all answers. known: ids of nodes that
    need no second check. Ray must be connected. Returns known and the ids of those that answered; one that
    doesn't is logged as a warning, as it may be gone by the time of the first engine. Raises UserError, in
    one line, for different versions of Ray, Python (its minor version), es-ray, torch or the engine's
    packages, and for a Ray that is too old.
    """
    new = [node for node in alive_nodes(config) if node.engines and node.node_id not in known]
    packages = _engine_packages(config)
    reports = query_nodes(new, probe.software, (packages,), seconds)
    for report in reports:
        if report.failure is not None:
            log.warning("%s (%s): %s", report.name, report.reached, report.failure)
    driver = NodeReport("the driver", "this process", facts=probe.software(packages))
    engine = chosen_engine(config, reports)
    found = [*old_ray([driver, *reports]), *mismatches(driver, reports, engine.packages)]
    errors = [finding for finding in found if finding.level == "error"]
    if errors:
        same = [f.where for f in errors if (f.what, f.advice) == (errors[0].what, errors[0].advice)]
        more = f" (and {len(errors) - len(same)} more)" if len(errors) > len(same) else ""
        raise UserError(
            f"the cluster's nodes do not match: {listed(same)}: {errors[0].what}; {errors[0].advice}{more}; "
            "es-ray doctor shows all of it"
        )
    return frozenset(known) | {report.node_id for report in answered(reports) if report.node_id is not None}


def cluster_engine(config: Config) -> EngineSpec:
    """Resolve `auto` on the configured cluster: the first engine that one of its nodes could host.

    The driver's own machine does not matter. Raises UserError if no Ray answers.
    """
    with connected(config.cluster):
        hosting = [node for node in alive_nodes(config) if node.engines]
        reports = query_nodes(hosting, probe.software, (_engine_packages(config),), ANSWER_SECONDS)
        return chosen_engine(config, reports)


def _engine_packages(config: Config) -> tuple[str, ...]:
    return tuple(package.name for package in engine_packages(config.engine.kind))


def alive_nodes(config: Config) -> list[NodeReport]:
    """The nodes that Ray considers alive, not examined yet; the driver's own comes first."""
    nodes = sorted((node for node in ray.nodes() if node["Alive"]), key=lambda node: str(node["NodeID"]))
    mine = ray.get_runtime_context().get_node_id()
    nodes.sort(key=lambda node: node["NodeID"] != mine)
    names = Counter(node["NodeManagerHostname"] for node in nodes)
    gpu_cluster = any(node["Resources"].get("GPU", 0) for node in nodes)
    needed = engine_spec(config.engine.kind).gpus(config.engine, gpu_cluster)
    threads = 1 if config.engine.threads == "auto" else config.engine.threads  # auto is 1 on a cluster
    reports = []
    for node in nodes:
        name, resources = node["NodeManagerHostname"], node["Resources"]
        gpus, cpus = resources.get("GPU", 0), resources.get("CPU", 0)
        head = "node:__internal_head__" in resources
        places = ["head"] * head + ["this machine"] * (node["NodeID"] == mine)
        report = NodeReport(
            name=name if names[name] == 1 else f"{name}/{node['NodeID'][:6]}",
            reached=", ".join([f"{node['NodeManagerAddress']}:{node['NodeManagerPort']}", *places]),
            node_id=node["NodeID"],
            gpus=gpus,
            cpus=cpus,
            head=head,
            engines=gpus >= needed and (needed > 0 or cpus >= threads),
        )
        reports.append(report)
    return reports


def server_ports() -> dict[int, str]:
    """The ports where, according to the cluster, its HTTP servers listen: DASHBOARD or AGENT by port."""
    connected = ray.init(ignore_reinit_error=True, log_to_driver=False, logging_level="ERROR")
    url = connected.dashboard_url or ""
    port = url.rpartition(":")[2]
    found = {int(port): ports.DASHBOARD} if port.isdecimal() else {}
    agents = {node["DashboardAgentListenPort"] for node in ray.nodes() if node["Alive"]}
    return {port: ports.AGENT for port in agents if port > 0} | found


def query_nodes(
    nodes: Sequence[NodeReport],
    question: Callable[..., dict[str, Any]],
    arguments: tuple[Any, ...],
    seconds: float,
) -> list[NodeReport]:
    """The nodes with their answers, or the reason for none; question: a function of probe.py.

    One task for each node, pinned to it, without CPUs so that a busy node answers too.
    """
    started = time.monotonic()
    with _sent_by_value():
        task = ray.remote(num_cpus=0, max_retries=0)(question)
        refs = [
            task.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node.node_id, soft=False)).remote(
                *arguments
            )
            for node in nodes
        ]
    # futures, as in actor_manager.py: Ray 2.60 has aborted a driver inside `ray.wait`
    pending = {ref.future(): number for number, ref in enumerate(refs)}
    reports = [replace(node, failure=f"it does not answer within {seconds:g} s") for node in nodes]
    with contextlib.suppress(TimeoutError):
        for answer in as_completed(pending, timeout=max(started + seconds - time.monotonic(), 0)):
            number = pending.pop(answer)
            reports[number] = _answer(nodes[number], answer, round(time.monotonic() - started, 2))
    for number in pending.values():
        ray.cancel(refs[number], force=True)
    return reports


def _answer(node: NodeReport, answer: "Future[dict[str, Any]]", seconds: float) -> NodeReport:
    try:
        return replace(node, seconds=seconds, facts=answer.result())
    except RayTaskError as error:
        failure = f"examining it failed: {last_line(error)}"
    except RayError as error:
        failure = f"it could not be queried: {type(error).__name__}: {last_line(error)}"
    return replace(node, seconds=seconds, failure=failure)


@contextlib.contextmanager
def _sent_by_value() -> Iterator[None]:
    """Send the probe's functions as code: a node without es-ray could not import them."""
    modules = (probe, ports, model_files)
    for module in modules:
        ray.cloudpickle.register_pickle_by_value(module)
    try:
        yield
    finally:
        for module in modules:
            ray.cloudpickle.unregister_pickle_by_value(module)
