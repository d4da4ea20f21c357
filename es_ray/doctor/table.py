"""What `es-ray doctor` prints: the nodes, then a line for each finding."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePath
from typing import Any

from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

from es_ray.doctor.ports import DASHBOARD
from es_ray.doctor.report import Finding, NodeReport, listed
from es_ray.engines.spec import Package

VERSIONS = {"ray": "Ray", "python": "Python", "es-ray": "es-ray", "torch": "torch"}
"""Packages whose versions are shown, with their titles; those of engines follow."""
COLUMNS = ("node", "versions", "GPUs", "free of all", "Ray", "model")
ONE_A_LINE = ("GPUs",)
UNITS = ("KiB", "MiB", "GiB")


def health_table(
    driver: NodeReport, nodes: Sequence[NodeReport], packages: Iterable[Package], width: int
) -> Table:
    """The driver's process and every node: how it is reached, versions, GPUs, room, Ray, the model.

    packages: of engines. A row for each node if that fits into `width` columns, else for each of its cells.
    """
    titles = VERSIONS | {package.name: package.title for package in packages}
    rows = [_cells(node, titles, bool(nodes)) for node in (driver, *nodes)]
    widest = [
        max(map(cell_len, [title, *(line for row in rows for line in row[number])]))
        for number, title in enumerate(COLUMNS)
    ]
    if sum(widest) + 3 * len(COLUMNS) + 1 > width:
        return _stacked(rows, width)
    table = Table(show_lines=True)
    for title in COLUMNS:
        table.add_column(title)
    for row in rows:
        table.add_row(*(Text("\n".join(cell)) for cell in row))
    return table


def _stacked(rows: list[list[list[str]]], width: int) -> Table:
    """A row for each cell, under the node's name."""
    table = Table(show_header=False)
    table.add_column()
    table.add_column(overflow="fold")
    room = width - max(map(len, COLUMNS)) - 7
    for row in rows:
        for title, cell in zip(COLUMNS, row, strict=True):
            if cell:
                lines = cell if title in ONE_A_LINE else _filled(cell, room)
                table.add_row(title, Text("\n".join(lines)))
        table.add_section()
    return table


def _filled(items: list[str], width: int) -> list[str]:
    """Items separated by commas, in as few lines as the width allows."""
    lines: list[str] = []
    for item in items:
        if lines and cell_len(lines[-1]) + 2 + cell_len(item) <= width:
            lines[-1] += f", {item}"
        else:
            lines.append(item)
    return lines


def _cells(node: NodeReport, titles: Mapping[str, str], cluster: bool) -> list[list[str]]:
    """The lines of a node's cells, in the order of COLUMNS."""
    answered = "" if node.seconds is None else f"answered in {node.seconds:.1f} s"
    cells = [[node.name, node.reached, answered if not node.failure else node.failure]]
    if node.facts:
        cells += [_versions(node, titles), _gpus(node), _room(node), _ray(node, cluster), _model(node)]
    cells += [[]] * (len(COLUMNS) - len(cells))
    return [[line for line in cell if line] for cell in cells]


def finding_lines(findings: Iterable[Finding]) -> list[Text]:
    """`error: where: what; advice`, nodes with the same finding combined."""
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


def _versions(node: NodeReport, titles: Mapping[str, str]) -> list[str]:
    return [f"{title} {node.version(name) or '-'}" for name, title in titles.items()]


def _gpus(node: NodeReport) -> list[str]:
    report = node.facts["gpus"]
    lines = [
        f"{gpu['index']}: {gpu['name']}, "
        f"{_number(gpu['free'], 'GiB')} of {_number(gpu['total'], 'GiB')} GiB free"
        for gpu in report["found"]
    ]
    if report["found"]:
        lines.append(f"driver {report['found'][0]['driver']}, CUDA {report['cuda'] or '?'}")
    if node.node_id is not None and (node.gpus or report["found"]):
        lines.append(f"{node.gpus:g} for Ray")
    return lines or ["none"]


def _room(node: NodeReport) -> list[str]:
    facts = node.facts
    places = {"memory": facts["memory"], "/dev/shm": facts["shm"], **facts["disk"]}
    return [f"{_short(name)} {_free(space)}" for name, space in places.items()]


def _short(path: str) -> str:
    return path if len(path) <= 12 else f"…/{PurePath(path).name}"


def _free(space: dict[str, int] | None) -> str:
    if space is None:
        return "-"
    unit = _unit(space["total"])
    return f"{_number(space['free'], unit)}/{_number(space['total'], unit)} {unit}"


def _size(size: int) -> str:
    """Bytes for display, in a unit in which they are at least 1."""
    return f"{_number(size, _unit(size))} {_unit(size)}"


def _unit(size: int) -> str:
    return next((unit for unit in reversed(UNITS) if size >= _bytes(unit)), UNITS[0])


def _bytes(unit: str) -> int:
    return 1024 ** (UNITS.index(unit) + 1)


def _number(size: int | None, unit: str) -> str:
    if size is None:
        return "?"
    number = size / _bytes(unit)
    return f"{number:.1f}" if number < 10 else f"{number:.0f}"


def _ray(node: NodeReport, cluster: bool) -> list[str]:
    auth, servers = node.facts["auth"], [_server(server) for server in node.facts["servers"]]
    if node.node_id is not None:
        return [f"token {'on' if auth['mode'] == 'token' else 'off'}", *servers]
    return [f"RAY_AUTH_MODE {auth['setting'] or 'not set'}", *(servers if not cluster else [])]


def _server(server: dict[str, Any]) -> str:
    """A dashboard, or another server that is open; the many closed ones of Ray are left out."""
    if server["what"] != DASHBOARD and (server["token"] or server["loopback"]):
        return ""
    door = "token" if server["token"] else "no token"
    return f"{server['what']} {server['address']}:{server['port']} ({door})"


def _model(node: NodeReport) -> list[str]:
    model = node.facts["model"]
    if model["found"] is None:
        return ["missing"]
    size = "" if model["size"] is None else f"{_size(model['size'])} of weights"
    return [
        {"folder": "in a folder", "cache": "in the hub's cache", "hub": "on the hub"}[model["found"]],
        size,
    ]
