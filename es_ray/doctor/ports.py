"""Which of Ray's HTTP servers listen on a node, where, and whether they require the token.

Anyone who can reach one that does not can run any program as Ray's user: ShadowRay, CVE-2023-48022.
Sent to the node by value like probe.py, under the same rules: only the standard library, only this file.
"""

import contextlib
import http.client
import ipaddress
import os
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

DASHBOARD, AGENT = "dashboard", "job agent"
USUAL_PORTS = {8265: DASHBOARD, 52365: AGENT}
PROCESSES = {
    DASHBOARD: re.compile(rb"ray/dashboard/dashboard\.py"),
    AGENT: re.compile(rb"^ray::DashboardAgent|ray/dashboard/agent\.py"),
}
REQUESTS = {
    DASHBOARD: ("/api/version", 200, b"ray_version"),
    AGENT: ("/api/job_agent/jobs/es-ray-doctor/logs", 404, b"does not exist"),
}
"""A request that changes nothing, and the response to it without a token: status, and part of the text."""
REFUSED = 401
SECONDS = 3
LISTENING = "0A"


def ray_servers(ports: dict[int, str]) -> list[dict[str, Any]]:
    """The servers of any Ray on this node: [{what, address, port, loopback, token}].

    ports: where they listen according to the cluster, DASHBOARD or AGENT by number. Ray's usual ports are
    checked too, and those of its processes that this user may see. Each gets one request, from here.
    """
    owners = dict(_sockets_of_ray())
    servers = []
    for address, port, inode in sorted(set(_listening())):
        what = owners.get(inode) or (USUAL_PORTS | ports).get(port)
        token = None if what is None else _asks_for_token(what, address, port)
        if token is not None:
            loopback = ipaddress.ip_address(address).is_loopback
            servers.append(
                {"what": what, "address": address, "port": port, "loopback": loopback, "token": token}
            )
    return servers


def _asks_for_token(what: str, address: str, port: int) -> bool | None:
    """Whether the server refuses a request without a token; None if it is not one of Ray's."""
    path, status, text = REQUESTS[what]
    reply, body = _get(_reachable(address), port, path)
    if reply == REFUSED and b"token" in body:
        return True
    return False if reply == status and text in body else None


def _get(host: str, port: int, path: str) -> tuple[int, bytes]:
    """Status and the start of the text; status 0 from servers that do not speak HTTP."""
    connection = http.client.HTTPConnection(host, port, timeout=SECONDS)
    with contextlib.closing(connection):
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read(10_000)
        except (OSError, http.client.HTTPException):
            return 0, b""


def _reachable(address: str) -> str:
    """An address at which a server listening on that one can be reached from this machine."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address, address)


def _listening() -> Iterator[tuple[str, int, str]]:
    """Address, port and inode of every listening TCP socket in this network namespace."""
    for table in (Path("/proc/net/tcp"), Path("/proc/net/tcp6")):
        for line in table.read_text().splitlines()[1:] if table.is_file() else []:
            fields = line.split()
            if fields[3] == LISTENING:
                address, _, port = fields[1].partition(":")
                yield _address(address), int(port, 16), fields[9]


def _address(text: str) -> str:
    """An address as the kernel prints it: 32-bit words in the machine's byte order."""
    words = [int(text[at : at + 8], 16) for at in range(0, len(text), 8)]
    packed = struct.pack(f"={len(words)}I", *words)
    found = ipaddress.ip_address(packed)
    mapped = getattr(found, "ipv4_mapped", None)
    return str(mapped or found)


def _sockets_of_ray() -> Iterator[tuple[str, str]]:
    """Inodes of the sockets of Ray's dashboards and agents, with the server they belong to."""
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it ended, or may not be inspected
            command = (process / "cmdline").read_bytes()
            what = next((name for name, form in PROCESSES.items() if form.search(command)), None)
            for link in (process / "fd").iterdir() if what is not None else ():
                target = os.readlink(link)
                if what is not None and target.startswith("socket:["):
                    yield target[8:-1], what
