"""Whether the driver and the nodes that host engines run the same software. Pure functions of reports."""

from collections.abc import Callable, Iterator, Sequence

from es_ray.config import Config
from es_ray.doctor.report import Finding, NodeReport, answered, error, hosts, warning
from es_ray.engines.registry import AUTO, Machine, automatic, engine_spec
from es_ray.engines.spec import EngineSpec, Package, parsed

OLDEST_RAY = (2, 54)
"""The first version without CVE-2026-27482."""
ALIKE = ("transformers", "tokenizers", "peft", "numpy")
"""Packages whose version may change a run's bytes but does not break it."""


def chosen_engine(config: Config, nodes: Sequence[NodeReport]) -> EngineSpec:
    """The configured engine; `auto` is resolved by what the engine-hosting nodes have."""
    if config.engine.kind != AUTO:
        return engine_spec(config.engine.kind)
    machines = [Machine(node.gpus, node.has) for node in hosts(nodes)]
    here = config.cluster.workers == 0 and config.cluster.address is None
    return automatic(config.engine, machines, in_process=here)


def mismatches(
    driver: NodeReport, nodes: Sequence[NodeReport], packages: Sequence[Package]
) -> Iterator[Finding]:
    """What differs between the driver and the nodes, mainly those that host engines.

    packages: what the engine needs. The driver may lack them, or have a torch for CPUs: it hosts no engine.
    """
    for node in answered(nodes):
        yield from _compared(node, driver, "ray", "Ray", error)
        yield from _compared(node, driver, "python", "Python", error, _minor)
        if node.engines:
            yield from _code(node, driver)
            yield from _compared(node, driver, "torch", "torch", error, _public)
            for name in ALIKE:
                yield from _compared(node, driver, name, name, warning)
    first = next(iter(hosts(nodes)), None)
    for node in hosts(nodes):
        if first is not None and _public(node.version("torch")) == _public(first.version("torch")):
            yield from _compared(node, first, "torch", "torch", error)  # cu126 and cu128
    for package in packages:
        yield from _package(package, driver, hosts(nodes))


def old_ray(reports: Sequence[NodeReport]) -> Iterator[Finding]:
    """Versions of Ray with a known vulnerability."""
    for report in answered(reports):
        found = report.version("ray")
        if found is not None and parsed(found) < OLDEST_RAY:
            yield error(
                report.name,
                f"Ray {found} has CVE-2026-27482",
                "install ray >= 2.54 on every node and start the cluster again",
            )


def _package(package: Package, driver: NodeReport, engines: Sequence[NodeReport]) -> Iterator[Finding]:
    """A package of the engine's own: installed, not too old, and the same everywhere."""
    known = [report for report in (driver, *engines) if report.has(package.name)]
    for node in engines:
        found = node.version(package.name)
        if found is None:
            yield error(node.name, f"{package.title} is missing", f"{package.install} there")
        elif parsed(found) < package.oldest:
            yield error(node.name, f"{package.title} {found} is too old", package.supported)
        else:
            yield from _compared(node, known[0], package.name, package.title, error)


def _compared(
    node: NodeReport,
    other: NodeReport,
    package: str,
    title: str,
    finding: Callable[[str, str, str], Finding],
    form: Callable[[str | None], object] = lambda version: version,
) -> Iterator[Finding]:
    here, there = node.version(package), other.version(package)
    if form(here) != form(there):
        is_here = f"{title} {here}" if here is not None else f"{title} is missing"
        yield finding(
            node.name,
            f"{is_here}, {other.name} has {there or 'none'}",
            f"install the same {title} on every node",
        )


def _code(node: NodeReport, driver: NodeReport) -> Iterator[Finding]:
    """Compare es-ray's code, not its version: checkouts may differ under one, and need not be installed."""
    if node.facts["source"] is None:
        yield error(
            node.name, "es-ray is missing", "copy the checkout, or install the package, on every node"
        )
    elif node.facts["source"] != driver.facts["source"]:
        here, there = (f"es-ray {r.version('es-ray')} (code {r.facts['source']})" for r in (node, driver))
        yield error(node.name, f"{here}, {driver.name} has {there}", "use the same code on every node")


def _minor(version: str | None) -> object:
    return parsed(version or "")[:2]


def _public(version: str | None) -> object:
    """A version without the part after the plus, such as cu128: the driver needs no CUDA."""
    return (version or "").partition("+")[0]
