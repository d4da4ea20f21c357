"""Finding Ray's HTTP servers: with real sockets, on this machine's own addresses only."""

import socket
import threading
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from es_ray.doctor import ports
from es_ray.doctor.ports import AGENT, DASHBOARD, _address, ray_servers


@contextmanager
def serving(address, answers):
    """A server that answers like one of Ray's: (status, text) by path; gives its port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):  # noqa: N802
            status, text = answers.get(self.path, (404, "404: Not Found"))
            self.send_response(status)
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer((address, 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield server.server_port
    server.shutdown()
    server.server_close()


OPEN = {"/api/version": (200, '{"version": "4", "ray_version": "2.60.0"}')}
REFUSES = {"/api/version": (401, "Unauthorized: Missing authentication token")}
AGENT_PATH = "/api/job_agent/jobs/es-ray-doctor/logs"


def found(port, what=DASHBOARD):
    return [server for server in ray_servers({port: what}) if server["port"] == port]


@pytest.mark.parametrize(("address", "loopback"), [("127.0.0.1", True), ("0.0.0.0", False)])
@pytest.mark.parametrize(("answers", "token"), [(OPEN, False), (REFUSES, True)])
def test_a_dashboard_is_found_with_its_address_and_whether_it_asks_for_a_token(
    address, loopback, answers, token
):
    with serving(address, answers) as port:
        (only,) = found(port)
    assert only == {
        "what": "dashboard", "address": address, "port": port, "loopback": loopback, "token": token,
    }  # fmt: skip


def test_a_job_agent_is_found():
    with serving("127.0.0.1", {AGENT_PATH: (404, "Job es-ray-doctor does not exist")}) as port:
        assert found(port, AGENT)[0]["token"] is False
    with serving("127.0.0.1", {AGENT_PATH: (401, "Unauthorized: Missing authentication token")}) as port:
        assert found(port, AGENT)[0]["token"] is True


def test_servers_that_are_not_rays_are_not_reported(monkeypatch):
    monkeypatch.setattr(ports, "SECONDS", 0.2)
    with serving("0.0.0.0", {"/api/version": (200, "{}")}) as port:
        assert found(port) == []
    with closing(socket.create_server(("127.0.0.1", 0))) as silent:  # takes a connection, never answers
        assert found(silent.getsockname()[1]) == []


def test_a_port_that_nobody_names_is_left_alone():
    with serving("127.0.0.1", {}) as port, closing(socket.create_server(("127.0.0.1", 0))) as other:
        other.settimeout(0.2)
        ray_servers({port: DASHBOARD})
        with pytest.raises(TimeoutError):
            other.accept()


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("0100007F", "127.0.0.1"),
        ("00000000", "0.0.0.0"),
        ("00000000000000000000000000000000", "::"),
        ("00000000000000000000000001000000", "::1"),
        ("0000000000000000FFFF00000100007F", "127.0.0.1"),
    ],
)
def test_addresses_as_the_kernel_writes_them(text, address):
    assert _address(text) == address
