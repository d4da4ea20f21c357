"""What is known about a node, and what is wrong with it: plain data, without Ray."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any, Literal


@dataclass(frozen=True)
class NodeReport:
    """A node, or the driver's own process.

    name: for display; reached: how; seconds: until it answered; gpus, cpus: what Ray offers there, or,
    without a cluster, what a run in this process may use; engines: whether the run would place engines there;
    facts: what probe.py returned, empty if it failed; failure: why it failed; head: whether it is the
    cluster's head.
    """

    name: str
    reached: str
    node_id: str | None = None
    seconds: float | None = None
    gpus: float = 0
    cpus: float = 0
    head: bool = False
    engines: bool = False
    facts: dict[str, Any] = field(default_factory=dict)
    failure: str | None = None

    def version(self, package: str) -> str | None:
        """The version of a package there, None if it is missing."""
        found: str | None = self.facts["versions"][package]
        return found

    def has(self, package: str) -> bool:
        """Whether a package is installed there."""
        return self.version(package) is not None

    def as_dict(self) -> dict[str, Any]:
        """Everything as plain values."""
        return asdict(self)


@dataclass(frozen=True)
class Finding:
    """Something wrong: what, on which node, and what to do about it."""

    level: Literal["error", "warning"]
    where: str
    what: str
    advice: str


def error(where: str, what: str, advice: str) -> Finding:
    """A finding that a run would fail on, or that leaves machines open to others."""
    return Finding("error", where, what, advice)


def warning(where: str, what: str, advice: str) -> Finding:
    """A finding that a run can live with."""
    return Finding("warning", where, what, advice)


def answered(nodes: Iterable[NodeReport]) -> list[NodeReport]:
    """The nodes with facts."""
    return [node for node in nodes if node.facts]


def hosts(nodes: Iterable[NodeReport]) -> list[NodeReport]:
    """The nodes with facts that would host engines."""
    return [node for node in answered(nodes) if node.engines]


def listed(names: Iterable[str], most: int = 4) -> str:
    """`a, b, c and 7 more`."""
    names = list(dict.fromkeys(names))
    if len(names) <= most:
        return ", ".join(names)
    return f"{', '.join(names[: most - 1])} and {len(names) - most + 1} more"
