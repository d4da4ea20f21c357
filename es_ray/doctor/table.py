"""What `es-ray doctor` shows: a row for each node, then a line for each finding."""

from collections import Counter
from collections.abc import Iterable
from pathlib import PurePath
from typing import Any

from rich.table import Table
from rich.text import Text

from es_ray.doctor.ports import DASHBOARD
from es_ray.doctor.report import Finding, NodeReport, listed

TITLES = {"ray": "Ray", "python": "Python", "es-ray": "es-ray", "torch": "torch", "sglang": "SGLang"}
GIB = 1 << 30


def health_table(driver: NodeReport, nodes: Iterable[NodeReport]) -> Table:
    """The driver's process and every node: how it is reached, versions, GPUs, room, Ray, the model."""
    table = Table(show_lines=True)
    for title in ("node", "versions", "GPUs", "free of all", "Ray", "model"):
        table.add_column(title, overflow="fold", no_wrap=title in ("versions", "free of all"))
    nodes = list(nodes)
    for node in (driver, *nodes):
        answered = "" if node.seconds is None else f"answered in {node.seconds:.1f} s"
        name = [node.name, node.reached, answered if not node.failure else node.failure]
        cells = (
            [_versions(node), _gpus(node), _room(node), _ray(node, bool(nodes)), _model(node)]
            if node.facts
            else []
        )
        table.add_row(*(Text("\n".join(filter(None, cell))) for cell in [name, *cells]))
    return table


def finding_lines(findings: Iterable[Finding]) -> list[Text]:
    """`error: where: what; advice`, nodes with the same finding together."""
    findings = list(findings)
    where: dict[tuple[str, str, str], list[str]] = {}
    for finding in findings:
        where.setdefault((finding.level, finding.what, finding.advice), []).append(finding.where)
    colours = {"error": "bold red", "warning": "yellow"}
    lines = [
        Text.assemble((level, colours[level]), f": {listed(names)}: {what}; {advice}")
        for (level, what, advice), names in where.items()
    ]
    counts = Counter(level for level, _, _ in where)
    summary = ", ".join(f"{counts[level]} {level}{'s' * (counts[level] != 1)}" for level in colours)
    return [*lines, Text(summary if lines else "nothing is wrong")]


def _versions(node: NodeReport) -> list[str]:
    return [f"{title} {node.version(name) or '-'}" for name, title in TITLES.items()]


def _gpus(node: NodeReport) -> list[str]:
    told = node.facts["gpus"]
    lines = [
        f"{number}: {gpu['name']}, {_gib(gpu['free'])} of {_gib(gpu['total'])} GiB free"
        for number, gpu in enumerate(told["found"])
    ]
    if told["found"]:
        lines.append(f"driver {told['found'][0]['driver']}, CUDA {told['cuda'] or '?'}")
    if node.node_id is not None and (node.gpus or told["found"]):
        lines.append(f"{node.gpus:g} for Ray")
    return lines or ["none"]


def _room(node: NodeReport) -> list[str]:
    facts = node.facts
    places = {"memory": facts["memory"], "/dev/shm": facts["shm"], **facts["disk"]}
    return [f"{_short(name)} {_free(space)}" for name, space in places.items()]


def _short(path: str) -> str:
    return path if len(path) <= 12 else f"…/{PurePath(path).name}"


def _free(space: dict[str, int] | None) -> str:
    return "-" if space is None else f"{_gib(space['free'])}/{_gib(space['total'])} GiB"


def _gib(size: int | None) -> str:
    return "?" if size is None else f"{size / GIB:.1f}" if size < 10 * GIB else f"{size / GIB:.0f}"


def _ray(node: NodeReport, cluster: bool) -> list[str]:
    auth, servers = node.facts["auth"], [_server(server) for server in node.facts["servers"]]
    if node.node_id is not None:
        return [f"token {'on' if auth['mode'] == 'token' else 'off'}", *servers]
    return [f"RAY_AUTH_MODE {auth['setting'] or 'not set'}", *(servers if not cluster else [])]


def _server(server: dict[str, Any]) -> str:
    """A dashboard, or another server that is open: there are many of Ray's that are not."""
    if server["what"] != DASHBOARD and (server["token"] or server["loopback"]):
        return ""
    door = "token" if server["token"] else "no token"
    return f"{server['what']} {server['address']}:{server['port']} ({door})"


def _model(node: NodeReport) -> list[str]:
    model = node.facts["model"]
    if model["found"] is None:
        return ["missing"]
    size = "" if model["size"] is None else f"{model['size'] / GIB:.1f} GiB of weights"
    return [
        {"folder": "in a folder", "cache": "in the hub's cache", "hub": "on the hub"}[model["found"]],
        size,
    ]
