"""Whether the driver and the nodes that host engines run the same software. Pure functions of reports."""

from collections.abc import Callable, Iterator, Sequence

from es_ray.config import Config
from es_ray.doctor.report import Finding, NodeReport, answered, error, hosts, warning
from es_ray.engines.sglang.compat import OLDEST, SUPPORTED, parsed

OLDEST_RAY = (2, 54)
"""CVE-2026-27482 is fixed there."""
ALIKE = ("transformers", "tokenizers", "peft", "numpy")
"""Packages whose version may change a run's bytes, but does not break it."""


def uses_sglang(config: Config, nodes: Sequence[NodeReport]) -> bool:
    """Whether the engines are SGLang's: `auto` takes it where there is a GPU with SGLang beside it."""
    if config.engine.kind != "auto":
        return config.engine.kind == "sglang"
    return any(node.gpus and node.version("sglang") is not None for node in hosts(nodes))


def mismatches(driver: NodeReport, nodes: Sequence[NodeReport], sglang: bool) -> Iterator[Finding]:
    """What differs between the driver and the nodes, those that host engines above all.

    sglang: whether the engines are SGLang's. The driver may lack it, or have a torch for CPUs: it hosts none.
    """
    for node in answered(nodes):
        yield from _compared(node, driver, "ray", "Ray", error)
        yield from _compared(node, driver, "python", "Python", error, _minor)
        if node.engines:
            yield from _code(node, driver)
            yield from _compared(node, driver, "torch", "torch", error, _public)
            for package in ALIKE:
                yield from _compared(node, driver, package, package, warning)
    first = next(iter(hosts(nodes)), None)
    for node in hosts(nodes):
        if first is not None and _public(node.version("torch")) == _public(first.version("torch")):
            yield from _compared(node, first, "torch", "torch", error)  # cu126 beside cu128
    if sglang:
        yield from _sglang(driver, hosts(nodes))


def old_ray(reports: Sequence[NodeReport]) -> Iterator[Finding]:
    """Versions of Ray with a known hole."""
    for report in answered(reports):
        found = report.version("ray")
        if found is not None and parsed(found) < OLDEST_RAY:
            yield error(
                report.name,
                f"Ray {found} has CVE-2026-27482",
                "install ray >= 2.54 on every node and start the cluster again",
            )


def _sglang(driver: NodeReport, engines: Sequence[NodeReport]) -> Iterator[Finding]:
    known = [report for report in (driver, *engines) if report.version("sglang") is not None]
    for node in engines:
        found = node.version("sglang")
        if found is None:
            yield error(node.name, "SGLang is missing", "pip install 'es-ray[sglang]' there")
        elif parsed(found) < OLDEST:
            yield error(node.name, f"SGLang {found} is too old", SUPPORTED)
        else:
            yield from _compared(node, known[0], "sglang", "SGLang", error)


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
    """es-ray's code decides, not its version: checkouts may differ under one, and need not be installed."""
    if node.facts["source"] is None:
        yield error(node.name, "es-ray is missing", "bring the checkout, or the package, onto every node")
    elif node.facts["source"] != driver.facts["source"]:
        here, there = (f"es-ray {r.version('es-ray')} (code {r.facts['source']})" for r in (node, driver))
        yield error(node.name, f"{here}, {driver.name} has {there}", "bring the same code onto every node")


def _minor(version: str | None) -> object:
    return parsed(version or "")[:2]


def _public(version: str | None) -> object:
    """A version without what follows the plus, such as cu128: the driver needs no CUDA."""
    return (version or "").partition("+")[0]
